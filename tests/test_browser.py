"""A real browser in a real JupyterLab: a slider is moved, and the picture changes."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request

import nbformat
import pytest

CHROMIUM = shutil.which("chromium")
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")
pytestmark = pytest.mark.skipif(not CHROMIUM, reason="chromium is not installed: apt-get install chromium")

MILLISECONDS = 120_000  # only a failing test waits that long
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-quic",
]
CELLS = [
    'import lcm_nb\n\nstudio = lcm_nb.load("text-to-image")',
    "panel = studio.panel()\npanel",
    "panel.run()\npanel.wait(120)\nprint(panel.status)",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with one small notebook, and JupyterLab's settings for this test alone."""
    folder = tmp_path_factory.mktemp("lab")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in CELLS])
    notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, folder / "panel.ipynb")
    # Jupyter's news would ask a server elsewhere, and put a question over the page.
    news = folder / "settings" / "@jupyterlab" / "apputils-extension" / "notification.jupyterlab-settings"
    news.parent.mkdir(parents=True)
    news.write_text(json.dumps({"fetchNews": "false", "checkForUpdates": False}))
    return folder


def lab_command(root, options: list[str]) -> list[str]:
    """Return `make lab` where make installed, else what it runs."""
    if shutil.which("make") and (root / ".venv" / ".installed").exists():
        return ["make", "--directory", str(root), "lab", f"LAB_ARGS={' '.join(options)}"]
    as_root = ["--allow-root"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    start = "--LabApp.default_url=/lab/tree/notebooks/00_start_here.ipynb"
    return [sys.executable, "-m", "jupyterlab", start, *as_root, *options]


@pytest.fixture(scope="module")
def lab(folder, environment, root):
    """The address of a JupyterLab that shows the folder, with its token."""
    port, token = free_port(), "only-for-this-test"
    own = {
        "JUPYTERLAB_SETTINGS_DIR": str(folder / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(folder / "workspaces"),
        "JUPYTER_CONFIG_DIR": str(folder / "config"),
        "JUPYTER_DATA_DIR": str(folder / "data"),
        "JUPYTER_RUNTIME_DIR": str(folder / "runtime"),
        "IPYTHONDIR": str(folder / "ipython"),
    }
    options = ["--no-browser", f"--port={port}", "--ip=127.0.0.1", "--ServerApp.port_retries=0"]
    options += [f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={folder}"]
    command = lab_command(root, options)
    with (folder / "server.log").open("w") as log:
        server = subprocess.Popen(command, env=environment | own, cwd=folder, stdout=log, stderr=log)
        try:
            wait_for(f"http://127.0.0.1:{port}/api/status?token={token}", server, folder / "server.log")
            yield f"http://127.0.0.1:{port}/lab/tree/panel.ipynb?token={token}"
        finally:
            server.terminate()
            server.wait(30)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def wait_for(address: str, server: subprocess.Popen, log) -> None:
    """Wait until the server answers."""
    for _ in range(MILLISECONDS // 500):
        try:
            urllib.request.urlopen(address, timeout=5).close()
            return
        except OSError:
            time.sleep(0.5)
        if server.poll() is not None:
            break
    raise RuntimeError(f"JupyterLab did not start:\n{log.read_text()}")


@pytest.fixture(scope="module")
def page(lab):
    """A browser page with the notebook run to its end.

    ``page.complaints`` gathers the console's errors, ``page.hosts`` all hosts that were asked.
    """
    with playwright.sync_playwright() as browsers:
        browser = browsers.chromium.launch(executable_path=CHROMIUM, headless=True, args=FLAGS)
        page = browser.new_page(viewport={"width": 1400, "height": 1200})
        page.set_default_timeout(MILLISECONDS)
        page.complaints, page.hosts = [], set()
        page.on("console", lambda message: page.complaints.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: page.complaints.append(str(error)))
        page.on("request", lambda request: page.hosts.add(urllib.parse.urlparse(request.url).hostname))
        page.goto(lab)
        page.get_by_text("Python 3 (ipykernel) | Idle").wait_for()
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.get_by_text("Run All Cells", exact=True).click()
        page.locator(".jp-OutputArea-output", has_text="4 steps at timesteps").first.wait_for()
        yield page
        browser.close()


def test_the_server_prints_the_address_of_the_start_page(lab, folder):
    address = lab.split("?")[0].replace("panel.ipynb", "notebooks/00_start_here.ipynb")
    assert address in (folder / "server.log").read_text()


def status(page, steps: int):
    """The panel's status line, once it tells of so many steps."""
    return page.locator(".widget-label", has_text=re.compile(rf"^{steps} steps? at timesteps? [\d, ]+ - [\d.]+ s$"))


def test_a_moved_slider_changes_the_picture(page, tmp_path):
    picture = page.locator("img.widget-image").first
    status(page, 4).wait_for()
    source, pixels = picture.get_attribute("src"), picture.screenshot()
    handle = page.locator(".widget-slider", has_text="steps").locator(".noUi-handle")
    handle.focus()
    handle.press("ArrowLeft")
    handle.press("ArrowLeft")
    status(page, 2).wait_for()
    assert "999, 499" in status(page, 2).inner_text()
    playwright.expect(picture).not_to_have_attribute("src", source)
    assert picture.screenshot() != pixels
    page.screenshot(path=tmp_path / "panel.png")


def test_the_page_has_no_errors_and_asks_no_other_host(page):
    assert page.complaints == []
    assert {host for host in page.hosts if host} == {"127.0.0.1"}
