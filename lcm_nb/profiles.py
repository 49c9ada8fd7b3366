"""Which profile runs, and the checkpoint names, dtype and device that go with it."""

import contextlib
import ctypes
import importlib.metadata
import os
import platform
from dataclasses import dataclass
from pathlib import Path

import torch

from .recipes import recipe_for

PROFILES = ("mini", "guide")
MINI = Path(__file__).parent / "mini"
# diffusers 0.40 renamed the argument; older versions ignore the new name and load float32.
_NEW_NAME = tuple(map(int, importlib.metadata.version("diffusers").split(".")[:2])) >= (0, 40)
DTYPE_ARGUMENT = "dtype" if _NEW_NAME else "torch_dtype"
LIBRARIES = ("torch", "diffusers", "transformers", "accelerate", "peft", "ipywidgets", "pillow")


@dataclass(frozen=True)
class Checkpoints:
    """What the plain diffusers cells need.

    ``base``, ``unet``, ``controlnet``, ``adapter`` and ``loras`` are Hub names or folders,
    None where the section has none; ``loading`` holds the keyword arguments of
    ``from_pretrained``; ``device`` goes to ``pipe.to``.
    """

    base: str
    dtype: torch.dtype
    variant: str | None
    device: str
    profile: str
    unet: str | None = None
    controlnet: str | None = None
    adapter: str | None = None
    loras: str | None = None

    @property
    def parts(self) -> dict[str, str]:
        """Return the names of what is loaded, by part."""
        names = ("base", "unet", "controlnet", "adapter", "loras")
        return {name: getattr(self, name) for name in names if getattr(self, name)}

    @property
    def loading(self) -> dict[str, object]:
        """Return dtype and variant as ``from_pretrained`` of the installed diffusers takes them."""
        return {DTYPE_ARGUMENT: self.dtype} | ({"variant": self.variant} if self.variant else {})


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


def checkpoints(section: str, profile: str | None = None, device: str | None = None) -> Checkpoints:
    """Return the names, dtype, variant and device that the plain diffusers cells use.

    Raises
    ------
    ValueError
        For an unknown section, profile or device.
    """
    recipe = recipe_for(section)
    profile, device = resolve_profile(profile), resolve_device(device)
    if profile == "guide":
        return Checkpoints(**recipe.guide, dtype=torch.float16, variant="fp16", device=device, profile=profile)
    return mini_checkpoints(section, device)


def mini_checkpoints(section: str, device: str, folder: Path = MINI) -> Checkpoints:
    """Return a section's checkpoints in a folder that is laid out like the one that ships."""
    names = {name: str(folder / part) for name, part in recipe_for(section).mini.items()}
    dtype = torch.float16 if device.startswith("cuda") else torch.float32
    return Checkpoints(**names, dtype=dtype, variant=None, device=device, profile="mini")


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
    return {library: importlib.metadata.version(library) for library in LIBRARIES}
