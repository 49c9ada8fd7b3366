"""Notebooks fit into Binder's memory: 1 GB is guaranteed, of which JupyterLab needs its share; 2 GB is the end.

The guide's sections stay below 900 MB. Those that measure and train need more, and are checked against what they say.
Measured on two CPU cores (x86-64, torch 2.13.0, November 2026), in MB: 00 685, 01 825, 02 753, 03 830, 04 853, 05 870,
06 833 to 906, 07 964 to 980, 08 1165 to 1190, 09 692.
"""

import re
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")]

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
LIMITS = {"05_t2i_adapter": 900e6, "07_lcm_lora": 1_050e6, "08_distil_your_own": 1_300e6}  # bytes, of the heaviest


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


@pytest.mark.parametrize("name", LIMITS)
def test_the_heaviest_notebooks_fit_into_binders_memory(name, environment, capsys):
    found = peaks(NOTEBOOKS / f"{name}.ipynb", environment)
    highest = found[-1][1]
    cell = next(index for index, size in found if size == highest)
    with capsys.disabled():
        print(f"\n{name} peak {highest / 1e6:4.0f} MB, reached in cell {cell} ", end="")
    assert highest < LIMITS[name]
