"""The panel, driven as the mouse drives it, over a fake pipeline that the tests hold by the hand."""

import io
import random
import subprocess
import sys
import threading
from types import SimpleNamespace

import ipywidgets as widgets
import pytest
from PIL import Image

from lcm_nb.sections import section_for as recipe_for
from lcm_nb.widgets.panel import HISTORY, describe
from lcm_nb.widgets.panel import Panel as RealPanel

SETTINGS = recipe_for("text-to-image").settings
SECONDS = 60  # only a hanging test waits that long


class Cancelled(Exception):
    """Stands in for the studio's."""


class FakePipeline:
    """Draws one coloured square a run; while ``held``, each step waits for :meth:`step`."""

    def __init__(self):
        self.runs: list[dict] = []  # settings, steps done, whether cancelled
        self.endings: list = []  # what the next runs do at their end instead of returning, first first
        self.began = threading.Semaphore(0)
        self.told = threading.Semaphore(0)
        self.permits = threading.Semaphore(0)
        self.held = False

    def generate(self, *, on_step, **settings):
        run = {"settings": settings, "steps": 0, "cancelled": False}
        self.runs.append(run)
        self.began.release()
        timesteps = [999, 759, 499, 259, 199, 139, 99, 19][: settings["num_inference_steps"]]
        for number, timestep in enumerate(timesteps, 1):
            if self.held:
                assert self.permits.acquire(timeout=SECONDS)
            try:
                on_step(step_of(number, timestep, len(timesteps)))
            except Cancelled:
                run["cancelled"] = True
                raise
            finally:
                run["steps"] = number
                self.told.release()
        image = square((len(self.runs), settings["num_inference_steps"], settings["seed"] % 256))
        result = SimpleNamespace(
            image=image, settings=settings, timesteps=timesteps, seconds=0.414, note="", save=save_as(image)
        )
        return self.endings.pop(0)(result) if self.endings else result

    def hold(self):
        """Make the runs that begin from now on wait for each step."""
        self.held, self.began, self.told = True, threading.Semaphore(0), threading.Semaphore(0)

    def step(self, count: int = 1):
        """Let the run in flight do ``count`` steps, and wait until they are told."""
        for _ in range(count):
            self.permits.release()
            assert self.told.acquire(timeout=SECONDS)

    def begun(self):
        """Wait until one more run has begun."""
        assert self.began.acquire(timeout=SECONDS)

    def let_go(self):
        self.held = False
        self.permits.release(1000)


def square(colour):
    return Image.new("RGB", (64, 64), colour)


def step_of(number, timestep, total):
    """A step whose preview is the lighter the later."""
    return SimpleNamespace(
        number=number, total=total, timestep=timestep, preview=lambda: square((100 + 20 * number,) * 3)
    )


def fail(error):
    """An ending that raises."""

    def ending(result):
        raise error

    return ending


def save_as(image):
    def save(path):
        image.save(path)
        return path

    return save


def code(settings):
    if not settings["prompt"]:
        raise ValueError("prompt is ''; give a text")
    return f"pipe({settings['prompt']!r}, {settings['num_inference_steps']})"


@pytest.fixture
def pipeline():
    pipeline = FakePipeline()
    yield pipeline
    pipeline.let_go()


@pytest.fixture
def panel(pipeline):
    panel = RealPanel(SETTINGS, run=pipeline.generate, code=code, cancelled=Cancelled)
    yield panel
    panel.stop()


def walk(widget):
    yield widget
    for child in getattr(widget, "children", ()):
        yield from walk(child)


def found(panel, kind):
    return [widget for widget in walk(panel) if type(widget) is kind]


def picture_of(panel):
    """The large picture; those after it are the history's."""
    return found(panel, widgets.Image)[0]


def thumbnails(panel):
    return found(panel, widgets.Image)[1:]


def history_buttons(panel):
    return [button for button in found(panel, widgets.Button) if "again" in (button.tooltip or "")]


def listing(panel):
    return found(panel, widgets.HTML)[-1]


def colour(picture):
    return Image.open(io.BytesIO(picture.value)).getpixel((32, 32))


def drawn(panel):
    """Run once, to the end."""
    panel.run()
    return panel.wait(SECONDS)


# -- running ---------------------------------------------------------------------------


