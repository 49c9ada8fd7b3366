"""Plots of the notebooks: one style for all, a curve and a picture that change while a cell runs, and a slider.

``plt.style.use(lcm_nb.tutorial.plots.STYLE)`` sets the style. Its colours (Okabe and Ito, 2008) can be told
apart without full colour vision, and each line has a marker and a dash of its own.
"""

import io
from collections.abc import Mapping, Sequence

import ipywidgets as widgets
import numpy as np
from PIL import Image

from ..pictures import encode_image
from ..widgets.controls import TOOLTIP

try:
    import matplotlib as mpl
    import matplotlib.pyplot as plt
    from matplotlib.figure import Figure
except ModuleNotFoundError as error:
    package = (error.name or "").partition(".")[0]
    raise ImportError(f"Plots need the package {package}: `pip install {package}`, then restart the kernel.") from None

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#E69F00")
_CYCLE = mpl.cycler(color=_COLOURS, marker=list("osD^vX"), linestyle=["-", "--", "-.", ":", "-", "--"])
STYLE = {
    "axes.prop_cycle": _CYCLE,
    "axes.grid": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.constrained_layout.use": True,
    "figure.figsize": (8.0, 3.6),
    "figure.facecolor": "white",
    "font.size": 11.0,
    "grid.alpha": 0.3,
    "lines.markersize": 5.0,
    "savefig.facecolor": "white",
}


class LiveCurve:
    """A curve and a progress bar that grow while a cell runs: display ``widget``, then ``add`` points.

    Below the curve is room for a picture, such as a contact sheet, that ``show`` replaces.

    Parameters
    ----------
    xlabel, ylabel
        What the axes show, with units.
    redraw_every
        Points between two drawings; a drawing takes about a tenth of a second.
    """

    def __init__(self, xlabel: str, ylabel: str, *, redraw_every: int = 10):
        self.xlabel, self.ylabel, self.redraw_every = xlabel, ylabel, redraw_every
        self.points: list[tuple[float, float]] = []
        self._image, self._picture = (widgets.Image(format="png", width=640) for _ in range(2))
        self._picture.layout.display = "none"  # until there is one
        self._bar, self._text = widgets.FloatProgress(max=1.0), widgets.Label()
        self.widget = widgets.VBox([widgets.HBox([self._bar, self._text]), self._image, self._picture])
        self.draw()

    def add(self, x: float, y: float, spent: float) -> None:
        """Append a point, and draw when enough are new; ``spent`` is the share of the budget, 0 to 1."""
        self.points.append((x, y))
        self._bar.value, self._text.value = spent, f"{spent:.0%} of the budget, update {len(self.points)}, loss {y:.4f}"
        if len(self.points) % self.redraw_every == 0:
            self.draw()

    def show(self, picture: Image.Image) -> None:
        """Replace the picture below the curve."""
        buffer = io.BytesIO()
        picture.save(buffer, "png")
        self._picture.value, self._picture.layout.display = buffer.getvalue(), ""

    def finish(self) -> None:
        """Draw the last points, too."""
        self._bar.value = 1.0
        self.draw()

    def draw(self) -> None:
        """Draw all points, thin, and their running mean of the last tenth, thick."""
        self._image.value = curve_png({"each update": self.points}, self.xlabel, self.ylabel, smooth=True)


def flipbook(name: str, pages: Mapping[object, Figure | Image.Image]) -> widgets.VBox:
    """Return a slider, and a button that plays it, over pictures that are drawn beforehand; it begins with the first.

    Parameters
    ----------
    name
        What the slider sets, as its label.
    pages
        Position of the slider -> what it shows there, a figure or a picture.
    """
    drawn = {str(value): _png(page) for value, page in pages.items()}
    slider = widgets.SelectionSlider(options=list(drawn), description=name, **{TOOLTIP: f"choose {name}"})
    play = widgets.Play(max=len(drawn) - 1, interval=400)
    widgets.jslink((play, "value"), (slider, "index"))
    image = widgets.Image(format="png", value=next(iter(drawn.values())))
    slider.observe(lambda change: setattr(image, "value", drawn[change.new]), "value")
    return widgets.VBox([widgets.HBox([play, slider]), image])


def _png(page: Figure | Image.Image) -> bytes:
    if isinstance(page, Image.Image):
        return encode_image(page)
    buffer = io.BytesIO()
    page.savefig(buffer, format="png", dpi=80)
    plt.close(page)
    return buffer.getvalue()


