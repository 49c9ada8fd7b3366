"""Learn Latent Consistency Models by running them.

>>> import lcm_nb
>>> studio = lcm_nb.load("text-to-image")
>>> studio.generate(prompt="a cute fox").image
"""

import logging

import lazy_loader

__version__ = "0.1.0"
# Nothing is imported before it is used; the names are in __init__.pyi, where editors and type checkers see them.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

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
