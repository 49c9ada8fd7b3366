"""How well a picture follows a drawing, in Chromium and JupyterLab: ``python -m tests.live_canvas``.

Strokes are drawn by the mouse on the panel of image-to-image, with the mini family, two UNet steps. Printed are: the
seconds from a stroke's end to the last picture that comes of it, in units of what the model takes alone (drawn in
turns with the strokes, so that what else the machine does falls on both); the gaps between the page's frames from a
stroke's begin to that picture; and what minutes of drawing without a pause leave of memory, threads, widgets and
files. Asserts nothing.
"""

import argparse
import json
import math
import os
import random
import statistics
import tempfile
import time
from itertools import pairwise
from pathlib import Path

from .chromium import MILLISECONDS, chromium, jupyterlab, write_notebook
from .panel_latency import p95
from .storm import ROOT

QUIET = 4  # times the model's own seconds without a new picture: the last one was that of the stroke's end
GAP = 50  # milliseconds between two frames that people see as stutter

# A thread in the kernel answers what is asked by a file: "own" draws once, "count" counts.
CELLS = (
    f"import sys\nsys.path.insert(0, {str(ROOT)!r})\nimport lcm_nb\nstudio = lcm_nb.load('image-to-image')",
    """
import json, tempfile, threading, time
from pathlib import Path
from tests.storm import counts
from zmq.utils.garbage import gc as large_messages
large_messages.start()  # its thread starts once, with the first message of 64 kB, whenever that is

def own():
    return studio.draw(image=panel.values()["image"]).seconds

def count():
    files = [len(list(folder.iterdir())) for folder in Path(tempfile.gettempdir()).glob("lcm_nb-*")]
    return [*counts(), sum(files)]

def answer():
    while True:
        time.sleep(0.05)
        for ask in (own, count):
            asked = Path(ask.__name__)
            if asked.exists():
                Path("answer.part").write_text(json.dumps(ask()))
                asked.unlink()
                Path("answer.part").rename("answer")

threading.Thread(target=answer, daemon=True).start()
""".strip(),
    "panel = studio.panel()\npanel",
    "panel.run()\npanel.wait(600)\nprint(panel.status)",
)
RECORD = """() => {
    const picture = document.querySelector(".lcm-stage img");
    Object.assign(window, { shown: [], ups: [], frames: [] });
    picture.addEventListener("load", () => shown.push(performance.now()));
    window.addEventListener("pointerup", () => ups.push(performance.now()), true);
    const frame = (now) => { frames.push(now); requestAnimationFrame(frame); };
    requestAnimationFrame(frame);
}"""


class Easel:
    """A page with the panel, and the folder by which its kernel is asked."""

    def __init__(self, page, folder: Path, chance: random.Random):
        self.page, self.folder, self.chance = page, folder, chance
        self.surface = page.get_by_role("img", name="drawing: arrow")

    def open(self, address: str) -> None:
        """Run the notebook, and open the drawing."""
        self.page.goto(address)
        self.page.get_by_text("Python 3 (ipykernel) | Idle").wait_for()
        self.page.get_by_role("menuitem", name="Run", exact=True).click()
        self.page.get_by_text("Run All Cells", exact=True).click()
        self.page.locator(".lcm-status[data-mood=done]").wait_for()
        self.page.get_by_role("button", name="Draw the picture here").click()
        self.surface.scroll_into_view_if_needed()
        self.page.evaluate(RECORD)

    def ask(self, what: str):
        """Return the kernel's answer to "own" or "count"."""
        (self.folder / what).touch()
        answer = self.folder / "answer"
        while not answer.exists():
            time.sleep(0.02)
        told = json.loads(answer.read_text())
        answer.unlink()
        return told

    def stroke(self, seconds: float = 1.0) -> None:
        """Draw a bent line from one place to another, in a colour of the palette."""
        self.chance.choice(self.page.locator(".lcm-paint-colour").all()).click()
        around, turn = self.surface.bounding_box(), self.chance.uniform(0, 6)
        x, y = (
            around[name] + around[side] * self.chance.uniform(0.3, 0.7)
            for name, side in (("x", "width"), ("y", "height"))
        )
        reach, moves = 0.25 * around["width"], round(60 * seconds)
        self.page.mouse.move(x, y)
        self.page.mouse.down()
        for number in range(moves):
            angle = turn + 5 * number / moves
            self.page.mouse.move(x + reach * math.sin(angle), y + reach * math.sin(2 * angle))
            time.sleep(0.01)
        self.page.mouse.up()

    def follow(self, own: float) -> tuple[float, list[float]]:
        """Draw a stroke; return the seconds from its end to its picture, and the gaps between frames until then."""
        began = self.page.evaluate("performance.now()")
        self.stroke()
        count = -1
        while (now := self.page.evaluate("shown.length")) != count or not self.is_done():
            count = now
            time.sleep(max(0.5, QUIET * own))
        shown, up, frames = self.page.evaluate("[shown.at(-1), ups.at(-1), frames.splice(0)]")
        gaps = [two - one for one, two in pairwise(frames) if one >= began and two <= shown]
        return (shown - up) / 1000, gaps

    def is_done(self) -> bool:
        """Return whether nothing is drawn."""
        return self.page.locator(".lcm-status").get_attribute("data-mood") == "done"

    def heap(self) -> list[float]:
        """Return megabytes of the page's objects, and its nodes, after a collection."""
        session = self.page.context.new_cdp_session(self.page)
        session.send("HeapProfiler.collectGarbage")
        used, nodes = session.send("Runtime.getHeapUsage")["usedSize"], session.send("Memory.getDOMCounters")["nodes"]
        session.detach()
        return [used / 1e6, nodes]


