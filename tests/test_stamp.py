"""The stamp: badges and Colab's install line come, change and go, and nothing else in a file does."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from stamp import START, main, stamp

FIRST, SECOND = ("owner/name", "v1.0"), ("Other-1/na.me_2", "a1b2c3")


@pytest.fixture
def checkout(root, tmp_path) -> Path:
    """An unstamped copy of what the stamp writes to, in whichever state this checkout is."""
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(root / name, tmp_path)
    shutil.copytree(root / "notebooks", tmp_path / "notebooks", ignore=shutil.ignore_patterns(".*"))
    stamp(tmp_path)
    return tmp_path


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def notebooks(checkout: Path) -> dict[str, list]:
    """Return path in the repository -> cells."""
    paths = sorted((checkout / "notebooks").glob("*.ipynb"))
    return {f"notebooks/{path.name}": nbformat.read(path, as_version=4).cells for path in paths}


def expected(repo: str, ref: str, notebook: str) -> dict[str, str]:
    """Return alt text -> address."""
    return {
        "Open in Colab": f"https://colab.research.google.com/github/{repo}/blob/{ref}/{notebook}",
        "Open in Binder": f"https://mybinder.org/v2/gh/{repo}/{ref}?urlpath=lab/tree/{notebook}",
    }


def linked(markdown: str) -> dict[str, str]:
    """Return alt text -> address of every badge."""
    return dict(re.findall(r"\[!\[([^]]+)\]\(https://[^)]+\.svg\)\]\(([^)]+)\)", markdown))


def installed(cells: list) -> list[str]:
    return re.findall(r"(?m)^ +%pip install --quiet (.+)$", "\n".join(cell.source for cell in cells))


@pytest.mark.parametrize("times", [1, 2], ids=["stamped", "stamped again"])
def test_badges_and_install_line_name_the_repository(checkout, times):
    for repo, ref in [SECOND, FIRST][-times:]:
        stamp(checkout, repo, ref)
    assert linked((checkout / "README.md").read_text()) == expected(*FIRST, START)
    for name, cells in notebooks(checkout).items():
        assert linked(cells[0].source) == expected(*FIRST, name)
        assert installed(cells) == ["git+https://github.com/owner/name@v1.0"]
    assert not [path for path, content in contents(checkout).items() if b"Other-1" in content]


def test_the_unstamped_files_have_no_link_and_install_from_a_clone(checkout):
    assert not [path for path, content in contents(checkout).items() if b"mybinder.org" in content]
    for cells in notebooks(checkout).values():
        assert installed(cells) == ["/content/lcm_nb"]


def test_the_stamp_comes_off_without_a_trace(checkout):
    before = contents(checkout)
    stamp(checkout, *FIRST)
    stamp(checkout, *SECOND)
    stamp(checkout)
    assert contents(checkout) == before


def test_the_same_stamp_writes_nothing(checkout):
    assert len(stamp(checkout, *FIRST)) == len(notebooks(checkout)) + 1
    assert stamp(checkout, *FIRST) == []


def test_a_stamped_notebook_is_as_jupyter_writes_it(checkout):
    stamp(checkout, *FIRST)
    paths = [checkout / name for name in notebooks(checkout)]
    for path in paths:
        assert path.read_bytes().decode() == nbformat.writes(nbformat.read(path, as_version=4)) + "\n"
    subprocess.run([sys.executable, "-m", "nbstripout", "--verify", "--keep-id", *map(str, paths)], check=True)


BAD = [
    ("owner", "v1", "--repo is 'owner'"),
    ("", "v1", "--repo is ''"),
    ("a/b/c", "v1", "--repo is 'a/b/c'"),
    ("-a/b", "v1", "--repo is '-a/b'"),
    ("a/..", "v1", "--repo is 'a/..'"),
    ("a/b.git", "v1", "--repo is 'a/b.git'"),
    ("https://github.com/a/b", "v1", "give OWNER/NAME"),
    ("a/b", "", "--ref is ''"),
    ("a/b", "v 1", "--ref is 'v 1'"),
    ("a/b", "-v1", "--ref is '-v1'"),
    ("a/b", "v1..v2", "--ref is 'v1..v2'"),
    ("a/b", "topic/x", "--ref is 'topic/x'"),
    ("a/b", "v1)", "--ref is 'v1)'"),
    ("a/b", None, "--repo is given without --ref"),
    (None, "v1", "--ref is given without --repo"),
]


@pytest.mark.parametrize(("repo", "ref", "words"), BAD, ids=[f"{repo}@{ref}" for repo, ref, _ in BAD])
def test_bad_values_are_refused_before_anything_is_written(checkout, repo, ref, words):
    before = contents(checkout)
    with pytest.raises(ValueError, match=re.escape(words)):
        stamp(checkout, repo, ref)
    assert contents(checkout) == before


def test_a_file_without_a_place_is_refused_before_anything_is_written(checkout):
    path = sorted((checkout / "notebooks").glob("*.ipynb"))[-1]
    path.write_text(path.read_text().replace("<!-- /badges -->", ""))
    before = contents(checkout)
    with pytest.raises(ValueError, match=f"{path.name} has 0 lines <!-- badges -->"):
        stamp(checkout, *FIRST)
    assert contents(checkout) == before


def test_the_command_stamps_the_folder_where_it_runs(checkout, monkeypatch, capsys):
    monkeypatch.chdir(checkout)
    assert main(["--repo", "owner/name", "--ref", "v1.0"]) == 0
    assert str(checkout / START) in capsys.readouterr().out.splitlines()
    assert main([]) == 0
    assert not linked((checkout / "README.md").read_text())


def test_the_command_refuses_another_folder_in_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "README.md").write_text("mine")
    assert main(["--repo", "owner/name", "--ref", "v1.0"]) == 2
    error = capsys.readouterr().err
    assert "is no checkout of lcm_nb" in error and error.count("\n") == 1
    assert (tmp_path / "README.md").read_text() == "mine"
