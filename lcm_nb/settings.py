"""What each section of the guide runs, as frozen data: settings, ranges and checkpoints."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

EXAMPLE = "example"  # as an image: the picture that the package ships for the section
LORAS = ("papercut", "neon")
MOST_STEPS = 50  # points of an LCM's schedule


@dataclass(frozen=True)
class Setting:
    """One thing that a user may change.

    ``kind`` is "text", "number", "switch" or "image"; a number is whole where its default is.
    ``low`` and ``high`` are inclusive; ``help`` is the sentence that errors and panels show;
    ``inert`` says why the setting has no effect with the model at hand, "" where it has one.
    """

    default: str | int | float | bool
    help: str
    low: float | None = None
    high: float | None = None
    step: float | None = None
    slider_high: float | None = None  # where a slider ends, if not at ``high``
    kind: str = "number"
    optional: bool = False  # a text that may be empty
    inert: str = ""


@dataclass(frozen=True)
class Recipe:
    """A section of the guide.

    ``mini`` maps the names that ``lcm_nb.checkpoints`` gives to folders of ``lcm_nb/mini``;
    what the guide profile takes from the Hub is in ``lcm_nb.models.plans``.
    """

    title: str
    settings: Mapping[str, Setting]
    mini: Mapping[str, str]

    def __post_init__(self):
        for name in ("settings", "mini"):
            object.__setattr__(self, name, MappingProxyType(dict(getattr(self, name))))


def _prompt(default: str) -> Setting:
    return Setting(default, "what to draw", kind="text")


def _guidance(default: float) -> Setting:
    return Setting(default, "how strongly the prompt pulls; the model learnt 1 (none) to 14", 1.0, 14.0, 0.5)


def _image(help: str) -> Setting:
    return Setting(
        EXAMPLE, f"{help}: a path or a picture; {EXAMPLE!r} is one that comes with the section", kind="image"
    )


_SEED = Setting(0, "start of the random numbers: the same seed gives the same picture", 0, 2**32 - 1, 1)
_STEPS = Setting(4, "how often the UNet runs; an LCM needs 1 to 8, and its schedule has 50 points", 1, MOST_STEPS, 1, 8)
_EDGES = {
    "image": _image("whose edges to follow"),
    "detect_edges": Setting(
        True, "take the picture's edges; off: the picture is a map of edges already", kind="switch"
    ),
    "low_threshold": Setting(100, "gradient at which an edge goes on", 0, 1000, 5, 600),
    "high_threshold": Setting(200, "gradient at which an edge starts; not below the low threshold", 0, 1000, 5, 600),
}
_CLASSIFIER_FREE = Setting(
    1.0,
    "how strongly the prompt pulls; above 1 every step runs the UNet twice, above 2 colours burn out",
    1.0,
    2.0,
    0.1,
)
_NEGATIVE = Setting("", "what to keep away from; acts where guidance is above 1", kind="text", optional=True)
_XL = {"base": "base", "unet": "lcm"}

RECIPES: Mapping[str, Recipe] = MappingProxyType(
    {
        "text-to-image": Recipe(
            title="Text-to-image",
            settings={
                "prompt": _prompt("Self-portrait oil painting, a beautiful cyborg with golden hair, 8k"),
                "num_inference_steps": _STEPS,
                "guidance_scale": _guidance(8.0),
                "seed": _SEED,
            },
            mini=_XL,
        ),
        "image-to-image": Recipe(
            title="Image-to-image",
            settings={
                "prompt": _prompt("Astronauts in a jungle, cold color palette, muted colors, detailed, 8k"),
                "image": _image("what to start from"),
                "num_inference_steps": _STEPS,
                "strength": Setting(
                    0.5, "how much noise covers the picture; steps x strength UNet steps run", 0.05, 1.0, 0.05
                ),
                "guidance_scale": _guidance(7.5),
                "seed": _SEED,
            },
            mini={"base": "sd", "unet": "sd-lcm"},
        ),
        "style-lora": Recipe(
            title="Style LoRA",
            settings={
                "prompt": _prompt("papercut, a cute fox"),
                **{
                    name: Setting(
                        1.0 if name == "papercut" else 0.0, f"how strongly the {name} LoRA acts", 0.0, 2.0, 0.1
                    )
                    for name in LORAS
                },
                "num_inference_steps": _STEPS,
                "guidance_scale": _guidance(8.0),
                "seed": _SEED,
            },
            mini=_XL | {"loras": "loras"},
        ),
        "controlnet": Recipe(
            title="ControlNet",
            settings={
                "prompt": _prompt("the mona lisa"),
                **_EDGES,
                "num_inference_steps": _STEPS,
                "guidance_scale": _guidance(7.5),
                "controlnet_conditioning_scale": Setting(1.0, "how strongly the edges bind", 0.0, 2.0, 0.05),
                "seed": _SEED,
            },
            mini={"base": "sd-lcm", "controlnet": "controlnet-canny"},
        ),
        "t2i-adapter": Recipe(
            title="T2I-Adapter",
            settings={
                "prompt": _prompt("Mystical fairy in real, magic, 4k picture, high quality"),
                "negative_prompt": Setting(
                    "extra digit, fewer digits, cropped, worst quality, low quality, glitch, deformed, mutated, ugly, "
                    "disfigured",
                    "what the guide passes",
                    kind="text",
                    optional=True,
                    inert="no effect: a full LCM embeds guidance, and runs nothing that a negative prompt could change",
                ),
                **_EDGES,
                "num_inference_steps": _STEPS,
                "guidance_scale": _guidance(5.0),
                "adapter_conditioning_scale": Setting(0.8, "how strongly the edges bind", 0.0, 2.0, 0.05),
                "adapter_conditioning_factor": Setting(
                    1.0, "for which share of the steps, from the first, the edges bind", 0.0, 1.0, 0.05
                ),
                "seed": _SEED,
            },
            mini=_XL | {"adapter": "t2i-adapter-canny"},
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


def settings_for(section: str, *, embedded_guidance: bool = True, styles: Sequence[str] = LORAS) -> dict[str, Setting]:
    """Return a section's settings with the model at hand.

    Parameters
    ----------
    section
        One of ``SECTIONS``.
    embedded_guidance
        True for a full LCM, whose UNet takes guidance as an input. False for an LCM-LoRA: there
        guidance is classifier-free, useful from 1 to 2, and negative prompts act.
    styles
        The style LoRAs that there are.
    """
    settings = {k: v for k, v in recipe_for(section).settings.items() if k not in LORAS or k in styles}
    if embedded_guidance:
        return settings
    real = {"guidance_scale": _CLASSIFIER_FREE, "negative_prompt": _NEGATIVE}
    return {"prompt": settings["prompt"], "negative_prompt": _NEGATIVE} | settings | real


def complete(
    section: str, settings: Mapping[str, object], known: Mapping[str, Setting] | None = None
) -> dict[str, object]:
    """Return ``settings`` checked, converted, and completed from the guide's section.

    Pictures come back as paths of files (:func:`lcm_nb.pictures.keep_image`). ``known`` are the
    settings that there are, those of the mini profile if left out.

    Raises
    ------
    ValueError
        For an unknown name, a wrong type, a value out of range, or values that do not
        go together; the message gives the value and what to do.
    """
    known = recipe_for(section).settings if known is None else known
    for name in settings:
        if name not in known:
            raise ValueError(f"{section} has no setting {name!r}; its settings are: {', '.join(known)}.")
    checks = {"text": _text, "number": _number, "image": _picture, "switch": _switch}
    done = {name: checks[spec.kind](name, spec, settings.get(name, spec.default)) for name, spec in known.items()}
    _check_together(done)
    return done


def _text(name: str, spec: Setting, value: object) -> str:
    if not isinstance(value, str) or not (value.strip() or spec.optional):
        raise ValueError(f"{name} is {value!r}; give a text with at least one word ({spec.help}).")
    return value


def _number(name: str, spec: Setting, value: object) -> int | float:
    kind = type(spec.default)
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


def _switch(name: str, spec: Setting, value: object) -> bool:
    if value not in (True, False):
        raise ValueError(f"{name} is {value!r}; give True or False ({spec.help}).")
    return bool(value)


def _picture(name: str, spec: Setting, value: object) -> str:
    from .pictures import keep_image  # imports Pillow and NumPy, which reading recipes need not wait for

    return value if isinstance(value, str) and value == EXAMPLE else keep_image(value)


def _check_together(settings: Mapping[str, object]) -> None:
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


def planned_timesteps(settings: Mapping[str, object]) -> list[int]:
    """Return the training timesteps (0-999) at which the UNet will run, before anything has run.

    An LCM's schedule has 50 points, 20 timesteps apart; ``num_inference_steps`` of them are
    taken. With ``strength`` the last ``int(num_inference_steps * strength)`` of these run.
    """
    from .schedule import timesteps  # imports NumPy, which reading recipes need not wait for

    steps = settings["num_inference_steps"]
    return timesteps(steps).tolist()[steps - int(steps * settings.get("strength", 1.0)) :]


def plan(settings: Mapping[str, object]) -> tuple[dict[str, object], str]:
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
