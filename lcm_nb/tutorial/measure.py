"""Measure what a pipeline draws, as the model card does: accuracies by the judge, Frechet distances, forward passes.

Captions come from :func:`cases`, pictures from :func:`generate`, and :func:`judge_pictures` looks at them::

    captions, rows = measure.cases(32)
    scores, features = measure.judge_pictures(measure.load_judge(), measure.generate(pipe, captions, 4, batch=4))
    measure.accuracies(scores, rows)
"""

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from diffusers.utils import make_image_grid
from PIL import Image
from safetensors import safe_open
from torch import nn

from ..models import judge
from ..models.checkpoints import MINI
from ..models.judge import Judge
from ..models.vocabulary import BACKGROUNDS, MEDIUMS, PALETTES, PLAIN
from .captions import labels, scene_at

SEED = 2_000_003  # of pictures: number i starts from SEED + i
CASES_SEED = 5_000_011  # captions that neither training nor a table of the model card sees
BATCH = 16  # pictures at a time; fewer take less memory
GUIDANCE = 8.0  # the LCM's
SHARD = Path("shard", "latents.safetensors")  # in the family's folder, or a working folder


def cases(count: int = 200, seed: int = CASES_SEED) -> tuple[list[str], list[dict]]:
    """Return captions of held-out scenes with one subject each, and their labels for the judge."""
    scenes = [scene_at(seed, i, held_out=True, subjects=1) for i in range(count)]
    return [caption for _, caption in scenes], [labels(scene) for scene, _ in scenes]


def load_judge() -> Judge:
    """Return the judge that ships with the package, ready to use on the CPU."""
    return judge.load()


def load_shard(path: Path = MINI / SHARD) -> tuple[torch.Tensor, list[str]]:
    """Return latents (N, 8, 16, 16) of training pictures in float32, and their captions; ``vae.decode`` takes them."""
    with safe_open(path, framework="pt") as file:
        return file.get_tensor("latents") * file.get_tensor("scale"), json.loads(file.metadata()["captions"])


def generate(
    pipe,
    captions: Sequence[str],
    steps: int,
    guidance_scale: float = GUIDANCE,
    *,
    images: Sequence | None = None,
    batch: int = BATCH,
    **options,
) -> torch.Tensor:
    """Return (N, 3, H, W) pictures in 0..1, each from a seed of its own.

    Parameters
    ----------
    pipe
        A text-to-image pipeline of diffusers; with ``images`` one that takes pictures.
    captions, steps, guidance_scale
        What is drawn, and the pipeline's ``num_inference_steps`` and ``guidance_scale``.
    images
        What each picture starts from.
    batch
        Pictures at a time. It does not choose the noise; the last bits of a picture depend on it.
    options
        Further arguments of the pipeline.
    """
    options |= dict(num_inference_steps=steps, guidance_scale=guidance_scale, output_type="pt")
    captions, parts = list(captions), []
    for start in range(0, len(captions), batch):
        part = slice(start, start + batch)
        generators = [torch.Generator().manual_seed(SEED + start + i) for i in range(len(captions[part]))]
        given = {} if images is None else {"image": images[part]}
        parts.append(pipe(captions[part], generator=generators, **given, **options).images.float().cpu())
    return torch.cat(parts)


def as_pictures(pictures: torch.Tensor) -> list[Image.Image]:
    """Return (N, 3, H, W) pictures in 0..1 as PIL images."""
    return [Image.fromarray(p) for p in (pictures * 255).round().byte().permute(0, 2, 3, 1).numpy()]


def as_batch(pictures: Iterable[np.ndarray]) -> torch.Tensor:
    """Return (H, W, 3) uint8 pictures as (N, 3, H, W) in 0..1."""
    return torch.from_numpy(np.stack(list(pictures))).permute(0, 3, 1, 2).float() / 255


