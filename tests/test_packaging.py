"""The lock, pyproject.toml, environment.yml and binder/ agree; the console script works."""

import ast
import os
import re
import subprocess
import sys
import tomllib
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import nbformat
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from lcm_nb import cli

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
DECLARED = [Requirement(line) for lines in (PROJECT["dependencies"], *EXTRAS.values()) for line in lines]
PYTORCH_INDEX = "--extra-index-url https://download.pytorch.org/whl/cpu"
# What Colab had in August 2026; the lower bounds must let it be.
COLAB = {
    "torch": "2.11",
    "diffusers": "0.39",
    "transformers": "5.15",
    "ipywidgets": "7.7.1",
    "ipykernel": "6.17.1",
    "pillow": "11.3",
    "anywidget": "0.9.21",
}


def instructions(path: str) -> list[str]:
    """Return the lines of a file without comments and blank lines."""
    lines = (line.split(" #")[0].strip() for line in (ROOT / path).read_text().splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def pins(path: str = "requirements.txt") -> dict[str, str]:
    """Return distribution -> version of a lock."""
    pairs = [re.fullmatch(r"([\w.-]+)==([\w.]+)", line) for line in instructions(path)]
    assert all(pairs), f"{path} holds lines other than name==version"
    return {canonicalize_name(pair[1]): pair[2] for pair in pairs}


def names(lines: list[str]) -> set[str]:
    return {canonicalize_name(Requirement(line).name) for line in lines}


# -- one truth ------------------------------------------------------------------------


def test_lock_pins_each_distribution_once():
    assert len(pins()) == len(instructions("requirements.txt"))


@pytest.mark.parametrize("requirement", DECLARED, ids=str)
def test_lock_satisfies_every_declared_range(requirement):
    version = pins().get(canonicalize_name(requirement.name))
    assert version, f"{requirement.name} is declared in pyproject.toml and not pinned in requirements.txt"
    assert requirement.specifier.contains(version), f"{requirement} does not admit the pinned {version}"


@pytest.mark.parametrize("line", PROJECT["dependencies"])
def test_runtime_ranges_are_bounded(line):
    operators = {clause.operator for clause in Requirement(line).specifier}
    assert {">=", "<"} <= operators, f"{line}: give a lower and an upper bound"


def test_declared_ranges_admit_colab():
    ranges = {canonicalize_name(r.name): r.specifier for r in map(Requirement, PROJECT["dependencies"])}
    refused = {name: version for name, version in COLAB.items() if not ranges[name].contains(version)}
    assert not refused
    assert "jupyterlab" not in ranges, "Colab would be made to install JupyterLab"


def test_colabs_corner_has_colabs_versions():
    """But for torch, see tests/colab.txt."""
    corner = pins("tests/colab.txt")
    parts = {name: SpecifierSet(f"=={version}.*") for name, version in COLAB.items() if name != "torch"}
    assert not {name: corner[name] for name, version in parts.items() if not version.contains(corner[name])}


@pytest.mark.parametrize("line", PROJECT["dependencies"])
def test_the_ranges_admit_what_colabs_corner_has(line):
    """Else pip would change it on Colab."""
    requirement = Requirement(line)
    assert requirement.specifier.contains(pins("tests/colab.txt")[canonicalize_name(requirement.name)])


def test_environment_and_binder_install_from_the_lock():
    conda = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    (pip,) = [entry["pip"] for entry in conda if isinstance(entry, dict)]
    assert pip == ["-r requirements.txt", "-e ."]
    assert instructions("binder/requirements.txt") == [PYTORCH_INDEX, "-r ../requirements.txt"]
    assert "pip install $(PIP_ARGS) --requirement requirements.txt" in (ROOT / "Makefile").read_text()


def test_binder_reads_requirements_and_nothing_that_goes_before_them():
    """A Dockerfile, environment.yml or Pipfile here would make repo2docker ignore the rest."""
    names = {path.name for path in (ROOT / "binder").iterdir()}
    assert names == {"overrides.json", "postBuild", "requirements.txt", "runtime.txt"}


def test_binder_installs_the_package_itself():
    script = ROOT / "binder/postBuild"
    assert os.access(script, os.X_OK)
    commands = instructions("binder/postBuild")
    assert commands[0] == "set -e"
    assert re.fullmatch(r"pip install .*--no-deps \.", commands[1])


def test_python_versions_agree():
    conda = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    (version,) = [entry.removeprefix("python=") for entry in conda if str(entry).startswith("python=")]
    assert instructions("binder/runtime.txt") == [f"python-{version}"]
    assert f"on Python {version}." in (ROOT / "requirements.txt").read_text()
    assert SpecifierSet(PROJECT["requires-python"]).contains(version)
    floor = PROJECT["requires-python"].removeprefix(">=")
    assert f"({floor.replace('.', ', ')})" in (ROOT / "Makefile").read_text()


# -- what is imported is declared -----------------------------------------------------


@cache
def owners() -> dict[str, list[str]]:
    """Return importable module -> the distributions that hold it."""
    return packages_distributions()


def third_party(code: str) -> set[str]:
    """Return the distributions that some code imports."""
    modules = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            modules |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            modules.add(node.module.split(".")[0])
    modules -= {*sys.stdlib_module_names, "lcm_nb", "google", "conftest", "full_size", "loopback", "replicas"}
    return {canonicalize_name(owners().get(module, [module])[0]) for module in modules}


def notebook_code(path: Path) -> str:
    """Return a notebook's Python, with what IPython alone understands left out."""
    cells = [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    return re.sub(r"(?m)^(\s*)[%!].*$", r"\1pass", "\n".join(cells))


def test_runtime_imports_are_declared():
    code = [path.read_text() for path in (ROOT / "lcm_nb").glob("*.py")]
    code += [notebook_code(path) for path in (ROOT / "notebooks").glob("*.ipynb")]
    assert set().union(*map(third_party, code)) <= names(PROJECT["dependencies"])


def test_training_and_test_imports_are_declared():
    known = names([*PROJECT["dependencies"], *EXTRAS["training"]])
    for path in (ROOT / "lcm_nb/training").glob("*.py"):
        assert third_party(path.read_text()) <= known, path.name
    known |= names(EXTRAS["test"])
    for path in (ROOT / "tests").glob("*.py"):
        assert third_party(path.read_text()) <= known, path.name


# -- the console script ---------------------------------------------------------------


def test_help_imports_no_torch():
    code = "import sys, lcm_nb.cli as cli; cli._parser().format_help(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "False"


def test_info_prints_aligned_lines(capsys):
    assert cli.main(["info"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[0] == "lcm_nb"
    assert len({re.match(r"\S+\s+", line).end() for line in lines}) == 1


def test_draw_saves_a_picture(tmp_path, capsys):
    path = tmp_path / "fox.png"
    assert cli.main(["draw", "a cute fox", "--steps", "2", "--seed", "7", "--output", str(path)]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first == str(path) and path.stat().st_size > 0
    assert re.fullmatch(r"timesteps \d+, \d+ - \d+\.\d\d s", second)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["draw", "a fox", "--steps", "99"], "num_inference_steps is 99"),
        (["draw", " "], "at least one word"),
        (["draw", "a fox", "--steps", "1", "--output", "fox.jpg"], ".png"),
    ],
)
def test_wrong_settings_end_in_one_line(options, words, capsys):
    assert cli.main(options) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1 and error.startswith("lcm-nb: ")
