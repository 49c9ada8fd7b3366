"""``lcm-nb check``: is this computer ready for the notebooks? It draws, here and in a Jupyter kernel."""

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import time
import webbrowser
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import psutil

MEMORY = 1_000_000_000  # bytes that a notebook takes; 08 takes 1.2 GB (tests/test_memory.py)
DISK = 200_000_000  # bytes for notebooks with pictures in them
SECONDS = 45  # that a kernel may take
PROMPT, STEPS = "a cute fox in a meadow", 4
BROWSERS = ("firefox", "google-chrome", "chromium", "chromium-browser", "microsoft-edge", "safari")
SOMEWHERE_ELSE = ("JUPYTERHUB_USER", "CODESPACES", "COLAB_RELEASE_TAG")  # the reader's browser is not on this computer
LIMITS = (  # of a container, and what it has used: control groups 2, and 1
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)
# Runs in the kernel. The picture's hash proves that the kernel draws what this process does.
CODE = f"""
import hashlib, sys
print("python", sys.executable)
import lcm_nb
studio = lcm_nb.load("text-to-image", profile="mini", device="cpu")
result = studio.generate(prompt={PROMPT!r}, num_inference_steps={STEPS}, seed=0)
print("picture", hashlib.sha256(result.image.tobytes()).hexdigest())
studio.panel()
"""


class Problem(Exception):
    """What is wrong, and the remedy, in one sentence."""


def check(tell: Callable[[str], None] = print) -> bool:
    """Say in one line each what is well and what is not, and return whether all is.

    Takes less than a minute, downloads nothing and leaves nothing behind.
    """
    start, problems = time.monotonic(), 0
    for name, look in CHECKS.items():
        try:
            tell(f"{name:8} ok       {look()}")
        except Exception as error:
            problems += 1
            tell(f"{name:8} problem  {error if isinstance(error, Problem) else _unforeseen(error)}")
    took = f"{time.monotonic() - start:.0f} s"
    tell(f"Ready, in {took}." if not problems else f"Not ready: {problems} of {len(CHECKS)} checks failed, in {took}.")
    return not problems


def _unforeseen(error: Exception) -> str:
    words = " ".join(str(error).split()) or "without a message"
    return f"{type(error).__name__}: {words}; install again as the README says, or report this with `lcm-nb info`."


def _memory() -> str:
    free, limit = psutil.virtual_memory().available, psutil.virtual_memory().total
    for most, used in LIMITS:
        try:
            allowed = int(Path(most).read_text())
            free, limit = min(free, allowed - int(Path(used).read_text())), min(limit, allowed)
        except (OSError, ValueError):  # no such group, or "max"
            continue
    found = f"{free / 1e9:.1f} GB free of {limit / 1e9:.1f} GB"
    if free < MEMORY:
        raise Problem(f"{found}; a notebook takes about {MEMORY / 1e9:.0f} GB: close other programs and notebooks.")
    return found


def _disk() -> str:
    free = shutil.disk_usage(".").free
    if not os.access(".", os.W_OK):
        raise Problem(f"{Path.cwd()} may not be written to; go to a folder of yours, where notebooks can be saved.")
    if free < DISK:
        raise Problem(f"{free / 1e6:.0f} MB free in {Path.cwd()}; free {DISK / 1e6:.0f} MB, or choose another disk.")
    return f"{free / 1e9:.1f} GB free"


def _models() -> str:
    from .models.hashes import check_family

    try:
        check_family()
    except OSError as error:
        raise Problem(str(error)) from None
    return "the small models are whole"


def _draws() -> str:
    from .models.judge import load

    result = _own()
    seen = load().describe(result.image)["subjects"][0]
    if seen != "fox":
        raise Problem(f"a fox was drawn that looks like a {seen}; install the locked versions: requirements.txt.")
    return f"a fox, in {STEPS} steps and {result.seconds:.2f} s"


@cache
def _own() -> Any:
    """Return what this process draws."""
    from .studio import load

    return load("text-to-image", profile="mini", device="cpu").generate(
        prompt=PROMPT, num_inference_steps=STEPS, seed=0
    )


def _kernel() -> str:
    from jupyter_client.manager import start_new_kernel

    quiet = dict(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        manager, client = start_new_kernel(startup_timeout=SECONDS, kernel_name="python3", **quiet)
    except (RuntimeError, OSError) as error:
        raise Problem(f"no Jupyter kernel starts ({error}); run `python -m ipykernel install --sys-prefix`.") from None
    try:
        printed, failed, shown = _answers(_messages(client))
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    python = printed.get("python", "another Python")
    if failed:
        raise Problem(f"the kernel runs {python} and fails with {failed}; {_remedy(python)}")
    if printed["picture"] != hashlib.sha256(_own().image.tobytes()).hexdigest():
        raise Problem(f"the kernel runs {python} and draws another picture than this one does; {_remedy(python)}")
    if not shown:
        raise Problem(f"the kernel shows no panel; run `{sys.executable} -m pip install ipywidgets`, and start again.")
    return "draws the same picture, and opens a panel"


def _remedy(python: str) -> str:
    if python != sys.executable:
        return f"run `{sys.executable} -m ipykernel install --user`, so that Jupyter takes this Python."
    return "install lcm_nb again as the README says."


def _messages(client: Any) -> Iterator[dict[str, Any]]:
    """Yield what the kernel publishes while it runs ``CODE``."""
    from queue import Empty

    sent, end = client.execute(CODE), time.monotonic() + SECONDS
    while True:
        try:
            message = client.get_iopub_msg(timeout=max(0.1, end - time.monotonic()))
        except Empty:
            raise Problem(f"the kernel did not draw within {SECONDS} s; close other programs, and try again.") from None
        if message["parent_header"].get("msg_id") == sent:
            yield message
            if message["content"].get("execution_state") == "idle":
                return


def _answers(messages: Iterator[dict[str, Any]]) -> tuple[dict[str, str], str, bool]:
    """Return what was printed by its first word, an error if there was one, and whether a widget was shown."""
    text, failed, shown = "", "", False
    for message in messages:
        content = message["content"]
        text += content["text"] if message["msg_type"] == "stream" else ""
        if message["msg_type"] == "error":
            failed = f"{content['ename']}: {' '.join(content['evalue'].split())}"
        shown |= "application/vnd.jupyter.widget-view+json" in content.get("data", {})
    words = (line.partition(" ") for line in text.splitlines())
    return {first: rest for first, _, rest in words}, failed, shown


def _jupyter() -> str:
    if os.environ.get("COLAB_RELEASE_TAG"):
        return "Colab's own"
    if not importlib.util.find_spec("jupyterlab"):
        raise Problem(f"JupyterLab is not installed; run `{sys.executable} -m pip install jupyterlab`.")
    from importlib.metadata import version

    return f"JupyterLab {version('jupyterlab')}"


def _browser() -> str:
    if any(os.environ.get(name) for name in SOMEWHERE_ELSE):
        return "yours, at the other end"
    try:
        return str(getattr(webbrowser.get(), "name", "the system's own"))
    except webbrowser.Error:
        found = next(filter(shutil.which, BROWSERS), None)
    if not found:
        raise Problem("none found; install Firefox or Chrome, or open the address that Jupyter prints elsewhere.")
    return f"{found}; there is no display here, so open the address that Jupyter prints"


CHECKS = {
    "memory": _memory,
    "disk": _disk,
    "models": _models,
    "drawing": _draws,
    "kernel": _kernel,
    "jupyter": _jupyter,
    "browser": _browser,
}
