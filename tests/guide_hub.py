"""Processes that run lcm_nb's guide profile against a Hub on this computer: the client reads its environment once."""

import json
import os
import subprocess
import sys
from pathlib import Path

from loopback import Hub

TESTS = Path(__file__).parent
SIMULATED = TESTS / "simulated"


def environment_of(hub: Hub, home: Path, environment: dict[str, str], **more: str) -> dict[str, str]:
    """Return the environment of a process whose Hub is the loopback one and whose cache is ``home``."""
    own = {"HF_ENDPOINT": hub.url, "HF_HOME": str(home), "LCM_NB_PROFILE": "guide"}
    paths = os.pathsep.join([str(SIMULATED), str(TESTS), environment["PYTHONPATH"]])
    env = {k: v for k, v in environment.items() if k not in ("HF_HUB_OFFLINE", "HF_TOKEN", "HF_HUB_CACHE")}
    return env | own | {"PYTHONPATH": paths} | more


def python(code: str, env: dict[str, str]) -> subprocess.CompletedProcess:
    """Run some code in a process of its own."""
    return subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)


def answer(done: subprocess.CompletedProcess) -> dict:
    """Return the JSON on the last line of a process that ended well."""
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def downloads(log: list[tuple]) -> set[str]:
    """Return "repository/file" of every file whose content was sent."""
    paths = [path for method, path, status, _ in log if method == "GET" and status in (200, 206)]
    parts = [path.split("/resolve/") for path in paths if "/resolve/" in path]
    return {f"{repo.lstrip('/')}/{rest.partition('/')[2]}" for repo, rest in parts}
