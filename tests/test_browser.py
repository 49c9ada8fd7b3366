"""A real browser in a real JupyterLab: the panels are moved by mouse and keys, and the picture changes."""

import functools
import json
import re
import shutil
import urllib.parse
import urllib.request
from base64 import b64encode
from pathlib import Path

import nbformat
import numpy as np
import pytest
from chromium import MILLISECONDS, chromium, jupyterlab, lab_command, write_notebook
from PIL import Image, ImageFilter, ImageOps

from lcm_nb.sections import BY_NAME as RECIPES
from lcm_nb.sections import section_for
from lcm_nb.widgets.panel import ASLEEP

CHROMIUM = shutil.which("chromium")
Axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed").Axe
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")
playwright.expect.set_options(timeout=MILLISECONDS)
pytestmark = pytest.mark.skipif(not CHROMIUM, reason="chromium is not installed: apt-get install chromium")

LOAD = "import lcm_nb\n\nstudio = lcm_nb.load({section!r})"
CELLS = ["panel = studio.panel()\npanel", "panel.run()\npanel.wait(120)\nprint(panel.status)"]
DONE = re.compile(r"^\d+ steps? at timesteps? [\d, ]+ - [\d.]+ s")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a small notebook a section, and a picture."""
    folder = tmp_path_factory.mktemp("lab")
    for section in RECIPES:
        write_notebook(folder / f"{section}.ipynb", (LOAD.format(section=section), *CELLS))
    noise = np.random.default_rng(0).integers(0, 256, (200, 300, 3), dtype=np.uint8)
    soft = Image.fromarray(noise).filter(ImageFilter.GaussianBlur(3))  # edges of all strengths: each threshold acts
    ImageOps.autocontrast(soft).save(folder / "mine.png")
    return folder


def make_lab(root, options: list[str]) -> list[str]:
    """Return `make lab` where make installed, else what it runs."""
    if shutil.which("make") and (root / ".venv" / ".installed").exists():
        return ["make", "--directory", str(root), "lab", f"LAB_ARGS={' '.join(options)}"]
    return lab_command(["--LabApp.default_url=/lab/tree/notebooks/00_start_here.ipynb", *options])


@pytest.fixture(scope="module")
def lab(folder, environment, root):
    """The address of a JupyterLab that shows the folder, with its token."""
    with jupyterlab(folder, environment, functools.partial(make_lab, root)) as address:
        yield address


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


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
    run_all(page)
    yield page
    page.close()


def test_the_server_prints_the_address_of_the_start_page(lab, folder):
    address = lab.split("?")[0].format("notebooks/00_start_here.ipynb")
    assert address in (folder / "server.log").read_text()


def run_all(page) -> None:
    """Run all cells, by the menu, and wait for the panel's picture."""
    page.get_by_text("Python 3 (ipykernel) | Idle").wait_for()
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_text("Run All Cells", exact=True).click()
    page.locator(".jp-OutputArea-output", has_text="at timestep").last.wait_for()
    status(page).wait_for()


def status(page, text: re.Pattern = DONE):
    """The panel's status line, once it reads like this."""
    return page.locator(".lcm-status", has_text=text)


def picture(page):
    """The result on screen."""
    return page.locator(".lcm-stage img").first


def steps(page):
    """The steps' slider, as those hear it who do not see it."""
    return page.get_by_role("slider", name="steps", exact=True)


def box(page, label: str):
    """The box of a text."""
    return page.get_by_label(label, exact=True)


def set_steps(page, number: int) -> None:
    """Move the slider to 1 or 8, from wherever it is, and wait for the picture."""
    if float(steps(page).get_attribute("aria-valuenow")) == number:
        drawn_anew(page, lambda: steps(page).press("ArrowLeft" if number == 8 else "ArrowRight"))
    drawn_anew(page, lambda: steps(page).press("End" if number == 8 else "Home"))
    page.locator(".lcm-status[data-mood=done]", has_text=f"{number} step").wait_for()


