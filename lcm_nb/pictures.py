"""Pictures that a run starts from: read, checked and fitted; and their canny maps."""

import contextlib
import hashlib
import io
from collections.abc import Iterator
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, PngImagePlugin, UnidentifiedImageError

from . import files, kept

WANTED = "the path of a PNG, JPEG or WebP picture"
FORMATS = ("PNG", "JPEG", "WEBP")
MAX_BYTES = 20_000_000
MAX_PIXELS = 40_000_000
DEEP = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")  # PIL's modes of more than 8 bits a colour
CELL = 16  # pixels: the grid on which a mask counts is at most so coarse
REDUCED = "lcm_nb:reduced"  # in a picture's ``info``: it had more than 8 bits a colour


def read_image(source: str | Path | bytes | Image.Image, *, name: str = "") -> Image.Image:
    """Return a picture as RGB: upright, on white where it is transparent, 16 bits and floats scaled to 8 bits.

    Parameters
    ----------
    source
        A path, the bytes of a PNG, JPEG or WebP file, or a PIL image.
    name
        What messages call it, if not by its path.

    Raises
    ------
    ValueError
        If it is a web address, is missing, is no such picture, is damaged, or is too
        large (20 MB, 40 megapixels); the size is checked before anything is decoded.
    """
    if isinstance(source, Image.Image):
        _check_size(name or "The picture", source.size)
        return _flatten(_loaded(source))
    given, data = _contents(source)
    with _opened(name or given, data) as image:
        return _flatten(ImageOps.exif_transpose(image))


@contextlib.contextmanager
def _opened(name: str, data: bytes) -> Iterator[Image.Image]:
    """Open a file's bytes, its size checked and its pixels not yet decoded; say in one sentence what is wrong."""
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            _check_size(name, image.size)
            yield image
    except UnidentifiedImageError:
        raise ValueError(f"{name} is not a PNG, JPEG or WebP picture; convert it to one of these.") from None
    except Image.DecompressionBombError:
        raise ValueError(_too_large(name, "too many pixels")) from None
    except ValueError as error:
        if "MAX_TEXT" not in str(error):  # PIL's limits on texts, which come zipped
            raise
        raise ValueError(f"{name} carries a text of megabytes; save it anew, without its texts.") from None
    except (OSError, SyntaxError) as error:
        raise ValueError(f"{name} is damaged ({error}); save it again, or use another picture.") from None


