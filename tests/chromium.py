"""What the tests in a browser share: Chromium, and a JupyterLab of one's own."""

import contextlib
import json
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import nbformat

MILLISECONDS = 120_000  # only a failing test waits that long
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-quic",
    "--use-fake-device-for-media-stream",
]
TOKEN = "only-for-this-run"


@contextlib.contextmanager
def chromium() -> Iterator[Any]:
    """Start Debian's Chromium and yield it as Playwright's browser."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as browsers:
        browser = browsers.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        yield browser
        browser.close()


def write_notebook(path: Path, cells: Sequence[str]) -> None:
    """Write a notebook with these code cells."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, path)


def lab_command(options: list[str]) -> list[str]:
    """Return the command that starts JupyterLab."""
    return [sys.executable, "-m", "jupyterlab", "--allow-root", *options]


@contextlib.contextmanager
def jupyterlab(
    folder: Path, environment: Mapping[str, str], command: Callable[[list[str]], list[str]] = lab_command
) -> Iterator[str]:
    """Run a JupyterLab that knows no settings but its own, and log to ``folder/server.log``.

    Yields the address of a file in the folder, with "{}" in place of its name; ``command`` is given the options.
    """
    # Jupyter's news would ask a server elsewhere, and put a question over the page.
    news = folder / "settings" / "@jupyterlab" / "apputils-extension" / "notification.jupyterlab-settings"
    news.parent.mkdir(parents=True)
    news.write_text(json.dumps({"fetchNews": "false", "checkForUpdates": False}))
    own = {f"JUPYTER_{name.upper()}_DIR": str(folder / name) for name in ("config", "data", "runtime")}
    own |= {f"JUPYTERLAB_{name.upper()}_DIR": str(folder / name) for name in ("settings", "workspaces")}
    own["IPYTHONDIR"] = str(folder / "ipython")
    port, log = free_port(), folder / "server.log"
    options = ["--no-browser", f"--port={port}", "--ip=127.0.0.1", "--ServerApp.port_retries=0"]
    options += [f"--IdentityProvider.token={TOKEN}", f"--ServerApp.root_dir={folder}"]
    with log.open("w") as out:
        server = subprocess.Popen(command(options), env={**environment, **own}, cwd=folder, stdout=out, stderr=out)
        try:
            wait_for(f"http://127.0.0.1:{port}/api/status?token={TOKEN}", server, log)
            yield f"http://127.0.0.1:{port}/lab/tree/{{}}?token={TOKEN}&reset"
        finally:
            server.terminate()
            server.wait(30)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def wait_for(address: str, server: subprocess.Popen, log: Path) -> None:
    """Wait until the server answers."""
    for _ in range(MILLISECONDS // 500):
        try:
            urllib.request.urlopen(address, timeout=5).close()
            return
        except OSError:
            time.sleep(0.5)
        if server.poll() is not None:
            break
    raise RuntimeError(f"JupyterLab did not start:\n{log.read_text()}")
