"""Measure the XL family: the LCM and its teacher under two solvers, by numbers of steps."""

import itertools
import platform
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    LCMScheduler,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from tqdm import tqdm

from ..models.device import reuse_memory
from ..models.judge import Judge
from ..tutorial.captions import labels, scene_at
from ..tutorial.measure import (
    GUIDANCE,
    SEED,
    accuracies,
    as_batch,
    frechet_distance,
    generate,
    judge_pictures,
    right,
)
from . import data
from .autoencoder import HELD_OUT, as_images, psnr
from .distill import W_UNIT
from .loop import FLOAT32, fingerprint, made_by
from .rows import Rows
from .scenes import Painter

# Captions are of streams from SEED on, that of the pictures' noise: neither the generator nor the judge sees them.
TEACHER_GUIDANCE = 1 + W_UNIT * (GUIDANCE - 1)  # what the LCM's was distilled from
TRIAL_SCALES, TRIAL_STEPS = (1.0, 2.0, TEACHER_GUIDANCE, 5.0, 8.0), 12
SAMPLERS = {  # name -> steps measured
    "LCM": (1, 2, 4, 8),
    "DDIM": (1, 2, 4, 8, 25, 50),
    "DPM-Solver++": (1, 2, 4, 8, 25, 50),
}


@dataclass(frozen=True)
class Size:
    """How much is measured: captions with one subject and with two, rounds of timing, steps, scales of the trial."""

    singles: int = 1_000
    pairs: int = 300
    rounds: int = 7
    samplers: Mapping[str, tuple[int, ...]] = field(default_factory=SAMPLERS.copy)
    scales: tuple[float, ...] = TRIAL_SCALES


SMOKE = Size(
    singles=4, pairs=2, rounds=1, samplers={"LCM": (1, 4), "DDIM": (2,), "DPM-Solver++": (2,)}, scales=(1.0, 8.0)
)


def load_pipelines(work: Path) -> dict[str, StableDiffusionXLPipeline]:
    """Return the LCM and its teacher under two solvers, in float32."""
    base = StableDiffusionXLPipeline.from_pretrained(made_by("teacher", work / "base"), **FLOAT32)
    lcm = UNet2DConditionModel.from_pretrained(made_by("distill", work / "lcm"), **FLOAT32)
    parts = {k: v for k, v in base.components.items() if k not in ("unet", "scheduler")}
    config = base.scheduler.config
    pipes = {
        "LCM": StableDiffusionXLPipeline(unet=lcm, scheduler=LCMScheduler.from_config(config), **parts),
        "DDIM": StableDiffusionXLPipeline(unet=base.unet, scheduler=DDIMScheduler.from_config(config), **parts),
        "DPM-Solver++": StableDiffusionXLPipeline(
            unet=base.unet, scheduler=DPMSolverMultistepScheduler.from_config(config), **parts
        ),
    }
    device = "cuda" if torch.cuda.is_available() else "cpu"
    for pipe in pipes.values():
        pipe.set_progress_bar_config(disable=True)
        pipe.to(device)
    return pipes


def held_out_cases(work: Path, count: int, subjects: int) -> tuple[list[str], list[dict]]:
    """Return captions and labels of scenes whose label combination, and whose caption, was never trained on."""
    trained = set(data.captions(work))
    stream = (scene_at(SEED + subjects, i, held_out=True, subjects=subjects) for i in itertools.count())
    scenes = list(itertools.islice(((scene, text) for scene, text in stream if text not in trained), count))
    return [text for _, text in scenes], [labels(scene) for scene, _ in scenes]


def arrange(pipe, memory_format: torch.memory_format) -> None:
    """Lay out the weights: ``channels_last`` draws many pictures faster, others are as users have them."""
    pipe.unet.to(memory_format=memory_format)
    pipe.vae.to(memory_format=memory_format)
    pipe.vae.use_slicing = memory_format == torch.channels_last  # a batch of decoded pictures fits no cache


def measure(work: Path, pipes: dict, size: Size = Size(), *, resume: bool = False) -> dict:
    """Return every figure of the card that the pipelines and the judge give; all times are from this one run.

    Judged rows go to ``work/evaluate/rows.jsonl``; ``resume`` keeps those of the same weights and captions.
    """
    judge = Judge.from_pretrained(made_by("judge", work / "judge")).eval()
    real, real_rows = real_pictures(judge, work, size.singles)
    real_scores, real_features = judge_pictures(judge, real)
    singles, pairs = held_out_cases(work, size.singles, 1), held_out_cases(work, size.pairs, 2)
    kept = Rows(work / "evaluate" / "rows.jsonl", resume=resume)
    table = []
    for pipe in pipes.values():
        arrange(pipe, torch.channels_last)
    for name, steps in tqdm([(name, n) for name, ns in size.samplers.items() for n in ns], desc="samplers"):
        guidance = GUIDANCE if name == "LCM" else TEACHER_GUIDANCE
        case = case_of(name, steps, guidance, pipes[name], judge, (size.singles, size.pairs))
        table.append(kept.row(case, judged, judge, pipes[name], case, singles, pairs, real_features))
    trial = guidance_trial(judge, pipes["DDIM"], singles, size.scales, kept)
    for pipe in pipes.values():
        arrange(pipe.to("cpu"), torch.contiguous_format)
    runs = [(row["sampler"], row["steps"]) for row in table]
    for row, seconds in zip(table, seconds_per_image(pipes, runs, rounds=size.rounds), strict=True):
        row["seconds"] = seconds
    return {
        "captions": size.singles,
        "pair_captions": size.pairs,
        "guidance_trial": trial,
        "real": accuracies(real_scores, real_rows),
        "table": table,
        "peak_memory_mb": peak_memory(work),
        "psnr": psnr(pipes["LCM"].vae, as_images(data.pictures(work)[:HELD_OUT])),
        "machine": f"{platform.machine()} CPU, {torch.get_num_threads()} threads, torch {torch.__version__}",
    }