def follow(easel: Easel, strokes: int) -> None:
    """Print how soon pictures follow strokes, and the gaps between frames."""
    own, waits, gaps = [easel.ask("own") for _ in range(3)][-1:], [], []
    for number in range(strokes):
        own.append(easel.ask("own"))
        wait, between = easel.follow(statistics.median(own))
        if number:  # the first warms up
            waits.append(wait)
            gaps += between
    unit = statistics.median(own)
    shares = f"{statistics.median(waits) / unit:.2f} at the median, {p95(waits) / unit:.2f} at p95"
    print(f"{len(waits)} strokes: the model alone {unit:.3f} s (p95 {p95(own) / unit:.2f} of that)")
    print(f"from a stroke's end to its picture {statistics.median(waits):.3f} s; in units of the model's: {shares}")
    late = sum(gap > GAP for gap in gaps)
    print(f"{len(gaps)} frames: {late} gaps over {GAP} ms, the longest {max(gaps):.0f} ms, p95 {p95(gaps):.0f} ms")


def endure(easel: Easel, minutes: float) -> None:
    """Print what is there after a tenth of some minutes of drawing, and at their end."""
    begin, counted = time.monotonic(), []
    for share in (0.1, 1.0):
        strokes = 0
        while time.monotonic() < begin + 60 * minutes * share:
            easel.stroke(easel.chance.uniform(0.1, 1.5))
            strokes += 1
            if easel.chance.random() < 0.2:
                easel.page.get_by_role("button", name=easel.chance.choice(["undo (Ctrl+Z)", "clear all"])).click()
        easel.page.evaluate("frames.length = shown.length = ups.length = 0")
        while not easel.is_done():
            time.sleep(0.5)
        counted.append([*easel.ask("count"), *easel.heap()])
    names = ("threads", "widgets", "MB of the kernel", "kept files", "MB of the page", "nodes of the page")
    told = ", ".join(f"{name} {one:.0f} -> {two:.0f}" for name, one, two in zip(names, *counted, strict=True))
    print(f"{minutes:g} minutes, {strokes} strokes in the last nine tenths: {told}")


def main() -> None:
    """Draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--strokes", type=int, default=40)
    parser.add_argument("--minutes", type=float, default=30, help="of drawing without a pause; 0 for none")
    arguments = parser.parse_args()
    environment = os.environ | {"PYTHONPATH": str(ROOT), "LCM_NB_PROFILE": "mini"}
    with tempfile.TemporaryDirectory() as name, chromium() as browser:
        folder = Path(name)
        write_notebook(folder / "canvas.ipynb", CELLS)
        with jupyterlab(folder, environment | {"TMPDIR": name}) as address:
            page = browser.new_page(viewport={"width": 1400, "height": 1200})
            page.set_default_timeout(MILLISECONDS)
            easel = Easel(page, folder, random.Random(0))
            easel.open(address.format("canvas.ipynb"))
            follow(easel, arguments.strokes + 1)
            if arguments.minutes:
                endure(easel, arguments.minutes)


if __name__ == "__main__":
    main()
