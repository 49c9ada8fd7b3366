"""A small classifier that says what a mini picture shows.

It measures the mini family (``python -m lcm_nb.training evaluate``) and checks
notebook exercises. It is trained by this project on scenes that the generator never saw.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from PIL import Image
from torch import nn

FOLDER = Path(__file__).parents[1] / "mini" / "judge"


class Judge(ModelMixin, ConfigMixin):
    """Name the subjects, background, palette and medium of a picture.

    Parameters
    ----------
    subjects, backgrounds, palettes, mediums
        Class names in the order of the outputs; the first palette and medium are "none".
    pixels
        Side to which pictures are resized.
    widths
        Channels of the convolution stages.
    """

    @register_to_config
    def __init__(
        self,
        subjects: list[str],
        backgrounds: list[str],
        palettes: list[str],
        mediums: list[str],
        pixels: int = 128,
        widths: tuple[int, ...] = (24, 48, 96, 128, 128),
    ):
        super().__init__()
        layers, channels = [], 3
        for width in widths:
            layers += [_convolution(channels, width, stride=2), _convolution(width, width, stride=1)]
            channels = width
        self.trunk = nn.Sequential(*layers)
        self.heads = nn.ModuleDict(
            {
                "subject": nn.Linear(channels, len(subjects)),
                "background": nn.Linear(channels, len(backgrounds)),
                "palette": nn.Linear(channels, len(palettes)),
                "medium": nn.Linear(channels, len(mediums)),
            }
        )

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """Return (N, C) features of (N, 3, H, W) images in 0..1; Frechet distances are taken here."""
        side = self.config.pixels
        if images.shape[-1] != side:
            images = F.interpolate(images, (side, side), mode="area")
        return self.trunk(images * 2 - 1).mean((2, 3))

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return one (N, classes) score tensor for each head."""
        features = self.features(images)
        return {name: head(features) for name, head in self.heads.items()}

    @torch.no_grad()
    def describe(self, image: Image.Image, count: int = 1) -> dict[str, Any]:
        """Return in words what a PIL image shows; ``count`` subjects are named."""
        scores = self._scores(image)
        top = scores["subject"].topk(count).indices.tolist()
        return {
            "subjects": [self.config.subjects[i] for i in top],
            "background": self.config.backgrounds[scores["background"].argmax()],
            "palette": self.config.palettes[scores["palette"].argmax()],
            "medium": self.config.mediums[scores["medium"].argmax()],
        }

    @torch.no_grad()
    def sentence(self, image: Image.Image) -> str:
        """Return in a line what a PIL image shows, and how certain that is; palette and medium where there are any."""
        words = []
        for name, scores in self._scores(image).items():
            share, best = scores.softmax(0).max(0)
            word = self.config[f"{name}s"][int(best)]
            if word != "none":
                words.append(f"{word} ({float(share):.0%})")
        return f"The judge sees: {', '.join(words)}"

    def _scores(self, image: Image.Image) -> dict[str, torch.Tensor]:
        """Return (classes,) scores of a PIL image for each head."""
        pixels = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)[None] / 255
        return {name: scores[0] for name, scores in self(pixels.to(self.dtype)).items()}


def _convolution(before: int, after: int, *, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU(inplace=True)
    )


def load() -> Judge:
    """Return the judge that ships with the package, ready to use on the CPU."""
    return Judge.from_pretrained(FOLDER).eval()