def guidance_trial(judge: Judge, pipe, single: tuple, scales: tuple[float, ...], kept: Rows) -> list[dict]:
    """Return the teacher's accuracies at several guidance scales, on the first 200 captions."""
    count, rows = min(len(single[0]), 200), []
    for guidance in tqdm(scales, desc="guidance"):
        case = case_of("DDIM", TRIAL_STEPS, guidance, pipe, judge, (count,))
        rows.append(kept.row(case, tried, judge, pipe, case, single))
    return rows


def real_pictures(judge: Judge, work: Path, count: int) -> tuple[torch.Tensor, list[dict]]:
    """Return freshly painted held-out scenes (N, 3, H, W) in 0..1 at the judge's size, and labels."""
    painter = Painter(data.icons(work))
    scenes = [scene_at(SEED + 9, i, held_out=True, subjects=1)[0] for i in range(count)]
    drawn = as_batch(painter.draw(scene, judge.config.pixels) for scene in scenes)
    return drawn, [labels(scene) for scene in scenes]


def case_of(name: str, steps: int, guidance: float, pipe, judge: Judge, captions: tuple[int, ...]) -> dict:
    """Return what a judged row is a row of."""
    weights = fingerprint(pipe.unet, pipe.vae, pipe.text_encoder, pipe.text_encoder_2, judge)
    return dict(sampler=name, steps=steps, guidance=guidance, weights=weights, captions=list(captions))


def judged(judge: Judge, pipe, case: dict, single: tuple, pair: tuple, real_features: np.ndarray) -> dict:
    """Return what the judge sees of one sampler: accuracies on both kinds of captions, Frechet distance."""
    (captions, rows), (pair_captions, pair_rows) = single, pair
    settings = case["steps"], case["guidance"]
    scores, features = judge_pictures(judge, generate(pipe, captions, *settings))
    pair_scores, _ = judge_pictures(judge, generate(pipe, pair_captions, *settings))
    return {
        **accuracies(scores, rows),
        "both": float(right(pair_scores, pair_rows)["subject"].mean()),
        "frechet": frechet_distance(features, real_features),
    }


def tried(judge: Judge, pipe, case: dict, single: tuple) -> dict:
    """Return the accuracies on the first captions alone, for the trial of guidance scales."""
    count = case["captions"][0]
    captions, rows = single[0][:count], single[1][:count]
    return accuracies(judge_pictures(judge, generate(pipe, captions, case["steps"], case["guidance"]))[0], rows)


def seconds_per_image(pipes: dict, runs: list[tuple[str, int]], *, rounds: int) -> list[float]:
    """Return the median time of one picture for each (sampler, steps), decoding included and guidance on.

    All runs take turns, so that a machine's slower minutes fall upon all alike; the first round is a warm-up.
    """
    reuse_memory()  # as lcm_nb.load does
    times = []
    for _ in tqdm(range(rounds + 1), desc="times"):
        for name, steps in runs:
            start = time.perf_counter()
            options = dict(num_inference_steps=steps, guidance_scale=GUIDANCE, generator=torch.manual_seed(0))
            pipes[name]("a cute fox", **options)
            times.append(time.perf_counter() - start)
    return np.median(np.array(times).reshape(rounds + 1, -1)[1:], axis=0).tolist()


MEMORY_PROBE = """
import re, sys, torch
from diffusers import LCMScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
from lcm_nb.models.device import DTYPE_ARGUMENT, reuse_memory

reuse_memory()
work, loading = sys.argv[1], {DTYPE_ARGUMENT: torch.float32}
unet = UNet2DConditionModel.from_pretrained(work + "/lcm", **loading)
pipe = StableDiffusionXLPipeline.from_pretrained(work + "/base", unet=unet, **loading)
pipe.scheduler = LCMScheduler.from_config(pipe.scheduler.config)
pipe("a cute fox", num_inference_steps=4, guidance_scale=8.0)
print(int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1024)
"""


def peak_memory(work: Path) -> float:
    """Return the peak resident memory in MB of a fresh process that draws one picture (Linux).

    Not from getrusage: a child that was forked from a larger process reports that one's peak.
    """
    command = [sys.executable, "-c", MEMORY_PROBE, str(work)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return float(output.strip().splitlines()[-1])
