"""Distil your own LCM in minutes: the loop of notebook 08, on the base and the shard that ship.

The loop is algorithm 1 of Luo et al., 2023, arXiv:2310.04378; its steps are functions of
:mod:`lcm_nb.training.distill`. Under ``accelerate launch`` all processes draw the same batch and
each takes its share, so that two processes do what one does with the double batch.
"""

import copy
import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from diffusers import LCMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import save_file
from torch import nn
from tqdm import tqdm

from ..models.checkpoints import MINI
from ..tutorial.measure import SHARD, load_shard
from . import data, text
from .distill import (
    SKIP,
    TARGET_DECAY,
    W_UNIT,
    conditions,
    consistency,
    guided_solver_step,
    pseudo_huber,
    sample_timesteps,
    sample_w,
    student_of,
    update_target,
)
from .loop import FLOAT32, Optimizer, Settings, learning_rate_factor, made_by, make_accelerator
from .teacher import Teacher, encode_pictures, use_fast_attention

PICTURES, DEVIATIONS = 3_000, 5  # in the shard; int8 covers so many standard deviations of each channel


def write_shard(work: Path) -> Path:
    """Write the first latents and captions of the training data to ``work/shard``, as int8 and a scale a channel."""
    latents = encode_pictures(work, torch.device("cpu"))[:PICTURES].float()
    scale = latents.std((0, 2, 3), keepdim=True) * DEVIATIONS / 127
    tensors = {"latents": (latents / scale).round().clamp(-127, 127).to(torch.int8), "scale": scale}
    path = work / SHARD
    path.parent.mkdir(exist_ok=True)
    save_file(tensors, path, metadata={"captions": json.dumps(data.captions(work)[: len(latents)])})
    return path


