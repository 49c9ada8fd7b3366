"""What the repository may hold: stripped notebooks of one structure, no pickles, no machine's paths, a light import."""

import re
import statistics
import subprocess
import sys
from functools import cache
from itertools import chain, pairwise
from pathlib import Path

import nbformat
import pytest

from lcm_nb.tutorial.questions import QUESTIONS

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
PICKLES = {".bin", ".ckpt", ".joblib", ".pickle", ".pkl", ".pt", ".pth"}
MACHINE_PATH = re.compile(rb"(?<![\w.])/(?:work|root|home|Users)/\w[^\s\"']*")
PYTORCH = "https://download.pytorch.org/"
PIP_SOURCE = re.compile(r"(?:index-url|find-links)[ =]+[\"'`]?([^\s\"'`]+)")


def read(path: Path) -> list:
    """Return a notebook's cells."""
    return nbformat.read(path, as_version=4).cells


def prose(cell) -> str:
    """Return a markdown cell's text without code blocks, code spans and link targets."""
    text = re.sub(r"(?ms)^ *(```|~~~).*?^ *\1", "", cell.source)
    return re.sub(r"`[^`]*`|\]\([^)]*\)", "", text)


def headings(cell) -> list[int]:
    """Return the levels of a markdown cell's headings."""
    if cell.cell_type != "markdown":
        return []
    return [len(hashes) for hashes in re.findall(r"(?m)^(#{1,6}) ", prose(cell))]


def asks(cell) -> bool:
    """Return whether a cell is the check of a question that stands before a run."""
    return "predict" in cell.metadata.get("tags", [])


def code_lines(cell) -> int:
    """Return how many lines a code cell has, without the title of Colab's form."""
    return len([line for line in cell.source.strip().splitlines() if not line.startswith("# @title ")])


# -- notebooks ------------------------------------------------------------------------


def test_first_notebook_is_there():
    assert (ROOT / "notebooks/00_start_here.ipynb") in NOTEBOOKS


