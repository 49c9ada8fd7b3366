"""How much longer a panel takes than ``generate``, from the last event to the picture.

``python -m tests.panel_latency``: one process, the mini family, four steps. In a section that starts from a picture,
such as ``--section image-to-image``, strokes are painted, too. Prints medians and 95th percentiles; asserts nothing.
What a browser adds is measured by ``tests.live_canvas``.
"""

import argparse
import io
import itertools
import statistics
import threading
import time

from PIL import Image

import lcm_nb

NUMBERS = itertools.count(1)


def parse() -> argparse.Namespace:
    """Return the arguments."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=40, help="pictures of each kind")
    parser.add_argument("--section", default="text-to-image")
    parser.add_argument("--drag", type=int, default=8, help="events of a drag; the last one counts")
    return parser.parse_args()


def generated(studio, seed: int) -> float:
    """Return the seconds that ``generate`` takes."""
    start = time.perf_counter()
    studio.generate(num_inference_steps=4, seed=seed)
    return time.perf_counter() - start


def paneled(panel, seeds: list[int], pause: float = 0.03) -> float:
    """Return the seconds from the last of some events to the picture of the last seed."""
    shown = threading.Event()

    def on_picture(_) -> None:
        if not panel.screen.preview and panel.result.settings["seed"] == seeds[-1]:
            shown.set()

    panel.screen.observe(on_picture, "picture")
    for seed in seeds:
        time.sleep(pause)
        start = time.perf_counter()
        panel.controls["seed"].value = seed
    shown.wait(600)
    seconds = time.perf_counter() - start
    panel.screen.unobserve(on_picture, "picture")
    panel.wait(600)
    return seconds


def frame(number: int) -> bytes:
    """Return a JPEG as the page sends it."""
    buffer = io.BytesIO()
    Image.new("RGB", (256, 256), (number % 256, 80, 160)).save(buffer, "jpeg", quality=92)
    return buffer.getvalue()


def painted(panel, frames: int, pause: float = 0.1) -> float:
    """Return the seconds from the end of a stroke, which sent some frames before, to its picture."""
    shown, image = threading.Event(), panel.controls["image"]
    panel.screen.observe(lambda _: shown.set() if panel.result.settings["image"] == image.value else None, "picture")
    for number in itertools.islice(NUMBERS, frames):
        image.paint(number, frame(number), "stroke")
        time.sleep(pause)
    number = next(NUMBERS)
    start = time.perf_counter()
    image.paint(number, frame(number), "end")
    shown.clear()  # what came before is of the stroke
    shown.wait(600)
    seconds = time.perf_counter() - start
    panel.screen.unobserve_all("picture")
    panel.wait(600)
    return seconds


def p95(values: list[float]) -> float:
    """Return the 95th percentile."""
    return statistics.quantiles(values, n=20)[-1]


def main() -> None:
    """Measure in turns, so that what else the machine does falls on all alike."""
    arguments = parse()
    studio = lcm_nb.load(arguments.section, profile="mini")
    panel = studio.panel()
    kinds = ["generate", "one event", "a drag", *(["a stroke"] if "image" in panel.specs else [])]
    times: dict[str, list[float]] = {kind: [] for kind in kinds}
    for number in range(-2, arguments.rounds):
        seed = 1000 * (number + 10)
        taken = {
            "generate": generated(studio, seed),
            "one event": paneled(panel, [seed + 1]),
            "a drag": paneled(panel, [seed + 10 + event for event in range(arguments.drag)]),
        }
        if "a stroke" in times:
            taken["a stroke"] = painted(panel, arguments.drag)
        if number >= 0:  # the first two warm up
            for kind, seconds in taken.items():
                times[kind].append(seconds)
    panel.close()
    middle = statistics.median(times["generate"])
    for kind, values in times.items():
        ratios = f"{statistics.median(values) / middle:.2f} at the median, {p95(values) / middle:.2f} at p95"
        print(f"{kind:10} {statistics.median(values):.3f} s, p95 {p95(values):.3f} s; of generate's median: {ratios}")
    print(f"p95 of generate itself: {p95(times['generate']) / middle:.2f}")


if __name__ == "__main__":
    main()
