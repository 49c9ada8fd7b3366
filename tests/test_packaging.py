"""The lock, pyproject.toml, environment.yml and binder/ agree; the console script works."""

import ast
import json
import os
import re
import shutil
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
def test_colabs_corner_has_the_oldest_versions_that_are_admitted(line):
    """So `make colab` runs them, and pip changes none of them on Colab."""
    requirement = Requirement(line)
    corner = pins("tests/colab.txt")[canonicalize_name(requirement.name)]
    assert requirement.specifier.contains(corner)
    (floor,) = [clause.version for clause in requirement.specifier if clause.operator == ">="]
    if requirement.name != "torch":  # see tests/colab.txt
        assert SpecifierSet(f"=={floor}.*").contains(corner), f"{line}, and tests/colab.txt installs {corner}"


def test_environment_and_binder_install_from_the_lock():
    conda = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    (pip,) = [entry["pip"] for entry in conda if isinstance(entry, dict)]
    assert pip == ["-r requirements.txt", "-e ."]
    assert instructions("binder/requirements.txt") == [PYTORCH_INDEX, "-r ../requirements.txt"]


@pytest.fixture
def bare(tmp_path) -> Path:
    """A folder with what make needs to install, and nothing installed."""
    for name in ("Makefile", "pyproject.toml", "requirements.txt"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def make(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    if not shutil.which("make"):
        pytest.skip("make is not installed")
    return subprocess.run(["make", *arguments], cwd=folder, capture_output=True, text=True, check=False)


def test_make_installs_the_lock_before_it_runs_anything(bare):
    done = make(bare, "--dry-run", "lab", "PIP_ARGS=--some-option")
    commands = [line.strip() for line in done.stdout.splitlines() if "pip install" in line]
    assert [command.partition(" -m ")[2] for command in commands] == [
        "pip install --some-option --requirement requirements.txt",
        "pip install --some-option --no-deps --editable .",
    ]


def test_make_refuses_an_older_python_in_one_breath(bare):
    """The oldest that pyproject.toml admits goes on; the one before it is told what to do."""
    floor = tuple(map(int, PROJECT["requires-python"].removeprefix(">=").split(".")))
    older = bare / "older-python"
    code = f"import sys; sys.version_info = {(floor[0], floor[1] - 1, 9)}; exec(sys.argv[1])"
    older.write_text(f'#!/bin/sh\n[ "$1" = -c ] || {{ echo "Python 3.{floor[1] - 1}.9"; exit; }}\n')
    older.write_text(older.read_text() + f'exec "{sys.executable}" -c "{code}" "$2"\n')
    older.chmod(0o755)
    done = make(bare, "lab", f"PYTHON={older}")
    assert done.returncode == 2
    assert f"lcm_nb needs Python {floor[0]}.{floor[1]} or newer" in done.stderr and "make PYTHON=" in done.stderr
    assert "pip install" not in done.stdout
    older.write_text(older.read_text().replace(f"({floor[0]}, {floor[1] - 1}, 9)", str((*floor, 0))))
    assert "lcm_nb needs Python" not in make(bare, "lab", f"PYTHON={older}", "PIP_ARGS=--no-such-option").stderr


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


def test_jupyterlab_knows_the_settings_that_ship():
    """They are defaults of the installed version, with a value that it admits, and do not repeat its own."""
    schemas = Path(sys.prefix) / "share/jupyter/lab/schemas"
    if not schemas.is_dir():
        pytest.skip("JupyterLab is not installed: pip install lcm_nb[lab]")
    for name, settings in json.loads((ROOT / "binder/overrides.json").read_text()).items():
        package, _, plugin = name.partition(":")
        known = json.loads((schemas / package / f"{plugin}.json").read_text())["properties"]
        for key, value in settings.items():
            choices = [choice["const"] for choice in known[key].get("oneOf", [])]
            assert value in choices or (not choices and type(value) is type(known[key]["default"])), key
            assert value != known[key]["default"], key


def test_make_lab_brings_the_settings_that_binder_has(bare):
    shutil.copytree(ROOT / "binder", bare / "binder")
    (bare / ".venv").mkdir()
    (bare / ".venv/.installed").touch()  # after what it depends on
    settings = ".venv/share/jupyter/lab/settings/overrides.json"
    assert make(bare, settings).returncode == 0
    assert (bare / settings).read_bytes() == (ROOT / "binder/overrides.json").read_bytes()
    assert f"cp binder/overrides.json {settings}" in make(bare, "--dry-run", "--always-make", "lab").stdout
    assert 'cp binder/overrides.json "$lab/"' in instructions("binder/postBuild")


def test_python_versions_agree():
    conda = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    (version,) = [entry.removeprefix("python=") for entry in conda if str(entry).startswith("python=")]
    assert instructions("binder/runtime.txt") == [f"python-{version}"]
    assert f"on Python {version}." in (ROOT / "requirements.txt").read_text()
    assert SpecifierSet(PROJECT["requires-python"]).contains(version)


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
    helpers = {path.stem for folder in ("tests", ".ci") for path in (ROOT / folder).glob("*.py")}
    modules -= {*sys.stdlib_module_names, *helpers, "lcm_nb", "google"}
    return {canonicalize_name(owners().get(module, [module])[0]) for module in modules}


def notebook_code(path: Path) -> str:
    """Return a notebook's Python, with what IPython alone understands left out."""
    cells = [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    return re.sub(r"(?m)^(\s*)[%!].*$", r"\1pass", "\n".join(cells))


def test_runtime_imports_are_declared():
    package = ROOT / "lcm_nb"
    code = [path.read_text() for path in package.rglob("*.py") if path.parent != package / "training"]
    code += [notebook_code(path) for path in (ROOT / "notebooks").glob("*.ipynb")]
    known = names(
        [*PROJECT["dependencies"], *EXTRAS["openvino"], *EXTRAS["serve"], *EXTRAS["web"]]
    )  # where they are asked for
    assert set().union(*map(third_party, code)) <= known


def test_training_and_test_imports_are_declared():
    known = names([*PROJECT["dependencies"], *EXTRAS["training"]])
    for path in (ROOT / "lcm_nb/training").glob("*.py"):
        assert third_party(path.read_text()) <= known, path.name
    known |= names([*EXTRAS["test"], *EXTRAS["openvino"], *EXTRAS["serve"], *EXTRAS["web"]])
    for path in (ROOT / "tests").glob("*.py"):
        assert third_party(path.read_text()) <= known, path.name


# -- the console script ---------------------------------------------------------------


def test_help_imports_no_torch():
    told = "import atexit, sys; atexit.register(lambda: print('torch' in sys.modules))"
    code = f"{told}; import lcm_nb.cli as cli; cli.main(['-h'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert "draw" in done.stdout and done.stdout.splitlines()[-1] == "False"


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


def test_draw_says_in_a_line_what_it_does_not_know(tmp_path, capsys):
    assert cli.main(["draw", "a zebra", "--steps", "1", "--output", str(tmp_path / "zebra.png")]) == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("lcm-nb: the mini family does not know 'zebra'")


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
