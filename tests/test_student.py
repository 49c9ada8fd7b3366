"""``lcm-nb student``: notebooks without solutions that run all the same, and nothing of a learner's is overwritten."""

import ast
import json
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from lcm_nb import cli, student

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("class") / "new" / "student"
    assert cli.main(["student", str(folder)]) == 0
    return folder


def cells(path: Path) -> list:
    return nbformat.read(path, as_version=4).cells


def headings(found: list) -> list[str]:
    return re.findall(r"(?m)^#+ .*", "\n".join(cell.source for cell in found if cell.cell_type == "markdown"))


def solves(cell) -> bool:
    return "solution" in cell.metadata.get("tags", [])


def names(code: str, context: type) -> set[str]:
    code = re.sub(r"(?m)^(\s*)[%!].*$", r"\1pass", code)
    return {node.id for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Name) and type(node.ctx) is context}


def test_every_notebook_is_there(folder):
    assert [path.name for path in sorted(folder.iterdir())] == [path.name for path in NOTEBOOKS]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_student_gets_all_but_the_solutions(path, folder):
    """All other code is the same, in order, and uses no name that a solution made: so it runs as the whole does."""
    notebook = nbformat.read(folder / path.name, as_version=4)
    nbformat.validate(notebook)
    text = "\n".join(cell.source for cell in notebook.cells)
    assert not re.findall(r"(?i)[^\n]*\bsolutions?\b[^\n]*|[^\n]*\bfolded\b[^\n]*|[^\n]*<details>[^\n]*", text)
    assert not any(map(solves, notebook.cells))
    whole = [cell for cell in cells(path) if cell.cell_type == "code"]
    code = [cell.source for cell in whole if not solves(cell)]
    assert [cell.source for cell in notebook.cells if cell.cell_type == "code"] == code
    made = set().union(*(names(cell.source, ast.Store) for cell in whole if solves(cell)))
    elsewhere = set().union(*(names(source, ast.Store) for source in code))
    assert not (made - elsewhere) & set().union(*(names(source, ast.Load) for source in code))
    assert headings(notebook.cells) == headings(cells(path))
    assert "Replace `None`" in text or path.stem.startswith("00")


def test_a_students_notebook_runs_and_leaves_the_exercises_open(folder, environment):
    path = folder / "04_controlnet.ipynb"
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(folder)}}).execute(env=environment)
    outputs = [output for cell in notebook.cells if "checks." in cell.source for output in cell.get("outputs", [])]
    assert [output.text[:6] for output in outputs] == ["Hint: "] * 5  # three predictions, two exercises
    nbformat.write(notebook, path)
    assert cli.main(["student", str(folder)]) == 0  # run, but not worked in: written anew
    assert not any(cell.get("outputs") for cell in cells(path))


@pytest.mark.parametrize(
    "change",
    [
        lambda notebook: notebook["cells"][-1].update(source="# My notes"),
        lambda notebook: notebook["cells"].pop(),
        lambda notebook: notebook["metadata"].pop(student.MARK),
    ],
)
def test_what_was_worked_in_is_kept_and_nothing_is_written(change, tmp_path, capsys):
    student.write(tmp_path)
    path, other = tmp_path / "03_style_lora.ipynb", tmp_path / "00_start_here.ipynb"
    notebook = json.loads(path.read_text())
    change(notebook)
    path.write_text(json.dumps(notebook))
    before = path.read_bytes()
    other.unlink()
    assert cli.main(["student", str(tmp_path)]) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"lcm-nb: {path} is not as it was written by this command") and told.count("\n") == 1
    assert path.read_bytes() == before and not other.exists()


def test_files_of_others_are_kept(tmp_path, capsys):
    (tmp_path / "01_text_to_image.ipynb").write_text("mine")
    assert cli.main(["student", str(tmp_path)]) == 2
    assert (tmp_path / "01_text_to_image.ipynb").read_text() == "mine"
    assert cli.main(["student", str(NOTEBOOKS[0].parent)]) == 2  # the originals themselves
    assert "is kept" in capsys.readouterr().err


def test_wrong_folders_are_refused_in_a_sentence(tmp_path, capsys):
    file = tmp_path / "file"
    file.write_text("")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad/x.ipynb").write_text('{"cells": 3}')
    for options, words in (
        ([str(file)], "is a file; give the name of a folder"),
        ([str(file / "x")], "a part of the path is a file"),
        (["new", "--notebooks", str(tmp_path)], "There are no notebooks in"),
        (["new", "--notebooks", str(tmp_path / "bad")], "x.ipynb is no notebook"),
        (["\0"], "can be no path"),
    ):
        assert cli.main(["student", *options]) == 2
        told = capsys.readouterr().err
        assert words in told and told.count("\n") == 1
