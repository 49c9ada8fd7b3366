"""Before anything long starts: what a section needs, what there is, what is done to make it fit."""

import gc
import importlib.util
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import torch

from ..files import shown
from .checkpoints import Checkpoints, guide_checkpoints, peft_problem
from .device import computes_bfloat16, versions
from .hub import absent, bring, cache_folder, cached, disk_problem, free_disk, gigabytes
from .plans import FP16_VAE, TINY_VAE, VAE, VAES, Plan, Source

# What a device needs beside weights and live tensors, an assumption: CUDA's context, and what the
# allocator and the kernels borrow.
CONTEXT, BORROWED = 600_000_000, 1.1
MEASURES = {
    "slicing": "VAE slicing: pictures are decoded one by one; changes no pixel",
    "offload": "model CPU offload: each module visits the GPU when it runs; same pixels, slower",
}
# What `lcm_nb.load(..., faster=)` takes, and what it costs.
FASTER = {
    "fp16-vae": f"{FP16_VAE.repo} in place of SDXL's VAE: decodes in float16 on a GPU; pixels differ a little",
    "tiny-vae": "a VAE of a thirtieth of the size: decodes in a fraction of the time; fine detail is lost",
    "compile": "torch.compile of the UNet's blocks: the first picture waits for it; last bits differ",
}
MEASURES |= FASTER
CAPABILITY = (8, 0)  # of a GPU, from which on Triton compiles for its matrix units
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
        rows += [("faster", f"lcm_nb.load(..., faster={name!r}): {FASTER[name]}") for name in self._faster()]
        rows += [("problem", problem) for problem in self.problems] or [("verdict", "it will run")]
        width = max(len(name) for name, _ in rows)
        last, lines = "", [f"{self.plan.section.name}, model {self.names.model}"]
        for name, line in rows:
            lines.append(f"  {name if name != last else '':<{width}}  {line}")
            last = name
        return "\n".join(lines)

    def _faster(self) -> list[str]:
        names = self.names
        return [
            name
            for name in FASTER
            if name not in names.measures and not faster_problem(self.plan, names.device, (*names.measures, name))
        ]

    def _measures(self) -> list[str]:
        kind = kind_of_weights(self.names)
        vae = "; SDXL's VAE decodes in float32" if _upcasts(self.plan, self.names.device, self.names.measures) else ""
        return [f"weights in {kind}{vae}", *(MEASURES[measure] for measure in self.names.measures)]


def kind_of_weights(names: Checkpoints) -> str:
    """Return in what the weights are, and what that means on a CPU."""
    kind = str(names.dtype).removeprefix("torch.")
    if not _on_cpu(names.device):
        return kind
    if names.dtype == torch.bfloat16:
        here = "which this CPU computes" if computes_bfloat16() else "which this CPU does not compute itself: slow"
        return f"{kind}, {here}; rounded otherwise than in float32"
    return f"{kind}, on the CPU: slow"


def resolve_faster(faster: str | Iterable[str], plan: Plan, profile: str, device: str) -> tuple[str, ...]:
    """Return what is to make pictures faster, without duplicates, in the order of ``FASTER``.

    Raises
    ------
    ValueError
        For what is unknown, or cannot be had here, with the remedy.
    """
    wanted = (faster,) if isinstance(faster, str) else tuple(faster)
    for name in wanted:
        if not isinstance(name, str) or name not in FASTER:
            raise ValueError(f"faster is {shown(name)}; use one or more of {', '.join(map(repr, FASTER))}.")
    if wanted and profile != "guide":
        raise ValueError(f"faster={wanted[0]!r} is for the guide's models; use profile='guide', or leave faster out.")
    if problem := faster_problem(plan, device, wanted):
        raise ValueError(problem)
    return tuple(name for name in FASTER if name in wanted)


def faster_problem(plan: Plan, device: str, faster: Iterable[str]) -> str:
    """Return in one sentence why something of ``FASTER`` cannot be had here, "" if it can."""
    wanted = set(faster)
    if wanted >= set(VAES):
        return f"faster names two VAEs; leave {' or '.join(map(repr, VAES))} out."
    if "fp16-vae" in wanted and plan.family not in VAES["fp16-vae"]:
        return f"faster='fp16-vae' is for SDXL's VAE, and that of {plan.model.name} is safe in float16; leave it out."
    if "compile" not in wanted:
        return ""
    if plan.styles:
        return f"faster='compile' would compile {plan.section.name} anew at every scale of a style; leave it out."
    if not device.startswith("cuda"):
        return f"faster='compile' is for CUDA GPUs, and device is {device!r}; leave it out."
    found = torch.cuda.get_device_capability(device)
    if found < CAPABILITY:
        return (
            f"faster='compile' needs compute capability {'.'.join(map(str, CAPABILITY))}, and "
            f"{torch.cuda.get_device_name(device)} has {'.'.join(map(str, found))}; leave it out."
        )
    return ""


