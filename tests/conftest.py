"""What all tests share: the mini profile, offline; how tests are dealt to workers; what was not run, and why."""

import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

# Before anything imports torch or the Hub client: both read these once.
os.environ["LCM_NB_PROFILE"] = "mini"
os.environ["HF_HUB_OFFLINE"] = "1"

import pytest
from loopback import Hub

ROOT = Path(__file__).resolve().parent.parent

# -- who runs what --------------------------------------------------------------------
#
# `--dist loadgroup` keeps a group on one worker, where its fixtures are made once. A test's group is its file, or
# what it is marked with, or its file and the fixture named here. The longest begin, so that no worker idles at the end.

SPLIT = {"test_training": "work", "test_browser": "lab"}
LONGEST = (
    "test_web",
    "run all 07_lcm_lora.ipynb",
    "test_memory",
    "test_training work",
    "08_distil_your_own",
    "test_browser lab",
    "guide text-to-image",
    "test_sections",
    "guide t2i-adapter",
    "guide style-lora",
    "test_guide_notebooks",
    "notebooks",
    "guide controlnet",
    "guide inpainting",
    "guide image-to-image",
    "test_guide",
    "test_studio",
    "test_hub",
    "test_panel",
    "test_training",
)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]):
    """Mark each test with its group, before xdist looks, and put the longest groups first, after pytest has sorted."""
    for item in items:
        if item.path.suffix == ".py" and not item.get_closest_marker("xdist_group"):
            item.add_marker(pytest.mark.xdist_group(_group(item)))
    result = yield
    items.sort(key=_rank)
    return result


def _group(item: pytest.Item) -> str:
    fixture = SPLIT.get(item.path.stem)
    return f"{item.path.stem} {fixture}" if fixture in item.fixturenames else item.path.stem


def _rank(item: pytest.Item) -> int:
    """Return the group's place among the longest, after them for all others."""
    mark = item.get_closest_marker("xdist_group")
    names = [mark.args[0] if mark else "notebooks", item.path.stem]
    return min((LONGEST.index(name) for name in names if name in LONGEST), default=len(LONGEST))


# -- what was not run -----------------------------------------------------------------

BROWSER = re.compile(r"(?i)chromium|playwright")  # tests that need a browser say so in the reason of their skip


def _not_run(config: pytest.Config) -> Counter[str]:
    """Return reason -> number of tests, or of whole files, that were skipped for it."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    skipped = [report.longrepr for report in reporter.stats.get("skipped", [])] if reporter else []
    return Counter(found[-1].removeprefix("Skipped: ") for found in skipped if isinstance(found, tuple))


def _fails(reasons: Counter[str]) -> bool:
    """Return whether CI has to fail because no browser was driven."""
    return os.environ.get("CI", "").lower() in ("1", "true") and any(map(BROWSER.search, reasons))


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Let CI fail where the tests in a browser did not run."""
    if not hasattr(session.config, "workerinput") and _fails(_not_run(session.config)):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(terminalreporter, config: pytest.Config):
    """Say last what was not run, and why."""
    result = yield
    reasons = _not_run(config)
    for reason, count in reasons.most_common():
        browser = bool(BROWSER.search(reason))
        what = "in a browser, not run" if browser else "not run"
        line = f"{count} {what}: {reason}" + (" (an error, because CI is set)" if browser and _fails(reasons) else "")
        terminalreporter.write_line(line, red=browser, yellow=not browser)
    return result


# -- fixtures -------------------------------------------------------------------------


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


@pytest.fixture(scope="session")
def replicas(tmp_path_factory) -> Path:
    """The folder with all repositories, made once for all workers by a process of its own, which leaves these light."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    return _once(shared / "replicas", _build)


def _build(folder: Path) -> None:
    code = f"import replicas, pathlib; replicas.build(pathlib.Path({str(folder)!r}))"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT / "tests", check=True, capture_output=True)


def _once(folder: Path, make: Callable[[Path], None], seconds: float = 300) -> Path:
    """Let the first of several processes make a folder, and the others wait for it."""
    try:
        folder.with_suffix(".claimed").mkdir()
    except FileExistsError:
        end = time.monotonic() + seconds
        while not folder.exists():
            if time.monotonic() > end:
                raise TimeoutError(f"{folder} was not made in {seconds} s") from None
            time.sleep(0.2)
    else:
        unfinished = folder.with_suffix(".part")
        make(unfinished)
        unfinished.rename(folder)
    return folder


@pytest.fixture(scope="session")
def hub(replicas):
    """A Hub on this computer that serves the replicas."""
    with Hub(replicas) as hub:
        yield hub


@pytest.fixture
def whole_hub(hub):
    """The Hub without faults, and with an empty log."""
    hub.mend()
    yield hub
    hub.mend()
