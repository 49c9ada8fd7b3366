"""Stage 4: measure the family on held-out captions and write its model card."""

import itertools
import json
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
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
from diffusers.utils import make_image_grid
from PIL import Image
from tqdm import tqdm

from ..judge import Judge
from ..profiles import reuse_memory
from . import data
from .autoencoder import HELD_OUT, as_images, psnr
from .distill import W_UNIT
from .judge import accuracies, as_batch, judge_pictures, right
from .loop import FLOAT32, Settings, fingerprint, made_by
from .scenes import Painter, labels
from .ship import draw_examples, megabytes

SEED = 2_000_003  # neither the generator nor the judge sees this stream
SINGLES, PAIRS = 1_000, 300
BATCH = 16
GUIDANCE = 8.0  # the LCM's
TEACHER_GUIDANCE = 1 + W_UNIT * (GUIDANCE - 1)  # what the LCM's was distilled from
TRIAL_SCALES, TRIAL_STEPS = (1.0, 2.0, TEACHER_GUIDANCE, 5.0, 8.0), 12
SAMPLERS = {  # name -> steps measured
    "LCM": (1, 2, 4, 8),
    "DDIM": (1, 2, 4, 8, 25, 50),
    "DPM-Solver++": (1, 2, 4, 8, 25, 50),
}
GUIDE_PROMPTS = (
    "Self-portrait oil painting, a beautiful cyborg with golden hair, 8k",
    "Astronauts in a jungle, cold color palette, muted colors, detailed, 8k",
    "a cute fox",  # the guide adds the trigger word of its style LoRA
    "the mona lisa",
    "Mystical fairy in real, magic, 4k picture, high quality",
)
SMOKE = dict(singles=4, pairs=2, rounds=1, samplers={"LCM": (1, 4), "DDIM": (2,), "DPM-Solver++": (2,)})


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
    stream = (data.scene_at(SEED + subjects, i, held_out=True, subjects=subjects) for i in itertools.count())
    scenes = list(itertools.islice(((scene, text) for scene, text in stream if text not in trained), count))
    return [text for _, text in scenes], [labels(scene) for scene, _ in scenes]


def arrange(pipe, memory_format: torch.memory_format) -> None:
    """Lay out the weights: ``channels_last`` draws many pictures faster, others are as users have them."""
    pipe.unet.to(memory_format=memory_format)
    pipe.vae.to(memory_format=memory_format)
    pipe.vae.use_slicing = memory_format == torch.channels_last  # a batch of decoded pictures fits no cache


def generate(
    pipe, captions: list[str], steps: int, guidance_scale: float = GUIDANCE, images: list | None = None, **options
) -> torch.Tensor:
    """Return (N, 3, H, W) pictures in 0..1, each from a seed of its own; ``images`` are what each starts from."""
    options |= dict(num_inference_steps=steps, guidance_scale=guidance_scale, output_type="pt")
    parts = []
    for start in range(0, len(captions), BATCH):
        batch = slice(start, start + BATCH)
        generators = [torch.Generator().manual_seed(SEED + start + i) for i in range(len(captions[batch]))]
        given = {} if images is None else {"image": images[batch]}
        parts.append(pipe(captions[batch], generator=generators, **given, **options).images.float().cpu())
    return torch.cat(parts)


def frechet_distance(first: np.ndarray, second: np.ndarray) -> float:
    """Return the Frechet distance of two (N, C) feature sets, each taken as a Gaussian."""
    mean = np.square(first.mean(0) - second.mean(0)).sum()
    one, two = np.cov(first.T), np.cov(second.T)
    root = np.sqrt(np.linalg.eigvals(one @ two).real.clip(min=0)).sum()  # trace of the matrix root
    return float(mean + np.trace(one + two) - 2 * root)


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


def real_pictures(judge: Judge, work: Path, count: int) -> tuple[torch.Tensor, list[dict]]:
    """Return freshly painted held-out scenes (N, 3, H, W) in 0..1 at the judge's size, and labels."""
    painter = Painter(data.icons(work))
    scenes = [data.scene_at(SEED + 9, i, held_out=True, subjects=1)[0] for i in range(count)]
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


class Rows:
    """Rows of tables, kept in a file as they are measured, so that ``--resume`` goes on where a run stopped."""

    def __init__(self, path: Path, *, resume: bool):
        path.parent.mkdir(exist_ok=True)
        lines = path.read_text().splitlines() if resume and path.exists() else []
        self.path, self.rows = path, [json.loads(line) for line in lines]

    def row(self, case: dict, measure: Callable[..., dict], *arguments) -> dict:
        """Return the case with what ``measure(*arguments)`` returns, or returned before."""
        for row in self.rows:
            if case.items() <= row.items():
                return dict(row)
        self.rows.append(case | measure(*arguments))
        self.path.write_text("".join(json.dumps(row) + "\n" for row in self.rows))
        return dict(self.rows[-1])