def drawn_anew(page, action) -> None:
    """Do ``action``, and wait for the picture that comes of it."""
    source = picture(page).get_attribute("src")
    action()
    playwright.expect(picture(page)).not_to_have_attribute("src", source)
    page.locator(".lcm-status[data-mood=done]").wait_for()


def slide(page, label: str, *keys: str) -> None:
    """Press keys on a slider's handle."""
    handle = page.locator(".widget-slider", has=page.get_by_text(label, exact=True)).locator(".noUi-handle")
    handle.focus()
    for key in keys:
        handle.press(key)


def type_prompt(page) -> None:
    box(page, "prompt").fill("a panda in the snow")


def upload(page, file=None) -> None:
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="image: choose a picture").click()
    chooser.value.set_files(file or page.mine)


def stroke(page, name: str, *places: tuple[float, float]) -> None:
    """Draw a line with the mouse on a surface to paint on, through places from 0 to 1."""
    surface = page.get_by_role("img", name=name)
    surface.scroll_into_view_if_needed()
    around = surface.bounding_box()
    first, *rest = [(around["x"] + x * around["width"], around["y"] + y * around["height"]) for x, y in places]
    page.mouse.move(*first)
    page.mouse.down()
    for place in rest:
        page.mouse.move(*place, steps=5)
    page.mouse.up()


MASK = "mask: paint"


def change_picture(page, file=None) -> None:
    """Upload a picture; where it needs a mask, paint one."""
    upload(page, file)
    if "mask_image" in RECIPES[page.section].settings:
        status(page, re.compile("mask_image marks nothing")).wait_for()
        stroke(page, MASK, (0.2, 0.5), (0.8, 0.5))


MOVES = {
    "prompt": type_prompt,
    "image": change_picture,
    "mask_image": lambda page: stroke(page, MASK, (0.2, 0.2), (0.8, 0.9)),
    "num_inference_steps": lambda page: slide(page, "steps", "ArrowLeft"),
    "strength": lambda page: slide(page, "strength", "PageDown" if page.section == "inpainting" else "PageUp"),
    "guidance_scale": lambda page: slide(page, "guidance", "PageDown"),
    "papercut": lambda page: slide(page, "papercut", "PageDown"),
    "neon": lambda page: slide(page, "neon", "PageUp"),
    "detect_edges": lambda page: page.get_by_label("find edges").click(),
    "low_threshold": lambda page: slide(page, "canny low", "PageDown"),
    "high_threshold": lambda page: slide(page, "canny high", "PageUp"),
    "controlnet_conditioning_scale": lambda page: slide(page, "control", "PageDown"),
    "adapter_conditioning_scale": lambda page: slide(page, "adapter", "PageDown"),
    "adapter_conditioning_factor": lambda page: slide(page, "factor", "PageDown", "PageDown"),
    "num_images": lambda page: slide(page, "pictures", "ArrowRight"),
    "seed": lambda page: page.get_by_role("button", name="new seed").click(),
}


def test_a_notebook_that_is_opened_again_says_how_to_wake_its_panel(lab, folder, browser):
    view = {"version_major": 2, "version_minor": 0, "model_id": "gone"}
    data = [
        {"text/html": f'<div class="lcm-asleep">{ASLEEP}</div>'},
        {"application/vnd.jupyter.widget-view+json": view},
    ]
    outputs = [nbformat.v4.new_output("display_data", data=each) for each in data]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("panel", outputs=outputs)])
    notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, folder / "asleep.ipynb")
    page = browser.new_page()
    page.goto(lab.format("asleep.ipynb"))
    page.get_by_text(ASLEEP).wait_for(timeout=MILLISECONDS)
    page.close()


def serious(page) -> list[str]:
    """What axe finds in the panel that keeps people out: rule and place."""
    found = Axe().run(page, ".lcm-panel").response["violations"]
    return [
        f"{each['id']}: {node['html'][:120]}"
        for each in found
        if each["impact"] in ("serious", "critical")
        for node in each["nodes"]
    ]


