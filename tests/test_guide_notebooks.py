"""The notebooks in the guide profile, against the Hub on this computer: those that follow the profile."""

import ast
import re
from pathlib import Path

import nbformat
import pytest
from guide_hub import environment_of
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
ASK = {"lcm_nb.load", "lcm_nb.checkpoints", "lcm_nb.example_image"}  # what follows the profile, unless told one


def code(path: Path) -> str:
    """Return a notebook's Python, with what IPython alone understands left out."""
    cells = [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    return re.sub(r"(?m)^(\s*)[%!].*$", r"\1pass", "\n".join(cells))


def follows(path: Path) -> bool:
    """Return whether a notebook asks for a model and names no profile; the others are the same in all."""
    calls = [node for node in ast.walk(ast.parse(code(path))) if isinstance(node, ast.Call)]
    asked = [call for call in calls if ast.unparse(call.func) in ASK]
    return not all(any(keyword.arg == "profile" for keyword in call.keywords) for call in asked)


FOLLOW = [path for path in NOTEBOOKS if follows(path)]


def test_the_guides_sections_follow_the_profile():
    assert [path for path in NOTEBOOKS if path.stem < "06"] == [path for path in FOLLOW if path.stem < "06"]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """One cache for all notebooks, as a reader has it."""
    return tmp_path_factory.mktemp("reader")


@pytest.mark.parametrize(
    "path", [pytest.param(path, id=path.stem, marks=pytest.mark.xdist_group(f"guide {path.stem}")) for path in FOLLOW]
)
def test_a_notebook_that_follows_the_profile_runs_in_the_guides(path, whole_hub, environment, home):
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(path.parent)}})
    client.execute(env=environment_of(whole_hub, home, environment))
    first = next(cell for cell in notebook.cells if "lcm_nb.info()" in cell.source)
    assert re.search("profile'?:? +'?guide", str(first.outputs))
