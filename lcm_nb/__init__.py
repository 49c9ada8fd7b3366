"""Learn Latent Consistency Models by running them.

>>> import lcm_nb
>>> studio = lcm_nb.load("text-to-image")
>>> studio.generate(prompt="a cute fox").image
"""

import logging

from .settings import SECTIONS

__version__ = "0.1.0"
_HOME = {
    "canny": "pictures",
    "checkpoints": "models.checkpoints",
    "example_image": "pictures",
    "info": "models.checkpoints",
    "load": "studio",
    "reproduce": "studio",
}
__all__ = ["SECTIONS", *_HOME]

# Lines that every load would print and that ask nothing of the reader: an AutoencoderTiny serves
# well in SDXL's pipeline, no image processor is used, the LoRAs are of the UNet alone, and SDXL's
# pipeline turns its VAE into float32 to decode.
_EXPECTED = (
    "Expected types for vae",
    "`CLIPImageProcessor` requires",
    "`SiglipImageProcessor` requires",
    "`Siglip2ImageProcessor` requires",
    "No LoRA keys associated to CLIPTextModel",
    "There are modules in AutoencoderKL that should be kept in float32: []",
)
for _logger in (
    "diffusers.pipelines.pipeline_utils",
    "diffusers.loaders.lora_base",
    "diffusers.models.modeling_utils",
    "transformers.utils.import_utils",
):
    logging.getLogger(_logger).addFilter(lambda record: not record.getMessage().startswith(_EXPECTED))


def __getattr__(name: str):
    """Import torch and diffusers only when something is asked of them."""
    from importlib import import_module

    if name not in _HOME:
        raise AttributeError(f"lcm_nb has no name {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(f".{_HOME[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