def test_controls_start_at_the_guides_values(panel):
    assert panel.values() == {name: spec.default for name, spec in SETTINGS.items()}
    assert set(panel.controls) == {*SETTINGS, "lock", "dice", "run", "stop", "live", "show_code", "save"}
    assert panel.result is None
    assert panel.status == "Press Run, or move a slider."


@pytest.mark.parametrize(
    ("name", "value"), [("prompt", "a fox"), ("num_inference_steps", 2), ("guidance_scale", 3.5), ("seed", 7)]
)
def test_every_change_draws_in_live_mode(panel, pipeline, name, value):
    panel.controls[name].value = value
    result = panel.wait(SECONDS)
    expected = {key: spec.default for key, spec in SETTINGS.items()} | {name: value}
    assert [run["settings"] for run in pipeline.runs] == [expected]
    assert result is panel.result
    assert result.settings == expected


def test_no_change_draws_when_live_is_off(panel, pipeline):
    panel.controls["live"].value = False
    panel.controls["num_inference_steps"].value = 2
    assert panel.wait(SECONDS) is None
    assert pipeline.runs == []
    panel.controls["run"].click()
    assert panel.wait(SECONDS).settings["num_inference_steps"] == 2
    assert len(pipeline.runs) == 1


def test_the_latest_values_win_and_nothing_queues_up(panel, pipeline):
    pipeline.hold()
    panel.controls["num_inference_steps"].value = 8
    pipeline.begun()
    pipeline.step(2)
    for scale in (1.0, 2.0, 3.0, 4.0, 5.0):
        panel.controls["guidance_scale"].value = scale
    pipeline.let_go()
    result = panel.wait(SECONDS)
    first, second = pipeline.runs
    assert (first["cancelled"], first["steps"]) == (True, 3)  # one step after the newer values, no more
    assert (second["cancelled"], second["steps"]) == (False, 8)
    assert second["settings"]["guidance_scale"] == 5.0
    assert result.settings == second["settings"]


def test_setting_a_value_returns_while_a_run_is_in_flight(panel, pipeline):
    pipeline.hold()
    panel.run()
    pipeline.begun()
    panel.controls["seed"].value = 3  # would hang here if the callback drew
    assert len(pipeline.runs) == 1
    with pytest.raises(TimeoutError, match=r"not ready after 0\.01 s; wait longer or call panel\.stop"):
        panel.wait(0.01)
    pipeline.let_go()
    assert panel.wait(SECONDS).settings["seed"] == 3


# -- what is on screen -----------------------------------------------------------------


def test_a_preview_shows_after_each_step_but_the_last(panel, pipeline):
    shown = []
    picture = picture_of(panel)
    picture.observe(lambda change: shown.append((picture.format, colour(picture))), "value")
    panel.controls["num_inference_steps"].value = 3
    panel.wait(SECONDS)
    assert shown == [("jpeg", (120, 120, 120)), ("jpeg", (140, 140, 140)), ("png", (1, 3, 0))]


def test_status_caption_and_progress_tell_of_the_run(panel, pipeline):
    pipeline.hold()
    panel.run()
    pipeline.begun()
    assert panel.status == "Drawing ..."
    pipeline.step()
    bar = found(panel, widgets.IntProgress)[0]
    assert (bar.value, bar.max) == (1, 4)
    pipeline.let_go()
    panel.wait(SECONDS)
    assert (bar.value, bar.max) == (4, 4)
    assert panel.status == "4 steps at timesteps 999, 759, 499, 259 - 0.41 s"
    assert any(label.value.startswith("Self-portrait oil painting") for label in found(panel, widgets.Label))


def test_the_status_of_one_step_is_in_the_singular():
    assert describe([999], 0.1) == "1 step at timestep 999 - 0.10 s"


# -- stop and errors -------------------------------------------------------------------


def test_stop_ends_the_run_within_one_step_and_keeps_the_picture(panel, pipeline):
    before = drawn(panel)
    pixels = picture_of(panel).value
    pipeline.hold()
    panel.controls["num_inference_steps"].value = 8
    pipeline.begun()
    pipeline.step(2)
    assert picture_of(panel).value != pixels  # a preview
    panel.controls["stop"].click()
    pipeline.let_go()
    assert panel.wait(SECONDS) is before
    assert (pipeline.runs[-1]["cancelled"], pipeline.runs[-1]["steps"]) == (True, 3)
    assert panel.status == "Stopped."
    assert picture_of(panel).value == pixels
    assert len(history_buttons(panel)) == 1


