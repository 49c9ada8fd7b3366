"""A trial of the second edition's recipe: shapes of latents from nothing, and losses for a decoder alone.

Each autoencoder gets the same minutes, each loss the same number of updates from the weights in ``work/vae``.
Reconstructions of held-out scenes are measured as pictures are (see ``shape``), at several moments, so that
curves can be compared. Nothing is sampled here: what the latents cost a teacher is not in these figures.
"""

import copy
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderTiny

from .autoencoder import CROP, Autoencoding, as_images, build, fit, load_pictures, psnr
from .loop import FLOAT32, Settings, made_by, make_accelerator, train, trainable
from .shape import held_out, sharpness, through
from .sharpen import Pairs, Sharpening

SHAPES = {  # name -> factor, and what else is different
    "f=16, 8 channels": (16, {}),
    "f=16, 16 channels": (16, dict(latent_channels=16)),
    "f=8, 4 channels": (8, {}),
}
LOSSES = {  # name -> weights beside the pixel losses
    "pixels": dict(dissimilarity=0.0, energy=0.0),
    "pixels, similarity": dict(dissimilarity=0.5, energy=0.0),
    "pixels, similarity, edge energy": dict(dissimilarity=0.5, energy=0.3),
}
UPDATES = 150  # of each loss
SCENES = 40


def run(settings: Settings) -> Path:
    """Write ``work/trial.json``: a row for each shape of latents, then one for each loss; print it."""
    path, readings = settings.work / "trial.json", Readings(settings.work, 6 if settings.smoke else SCENES)
    rows = json.loads(path.read_text()) if settings.resume and path.exists() else []
    for name, run_of in [*((n, shape_run) for n in SHAPES), *((n, loss_run) for n in LOSSES)]:
        if name in [row["run"] for row in rows]:
            continue
        torch.manual_seed(settings.seed)
        folder = "trial-" + "".join(filter(str.isalnum, name))
        vae = run_of(name, folder, replace(settings, resume=False))
        spent = json.loads((settings.work / folder / "state.json").read_text())
        rows.append({"run": name, "updates": spent["step"], "minutes": spent["minutes"], **readings(vae)})
        path.write_text(json.dumps(rows, indent=1) + "\n")
        print(rows[-1], flush=True)
    return path


class Readings:
    """What is measured of an autoencoder: how it shows held-out scenes."""

    def __init__(self, work: Path, count: int):
        self.cases = held_out(work, count)
        self.real = self.cases.real

    def __call__(self, vae: AutoencoderTiny) -> dict[str, float]:
        vae = copy.deepcopy(vae).cpu().eval()
        drawn = through(vae, self.real)
        shapes = self.cases.shapes(drawn)
        return dict(
            psnr=psnr(vae, as_images(np.stack(self.real))),
            shape=float(np.median(shapes)),
            worst_tenth=float(np.quantile(shapes, 0.1)),
            sharpness=float(np.median(sharpness(drawn, self.real))),
        )


def shape_run(name: str, folder: str, settings: Settings) -> AutoencoderTiny:
    """Return an autoencoder of one shape after ``settings.minutes`` from nothing."""
    factor, overrides = SHAPES[name]
    module = Autoencoding(build(factor, **overrides), noise=0.1)
    fit(folder, module, load_pictures(settings.work), CROP, settings)
    return module.vae


def loss_run(name: str, folder: str, settings: Settings) -> AutoencoderTiny:
    """Return the autoencoder in ``work/vae`` with a decoder trained on by one loss for ``UPDATES``."""
    vae = AutoencoderTiny.from_pretrained(made_by("autoencoder", settings.work / "vae"), **FLOAT32)
    accelerator = make_accelerator()
    pairs = Pairs(replace(settings, resume=True), accelerator.device)
    module = Sharpening(vae, LOSSES[name])
    budget = dict(steps=min(UPDATES, settings.steps), minutes=float("inf"), batch_size=3, learning_rate=5e-4)

    def loss_of(module, generator):
        return module(**pairs(budget["batch_size"], generator))

    train(folder, module, loss_of, replace(settings, **budget), accelerator).copy_to(trainable(module))
    return vae