def test_after_run_all_the_picture_is_there_and_crisp(page):
    shown = picture(page)
    assert shown.evaluate("img => img.naturalWidth > 0 && img.complete")
    width, natural = shown.evaluate("img => [img.getBoundingClientRect().width, img.naturalWidth]")
    assert width > 0 and width % natural == 0
    assert page.locator(".lcm-panel img:visible").evaluate_all("all => all.every(img => img.naturalWidth && img.alt)")
    playwright.expect(page.locator(".lcm-asleep:visible")).to_have_count(0)
    playwright.expect(page.locator(".lcm-bar.lcm-busy")).to_have_count(0)
    assert page.locator(".lcm-panel [title=null]").count() == 0


def test_axe_finds_nothing_serious(page):
    assert serious(page) == []


def test_each_control_changes_the_picture(page, folder, tmp_path):
    page.mine = folder / "mine.png"
    shown = picture(page)
    specs = RECIPES[page.section].settings
    settings = [name for name, spec in specs.items() if not spec.inert and spec.role != "count"]
    assert set(settings) <= set(MOVES)
    for name in sorted(settings, key="detect_edges".__eq__):  # without edges the thresholds do nothing
        source, pixels = shown.get_attribute("src"), shown.screenshot()
        MOVES[name](page)
        playwright.expect(shown, name).not_to_have_attribute("src", source)
        status(page).wait_for()
        page.locator(".lcm-screen:has(.lcm-frame:not(.lcm-preview))").wait_for()
        assert shown.screenshot() != pixels, name
    page.screenshot(path=tmp_path / f"{page.section}.png")


def test_a_control_without_effect_is_grey_and_says_why(page):
    specs = RECIPES[page.section].settings
    boxes = box(page, "negative")
    playwright.expect(boxes).to_have_count(int("negative_prompt" in specs))
    if boxes.count():
        assert boxes.is_disabled()
        playwright.expect(page.get_by_text(specs["negative_prompt"].inert)).to_be_visible()


def test_the_line_between_two_pictures_can_be_dragged(page):
    stage = page.locator(".lcm-stage")
    if not RECIPES[page.section].settings.get("image"):
        pytest.skip("the section starts from no picture")
    stage.scroll_into_view_if_needed()
    around, before = stage.bounding_box(), stage.screenshot()
    page.mouse.move(around["x"] + around["width"] / 2, around["y"] + around["height"] / 2)
    page.mouse.down()
    page.mouse.move(around["x"] + around["width"] / 4, around["y"] + around["height"] / 2, steps=4)
    page.mouse.up()
    assert page.locator(".lcm-line").input_value() == "25"
    assert stage.screenshot() != before
    page.get_by_role("button", name="side by side").click()
    playwright.expect(page.locator(".lcm-line")).to_be_hidden()
    playwright.expect(page.locator(".lcm-stage img:visible")).to_have_count(2)


def test_a_picture_that_is_too_large_to_send_is_shrunk_on_the_way(page, folder):
    if not RECIPES[page.section].settings.get("image"):
        pytest.skip("the section starts from no picture")
    large = folder / "large.png"
    if not large.exists():
        Image.effect_noise((4000, 3200), 90).convert("RGB").save(large, compress_level=0)
    assert large.stat().st_size > 12_000_000
    drawn_anew(page, lambda: change_picture(page, large))
    drawn_anew(page, lambda: page.get_by_role("button", name="image: use the section's own picture").click())
    drawn_anew(page, lambda: change_picture(page, folder / "mine.png"))


