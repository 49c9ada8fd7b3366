"""What Binder does with binder/, replayed in a fresh environment: install, postBuild, and a look at the result.

With ``-r ../requirements.txt`` in binder/requirements.txt, repo2docker copies the whole repository first, then runs
``pip install --no-cache-dir -r "binder/requirements.txt"`` and ``binder/postBuild`` in its top folder.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="Binder runs Linux")]

DRAW = ["lcm-nb", "draw", "a cute fox in a meadow", "--steps", "2", "--seed", "0", "--output", "fox.png"]
SETTINGS = """
import json
from pathlib import Path
from jupyterlab.commands import get_app_dir
from jupyterlab_server.settings_utils import get_settings
found = {}
for name in json.loads(Path("binder/overrides.json").read_text()):
    schema = get_settings(f"{get_app_dir()}/settings", f"{get_app_dir()}/schemas", "", schema_name=name)[0]["schema"]
    found[name] = {key: setting.get("default") for key, setting in schema["properties"].items()}
print(json.dumps(found))
"""


def copy_of(root: Path, folder: Path) -> Path:
    """Copy what git tracks or would add."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    for name in filter(None, listed.stdout.split("\0")):
        if (root / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(root / name, folder / name)
    return folder


class Container:
    """A fresh environment, a copy of the repository, and what repo2docker sets."""

    def __init__(self, root: Path, folder: Path):
        self.prefix, self.elsewhere = folder / "env", folder / "elsewhere"
        self.elsewhere.mkdir()
        self.repository = copy_of(root, folder / "repository")
        subprocess.run([sys.executable, "-m", "venv", self.prefix], check=True)
        self.environment = os.environ | {
            "PATH": f"{self.prefix / 'bin'}{os.pathsep}{os.environ['PATH']}",
            # PyTorch's index may be out of reach, and pip tries five times for each of a hundred names.
            "PIP_RETRIES": "1",
            "PIP_NO_COMPILE": "1",  # little is imported afterwards
            "JUPYTER_CONFIG_DIR": str(folder / "config"),
            "JUPYTER_DATA_DIR": str(folder / "data"),
            "IPYTHONDIR": str(folder / "ipython"),
            "CUDA_VISIBLE_DEVICES": "",
        }
        for name in ("PYTHONPATH", "LCM_NB_PROFILE"):
            self.environment.pop(name, None)

    def run(self, *command: str, cwd: Path | None = None) -> str:
        """Run a command where no checkout is near, or in a folder; return what it printed."""
        program = shutil.which(command[0], path=self.environment["PATH"])
        done = subprocess.run(
            [program or command[0], *command[1:]],
            cwd=cwd or self.elsewhere,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{command}: {done.stdout[-3000:]}{done.stderr[-3000:]}"
        return done.stdout


@pytest.fixture(scope="module")
def container(root, tmp_path_factory):
    folder = tmp_path_factory.mktemp("binder")
    container = Container(root, folder)
    container.run("pip", "install", "--no-cache-dir", "-r", "binder/requirements.txt", cwd=container.repository)
    container.run("./binder/postBuild", cwd=container.repository)
    yield container
    shutil.rmtree(folder)  # a gigabyte


def test_binder_has_the_python_of_the_tests(root):
    version = f"python-{sys.version_info.major}.{sys.version_info.minor}"
    assert (root / "binder/runtime.txt").read_text().strip() == version


def test_the_installed_package_draws_a_picture(container):
    printed = container.run("python", "-c", "import lcm_nb; print(lcm_nb.__file__)")
    assert Path(printed.strip()).is_relative_to(container.prefix)
    container.run(*DRAW)
    with Image.open(container.elsewhere / "fox.png") as image:
        low, high = image.convert("L").getextrema()
    assert high - low > 50


def test_a_kernel_runs_the_first_notebook(container):
    container.run("jupyter", "execute", "notebooks/00_start_here.ipynb", cwd=container.repository)


def test_jupyterlab_has_the_settings_that_ship(container):
    found = json.loads(container.run("python", "-c", SETTINGS, cwd=container.repository))
    wanted = json.loads((container.repository / "binder/overrides.json").read_text())
    assert {name: {key: found[name][key] for key in settings} for name, settings in wanted.items()} == wanted
