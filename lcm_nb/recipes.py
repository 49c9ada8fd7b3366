"""What each section of the guide runs, as frozen data: settings, ranges and checkpoints."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True)
class Setting:
    """One thing that a user may change.

    ``low`` and ``high`` are inclusive; ``help`` is the sentence that errors and panels show.
    """

    default: str | int | float
    help: str
    low: float | None = None
    high: float | None = None
    step: float | None = None
    slider_high: float | None = None  # where a slider ends, if not at ``high``


@dataclass(frozen=True)
class Recipe:
    """A section of the guide.

    ``guide`` and ``mini`` map the names that ``lcm_nb.checkpoints`` gives to a Hub
    repository or to a folder of ``lcm_nb/mini``.
    """

    title: str
    settings: Mapping[str, Setting]
    guide: Mapping[str, str]
    mini: Mapping[str, str]


_SEED = Setting(0, "start of the random numbers: the same seed gives the same picture", 0, 2**32 - 1, 1)
_STEPS = Setting(4, "how often the UNet runs; an LCM needs 1 to 8, and its schedule has 50 points", 1, 50, 1, 8)

RECIPES: Mapping[str, Recipe] = MappingProxyType(
    {
        "text-to-image": Recipe(
            title="Text-to-image",
            settings=MappingProxyType(
                {
                    "prompt": Setting(
                        "Self-portrait oil painting, a beautiful cyborg with golden hair, 8k", "what to draw"
                    ),
                    "num_inference_steps": _STEPS,
                    "guidance_scale": Setting(
                        8.0, "how strongly the prompt pulls; the model learnt 1 (none) to 14", 1.0, 14.0, 0.5
                    ),
                    "seed": _SEED,
                }
            ),
            guide=MappingProxyType(
                {"base": "stabilityai/stable-diffusion-xl-base-1.0", "unet": "latent-consistency/lcm-sdxl"}
            ),
            mini=MappingProxyType({"base": "base", "unet": "lcm"}),
        ),
    }
)

SECTIONS: tuple[str, ...] = tuple(RECIPES)


def recipe_for(section: str) -> Recipe:
    """Return a section's recipe.

    Raises
    ------
    ValueError
        If there is no such section; the message lists those that exist.
    """
    if section not in RECIPES:
        raise ValueError(f"There is no section {section!r}; choose one of: {', '.join(SECTIONS)}.")
    return RECIPES[section]


def complete(section: str, settings: Mapping[str, object]) -> dict[str, object]:
    """Return ``settings`` checked, converted, and completed from the guide's section.

    Raises
    ------
    ValueError
        For an unknown name, a wrong type or a value out of range; the message gives
        the value and what to do.
    """
    known = recipe_for(section).settings
    for name in settings:
        if name not in known:
            raise ValueError(f"{section} has no setting {name!r}; its settings are: {', '.join(known)}.")
    return {name: _checked(name, spec, settings.get(name, spec.default)) for name, spec in known.items()}


def _checked(name: str, spec: Setting, value: object) -> object:
    kind = type(spec.default)
    if kind is str:
        if not isinstance(value, str) or not value.strip():
            raise ValueError(f"{name} is {value!r}; give a text with at least one word ({spec.help}).")
        return value
    article = "a whole number" if kind is int else "a number"
    try:
        number = float(value)
        if isinstance(value, (bool, str)) or (kind is int and not number.is_integer()):
            raise TypeError
    except (TypeError, ValueError, OverflowError):
        raise ValueError(
            f"{name} is {value!r}; give {article} from {spec.low:g} to {_limit(spec)} ({spec.help})."
        ) from None
    if not spec.low <= number <= spec.high:
        raise ValueError(f"{name} is {value}; give {article} from {spec.low:g} to {_limit(spec)} ({spec.help}).")
    return kind(value)


def _limit(spec: Setting) -> str:
    return str(spec.high) if isinstance(spec.high, int) else f"{spec.high:g}"


def slug(prompt: str) -> str:
    """Return a prompt as the stem of a file name: at most 40 of a-z, 0-9 and "-"."""
    return re.sub(r"[^a-z0-9]+", "-", prompt.lower()).strip("-")[:40].rstrip("-") or "picture"