def examine(
    plan: Plan,
    device: str,
    commits: Mapping[str, str] | None = None,
    *,
    dtype: torch.dtype | None = None,
    faster: tuple[str, ...] = (),
) -> Report:
    """Return how a plan of the guide profile fits this computer; asks nobody and changes nothing.

    Parameters
    ----------
    plan
        A section with a model (:func:`lcm_nb.models.plans.plan_for`).
    device
        A torch device (:func:`lcm_nb.models.device.resolve_device`).
    commits
        Part -> commit to take of it, for those that are not to be the pinned or newest.
    dtype
        Of the weights; default: as the device computes best.
    faster
        Some of ``FASTER`` (:func:`resolve_faster`).
    """
    commits = commits or {}
    sources = {part: replace(source, commit=commits.get(part)) for part, source in plan.sources.items()}
    names, free = guide_checkpoints(replace(plan, sources=sources), device), _free_memory(device)
    names = replace(names, dtype=dtype or names.dtype)
    measures, needed = fit(plan, device, free, dtype=names.dtype, faster=faster)
    names = replace(names, measures=measures)
    if vae := next((VAES[measure][plan.family] for measure in measures if measure in VAES), None):
        names = replace(names, vae=vae.repo)
        sources = with_vae(sources, replace(vae, commit=commits.get("vae")))
    download, disk = sum(map(absent, sources.values())), free_disk()
    problems = _problems(names, plan, needed, free, download)
    return Report(plan, names, sources, needed, free, download, disk, problems)


def prepare(
    plan: Plan,
    device: str,
    *,
    commits: Mapping[str, str] | None = None,
    dtype: torch.dtype | None = None,
    faster: tuple[str, ...] = (),
    tell: Callable[[str], None] = print,
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
    report = examine(plan, device, commits, dtype=dtype, faster=faster)
    if report.problems:
        raise OSError(f"{plan.section.name} cannot be loaded. {' '.join(report.problems)}")
    folders = bring(report.sources, tell)
    if _on_cpu(device):
        tell(f"Weights in {kind_of_weights(report.names)}.")
    changes = [MEASURES[measure] for measure in report.names.measures if measure not in ("slicing", *faster)]
    if changes:
        tell(f"To fit {gigabytes(report.free)} of memory: {'; '.join(changes)}.")
    parts = report.names.parts
    return replace(report.names, revisions={part: folders[part].name for part in parts}), folders


def fit(
    plan: Plan, device: str, free: int, *, dtype: torch.dtype = torch.float16, faster: tuple[str, ...] = ()
) -> tuple[tuple[str, ...], int]:
    """Return the least measures with which a plan fits, and the bytes of memory that it needs then.

    Parameters
    ----------
    device
        "cuda" and the like take measures one after the other (``LADDER``); "cpu" none.
    free
        Bytes of the device's memory. Where nothing suffices, the last measures are returned.
    dtype
        Of the weights on a CPU.
    faster
        What was asked for besides.
    """
    steps: list[tuple[str, ...]] = [()] if _on_cpu(device) else LADDER if device.startswith("cuda") else LADDER[:1]
    other = plan.family != "xl" or set(VAES).intersection(faster)
    ladder = [(*step, *(m for m in faster if m not in step)) for step in steps if not (other and "fp16-vae" in step)]
    width = torch.empty(0, dtype=dtype).element_size() if _on_cpu(device) else 2
    needs = [(measures, _needed(plan, device, measures, width)) for measures in ladder]
    return next((need for need in needs if need[1] <= free), needs[-1])


def _needed(plan: Plan, device: str, measures: tuple[str, ...], width: int) -> int:
    """Return the most memory of the device that a run takes, in bytes; ``width`` is that of a number."""
    numbers, tiny = plan.numbers, "tiny-vae" in measures
    upcast = _upcasts(plan, device, measures)
    decode = plan.decode * (4 if upcast else width) // (4 if plan.family == "xl" else 2)  # SDXL's is in float32
    decode, count = (decode // 4, TINY_VAE) if tiny else (decode, VAE)
    numbers["vae"] = count
    if _on_cpu(device):
        return width * sum(numbers.values()) + max(width // 2 * plan.step, decode)
    vae = (4 if upcast else 2) * count
    if "offload" in measures:
        together = sum(2 * numbers.get(name, 0) for name in ("unet", "loras", "controlnet", "adapter"))
        stays = 2 * numbers.get("safety_checker", 0)  # diffusers never moves it off the GPU
        live = stays + max(together + plan.step, vae + decode, 2 * numbers.get("text_encoder_2", 0))
    else:
        live = 2 * sum(numbers.values()) + max(plan.step, decode + vae - 2 * count)
    return int(live * BORROWED + CONTEXT)


def _upcasts(plan: Plan, device: str, measures: tuple[str, ...]) -> bool:
    """Return whether the pipeline turns the VAE into float32 to decode, as SDXL's do lest it overflow."""
    return plan.family == "xl" and not set(VAES).intersection(measures) and not _on_cpu(device)


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


def with_vae(sources: Mapping[str, Source], vae: Source) -> dict[str, Source]:
    """Return the sources with another VAE instead of the base's own."""
    base = sources["base"]
    weights = {stem: count for stem, count in base.weights.items() if not stem.startswith("vae/")}
    return {**sources, "base": replace(base, weights=weights), "vae": vae}


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
    here = psutil.virtual_memory().available
    if device.startswith("mps"):  # the same memory, of which Metal advises against using all
        return max(0, min(here, torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()))
    return here


def _device_name(device: str) -> str:
    if device.startswith("cuda"):
        return f"{device} ({torch.cuda.get_device_name(device)})"
    if device.startswith("mps"):
        return f"{device} (Apple's GPU)"
    return f"{device} ({psutil.cpu_count(logical=False) or psutil.cpu_count()} cores)" if device == "cpu" else device
