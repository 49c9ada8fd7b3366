"""The notebooks' first cell on Colab: it installs lcm_nb, and nothing that is there already changes.

Runs in the environment that ``make colab`` makes, because it installs.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from stamp import CLONE, START, stamp

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(Path(sys.prefix).name != ".venv-colab", reason="runs in .venv-colab: make colab"),
]

# The cell asks get_ipython() for its name, which on Colab is that of a class of google.colab.
LIKE_COLAB = 'type(get_ipython()).__module__ = "google.colab._shell"'
ANSWER = """
import importlib.metadata
import lcm_nb
print(lcm_nb.__file__)
print(importlib.metadata.distribution("lcm_nb").read_text("direct_url.json"))
"""


@pytest.fixture
def content(root, tmp_path, monkeypatch) -> Path:
    """A folder like Colab's /content, with a clone in it; pip fetches owner/name from the checkout."""
    (tmp_path / "lcm_nb").symlink_to(root)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", f"url.{root.as_uri()}.insteadOf")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", "https://github.com/owner/name")
    return tmp_path


def bootstrap(root: Path, folder: Path, *address: str) -> str:
    """Return the first notebook's install cell, stamped with repository and ref or not."""
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(root / name, folder)
    shutil.copytree(root / "notebooks", folder / "notebooks", ignore=shutil.ignore_patterns(".*"))
    stamp(folder, *address)
    (cell,) = [cell for cell in nbformat.read(folder / START, as_version=4).cells[:3] if cell.cell_type == "code"]
    return cell.source


def run(cells: list[str], folder: Path) -> str:
    """Run cells in a kernel that starts in a folder; return what they printed."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    client = NotebookClient(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(folder)}})
    client.execute()
    return "".join(output.get("text", "") for output in notebook.cells[-1].outputs)


def others() -> str:
    """Return the versions of all that is installed besides lcm_nb."""
    command = [sys.executable, "-m", "pip", "freeze", "--all", "--exclude", "lcm_nb"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def check(cell: str, content: Path, source: str) -> None:
    """Run the cell as on Colab; assert where lcm_nb came from and went to, and that the rest is as before."""
    before = others()
    file, came_from = run([LIKE_COLAB, cell, ANSWER], content).splitlines()
    assert Path(file).is_relative_to(sys.prefix)
    assert json.loads(came_from)["url"] == source
    assert others() == before


def test_the_stamped_cell_installs_from_the_repository(root, content, tmp_path_factory):
    asked = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, check=False)
    if asked.returncode:
        pytest.skip("not a git checkout")
    cell = bootstrap(root, tmp_path_factory.mktemp("stamped"), "owner/name", asked.stdout.strip())
    check(cell, content, "https://github.com/owner/name")


# The last test that installs: the notebooks that run after it meet the working tree.
def test_the_unstamped_cell_installs_from_a_clone(root, content, tmp_path_factory):
    cell = bootstrap(root, tmp_path_factory.mktemp("unstamped")).replace(CLONE, str(content / "lcm_nb"))
    check(cell, content, (content / "lcm_nb").as_uri())


def test_the_cell_does_nothing_elsewhere(root, content, tmp_path_factory):
    cell = bootstrap(root, tmp_path_factory.mktemp("elsewhere"), "owner/name", "no-such-tag")
    assert run([cell, 'print("went on")'], content) == "went on\n"
