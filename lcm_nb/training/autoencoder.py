"""Stage 1: an AutoencoderTiny whose latents have zero mean and unit variance."""

import copy
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import PartialState
from diffusers import AutoencoderTiny

from .data import pictures
from .loop import FLOAT32, Extras, Settings, make_accelerator, train, trainable

CROP = 96
PICTURES = 8_000
HELD_OUT = 64  # the first pictures only measure
GEOMETRIES = {  # downscaling factor -> constructor arguments; stage "geometry" compares them
    8: dict(
        latent_channels=4,
        encoder_block_out_channels=(48,) * 4,
        decoder_block_out_channels=(48,) * 4,
        num_encoder_blocks=(1, 2, 2, 3),
        num_decoder_blocks=(3, 2, 2, 1),
    ),
    16: dict(  # narrow where pictures are large: a decoder of (64,) * 5 took as long as five UNet steps
        latent_channels=8,
        encoder_block_out_channels=(64,) * 5,
        decoder_block_out_channels=(48,) * 5,
        num_encoder_blocks=(0, 0, 1, 3, 4),
        num_decoder_blocks=(5, 4, 3, 0, 0),
    ),
}


def build(factor: int = 16, **overrides) -> AutoencoderTiny:
    """Return an untrained autoencoder that shrinks pictures ``factor`` times."""
    vae = AutoencoderTiny(**GEOMETRIES[factor] | overrides, scaling_factor=1.0)
    for block in (vae.encoder.layers, vae.decoder.layers):
        for layer in block:  # keep the signal's scale through the changes of resolution
            if isinstance(layer, torch.nn.Conv2d):
                torch.nn.init.kaiming_normal_(layer.weight, nonlinearity="linear")
    return vae


def reconstruction_loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Return the mean absolute error of pixels, of edges and of 4x4 averages; inputs (B, 3, H, W) in -1..1."""
    error = (output - target).float()
    edges = (error[..., 1:] - error[..., :-1]).abs().mean() + (error[..., 1:, :] - error[..., :-1, :]).abs().mean()
    return (
        error.abs().mean() + 0.75 * edges + F.avg_pool2d(error, 4).abs().mean() + F.avg_pool2d(error, 16).abs().mean()
    )


class Autoencoding(torch.nn.Module):
    """The loss of a batch of pictures.

    Noise on the latents makes the decoder forgive a diffusion model's small errors;
    the second term holds each latent channel near mean 0 and variance 1.
    """

    def __init__(self, vae: AutoencoderTiny, noise: float):
        super().__init__()
        self.vae, self.noise = vae, noise

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the loss of (B, 3, H, W) images in -1..1."""
        latents = self.vae.encoder(images).float()
        mean, variance = latents.mean((0, 2, 3)), latents.var((0, 2, 3))
        spread = (mean.square() + (variance - 1).square()).mean()
        noisy = latents + self.noise * torch.randn_like(latents)
        return reconstruction_loss(self.vae.decoder(noisy), images) + 0.02 * spread


def load_pictures(work: Path) -> np.ndarray:
    """Return the pictures that autoencoders see, in memory: crops are read at random."""
    return np.array(pictures(work)[:PICTURES])


def fit(name: str, module: Autoencoding, data: np.ndarray, crop: int, settings: Settings, share: float = 1.0) -> None:
    """Train on random crops for a ``share`` of the budget, and keep the averaged weights."""
    accelerator, held_out = make_accelerator(), as_images(data[:HELD_OUT])

    def loss_of(module, generator):
        return module(_crops(data, settings.batch_size, crop, generator).to(accelerator.device))

    def report():
        return {"psnr": psnr(module.vae, held_out)}

    budget = dict(minutes=settings.minutes * share, steps=max(int(settings.steps * share), 1))
    average = train(name, module, loss_of, replace(settings, **budget), accelerator, Extras(report=report))
    average.copy_to(trainable(module))


