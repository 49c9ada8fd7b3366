"""Every notebook fits into Binder's memory: 1 GB, of which JupyterLab needs its share."""

import re
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")]

LIMIT = 900e6  # bytes
NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))


def peak(pid: int) -> int:
    """Return the largest resident memory that a process had so far, in bytes."""
    return 1024 * int(re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())[1])


def peaks(path: Path, environment: dict[str, str]) -> list[tuple[int, int]]:
    """Run a notebook; return each code cell's index and the peak of its kernel at the cell's end."""
    found = []
    client = NotebookClient(
        nbformat.read(path, as_version=4),
        timeout=300,
        resources={"metadata": {"path": str(path.parent)}},
        on_cell_executed=lambda cell_index, **_: found.append((cell_index, peak(client.km.provisioner.pid))),
    )
    client.execute(env=environment)
    return found


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_fits_into_binders_memory(path, environment, capsys):
    found = peaks(path, environment)
    highest = found[-1][1]
    cell = next(index for index, size in found if size == highest)
    with capsys.disabled():
        print(f"\n{path.stem:<20} peak {highest / 1e6:4.0f} MB, reached in cell {cell} ", end="")
    assert highest < LIMIT
