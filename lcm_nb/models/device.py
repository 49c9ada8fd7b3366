"""What this computer has: its device, its libraries, and what they are called."""

import contextlib
import ctypes
import importlib.metadata
import importlib.util
import os
import platform
from typing import TYPE_CHECKING

from ..files import shown

if TYPE_CHECKING:
    import torch

PROFILES = ("mini", "guide")
LIBRARIES = ("torch", "diffusers", "transformers", "accelerate", "peft", "ipywidgets", "pillow", "openvino")
SERVER, TOKEN = "LCM_NB_SERVER", "LCM_NB_TOKEN"  # environment variables: who draws, and what lets in
RUNTIMES = ("diffusers", "openvino", "openvino-float32")


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
        import torch

        return "guide" if torch.cuda.is_available() else "mini"
    if chosen not in PROFILES:
        raise ValueError(f"{source} is {shown(chosen)}; use 'mini' (small models, any computer) or 'guide' (a GPU).")
    return chosen


def resolve_device(device: str | None = None) -> str:
    """Return ``device``, else "cuda" where there is one, else Apple's "mps", else "cpu".

    Raises
    ------
    ValueError
        If the device does not exist here; the message says which do.
    """
    import torch

    if device is None:
        return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        kind = torch.device(device).type if isinstance(device, (str, torch.device)) else "meta"
        if kind == "meta":  # holds no numbers: nothing can be drawn with it
            raise RuntimeError
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError):
        there = resolve_device()
        raise ValueError(f"device {shown(device)} is not available here; use {there!r} or leave it out.") from None
    return str(device)


def resolve_runtime(runtime: str | None, device: str | None) -> tuple[str, str]:
    """Return what draws, and on which device: "diffusers" unless another is named; OpenVINO has the CPU.

    "openvino" computes in bfloat16 where the CPU does, "openvino-float32" never.

    Raises
    ------
    ValueError
        For an unknown runtime, or a device that it cannot use.
    ImportError
        If the runtime's package is not installed.
    """
    name = runtime or "diffusers"
    if name not in RUNTIMES:
        raise ValueError(f"runtime is {runtime!r}; use one of {', '.join(map(repr, RUNTIMES))}.")
    if name == "diffusers":
        return name, resolve_device(device)
    if device not in (None, "cpu"):
        raise ValueError(
            f"runtime {name!r} computes on the CPU, and device is {device!r}; leave device out, "
            "or use runtime='diffusers'."
        )
    if not importlib.util.find_spec("openvino"):
        raise ImportError(
            f'runtime {name!r} needs the package openvino: `pip install "lcm_nb[openvino]"`, then restart the kernel.'
        )
    return name, "cpu"


def computes_bfloat16() -> bool:
    """Return whether this CPU computes bfloat16 itself, by AVX-512 or AMX, and does not emulate it."""
    import torch

    return bool(
        getattr(torch.cpu, "_is_avx512_bf16_supported", bool)() or getattr(torch.cpu, "_is_amx_tile_supported", bool)()
    )


def weights_dtype(device: str, profile: str = "mini") -> "torch.dtype":
    """Return float16 for GPUs, float32 for CPUs, and bfloat16 for the guide's models on CPUs that compute it."""
    import torch

    if not device.startswith("cpu"):
        return torch.float16
    return torch.bfloat16 if profile == "guide" and computes_bfloat16() else torch.float32


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


def info() -> dict[str, str]:
    """Return versions, device and profile as text; where a server draws, its address instead of these two."""
    known = {"lcm_nb": importlib.metadata.version("lcm_nb"), "python": platform.python_version(), **versions()}
    if server := os.environ.get(SERVER):
        return known | {"server": server}
    return known | {"device": device_name(resolve_device()), "profile": resolve_profile()}


def device_name(device: str) -> str:
    """Return a torch device with what it is: "cuda (NVIDIA A100)"."""
    import torch

    if device.startswith("cuda"):
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return f"{device} (Apple's GPU)" if device == "mps" else f"{device} ({os.cpu_count()} CPU cores)"


def versions() -> dict[str, str]:
    """Return the versions of the libraries that make a picture."""
    return {library: _version(library) for library in LIBRARIES}


def _version(library: str) -> str:
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


# diffusers 0.40 renamed the argument; older versions ignore the new name and load float32.
DTYPE_ARGUMENT = "torch_dtype" if _version("diffusers").startswith(("0.38.", "0.39.")) else "dtype"
