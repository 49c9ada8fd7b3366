"""Compare latents of different shapes: what each can show, and what a UNet on it costs.

The outcome, ``work/geometry.json``, goes into the model card.
"""

import json
from dataclasses import replace
from pathlib import Path

import torch
from diffusers import AutoencoderTiny

from . import text
from .autoencoder import CROP, GEOMETRIES, HELD_OUT, Autoencoding, as_images, build, fit, load_pictures, psnr
from .loop import Settings, make_accelerator, median_seconds
from .teacher import build_unet


def run(settings: Settings) -> Path:
    """Train an autoencoder of each geometry from nothing, each for ``settings.minutes``."""
    data = load_pictures(settings.work)
    rows = []
    for factor in GEOMETRIES:
        torch.manual_seed(settings.seed)
        module = Autoencoding(build(factor), noise=0.1)
        fit(f"geometry-f{factor}", module, data, CROP, replace(settings, resume=False))
        side = data.shape[1] // factor
        shape = [module.vae.config.latent_channels, side, side]
        rows.append(
            dict(
                factor=factor,
                latents=shape,
                minutes=settings.minutes,
                psnr=psnr(module.vae, as_images(data[:HELD_OUT])),
                seconds=unet_seconds(module.vae, side),
            )
        )
    path = settings.work / "geometry.json"
    path.write_text(json.dumps(rows, indent=1))
    return path


def unet_seconds(vae: AutoencoderTiny, side: int, *, batch_size: int = 16, repeats: int = 5) -> float:
    """Return the median time of one training pass of the UNet over ``batch_size`` latents of this shape."""
    accelerator = make_accelerator()
    unet = build_unet(vae, sample_size=side).to(accelerator.device, memory_format=torch.channels_last)
    of = dict(device=accelerator.device)
    latents = torch.randn(batch_size, vae.config.latent_channels, side, side, **of)
    condition = dict(
        encoder_hidden_states=torch.randn(batch_size, text.MAX_TOKENS, 2 * text.WIDTH, **of),
        added_cond_kwargs=dict(
            text_embeds=torch.randn(batch_size, text.WIDTH, **of), time_ids=torch.zeros(batch_size, 6, **of)
        ),
    )

    def training_pass():
        with accelerator.autocast():
            loss = unet(latents, 500, **condition).sample.float().square().mean()
        loss.backward()

    return median_seconds(training_pass, repeats=repeats)
