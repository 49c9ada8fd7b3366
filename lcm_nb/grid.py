"""Labelled grids of pictures."""

import itertools
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from .pictures import encode_image

Axis = tuple[str, list[Any]]
MARGIN, LINE = 8, 22
ACROSS = 4  # pictures of a run in a line


def sweep_axes(lists: Mapping[str, object]) -> tuple[Axis, Axis | None, list[dict[str, Any]]]:
    """Return the column axis, the row axis or None, and the settings of every cell, row by row.

    Raises
    ------
    ValueError
        If not one or two settings are lists, or one is empty.
    """
    axes = [(name, list(values)) for name, values in lists.items() if isinstance(values, (list, tuple, range))]
    if not 1 <= len(axes) <= 2:
        raise ValueError(f"{len(axes)} settings are lists; give one or two, e.g. num_inference_steps=[1, 2, 4, 8].")
    for name, values in axes:
        if not values:
            raise ValueError(f"{name} is an empty list; give at least one value.")
    fixed = {name: value for name, value in lists.items() if name not in dict(axes)}
    columns, rows = axes[0], (axes[1] if len(axes) == 2 else None)
    down = [{rows[0]: value} for value in rows[1]] if rows else [{}]
    cases = [{**fixed, columns[0]: x, **y} for y, x in itertools.product(down, columns[1])]
    return columns, rows, cases


class Grid:
    """Pictures of a sweep with their settings at the edges; shows itself in a notebook.

    Attributes
    ----------
    results
        One ``Result`` a cell, row by row; None for one that is not there.
    failed
        Place of a cell that could not be drawn, counted from 0 row by row -> why.
    image
        The drawn grid.
    """

    def __init__(
        self, columns: Axis, rows: Axis | None, results: Sequence[Any], failed: Mapping[int, str] | None = None
    ):
        self.columns, self.rows, self.results, self.failed = columns, rows, list(results), dict(failed or {})
        self.image = self._draw()

    def __getitem__(self, cell: tuple[int, int]) -> Any:
        """Return the result at (row, column)."""
        row, column = cell
        across = range(len(self.columns[1]))
        down = range(len(self.results) // len(across))
        return self.results[down[row] * len(across) + across[column]]

    def label(self, place: int) -> str:
        """Return what the cell at a place, counted from 0 row by row, has of its own: "seed 3, guidance_scale 8"."""
        down, across = divmod(place, len(self.columns[1]))
        axes = [(self.columns, across)] + ([(self.rows, down)] if self.rows else [])
        return ", ".join(f"{name} {values[at]}" for (name, values), at in axes)

    def __repr__(self) -> str:
        down = f", {self.rows[0]} {self.rows[1]} down" if self.rows else ""
        return f"Grid of {len(self.results)} pictures: {self.columns[0]} {self.columns[1]} across{down}"

    def _repr_png_(self) -> bytes:
        return encode_image(self.image)

    def _draw(self) -> Image.Image:
        font = ImageFont.load_default(size=14)
        width, height = _largest([result.image for result in self.results if result])
        name, values = self.rows or ("", [])
        labels = [f"{name}\n{_fit(f'= {value}', font, width)}" for value in values] or [""]
        left = max(int(max(font.getlength(line) for line in label.split("\n"))) for label in labels)
        left += 2 * MARGIN if left else 0
        across = len(self.columns[1])
        sheet = Image.new("RGB", (left + across * (width + MARGIN), LINE + len(labels) * (height + MARGIN)), "white")
        draw = ImageDraw.Draw(sheet)
        for i, value in enumerate(self.columns[1]):
            x = left + i * (width + MARGIN) + width // 2
            label = _fit(f"{self.columns[0]} = {value}", font, width)
            draw.text((x, LINE // 2), label, fill="black", font=font, anchor="mm")
        for j, label in enumerate(labels):
            y = LINE + j * (height + MARGIN)
            draw.multiline_text((MARGIN, y + height // 2), label, fill="black", font=font, anchor="lm")
            for i in range(across):
                place, corner = j * across + i, (left + i * (width + MARGIN), y)
                if self.results[place]:
                    _paste(sheet, self.results[place].image, corner, (width, height))
                elif place in self.failed:
                    draw.text(
                        (corner[0], y + height // 2), _fit(self.failed[place], font, width), fill="black", font=font
                    )
        return sheet


class Growing:
    """A bar, and in a notebook the grid so far, while its pictures come.

    Parameters
    ----------
    columns, rows, count
        Of the grid.
    shows
        Whether the grid so far is shown.
    """

    PAUSE = 0.5  # seconds from one look to the next

    def __init__(self, columns: Axis, rows: Axis | None, count: int, shows: bool):
        from tqdm.auto import tqdm

        self._axes, self._bar, self._last = (columns, rows), tqdm(total=count, desc="pictures"), 0.0
        self._handle: Any = None
        self._shows = shows and _in_notebook()

    def show(self, results: Sequence[Any]) -> None:
        """Take note of one more; ``results`` has None where none is yet."""
        self._bar.update()
        if self._shows and any(results) and time.monotonic() - self._last > self.PAUSE:
            from IPython.display import Image as Shown
            from IPython.display import display

            picture = Shown(encode_image(Grid(*self._axes, results).image))
            self._handle = self._handle or display(display_id=True)
            self._handle.update(picture)
            self._last = time.monotonic()

    def end(self) -> None:
        """Take the grid so far away: the whole one follows."""
        self._bar.close()
        if self._handle:
            self._handle.update({"text/plain": ""}, raw=True)


def _in_notebook() -> bool:
    shell = sys.modules.get("IPython") and sys.modules["IPython"].get_ipython()
    return hasattr(shell, "kernel")


def row(images: Sequence[Image.Image]) -> Image.Image:
    """Return pictures beside each other, four at most in a line; one picture is returned as it is."""
    if len(images) == 1:
        return images[0]
    width, height = _largest(images)
    across = min(len(images), ACROSS)
    down = -(-len(images) // across)
    sheet = Image.new("RGB", (across * (width + MARGIN) - MARGIN, down * (height + MARGIN) - MARGIN), "white")
    for i, image in enumerate(images):
        _paste(sheet, image, (i % across * (width + MARGIN), i // across * (height + MARGIN)), (width, height))
    return sheet


def _largest(images: Sequence[Image.Image]) -> tuple[int, int]:
    """Return the size of a cell that each of these pictures fits into."""
    return max(image.width for image in images), max(image.height for image in images)


def _paste(sheet: Image.Image, image: Image.Image, place: tuple[int, int], cell: tuple[int, int]) -> None:
    """Put a picture in the middle of the cell whose corner is at ``place``."""
    left, top = (at + (room - side) // 2 for at, room, side in zip(place, cell, image.size, strict=True))
    sheet.paste(image, (left, top))


def _fit(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """Put ``text`` on one line and cut it to ``width`` pixels."""
    text = " ".join(text.split())
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"
