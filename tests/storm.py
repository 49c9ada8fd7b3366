"""Random events on the panels, and whether they show what was drawn: ``python -m tests.storm --events 1000``.

Every control and every button is moved, while runs are in flight and while none is. From time to time the storm waits,
and the picture on screen is compared, to the bit, with what ``generate`` draws from its settings. With ``--kernel``
the panel is in a kernel of its own, the events are messages, the screen is what a page would be sent, and this process
draws what it is compared with. Threads, widgets and memory are counted at each of these calms, and the first thousand
events are compared with the last. Exit code 1 if a picture was wrong or something grew.
"""

import argparse
import contextlib
import gc
import io
import json
import os
import random
import statistics
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import ipywidgets
import numpy as np
import psutil
from PIL import Image

import lcm_nb
from lcm_nb.pictures import encode_image

ROOT = Path(__file__).resolve().parent.parent
CALM = 25  # events from one comparison to the next
FEW = 1000  # events at the beginning, and at the end, that are compared
GROWTH = 1.1  # of memory, from the first to the last
PROMPTS = ("a cute fox in a meadow", "an owl in the snow", "a castle", "", "<b>fox</b>", "a zebra")


def picture(width: int, height: int, colour: str) -> bytes:
    """Return a PNG to start from."""
    noise = Image.effect_noise((width, height), 90).convert("RGB")
    return encode_image(Image.blend(noise, Image.new("RGB", (width, height), colour), 0.6))


def mask(*box: int) -> bytes:
    """Return a PNG of a mask that marks a box, of pixels."""
    image = Image.new("RGB", (256, 256))
    image.paste("white", box)
    return encode_image(image)


MASKS = (mask(60, 60, 200, 200), mask(0, 0, 256, 90), mask(100, 20, 140, 240))
PICTURES = (picture(256, 256, "red"), picture(300, 200, "blue"), picture(90, 128, "green"), b"none")


def set_number(panel, chance: random.Random) -> None:
    """Set a number control to something that it admits, few steps and pictures."""
    name = chance.choice([name for name, spec in panel.specs.items() if spec.kind == "number"])
    spec = panel.specs[name]
    high = {"num_inference_steps": 8, "num_images": 2}.get(name, spec.high)
    value = chance.uniform(spec.low, high)
    panel.controls[name].value = round(value) if isinstance(spec.default, int) else round(value, 2)


def set_text(panel, chance: random.Random) -> None:
    """Type a prompt, which may be empty."""
    panel.controls["prompt"].value = chance.choice(PROMPTS)


def set_picture(panel, chance: random.Random) -> None:
    """Upload a picture, or what is none, where there is a control for it."""
    content = chance.choice(PICTURES)
    if "image" in panel.controls:
        panel.controls["image"].take(content)


def paint(panel, chance: random.Random) -> None:
    """Send some frames of a stroke, and its end, where a picture or a mask can be painted."""
    names = [name for name in ("image", "mask_image") if name in panel.controls]
    if not names:
        return
    name = chance.choice(names)
    for number in reversed(range(chance.randint(1, 4))):
        content = chance.choice(MASKS if name == "mask_image" else PICTURES)
        panel.controls[name].paint(chance.randrange(10**6), content, "stroke" if number else "end")


def press(panel, chance: random.Random) -> None:
    """Press or switch something."""
    name = chance.choice(["run", "run", "stop", "dice", "live", "lock", "show_code", "judge", "detect_edges"])
    control = panel.controls.get(name)
    if hasattr(control, "click"):
        control.click()
    elif control is not None:
        control.value = not control.value


def look_back(panel, chance: random.Random) -> None:
    """Do something with the history or the row, where there is one."""
    keys = [small["key"] for small in panel.screen.history]
    if not keys:
        return
    what = chance.choice(["recall", "recall", "star", "pin", "remix", "vary"])
    try:
        if what == "vary":
            panel.controls["vary_run"].click()
        else:
            getattr(panel, what)(*([chance.choice(keys)] if what == "recall" else []))
    except ValueError:  # enough stars, or gone meanwhile
        return


EVENTS = (set_number, set_number, set_number, set_text, set_picture, paint, press, press, look_back)


def counts() -> tuple[int, int, float]:
    """Return threads, open widgets and megabytes."""
    gc.collect()
    old = ipywidgets.__version__.startswith("7.")
    widgets = ipywidgets.Widget.widgets if old else ipywidgets.widgets.widget._instances
    return threading.active_count(), len(widgets), psutil.Process().memory_info().rss / 1e6


def calm(panel) -> dict | None:
    """Wait until nothing runs; return the settings of the picture on screen, if there is one."""
    try:
        result = panel.wait(600)
    except ValueError:  # settings that do not go together are refused, and the picture stays
        result = panel.result
    return result and result.settings


class Here:
    """A panel of this process."""

    def __init__(self, studio):
        self.panel = studio.panel()

    def calm(self) -> tuple[dict | None, bytes, tuple[int, int, float]]:
        """Return the settings on screen, the picture there, and the counts."""
        return calm(self.panel), self.panel.screen.picture, counts()


