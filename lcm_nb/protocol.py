"""What goes over the wire between a notebook and a server: requests and events as plain data, with limits.

docs/serving.md describes it for readers. Nothing here opens a path or an address, and nothing is pickled.
"""

import base64
import binascii
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from . import png
from .files import shown
from .pictures import read_image
from .settings import Setting, complete

PROTOCOL = 1
MAX_BODY = 12_000_000  # bytes of a request: a start picture of 4 megapixels fits, the rest is small
MAX_PIXELS = 4_000_000  # of a start picture, which comes already fitted
MAX_EVENT = 40_000_000  # bytes of a line that a client reads
PREVIEW_SIDE = 256  # pixels on a side of a preview at most
ROLES = ("argument", "seed", "lora")  # of the settings that a server takes; the client sees to the others
NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")  # of a client and of a lane
BEAT = 0.5  # seconds: so often at least a stream says something
FIELDS = {"section", "settings", "image", "lane", "watched", "mask"}

Event = dict[str, Any]


@dataclass(frozen=True)
class Job:
    """One picture that a client asks for.

    ``settings`` are complete; ``image`` is the PNG that the pipeline is given, None where there is none; a newer job
    of the same ``lane`` replaces this one; ``watched`` says whether steps are to be told; ``mask`` is the PNG of what
    is drawn anew in the image.
    """

    section: str
    settings: Mapping[str, Any]
    image: bytes | None = None
    lane: str = ""
    watched: bool = True
    mask: bytes | None = None


class UnknownSection(ValueError):
    """The server does not draw this section."""


def wire_settings(settings: Mapping[str, Setting]) -> dict[str, Setting]:
    """Return those of a section's settings that a server takes."""
    return {name: spec for name, spec in settings.items() if spec.role in ROLES}


def pack(job: Job) -> bytes:
    """Return a job as the body of a request."""
    pictures = {"image": job.image, "mask": job.mask}
    told = {name: base64.b64encode(data).decode() if data else None for name, data in pictures.items()}
    return json.dumps({**vars(job), "settings": dict(job.settings), **told}).encode()


def unpack(body: bytes, sections: Mapping[str, Mapping[str, Setting]]) -> Job:
    """Return the job of a request's body, checked.

    Parameters
    ----------
    body
        What came.
    sections
        Section that the server draws -> its settings, complete.

    Raises
    ------
    UnknownSection
        If the server does not draw the section.
    ValueError
        For whatever else is wrong; the message gives the value.
    """
    try:
        data = json.loads(body)
    except (ValueError, RecursionError):
        raise ValueError("The request is no JSON that can be read.") from None
    if not isinstance(data, dict) or not data.keys() <= FIELDS or not {"section", "settings"} <= data.keys():
        raise ValueError(f"The request is to be a JSON object with some of: {', '.join(sorted(FIELDS))}.")
    section, settings = data["section"], data["settings"]
    if not isinstance(section, str) or section not in sections:
        raise UnknownSection(f"This server does not draw {shown(section)}; it draws: {', '.join(sections)}.")
    if not isinstance(settings, dict):
        raise ValueError(f"settings is {shown(settings)}; give an object of names and values.")
    lane, watched = data.get("lane", ""), data.get("watched", True)
    if not isinstance(lane, str) or (lane and not NAME.fullmatch(lane)):
        raise ValueError(f"lane is {shown(lane)}; give at most 64 of a-z, A-Z, 0-9, _ and -.")
    if not isinstance(watched, bool):
        raise ValueError(f"watched is {shown(watched)}; give true or false.")
    image = _image(data.get("image"), "image", wanted="image" in sections[section])
    mask = _image(data.get("mask"), "mask", wanted="mask_image" in sections[section])
    settings = complete(wire_settings(sections[section]), settings, owner=section)
    return Job(section, settings, image, lane, watched, mask)


def _image(value: object, name: str, *, wanted: bool) -> bytes | None:
    """Return a PNG of a request without anything that is not its picture; its pixels are not decoded yet."""
    if value is None and not wanted:
        return None
    if not wanted:
        what = "starts from no picture" if name == "image" else "takes no mask"
        raise ValueError(f"{name} was given, and this section {what}.")
    if not isinstance(value, str):
        raise ValueError(f"{name} is {shown(value)}; give a PNG in base64.")
    try:
        data = base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError(f"{name} is {shown(value)}; give a PNG in base64, no path and no address.") from None
    if not data.startswith(png.SIGNATURE):
        raise ValueError(f"{name} is no PNG; give one in base64.")
    try:
        parts = [chunk for chunk in png.chunks(data) if chunk[0] in png.PICTURE]
        if [kind for kind, _ in parts].count(b"IHDR") != 1 or parts[0][0] != b"IHDR" or len(parts[0][1]) != 13:
            raise ValueError("it does not begin with its size")
        data = png.joined(parts)
    except ValueError as error:
        raise ValueError(f"{name} is damaged ({error}); send it again.") from None
    width, height = (int.from_bytes(data[at : at + 4], "big") for at in (16, 20))
    if width * height > MAX_PIXELS:
        raise ValueError(
            f"{name} has {width} x {height} pixels; at most {MAX_PIXELS // 10**6} megapixels are taken. "
            "Make it smaller."
        )
    return data


def start_picture(job: Job) -> Any:
    """Return the picture that a job starts from, RGB, or None.

    Raises
    ------
    ValueError
        If it is damaged.
    """
    return read_image(job.image, name="image") if job.image else None


def start_mask(job: Job, image: Any) -> Any:
    """Return the mask of a job's picture ``image``, 8-bit grey, or None.

    Raises
    ------
    ValueError
        If it is damaged, or of another size.
    """
    mask = read_image(job.mask, name="mask").convert("L") if job.mask else None
    if mask and mask.size != image.size:
        was, wanted = ("{} x {}".format(*each.size) for each in (mask, image))
        raise ValueError(f"mask has {was} pixels, and image has {wanted}; send both in one size.")
    return mask


# -- events ---------------------------------------------------------------------------


def line(event: Event) -> bytes:
    """Return an event as a line; bytes in it become base64."""
    return json.dumps(event, default=lambda value: base64.b64encode(value).decode()).encode() + b"\n"


def error_event(error: BaseException) -> Event:
    """Return an error as an event: one sentence, and of what kind it is."""
    kind = next((kind.__name__ for kind in (ValueError, MemoryError) if isinstance(error, kind)), "OSError")
    told = " ".join(str(error).split()) if isinstance(error, (ValueError, OSError, MemoryError)) else ""
    return {"event": "error", "kind": kind, "message": told or f"The server failed ({type(error).__name__})."}


def read_line(text: bytes | str) -> Event:
    """Return the event of a line, its bytes as bytes.

    Raises
    ------
    ValueError
        If it is none.
    """
    event = json.loads(text)
    if not isinstance(event, dict) or not isinstance(event.get("event"), str):
        raise ValueError("no event")
    for name in ("png", "preview"):
        if event.get(name) is not None:
            event[name] = base64.b64decode(event[name], validate=True)
    return event
