"""What a section of the guide is, and the settings that sections share."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from PIL import Image

from ..settings import EXAMPLE, LAST_SEED, MOST_IMAGES, MOST_STEPS, Setting

Settings = Mapping[str, Any]


@dataclass(frozen=True)
class Preparation:
    """How a section turns the picture that it is given into what its pipeline takes.

    Attributes
    ----------
    run
        ``run(picture, settings, side)`` returns what the pipeline takes, in the picture's own size;
        ``side`` is the side in pixels at which the guide looks at the picture, None for its own.
    code
        ``code(settings, side)`` returns the plain lines that do the same to a variable ``image``.
    imports
        ``imports(settings)`` returns the import lines that these need.
    is_done
        Whether the picture given is already what the pipeline takes, so that it is not scaled without need.
    """

    run: Callable[[Image.Image, Settings, int | None], Image.Image]
    code: Callable[[Settings, int | None], list[str]]
    imports: Callable[[Settings], list[str]]
    is_done: Callable[[Settings], bool]


# Prompts that the mini family draws well, and the guide's models, too.
PROMPTS = (
    "a cute fox in a meadow",
    "an astronaut in a jungle, cold color palette",
    "oil painting of a robot in a city",
    "a blue cat on a yellow background",
    "a panda in the snow, pencil sketch",
    "a castle at sunset, warm colors",
    "a rocket in space",
    "a green dragon in a desert",
)


@dataclass(frozen=True)
class Section:
    """A section of the guide: all that is its own, and nothing of a model's.

    Attributes
    ----------
    name
        As ``lcm_nb.load`` takes it.
    notebook
        Stem of its notebook's file, which begins with its number: sections are in this order.
    title
        Its heading in the guide.
    settings
        What a user may change, in the order of the panel.
    pipelines
        Family of models, "xl" or "sd" -> name of the diffusers class that runs it.
    mini
        The parts that it adds to a model -> their folders in ``lcm_nb/mini``.
    options
        More arguments of the pipeline's ``from_pretrained``.
    preparation
        What is done to the given picture besides fitting it; None for nothing.
    examples
        Prompts to start from, which the mini family draws well.
    example_size
        Width and height to which the guide's code resizes its picture; None where it does not.
    """

    name: str
    notebook: str
    title: str
    settings: Mapping[str, Setting]
    pipelines: Mapping[str, str]
    mini: Mapping[str, str] = field(default_factory=dict)
    options: Settings = field(default_factory=dict)
    preparation: Preparation | None = None
    examples: tuple[str, ...] = PROMPTS
    example_size: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        for name in ("settings", "pipelines", "mini", "options"):
            object.__setattr__(self, name, MappingProxyType(dict(getattr(self, name))))

    @property
    def starts_from_picture(self) -> bool:
        """Whether a picture is among the settings."""
        return "image" in self.settings

    @property
    def takes_mask(self) -> bool:
        """Whether a mask says which part of the picture is drawn anew."""
        return "mask_image" in self.settings

    def role(self, name: str) -> str:
        """Return whom a setting concerns; those that a model adds are the pipeline's."""
        return self.settings[name].role if name in self.settings else "argument"

    @property
    def styles(self) -> tuple[str, ...]:
        """The style LoRAs that the section has scales for."""
        return tuple(name for name, setting in self.settings.items() if setting.role == "lora")


def prompt(default: str) -> Setting:
    """Return the setting ``prompt``."""
    return Setting(default, "what to draw", kind="text")


def guidance(default: float) -> Setting:
    """Return the setting ``guidance_scale`` of a model that embeds it."""
    help = "how strongly the prompt pulls; the model learnt 1 (none) to 14"
    return Setting(default, help, 1.0, 14.0, 0.5, label="guidance")


def picture(help: str) -> Setting:
    """Return the setting ``image``."""
    text = f"{help}: a path or a picture; {EXAMPLE!r} is one that comes with the section"
    return Setting(EXAMPLE, text, kind="image", role="picture")


def mask(help: str) -> Setting:
    """Return the setting ``mask_image``."""
    text = f"{help}: a path or a picture of the same size; {EXAMPLE!r} is the mask of the example"
    return Setting(EXAMPLE, text, kind="mask", label="mask", role="picture")


STEPS = Setting(
    4,
    "how often the UNet runs; an LCM needs 1 to 8, and its schedule has 50 points",
    1,
    MOST_STEPS,
    1,
    slider_high=8,
    label="steps",
)
# The last two of every section.
DRAWN = {
    "num_images": Setting(
        1, "how many pictures; each has the next seed", 1, MOST_IMAGES, 1, label="pictures", role="count"
    ),
    "seed": Setting(
        0, "start of the random numbers: the same seed gives the same picture", 0, LAST_SEED, 1, role="seed"
    ),
}
