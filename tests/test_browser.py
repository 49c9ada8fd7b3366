"""A real browser in a real JupyterLab: each control of each panel is moved, and the picture changes."""

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
from PIL import Image

from lcm_nb.sections import BY_NAME as RECIPES

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
LOAD = "import lcm_nb\n\nstudio = lcm_nb.load({section!r})"
CELLS = ["panel = studio.panel()\npanel", "panel.run()\npanel.wait(120)\nprint(panel.status)"]
DONE = re.compile(r"^\d+ steps? at timesteps? [\d, ]+ - [\d.]+ s")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a small notebook a section, and JupyterLab's settings for this test alone."""
    folder = tmp_path_factory.mktemp("lab")
    for section in RECIPES:
        cells = [nbformat.v4.new_code_cell(cell) for cell in (LOAD.format(section=section), *CELLS)]
        notebook = nbformat.v4.new_notebook(cells=cells)
        notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
        nbformat.write(notebook, folder / f"{section}.ipynb")
    Image.effect_noise((300, 200), 90).convert("RGB").save(folder / "mine.png")
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
            yield f"http://127.0.0.1:{port}/lab/tree/{{}}?token={token}&reset"
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
def browser():
    with playwright.sync_playwright() as browsers:
        browser = browsers.chromium.launch(executable_path=CHROMIUM, headless=True, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module", params=RECIPES)
def page(request, lab, browser):
    """A browser page with a section's notebook run to its end.

    ``page.section`` is the section, ``page.complaints`` gathers the console's errors,
    ``page.hosts`` all hosts that were asked.
    """
    page = browser.new_page(viewport={"width": 1400, "height": 1200})
    page.set_default_timeout(MILLISECONDS)
    page.section, page.complaints, page.hosts = request.param, [], set()
    page.on("console", lambda message: page.complaints.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: page.complaints.append(str(error)))
    page.on("request", lambda request: page.hosts.add(urllib.parse.urlparse(request.url).hostname))
    page.goto(lab.format(f"{page.section}.ipynb"))
    page.get_by_text("Python 3 (ipykernel) | Idle").wait_for()
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_text("Run All Cells", exact=True).click()
    page.locator(".jp-OutputArea-output", has_text="at timestep").last.wait_for()
    status(page).wait_for()
    yield page
    page.close()


def test_the_server_prints_the_address_of_the_start_page(lab, folder):
    address = lab.split("?")[0].format("notebooks/00_start_here.ipynb")
    assert address in (folder / "server.log").read_text()


def status(page, text: re.Pattern = DONE):
    """The panel's status line, once it reads like this."""
    return page.locator(".widget-html-content", has_text=text)


def picture(page):
    """The result on screen."""
    return page.locator(".lcm-compare img[alt=after], img.widget-image:visible").first


def slide(page, label: str, *keys: str) -> None:
    """Press keys on a slider's handle."""
    handle = page.locator(".widget-slider", has=page.get_by_text(label, exact=True)).locator(".noUi-handle")
    handle.focus()
    for key in keys:
        handle.press(key)


def type_prompt(page) -> None:
    page.locator(".widget-text", has=page.get_by_text("prompt", exact=True)).locator("input").fill(
        "a panda in the snow"
    )


def upload(page) -> None:
    with page.expect_file_chooser() as chooser:
        page.locator(".widget-upload").click()
    chooser.value.set_files(page.mine)


MOVES = {
    "prompt": type_prompt,
    "image": upload,
    "num_inference_steps": lambda page: slide(page, "steps", "ArrowLeft"),
    "strength": lambda page: slide(page, "strength", "PageUp"),
    "guidance_scale": lambda page: slide(page, "guidance", "PageDown"),
    "papercut": lambda page: slide(page, "papercut", "PageDown"),
    "neon": lambda page: slide(page, "neon", "PageUp"),
    "detect_edges": lambda page: page.locator(".widget-checkbox input").click(),
    "low_threshold": lambda page: slide(page, "canny low", "PageDown"),
    "high_threshold": lambda page: slide(page, "canny high", "PageUp"),
    "controlnet_conditioning_scale": lambda page: slide(page, "control", "PageDown"),
    "adapter_conditioning_scale": lambda page: slide(page, "adapter", "PageDown"),
    "adapter_conditioning_factor": lambda page: slide(page, "factor", "PageDown", "PageDown"),
    "seed": lambda page: page.get_by_role("button", name="new seed").click(),
}


def test_each_control_changes_the_picture(page, folder, tmp_path):
    page.mine = folder / "mine.png"
    shown = picture(page)
    specs = RECIPES[page.section].settings
    settings = [name for name, spec in specs.items() if not spec.inert]
    assert set(settings) <= set(MOVES)
    for name in sorted(settings, key="detect_edges".__eq__):  # without edges the thresholds do nothing
        source, pixels = shown.get_attribute("src"), shown.screenshot()
        MOVES[name](page)
        playwright.expect(shown, name).not_to_have_attribute("src", source)
        status(page).wait_for()
        assert shown.screenshot() != pixels, name
    page.screenshot(path=tmp_path / f"{page.section}.png")


def test_a_control_without_effect_is_grey_and_says_why(page):
    specs = RECIPES[page.section].settings
    boxes = page.locator(".widget-text", has=page.get_by_text("negative", exact=True)).locator("input")
    assert boxes.count() == ("negative_prompt" in specs)
    if boxes.count():
        assert boxes.is_disabled()
        playwright.expect(page.get_by_text(specs["negative_prompt"].inert)).to_be_visible()


def test_the_line_between_two_pictures_can_be_dragged(page):
    stage = page.locator(".lcm-compare div").first
    if not RECIPES[page.section].settings.get("image"):
        pytest.skip("the section starts from no picture")
    box, before = stage.bounding_box(), stage.screenshot()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 4, box["y"] + box["height"] / 2, steps=4)
    page.mouse.up()
    assert page.locator(".lcm-compare input").input_value() == "25"
    assert stage.screenshot() != before
    page.get_by_role("button", name="side by side").click()
    playwright.expect(stage).to_be_hidden()
    assert page.locator("img.widget-image:visible").count() >= 2


def test_the_page_has_no_errors_and_asks_no_other_host(page, folder):
    assert page.complaints == []
    assert {host for host in page.hosts if host} == {"127.0.0.1"}
    log = (folder / "server.log").read_text()
    assert "Traceback" not in log and "[E " not in log
