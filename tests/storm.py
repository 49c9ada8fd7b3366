"""Random events on the panels, and whether they show what was drawn: ``python -m tests.storm --events 1000``.

Every control and every button is moved, while runs are in flight and while none is. From time to time the storm waits,
and the picture on screen is compared, to the bit, with what ``generate`` draws from its settings. Threads, widgets and
memory are counted at the first and at the last of these calms. Exit code 1 if a picture was wrong or something grew.
"""

import argparse
import gc
import io
import random
import sys
import threading
import time
import warnings

import ipywidgets
import numpy as np
import psutil
from PIL import Image

import lcm_nb

CALM = 25  # events from one comparison to the next
PROMPTS = ("a cute fox in a meadow", "an owl in the snow", "a castle", "", "<b>fox</b>")


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


def press(panel, chance: random.Random) -> None:
    """Press or switch something."""
    name = chance.choice(["run", "run", "stop", "dice", "live", "lock", "show_code", "judge", "detect_edges"])
    control = panel.controls.get(name)
    if isinstance(control, ipywidgets.Button):
        control.click()
    elif control is not None:
        control.value = not control.value


def look_back(panel, chance: random.Random) -> None:
    """Do something with the history or the row, where there is one."""
    keys = [drawn.key for drawn in panel.history]
    if not keys:
        return
    what = chance.choice(["recall", "recall", "star", "pin", "remix", "vary"])
    try:
        arguments = {"recall": [chance.choice(keys)], "vary": ["num_inference_steps"]}.get(what, [])
        getattr(panel, what)(*arguments)
    except ValueError:  # enough stars, or gone meanwhile
        return


EVENTS = (set_number, set_number, set_number, set_text, press, press, look_back)


def is_right(panel, studio) -> bool:
    """Wait for the calm; return whether the screen shows what its settings draw."""
    try:
        result = panel.wait(600)
    except ValueError:  # settings that do not go together are refused, and the picture stays
        result = panel.result
    if result is None:
        return True
    shown = np.asarray(Image.open(io.BytesIO(panel.screen.picture)).convert("RGB"))
    again = studio.generate(**result.settings)
    same = all(np.array_equal(one, other) for one, other in zip(again.images, result.images, strict=True))
    return same and any(np.array_equal(shown, image) for image in again.images)


def counts() -> tuple[int, int, float]:
    """Return threads, open widgets and megabytes."""
    gc.collect()
    old = ipywidgets.__version__.startswith("7.")
    widgets = ipywidgets.Widget.widgets if old else ipywidgets.widgets.widget._instances
    return threading.active_count(), len(widgets), psutil.Process().memory_info().rss / 1e6


def storm(section: str, events: int, chance: random.Random) -> tuple[int, int, list]:
    """Return comparisons, wrong ones, and the counts of each calm."""
    studio = lcm_nb.load(section, profile="mini")
    panel, wrong, calms = studio.panel(), 0, []
    for number in range(1, events + 1):
        chance.choice(EVENTS)(panel, chance)
        time.sleep(chance.choice((0, 0, 0.01, 0.05, 0.2)))
        if number % CALM == 0 or number == events:
            wrong += not is_right(panel, studio)
            calms.append(counts())
    panel.close()
    return len(calms), wrong, calms


def main() -> int:
    """Storm over the sections in turn."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--events", type=int, default=1000, help="in all, shared by the sections")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sections", nargs="+", default=list(lcm_nb.SECTIONS), choices=lcm_nb.SECTIONS)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")  # notes on pictures that were fitted
    failed = False
    for section in arguments.sections:
        chance = random.Random(f"{arguments.seed} {section}")
        compared, wrong, calms = storm(section, arguments.events // len(arguments.sections), chance)
        first, last = calms[0], calms[-1]
        grown = last[0] > first[0] or last[1] > first[1]
        failed |= bool(wrong) or grown
        told = ", ".join(f"{name} {a:.0f} -> {b:.0f}" for name, a, b in zip(("threads", "widgets", "MB"), first, last))
        print(f"{section}: {compared} calms, {wrong} wrong pictures; {told}", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
