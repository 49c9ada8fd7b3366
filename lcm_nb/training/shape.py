"""Measure what people see: how like its icon the subject is, and how sharp its edges are beside a real scene's.

The judge names a smeared fox as surely as a crisp one. Here the subject's own icon, which is known, is
registered to a picture (shift, size, tilt, mirroring, and an affine change of colours, which covers hues
and palettes) and painted into it; the structural similarity (Wang et al., 2004) of the two, in and around
the subject, says how well the shape was met. Sharpness is gradient energy against a real scene's with the
same caption. The same on real scenes, as they are and from the autoencoder, gives error and ceiling.
"""

import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
from diffusers import AutoencoderTiny
from tqdm import tqdm

from ..models.judge import Judge
from ..tutorial.captions import Scene, labels, scene_at
from ..tutorial.measure import (
    GUIDANCE,
    SEED,
    as_batch,
    counted,
    frechet_distance,
    generate,
    judge_pictures,
    right,
)
from . import data
from .loop import FLOAT32, Settings, fingerprint, made_by
from .measure_samplers import TEACHER_GUIDANCE, arrange, load_pipelines, real_pictures
from .rows import Rows
from .scenes import Painter

SIDE = 128  # pictures are compared at this size
CASES = 150
ROWS = (("LCM", 1), ("LCM", 2), ("LCM", 4), ("LCM", 8), ("DDIM", 50))
SIZES = np.linspace(0.60, 0.80, 6)  # of the icon, as a share of the picture; scenes have 0.64 to 0.77
TILTS = (-4.0, 0.0, 4.0)
STEPS = ((2.0, 2.0, 0.03, 3.0), (1.0, 1.0, 0.015, 1.5), (0.5, 0.5, 0.008, 0.8))  # of x, y, size, tilt
REACH = 14  # pixels from the middle, at most
RESAMPLES = 200


@dataclass(frozen=True)
class Pose:
    """Where an icon lies: its centre in pixels of ``SIDE``, its size as a share of the picture, tilt in degrees."""

    x: float
    y: float
    size: float
    tilt: float
    mirrored: bool

    @property
    def likely(self) -> bool:
        """Whether the icon is about where, and as large as, scenes have their one subject."""
        shift = max(abs(self.x - SIDE / 2), abs(self.y - SIDE / 2))
        return shift <= REACH and 0.5 <= self.size <= 0.9 and abs(self.tilt) <= 12

    def moved(self, number: int, by: float) -> "Pose":
        """Return the pose with one of its numbers (x, y, size, tilt) changed."""
        name = ("x", "y", "size", "tilt")[number]
        return replace(self, **{name: getattr(self, name) + by})


def placed(icon: np.ndarray, pose: Pose) -> np.ndarray:
    """Return an RGBA icon in its pose on a clear (SIDE, SIDE, 4) canvas, float32 in 0..1."""
    icon = icon[:, ::-1] if pose.mirrored else icon
    extent = icon.shape[0]
    matrix = cv2.getRotationMatrix2D((extent / 2, extent / 2), pose.tilt, pose.size * SIDE / extent)
    matrix[:, 2] += (pose.x - extent / 2, pose.y - extent / 2)
    small = cv2.GaussianBlur(np.ascontiguousarray(icon), (0, 0), 0.4 * extent / (pose.size * SIDE))
    return cv2.warpAffine(small, matrix, (SIDE, SIDE), flags=cv2.INTER_LINEAR).astype(np.float32) / 255


def repainted(picture: np.ndarray, icon: np.ndarray, pose: Pose) -> tuple[np.ndarray, np.ndarray]:
    """Return the picture with the icon painted over its subject, and the weights (SIDE, SIDE) of what counts.

    Around the icon comes a blur of what lies further away; the icon's colours are those of the affine map that
    fits the picture best.
    """
    layer = placed(icon, pose)
    alpha = layer[..., 3:]
    rim, near, far = (cv2.dilate(layer[..., 3], disc)[..., None] for disc in _DISCS)
    outside = 1 - far
    behind = cv2.GaussianBlur(picture * outside, (0, 0), 6) / (cv2.GaussianBlur(outside, (0, 0), 6)[..., None] + 1e-3)
    painted = recoloured(layer, picture)
    around = behind * (1 - 0.38 * rim)  # a scene's subject has a dark rim
    return (around * (1 - alpha) + painted * alpha).astype(np.float32), near[..., 0]


