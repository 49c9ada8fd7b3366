"""Train the judge on fresh scenes, with seeds that the generator never uses."""

import json
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from tqdm import tqdm

from ..models.judge import Judge
from ..models.vocabulary import BACKGROUNDS, MEDIUMS, PALETTES, SUBJECTS
from ..tutorial.captions import labels, scene_at, styled_scene_at
from ..tutorial.measure import accuracies, as_batch, judge_pictures
from . import data
from .loop import Settings, make_accelerator, train
from .scenes import Painter
from .styles import STYLES

SCENES = 24_000
CHECKS = 2_000
STYLED = 6  # for each style, one scene more for so many ordinary ones
CLASSES = ["none", *MEDIUMS, *STYLES]  # of the head "medium"


class Judging(nn.Module):
    """The judge's loss on a batch of uint8 pictures and their labels."""

    def __init__(self, judge: Judge):
        super().__init__()
        self.judge = judge

    def forward(self, images: torch.Tensor, targets: dict[str, torch.Tensor]) -> torch.Tensor:
        """Return the sum of the heads' cross entropies for (B, 3, H, W) images in 0..1."""
        scores = self.judge(images)
        return sum(F.cross_entropy(scores[name].float(), targets[name]) for name in scores)


def build() -> Judge:
    """Return an untrained judge."""
    return Judge(list(SUBJECTS), list(BACKGROUNDS), ["none", *PALETTES], CLASSES)


def targets_of(rows: list[dict]) -> dict[str, torch.Tensor]:
    """Return class indices; subjects as a distribution over one or two of them."""
    subjects = torch.zeros(len(rows), len(SUBJECTS))
    for row, found in zip(subjects, (row["subjects"] for row in rows), strict=True):
        row[found] = 1 / len(set(found))
    others = {name: torch.tensor([row[name] for row in rows]) for name in ("background", "palette", "medium")}
    return {"subject": subjects, **others}


def augment(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Shift and blur a batch: generated pictures are softer and less tidy than drawn ones."""
    shift = torch.randint(-6, 7, (2,), generator=generator, device=generator.device).tolist()
    images = torch.roll(F.pad(images, (6, 6, 6, 6), mode="replicate"), shift, (2, 3))[..., 6:-6, 6:-6]
    choice = float(torch.rand(1, generator=generator, device=generator.device))
    if choice < 0.4:
        small = F.interpolate(images, scale_factor=0.5 if choice < 0.2 else 0.7, mode="area")
        images = F.interpolate(small, images.shape[-2:], mode="bilinear")
    noise = torch.randn(images.shape, generator=generator, device=generator.device)
    return (images + 0.02 * noise).clamp(0, 1)


def run(settings: Settings) -> Path:
    """Train and check the judge; save it to ``work/judge``."""
    work = settings.work
    count, checks = (64, 20) if settings.smoke else (SCENES, CHECKS)
    torch.manual_seed(settings.seed)
    accelerator = make_accelerator()
    with accelerator.main_process_first():
        images, rows = _scenes(work, count, settings.seed + data.JUDGE_SEED)
    targets = targets_of(rows)
    module = Judging(build())

    def loss_of(module, generator):
        picks = torch.randint(len(rows), (settings.batch_size,), generator=generator, device=generator.device).cpu()
        batch = images[picks].to(accelerator.device).permute(0, 3, 1, 2).float() / 255
        return module(augment(batch, generator), {k: v[picks].to(accelerator.device) for k, v in targets.items()})

    train("judge-training", module, loss_of, settings, accelerator)
    judge = module.judge.cpu().eval()
    if accelerator.is_main_process:
        figures = check(judge, work, checks, settings.seed)
        judge.half().save_pretrained(work / "judge")
        (work / "judge-training" / "figures.json").write_text(json.dumps(figures, indent=2))
        print(json.dumps(figures))
    return work / "judge"


@torch.no_grad()
def check(judge: Judge, work: Path, count: int, seed: int) -> dict[str, float]:
    """Return the judge's accuracy on held-out real scenes, one subject each; "style" is on scenes in a style."""
    painter, side, stream = Painter(data.icons(work)), judge.config.pixels, seed + data.JUDGE_SEED + 1

    scenes = [scene_at(stream, i, held_out=True, subjects=1)[0] for i in range(count)]
    scores, _ = judge_pictures(judge, as_batch(painter.draw(scene, side) for scene in scenes))
    figures = accuracies(scores, [labels(scene) for scene in scenes])
    shares = []
    for style, paint in STYLES.items():
        styled = (styled_scene_at(stream, i, style, held_out=True, subjects=1)[0] for i in range(count // 10))
        scores, _ = judge_pictures(judge, as_batch(shrink(paint(painter, scene), side) for scene in styled))
        shares.append(float((scores["medium"].argmax(1) == CLASSES.index(style)).float().mean()))
    return figures | {"style": float(np.mean(shares))}


def shrink(picture: np.ndarray, side: int) -> np.ndarray:
    """Return an (H, W, 3) picture as (side, side, 3)."""
    return cv2.resize(picture, (side, side), interpolation=cv2.INTER_AREA)


def _scenes(work: Path, count: int, seed: int) -> tuple[torch.Tensor, list[dict]]:
    """Return ordinary scenes, and behind them scenes in each style."""
    side, images, rows = build().config.pixels, [], []
    for style in (None, *STYLES):
        name, size = f"judge-{style or 'data'}", count // STYLED if style else count
        folder = data.run(Settings(work, steps=size), name=name, seed=seed, style=style)
        images += [shrink(picture, side) for picture in tqdm(data.pictures(work, name), "resize")]
        found = json.loads((folder / "labels.json").read_text())
        rows += [row | {"medium": CLASSES.index(style)} for row in found] if style else found
    return torch.from_numpy(np.stack(images)), rows
