"""A computer with the memory that full-size models need, and with the faults that ``SIMULATE`` names.

Python imports this by itself where the folder is on PYTHONPATH: the tests' processes load tiny
replicas by the plans of the real models.
"""

import errno
import os
from types import SimpleNamespace

FAULTS = os.environ.get("SIMULATE", "").split()


def _memory() -> None:
    import psutil

    psutil.virtual_memory = lambda: SimpleNamespace(available=int(os.environ.get("MEMORY", 64_000_000_000)))


def _small_disk() -> None:
    import shutil

    shutil.disk_usage = lambda path: SimpleNamespace(total=10**9, used=10**9 - 1000, free=1000)


def _disk_fills_up() -> None:
    """Fail the first write of a download as a full disk does."""
    from huggingface_hub import file_download

    real = file_download.http_get

    def http_get(*arguments, **options):
        file_download.http_get = real
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    file_download.http_get = http_get


def _small_chunks() -> None:
    """Write a download in parts that are small beside a replica, as the client's are beside a real file."""
    from huggingface_hub import constants

    constants.DOWNLOAD_CHUNK_SIZE = 65536


def _read_only() -> None:
    """Let nothing be written below the cache."""
    import builtins

    cache = os.path.join(os.environ["HF_HOME"], "hub")

    def guarded(real, writes):
        def call(path, *arguments, **options):
            if str(path).startswith(cache) and writes(path, *arguments, **options):
                raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
            return real(path, *arguments, **options)

        return call

    os.mkdir = guarded(os.mkdir, lambda path, *rest, **options: not os.path.exists(path))
    os.open = guarded(os.open, lambda path, flags, *rest, **options: flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
    builtins.open = guarded(builtins.open, lambda path, mode="r", *rest, **options: set(mode) & set("wxa+"))


def _no_waiting() -> None:
    """Let the pauses between two tries be short."""
    import time

    real = time.sleep
    time.sleep = lambda seconds: real(min(seconds, 0.01))


def _no_links() -> None:
    """Be a disk without symbolic links: the cache holds plain files."""
    from huggingface_hub import file_download

    file_download.are_symlinks_supported = lambda *arguments, **options: False


def _no_peft() -> None:
    import importlib.util

    real = importlib.util.find_spec
    importlib.util.find_spec = lambda name, *rest: None if name == "peft" else real(name, *rest)


def _gpu_memory_runs_out() -> None:
    """Fail the first move of a pipeline to its device, and the first run, as a full GPU does."""
    import torch
    from diffusers import DiffusionPipeline, StableDiffusionXLPipeline

    def once(kind, name):
        real = getattr(kind, name)

        def fail(*arguments, **options):
            setattr(kind, name, real)
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")

        setattr(kind, name, fail)

    once(DiffusionPipeline, "to")
    once(StableDiffusionXLPipeline, "__call__")


def _colab() -> None:
    """Be Colab with a secret, which only the main thread may ask for."""
    import builtins
    import sys
    import threading
    from types import ModuleType

    def get(name: str) -> str:
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError("a secret was asked for beside the main thread")
        return f"secret {name}".replace(" ", "-")

    userdata, errors = ModuleType("google.colab.userdata"), ModuleType("google.colab.errors")
    userdata.get, errors.Error = get, type("Error", (Exception,), {})
    userdata.NotebookAccessError = userdata.SecretNotFoundError = type("Refused", (Exception,), {})
    colab = ModuleType("google.colab")
    colab.userdata, colab.errors = userdata, errors
    names = {"google": ModuleType("google"), "google.colab": colab}
    sys.modules.update(names | {"google.colab.userdata": userdata, "google.colab.errors": errors})
    builtins.get_ipython = lambda: "<google.colab._shell.Shell object>"


_memory()
for fault in FAULTS:
    {
        "small-disk": _small_disk,
        "full-disk": _disk_fills_up,
        "small-chunks": _small_chunks,
        "read-only": _read_only,
        "no-links": _no_links,
        "no-peft": _no_peft,
        "no-waiting": _no_waiting,
        "full-gpu": _gpu_memory_runs_out,
        "colab": _colab,
    }[fault]()