@pytest.mark.parametrize("width", [1400, 1000, 700])
def test_nothing_is_cut_at_any_width(page, width):
    page.set_viewport_size({"width": width, "height": 1200})
    page.wait_for_timeout(300)
    cut = page.locator(".lcm-panel").evaluate(
        """panel => {
            const edge = panel.getBoundingClientRect().right + 1;
            const parts = ".widget-label, button, .widget-readout, .noUi-target, img, p, textarea, select";
            const hangs = (part) => part.matches(".noUi-target");  // the handle at a slider's end, over its end
            return [...panel.querySelectorAll(parts)]
              .filter((part) => part.offsetParent && !part.closest(".lcm-history, .lcm-row"))
              .filter((part) => part.getBoundingClientRect().right > edge
                || (part.scrollWidth > part.clientWidth + 2 && !hangs(part)))
              .filter((part) => !part.matches("img, textarea"))
              .map((part) => part.outerHTML.slice(0, 100));
        }"""
    )
    page.set_viewport_size({"width": 1400, "height": 1200})
    assert cut == []


# -- habits, with mouse and keys ------------------------------------------------------------

one_section = pytest.mark.parametrize("page", ["text-to-image"], indirect=True)


@one_section
def test_enter_draws_what_is_typed_and_control_enter_draws_from_anywhere(page):
    page.get_by_role("button", name="live").click()  # off: only Enter draws
    drawn_anew(page, lambda: (box(page, "prompt").fill("an owl in the snow"), box(page, "prompt").press("Enter")))
    playwright.expect(page.locator(".lcm-caption")).to_have_text("an owl in the snow")
    assert box(page, "prompt").input_value() == "an owl in the snow"
    page.get_by_role("button", name="live").click()
    page.get_by_role("button", name="keep seed").click()  # off: each run has a new seed
    drawn_anew(page, lambda: steps(page).press("Control+Enter"))
    page.get_by_role("button", name="keep seed").click()
    playwright.expect(page.get_by_role("button", name="keep seed")).to_have_attribute("aria-pressed", "true")


@one_section
def test_escape_stops(page):
    page.get_by_role("button", name="Draw 4").click()
    page.locator(".lcm-status[data-mood=busy]").wait_for()
    page.keyboard.press("Escape")
    page.locator(".lcm-status", has_text="Stopped.").wait_for()


@one_section
def test_a_click_on_the_history_recalls_picture_and_controls(page):
    set_steps(page, 1)
    set_steps(page, 8)
    playwright.expect(steps(page)).to_have_attribute("aria-valuenow", "8.0")
    newest, older = (page.locator(".lcm-history button").nth(i) for i in (0, 1))
    playwright.expect(newest).to_have_attribute("aria-pressed", "true")
    drawn_anew(page, older.click)
    playwright.expect(steps(page)).to_have_attribute("aria-valuenow", "1.0")
    older.focus()
    page.keyboard.press("ArrowLeft")
    drawn_anew(page, lambda: page.keyboard.press("Enter"))
    playwright.expect(steps(page)).to_have_attribute("aria-valuenow", "8.0")


@one_section
def test_no_picture_of_the_history_moves_under_the_mouse(page):
    set_steps(page, 1)
    page.locator(".lcm-caption").hover()
    pictures = page.locator(".lcm-history button")
    before = pictures.count()
    pictures.first.hover()
    drawn_anew(page, lambda: steps(page).press("ArrowRight"))
    playwright.expect(pictures).to_have_count(before)
    page.locator(".lcm-caption").hover()
    playwright.expect(pictures).to_have_count(before + 1)


@one_section
def test_star_pin_and_compare(page):
    set_steps(page, 8)
    page.get_by_role("button", name="☆ keep").click()
    playwright.expect(page.locator(".lcm-history button[aria-pressed=true]")).to_contain_text("★")
    page.get_by_role("button", name="pin as A").click()
    drawn_anew(page, lambda: steps(page).press("Home"))
    playwright.expect(page.locator(".lcm-differ")).to_contain_text("steps81")
    playwright.expect(page.locator(".lcm-tag").first).to_have_text("A")
    assert serious(page) == []
    page.get_by_role("button", name="unpin A").click()
    playwright.expect(page.locator(".lcm-differ")).to_be_hidden()


