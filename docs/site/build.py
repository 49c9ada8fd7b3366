"""Build the site, for ``make site``: run the notebooks, draw the gallery, export the page's LCM, call Sphinx.

``python docs/site/build.py OUT --sphinx PATH`` writes pages to OUT/html. What was run before is kept in OUT/run for as
long as neither the notebook nor the package has changed.
"""

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import gallery
import nbformat
import pages
from nbclient import NotebookClient

from lcm_nb.export import export

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PACKAGE = ROOT / "lcm_nb"
LONGEST = 1800  # seconds that a cell may take on a busy computer
PROSE = ("docs/*.md", "docs/*.jpg", "docs/*.png", "docs/*.webp", "docs/*.json", "docs/teach/*", "lcm_nb/mini/*.md")
PROSE += ("lcm_nb/mini/*.jpg", "lcm_nb/mini/figures.json", "CONTRIBUTING.md", "LICENSE", "CITATION.cff")
# nbclient keeps widgets' state, too, but misses what a panel's worker sends while a later cell runs.
WIDGETS = "import json, ipywidgets\nprint(json.dumps(ipywidgets.Widget.get_manager_state()))"
CLONE = "make lab    # in a clone of the repository"
STAMP = re.compile(r"colab\.research\.google\.com/github/([\w.-]+)/([\w.-]+)/blob/([\w./-]+)/notebooks/")
TEACHERS = re.compile(r"(?s)```\{toctree\}\n:caption: For teachers.*?```\n")


def digest(*paths: Path) -> str:
    """Return a hash of the content of files, and of those in folders."""
    files = [file for path in paths for file in (sorted(path.rglob("*")) if path.is_dir() else [path])]
    found = hashlib.sha256()
    for file in files:
        if file.is_file() and "__pycache__" not in file.parts:
            found.update(str(file.relative_to(ROOT)).encode())
            found.update(file.read_bytes())
    return found.hexdigest()[:16]


def kept(path: Path, mark: str, make) -> Path:
    """Return a file or folder, made anew unless it carries the mark."""
    note = path.parent / f"{path.name}.mark"
    if not (path.exists() and note.exists() and note.read_text() == mark):
        make(path)
        note.write_text(mark)
    return path


def run(notebook: Path, out: Path) -> None:
    """Run a notebook and write it with its outputs, and with the widgets' state."""
    print(f"Running {notebook.name}", flush=True)
    content = nbformat.read(notebook, as_version=4)
    content.cells.append(nbformat.v4.new_code_cell(WIDGETS))
    place = {"metadata": {"path": notebook.parent}}
    NotebookClient(content, timeout=LONGEST, store_widget_state=False, resources=place).execute()
    state = json.loads("".join(output.text for output in content.cells.pop().outputs if output.get("name") == "stdout"))
    content.metadata["widgets"] = {pages.STATE: state}
    nbformat.write(content, out)


def addressed(index: str, readme: str) -> str:
    """Return the first page with the repository's address, if ``.ci/stamp.py`` has written it into README."""
    if not (found := STAMP.search(readme)):
        return index
    owner, name, ref = found.groups()
    return index.replace(CLONE, f"git clone --branch {ref} https://github.com/{owner}/{name}\ncd {name}\nmake lab")


def assemble(out: Path, package: str) -> Path:
    """Put everything that Sphinx reads into a folder that is laid out like the repository, and return it."""
    source = out / "source"
    shutil.rmtree(source, ignore_errors=True)
    shutil.copytree(HERE, source, ignore=shutil.ignore_patterns("*.py", "__pycache__", "requirements.txt"))
    shutil.copyfile(HERE / "conf.py", source / "conf.py")
    for file in sorted({file for pattern in PROSE for file in ROOT.glob(pattern) if file.is_file()}):
        target = source / file.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)
        if file.suffix == ".md":
            target.write_text(pages.anchored(file.read_text(encoding="utf-8")), encoding="utf-8")
    index = source / "index.md"
    text = addressed(index.read_text(encoding="utf-8"), (ROOT / "README.md").read_text(encoding="utf-8"))
    index.write_text(text if (ROOT / "docs" / "teach").is_dir() else TEACHERS.sub("", text), encoding="utf-8")
    (source / "notebooks").mkdir()
    for notebook in sorted((ROOT / "notebooks").glob("*.ipynb")):
        mark = f"{package} {digest(notebook)} {os.environ.get('LCM_NB_MINUTES')}"
        done = kept(out / "run" / notebook.name, mark, lambda path, notebook=notebook: run(notebook, path))
        nbformat.write(pages.presented(nbformat.read(done, as_version=4)), source / "notebooks" / notebook.name)
    pictures = kept(out / "run" / "gallery", f"{package} {digest(HERE / 'gallery.py')}", gallery.draw)
    shutil.copyfile(pictures / "gallery.md", source / "gallery.md")
    shutil.copytree(pictures, source / "extra" / "gallery", ignore=shutil.ignore_patterns("*.md"))
    model = kept(out / "run" / "draw", package, export)
    shutil.copytree(model, source / "extra" / "draw")
    shutil.copyfile(model / "sw.js", source / "extra" / "sw.js")  # it may keep only what lies beside or below it
    (source / "extra" / ".nojekyll").touch()  # GitHub Pages would leave out folders that begin with "_"
    return source


def main() -> int:
    """Build; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("--sphinx", required=True, help="the program sphinx-build")
    given = parser.parse_args()
    os.environ |= {"LCM_NB_PROFILE": "mini", "HF_HUB_OFFLINE": "1"}
    (given.out / "run").mkdir(parents=True, exist_ok=True)
    source, html = assemble(given.out, digest(PACKAGE)), given.out / "html"
    shutil.rmtree(html, ignore_errors=True)
    command = [given.sphinx, "-b", "html", "--fail-on-warning", "--keep-going", "--quiet", source, html]
    command[1:1] = ["-d", given.out / "doctrees"]
    code = subprocess.run(command).returncode
    for page in html.rglob("*.html"):  # Sphinx makes captions headings and leaves out of which level
        text = page.read_text(encoding="utf-8")
        page.write_text(text.replace('role="heading">', 'role="heading" aria-level="2">'), encoding="utf-8")
    return code


if __name__ == "__main__":
    sys.exit(main())
