"""Train a sharper decoder for an encoder that stays as it is, so that all trained on its latents stays good.

What a UNet draws is not what an encoder writes: it is smoother. So the decoder learns from both: from the
encoder's latents, with a little noise, and from what the teacher, without guidance, makes of these latents
from a middling noise level. To the pixel losses come edge energy, the judge's first features (a perceptual
loss, Johnson et al., 2016, arXiv:1603.08155) and, for trials, a patch discriminator that compares each
reconstruction with its own picture (relativistic pairs, Jolicoeur-Martineau, 2018, arXiv:1807.00734).
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderTiny
from torch import nn
from torch.func import functional_call
from tqdm import tqdm

from ..models.judge import Judge
from . import text
from .autoencoder import HELD_OUT, as_images, load_pictures, psnr, reconstruction_loss, save
from .data import captions
from .loop import FLOAT32, Extras, Settings, fingerprint, made_by, make_accelerator, train, trainable
from .teacher import Teacher, encode_pictures, load_base

NOISE = 0.05
LEVELS = (100, 320)  # timesteps from which the teacher redraws: about where an LCM's last step starts
# Weights beside the pixel losses. The critic wanted brush strokes everywhere, since every tenth scene is a painting:
# edge energy makes edges as crisp, and leaves plain areas plain.
WEIGHTS = dict(energy=2.0, perceptual=0.1, adversarial=0.0)
WINDOW = 8  # pixels within which edge energy may move


def deepen(vae: AutoencoderTiny, images: torch.Tensor) -> AutoencoderTiny:
    """Return the autoencoder with one more block before its last doubling, which at first changes borders alone.

    The new block adds nothing to its input, but its ReLU would cut what is negative there; so it lifts all
    channels by what ``images`` (N, 3, H, W) need at most, and the last convolution's bias takes that back.
    """
    blocks = vae.config.num_decoder_blocks
    new = AutoencoderTiny.from_config(vae.config, num_decoder_blocks=(*blocks[:-2], blocks[-2] + 1, blocks[-1]))
    new.encoder.load_state_dict(vae.encoder.state_dict())
    cut = len(vae.decoder.layers) - 3  # doubling and two convolutions come after it
    state = new.decoder.state_dict()
    for name, tensor in vae.decoder.state_dict().items():
        _, number, rest = name.split(".", 2)
        state[f"layers.{int(number) + (int(number) >= cut)}.{rest}"] = tensor
    new.decoder.load_state_dict(state)
    _lift(new, vae.decoder.layers[:cut](torch.tanh(vae.encoder(images) / 3) * 3))
    return new


@torch.no_grad()
def _lift(vae: AutoencoderTiny, values: torch.Tensor) -> None:
    """Let the new block pass ``values`` (N, C, H, W) through its ReLU."""
    block, _, middle, last = vae.decoder.layers[-4:]
    lift = -values.amin((0, 2, 3)).clamp(max=0)
    block.conv[-1].weight.zero_()
    block.conv[-1].bias.copy_(lift)
    last.bias.sub_(last.weight.sum((2, 3)) @ (middle.weight.sum((2, 3)) @ lift))


def build_critic(width: int = 32) -> nn.Sequential:
    """Return a patch discriminator: each of its outputs sees 22 x 22 pixels."""
    slope = nn.LeakyReLU(0.2)
    return nn.Sequential(
        nn.Conv2d(3, width, 4, 2, 1), slope,
        nn.Conv2d(width, 2 * width, 4, 2, 1), slope,
        nn.Conv2d(2 * width, 2 * width, 3, 1, 1), slope,
        nn.Conv2d(2 * width, 1, 1),
    )  # fmt: skip


class Sharpening(nn.Module):
    """A decoder, the critic of its pictures and the judge's eye; calling it gives the loss of both."""

    def __init__(self, vae: AutoencoderTiny, judge: Judge, weights: dict[str, float]):
        super().__init__()
        self.decoder, self.critic, self.weights = vae.decoder, build_critic(), weights
        self.eye = judge.trunk[:4].requires_grad_(False).eval()

    def train(self, mode: bool = True) -> "Sharpening":
        super().train(mode)
        self.eye.eval()  # its batch norms do not learn
        return self

    def forward(self, latents: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        output = self.decoder(latents)
        loss = reconstruction_loss(output, images)
        if self.weights["energy"]:
            loss = loss + self.weights["energy"] * edge_energy(output, images)
        if self.weights["perceptual"]:
            loss = loss + self.weights["perceptual"] * self.perceptual(output, images)
        if self.weights["adversarial"]:
            loss = loss + self.weights["adversarial"] * self.adversarial(output, images)
        return loss

    def perceptual(self, output: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        """Mean difference of the judge's first features, relative to how large these are."""
        loss = 0.0
        for number in range(len(self.eye)):
            output, images = self.eye[number](output), self.eye[number](images)
            loss = loss + (output - images).float().abs().mean() / images.float().abs().mean()
        return loss / len(self.eye)

    def adversarial(self, output: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        """Sum of the critic's loss, which moves the critic alone, and of the decoder's, which moves it alone."""
        fixed = {name: value.detach() for name, value in self.critic.named_parameters()}
        real = self.critic(images).float()
        learn = F.softplus(self.critic(output.detach()).float() - real).mean()
        fool = F.softplus(real.detach() - functional_call(self.critic, fixed, (output,)).float()).mean()
        return learn + fool


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
def redrawn(settings: Settings, latents: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return what the teacher, without guidance, makes of latents (N, C, h, w) with noise; kept for ``--resume``."""
    pipe = load_base(settings)
    teacher = Teacher(pipe).to(device, memory_format=torch.channels_last)
    ids = text.tokenize(pipe.tokenizer, captions(settings.work)[: len(latents)])
    generator, parts = torch.Generator(device).manual_seed(settings.seed), []
    for start in tqdm(range(0, len(latents), 32), desc="redraw"):
        z0 = latents[start : start + 32].to(device).float()
        t = torch.randint(*LEVELS, (len(z0),), generator=generator, device=device)
        z = teacher.schedule.add_noise(z0, torch.randn(z0.shape, generator=generator, device=device), t)
        condition = teacher.condition(ids[start : start + 32].to(device), torch.ones(len(z0), device=device))
        with torch.autocast(device.type, torch.bfloat16):
            velocity = teacher.unet(z, t, **condition).sample
        parts.append(teacher.schedule.clean_and_noise(z, t, velocity)[0].half().cpu())
    return torch.cat(parts)


class Pairs:
    """Random pairs of latents and pictures; every second latent is one that the teacher redrew."""

    def __init__(self, settings: Settings, device: torch.device):
        self.pictures, self.device = load_pictures(settings.work), device
        latents = encode_pictures(settings.work, device, count=len(self.pictures))
        path = settings.work / "sharpen" / "redrawn.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        if not (settings.resume and path.exists()):
            np.save(path, redrawn(settings, latents, device).numpy())
        self.latents = torch.stack([latents, torch.from_numpy(np.load(path))])

    def __call__(self, count: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        draw = dict(generator=generator, device=self.device)
        picks = torch.randint(HELD_OUT, len(self.pictures), (count,), **draw).cpu()
        kinds = torch.randint(2, (count,), **draw).cpu()
        latents = self.latents[kinds, picks].to(self.device).float()
        latents = latents + NOISE * torch.randn(latents.shape, **draw)
        return dict(latents=latents, images=as_images(self.pictures[picks.numpy()]).to(self.device))


def run(settings: Settings) -> Path:
    """Train the decoder in ``work/vae`` on; put it wherever that autoencoder went."""
    torch.manual_seed(settings.seed)
    folder, accelerator = made_by("autoencoder", settings.work / "vae"), make_accelerator()
    judge = Judge.from_pretrained(made_by("judge", settings.work / "judge"), **FLOAT32)
    vae = AutoencoderTiny.from_pretrained(folder, **FLOAT32)
    pairs = Pairs(settings, accelerator.device)
    if vae.config.num_decoder_blocks[-2] == 0:
        vae = deepen(vae, as_images(pairs.pictures[:HELD_OUT]))
    module = Sharpening(vae, judge, WEIGHTS)
    held_out = as_images(pairs.pictures[:HELD_OUT])

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