def run(settings: Settings) -> Path:
    """Train both halves, normalise the latents, train the decoder on; save to ``work/vae``."""
    torch.manual_seed(settings.seed)
    data, folder = load_pictures(settings.work), settings.work / "vae"
    if settings.resume and (settings.work / "decoder" / "state.json").exists():
        module = Autoencoding(AutoencoderTiny.from_pretrained(folder, **FLOAT32), noise=0.05)
    else:
        module = Autoencoding(build(latent_channels=settings.latent_channels), noise=0.1)
        fit("autoencoder", module, data, CROP, settings, share=0.6)
        normalise(module.vae, as_images(data[-512:]))
        save(module.vae, folder)  # from here on the encoder is final: the next stages may start
    module.vae.encoder.requires_grad_(False)
    module.noise = 0.05
    fit("decoder", module, data, CROP + 32, replace(settings, batch_size=settings.batch_size // 2), share=0.4)
    save(module.vae, folder)
    if (settings.work / "base").exists():  # the teacher was there first, with the decoder of that time
        save(module.vae, settings.work / "base" / "vae")
    return folder


@torch.no_grad()
def normalise(vae: AutoencoderTiny, images: torch.Tensor) -> None:
    """Fold latent means and deviations into the last encoder and first decoder convolutions.

    Afterwards each latent channel has mean 0 and deviation 1 on ``images``, so that
    scaling factor 1.0 is right. The decoder's change is exact but for its soft clamp
    and its zero padding at the border, which the training that follows corrects.
    """
    device = next(vae.parameters()).device
    latents = torch.cat([vae.encoder(batch.to(device)) for batch in images.split(32)])
    mean, std = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
    last, first = vae.encoder.layers[-1], vae.decoder.layers[0]
    last.weight.div_(std[:, None, None, None])
    last.bias.sub_(mean).div_(std)
    first.bias.add_((first.weight * mean[None, :, None, None]).sum((1, 2, 3)))
    first.weight.mul_(std[None, :, None, None])


@torch.no_grad()
def psnr(vae: AutoencoderTiny, images: torch.Tensor) -> float:
    """Return the mean peak signal-to-noise ratio in dB over (N, 3, H, W) images in -1..1."""
    device = next(vae.parameters()).device
    values = []
    for batch in images.split(8):
        with torch.autocast(device.type, torch.bfloat16):
            output = vae.decoder(vae.encoder(batch.to(device))).float().clamp(-1, 1).cpu()
        error = ((output - batch) / 2).square().mean((1, 2, 3))
        values.append(-10 * torch.log10(error))
    return float(torch.cat(values).mean())


def as_images(pictures: np.ndarray) -> torch.Tensor:
    """Turn (N, H, W, 3) uint8 into (N, 3, H, W) float in -1..1, channels last."""
    return torch.from_numpy(np.array(pictures)).permute(0, 3, 1, 2).float().div(127.5).sub(1)


def _crops(data: np.ndarray, count: int, crop: int, generator: torch.Generator) -> torch.Tensor:
    size = data.shape[1]
    picks = torch.randint(HELD_OUT, len(data), (count,), generator=generator, device=generator.device).tolist()
    corners = torch.randint(0, size - crop + 1, (count, 2), generator=generator, device=generator.device).tolist()
    return as_images(np.stack([data[i, y : y + crop, x : x + crop] for i, (y, x) in zip(picks, corners, strict=True)]))


def save(vae: AutoencoderTiny, folder: Path) -> None:
    """Save in half precision, without the redundant config entry that makes loading warn; one process does it."""
    if not PartialState().is_main_process:
        return
    copy.deepcopy(vae).cpu().half().save_pretrained(folder)
    drop_derived(folder)


def drop_derived(folder: Path) -> None:
    """Drop from a saved autoencoder's config the entry that follows from others: stored, it makes loading warn."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config.pop("block_out_channels", None)
    path.write_text(json.dumps(config, indent=2) + "\n")
