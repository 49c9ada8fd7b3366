"""The site that `make site` built, read as files and opened in a real Chromium. Nothing here is skipped.

It lies in build/site/html, or where LCM_NB_SITE says.
"""

import functools
import http.server
import os
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

import nbformat
import pytest
from bs4 import BeautifulSoup
from chromium import MILLISECONDS, chromium

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
MOST_BYTES = 60_000_000
LESSONS = sorted((ROOT / "notebooks").glob("*.ipynb"))
TOLD = sorted([*(ROOT / "docs").glob("*.md"), *(ROOT / "docs").glob("teach/*.md")])
WIDTHS = (1280, 768, 390)
LOADS = {"script": "src", "img": "src", "link": "href", "iframe": "src", "source": "src"}
BADGES = ("https://colab.research.google.com/", "https://mybinder.org/")


@pytest.fixture(scope="module")
def site() -> Path:
    folder = Path(os.environ.get("LCM_NB_SITE") or ROOT / "build/site/html").resolve()
    assert (folder / "index.html").is_file(), f"there is no site in {folder}; `make site` builds it"
    return folder


@pytest.fixture(scope="module")
def soups(site) -> dict[Path, BeautifulSoup]:
    """Every page, parsed."""
    return {
        path: BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser") for path in sorted(site.rglob("*.html"))
    }


def lesson(soups, site, path: Path) -> BeautifulSoup:
    return soups[site / "notebooks" / f"{path.stem}.html"]


# -- as files -------------------------------------------------------------------------


def test_it_is_small(site):
    assert sum(file.stat().st_size for file in site.rglob("*") if file.is_file()) < MOST_BYTES


def test_every_lesson_and_every_document_is_a_page(site):
    assert LESSONS and TOLD
    wanted = {path.relative_to(ROOT).with_suffix(".html") for path in [*LESSONS, *TOLD]}
    wanted |= {Path(name) for name in ("index.html", "gallery.html", "search.html", "lcm_nb/mini/MODEL_CARD.html")}
    assert not [path for path in wanted if not (site / path).is_file()]


def test_links_and_anchors_lead_somewhere(soups, site):
    ids = {path: {tag["id"] for tag in soup.find_all(id=True)} for path, soup in soups.items()}
    dead = []
    for path, soup in soups.items():
        for link in soup.find_all("a", href=True):
            parts = urlsplit(link["href"])
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            anchor = unquote(parts.fragment)
            if not target.is_file() or (anchor and anchor not in ids.get(target, ())):
                dead.append((str(path.relative_to(site)), link["href"]))
    assert not dead


def test_nothing_is_loaded_from_elsewhere(soups, site):
    for path, soup in soups.items():
        for tag in soup.find_all(list(LOADS)):
            address = tag.get(LOADS[tag.name], "")
            if not address.split("#")[0] or address.startswith(("data:", *BADGES)):
                continue
            parts = urlsplit(address)
            assert not parts.netloc, f"{path}: {address}"
            assert (path.parent / unquote(parts.path)).is_file(), f"{path}: {address}"


def test_every_picture_is_described(soups):
    pictures = [(path.name, image) for path, soup in soups.items() for image in soup.find_all("img")]
    assert len(pictures) > 80
    assert not [(name, str(image)[:80]) for name, image in pictures if len(image.get("alt", "").split()) < 2]


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_a_lesson_has_run(soups, site, path):
    """With pictures, folded solutions, and neighbours; what stood for a widget's text is nowhere."""
    soup, cells = lesson(soups, site, path), nbformat.read(path, as_version=4).cells
    solved = [cell for cell in cells if "solution" in cell.metadata.get("tags", [])]
    drawn = soup.select("img.drawn, .lcm-live")
    assert len(soup.select("div.cell")) == sum(cell.cell_type == "code" for cell in cells)
    assert len(soup.select(".cell_output")) > 3 and len(drawn) >= 2
    assert len(soup.select("div.cell details")) == len(solved) and not soup.select("details[open]")
    assert soup.select("a.next-page" if path != LESSONS[-1] else "a.prev-page")
    text = soup.get_text()
    assert "Traceback (most recent call last)" not in text
    assert not re.search(r"\b(VBox|Panel|Image|FloatProgress)\(", text)


def test_the_gallery_has_a_row_a_setting(soups, site):
    from lcm_nb.sections import SECTIONS, section_for

    rows = {tag.get_text().rstrip("#¶") for tag in soups[site / "gallery.html"].find_all("h3")}
    ranges = {name for section in SECTIONS for name, spec in section_for(section).settings.items() if spec.high}
    assert ranges - {"num_images"} <= rows
    assert len(soups[site / "gallery.html"].select(".row img")) >= 3 * len(rows)