def plane(panels: Mapping[str, Sequence[np.ndarray]], data: np.ndarray) -> Figure:
    """Plot what happens in the plane: one panel a title, points in colour over the data in grey.

    Parameters
    ----------
    panels
        Title -> arrays, each in a colour of its own: points (N, 2), or the stations of N paths (stations, N, 2).
    data
        Points (N, 2).
    """
    with mpl.rc_context(STYLE):
        figure, row = plt.subplots(1, len(panels), figsize=(4 * len(panels), 3.4), sharey=True, squeeze=False)
        for axes, (title, drawn) in zip(row[0], panels.items(), strict=True):
            axes.plot(*data.T, color="0.75", marker="o", markersize=7, linestyle="none")
            for colour, each in zip(_COLOURS, drawn, strict=False):
                if each.ndim == 3:
                    axes.plot(*each.transpose(2, 0, 1), color=colour, marker="", linestyle="-", linewidth=0.8)
                else:
                    axes.plot(*each.T, color=colour, marker=".", markersize=4, linestyle="none")
            axes.set(title=title, xlabel="first number", xlim=(-2.6, 2.6), ylim=(-2.2, 2.2))
        row[0][0].set_ylabel("second number")
    plt.close(figure)
    return figure


def budgets(rows: Sequence[Mapping]) -> Figure:
    """Plot what minutes of distillation buy; ``rows`` are "own" of the model card's ``figures.json``."""
    rate = next(row["updates_per_minute"] for row in rows if "updates_per_minute" in row)
    runs = sorted((row for row in rows if len(row.get("steps", ())) == 3), key=lambda row: row["updates"])
    minutes = [0.0] + [row["updates"] / rate for row in runs]
    points = [runs[0]["points"][0]] + [row["points"][-1] for row in runs]
    with mpl.rc_context(STYLE):
        figure, axes = plt.subplots()
        for steps in runs[0]["steps"]:
            seen = [100 * point[str(steps)]["subject"] for point in points]
            axes.plot(minutes, seen, label=f"{steps} step{'s' if steps > 1 else ''}")
        axes.set(
            title="Stored: what minutes buy",
            xlabel="budget (minutes of two CPU cores)",
            ylabel="subject right (%)",
            ylim=(0, 103),
        )
        axes.legend(loc="lower right")
    plt.close(figure)  # a notebook shows what a cell returns, and what is open: once is enough
    return figure


def ablations(rows: Sequence[Mapping]) -> Figure:
    """Plot the distillation without one of its parts, from the same rows: accuracy at one step, answer to guidance."""
    runs = [row for row in rows if len(row.get("steps", ())) == 2]
    with mpl.rc_context(STYLE):
        figure, (left, right) = plt.subplots(1, 2, figsize=(9.0, 3.6), width_ratios=(3, 2))
        for row in runs:
            left.plot(
                [point["update"] for point in row["points"]],
                [100 * point["1"]["subject"] for point in row["points"]],
                label=row["variant"],
            )
        left.set(title="Stored: accuracy", xlabel="update", ylabel="subject right at 1 step (%)")
        left.legend(fontsize=9)
        right.barh([row["variant"] for row in runs][::-1], [row["response"] for row in runs][::-1], color=_COLOURS[0])
        right.set(title="Stored: answer to guidance", xlabel="change from guidance 1 to 14 (of 255)")
        right.grid(axis="y", visible=False)
    plt.close(figure)
    return figure


def curve_png(
    curves: Mapping[str, Sequence[tuple[float, float]]], xlabel: str, ylabel: str, *, smooth: bool = False
) -> bytes:
    """Return a PNG of labelled curves; with ``smooth`` also the running mean of each."""
    with mpl.rc_context(STYLE):
        figure = Figure()
        axes = figure.add_subplot(xlabel=xlabel, ylabel=ylabel)
        for label, points in curves.items():
            x, y = zip(*points, strict=True) if points else ((), ())
            axes.plot(x, y, label=label, marker="", alpha=0.4 if smooth else 1.0)
            if smooth:
                axes.plot(x, running_mean(y), label="mean of the last tenth", marker="", linestyle="-", linewidth=2.5)
        axes.legend()
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=100)
    return buffer.getvalue()


def running_mean(values: Sequence[float]) -> list[float]:
    """Return at each place the mean of the last tenth of the values so far, one at least."""
    means = []
    for end in range(1, len(values) + 1):
        last = values[end - max(1, end // 10) : end]
        means.append(sum(last) / len(last))
    return means