def measure(
    work: Path,
    pipes: dict,
    *,
    singles: int = SINGLES,
    pairs: int = PAIRS,
    samplers: dict = SAMPLERS,
    rounds: int = 7,
    resume: bool = False,
) -> dict:
    """Return every figure of the card that the pipelines and the judge give; all times are from this one run.

    Judged rows go to ``work/evaluate/rows.jsonl``; ``resume`` keeps those of the same weights and captions.
    """
    judge = Judge.from_pretrained(made_by("judge", work / "judge")).eval()
    real, real_rows = real_pictures(judge, work, singles)
    real_scores, real_features = judge_pictures(judge, real)
    cases = held_out_cases(work, singles, 1), held_out_cases(work, pairs, 2)
    kept = Rows(work / "evaluate" / "rows.jsonl", resume=resume)
    table, trial, count = [], [], min(singles, 200)
    for pipe in pipes.values():
        arrange(pipe, torch.channels_last)
    for name, steps in tqdm([(name, n) for name, ns in samplers.items() for n in ns], desc="samplers"):
        guidance = GUIDANCE if name == "LCM" else TEACHER_GUIDANCE
        case = case_of(name, steps, guidance, pipes[name], judge, (singles, pairs))
        table.append(kept.row(case, judged, judge, pipes[name], case, *cases, real_features))
    for guidance in tqdm(TRIAL_SCALES, desc="guidance"):
        case = case_of("DDIM", TRIAL_STEPS, guidance, pipes["DDIM"], judge, (count,))
        trial.append(kept.row(case, tried, judge, pipes["DDIM"], case, cases[0]))
    for pipe in pipes.values():
        arrange(pipe.to("cpu"), torch.contiguous_format)
    runs = [(row["sampler"], row["steps"]) for row in table]
    for row, seconds in zip(table, seconds_per_image(pipes, runs, rounds=rounds), strict=True):
        row["seconds"] = seconds
    return {
        "captions": singles,
        "pair_captions": pairs,
        "guidance_trial": trial,
        "real": accuracies(real_scores, real_rows),
        "table": table,
        "peak_memory_mb": peak_memory(work),
        "psnr": psnr(pipes["LCM"].vae, as_images(data.pictures(work)[:HELD_OUT])),
        "machine": f"{platform.machine()} CPU, {torch.get_num_threads()} threads, torch {torch.__version__}",
    }


MEMORY_PROBE = """
import re, sys, torch
from diffusers import LCMScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
from lcm_nb.profiles import DTYPE_ARGUMENT, reuse_memory

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


def sheet(pipe, captions: Sequence[str], columns: int, *, steps: int = 4) -> Image.Image:
    """Return a sheet of captions drawn by an LCM."""
    pictures = generate(pipe, list(captions), steps)
    images = [Image.fromarray((p.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)) for p in pictures]
    return make_image_grid(images, rows=len(images) // columns, cols=columns)


def run(settings: Settings) -> Path:
    """Measure, then write figures.json, sheets and MODEL_CARD.md to ``work/card``, and ``work/examples``."""
    from . import blind, sections, shape
    from .card import write

    work = settings.work
    pipes = load_pipelines(work)
    geometry = json.loads(made_by("geometry", work / "geometry.json").read_text())
    figures = measure(work, pipes, resume=settings.resume, **SMOKE if settings.smoke else {})
    figures["sections"] = sections.measure(work, resume=settings.resume, cases=2 if settings.smoke else sections.CASES)
    small = dict(count=4, rows=shape.ROWS[:1]) if settings.smoke else {}
    figures["seen"] = shape.measure(work, pipes, resume=settings.resume, **small)
    figures["own"] = own_runs(work)
    figures |= dict(training=training_cost(work), geometry=geometry)
    figures["contact_sheet"] = held_out_cases(work, 24, 1)[0]
    folder = work / "card"
    folder.mkdir(exist_ok=True)
    sheet(pipes["LCM"], figures["contact_sheet"], 6).save(folder / "contact_sheet.jpg", quality=88)
    sheet(pipes["LCM"], GUIDE_PROMPTS, 5).save(folder / "guide_prompts.jpg", quality=88)
    for section in sections.MEASURED:
        sections.contact_sheet(section, work, 2 if settings.smoke else 8).save(folder / f"{section}.jpg", quality=88)
    figures["blind"] = blind.result(work, folder)
    draw_examples(work, work / "examples")
    figures["megabytes"] = megabytes(work)
    (folder / "figures.json").write_text(json.dumps(figures, indent=1) + "\n")
    write(folder, figures)
    return folder


def own_runs(work: Path) -> list[dict]:
    """Return what the stage "budgets" measured."""
    lines = made_by("budgets", work / "budgets" / "rows.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def training_cost(work: Path) -> list[dict]:
    """Return steps, minutes and samples of every stage that left a log."""
    rows = []
    for log in sorted(work.glob("*/log.jsonl")):
        lines = [json.loads(line) for line in log.read_text().splitlines()]
        losses = [line for line in lines if "loss" in line]
        psnrs = [line["psnr"] for line in lines if "psnr" in line]
        rows.append(
            {"stage": log.parent.name, **losses[-1], **({"psnr": psnrs[-1]} if psnrs else {})} if losses else {}
        )
    return [row for row in rows if row]
