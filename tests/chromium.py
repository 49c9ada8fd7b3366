"""What the tests in a browser share: how Chromium starts, and how a JupyterLab of one's own is waited for."""

import socket
import subprocess
import time
import urllib.request

MILLISECONDS = 120_000  # only a failing test waits that long
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-quic",
]


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def wait_for(address: str, server: subprocess.Popen, log) -> None:
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