def _loaded(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except (ValueError, AttributeError, OSError) as error:
        raise ValueError(f"The picture cannot be read ({error}); it may be closed: open or copy it again.") from None


def _contents(source: object) -> tuple[str, bytes]:
    if isinstance(source, (bytes, bytearray, memoryview)):
        name, data = "The uploaded file", bytes(source)
        if len(data) > MAX_BYTES:
            most = MAX_BYTES // 10**6
            raise ValueError(f"{name} has {len(data) / 1e6:.0f} MB; at most {most} MB are read. Make it smaller.")
        return name, data
    if not isinstance(source, (str, Path)):
        array = "Image.fromarray(...) makes one of an array, of bytes 0 to 255" if hasattr(source, "shape") else ""
        raise ValueError(
            f"{files.shown(source)} is no picture; give a path, a PIL image{f' ({array})' if array else ''}, "
            "or the bytes of a file."
        )
    if str(source).lower().startswith(("http:", "https:", "ftp:")):
        raise ValueError(f"{files.shown(str(source))} is a web address; download the picture and give the file's path.")
    kept.bring_back(source)
    return str(source), files.read(source, most=MAX_BYTES, wanted=WANTED)


def _check_size(name: str, size: tuple[int, int]) -> None:
    width, height = size
    if width * height > MAX_PIXELS:
        raise ValueError(_too_large(name, f"{width} x {height} pixels"))
    if min(size) < 16 or max(size) > 5 * min(size):
        raise ValueError(
            f"{name} has {width} x {height} pixels; "
            "give a picture with sides of at least 16, neither more than 5 times as long as the other."
        )


def _too_large(name: str, size: str) -> str:
    return f"{name} has {size}; at most {MAX_PIXELS // 10**6} megapixels are read. Make it smaller."


def _flatten(image: Image.Image) -> Image.Image:
    reduced = image.mode in DEEP or REDUCED in image.info
    if image.mode in DEEP:
        image = Image.fromarray(_eight_bits(np.asarray(image, dtype=np.float64)))
    if image.mode == "La":
        image = image.convert("LA")  # the only mode that it converts to
    if image.mode in ("RGBA", "RGBa", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    flat = image.convert("RGB")
    flat.info = {REDUCED: "yes"} if reduced else {}
    return flat


def _eight_bits(values: np.ndarray) -> np.ndarray:
    """Return values of any range as 0 to 255: by the range that holds them (1, 255 or 65535), else by their own."""
    values = np.nan_to_num(values)
    low, high = float(values.min()), float(values.max())
    if low < 0 or high > 65535:
        values, top = values - low, (high - low) or 1.0
    else:
        top = 1.0 if high <= 1 and not np.array_equal(values, np.rint(values)) else 255.0 if high <= 255 else 65535.0
    return np.rint(values * (255 / top)).astype(np.uint8)


def fit_image(image: Image.Image, *, side: int, multiple: int, keep: bool = False) -> Image.Image:
    """Return a picture of about ``side`` x ``side`` pixels' area in its own proportions.

    Both sides become multiples of ``multiple``; what does not fit them is cut off at
    the edges, and nothing is stretched. A picture that fits already is returned as it is, and with
    ``keep`` one of any area: scaling breaks the thin lines of a map of edges.
    """
    width, height = image.size
    if not (width % multiple or height % multiple) and (keep or 0.4 < width * height / side**2 < 1.8):
        return image
    scale = side / (width * height) ** 0.5
    size = tuple(max(round(length * scale / multiple), 1) * multiple for length in (width, height))
    return ImageOps.fit(image, size, Image.Resampling.LANCZOS)


def fit_mask(source: str | Path | Image.Image, size: tuple[int, int], *, side: int, multiple: int) -> Image.Image:
    """Return a picture's mask fitted as :func:`fit_image` fits the picture: 8-bit grey, 255 where to draw anew, else 0.

    Parameters
    ----------
    source
        As :func:`read_image` takes it; of the picture's size, light (128 of 255 or more) where to draw anew.
    size
        Of the picture before it is fitted, in pixels.

    Raises
    ------
    ValueError
        If it is of another size, or marks nothing, or everything.
    """
    mask = read_image(source)
    if mask.size != size:
        was, wanted = ("{} x {}".format(*each) for each in (mask.size, size))
        raise ValueError(
            f"mask_image has {was} pixels, and image has {wanted}; make the mask of the picture's own size, "
            "white where it is to be drawn anew."
        )
    fitted = fit_image(mask, side=side, multiple=multiple).convert("L").point(lambda value: 255 * (value >= 128))
    marked = np.asarray(fitted) > 0
    if marked.all():
        raise ValueError(
            "mask_image marks the whole picture: nothing of it would stay; leave a part black, "
            "or use the section image-to-image or text-to-image."
        )
    if not marked[::CELL, ::CELL].any():
        raise ValueError(
            f"mask_image marks {'too little' if marked.any() else 'nothing'}; paint white what is to be drawn anew, "
            f"at least {2 * CELL} pixels wide."
        )
    return fitted


def with_hole(picture: Image.Image, mask: Image.Image) -> Image.Image:
    """Return a picture that is grey where its mask is white: what of it a model is given."""
    return Image.composite(Image.new("RGB", picture.size, (127, 127, 127)), picture, mask)


def canny(image: str | Path | bytes | Image.Image, low: int = 100, high: int = 200) -> Image.Image:
    """Return a picture's edges, white on black, in the picture's own size.

    Parameters
    ----------
    image
        As :func:`read_image` takes it.
    low, high
        Thresholds of OpenCV's Canny detector on the gradient, 0-1000: an edge starts
        where the gradient exceeds ``high`` and goes on as long as it exceeds ``low``.

    Raises
    ------
    ValueError
        For an unreadable picture, a threshold out of range, or ``low`` above ``high``.
    ImportError
        Without OpenCV, with the command that installs it.
    """
    thresholds: dict[str, Any] = {"low": low, "high": high}
    for name, value in thresholds.items():
        if isinstance(value, bool) or not isinstance(value, Real) or not 0 <= float(value) <= 1000:
            raise ValueError(f"{name} is {files.shown(value)}; give a threshold from 0 to 1000.")
    if low > high:
        raise ValueError(f"low is {low} and high is {high}; the low threshold must not exceed the high one.")
    pixels = np.array(read_image(image))
    try:
        import cv2
    except ModuleNotFoundError:
        raise ImportError(
            "Edges need the package opencv-python-headless: `pip install opencv-python-headless`, then restart."
        ) from None
    edges = cv2.Canny(pixels, low, high)
    return Image.fromarray(np.repeat(edges[..., None], 3, axis=2))


def keep_image(source: str | Path | bytes | Image.Image) -> str:
    """Check a picture and return the path of a file that holds it.

    A path stays as it is; its file is opened and not decoded. A picture from memory is written to the temporary
    folder, so that settings stay plain text and the code that a panel shows can open it; the file goes when
    nothing holds the path.
    """
    if isinstance(source, (str, Path)):
        name, data = _contents(source)
        with _opened(name, data):
            # of a kept file the very text that it was given: it holds the file
            return source if isinstance(source, kept.Kept) else str(files.as_path(source, WANTED))
    image = read_image(source)
    data = encode_image(image)
    return kept.keep(data, f"{hashlib.sha256(data).hexdigest()[:16]}.png")


def encode_image(image: Image.Image, kind: str = "png") -> bytes:
    """Return a picture as the bytes of a "png" or "jpeg" file, quickly made rather than small."""
    buffer = io.BytesIO()
    if kind == "jpeg":
        image.convert("RGB").save(buffer, format=kind, quality=90)
    else:
        said = PngImagePlugin.PngInfo()
        if REDUCED in image.info:
            said.add_text(REDUCED, "yes")
        image.convert("RGB").save(buffer, format=kind, compress_level=1, pnginfo=said)
    return buffer.getvalue()