class Shard:
    """Random batches of a shard, on the random generator's device."""

    def __init__(self, tokenizer, folder: Path = MINI):
        self.latents, self.captions = load_shard(made_by("budgets", folder / SHARD))
        self.ids = text.tokenize(tokenizer, self.captions)

    def sample(self, count: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Draw z (count, 8, 16, 16), the tokens of c (count, 40), and noise like z."""
        draw = dict(generator=generator, device=generator.device)
        picks = torch.randint(len(self.ids), (count,), **draw).cpu()
        noise = torch.randn(count, *self.latents.shape[1:], **draw)
        return self.latents[picks].to(noise.device), self.ids[picks].to(noise.device), noise


def budget(*, minutes: float = math.inf, steps: float = math.inf) -> Iterator[float]:
    """Yield the share of the budget that is spent, 0 to 1, until it is; the first to end counts."""
    start, count = time.monotonic(), 0
    while (spent := max((time.monotonic() - start) / 60 / minutes, count / steps)) < 1:
        yield spent
        count += 1


@dataclass(frozen=True)
class Variant:
    """What may differ from the paper's loop, for the ablations: ``w`` fixed, another skip, no average as target."""

    skip: int = SKIP
    target_decay: float = TARGET_DECAY
    w: float | None = None


VARIANTS = {
    "as in the paper": Variant(),
    "no EMA target": Variant(target_decay=0.0),
    "skip 1": Variant(skip=1),
    "w fixed at 7": Variant(w=7.0),
}


def distil(
    student: UNet2DConditionModel,
    teacher: Teacher,
    shard: Shard,
    settings: Settings,
    accelerator: Accelerator,
    variant: Variant = VARIANTS["as in the paper"],
) -> Iterator[float]:
    """Yield the loss after every update of the student, a float32 module on the accelerator's device.

    ``settings.batch_size`` is for each process; the notebook spells this loop out for one.
    """
    random = torch.Generator(accelerator.device).manual_seed(settings.seed)
    count = settings.batch_size * accelerator.num_processes
    share = slice(accelerator.process_index, None, accelerator.num_processes)
    target = copy.deepcopy(student).requires_grad_(False)
    optimizer = Optimizer(student, settings.learning_rate, eager=[student.time_embedding.cond_proj.weight])
    network = accelerator.prepare_model(student)
    for step, spent in enumerate(budget(minutes=settings.minutes, steps=settings.steps)):
        if _furthest(spent, accelerator) >= 1:
            return
        drawn = (*shard.sample(count, random), *sample_timesteps(count, random, variant.skip), sample_w(count, random))
        z0, ids, noise, t, t_next, w = (x[share] for x in drawn)
        w = w if variant.w is None else torch.full_like(w, variant.w)
        with accelerator.autocast():
            with torch.no_grad():
                c, nothing = conditions(teacher, ids)
                z = teacher.schedule.add_noise(z0, noise, t)
                z_next = guided_solver_step(teacher, z, t, t_next, W_UNIT * w, (c, nothing))
                goal = consistency(target, teacher.schedule, z_next, t_next, c, w)
            loss = pseudo_huber(consistency(network, teacher.schedule, z, t, c, w), goal)
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(optimizer.parameters, 1.0)
        optimizer.step(settings.learning_rate * learning_rate_factor(step, spent, warmup=20))
        update_target(target, student, variant.target_decay)
        yield float(accelerator.reduce(loss.detach(), "mean"))


def _furthest(spent: float, accelerator: Accelerator) -> float:
    """Return what the furthest process has spent, so that all stop together."""
    if accelerator.num_processes == 1:
        return spent
    return float(accelerator.gather(torch.tensor([spent], device=accelerator.device)).max())


def load_teacher(device: torch.device | str = "cpu", folder: Path = MINI) -> tuple[StableDiffusionPipeline, Teacher]:
    """Return the base that ships, or another folder's, as a pipeline and as a frozen teacher, in float32."""
    plain = dict(safety_checker=None, requires_safety_checker=False)
    base = StableDiffusionPipeline.from_pretrained(folder / "sd", **plain, **FLOAT32).to(device)
    base.set_progress_bar_config(disable=True)
    base.vae.enable_slicing()  # one picture at a time: many at once take a gigabyte
    return base, Teacher(base).requires_grad_(False).eval().to(device)


def new_student(teacher: Teacher) -> UNet2DConditionModel:
    """Return a copy of the teacher's UNet that also takes w, where the teacher is."""
    student = student_of(teacher.unet).to(teacher.empty.device, memory_format=torch.channels_last)
    use_fast_attention(student)
    return student


def pipeline(base: StableDiffusionPipeline, student: nn.Module) -> StableDiffusionPipeline:
    """Return the base's pipeline with the student as its UNet and ``LCMScheduler``."""
    parts = {name: part for name, part in base.components.items() if name not in ("unet", "scheduler")}
    scheduler = LCMScheduler.from_config(base.scheduler.config)
    pipe = StableDiffusionPipeline(unet=student, scheduler=scheduler, requires_safety_checker=False, **parts)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def run(settings: Settings) -> Path:
    """Distil; write losses to ``work/own/losses.jsonl`` and the LCM's UNet to ``work/own/unet``."""
    torch.manual_seed(settings.seed)
    accelerator = make_accelerator()
    folder = settings.work / "own"
    base, teacher = load_teacher(accelerator.device)
    shard = Shard(base.tokenizer)
    losses, start = [], time.monotonic()
    student = new_student(teacher)
    updates = distil(student, teacher, shard, settings, accelerator)
    bar = tqdm(updates, unit="update", disable=not accelerator.is_main_process)
    for loss in bar:
        losses.append({"step": len(losses) + 1, "minutes": (time.monotonic() - start) / 60, "loss": loss})
        bar.set_postfix(loss=f"{loss:.4f}")
    if accelerator.is_main_process:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "losses.jsonl").write_text("".join(json.dumps(row) + "\n" for row in losses))
        student.cpu().save_pretrained(folder / "unet")
    return folder
