"""What a user may change: its range, its checks, and what runs by it. Knows no section and no model."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any

from .files import shown

EXAMPLE = "example"  # as an image: the picture that the package ships for the section
MOST_STEPS = 50  # points of an LCM's schedule
MOST_IMAGES = 8
LAST_SEED = 2**32 - 1
LONGEST_TEXT = 2_000  # characters of a prompt: models read 77 tokens at most, and longer texts cost seconds


@dataclass(frozen=True)
class Setting:
    """One thing that a user may change.

    ``kind`` is "text", "number", "switch", "image" or "mask"; a number is whole where its default is.
    ``low`` and ``high`` are inclusive; ``help`` is the sentence that errors and panels show, ``label``
    the word beside its control, "" for its name; ``inert`` says why the setting has no effect with the
    model at hand, "" where it has one. ``role`` says whom it concerns: "argument" (of the pipeline),
    "seed", "count" (of pictures), "picture", "prepare" (how the picture is prepared) or "lora" (a scale).
    """

    default: Any
    help: str
    low: float = 0.0
    high: float = 0.0
    step: float | None = None
    slider_high: float | None = None  # where a slider ends, if not at ``high``
    kind: str = "number"
    optional: bool = False  # a text that may be empty
    inert: str = ""
    label: str = ""
    role: str = "argument"


def complete(known: Mapping[str, Setting], given: Mapping[str, Any], *, owner: str) -> dict[str, Any]:
    """Return the settings ``given``, checked, converted, and completed with the defaults of those ``known``.

    Pictures come back as paths of files (:func:`lcm_nb.pictures.keep_image`).

    Parameters
    ----------
    known
        Name -> setting, all that there are.
    given
        Name -> value, those that differ from the defaults.
    owner
        Whose settings they are, for the message.

    Raises
    ------
    ValueError
        For an unknown name, a wrong type, a value out of range, or values that do not
        go together; the message gives the value and what to do.
    """
    for name in given:
        if name not in known:
            raise ValueError(f"{owner} has no setting {name!r}; its settings are: {', '.join(known)}.")
    checks = {"text": _text, "number": _number, "image": _picture, "mask": _picture, "switch": _switch}
    done = {name: checks[spec.kind](name, spec, given.get(name, spec.default)) for name, spec in known.items()}
    _check_together(done)
    _check_mask(known, given, done)
    return done


def seeds(settings: Mapping[str, Any]) -> list[int]:
    """Return the seed of each picture of a run: the next one each, after the last one 0."""
    return [(settings["seed"] + i) % (LAST_SEED + 1) for i in range(settings.get("num_images", 1))]


def one(settings: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Return the settings that draw alone the picture that ``seed`` gives among several."""
    return {**settings, "seed": seed} | ({"num_images": 1} if "num_images" in settings else {})


def _text(name: str, spec: Setting, value: Any) -> str:
    if not isinstance(value, str) or not (value.strip() or spec.optional):
        raise ValueError(f"{name} is {shown(value)}; give a text with at least one word ({spec.help}).")
    if len(value) > LONGEST_TEXT:
        raise ValueError(f"{name} has {len(value):,} characters; give at most {LONGEST_TEXT:,} ({spec.help}).")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{name} has half a character at place {error.start + 1} ({value[error.start]!r}); type it again."
        ) from None
    return str(value)  # NumPy's strings are such, too, but do not look so in code


def _number(name: str, spec: Setting, value: Any) -> int | float:
    kind = type(spec.default)
    article = "a whole number" if kind is int else "a number"
    wanted = f"give {article} from {spec.low:g} to {_limit(spec)} ({spec.help})."
    if isinstance(value, bool) or not isinstance(value, Real):
        raise ValueError(f"{name} is {shown(value)}; {wanted}")
    number: Any = value
    if not spec.low <= number <= spec.high or number != kind(number):
        raise ValueError(f"{name} is {value}; {wanted}")
    return kind(number)


def _switch(name: str, spec: Setting, value: Any) -> bool:
    if getattr(value, "shape", ()) != () or value not in (True, False):
        raise ValueError(f"{name} is {shown(value)}; give True or False ({spec.help}).")
    return bool(value)


def _picture(name: str, spec: Setting, value: Any) -> str:
    from .pictures import keep_image  # imports Pillow and NumPy, which reading settings need not wait for

    return value if isinstance(value, str) and value == EXAMPLE else keep_image(value)


def _check_together(settings: Mapping[str, Any]) -> None:
    if "strength" in settings and not planned_timesteps(settings):
        steps, strength = settings["num_inference_steps"], settings["strength"]
        more = next((n for n in range(steps, MOST_STEPS + 1) if int(n * strength)), None)
        raise ValueError(
            f"{steps} steps at strength {strength:g} run no UNet step; "
            f"use a strength of at least {least_strength(steps):g}{f', or {more} steps' if more else ''}."
        )
    low, high = settings.get("low_threshold", 0), settings.get("high_threshold", 0)
    if low > high:
        raise ValueError(f"low_threshold is {low} and high_threshold {high}; the low one must not exceed the high one.")


def _check_mask(known: Mapping[str, Setting], given: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Refuse a picture whose mask is missing: the example's mask marks a place in the example."""
    for name in (name for name, spec in known.items() if spec.kind == "mask"):
        if settings["image"] != EXAMPLE and settings[name] == EXAMPLE:
            raise ValueError(
                f"{name} is left out, and image is {shown(given['image'])}; give the picture's own mask: of its size, "
                "white where it is to be drawn anew."
            )


def planned_timesteps(settings: Mapping[str, Any]) -> list[int]:
    """Return the training timesteps (0-999) at which the UNet will run, before anything has run.

    An LCM's schedule has 50 points, 20 timesteps apart; ``num_inference_steps`` of them are
    taken. With ``strength`` the last ``int(num_inference_steps * strength)`` of these run.
    """
    from .schedule import timesteps  # imports NumPy, which reading settings need not wait for

    steps = settings["num_inference_steps"]
    return timesteps(steps).tolist()[steps - int(steps * settings.get("strength", 1.0)) :]


def what_runs(settings: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """Return the settings that a panel runs, and a sentence on what will run ("" where steps are steps).

    Where steps and strength would run no step, strength is raised until one runs.
    """
    if "strength" not in settings:
        return dict(settings), ""
    steps, why = settings["num_inference_steps"], ""
    if not planned_timesteps(settings):
        settings = {**settings, "strength": least_strength(steps)}
        why = f" (strength raised to {settings['strength']:g}: less would run none)"
    timesteps = planned_timesteps(settings)
    count = (
        f"{len(timesteps)} UNet step{'s' if len(timesteps) > 1 else ''} at timestep{'s' if len(timesteps) > 1 else ''}"
    )
    return dict(settings), f"will run {count} {', '.join(map(str, timesteps))}{why}"


def least_strength(steps: int) -> float:
    """Return the least strength, in thousandths, at which one of ``steps`` runs."""
    return math.ceil(1000 / steps) / 1000


def _limit(spec: Setting) -> str:
    return str(spec.high) if isinstance(spec.high, int) else f"{spec.high:g}"


def slug(prompt: str) -> str:
    """Return a prompt as the stem of a file name: at most 40 of a-z, 0-9 and "-"."""
    return re.sub(r"[^a-z0-9]+", "-", prompt.lower()).strip("-")[:40].rstrip("-") or "picture"
