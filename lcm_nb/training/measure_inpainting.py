"""Measure inpainting with the family that ships: what stays, what is drawn anew, and whether there is a seam.

``python -m lcm_nb.training.measure_inpainting --cases 200`` prints the table of docs/inpainting.md. The pictures are
the mini LCM's own, of held-out captions; each gets another subject in the same place.
"""

import argparse
import sys
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from PIL import Image, ImageDraw
from tqdm import tqdm

from ..models.judge import load as load_judge
from ..studio import Studio, load
from ..tutorial.captions import caption, scene_at
from ..tutorial.vocabulary import SUBJECTS

SEED = 6_000_011  # no other table sees this stream of captions
MASK = (64, 48, 191, 223)  # left, top, right and bottom pixel that are drawn anew: where subjects stand
STEPS = (1, 2, 4, 8)
BAND = 16  # pixels beside the border in which a seam is looked for
FAR = 48  # pixels from the mask, where the decoder hardly looks over its edge


def main(arguments: list[str] | None = None) -> int:
    """Measure, and print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=200, help="pictures")
    cases = parser.parse_args(arguments).cases
    rows = measure(cases)
    print("| drawn by | subject is the prompt's | change outside | the same, far away | change inside | seam |")
    print("|---|---|---|---|---|---|")
    for name, row in rows.items():
        share, near, far, inside, seam = (float(np.mean(values)) for values in zip(*row, strict=True))
        print(f"| {name} | {share:.1%} | {near:.2f} | {far:.3f} | {inside:.1f} | {seam:.2f} |")
    return 0


def measure(cases: int) -> dict[str, list[tuple[float, ...]]]:
    """Return for each way to draw the measures of each picture (:func:`measures`).

    "autoencoder" only encodes and decodes; "pasted" cuts another picture in, which has a seam.
    """
    studio, source, judge = load("inpainting", "mini"), load("text-to-image", "mini"), load_judge()
    rows: dict[str, list[tuple[float, ...]]] = {}
    last: np.ndarray | None = None
    for number, (wanted, words) in enumerate(tqdm(pairs(cases), total=cases)):
        picture = source.generate(prompt=words[0], seed=number).image
        alone = decoded(studio, picture)
        drawn = {f"{steps} steps": _draw(studio, picture, words[1], steps) for steps in STEPS} | {"autoencoder": alone}
        if last is not None:
            drawn["pasted"] = np.where(marked(alone)[..., None], last, alone)
        for name, pixels in drawn.items():
            seen = judge.describe(Image.fromarray(pixels))["subjects"][0]
            rows.setdefault(name, []).append((seen == wanted, *measures(pixels, alone)))
        last = alone
    return rows


def pairs(cases: int) -> Iterator[tuple[str, tuple[str, str]]]:
    """Yield another subject for each scene, and the captions of both."""
    names = list(SUBJECTS)
    for i in range(cases):
        scene, words = scene_at(SEED, i, held_out=True, subjects=1)
        rng = np.random.default_rng((SEED, i))
        wanted = str(rng.choice([name for name in names if name != scene.subjects[0]]))
        yield wanted, (words, caption(replace(scene, subjects=(wanted,)), rng))


def _draw(studio: Studio, picture: Image.Image, prompt: str, steps: int) -> np.ndarray:
    given = {"image": picture, "mask_image": Image.fromarray(255 * marked(np.asarray(picture)).astype(np.uint8))}
    return np.asarray(studio.generate(prompt=prompt, num_inference_steps=steps, **given).image)


def marked(pixels: np.ndarray) -> np.ndarray:
    """Return where (H, W) a picture is drawn anew."""
    mask = Image.new("1", (pixels.shape[1], pixels.shape[0]))
    ImageDraw.Draw(mask).rectangle(MASK, fill=1)
    return np.array(mask)


@torch.no_grad()
def decoded(studio: Studio, picture: Image.Image) -> np.ndarray:
    """Return what the autoencoder makes of a picture."""
    latents = studio.pipe.vae.encode(studio.pipe.image_processor.preprocess(picture)).latents
    return np.asarray(studio.runtime.decode(latents))


def measures(pixels: np.ndarray, alone: np.ndarray) -> tuple[float, float, float, float]:
    """Return mean changes outside, far outside and inside, of 255, and the seam.

    Changes are against ``alone``, what the autoencoder makes of the picture. The seam is how much
    neighbours across the border differ, by how much neighbours within ``BAND`` pixels of it do: 1 is none.
    """
    change, mask = np.abs(pixels.astype(float) - alone).mean(axis=2), marked(alone)
    near = _grown(mask, FAR)
    return change[~mask].mean(), change[~near].mean(), change[mask].mean(), _seam(pixels.astype(float), mask)


def _seam(pixels: np.ndarray, mask: np.ndarray) -> float:
    band = _grown(mask, BAND) & ~_grown(mask, -BAND)
    across, beside = [], []
    for axis in (0, 1):
        step = np.abs(np.diff(pixels, axis=axis)).mean(axis=2)
        first, second = (np.take(mask, range(start, mask.shape[axis] - 1 + start), axis) for start in (0, 1))
        within = np.take(band, range(mask.shape[axis] - 1), axis)
        across.append(step[first != second])
        beside.append(step[within & (first == second)])
    return float(np.concatenate(across).mean() / np.concatenate(beside).mean())


def _grown(mask: np.ndarray, by: int) -> np.ndarray:
    """Return a rectangle that is ``by`` pixels larger on each side."""
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    grown = np.zeros_like(mask)
    top, left = max(rows[0] - by, 0), max(columns[0] - by, 0)
    grown[top : rows[-1] + 1 + by, left : columns[-1] + 1 + by] = True
    return grown


if __name__ == "__main__":
    sys.exit(main())