@one_section
def test_several_values_and_several_pictures_are_rows_to_choose_from(page):
    page.get_by_role("button", name="Draw 4").click()
    row = page.locator(".lcm-row button")
    playwright.expect(row).to_have_count(4)
    page.locator(".lcm-status[data-mood=done]").wait_for()
    drawn_anew(page, row.nth(1).click)
    playwright.expect(row.nth(1)).to_have_attribute("aria-pressed", "true")
    slide(page, "pictures", "ArrowRight")
    playwright.expect(row).to_have_count(2)
    drawn_anew(page, row.nth(1).click)
    assert serious(page) == []
    slide(page, "pictures", "Home")
    playwright.expect(row).to_have_count(0)


@one_section
def test_save_offers_the_file_to_the_browser(page, tmp_path):
    page.get_by_role("button", name="Save", exact=True).click()
    with page.expect_download() as download:
        page.get_by_role("link", name="download").click()
    assert download.value.suggested_filename.endswith(".png")
    assert Image.open(download.value.path()).size == (256, 256)


DROP = """([frame, base64]) => {
    const content = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
    const data = new DataTransfer();
    data.items.add(new File([content], "ours.png", { type: "image/png" }));
    frame.dispatchEvent(new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true }));
}"""


@one_section
def test_a_png_of_ours_that_is_dropped_sets_the_controls(page, studio, tmp_path):
    made = studio.generate(prompt="a castle", num_inference_steps=2, seed=7).save(tmp_path / "ours.png")
    frame = page.locator(".lcm-frame").element_handle()
    drawn_anew(page, lambda: page.evaluate(DROP, [frame, b64encode(made.read_bytes()).decode()]))
    assert box(page, "prompt").input_value() == "a castle"
    playwright.expect(picture(page)).to_have_attribute("alt", "a castle; 2 steps; seed 7")
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="open PNG").click()
    chooser.value.set_files(Path(__file__))
    playwright.expect(page.locator(".lcm-status[data-mood=error]")).to_contain_text("carries no lcm_nb settings")


@one_section
def test_examples_and_the_judge_are_at_hand(page):
    example = section_for("text-to-image").examples[-1]
    drawn_anew(page, lambda: box(page, "examples").select_option(example))
    assert box(page, "prompt").input_value() == example
    drawn_anew(page, lambda: (box(page, "prompt").fill("a robot on a beach"), box(page, "prompt").press("Enter")))
    drawn_anew(page, lambda: box(page, "examples").select_option("a cute fox in a meadow"))
    drawn_anew(page, lambda: box(page, "examples").select_option(label="↺ a robot on a beach"))
    assert box(page, "prompt").input_value() == "a robot on a beach"
    playwright.expect(page.locator(".lcm-judge")).not_to_be_empty()
    page.get_by_role("button", name="judge").click()
    playwright.expect(page.locator(".lcm-judge")).to_be_hidden()


@one_section
def test_show_code_opens_where_it_is_seen(page):
    page.get_by_role("button", name="show code").click()
    code = page.locator(".lcm-code pre")
    playwright.expect(code).to_contain_text("from_pretrained")
    playwright.expect(code).to_be_in_viewport()
    page.get_by_role("button", name="show code").click()
    playwright.expect(code).to_be_hidden()


@one_section
def test_keys_on_the_panel_are_the_panels_and_not_jupyters(page):
    cells = page.locator(".jp-Cell").count()
    for key in ("b", "a", "ArrowDown", "d", "d"):
        steps(page).press(key)
    assert page.locator(".jp-Cell").count() == cells
    page.keyboard.press("Control+s")
    playwright.expect(page.locator(".jp-mod-dirty")).to_have_count(0)


@one_section
def test_all_can_be_reached_by_tab(page):
    box(page, "prompt").focus()
    reached = []
    for _ in range(30):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.textContent.trim() || document.activeElement.ariaLabel"))
    assert {"steps", "Run", "Stop", "Save", "Draw 4", "remix"} <= set(reached)
    ring = page.evaluate("getComputedStyle(document.activeElement).outlineWidth")
    assert ring == "2px"


