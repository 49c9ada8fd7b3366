"""``lcm-nb student``: the notebooks without solutions, for a class."""

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .files import as_path, read, replace, spoken

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"  # of a checkout; a wheel has none
MARK = "lcm_nb_student"  # in a notebook's metadata: the hash of what was written
MOST = 50_000_000  # bytes of a notebook with a learner's pictures
# What the exercises say of solutions, and a student's notebook has no use for.
FOLDED = re.compile(r"\s*(Each solution is|The solutions are) folded away\b.*?without a word\.", re.DOTALL)


def write(folder: object, source: object = NOTEBOOKS) -> list[Path]:
    """Write all notebooks of ``source`` without their solutions into ``folder``, and return the paths.

    A file that is there is replaced only if this function wrote it and nobody has changed a cell since; running cells
    changes none. All are looked at before the first is written.

    Raises
    ------
    ValueError
        If there are no notebooks, or a file is somebody else's.
    OSError
        If they cannot be written.
    """
    place, origin = as_path(folder, "the name of a folder"), as_path(source, "the folder of the notebooks")
    originals = sorted(origin.glob("*.ipynb"))
    if not originals:
        raise ValueError(f"There are no notebooks in {origin}; run this in the repository, or give their folder.")
    if place.exists() and not place.is_dir():
        raise ValueError(f"{place} is a file; give the name of a folder, new or not.")
    made = {place / path.name: _stripped(_notebook(path)) for path in originals}
    for path in made:
        if path.exists() and not _is_ours(path):
            raise ValueError(
                f"{path} is not as it was written by this command, so it is kept, and nothing was written; "
                "move it away, or choose another folder."
            )
    with spoken(place):
        place.mkdir(parents=True, exist_ok=True)
    for path, notebook in made.items():
        replace(path, f"{json.dumps(notebook, indent=1, ensure_ascii=False)}\n".encode())
    return list(made)


def _notebook(path: Path) -> dict[str, Any]:
    wanted = "a folder of notebooks"
    try:
        notebook = json.loads(read(path, most=MOST, wanted=wanted))
        if not all(isinstance(cell["metadata"], dict) and cell["source"] is not None for cell in notebook["cells"]):
            raise TypeError
    except (ValueError, TypeError, KeyError, RecursionError):
        raise ValueError(f"{path} is no notebook; give {wanted}.") from None
    return notebook


def _stripped(notebook: dict[str, Any]) -> dict[str, Any]:
    """Return a notebook without solutions: neither their code nor their words, nor what is said of them."""
    cells, kept = notebook["cells"], []
    for index, cell in enumerate(cells):
        if _solves(cell) or (_is_folded(cell) and index + 1 < len(cells) and _solves(cells[index + 1])):
            continue
        text = FOLDED.sub("", _source(cell)) if cell["cell_type"] == "markdown" else _source(cell)
        kept.append(cell | {"source": text.splitlines(keepends=True)})
    return notebook | {"cells": kept, "metadata": notebook["metadata"] | {MARK: _hash(kept)}}


def _solves(cell: dict[str, Any]) -> bool:
    return "solution" in cell["metadata"].get("tags", [])


def _is_folded(cell: dict[str, Any]) -> bool:
    return cell["cell_type"] == "markdown" and _source(cell).startswith("<details>")


def _source(cell: dict[str, Any]) -> str:
    return "".join(cell["source"])


def _hash(cells: Sequence[dict[str, Any]]) -> str:
    return hashlib.sha256(json.dumps([(cell["cell_type"], _source(cell)) for cell in cells]).encode()).hexdigest()


def _is_ours(path: Path) -> bool:
    """Return whether a file is a notebook that this module wrote, and its cells are as they were."""
    try:
        notebook = _notebook(path)
        return bool(notebook["metadata"][MARK] == _hash(notebook["cells"]))
    except (ValueError, KeyError, TypeError):
        return False
