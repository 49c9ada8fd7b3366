"""Which profile runs, and the checkpoint names, dtype and device that go with it."""

import contextlib
import ctypes
import importlib.metadata
import importlib.util
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from ..settings import LORAS, recipe_for
from .plans import MAIN, Plan, models, plan_for

PARTS = ("base", "unet", "controlnet", "adapter", "vae", "lcm_lora", "loras")
PROFILES = ("mini", "guide")
MINI = Path(__file__).parents[1] / "mini"
MINI_LCM_LORA, MINI_LORA_PARTS = "lcm-lora-sdv1-5", {"base": "sd", "lcm_lora": "lcm-lora", "loras": "sd-loras"}
# diffusers 0.40 renamed the argument; older versions ignore the new name and load float32.
_NEW_NAME = tuple(map(int, importlib.metadata.version("diffusers").split(".")[:2])) >= (0, 40)
DTYPE_ARGUMENT = "dtype" if _NEW_NAME else "torch_dtype"
LIBRARIES = ("torch", "diffusers", "transformers", "accelerate", "peft", "ipywidgets", "pillow")


@dataclass(frozen=True)
class Checkpoints:
    """What the plain diffusers cells need.

    ``base``, ``unet``, ``controlnet``, ``adapter``, ``vae``, ``lcm_lora`` and ``loras`` are Hub names
    or folders, None where there is none; ``styles`` names the LoRAs in ``loras``. ``device`` goes to
    ``pipe.to``. ``variants`` and ``revisions`` map parts to what is set for them, and ``measures``
    are what is done to fit the device's memory (:mod:`lcm_nb.models.doctor`).
    """

    base: str
    dtype: torch.dtype
    device: str
    profile: str
    model: str
    unet: str | None = None
    controlnet: str | None = None
    adapter: str | None = None
    vae: str | None = None
    lcm_lora: str | None = None
    loras: str | None = None
    styles: tuple[str, ...] = ()
    detect_side: int | None = None
    measures: tuple[str, ...] = ()
    variants: Mapping[str, str] = field(default_factory=dict)
    revisions: Mapping[str, str] = field(default_factory=dict)

    @property
    def parts(self) -> dict[str, str]:
        """Return the names of what is loaded, by part."""
        return {name: getattr(self, name) for name in PARTS if getattr(self, name)}

    @property
    def loading(self) -> dict[str, dict[str, object]]:
        """Return for each part the keyword arguments of ``from_pretrained`` of the installed diffusers.

        Those of a LoRA are for ``load_lora_weights``. Pickles are never opened.
        """
        return {part: self._loading(part) for part in self.parts}

    def moved(self, folders: Mapping[str, Path]) -> "Checkpoints":
        """Return the same with parts read from folders of this computer."""
        places = {part: str(folders[part]) for part in self.parts if part in folders}
        return replace(self, **places, revisions={}) if places else self

    def _loading(self, part: str) -> dict[str, object]:
        arguments = {} if part in ("loras", "lcm_lora") else {DTYPE_ARGUMENT: self.dtype}
        if part in self.variants:
            arguments["variant"] = self.variants[part]
        if part in self.revisions:
            arguments["revision"] = self.revisions[part]
        return arguments | {"use_safetensors": True}


def resolve_profile(profile: str | None = None) -> str:
    """Return ``profile``, else ``LCM_NB_PROFILE``, else "guide" with CUDA and "mini" without.

    Raises
    ------
    ValueError
        If the name is neither "mini" nor "guide"; the message gives it.
    """
    source = "profile" if profile is not None else "The environment variable LCM_NB_PROFILE"
    chosen = profile if profile is not None else os.environ.get("LCM_NB_PROFILE")
    if not chosen:
        return "guide" if torch.cuda.is_available() else "mini"
    if chosen not in PROFILES:
        raise ValueError(f"{source} is {chosen!r}; use 'mini' (small models, any computer) or 'guide' (a GPU).")
    return chosen


def resolve_device(device: str | None = None) -> str:
    """Return ``device``, else "cuda" where there is one, else "cpu".

    Raises
    ------
    ValueError
        If the device does not exist here; the message says which do.
    """
    if device is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError):
        there = resolve_device()
        raise ValueError(f"device {device!r} is not available here; use {there!r} or leave it out.") from None
    return str(device)