class Control:
    """A control of a panel in a kernel: what its view in the page would do."""

    def __init__(self, front_end, comm_id: str, *, button: bool):
        self._front_end, self._id = front_end, comm_id
        if button:
            self.click = lambda: front_end.ask(comm_id, event="click")

    @property
    def value(self):
        """What the page was told."""
        return self._front_end.models[self._id]["value"]

    @value.setter
    def value(self, value) -> None:
        self._front_end.models[self._id]["value"] = value
        self._front_end.move(self._id, value)

    def take(self, content: bytes) -> None:
        """Upload a file."""
        self._front_end.ask(self._id, content, do="take", name="mine.png")

    def paint(self, number: int, content: bytes, part: str) -> None:
        """Send a frame of what is painted."""
        self._front_end.ask(self._id, content, do="paint", number=number, part=part)


class Away:
    """A panel in a kernel, seen and moved as a page does."""

    CELL = """
import json, sys, warnings
sys.path.insert(0, {root!r})
import lcm_nb
from tests.storm import calm, counts
from zmq.utils.garbage import gc as large_messages
large_messages.start()  # its thread starts once, with the first message of 64 kB, whenever that is
panel = lcm_nb.load({section!r}, profile="mini").panel()
print(json.dumps([panel.screen.model_id, {{n: [c.model_id, hasattr(c, "click")] for n, c in panel.controls.items()}}]))
"""

    def __init__(self, studio, front_end):
        self.panel, self._front_end, self.specs = self, front_end, studio.settings
        front_end.run(self.CELL.format(root=str(ROOT), section=studio.section))
        self._screen, ids = json.loads(front_end.printed())
        self.controls = {name: Control(front_end, comm, button=button) for name, (comm, button) in ids.items()}

    @property
    def screen(self):
        """What the page shows."""
        self._front_end.read_all()
        return argparse.Namespace(**self._front_end.models[self._screen])

    def __getattr__(self, name: str):
        if name not in ("star", "pin", "remix"):
            raise AttributeError(name)
        return lambda: self._front_end.ask(self._screen, do=name)

    def recall(self, key: int) -> None:
        """Click on a picture of the history."""
        self._front_end.ask(self._screen, do="recall", key=key)

    def close(self) -> None:
        """Nothing: the kernel ends."""

    def calm(self) -> tuple[dict | None, bytes, tuple[int, int, float]]:
        """Return the settings on screen, the picture there, and the counts."""
        self._front_end.run("print(json.dumps([calm(panel), counts()]))")
        settings, counted = json.loads(self._front_end.printed())
        if complaints := self._front_end.complaints():
            raise RuntimeError(f"the kernel complains: {complaints}")
        self._front_end.messages.clear()
        return settings, self.screen.picture, counted


@contextlib.contextmanager
def place(studio, in_kernel: bool) -> Iterator[Here | Away]:
    """Yield a panel here, or in a kernel."""
    with contextlib.ExitStack() as stack:
        if in_kernel:
            from .front_end import kernel

            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            environment = os.environ | {"PYTHONPATH": str(ROOT)}
            where = Away(studio, stack.enter_context(kernel(environment, folder)))
        else:
            where = Here(studio)
            stack.callback(where.panel.close)
        yield where


def is_right(studio, settings: dict | None, shown: bytes) -> bool:
    """Return whether the picture on screen is what its settings draw."""
    if settings is None:
        return not shown
    pixels = np.asarray(Image.open(io.BytesIO(shown)).convert("RGB"))
    return any(np.array_equal(pixels, image) for image in studio.draw(**settings).images)


def storm(section: str, events: int, chance: random.Random, in_kernel: bool) -> tuple[int, list]:
    """Return wrong pictures, and the counts of each calm."""
    studio, wrong, calms = lcm_nb.load(section, profile="mini"), 0, []
    with place(studio, in_kernel) as where:
        where.panel.controls["run"].click()  # what starts once, with the first picture, is there (tqdm's monitor)
        where.calm()
        for number in range(1, events + 1):
            chance.choice(EVENTS)(where.panel, chance)
            time.sleep(chance.choice((0, 0, 0.01, 0.05, 0.2)))
            if number % CALM == 0 or number == events:
                settings, shown, counted = where.calm()
                wrong += not is_right(studio, settings, shown)
                calms.append(counted)
    return wrong, calms


def compare(calms: list) -> tuple[str, bool]:
    """Return in words what the first and the last events had, and whether it grew: at most, of memory the median."""
    few = min(FEW // CALM, (len(calms) + 1) // 2)
    first, last = (list(zip(*part, strict=True)) for part in (calms[:few], calms[-few:]))
    threads, widgets = ([max(part[kind]) for part in (first, last)] for kind in (0, 1))
    memory = [statistics.median(part[2]) for part in (first, last)]
    grown = threads[1] > threads[0] or widgets[1] > widgets[0] or memory[1] > GROWTH * memory[0]
    told = zip(("threads", "widgets", "MB"), (threads, widgets, memory), strict=True)
    return ", ".join(f"{name} {one:.0f} -> {other:.0f}" for name, (one, other) in told), grown


def main() -> int:
    """Storm over the sections in turn."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--events", type=int, default=1000, help="in all, shared by the sections")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kernel", action="store_true", help="the panels are in kernels, moved by messages")
    parser.add_argument("--sections", nargs="+", default=list(lcm_nb.SECTIONS), choices=lcm_nb.SECTIONS)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")  # notes on pictures that were fitted
    failed = False
    for section in arguments.sections:
        chance, events = random.Random(f"{arguments.seed} {section}"), arguments.events // len(arguments.sections)
        wrong, calms = storm(section, events, chance, arguments.kernel)
        told, grown = compare(calms)
        failed |= bool(wrong) or grown
        print(f"{section}: {events} events, {len(calms)} calms, {wrong} wrong pictures; {told}", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