# -- the notebooks themselves -----------------------------------------------------------------

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
WITH_PANEL = [path.name for path in sorted(NOTEBOOKS.glob("*.ipynb")) if ".panel()" in path.read_text()]
# Whether each code cell has run: while it waits or runs, no number stands before it; folded solutions have none at all.
FINISHED = """() => {
    const prompts = [...document.querySelectorAll(".jp-Notebook .jp-CodeCell .jp-InputPrompt")];
    const texts = prompts.map((prompt) => prompt.textContent).filter((text) => text);
    return texts.length > 5 && texts.every((text) => /\\[\\d+\\]/.test(text));
}"""
SEEN = """all => all.map((img) =>
    [img.alt || img.src.slice(0, 40), img.complete && img.naturalWidth > 0 && img.getBoundingClientRect().width > 0])"""


@pytest.fixture
def run_in_lab(lab, folder, browser):
    """Open one of the notebooks, run all of it by the menu, and return the page; its kernel ends with the test."""
    page = browser.new_page(viewport={"width": 1400, "height": 1200})
    page.set_default_timeout(MILLISECONDS)

    def run(name: str):
        shutil.copytree(NOTEBOOKS, folder / "notebooks", dirs_exist_ok=True)
        page.goto(lab.format(f"notebooks/{name}"))
        page.get_by_text("Python 3 (ipykernel) | Idle").wait_for()
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.get_by_text("Run All Cells", exact=True).click()
        page.wait_for_function(FINISHED)
        page.get_by_text("Python 3 (ipykernel) | Idle").wait_for()
        return page

    yield run
    page.close()
    address, token = lab.split("/lab/")[0], urllib.parse.parse_qs(urllib.parse.urlsplit(lab).query)["token"][0]
    headers = {"Authorization": f"token {token}"}
    with urllib.request.urlopen(urllib.request.Request(f"{address}/api/sessions", headers=headers)) as answer:
        sessions = json.load(answer)
    for session in sessions:
        if session["path"].startswith("notebooks/"):
            each = urllib.request.Request(f"{address}/api/sessions/{session['id']}", headers=headers, method="DELETE")
            urllib.request.urlopen(each).close()


@pytest.mark.slow  # 06 and 08 have no panel
@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.xdist_group(f"run all {n}")) for n in WITH_PANEL])
def test_after_run_all_each_notebook_shows_its_panel_with_the_picture(run_in_lab, name, tmp_path):
    page = run_in_lab(name)
    assert page.locator("[data-mime-type='application/vnd.jupyter.error']").count() == 0
    assert page.locator(".lcm-asleep:visible").count() == 0
    status(page).wait_for()
    panel = page.locator(".lcm-panel")
    panel.scroll_into_view_if_needed()
    picture(panel).screenshot(path=tmp_path / "picture.png")
    extremes = Image.open(tmp_path / "picture.png").convert("RGB").getextrema()
    assert min(high - low for low, high in extremes) > 50, "something is drawn there"
    panel.screenshot(path=tmp_path / f"{Path(name).stem}.png")
    pictures = page.locator(".jp-OutputArea img:visible").evaluate_all(SEEN)
    assert pictures and all(is_there for _, is_there in pictures), pictures


# jupyter_server's own race: a page is left while its socket to the kernel opens.
SOCKET = re.compile(r"(?s)\[E [^\n]*Uncaught exception GET /api/kernels/.*?kernel_ws_protocol'.*?\] 500 GET [^\n]*\n")


def test_the_page_has_no_errors_and_asks_no_other_host(page, folder):
    assert page.complaints == []
    assert {host for host in page.hosts if host} == {"127.0.0.1"}
    log = SOCKET.sub("", (folder / "server.log").read_text())
    assert "Traceback" not in log and "[E " not in log


# -- painting ---------------------------------------------------------------------------------

