"""The notebooks' plots: labelled, told apart without colour, and a curve that grows."""

import io
import json
import subprocess
import sys

import numpy as np
import pytest
from matplotlib import pyplot as plt
from PIL import Image

from lcm_nb.models.checkpoints import MINI
from lcm_nb.tutorial import plots


@pytest.fixture(scope="module")
def stored() -> list[dict]:
    return json.loads((MINI / "figures.json").read_text())["own"]


@pytest.mark.parametrize("draw", (plots.budgets, plots.ablations))
def test_axes_have_labels_with_units_and_lines_that_differ(draw, stored):
    figure = draw(stored)
    assert not plt.get_fignums(), "shown once, by what the cell returns"
    for axes in figure.axes:
        assert axes.get_title().startswith("Stored")
        assert axes.get_xlabel()
        looks = [(line.get_color(), line.get_marker(), line.get_linestyle()) for line in axes.lines]
        for part in zip(*looks, strict=True):
            assert len(set(part[:3])) == len(part[:3])
    assert "(%)" in figure.axes[0].get_ylabel()


def run(updates: int, *shares: float, steps=(1, 2, 4), **others) -> dict:
    """Return a measured run: the shares of right subjects at its end, one for each number of steps."""
    start = {"update": 0, **{str(n): {"subject": 0.25} for n in steps}}
    end = {"update": updates, **{str(n): {"subject": share} for n, share in zip(steps, shares, strict=True)}}
    return dict(updates=updates, steps=list(steps), points=[start, end], **others)


def test_what_is_plotted_is_what_was_measured():
    part = run(50, 0.5, 0.75, steps=(1, 4), variant="without a part", response=3.5)
    rows = [run(80, 0.5, 0.625, 0.75), part, {"updates_per_minute": 20}, run(40, 0.375, 0.4375, 0.5)]
    lines = {line.get_label(): line for line in plots.budgets(rows).axes[0].lines}
    assert list(lines) == ["1 step", "2 steps", "4 steps"]
    assert list(lines["1 step"].get_xdata()) == [0, 2, 4]
    assert list(lines["1 step"].get_ydata()) == [25, 37.5, 50]
    assert list(lines["4 steps"].get_ydata()) == [25, 50, 75]
    left, right = plots.ablations(rows).axes
    assert [(*line.get_xdata(), *line.get_ydata(), line.get_label()) for line in left.lines] == [
        (0, 50, 25, 50, "without a part")
    ]
    assert [bar.get_width() for bar in right.patches] == [3.5]


def test_a_live_curve_draws_every_few_points():
    curve = plots.LiveCurve("update", "loss", redraw_every=2)
    bar, image = curve.widget.children[0].children[0], curve.widget.children[1]
    empty = image.value
    curve.add(1, 0.5, 0.1)
    assert image.value == empty and bar.value == 0.1
    curve.add(2, 0.4, 0.2)
    drawn = image.value
    assert drawn != empty
    assert Image.open(io.BytesIO(drawn)).size == (800, 360)
    curve.add(3, 0.3, 0.3)
    curve.finish()
    assert image.value != drawn and bar.value == 1.0
    assert curve.points == [(1, 0.5), (2, 0.4), (3, 0.3)]


def test_a_live_curve_shows_the_latest_picture():
    curve = plots.LiveCurve("update", "loss")
    picture = curve.widget.children[2]
    assert picture.layout.display == "none", "no broken picture before the first"
    for colour in ((255, 0, 0), (0, 0, 255)):
        curve.show(Image.new("RGB", (6, 4), colour))
        assert Image.open(io.BytesIO(picture.value)).getpixel((0, 0)) == colour
    assert picture.layout.display == ""


def test_a_flipbook_shows_the_page_that_its_slider_is_at():
    book = plots.flipbook(
        "eta", {"0.0": Image.new("RGB", (6, 4), "red"), 0.5: plots.plane({"all": []}, np.zeros((1, 2)))}
    )
    (play, slider), image = book.children[0].children, book.children[1]
    assert (slider.description, slider.options, play.max) == ("eta", ("0.0", "0.5"), 1)
    assert Image.open(io.BytesIO(image.value)).getpixel((0, 0)) == (255, 0, 0)
    slider.index = 1
    assert Image.open(io.BytesIO(image.value)).width > 6
    slider.value = "0.0"
    assert Image.open(io.BytesIO(image.value)).width == 6


def test_the_plane_shows_points_and_paths_over_the_data():
    data, points, paths = np.zeros((5, 2)), np.ones((4, 2)), np.ones((7, 3, 2))
    figure = plots.plane({"one": [points], "two": [paths, points]}, data)
    assert not plt.get_fignums()
    one, two = figure.axes
    assert (one.get_title(), two.get_title()) == ("one", "two")
    assert [len(line.get_xdata()) for line in one.lines] == [5, 4]
    assert [len(line.get_xdata()) for line in two.lines] == [5, 7, 7, 7, 4]
    colours = [line.get_color() for line in two.lines]
    assert len(set(colours[1:4])) == 1 and len(set(colours)) == 3


def test_without_matplotlib_there_is_one_sentence():
    code = "import sys; sys.modules['matplotlib'] = None; import lcm_nb.tutorial.plots"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        "ImportError: Plots need the package matplotlib: `pip install matplotlib`, then restart the kernel."
    )
    assert "During handling" not in done.stderr


def test_the_running_mean_is_of_the_last_tenth():
    assert plots.running_mean([4.0, 2.0]) == [4.0, 2.0]
    assert plots.running_mean([0.0] * 18 + [1.0, 3.0])[-1] == 2.0
