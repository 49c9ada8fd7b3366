"""What a budget of minutes buys in notebook 08, and what its loop loses without each of its parts.

Every run of :func:`lcm_nb.training.own.distil` is kept in ``work/budgets/rows.jsonl``, and
``--resume`` goes on with those that are missing. Runs are counted in updates, so that what else a
machine does changes no result; ``rate`` says how many make a minute.
"""

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel

from ..models.judge import Judge
from ..tutorial import measure as measuring
from ..tutorial.measure import load_judge
from . import own
from .loop import FLOAT32, Settings, fingerprint, made_by, make_accelerator
from .rows import Rows

BUDGETS = (100, 500, 1500)  # updates
ABLATION, EVERY, ABLATION_BATCH = 200, 50, 16
CASES, CURVE_CASES = 200, 100
KEPT_LOSSES = 50  # means over neighbours, for a curve


def run(settings: Settings) -> Path:
    """Write the shard, run the budgets and the ablations, and measure the rate; ``work/budgets`` holds all."""
    own.write_shard(settings.work)
    path = settings.work / "budgets" / "rows.jsonl"
    kept = Rows(path, resume=settings.resume)
    smoke = dict(updates=2, every=2, cases=2)
    weights = {"weights": weights_in(settings.work)}
    for updates in BUDGETS[:1] if settings.smoke else BUDGETS:
        case = dict(updates=updates, every=updates, cases=CASES) | (smoke if settings.smoke else {})
        row(kept, settings, weights | case | dict(variant=next(iter(own.VARIANTS)), steps=[1, 2, 4]))
    for variant in own.VARIANTS:
        case = dict(updates=ABLATION, every=EVERY, cases=CURVE_CASES) | (smoke if settings.smoke else {})
        row(kept, replace(settings, batch_size=ABLATION_BATCH), weights | case | dict(variant=variant, steps=[1, 4]))
    kept.row({"batch_size": settings.batch_size, "threads": torch.get_num_threads()}, rate, settings)
    return path


def weights_in(work: Path) -> str:
    """Return a fingerprint of the base that is distilled."""
    return fingerprint(
        UNet2DConditionModel.from_pretrained(made_by("teacher --family sd", work / "sd" / "unet"), **FLOAT32)
    )


def row(kept: Rows, settings: Settings, case: dict) -> dict:
    """Return the row of one run, of variant, updates, every, cases, steps and weights; measured now if not kept."""
    run = replace(settings, steps=case["updates"])
    how = case["variant"], case["every"], case["cases"], tuple(case["steps"])
    return kept.row(case | {"batch_size": settings.batch_size}, measure, run, *how)


def measure(settings: Settings, variant: str, every: int, cases: int, steps: tuple[int, ...]) -> dict:
    """Distil a new student; return its losses, and the judge's view of it at the start and after each ``every``.

    ``response`` is how far guidance 14 moves the final pictures from guidance 1: mean absolute difference, 0 to 255.
    """
    torch.manual_seed(settings.seed)
    accelerator, judge = make_accelerator(), load_judge()
    base, teacher = own.load_teacher(accelerator.device, settings.work)
    student, shard = own.new_student(teacher), own.Shard(base.tokenizer, settings.work)
    pipe, held_out = own.pipeline(base, student), measuring.cases(cases)
    losses, points = [], [view(pipe, judge, held_out, 0, steps)]
    for loss in own.distil(student, teacher, shard, settings, accelerator, own.VARIANTS[variant]):
        losses.append(loss)
        if len(losses) % every == 0:
            points.append(view(pipe, judge, held_out, len(losses), steps))
    parts = np.array_split(losses, min(KEPT_LOSSES, len(losses)))
    means = [float(part.mean()) for part in parts]
    return {"losses": means, "points": points, "response": response(pipe, held_out[0][:16])}


def view(pipe: StableDiffusionPipeline, judge: Judge, held_out: tuple, update: int, steps: tuple[int, ...]) -> dict:
    """Return the judge's accuracies at each number of steps, after so many updates."""
    return {"update": update, **{str(n): measuring.judged(pipe, judge, *held_out, n) for n in steps}}


def response(pipe: StableDiffusionPipeline, captions: list[str]) -> float:
    """Return the mean absolute difference, of 255, between pictures at guidance 1 and at guidance 14."""
    least, most = (measuring.generate(pipe, captions, 4, guidance) for guidance in (1.0, 14.0))
    return float((most - least).abs().mean()) * 255


def rate(settings: Settings, *, updates: int = 20, warm_up: int = 5) -> dict:
    """Return the updates a minute that this machine makes, after some to warm up."""
    base, teacher = own.load_teacher(folder=settings.work)
    student, shard, times = own.new_student(teacher), own.Shard(base.tokenizer, settings.work), []
    if settings.smoke:
        updates, warm_up = 1, 1
    settings = replace(settings, steps=updates + warm_up)
    for _ in own.distil(student, teacher, shard, settings, make_accelerator()):
        times.append(time.monotonic())
    return {"updates_per_minute": 60 * updates / (times[-1] - times[warm_up - 1])}