DRAWING = "drawing: arrow"


def open_drawing(page) -> None:
    """Unfold the surface to draw on, if it is folded."""
    tab = page.get_by_role("button", name="Draw the picture here")
    if tab.get_attribute("aria-pressed") == "false":
        tab.click()


def colours(page, name: str) -> int:
    """How many pixels of the ink are not as they were when the surface was empty."""
    return page.get_by_role("img", name=name).evaluate(
        """layer => {
            const image = layer.getContext("2d").getImageData(0, 0, layer.width, layer.height);
            return new Uint32Array(image.data.buffer).filter((pixel) => pixel !== 0 && pixel !== 0xffffffff).length;
        }"""
    )


def by_pen(page, height: float, force: float) -> int:
    """Draw a line with a pen, and return how many pixels more are not empty."""
    around, before = page.get_by_role("img", name=DRAWING).bounding_box(), colours(page, DRAWING)
    pen, y = page.context.new_cdp_session(page), around["y"] + height * around["height"]

    def draw() -> None:
        for kind, share in (("mousePressed", 0.3), ("mouseMoved", 0.5), ("mouseMoved", 0.7), ("mouseReleased", 0.7)):
            place = {"x": around["x"] + share * around["width"], "y": y, "button": "left", "buttons": 1}
            pen.send("Input.dispatchMouseEvent", {"type": kind, "pointerType": "pen", "force": force, **place})

    drawn_anew(page, draw)
    return colours(page, DRAWING) - before


@pytest.mark.parametrize("page", ["image-to-image"], indirect=True)
def test_the_picture_follows_a_drawing_by_mouse_touch_pen_and_keys(page, tmp_path):
    open_drawing(page)
    drawn_anew(page, lambda: stroke(page, DRAWING, (0.2, 0.3), (0.8, 0.3)))
    playwright.expect(page.locator(".lcm-input-name")).to_have_text("painted")
    by_mouse = colours(page, DRAWING)
    assert by_mouse > 0

    around = page.get_by_role("img", name=DRAWING).bounding_box()
    touch = page.context.new_cdp_session(page)
    touch.send("Emulation.setTouchEmulationEnabled", {"enabled": True})

    def by_touch() -> None:
        for kind, share in (("touchStart", 0.2), ("touchMove", 0.5), ("touchMove", 0.8), ("touchEnd", None)):
            place = {"x": around["x"] + (share or 0) * around["width"], "y": around["y"] + 0.7 * around["height"]}
            touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [place] if share else []})

    drawn_anew(page, by_touch)
    touch.send("Emulation.setTouchEmulationEnabled", {"enabled": False})
    after_touch = colours(page, DRAWING)
    assert after_touch > by_mouse
    soft, firm = (by_pen(page, height, force) for height, force in ((0.5, 0.1), (0.85, 0.9)))
    assert 0 < 2 * soft < firm, "a pen's line is as wide as it is pressed"
    drawn_anew(page, lambda: [page.get_by_role("button", name="undo (Ctrl+Z)").click() for _ in range(2)])
    assert colours(page, DRAWING) == after_touch

    surface = page.get_by_role("img", name=DRAWING)
    surface.focus()
    drawn_anew(page, lambda: [surface.press(key) for key in ("ArrowDown", " ", "Shift+ArrowDown", "Shift+ArrowDown")])
    assert colours(page, DRAWING) > after_touch
    drawn_anew(page, lambda: [surface.press("Control+z") for _ in range(3)])
    assert colours(page, DRAWING) == after_touch
    drawn_anew(page, lambda: page.get_by_role("button", name="undo (Ctrl+Z)").click())
    drawn_anew(page, lambda: page.get_by_role("button", name="redo (Ctrl+Y)").click())
    assert colours(page, DRAWING) == after_touch
    page.screenshot(path=tmp_path / "drawing.png", full_page=True)
    assert serious(page) == []


