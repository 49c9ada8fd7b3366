"""What all tests share: the mini profile, offline, and one loaded studio."""

import os
from pathlib import Path

# Before anything imports torch or the Hub client: both read these once.
os.environ["LCM_NB_PROFILE"] = "mini"
os.environ["HF_HUB_OFFLINE"] = "1"

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository's top folder."""
    return ROOT


@pytest.fixture(scope="session")
def environment() -> dict[str, str]:
    """The environment of a process that must find this checkout's ``lcm_nb``, wherever it runs."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | {"PYTHONPATH": os.pathsep.join(paths)}


@pytest.fixture(scope="session")
def studio():
    """The text-to-image studio of the mini profile; loaded once, shared by all tests."""
    import lcm_nb

    return lcm_nb.load("text-to-image")