def test_after_a_stop_the_next_run_works(panel, pipeline):
    panel.stop()
    assert drawn(panel).settings == panel.values()
    assert pipeline.runs[-1]["cancelled"] is False


def test_an_error_shows_in_the_status_and_wait_raises_it_once(panel, pipeline):
    pipeline.endings.append(fail(RuntimeError("out of <b>memory</b>")))
    panel.controls["seed"].value = 1
    with pytest.raises(RuntimeError, match="out of <b>memory"):
        panel.wait(SECONDS)
    assert panel.status == "RuntimeError: out of <b>memory</b>"
    assert panel.wait(SECONDS) is None
    assert drawn(panel).settings["seed"] == 1
    assert panel.status.startswith("4 steps")


def test_an_error_leaves_the_last_picture_on_screen(panel, pipeline):
    before = drawn(panel)
    pixels = picture_of(panel).value
    pipeline.endings.append(fail(RuntimeError("no")))
    panel.run()
    with pytest.raises(RuntimeError):
        panel.wait(SECONDS)
    assert panel.result is before
    assert picture_of(panel).value == pixels


def test_the_error_of_an_outdated_run_is_not_that_of_the_newest(panel, pipeline):
    def ending(result):
        panel.controls["seed"].value = 5  # newer values arrive after the last step
        raise RuntimeError("of the first run")

    pipeline.endings.append(ending)
    panel.run()
    assert panel.wait(SECONDS).settings["seed"] == 5
    assert len(pipeline.runs) == 2


def test_a_picture_that_cannot_be_shown_is_an_error_like_any_other(panel, pipeline):
    before = drawn(panel)
    pipeline.endings.append(lambda result: SimpleNamespace(image=None, settings=result.settings))
    panel.run()
    with pytest.raises(AttributeError):
        panel.wait(SECONDS)
    assert panel.result is before
    assert drawn(panel) is not before


# -- seed ------------------------------------------------------------------------------


@pytest.fixture
def dice(monkeypatch):
    """The next seeds that are rolled."""
    seeds = [1111, 2222]
    monkeypatch.setattr(random, "randrange", lambda stop: seeds.pop(0))
    return seeds


@pytest.mark.parametrize("live", [True, False])
@pytest.mark.parametrize(("lock", "seed"), [(True, 0), (False, 1111)])
def test_run_draws_once_with_the_locked_seed_or_a_new_one(panel, pipeline, dice, live, lock, seed):
    panel.controls["live"].value = live
    panel.controls["lock"].value = lock
    panel.controls["run"].click()
    panel.wait(SECONDS)
    assert [run["settings"]["seed"] for run in pipeline.runs] == [seed]
    assert panel.controls["seed"].value == seed


def test_run_draws_even_when_the_dice_show_the_same_seed_again(panel, pipeline, dice):
    dice[:] = [0]
    panel.controls["lock"].value = False
    panel.controls["run"].click()
    panel.wait(SECONDS)
    assert [run["settings"]["seed"] for run in pipeline.runs] == [0]


@pytest.mark.parametrize(("live", "runs"), [(True, [1111]), (False, [])])
def test_the_dice_change_the_seed_though_it_is_locked(panel, pipeline, dice, live, runs):
    panel.controls["live"].value = live
    panel.controls["dice"].click()
    panel.wait(SECONDS)
    assert panel.controls["seed"].value == 1111
    assert [run["settings"]["seed"] for run in pipeline.runs] == runs


# -- history, code, saving -------------------------------------------------------------


def test_the_history_is_bounded_and_newest_first(panel, pipeline):
    for seed in range(1, HISTORY + 3):
        panel.controls["seed"].value = 20 * seed  # the blue of the picture, which JPEG may miss a little
        panel.wait(SECONDS)
    pictures = [colour(thumbnail) for thumbnail in thumbnails(panel)]
    seeds = [blue for _, _, blue in pictures]
    assert len(seeds) == len(history_buttons(panel)) == HISTORY
    assert seeds == sorted(seeds, reverse=True)