@pytest.mark.parametrize("page", ["image-to-image"], indirect=True)
def test_brush_eraser_fill_and_clear(page):
    open_drawing(page)
    drawn_anew(page, lambda: page.get_by_role("button", name="clear all").click())
    assert colours(page, DRAWING) == 0
    page.get_by_role("button", name="colour #4f9d4a").click()
    page.get_by_role("button", name="fill: paint with it").click()
    drawn_anew(page, lambda: stroke(page, DRAWING, (0.5, 0.5)))
    surface = page.get_by_role("img", name=DRAWING)
    whole = surface.evaluate("layer => layer.width * layer.height")
    assert colours(page, DRAWING) == whole
    page.get_by_role("button", name="eraser: paint with it").click()
    drawn_anew(page, lambda: stroke(page, DRAWING, (0.1, 0.5), (0.9, 0.5)))
    assert 0 < colours(page, DRAWING) < whole
    page.get_by_role("button", name="brush: paint with it").click()


@pytest.mark.parametrize("page", ["image-to-image"], indirect=True)
def test_a_picture_is_loaded_to_draw_on(page, folder):
    open_drawing(page)
    drawn_anew(page, lambda: upload(page, folder / "mine.png"))
    surface = page.get_by_role("img", name=DRAWING)
    page.wait_for_function("layer => layer.width > layer.height", arg=surface.element_handle())
    assert colours(page, DRAWING) > 1000
    drawn_anew(page, lambda: stroke(page, DRAWING, (0.2, 0.5), (0.8, 0.5)))
    playwright.expect(page.locator(".lcm-input-name")).to_have_text("painted")


@pytest.mark.parametrize("page", ["inpainting"], indirect=True)
def test_a_mask_is_painted_on_its_picture(page, folder, tmp_path):
    page.get_by_role("button", name="image: use the section's own picture").click()
    playwright.expect(page.locator(".lcm-input-name").last).to_have_text("the example")
    status(page).wait_for()
    assert colours(page, MASK) > 1000, "the example's mask is shown"
    page.get_by_role("button", name="clear all").click()
    status(page, re.compile("mask_image marks nothing")).wait_for()
    drawn_anew(page, lambda: stroke(page, MASK, (0.3, 0.3), (0.7, 0.3), (0.7, 0.7), (0.3, 0.7)))
    page.screenshot(path=tmp_path / "mask.png", full_page=True)
    assert serious(page) == []


@pytest.mark.parametrize("page", ["image-to-image"], indirect=True)
def test_the_picture_follows_the_camera_until_another_is_chosen(page, folder, tmp_path):
    film = page.get_by_role("button", name="Take what the camera sees")
    page.context.grant_permissions(["camera"])
    drawn_anew(page, film.click)
    playwright.expect(page.locator(".lcm-input-name")).to_have_text("the camera")
    drawn_anew(page, lambda: None)  # Chromium's test picture moves
    page.screenshot(path=tmp_path / "camera.png")
    assert serious(page) == []
    upload(page, folder / "mine.png")
    playwright.expect(page.locator(".lcm-input-name")).to_have_text("a picture of yours")
    playwright.expect(film).to_have_attribute("aria-pressed", "false")
    playwright.expect(page.locator(".lcm-camera")).to_be_hidden()
    status(page).wait_for()


@pytest.mark.parametrize("page", ["image-to-image"], indirect=True)
def test_where_the_camera_is_refused_it_says_so_and_files_are_taken(page, folder):
    page.context.clear_permissions()  # without a window nobody can be asked: it is refused
    film = page.get_by_role("button", name="Take what the camera sees")
    film.click()
    refused = "Not taken: the camera is refused to this page; allow it in the browser, or choose a picture."
    status(page, re.compile(refused)).wait_for()
    playwright.expect(film).to_have_attribute("aria-pressed", "false")
    turned = folder / "turned.png"
    ImageOps.flip(Image.open(folder / "mine.png")).save(turned)
    drawn_anew(page, lambda: upload(page, turned))
