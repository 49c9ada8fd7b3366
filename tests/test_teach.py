"""What a teacher reads agrees with what is taught: answers, minutes, links, slides, citation, the container."""

import json
import re
import shutil
import subprocess
from itertools import pairwise
from pathlib import Path

import nbformat
import pytest
import yaml

import lcm_nb
from lcm_nb import check
from lcm_nb.tutorial.questions import QUESTIONS

ROOT = Path(__file__).parents[1]
TEACH = ROOT / "docs/teach"
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PAGES = sorted(TEACH.glob("*.md"))


def text(path: Path) -> str:
    """Return a page, or the words of a notebook."""
    if path.suffix == ".md":
        return path.read_text()
    cells = nbformat.read(path, as_version=4).cells
    return "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")


def anchors(path: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them; of a notebook's, as Jupyter does."""
    found = re.findall(r"(?m)^#+ (.+)$", re.sub(r"(?ms)^```.*?^```", "", text(path)))
    if path.suffix == ".ipynb":
        return {heading.replace(" ", "-") for heading in found}
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in found}


@pytest.mark.parametrize("path", [*PAGES, TEACH / "opening.ipynb"], ids=lambda path: path.name)
def test_links_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)\s]+)\)", text(path)):
        if not target.startswith("http"):
            name, _, anchor = target.partition("#")
            other = (path.parent / name).resolve() if name else path
            assert other.exists(), target
            assert not anchor or anchor in anchors(other), target


def test_the_guide_has_every_answer():
    guide = (TEACH / "guide.md").read_text()
    found = dict(re.findall(r"(?m)^\| (P\d\.\d) [^|]+ \| (\w) \| ", guide))
    assert found == {number: asked.letter for number, asked in QUESTIONS.items()}


def test_the_guide_has_every_exercise_and_the_notebooks_minutes():
    guide = (TEACH / "guide.md").read_text()
    for path in NOTEBOOKS:
        part = next(part for part in guide.split("\n## ") if f"notebooks/{path.name})" in part)
        (minutes,) = re.findall(r"(?m)^(\d+) minutes", part)
        stated = re.findall(r"(?m)^(\d+) minutes", text(path))
        assert [minutes] == stated, path.name
        assert all(f"{name} " in part for name in re.findall(r"(?m)^### (E\d+\.\d) ", text(path))), path.name


@pytest.mark.parametrize("minutes", re.split(r"\n## ", (TEACH / "schedules.md").read_text())[1:4], ids=lambda p: p[:10])
def test_schedules_add_up(minutes):
    """Each line begins where the one before it ends."""
    rows = [(int(h) * 60 + int(m), int(n)) for h, m, n in re.findall(r"(?m)^\| (\d):(\d\d) \| (\d+) \|", minutes)]
    assert len(rows) >= 5
    assert all(start + length == after for (start, length), (after, _) in pairwise(rows))


def test_the_setup_page_shows_what_the_check_prints():
    shown = (TEACH / "setup.md").read_text().split("```text\n")[1].split("```")[0].splitlines()
    assert [line.split()[0] for line in shown[:-1]] == list(check.CHECKS)
    assert re.fullmatch(r"Ready, in \d+ s\.", shown[-1])


def test_every_cell_of_the_slides_has_its_place():
    cells = nbformat.read(TEACH / "opening.ipynb", as_version=4).cells
    kinds = [cell.metadata.slideshow.slide_type for cell in cells]
    assert set(kinds) == {"slide", "fragment", "notes"}
    assert kinds[0] == "slide" and kinds.count("notes") == kinds.count("slide")
    assert all(cell.cell_type == "code" for cell, kind in zip(cells, kinds, strict=True) if kind == "fragment")


def test_the_citation_is_of_this_version():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert cited["cff-version"] == "1.2.0" and {"title", "message", "authors"} <= cited.keys()
    assert (cited["version"], cited["license"]) == (lcm_nb.__version__, "Apache-2.0")


def test_the_container_installs_and_opens_the_notebooks(tmp_path):
    if not shutil.which("make"):
        pytest.skip("make is not installed")
    container = json.loads((ROOT / ".devcontainer/devcontainer.json").read_text())
    shutil.copytree(ROOT / "binder", tmp_path / "binder")
    for name in ("Makefile", "pyproject.toml", "requirements.txt"):
        shutil.copy(ROOT / name, tmp_path)
    for key, words in (("onCreateCommand", "--requirement requirements.txt"), ("postAttachCommand", "--port 8888")):
        command = container[key].replace("make ", "make --dry-run ", 1)
        done = subprocess.run(command, shell=True, cwd=tmp_path, capture_output=True, text=True, check=True)
        assert words in done.stdout