def recoloured(layer: np.ndarray, picture: np.ndarray) -> np.ndarray:
    """Return the layer's colours (SIDE, SIDE, 3) through the affine map that brings them nearest to the picture's."""
    inside = layer[..., 3] > 0.9
    colours = np.c_[layer[..., :3][inside], np.ones(inside.sum(), np.float32)]
    prior = 0.002 * (len(colours) + 1) * np.eye(4)  # an icon of one or two colours does not determine a map
    fit = np.linalg.solve(colours.T @ colours + prior, colours.T @ picture[inside] + prior @ np.eye(4, 3))
    return (layer[..., :3] @ fit[:3] + fit[3]).clip(0, 1)


_DISCS = [cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side)) for side in (3, 9, 13)]  # rim, what counts, far


def similarity(first: np.ndarray, second: np.ndarray, weights: np.ndarray) -> float:
    """Return the mean SSIM of two (H, W, 3) pictures in 0..1, by ``weights`` (H, W) and by how much detail is where.

    Two plain areas are alike whatever they show: only where either picture has detail something can be met.
    """
    one, two = _mean(first), _mean(second)
    spread, other = _mean(first * first) - one * one, _mean(second * second) - two * two
    covariance = _mean(first * second) - one * two
    ssim = (2 * one * two + 1e-4) * (2 * covariance + 9e-4) / ((one * one + two * two + 1e-4) * (spread + other + 9e-4))
    weights = weights * np.sqrt(np.maximum(spread + other, 0).sum(-1)) + 1e-6
    return float((ssim.mean(-1) * weights).sum() / weights.sum())


def _mean(values: np.ndarray) -> np.ndarray:
    return cv2.GaussianBlur(values, (0, 0), 1.5)