def test_what_falls_out_of_the_history_is_closed(panel):
    for seed in range(1, HISTORY + 1):
        panel.controls["seed"].value = seed
        panel.wait(SECONDS)
    oldest = thumbnails(panel)[-1]
    assert oldest.comm is not None
    drawn(panel)
    assert oldest.comm is None


def test_a_click_on_the_history_brings_the_picture_back(panel, pipeline):
    first = drawn(panel)
    pixels = picture_of(panel).value
    panel.controls["num_inference_steps"].value = 2
    panel.wait(SECONDS)
    assert picture_of(panel).value != pixels
    history_buttons(panel)[-1].click()
    assert panel.result is first
    assert picture_of(panel).value == pixels
    assert panel.status.startswith("4 steps at timesteps")
    assert len(pipeline.runs) == 2
    assert len(history_buttons(panel)) == 2


def test_show_code_shows_that_of_the_picture_as_text(panel):
    panel.controls["prompt"].value = "<script>alert(1)</script>"
    panel.wait(SECONDS)
    assert listing(panel).layout.display == "none"
    panel.controls["show_code"].value = True
    assert listing(panel).layout.display == "block"
    assert "<script>" not in listing(panel).value
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in listing(panel).value
    panel.controls["prompt"].value = "a cat"
    panel.wait(SECONDS)
    assert "a cat" in listing(panel).value
    panel.controls["show_code"].value = False
    assert listing(panel).layout.display == "none"


def test_show_code_before_the_first_picture_is_that_of_the_controls(panel):
    panel.controls["live"].value = False
    panel.controls["num_inference_steps"].value = 7
    panel.controls["show_code"].value = True
    assert ", 7)" in listing(panel).value


def test_show_code_for_values_that_cannot_be_drawn_says_so(panel):
    panel.controls["live"].value = False
    panel.controls["prompt"].value = ""
    panel.controls["show_code"].value = True
    assert panel.status == "No code: prompt is ''; give a text"
    assert listing(panel).value == ""


def test_save_writes_a_file_of_its_own_each_time(panel, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    panel.controls["prompt"].value = "A Fox / in ../../the snow!"
    panel.wait(SECONDS)
    panel.controls["save"].click()
    assert panel.status == "Saved as a-fox-in-the-snow-seed0.png"
    panel.controls["save"].click()
    assert panel.status == "Saved as a-fox-in-the-snow-seed0-2.png"
    assert panel.save(tmp_path / "mine.png") == tmp_path / "mine.png"
    names = {"a-fox-in-the-snow-seed0.png", "a-fox-in-the-snow-seed0-2.png", "mine.png"}
    assert {path.name for path in tmp_path.iterdir()} == names
    assert Image.open("a-fox-in-the-snow-seed0.png").getpixel((0, 0)) == panel.result.image.getpixel((0, 0))


def test_there_is_nothing_to_save_before_the_first_picture(panel, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    panel.controls["save"].click()
    assert panel.status == "Not saved: There is no picture to save yet; press Run first."
    with pytest.raises(ValueError, match="no picture to save yet"):
        panel.save()
    assert list(tmp_path.iterdir()) == []


# -- the panel and what is around it ---------------------------------------------------


def test_the_panel_knows_neither_torch_nor_diffusers(environment):
    check = "import sys, lcm_nb.widgets.panel; print(sorted({'torch', 'diffusers', 'transformers'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", check], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_the_real_panel_draws_what_the_studio_draws(studio):
    panel = studio.panel()
    panel.controls["live"].value = False
    panel.controls["num_inference_steps"].value = 2
    panel.controls["seed"].value = 4
    panel.controls["live"].value = True
    panel.controls["prompt"].value = "a cute fox"
    result = panel.wait(SECONDS)
    same = studio.generate(prompt="a cute fox", num_inference_steps=2, seed=4)
    assert result.image.tobytes() == same.image.tobytes()
    assert Image.open(io.BytesIO(picture_of(panel).value)).tobytes() == same.image.tobytes()
    assert panel.status.startswith("2 steps at timesteps 999, 499 - ")
    panel.controls["prompt"].value = " "
    with pytest.raises(ValueError, match="give a text with at least one word"):
        panel.wait(SECONDS)
    assert panel.status.startswith("ValueError: prompt is ' '")
