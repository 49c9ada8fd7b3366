"""The pictures that sections start from when they are given none."""

from functools import lru_cache

from PIL import Image

from ..pictures import read_image
from ..sections import BY_NAME, section_for
from .checkpoints import MINI
from .device import resolve_profile
from .hub import bring
from .plans import plan_for

EXAMPLES = MINI / "examples"


def example_image(section: str, profile: str | None = None) -> Image.Image:
    """Return the picture that a section starts from when it is given none.

    Parameters
    ----------
    section
        One of ``lcm_nb.SECTIONS`` that starts from a picture.
    profile
        "mini" for a scene of this project, "guide" for the guide's picture, which is
        downloaded once; default as in ``lcm_nb.load``.

    Raises
    ------
    ValueError
        If the section starts from no picture; the message lists those that do.
    OSError
        If the guide's picture is not here and cannot be downloaded (:class:`lcm_nb.models.hub.HubError`).
    """
    known = [name for name, each in BY_NAME.items() if each.starts_from_picture]
    if section not in known:
        raise ValueError(f"{section!r} starts from no picture; these sections do: {', '.join(known)}.")
    if resolve_profile(profile) == "mini":
        return read_image(EXAMPLES / f"{section}.png")
    image, size = read_image(_guide_file(section)), section_for(section).example_size
    return image.resize(size) if size else image


def example_mask(section: str, profile: str | None = None) -> Image.Image:
    """Return the mask of :func:`example_image`: white where that picture is drawn anew.

    Raises
    ------
    ValueError
        If the section takes no mask; the message lists those that do.
    OSError
        If the guide's mask is not here and cannot be downloaded.
    """
    known = [name for name, each in BY_NAME.items() if each.takes_mask]
    if section not in known:
        raise ValueError(f"{section!r} takes no mask; these sections do: {', '.join(known)}.")
    mini = resolve_profile(profile) == "mini"
    return read_image(EXAMPLES / f"{section}-mask.png" if mini else _guide_file(section, "mask"))


@lru_cache
def _guide_file(section: str, part: str = "picture") -> str:
    source = plan_for(section).sources[part]
    return str(bring({part: source}, tell=lambda line: None)[part] / source.texts[0])
