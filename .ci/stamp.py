"""Write a repository's address into a checkout: badges in README and notebooks, and what Colab installs.

``python .ci/stamp.py --repo OWNER/NAME --ref TAG`` stamps, without options it takes the stamp away again.
"""

import argparse
import json
import re
import sys
import tomllib
from pathlib import Path

CLONE = "/content/lcm_nb"  # where the unstamped notebooks expect a clone on Colab
START = "notebooks/00_start_here.ipynb"
OPEN, CLOSE = "<!-- badges -->", "<!-- /badges -->"
COLAB = "https://colab.research.google.com"
BINDER = "https://mybinder.org"
BETWEEN = re.compile(f"{OPEN}\n.*?{CLOSE}", re.DOTALL)
INSTALL = re.compile(r"(?m)^([ \t]*%pip install --quiet ).+$")


def stamp(root: str | Path, repo: str | None = None, ref: str | None = None) -> list[Path]:
    """Stamp a checkout, or with neither ``repo`` nor ``ref`` take the stamp away.

    Parameters
    ----------
    root
        Top folder of a checkout of lcm_nb.
    repo
        ``OWNER/NAME`` on GitHub.
    ref
        Tag, branch or commit that the links open and Colab installs.

    Returns
    -------
    changed
        The files that were written; none where the stamp was there already.

    Raises
    ------
    ValueError
        For a bad value, a folder that is no checkout, or a file without a place for the stamp;
        no file is written then.
    """
    check(repo, ref)
    root = Path(root)
    texts = {path: _stamped(path, root, repo, ref) for path in _targets(root)}
    changed = {path: text for path, text in texts.items() if text != _read(path)}
    for path, text in changed.items():
        path.write_bytes(text.encode())
    return list(changed)


def check(repo: str | None, ref: str | None) -> None:
    """Raise ``ValueError`` unless both are there and fit into a link, or both are None."""
    if (repo is None) != (ref is None):
        given, missing = ("--ref", "--repo") if repo is None else ("--repo", "--ref")
        raise ValueError(f"{given} is given without {missing}; give both, or neither to take the stamp away.")
    if repo is None:
        return
    owner_name = re.fullmatch(r"[A-Za-z0-9](?:-?[A-Za-z0-9])*/([\w.-]+)", repo, re.ASCII)
    if not owner_name or owner_name[1] in (".", "..") or repo.endswith(".git"):
        raise ValueError(f"--repo is {repo!r}; give OWNER/NAME as in https://github.com/OWNER/NAME.")
    # git allows more, but a slash would have to be written differently in each link.
    if not re.fullmatch(r"\w[\w.-]*", ref, re.ASCII) or ".." in ref or ref.endswith((".", ".lock")):
        raise ValueError(f"--ref is {ref!r}; give a tag, branch or commit of letters, digits, '.', '_' and '-'.")


def badges(repo: str, ref: str, notebook: str) -> str:
    """Return Markdown that opens one notebook, a path in the repository, on Colab and on Binder."""
    colab = f"{COLAB}/github/{repo}/blob/{ref}/{notebook}"
    binder = f"{BINDER}/v2/gh/{repo}/{ref}?urlpath=lab/tree/{notebook}"
    return (
        f"[![Open in Colab]({COLAB}/assets/colab-badge.svg)]({colab})\n"
        f"[![Open in Binder]({BINDER}/badge_logo.svg)]({binder})\n"
    )


def _targets(root: Path) -> list[Path]:
    """Return README and notebooks of a checkout."""
    try:
        name = tomllib.loads(_read(root / "pyproject.toml"))["project"]["name"]
    except (OSError, KeyError, ValueError):
        name = None
    paths = [root / "README.md", *sorted((root / "notebooks").glob("*.ipynb"))]
    if name != "lcm_nb" or not (root / START).is_file() or not paths[0].is_file():
        raise ValueError(f"{str(root.resolve())!r} is no checkout of lcm_nb; run this in the top folder of one.")
    return paths


def _read(path: Path) -> str:
    """Return a file's text, line ends as they are."""
    return path.read_bytes().decode()


def _stamped(path: Path, root: Path, repo: str | None, ref: str | None) -> str:
    """Return the new text of README or of a notebook."""
    notebook = START if path.suffix == ".md" else path.relative_to(root).as_posix()
    links = badges(repo, ref, notebook) if repo else ""
    if path.suffix == ".md":
        return _replaced(BETWEEN, f"{OPEN}\n{links}{CLOSE}", _read(path), path)
    source = f"git+https://github.com/{repo}@{ref}" if repo else CLONE
    content = json.loads(_read(path))  # not nbformat, which would normalise cells that the stamp does not touch
    first, bootstrap = content["cells"][0], _bootstrap(content["cells"], path)
    _edit(first, BETWEEN, f"{OPEN}\n{links}{CLOSE}", path)
    _edit(bootstrap, INSTALL, rf"\g<1>{source}", path)
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"  # as nbformat writes it


def _bootstrap(cells: list[dict], path: Path) -> dict:
    """Return the cell that installs the package on Colab."""
    for cell in cells[:3]:
        if cell["cell_type"] == "code" and "google.colab" in "".join(cell["source"]):
            return cell
    raise ValueError(f"None of the first three cells of {path.name} installs lcm_nb on Colab; copy it from {START}.")


def _edit(cell: dict, pattern: re.Pattern, new: str, path: Path) -> None:
    """Replace a pattern in a cell's source, which stays a list of lines."""
    cell["source"] = _replaced(pattern, new, "".join(cell["source"]), path).splitlines(keepends=True)


def _replaced(pattern: re.Pattern, new: str, text: str, path: Path) -> str:
    """Replace what must be there exactly once."""
    text, count = pattern.subn(new, text)
    if count != 1:
        what = f"lines {OPEN} and {CLOSE}" if pattern is BETWEEN else "lines '%pip install --quiet ...'"
        raise ValueError(f"{path.name} has {count} {what} to stamp; leave exactly one, as in {START}.")
    return text


def main(argv: list[str] | None = None) -> int:
    """Stamp the checkout in the current folder and print what changed; return 0, or 2 after an error."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repo", metavar="OWNER/NAME", help="the repository on GitHub")
    parser.add_argument("--ref", metavar="TAG", help="the tag, branch or commit to open and install")
    given = parser.parse_args(argv)
    try:
        changed = stamp(Path.cwd(), given.repo, given.ref)
    except ValueError as error:
        print(f"stamp: {error}", file=sys.stderr)
        return 2
    print(*changed or ["Nothing to change."], sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
