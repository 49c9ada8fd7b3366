"""The suite itself: groups stay together, the longest begin, and what was not run is said aloud."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
PYTEST = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider"]


def run(*options: str, **environment: str) -> subprocess.CompletedProcess:
    """Run pytest in a process of its own, with the repository's settings."""
    command = [*PYTEST, "--rootdir", str(TESTS.parent), "-c", str(TESTS.parent / "pyproject.toml"), *options]
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "CI"))} | environment
    return subprocess.run(command, cwd=TESTS.parent, env=env, capture_output=True, text=True, check=False)


def test_a_group_stays_on_one_worker(tmp_path):
    pytest.importorskip("xdist", reason="pytest-xdist is not installed: pip install lcm_nb[test]")
    marked = "import pytest\npytestmark = pytest.mark.xdist_group('together')\n"
    for name in ("test_one.py", "test_two.py"):
        tests = [f"def test_{i}(worker_id, pytestconfig): print('ran on', worker_id)\n" for i in range(4)]
        (tmp_path / name).write_text(marked + "".join(tests))
    done = run("-n", "2", "--dist", "loadgroup", "-rP", str(tmp_path))
    workers = re.findall(r"(?m)^ran on (\w+)$", done.stdout)
    assert (len(workers), len(set(workers))) == (8, 1), done.stdout


def test_the_order_names_groups_that_there_are():
    from conftest import LONGEST, SPLIT

    files = {path.stem for path in TESTS.glob("test_*.py")}
    assert {name.split()[0] for name in LONGEST} - files == {"guide", "notebooks", "run", "08_distil_your_own"}
    assert SPLIT.keys() <= files


@pytest.mark.parametrize(("ci", "code"), [("", 0), ("true", 1)])
def test_without_a_browser_the_last_lines_say_so_and_ci_fails(ci, code, tmp_path):
    done = run("-q", "tests/test_browser.py", PATH=str(tmp_path), CI=ci)
    last = [line for line in done.stdout.splitlines() if line][-2]
    assert re.match(r"\d+ in a browser, not run: chromium is not installed: apt-get install chromium", last), (
        done.stdout
    )
    assert ("an error, because CI is set" in last) == bool(code)
    assert done.returncode == code, done.stdout + done.stderr