def test_notebooks_are_stripped():
    """No outputs, execution counts or widget state; `make format` removes them."""
    command = [sys.executable, "-m", "nbstripout", "--verify", "--keep-id", *map(str, NOTEBOOKS)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"run `make format`: {done.stdout}{done.stderr}"


@each_notebook
def test_notebook_has_one_title_and_no_skipped_level(path):
    levels = [headings(cell) for cell in read(path)]
    assert levels[0][:1] == [1], "the first cell begins with the title, `# ...`"
    flat = list(chain(*levels))
    assert flat.count(1) == 1
    skips = [(before, after) for before, after in pairwise(flat) if after > before + 1]
    assert not skips


@each_notebook
def test_notebook_has_prose_before_every_code_cell(path):
    cells = [cell for cell in read(path) if not asks(cell)]
    kinds = [cell.cell_type for cell in cells]
    assert set(kinds) == {"markdown", "code"}
    bare = [
        cells[i].source
        for i, kind in enumerate(kinds)
        if kind == "code" and (i == 0 or kinds[i - 1] != "markdown" or not cells[i - 1].source.strip())
    ]
    assert not bare


@each_notebook
def test_notebook_has_short_cells(path):
    lengths = [code_lines(cell) for cell in read(path) if cell.cell_type == "code"]
    assert max(lengths) <= 20
    assert statistics.median(lengths) <= 6
    assert min(lengths) > 0, "an empty code cell"


@each_notebook
def test_notebook_has_15_to_30_cells(path):
    if path.stem.startswith("00"):
        pytest.skip("the start page is shorter")
    assert 15 <= len([cell for cell in read(path) if not asks(cell)]) <= 30


@each_notebook
def test_notebook_checks_what_it_lets_predict(path):
    """Behind each "Predict P1.1" with its choices stands the check, untouched; there is no other."""
    cells = read(path)
    number, first = path.stem[1], True
    text = "\n".join(prose(cell) for cell in cells if cell.cell_type == "markdown")
    asked = re.findall(r"\*\*Predict (P\d\.\d)\.\*\*", text)
    assert asked == [name for name in QUESTIONS if name[1] == number], "in the order of questions.py"
    assert len(asked) == len(re.findall(r"(?<!- )\*\*Predict\b", text)) == len(list(filter(asks, cells)))
    for words, check in pairwise(cells):
        if asks(check):
            (name,) = re.findall(r"\*\*Predict (P\d\.\d)\.\*\*", words.source)
            (choices,) = re.findall(r"\n\n((?:- \w: .+\n?)+)(?:\n|$)", words.source)
            letters = re.findall(r"(?m)^- (\w): ", choices)
            assert "".join(letters) == QUESTIONS[name].choices
            *before, call = check.source.splitlines()
            assert call == f'checks.predict("{name}", None)  # "a", "b" or "c" in place of None'
            assert before == (["from lcm_nb.tutorial import checks", ""] if first else [])
            first = False


@each_notebook
def test_notebook_names_its_exercises_to_the_checkers(path):
    """So that ``checks.progress()`` can tell them apart."""
    cells, heading, named = read(path), "", []
    for cell in cells:
        if cell.cell_type == "markdown":
            heading = (re.findall(r"(?m)^### (E\d+\.\d) ", cell.source) or [heading])[-1]
        elif heading and "solution" not in cell.metadata.get("tags", []):
            found = re.findall(r"(?m)^checks\.\w+\(.*exercise=\"(E\d+\.\d)[ab]?\"\)$", cell.source)
            assert found and set(found) == {heading}
            named += found[:1]
    assert named == re.findall(r"(?m)^### (E\d+\.\d) ", "\n".join(cell.source for cell in cells))


@each_notebook
def test_notebook_begins_with_the_bootstrap(path):
    """One of the first three cells installs the package, on Colab alone."""
    found = [cell for cell in read(path)[:3] if cell.cell_type == "code" and "google.colab" in cell.source]
    assert len(found) == 1
    assert code_lines(found[0]) <= 8


@each_notebook
def test_notebook_words(path):
    text = "\n".join(prose(cell) for cell in read(path) if cell.cell_type == "markdown")
    assert not re.findall(r"(?i)[^\n]*\b(?:simply|just)\b[^\n]*", text)


@each_notebook
def test_notebook_describes_every_image(path):
    text = "\n".join(cell.source for cell in read(path) if cell.cell_type == "markdown")
    assert not re.findall(r"!\[\s*\]\([^)]*\)", text)
    assert not re.findall(r"<img(?![^>]*\balt=\"[^\"]+\")[^>]*>", text)


@each_notebook
def test_notebook_folds_its_solutions(path):
    """Words in <details>; code hidden by Jupyter's own mark and by Colab's, in a titled form; it runs silently."""
    cells = read(path)
    assert not [cell.source for cell in cells if re.search(r"(?i)\*\*solutions?\b", cell.source)], "stands in the open"
    for words, code in pairwise(cells):
        if "solution" not in code.metadata.get("tags", []):
            continue
        assert re.fullmatch(
            r"<details>\n<summary>.*Solutions?.*</summary>\n\n.*\n\n</details>", words.source, re.DOTALL
        )
        assert code.source.startswith("# @title Solution\n")
        assert code.metadata["cellView"] == "form"
        assert code.metadata["jupyter"] == {"source_hidden": True}
        assert re.search(r"(?m)^with checks\.silently\(\):\n    assert checks\.", code.source)


@each_notebook
def test_notebook_has_a_solution_for_every_exercise(path):
    cells = read(path)
    text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    exercises = set(re.findall(r"(?m)^### (E\d+\.\d) ", text))
    code = [cell for cell in cells if cell.cell_type == "code" and not asks(cell)]
    checked = [cell for cell in code if re.search(r"\bchecks\.\w+\(", cell.source)]
    solved = [cell for cell in checked if "solution" in cell.metadata.get("tags", [])]
    assert len(checked) - len(solved) == len(exercises)
    assert all(re.search(r"\bassert checks\.", cell.source) for cell in solved)
    assert bool(solved) == bool(exercises)


# -- files ----------------------------------------------------------------------------


@cache
def repository_files() -> list[Path]:
    """Return what git tracks or would add; skip where there is no checkout."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    return [path for name in listed.split("\0") if name and (path := ROOT / name).is_file()]


def test_no_pickled_weights():
    assert not [path for path in repository_files() if path.suffix in PICKLES]


def test_no_machine_paths():
    found = {path.name: MACHINE_PATH.findall(path.read_bytes()) for path in repository_files()}
    assert not {name: paths for name, paths in found.items() if paths}


def test_no_package_index_but_pytorchs():
    files = [path for path in repository_files() if path.suffix != ".safetensors"]
    found = {path.name: PIP_SOURCE.findall(path.read_bytes().decode("utf-8", "ignore")) for path in files}
    found = {name: [place for place in places if re.search(r"://|^[/~\\]", place)] for name, places in found.items()}
    others = {name: [a for a in addresses if not a.startswith(PYTORCH)] for name, addresses in found.items()}
    assert not {name: addresses for name, addresses in others.items() if addresses}


def test_package_data_is_not_ignored():
    """The wheel holds what git does not ignore."""
    files = [str(path) for path in (ROOT / "lcm_nb/mini").rglob("*") if path.is_file()]
    assert any(name.endswith(".safetensors") for name in files)
    repository_files()
    ignored = subprocess.run(["git", "check-ignore", *files], cwd=ROOT, capture_output=True, text=True, check=False)
    assert not ignored.stdout


def test_readme_explains_the_top_level():
    section = (ROOT / "README.md").read_text().split("## What is where")[1].split("## ")[0]
    top = {path.relative_to(ROOT).parts[0] for path in repository_files()} - {".gitignore", ".gitattributes"}
    rows = set(re.findall(r"(?m)^\| `(\.?\w[\w.-]*)[/`]", section))
    assert top == rows


# -- import ---------------------------------------------------------------------------

IMPORT = """
import sys, time
start = time.perf_counter()
import lcm_nb
print(time.perf_counter() - start, *({"torch", "diffusers", "transformers"} & set(sys.modules)))
"""


def test_import_is_light():
    runs = [
        subprocess.run([sys.executable, "-c", IMPORT], cwd=ROOT, capture_output=True, text=True, check=True)
        for _ in range(5)
    ]
    seconds, heavy = zip(*(run.stdout.strip().partition(" ")[::2] for run in runs), strict=True)
    assert set(heavy) == {""}, "import lcm_nb pulls in heavy modules"
    assert min(map(float, seconds)) < 0.2
