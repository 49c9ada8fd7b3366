"""Train a sharper decoder for an encoder that stays as it is, so that all trained on its latents stays good.

What an LCM draws is not what an encoder writes: it is smoother, and guidance moves it. So the decoder learns from
both: from the encoder's latents, with a little noise, and from what the LCMs make of these latents in one step
from a middling noise level, at all guidance scales. To the pixel losses comes structural similarity.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderTiny, UNet2DConditionModel
from torch import nn
from tqdm import tqdm

from . import text
from .autoencoder import HELD_OUT, as_images, load_pictures, psnr, reconstruction_loss, save
from .data import captions
from .distill import consistency, sample_w
from .loop import FLOAT32, Extras, Settings, fingerprint, made_by, make_accelerator, train, trainable
from .teacher import FAMILIES, Teacher, encode_pictures, load_base

NOISE = 0.05
LEVELS = (
    100,
    500,
)  # timesteps from which the LCMs redraw: their last step starts at 499 of 2, at 259 of 4, at 139 of 8
# Beside the pixel losses. A critic wanted brush strokes everywhere, since every tenth scene is a painting; edge energy
# alone made edges crisp, and shapes and palettes worse.
WEIGHTS = dict(dissimilarity=0.5, energy=0.3)
WINDOW = 8  # pixels within which edge energy may move


class Sharpening(nn.Module):
    """The loss of a decoder; the weights are those of ``WEIGHTS``."""

    def __init__(self, vae: AutoencoderTiny, weights: dict[str, float]):
        super().__init__()
        self.decoder, self.weights = vae.decoder, weights

    def forward(self, latents: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        """Return the loss of latents (B, C, h, w) that stand for images (B, 3, H, W) in -1..1."""
        output = self.decoder(latents).float()
        loss = reconstruction_loss(output, images)
        if self.weights["dissimilarity"]:
            loss = loss + self.weights["dissimilarity"] * dissimilarity(output, images)
        if self.weights["energy"]:
            loss = loss + self.weights["energy"] * edge_energy(output, images)
        return loss


def dissimilarity(output: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """1 - SSIM (Wang et al., 2004), at the full size and at the half, of images (B, 3, H, W) in -1..1."""
    loss = 0.0
    for _ in range(2):
        loss = loss + 0.5 * (1 - _ssim((output + 1) / 2, (images + 1) / 2))
        output, images = F.avg_pool2d(output, 2), F.avg_pool2d(images, 2)
    return loss


def _ssim(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    one, two, squares, others, products = F.avg_pool2d(
        torch.cat([first, second, first * first, second * second, first * second], 1), 7, 1
    ).chunk(5, 1)
    spread = squares - one * one + others - two * two
    covariance = products - one * two
    ssim = (2 * one * two + 1e-4) * (2 * covariance + 9e-4) / ((one * one + two * two + 1e-4) * (spread + 9e-4))
    return ssim.mean()


def edge_energy(output: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """Mean difference of the root of mean squared gradients, window by window.

    An edge that is blurred to w pixels has 1/w of its energy; where in the window it lies is left to the pixel losses.
    """

    def energy(values: torch.Tensor) -> torch.Tensor:
        values = values.float()
        across, down = values[..., 1:, 1:] - values[..., 1:, :-1], values[..., 1:, 1:] - values[..., :-1, 1:]
        return (F.avg_pool2d(across.square() + down.square(), WINDOW, WINDOW // 2) + 1e-5).sqrt()

    return (energy(output) - energy(images)).abs().mean()


@torch.no_grad()
def redrawn(settings: Settings, family: str, latents: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return what a family's LCM makes in one step of latents (N, C, h, w) with noise, at any guidance."""
    pipe = load_base(replace(settings, family=family))
    names, teacher = FAMILIES[family], Teacher(pipe).to(device, memory_format=torch.channels_last)
    folder = made_by(f"distill --family {family}", settings.work / names.lcm)
    lcm = UNet2DConditionModel.from_pretrained(folder, subfolder=names.lcm_unet, **FLOAT32)
    lcm.to(device, memory_format=torch.channels_last)
    ids = text.tokenize(pipe.tokenizer, captions(settings.work)[: len(latents)])
    generator, parts = torch.Generator(device).manual_seed(settings.seed), []
    for start in tqdm(range(0, len(latents), 32), desc=f"redraw {family}"):
        z0 = latents[start : start + 32].to(device).float()
        t = torch.randint(*LEVELS, (len(z0),), generator=generator, device=device)
        z = teacher.schedule.add_noise(z0, torch.randn(z0.shape, generator=generator, device=device), t)
        condition = teacher.condition(ids[start : start + 32].to(device), torch.ones(len(z0), device=device))
        with torch.autocast(device.type, torch.bfloat16):
            clean = consistency(lcm, teacher.schedule, z, t, condition, sample_w(len(z0), generator))
        parts.append(clean.half().cpu())
    return torch.cat(parts)


class Pairs:
    """Random pairs of latents and pictures: from the encoder, or redrawn by either LCM, equally often."""

    def __init__(self, settings: Settings, device: torch.device):
        self.pictures, self.device = load_pictures(settings.work), device
        latents = encode_pictures(settings.work, device, count=len(self.pictures))
        self.latents = torch.stack([latents, *(_kept(settings, family, latents, device) for family in FAMILIES)])

    def __call__(self, count: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """Return latents (count, C, h, w) with a little noise, and their pictures (count, 3, H, W) in -1..1."""
        draw = dict(generator=generator, device=self.device)
        picks = torch.randint(HELD_OUT, len(self.pictures), (count,), **draw).cpu()
        kinds = torch.randint(len(self.latents), (count,), **draw).cpu()
        latents = self.latents[kinds, picks].to(self.device).float()
        latents = latents + NOISE * torch.randn(latents.shape, **draw)
        return dict(latents=latents, images=as_images(self.pictures[picks.numpy()]).to(self.device))


def _kept(settings: Settings, family: str, latents: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return redrawn latents, those of an earlier sitting where it is resumed."""
    path = settings.work / "sharpen" / f"redrawn-{family}.npy"
    path.parent.mkdir(parents=True, exist_ok=True)
    if not (settings.resume and path.exists()):
        np.save(path, redrawn(settings, family, latents, device).numpy())
    return torch.from_numpy(np.load(path))


def run(settings: Settings) -> Path:
    """Train the decoder in ``work/vae`` on; put it wherever that autoencoder went."""
    torch.manual_seed(settings.seed)
    folder, accelerator = made_by("autoencoder", settings.work / "vae"), make_accelerator()
    vae, pairs = AutoencoderTiny.from_pretrained(folder, **FLOAT32), Pairs(settings, accelerator.device)
    module, held_out = Sharpening(vae, WEIGHTS), as_images(pairs.pictures[:HELD_OUT])

    def loss_of(module, generator):
        return module(**pairs(settings.batch_size, generator))

    def report():
        return {"psnr": psnr(vae, held_out)}

    extras = Extras(report=report, made_from=fingerprint(vae.encoder))
    train("sharpen", module, loss_of, settings, accelerator, extras).copy_to(trainable(module))
    for name in ("vae", "base/vae", "sd/vae", "sd-lcm/vae"):
        if name == "vae" or (settings.work / name).exists():
            save(vae, settings.work / name)
    return folder