# -- in Chromium ----------------------------------------------------------------------


class Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def address(site) -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=site))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


@pytest.fixture
def page(browser, address):
    """A page of a fresh profile. Errors on its console, and requests to other hosts, fail the test."""
    context = browser.new_context(viewport={"width": WIDTHS[0], "height": 900})
    page, wrong = context.new_page(), []
    page.set_default_timeout(MILLISECONDS)
    page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", lambda request: None if is_own(request.url, address) else wrong.append(request.url))
    yield page
    found = list(wrong)
    context.close()
    assert found == []


def is_own(url: str, address: str) -> bool:
    return url.startswith((address, "data:", "blob:", *BADGES))


def start(page, place: str = ".lcm-live") -> None:
    page.locator(place).get_by_role("button", name="Load the model and draw").click()
    page.wait_for_selector(f"{place}[data-drawn], {place}[data-failed]")
    assert not page.locator(place).get_attribute("data-failed")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_pages_fit_and_axe_finds_nothing_serious(page, soups, site, address, theme):
    from axe_playwright_python.sync_playwright import Axe

    page.emulate_media(color_scheme=theme)
    serious = []
    for path in soups:
        page.goto(address + path.relative_to(site).as_posix())
        live = page.locator(".lcm-live")
        if live.count():
            live.get_by_role("button", name="Load the model and draw").wait_for()
        for width in WIDTHS:
            page.set_viewport_size({"width": width, "height": 900})
            wide = page.evaluate("document.documentElement.scrollWidth - innerWidth")
            if wide > 0:
                serious.append((path.name, width, f"{wide} pixels too wide"))
        found = Axe().run(page).response["violations"]
        serious += [
            (path.name, rule["id"], rule["nodes"][0]["html"][:200], len(rule["nodes"]))
            for rule in found
            if rule["impact"] in ("serious", "critical")
        ]
    assert not serious


def test_the_first_page_draws_by_keyboard_and_keeps_its_settings_in_its_address(page, address):
    page.goto(address)
    page.get_by_role("button", name="Load the model and draw").focus()
    page.keyboard.press("Enter")
    page.wait_for_selector(".lcm-live[data-drawn]")
    before = int(page.locator(".lcm-live").get_attribute("data-drawn"))
    page.get_by_role("slider", name="Steps").focus()
    page.keyboard.press("ArrowLeft")
    page.wait_for_function("than => +document.querySelector('.lcm-live').dataset.drawn > than", arg=before)
    page.wait_for_function("location.hash.includes('steps=3')")


def test_a_lesson_draws_with_the_settings_of_its_panel(page, address):
    page.goto(f"{address}notebooks/00_start_here.html")
    start(page)
    assert page.get_by_role("textbox", name="Prompt").input_value() == "an owl in the snow"
    before = int(page.locator(".lcm-live").get_attribute("data-drawn"))
    page.get_by_role("button", name="New seed").click()
    page.wait_for_function("than => +document.querySelector('.lcm-live').dataset.drawn > than", arg=before)


def test_search_finds_a_lesson(page, address):
    page.goto(address)
    page.get_by_role("textbox", name="Search").or_(page.get_by_placeholder("Search")).first.fill("consistency function")
    page.keyboard.press("Enter")
    page.locator("#search-results a", has_text="Draw a picture from text in four steps").first.wait_for()


def test_the_theme_button_turns_the_live_panel_dark(page, address):
    page.emulate_media(color_scheme="light")
    page.goto(address)
    page.get_by_role("button", name="Load the model and draw").wait_for()
    colour = "getComputedStyle(document.querySelector('.lcm-panel')).backgroundColor"
    light = page.evaluate(colour)
    for _ in range(3):
        page.locator(".content-icon-container .theme-toggle, .theme-toggle-content .theme-toggle").first.click()
        if page.evaluate("document.body.dataset.theme") == "dark":
            break
    assert page.evaluate("document.body.dataset.theme") == "dark"
    assert page.evaluate(colour) != light


def test_solutions_unfold(page, address):
    page.goto(f"{address}notebooks/01_text_to_image.html")
    fold = page.locator("div.cell details").first
    assert not fold.locator("pre").first.is_visible()
    fold.locator("summary").click()
    assert fold.locator("pre").first.is_visible()
