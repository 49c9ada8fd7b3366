"""Before anything long starts: what a section needs, what there is, what is done to make it fit."""

import gc
import importlib.util
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import torch

from .checkpoints import Checkpoints, guide_checkpoints, peft_problem
from .device import computes_bfloat16, versions
from .hub import absent, bring, cache_folder, cached, disk_problem, free_disk, gigabytes
from .plans import FP16_VAE, VAE, Plan, Source

# What a device needs beside weights and live tensors, an assumption: CUDA's context, and what the
# allocator and the kernels borrow.
CONTEXT, BORROWED = 600_000_000, 1.1
MEASURES = {
    "slicing": "VAE slicing: pictures are decoded one by one; changes no pixel",
    "offload": "model CPU offload: each module visits the GPU when it runs; same pixels, slower",
    "fp16-vae": f"{FP16_VAE.repo} in place of SDXL's VAE: decodes in float16; pixels differ a little",
}
# Tried in this order, the least change first.
LADDER: list[tuple[str, ...]] = [("slicing",), ("slicing", "offload"), ("slicing", "offload", "fp16-vae")]


@dataclass(frozen=True)
class Report:
    """How a section with its model fits this computer.

    ``needed`` and ``free`` are bytes of the device's memory; ``download`` and ``disk`` bytes
    of what is yet to come and of the room for it; ``problems`` are sentences with remedies,
    none if all is well; ``text`` is the whole in lines.
    """

    plan: Plan
    names: Checkpoints
    sources: dict[str, Source]
    needed: int
    free: int
    download: int
    disk: int
    problems: tuple[str, ...]

    @property
    def text(self) -> str:
        """The report in lines."""
        rows = [("device", f"{_device_name(self.names.device)}, {gigabytes(self.free)} of memory free")]
        rows += [("versions", ", ".join(f"{name} {version}" for name, version in versions().items()))]
        rows += [("from the Hub", _line(source)) for source in self.sources.values()]
        rows += [("download", f"{gigabytes(self.download)} to {cache_folder()}, {gigabytes(self.disk)} free")]
        rows += [("to fit", line) for line in self._measures()]
        rows += [("memory", f"{gigabytes(self.needed)} needed")]
        if _on_cpu(self.names.device) and not self.names.styles and importlib.util.find_spec("openvino"):
            kind = "bfloat16" if computes_bfloat16() else "float32"
            rows += [
                ("faster", f"lcm_nb.load(..., runtime='openvino'): in {kind}, converted once; pixels differ a little")
            ]
        rows += [("problem", problem) for problem in self.problems] or [("verdict", "it will run")]
        width = max(len(name) for name, _ in rows)
        last, lines = "", [f"{self.plan.section.name}, model {self.names.model}"]
        for name, line in rows:
            lines.append(f"  {name if name != last else '':<{width}}  {line}")
            last = name
        return "\n".join(lines)

    def _measures(self) -> list[str]:
        kind = "float32, on the CPU: slow" if _on_cpu(self.names.device) else f"{self.names.dtype}".split(".")[1]
        vae = "; SDXL's VAE decodes in float32" if _upcasts(self.plan, self.names.device, self.names.measures) else ""
        return [f"weights in {kind}{vae}", *(MEASURES[measure] for measure in self.names.measures)]


def examine(plan: Plan, device: str, commits: Mapping[str, str] | None = None) -> Report:
    """Return how a plan of the guide profile fits this computer; asks nobody and changes nothing.

    Parameters
    ----------
    plan
        A section with a model (:func:`lcm_nb.models.plans.plan_for`).
    device
        A torch device (:func:`lcm_nb.models.device.resolve_device`).
    commits
        Part -> commit to take of it, for those that are not to be the pinned or newest.
    """
    commits = commits or {}
    sources = {part: replace(source, commit=commits.get(part)) for part, source in plan.sources.items()}
    names, free = guide_checkpoints(replace(plan, sources=sources), device), _free_memory(device)
    measures, needed = fit(plan, device, free)
    names = replace(names, measures=measures)
    if "fp16-vae" in measures:
        names, sources = replace(names, vae=FP16_VAE.repo), with_fp16_vae(sources, commits.get("vae"))
    download, disk = sum(map(absent, sources.values())), free_disk()
    problems = _problems(names, plan, needed, free, download)
    return Report(plan, names, sources, needed, free, download, disk, problems)


def prepare(
    plan: Plan, device: str, *, commits: Mapping[str, str] | None = None, tell: Callable[[str], None] = print
) -> tuple[Checkpoints, dict[str, Path]]:
    """Check that a plan fits and download what is missing.

    Returns
    -------
    names
        What to load, with the commits and the measures that were taken.
    folders
        Part -> where it lies on this computer.

    Raises
    ------
    OSError
        If something does not fit or cannot be downloaded; the message says what, and what to do.
    """
    report = examine(plan, device, commits)
    if report.problems:
        raise OSError(f"{plan.section.name} cannot be loaded. {' '.join(report.problems)}")
    folders = bring(report.sources, tell)
    changes = [MEASURES[measure] for measure in report.names.measures if measure != "slicing"]
    if changes:
        tell(f"To fit {gigabytes(report.free)} of memory: {'; '.join(changes)}.")
    parts = report.names.parts
    return replace(report.names, revisions={part: folders[part].name for part in parts}), folders