def starts(picture: np.ndarray, icon: np.ndarray, count: int = 4) -> list[Pose]:
    """Return the likeliest poses by normalised correlation of outlines, at half the size."""
    lines, middle, found = _halved(outlines(picture)), SIDE // 4, []
    for mirrored, size, tilt in itertools.product((False, True), SIZES, TILTS):
        pose = Pose(SIDE / 2, SIDE / 2, size, tilt, mirrored)
        layer = placed(icon, pose)
        grey = layer[..., :3] * layer[..., 3:] + 0.5 * (1 - layer[..., 3:])
        half = int(size * SIDE * 0.27)  # sizes of the cut, of which REACH / 2 on each side are left to move in
        half = min(half, middle - REACH // 2)
        cut = _halved(outlines(grey) + outlines(layer[..., 3:]))
        cut = cut[middle - half : middle + half, middle - half : middle + half]
        edge = middle - half - REACH // 2
        scores = cv2.matchTemplate(lines[edge : 2 * middle - edge, edge : 2 * middle - edge], cut, cv2.TM_CCOEFF_NORMED)
        _, best, _, (x, y) = cv2.minMaxLoc(scores)
        found.append((best, replace(pose, x=SIDE / 2 + 2.0 * x - REACH, y=SIDE / 2 + 2.0 * y - REACH)))
    return [pose for _, pose in sorted(found, key=lambda item: -item[0])[:count]]


def _halved(plane: np.ndarray) -> np.ndarray:
    return cv2.resize(plane, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)


def outlines(picture: np.ndarray) -> np.ndarray:
    """Return the strength of edges (H, W), the channels' largest, of a picture in 0..1."""
    across, down = (cv2.Sobel(picture, cv2.CV_32F, *way) for way in ((1, 0), (0, 1)))
    return cv2.GaussianBlur(np.hypot(across, down).reshape(*picture.shape[:2], -1).max(-1), (0, 0), 1.5)


def shape_of(picture: np.ndarray, icon: np.ndarray) -> float:
    """Return how much a picture's subject looks like the icon: SSIM, at most 1, after the best registration.

    Parameters
    ----------
    picture
        (H, W, 3) uint8 RGB with one subject.
    icon
        (S, S, 4) uint8 RGBA.
    """
    small = cv2.resize(picture, (SIDE, SIDE), interpolation=cv2.INTER_AREA).astype(np.float32) / 255

    def score(pose: Pose) -> float:
        return similarity(small, *repainted(small, icon, pose))

    return max(_climb(score, pose) for pose in starts(small, icon))


def _climb(score: Callable[[Pose], float], pose: Pose) -> float:
    """Return the highest score near a pose: one number at a time moves by ever smaller steps."""
    best = score(pose)
    for steps in STEPS:
        for number, step in enumerate(steps):
            for by in (step, -step):
                while (there := pose.moved(number, by)).likely and (higher := score(there)) > best:
                    best, pose = higher, there
    return best


def sharpness(pictures: Sequence[np.ndarray], real: Sequence[np.ndarray]) -> np.ndarray:
    """Return each picture's gradient energy as a share of the real scene's, (N,)."""
    return np.array([gradient_energy(p) / gradient_energy(r) for p, r in zip(pictures, real, strict=True)])


def gradient_energy(picture: np.ndarray) -> float:
    """Return the mean squared difference of neighbouring pixels of an (H, W, 3) uint8 picture."""
    values = picture.astype(np.float32)
    return float(np.square(np.diff(values, axis=0)).mean() + np.square(np.diff(values, axis=1)).mean()) + 1e-3


def error_bar(values: np.ndarray, statistic: Callable[[np.ndarray], float] = np.mean, *, seed: int = 0) -> float:
    """Return 1.96 bootstrap standard errors of a statistic of the rows of ``values`` (N, ...)."""
    rng = np.random.default_rng(seed)
    drawn = [statistic(values[rng.integers(len(values), size=len(values))]) for _ in range(RESAMPLES)]
    return 1.96 * float(np.std(drawn))


@dataclass
class Cases:
    """Held-out scenes with one subject: what each should show, and how it would be painted."""

    scenes: list[Scene]
    captions: list[str]
    painter: Painter

    @property
    def rows(self) -> list[dict]:
        return [labels(scene) for scene in self.scenes]

    @property
    def real(self) -> list[np.ndarray]:
        return [self.painter.draw(scene) for scene in self.scenes]

    def icon(self, number: int, of: int = 0) -> np.ndarray:
        """Return the icon that picture ``number`` should show, or another scene's, ``of`` places further."""
        scene = self.scenes[(number + of) % len(self.scenes)]
        return self.painter.coloured(scene.subjects[0], scene.colours[0])

    def shapes(self, pictures: Sequence[np.ndarray], of: int = 0) -> np.ndarray:
        """Return ``shape_of`` for every picture whose medium leaves outlines alone."""
        drawn = [i for i, scene in enumerate(self.scenes) if scene.medium is None]
        return np.array([shape_of(pictures[i], self.icon(i, of)) for i in tqdm(drawn, "shape", leave=False)])


def held_out(work: Path, count: int) -> Cases:
    """Return the cases that ``measure_samplers.held_out_cases`` has, with their scenes."""
    trained = set(data.captions(work))
    stream = (scene_at(SEED + 1, i, held_out=True, subjects=1) for i in itertools.count())
    scenes = list(itertools.islice(((scene, text) for scene, text in stream if text not in trained), count))
    return Cases([scene for scene, _ in scenes], [text for _, text in scenes], Painter(data.icons(work)))


def seen(cases: Cases, pictures: Sequence[np.ndarray], judge: Judge, real: np.ndarray | None = None) -> dict:
    """Return shape, sharpness and what the judge sees, each with its error bar, of pictures of the cases.

    ``real`` are the judge's features of real pictures (N, C), for the Frechet distance.
    """
    shapes, sharp = cases.shapes(pictures), sharpness(pictures, cases.real)
    scores, features = judge_pictures(judge, as_batch(pictures))
    correct, counts = right(scores, cases.rows), counted(cases.rows)
    found = {
        "shape": _with_error(shapes, np.median),
        "worst_tenth": _with_error(shapes, lambda values: np.quantile(values, 0.1)),
        "sharpness": _with_error(sharp, np.median),
        **{name: _with_error(correct[name][counts[name]]) for name in counts},
    }
    if real is not None:
        found["frechet"] = _with_error(features, lambda rows: frechet_distance(rows, real))
    return found


def _with_error(values: np.ndarray, statistic: Callable = np.mean) -> list[float]:
    return [float(statistic(values)), error_bar(values, statistic)]


def as_pictures(images: torch.Tensor) -> list[np.ndarray]:
    """Return images (N, 3, H, W) in 0..1 as (H, W, 3) uint8."""
    return list((images.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy())


@torch.no_grad()
def through(vae: AutoencoderTiny, pictures: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Return what the autoencoder makes of pictures."""
    batches = (as_batch(pictures[i : i + 8]) * 2 - 1 for i in range(0, len(pictures), 8))
    return as_pictures(torch.cat([vae.decoder(vae.encoder(batch)) for batch in batches]) / 2 + 0.5)


def measure(
    work: Path, pipes: dict, *, count: int = CASES, rows: Sequence[tuple[str, int]] = ROWS, resume: bool = False
) -> dict:
    """Return the measure's own error and ceiling on real scenes, and a row for each sampler and number of steps.

    Rows go to ``work/evaluate/seen.jsonl`` as they are measured; ``resume`` keeps those of the same weights.
    """
    judge = Judge.from_pretrained(made_by("judge", work / "judge"), **FLOAT32).eval()
    vae = AutoencoderTiny.from_pretrained(made_by("autoencoder", work / "vae"), **FLOAT32)
    cases, kept = held_out(work, count), Rows(work / "evaluate" / "seen.jsonl", resume=resume)
    real = judge_pictures(judge, real_pictures(judge, work, count)[0])[1]
    found = {"cases": count}

    def row(name: str, weights: str, draw: Callable, look: Callable) -> None:
        case = {"pictures": name, "cases": count, "weights": weights}
        measured = kept.row(case, lambda: {"seen": look(draw())})
        found[name] = measured["seen"]
        print(name, measured["seen"], flush=True)

    def sampled(name: str, steps: int, guidance: float) -> list[np.ndarray]:
        arrange(pipes[name], torch.channels_last)
        return as_pictures(generate(pipes[name], cases.captions, steps, guidance))

    look = partial(seen, cases, judge=judge, real=real)
    row("another icon", "", lambda: cases.real, lambda drawn: _with_error(cases.shapes(drawn, of=7), np.median))
    row("real scenes", fingerprint(judge), lambda: cases.real, look)
    row("real scenes, autoencoder", fingerprint(vae, judge), lambda: through(vae, cases.real), look)
    for name, steps in tqdm(rows, "shape of samples"):
        guidance = GUIDANCE if name == "LCM" else TEACHER_GUIDANCE
        weights = fingerprint(pipes[name].unet, pipes[name].vae, judge)
        plural = "s" if steps > 1 else ""
        row(f"{name}, {steps} step{plural}", weights, partial(sampled, name, steps, guidance), look)
    return found | {"response": response(pipes["LCM"], cases.captions[:64])}


def response(pipe, captions: list[str], steps: int = 4) -> float:
    """Return how far guidance 14 moves an LCM's pictures from guidance 1: mean absolute difference, of 255."""
    low, high = (generate(pipe, captions, steps, guidance) for guidance in (1.0, 14.0))
    return 255 * float((high - low).abs().mean())


def run(settings: Settings) -> Path:
    """Measure what there is in the working folder; write ``work/shape.json`` and print the table."""
    rows = ROWS[:1] if settings.smoke else ROWS
    pipes = load_pipelines(settings.work)
    found = measure(settings.work, pipes, count=settings.steps, rows=rows, resume=settings.resume)
    path = settings.work / "shape.json"
    path.write_text(json.dumps(found, indent=1) + "\n")
    print(table(found), f"another icon: {found['another icon']}; response: {found['response']:.2f}", sep="\n")
    return path


def table(found: dict) -> str:
    """Return the measured rows as a Markdown table; every figure has its error bar."""
    rows = {name: row for name, row in found.items() if isinstance(row, dict)}
    heads = list(next(iter(rows.values())))
    lines = ["| pictures | " + " | ".join(heads) + " |", "| --- " * (len(heads) + 1) + "|"]
    for name, row in rows.items():
        cells = [
            f"{value:.3f} ± {error:.3f}" if value < 2 else f"{value:.1f} ± {error:.1f}" for value, error in row.values()
        ]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def seen_part(found: dict) -> str:
    """Return the model card's part on what people see."""
    value, error = found["another icon"]
    return f"""
## What people see

The judge names a smeared picture, too. "Shape" is the structural similarity of the subject with its own icon, after
the best shift, size, tilt, mirroring and affine change of colours, where either has detail; median, and the worst
tenth, over captions that name no medium. "Sharpness" is the gradient energy against the real scene of the same
caption, median. On {found["cases"]} held-out captions, the accuracies as above, all with 1.96 bootstrap standard
errors. Real scenes give the measure's own error, and from the autoencoder its ceiling; with another scene's icon the
shape of real scenes is {value:.2f} ± {error:.2f}. Frechet distances of so few pictures are larger than those above.
Guidance 14 moves the pictures of 4 LCM steps from those of guidance 1 by {found["response"]:.1f} of 255.

{table({name: row for name, row in found.items() if isinstance(row, dict)})}
"""
