"""Pictures of latents that cost next to nothing: what a VAE's decoder does, fitted by one linear map."""

from collections.abc import Callable

import torch
from torch.nn.functional import fold, interpolate, unfold

PATCH = 2  # pixels on a side that the map draws of one latent
SAMPLES, SIDE = 8, 8  # random latents that the fit looks at, and their side
GRAINS = {2: 1.0, 4: 1.0, 8: 0.7}  # side of a random field -> its share of these latents
RIDGE = 20.0  # against the grid that a closer fit draws over plain areas

Decode = Callable[[torch.Tensor], torch.Tensor]


def fit_preview(decode: Decode, channels: int) -> Decode:
    """Return a map from latents (1, C, h, w) to pictures (1, 3, 2 h, 2 w), fitted to a decoder by least squares.

    Each latent and its eight neighbours give a patch of 2 x 2 pixels, so that edges stay where they are.

    Parameters
    ----------
    decode
        The decoder: latents (n, C, h, w) of about unit variance to pictures (n, 3, H, W) in [-1, 1].
    channels
        C.
    """
    latents = _random_latents(channels)
    pictures = decode(latents).float().cpu().clamp(-1, 1)
    small = interpolate(pictures, size=(PATCH * SIDE, PATCH * SIDE), mode="area")
    inputs, outputs = _neighbours(latents), unfold(small, PATCH, stride=PATCH).transpose(1, 2)
    inputs, outputs = inputs.flatten(0, 1).double(), outputs.flatten(0, 1).double()
    square = inputs.T @ inputs + RIDGE * torch.eye(inputs.shape[1], dtype=inputs.dtype)
    weights = torch.linalg.solve(square, inputs.T @ outputs).float()

    def preview(latent: torch.Tensor) -> torch.Tensor:
        height, width = latent.shape[-2:]
        patches = (_neighbours(latent.float()) @ weights.to(latent.device)).transpose(1, 2)
        return fold(patches, (PATCH * height, PATCH * width), PATCH, stride=PATCH)

    return preview


def _neighbours(latents: torch.Tensor) -> torch.Tensor:
    """Return of each latent what lies in the 3 x 3 around it, and a one: (n, h w, 9 C + 1)."""
    return torch.nn.functional.pad(unfold(latents, 3, padding=1).transpose(1, 2), (0, 1), value=1.0)


def _random_latents(channels: int) -> torch.Tensor:
    """Return random latents (n, C, h, w) of unit variance, smooth and grainy as those of pictures."""
    generator = torch.Generator().manual_seed(0)
    latents = torch.zeros(SAMPLES, channels, SIDE, SIDE)
    for side, share in GRAINS.items():
        field = torch.randn(SAMPLES, channels, side, side, generator=generator)
        latents += share * interpolate(field, (SIDE, SIDE), mode="bicubic")
    return latents / latents.std((0, 2, 3), keepdim=True)
