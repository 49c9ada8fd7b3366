"""What was drawn, to go back to: bounded, without doubles, and with stars for what must stay."""

from PIL import Image

from ..pictures import encode_image

ENTRIES = 24  # pictures to go back to
STARS = 12  # of them that may be kept for good
MEGAPIXELS = 64  # that all of them may hold, 3 bytes each
THUMBNAIL = 96  # pixels


class Drawn:
    """A result and what a page needs of it, encoded once.

    Attributes
    ----------
    result
        What ``run`` returned.
    images
        Its pictures, one or more.
    key
        A number by which the page names it.
    starred
        Whether it stays when others go.
    """

    _keys = iter(range(1, 2**53))

    def __init__(self, result):
        self.result, self.key, self.starred = result, next(self._keys), False
        self.images: list[Image.Image] = list(result.images)
        self._encoded: dict[tuple, bytes] = {}

    def png(self, index: int = 0) -> bytes:
        """Return a picture as a PNG file."""
        return self._once(("png", index), lambda: encode_image(self.images[index], "png"))

    def before(self) -> bytes:
        """Return as a PNG what the run was given; empty where it was given no picture."""
        given = getattr(self.result, "input_image", None)
        return self._once(("before",), lambda: encode_image(given, "png")) if given is not None else b""

    def thumbnail(self, index: int = 0) -> bytes:
        """Return a small JPEG."""
        return self._once(("jpeg", index), lambda: encode_image(_small(self.images[index]), "jpeg"))

    @property
    def pixels(self) -> int:
        """How many pixels it holds."""
        return sum(image.width * image.height for image in self.images)

    def _once(self, key: tuple, make) -> bytes:
        if key not in self._encoded:
            self._encoded[key] = make()
        return self._encoded[key]


class History:
    """The newest first; the oldest without a star goes when there are too many.

    ``len``, iteration and ``history[key]`` work; a settings' second drawing takes the place of the first.
    """

    def __init__(self):
        self._drawn: list[Drawn] = []

    def __iter__(self):
        return iter(tuple(self._drawn))

    def __len__(self) -> int:
        return len(self._drawn)

    def __getitem__(self, key: int) -> Drawn:
        """Return what has this key.

        Raises
        ------
        ValueError
            If it is not there any more.
        """
        for drawn in self._drawn:
            if drawn.key == key:
                return drawn
        raise ValueError(f"Picture {key} is not in the history any more; draw it again.")

    def add(self, drawn: Drawn) -> None:
        """Put a result in front."""
        for double in [old for old in self._drawn if old.result.settings == drawn.result.settings]:
            drawn.starred = drawn.starred or double.starred
            self._drawn.remove(double)
        self._drawn.insert(0, drawn)
        while self._too_many():
            self._drawn.remove(next(old for old in reversed(self._drawn) if not old.starred))

    def star(self, drawn: Drawn) -> bool:
        """Keep a result, or no longer; return whether it is kept.

        Raises
        ------
        ValueError
            If as many as there may be have a star already.
        """
        if not drawn.starred and sum(old.starred for old in self._drawn) >= STARS:
            raise ValueError(f"{STARS} pictures have a star already; take one star away first.")
        drawn.starred = not drawn.starred
        return drawn.starred

    def clear(self) -> None:
        """Let go of all."""
        self._drawn.clear()

    def _too_many(self) -> bool:
        spare = [old for old in self._drawn[1:] if not old.starred]
        full = len(self._drawn) > ENTRIES or sum(old.pixels for old in self._drawn) > MEGAPIXELS * 10**6
        return bool(spare) and full


def _small(image: Image.Image) -> Image.Image:
    small = image.convert("RGB")
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    return small
