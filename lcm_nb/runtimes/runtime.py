"""The seam between a studio and whatever draws for it.

A studio settles what is asked for: settings, seeds, the picture to start from, who may draw now. A runtime
draws one picture. The diffusers runtime is the first; another device, engine or machine is another file here.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from PIL import Image

# What the model predicts: the clean latent, in whatever form the runtime's ``decode`` takes; None if it is not told.
Latent = Any
# Called after each UNet step with its number from 0, its training timestep (0-999) and the clean latent
# predicted there; what it raises stops the run.
OnStep = Callable[[int, int, Latent], None]


@dataclass(frozen=True)
class Geometry:
    """What pictures a model takes: about ``side`` x ``side`` pixels, both sides multiples of ``multiple``."""

    side: int
    multiple: int


def go_on() -> None:
    """Let a call wait; by its name, for a call may be sent to another process."""


@dataclass(frozen=True)
class Call:
    """One picture to draw.

    Attributes
    ----------
    arguments
        The pipeline's own, by diffusers' names: ``prompt``, ``num_inference_steps``, ``guidance_scale``, ...
    seed
        Start of the random numbers, 0 to 2**32 - 1.
    image
        What the pipeline starts from or follows, RGB, of a size that fits the geometry; None where there is none.
    mask
        Of the image's size, 255 where it is drawn anew, 0 where it stays; None where there is none.
    scales
        Style LoRA -> how strongly it acts, 0 for not at all.
    waiting
        Called from time to time while the runtime waits to draw, or draws, and may raise to end that.
    watched
        Whether anybody looks at the steps before the picture is there.
    lane
        Of calls with the same lane the newest alone is wanted; "" for a lane of its own.
    """

    arguments: Mapping[str, Any]
    seed: int
    image: Image.Image | None = None
    scales: Mapping[str, float] = field(default_factory=dict)
    mask: Image.Image | None = None
    waiting: Callable[[], object] = field(default=go_on, compare=False, repr=False)
    watched: bool = True
    lane: str = ""

    @property
    def pictures(self) -> dict[str, Any]:
        """Return the pipeline's arguments that say what it starts from."""
        if self.image is None:
            return {}
        if self.mask is None:
            return {"image": self.image}
        # without its size, the inpainting pipelines scale a picture to the model's own
        return {"image": self.image, "mask_image": self.mask, "height": self.image.height, "width": self.image.width}


@dataclass(frozen=True)
class Drawing:
    """A drawn picture, whether a safety checker blacked it out, and what else its user should know ("" for nothing)."""

    image: Image.Image
    censored: bool = False
    note: str = ""


class Runtime(Protocol):
    """What draws. One call at a time, unless ``at_once`` says more: its studio sees to that."""

    @property
    def at_once(self) -> int:
        """How many pictures it draws, or has waiting to be drawn, at once."""
        ...

    @property
    def geometry(self) -> Geometry:
        """What pictures the model takes."""
        ...

    @property
    def can_preview(self) -> bool:
        """Whether ``decode`` is cheap enough to call after a step."""
        ...

    def draw(self, call: Call, on_step: OnStep) -> Drawing:
        """Draw one picture.

        Raises
        ------
        MemoryError
            If the device's memory does not suffice; the runtime stays usable.
        """
        ...

    def decode(self, latent: Latent, quick: bool = False) -> Image.Image:
        """Return the picture of a predicted clean latent, or ``quick`` what it is like, in next to no time."""
        ...

    def code(self, settings: Mapping[str, Any]) -> str:
        """Return plain code that draws the picture of complete settings."""
        ...

    def release(self) -> None:
        """Let go of the model and its memory; nothing can be drawn afterwards."""
        ...