def sheet(pipe, captions: Sequence[str], columns: int, *, steps: int = 4, batch: int = BATCH) -> Image.Image:
    """Return a sheet of captions drawn by an LCM."""
    images = as_pictures(generate(pipe, captions, steps, batch=batch))
    return make_image_grid(images, rows=len(images) // columns, cols=columns)


@contextmanager
def forwards(*networks: nn.Module) -> Iterator[list[int]]:
    """Yield a list that fills, while the block runs, with the batch size of each call of the networks.

    Copies that are made of a network in the block are counted, too. ``sum`` of the list is the number of
    latents that went through.
    """
    sizes: list[int] = []
    hooks = [n.register_forward_pre_hook(lambda network, arguments: sizes.append(len(arguments[0]))) for n in networks]
    try:
        yield sizes
    finally:
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def judge_pictures(judge: Judge, pictures: torch.Tensor) -> tuple[dict[str, torch.Tensor], np.ndarray]:
    """Return the judge's scores, (N, classes) for each head, and features (N, C) of (N, 3, H, W) pictures in 0..1."""
    scores, features = [], []
    for batch in pictures.split(100):
        found = judge.features(batch)
        features.append(found)
        scores.append({name: head(found) for name, head in judge.heads.items()})
    return {name: torch.cat([s[name] for s in scores]) for name in scores[0]}, torch.cat(features).double().numpy()


def right(scores: dict[str, torch.Tensor], rows: list[dict]) -> dict[str, np.ndarray]:
    """Return for each head which rows the judge got right; all subjects of a row must be found."""
    result = {}
    for name in ("background", "palette", "medium"):
        result[name] = np.array([int(s.argmax()) == row[name] for s, row in zip(scores[name], rows, strict=True)])
    found = [
        set(s.topk(len(set(r["subjects"]))).indices.tolist()) for s, r in zip(scores["subject"], rows, strict=True)
    ]
    result["subject"] = np.array([f == set(r["subjects"]) for f, r in zip(found, rows, strict=True)])
    return result


def counted(rows: list[dict]) -> dict[str, np.ndarray]:
    """Return for each head which rows count: what a picture cannot show is not asked of it.

    Palette and medium count where one is named. Which colour a plain background has
    cannot be seen in a pencil sketch, in monochrome or in sepia.
    """
    palettes, mediums = [None, *PALETTES], [None, *MEDIUMS]
    sketch = mediums.index("pencil sketch")
    grey = [row["medium"] == sketch or palettes[row["palette"]] in ("monochrome", "sepia") for row in rows]
    plain = [BACKGROUNDS[row["background"]] in PLAIN for row in rows]
    return {
        "subject": np.ones(len(rows), bool),
        "background": ~(np.array(grey) & np.array(plain)),
        "palette": np.array([row["palette"] != 0 for row in rows]),
        "medium": np.array([row["medium"] != 0 for row in rows]),
    }


def accuracies(scores: dict[str, torch.Tensor], rows: list[dict]) -> dict[str, float]:
    """Return the share of counted rows that the judge got right, for each head; nan where none counts."""
    correct, counts = right(scores, rows), counted(rows)
    return {name: float(correct[name][count].mean()) if count.any() else math.nan for name, count in counts.items()}


def judged(
    pipe, judge: Judge, captions: Sequence[str], rows: list[dict], steps: int, *, batch: int = BATCH
) -> dict[str, float]:
    """Return the judge's :func:`accuracies` on an LCM's pictures of the captions."""
    return accuracies(judge_pictures(judge, generate(pipe, captions, steps, batch=batch))[0], rows)


def frechet_distance(first: np.ndarray, second: np.ndarray) -> float:
    """Return the Frechet distance of two (N, C) feature sets, each taken as a Gaussian.

    Heusel et al., 2017, arXiv:1706.08500. By hand, because libraries bring the Inception network along, or SciPy.
    """
    mean = np.square(first.mean(0) - second.mean(0)).sum()
    one, two = np.cov(first.T), np.cov(second.T)
    root = np.sqrt(np.linalg.eigvals(one @ two).real.clip(min=0)).sum()  # trace of the matrix root
    return float(mean + np.trace(one + two) - 2 * root)
