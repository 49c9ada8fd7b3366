"""Film the panel for README: ``python docs/site/film.py docs/panel.webp``. Needs Chromium and the extras test and lab.

A JupyterLab of its own runs a notebook with a panel; Chromium moves the controls as a reader does, and every finished
picture, with the controls that made it, becomes a frame. To be run again when the weights or the panel change.
"""

import argparse
import io
import os
import re
import sys
import tempfile
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests"))
from chromium import MILLISECONDS, chromium, jupyterlab, write_notebook  # noqa: E402

CODE = 'import lcm_nb\npanel = lcm_nb.load("text-to-image", profile="mini").panel()\npanel'
WIDTH = 720  # pixels of the film
LARGEST = 3_000_000  # bytes
LONG, SHORT = 1600, 600  # milliseconds that a frame stands
PROMPTS = ("a cute fox in a meadow", "an owl in the snow, oil painting", "a castle at sunset, warm colors")
STEPS = (1, 2, 4)  # of nine pictures the history has two whole rows


def frames(page) -> list[tuple[Image.Image, int]]:
    """Move the controls and return every picture of the panel with the milliseconds that it stands."""
    page.get_by_text("Python 3 (ipykernel) | Idle").wait_for()
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_text("Run All Cells", exact=True).click()
    page.locator(".lcm-panel").wait_for()
    steps, shots = page.get_by_role("slider", name="steps", exact=True), []
    for prompt in PROMPTS:
        page.get_by_label("prompt", exact=True).fill(prompt)
        for count in STEPS:
            steps.press("Home")
            for _ in range(count - 1):
                steps.press("ArrowRight")
            page.get_by_role("button", name="Run", exact=True).click()
            drawn = re.compile(rf"^{count} steps? at timesteps? [\d, ]+ - [\d.]+ s")
            page.locator(".lcm-status[data-mood=done]", has_text=drawn).wait_for()
            page.locator(f'.lcm-stage img[alt^="{prompt}; {count} step"]').wait_for()
            shot = Image.open(io.BytesIO(page.locator(".lcm-panel").screenshot())).convert("RGB")
            shots.append((shot, LONG if count == STEPS[-1] else SHORT))
    return shots


def main() -> int:
    """Film, and say how large it is; return 1 if that is too much for a first screen."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("out", type=Path, metavar="OUT")
    out = parser.parse_args().out
    with (
        tempfile.TemporaryDirectory() as folder,
        jupyterlab(Path(folder), os.environ) as address,
        chromium() as browser,
    ):
        write_notebook(Path(folder) / "panel.ipynb", [CODE])
        page = browser.new_page(viewport={"width": 1480, "height": 1400})
        page.set_default_timeout(MILLISECONDS)
        page.goto(address.format("panel.ipynb"))
        shots = frames(page)
    width, height = (max(shot.size[axis] for shot, _ in shots) for axis in (0, 1))
    pictures = []
    for shot, _ in shots:  # the panel grows with its history: what it lacks is its own background
        sheet = Image.new("RGB", (width, height), shot.getpixel((1, 1)))
        sheet.paste(shot)
        pictures.append(sheet.resize((WIDTH, round(height * WIDTH / width)), Image.LANCZOS))
    durations = [stands for _, stands in shots]
    pictures[0].save(out, save_all=True, append_images=pictures[1:], duration=durations, loop=0, quality=80, method=6)
    print(f"{out}: {len(pictures)} frames, {out.stat().st_size / 1e6:.2f} MB")
    return int(out.stat().st_size > LARGEST)


if __name__ == "__main__":
    sys.exit(main())