def reuse_memory() -> None:
    """Let this process keep large buffers for reuse.

    Linux's allocator (glibc) hands them back to the system after each use and asks for them again
    at once, which costs a picture on a CPU a quarter of its time. The limits are mallopt(3)'s.
    """
    mmap_threshold, trim_threshold = -3, -1
    with contextlib.suppress(OSError, AttributeError, TypeError):  # another system, another allocator
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(mmap_threshold, 2**25)
        mallopt(trim_threshold, 2**29)


def checkpoints(
    section: str, profile: str | None = None, device: str | None = None, model: str | None = None
) -> Checkpoints:
    """Return the names, dtype, variants and device that the plain diffusers cells use.

    Parameters
    ----------
    section
        One of ``lcm_nb.SECTIONS``.
    profile, device
        As in :func:`lcm_nb.load`.
    model
        One of ``lcm_nb.models.plans.models(section)``; default: the guide's. The mini family has the guide's and,
        where a section has it, "lcm-lora-sdv1-5".

    Raises
    ------
    ValueError
        For an unknown section, profile, device or model.
    """
    plan = plan_for(section, model)
    model = model or models(section)[0]
    profile, device = resolve_profile(profile), resolve_device(device)
    if profile == "guide":
        return _guide_checkpoints(plan, device, model)
    if model not in (models(section)[0], MINI_LCM_LORA):
        raise ValueError(f"The mini profile has no {model!r}; use profile='guide' for it, or leave model out.")
    return mini_checkpoints(section, device, model=model)


def _guide_checkpoints(plan: Plan, device: str, model: str) -> Checkpoints:
    sources = {part: source for part, source in plan.sources.items() if part in PARTS}
    return Checkpoints(
        **{part: source.repo for part, source in sources.items()},
        dtype=_dtype(device),
        device=device,
        profile="guide",
        model=model,
        styles=tuple(plan.sources["loras"].weights) if "loras" in sources else (),
        detect_side=plan.detect_side,
        variants={part: source.variant for part, source in sources.items() if source.variant},
        revisions={part: source.revision for part, source in sources.items() if source.revision != MAIN},
    )


def mini_checkpoints(section: str, device: str, folder: Path = MINI, *, model: str | None = None) -> Checkpoints:
    """Return a section's checkpoints in a folder that is laid out like the one that ships."""
    parts, first = dict(recipe_for(section).mini), models(section)[0]
    if model == MINI_LCM_LORA:  # on SD's own UNet; the style that fits it is there for plain code
        parts = {name: part for name, part in parts.items() if name in ("controlnet", "adapter")} | MINI_LORA_PARTS
    names = {name: str(folder / part) for name, part in parts.items()}
    styles = LORAS if section == "style-lora" else ()
    return Checkpoints(
        **names, dtype=_dtype(device), device=device, profile="mini", model=model or first, styles=styles
    )


def _dtype(device: str) -> torch.dtype:
    """Return float16 for GPUs; CPUs compute it slowly or not at all."""
    return torch.float32 if device.startswith("cpu") else torch.float16


def peft_problem(names: Checkpoints) -> str:
    """Return in one sentence what LoRAs lack here, "" if nothing."""
    if not (names.loras or names.lcm_lora) or importlib.util.find_spec("peft"):
        return ""
    return "LoRAs need the package peft: `pip install peft`, then restart the kernel."


def info() -> dict[str, str]:
    """Return versions, device and profile as text."""
    device = resolve_device()
    name = torch.cuda.get_device_name() if device == "cuda" else f"{os.cpu_count()} CPU cores"
    return {
        "lcm_nb": importlib.metadata.version("lcm_nb"),
        "python": platform.python_version(),
        **versions(),
        "device": f"{device} ({name})",
        "profile": resolve_profile(),
    }


def versions() -> dict[str, str]:
    """Return the versions of the libraries that make a picture."""
    return {library: _version(library) for library in LIBRARIES}


def _version(library: str) -> str:
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