def fit(plan: Plan, device: str, free: int) -> tuple[tuple[str, ...], int]:
    """Return the least measures with which a plan fits, and the bytes of memory that it needs then.

    Parameters
    ----------
    device
        "cuda" and the like take measures one after the other (``LADDER``); "cpu" none.
    free
        Bytes of the device's memory. Where nothing suffices, the last measures are returned.
    """
    steps: list[tuple[str, ...]] = [()] if _on_cpu(device) else LADDER if device.startswith("cuda") else LADDER[:1]
    ladder = [measures for measures in steps if plan.family == "xl" or "fp16-vae" not in measures]
    needs = [(measures, _needed(plan, device, measures)) for measures in ladder]
    return next((need for need in needs if need[1] <= free), needs[-1])


def _needed(plan: Plan, device: str, measures: tuple[str, ...]) -> int:
    """Return the most memory of the device that a run takes, in bytes."""
    numbers = plan.numbers
    if _on_cpu(device):
        decode = plan.decode if plan.family == "xl" else 2 * plan.decode  # `decode` is in float32 for SDXL alone
        return 4 * sum(numbers.values()) + max(2 * plan.step, decode)
    upcast = _upcasts(plan, device, measures)
    decode = plan.decode if upcast or plan.family == "sd" else plan.decode // 2
    vae = (4 if upcast else 2) * VAE
    if "offload" in measures:
        together = sum(2 * numbers.get(name, 0) for name in ("unet", "loras", "controlnet", "adapter"))
        stays = 2 * numbers.get("safety_checker", 0)  # diffusers never moves it off the GPU
        live = stays + max(together + plan.step, vae + decode, 2 * numbers.get("text_encoder_2", 0))
    else:
        live = 2 * sum(numbers.values()) + max(plan.step, decode + vae - 2 * VAE)
    return int(live * BORROWED + CONTEXT)


def _upcasts(plan: Plan, device: str, measures: tuple[str, ...]) -> bool:
    """Return whether the pipeline turns the VAE into float32 to decode, as SDXL's do lest it overflow."""
    return plan.family == "xl" and "fp16-vae" not in measures and not _on_cpu(device)


def _problems(names: Checkpoints, plan: Plan, needed: int, free: int, download: int) -> tuple[str, ...]:
    found = []
    if needed > free:
        found.append(
            f"{gigabytes(needed)} of memory are needed, and {_device_name(names.device)} has {gigabytes(free)} free: "
            "close other programs and kernels that use it, restart this one if it has loaded models before, "
            "choose a smaller model, or use profile='mini'."
        )
    passing, here = 2 * sum(plan.numbers.values()), psutil.virtual_memory().available
    if not _on_cpu(names.device) and passing > here:
        found.append(
            f"The weights pass through this computer's memory: {gigabytes(passing)}, and {gigabytes(here)} are free; "
            "close other programs, or choose a smaller model."
        )
    found += filter(None, (disk_problem(download), peft_problem(names)))
    return tuple(found)


def with_fp16_vae(sources: dict[str, Source], commit: str | None = None) -> dict[str, Source]:
    """Return the sources with the fp16-safe VAE instead of the base's own."""
    base = sources["base"]
    weights = {stem: count for stem, count in base.weights.items() if not stem.startswith("vae/")}
    return sources | {"base": replace(base, weights=weights), "vae": replace(FP16_VAE, commit=commit)}


def _line(source: Source) -> str:
    what = source.variant or ("picture" if source.is_picture else "float16" if source.is_lora else "float32")
    state = "here" if cached(source) else gigabytes(source.size) if source.size else "under 1 MB"
    return f"{source.repo} ({what}, {source.licence}): {state}"


def _on_cpu(device: str) -> bool:
    return device.startswith("cpu")


def _free_memory(device: str) -> int:
    if device.startswith("cuda"):
        if (error := getattr(sys, "last_traceback", None)) is not None:
            traceback.clear_frames(error)  # IPython keeps those of the last error, with all that they hold
        gc.collect()  # what a notebook has let go of may still be held by cycles
        try:
            torch.cuda.empty_cache()
            return torch.cuda.mem_get_info(device)[0]
        except RuntimeError:  # not even room for CUDA's own
            return 0
    return psutil.virtual_memory().available


def _device_name(device: str) -> str:
    if device.startswith("cuda"):
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return f"{device} ({psutil.cpu_count(logical=False) or psutil.cpu_count()} cores)" if device == "cpu" else device
