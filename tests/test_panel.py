"""The panel, driven as the mouse drives it, over a fake pipeline that the tests hold by the hand."""

import gc
import io
import itertools
import random
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import ipywidgets as widgets
import pytest
from PIL import Image

from lcm_nb.files import save as save_files
from lcm_nb.pictures import encode_image
from lcm_nb.sections import section_for
from lcm_nb.widgets.controls import EARLIER
from lcm_nb.widgets.film import FRAMES
from lcm_nb.widgets.history import ENTRIES, STARS
from lcm_nb.widgets.panel import SLOW
from lcm_nb.widgets.panel import Panel as RealPanel
from lcm_nb.widgets.previews import Previews
from lcm_nb.widgets.stage import describe

SETTINGS = section_for("text-to-image").settings
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
        seeds = range(settings["seed"], settings["seed"] + settings["num_images"])
        images = [square((len(self.runs), settings["num_inference_steps"], seed % 256)) for seed in seeds]
        result = SimpleNamespace(
            images=images, settings=settings, timesteps=timesteps, seconds=0.414, note="", save=save_as(images)
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
    preview = lambda: square((100 + 20 * number,) * 3)  # noqa: E731
    return SimpleNamespace(number=number, total=total, timestep=timestep, preview=preview, picture=1, pictures=1)


def fail(error):
    """An ending that raises."""

    def ending(result):
        raise error

    return ending


def save_as(images):
    def save(path):
        return save_files(Path(path), [encode_image(image) for image in images])[0]

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
    panel.close()


@pytest.fixture
def previews(monkeypatch):
    """A preview after each step, as in a long run."""
    monkeypatch.setattr(Previews, "worth", lambda self, step: step.number < step.total)
    monkeypatch.setattr(Previews, "is_brief", lambda self, step: False)


def colour(data: bytes):
    return Image.open(io.BytesIO(data)).getpixel((32, 32))


def drawn(panel, **values):
    """Set controls, run once, to the end."""
    panel.controls["live"].value = False
    for name, value in values.items():
        panel.controls[name].value = value
    panel.controls["live"].value = True
    panel.run()
    return panel.wait(SECONDS)


def idle(panel):
    """Wait until the worker has done its errands, too."""
    panel.wait(SECONDS)
    return panel.screen


# -- running ---------------------------------------------------------------------------


def test_controls_start_at_the_guides_values(panel):
    assert panel.values() == {name: spec.default for name, spec in SETTINGS.items()}
    buttons = {"lock", "dice", "run", "stop", "live", "show_code", "save", "save_film", "reset", "vary", "vary_run"}
    assert set(panel.controls) == {*SETTINGS, *buttons}
    assert panel.result is None
    assert panel.status == "Press Run, or move a slider."
    assert (panel.screen.picture, panel.screen.hint) == (b"", "The picture will be here.")


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


def test_a_text_is_drawn_when_its_typing_pauses_and_a_slider_at_once(panel, pipeline):
    for text in ("a", "a f", "a fox"):
        panel.controls["prompt"].value = text
    assert pipeline.runs == []
    assert panel.wait(SECONDS).settings["prompt"] == "a fox"
    panel.controls["prompt"].value = "a fox in"
    panel.controls["num_inference_steps"].value = 2
    assert panel.wait(SECONDS).settings["prompt"] == "a fox in"
    assert [run["settings"]["prompt"] for run in pipeline.runs] == ["a fox", "a fox in"]


def test_a_run_in_flight_goes_on_while_the_user_types(panel, pipeline):
    pipeline.hold()
    panel.run()
    pipeline.begun()
    panel.controls["prompt"].value = "a fo"
    pipeline.step()
    assert pipeline.runs[0]["cancelled"] is False
    pipeline.let_go()
    panel.wait(SECONDS)


def test_a_closed_panel_draws_no_more_and_says_so(panel, pipeline):
    drawn(panel)
    panel.close()
    panel.controls["seed"].value = 9
    with pytest.raises(ValueError, match=r"This panel was closed; make a new one with studio\.panel"):
        panel.run()
    assert len(pipeline.runs) == 1


@pytest.fixture
def painted(pipeline):
    """A panel that starts from a picture, and what the page does while it is painted: ``paint(red, part)``."""
    settings = section_for("image-to-image").settings | {"num_images": SETTINGS["num_images"]}
    panel, numbers = RealPanel(settings, run=pipeline.generate, code=code, cancelled=Cancelled), itertools.count(1)

    def paint(red: int, part: str) -> None:
        panel.controls["image"].paint(next(numbers), encode_image(square((red, 0, 0))), part)

    yield panel, paint
    panel.stop()
    panel.close()


def test_a_stroke_that_goes_on_lets_the_run_in_flight_end_and_its_end_stops_it(painted, pipeline):
    panel, paint = painted
    panel.controls["num_inference_steps"].value = 8
    panel.wait(SECONDS)
    pipeline.hold()
    paint(1, "stroke")
    pipeline.begun()
    for red in (2, 3):
        paint(red, "stroke")
        pipeline.step(4)
    pipeline.begun()  # the first ended, and that of the newest state follows
    paint(4, "stroke")
    paint(4, "end")  # the stroke's end brings nothing new
    pipeline.let_go()
    last = panel.wait(SECONDS)
    _, first, second, third = pipeline.runs
    assert (first["cancelled"], first["steps"]) == (False, 8)
    assert second["cancelled"] and second["steps"] == 1
    shown = [Image.open(run["settings"]["image"]).getpixel((0, 0))[0] for run in (first, second, third)]
    assert shown == [1, 3, 4] and last.settings == third["settings"]


def test_where_runs_are_slow_a_change_waits_for_the_next_but_a_camera_does_not(painted, pipeline, monkeypatch):
    panel, paint = painted
    slow = lambda result: SimpleNamespace(**vars(result) | {"seconds": SLOW + 0.1})  # noqa: E731
    pipeline.endings += [slow] * 3
    panel.run()
    panel.wait(SECONDS)
    for steps in (5, 6, 7):
        panel.controls["num_inference_steps"].value = steps
    panel.wait(SECONDS)
    assert [run["settings"]["num_inference_steps"] for run in pipeline.runs] == [4, 7]
    monkeypatch.setattr("lcm_nb.widgets.panel.SETTLE", 10 * SECONDS)
    panel.controls["image"].filming = True
    paint(1, "camera")
    assert panel.wait(SECONDS).settings["image"] == panel.controls["image"].value


# -- controls show what they are set to ---------------------------------------------------


def test_a_slider_grows_to_show_a_value_beyond_its_end(panel):
    panel.controls["num_inference_steps"].value = 20
    assert (panel.controls["num_inference_steps"].value, panel.controls["num_inference_steps"].max) == (20, 20)
    panel.stop()
    panel.wait(SECONDS)


@pytest.mark.parametrize(
    ("name", "value", "start"),
    [
        ("num_inference_steps", 51, "steps is 51; give a whole number from 1 to 50"),
        ("num_inference_steps", 3.5, "steps is 3.5; give a whole number"),
        ("num_inference_steps", "4", "steps is '4'; give a whole number"),
        ("guidance_scale", 20.0, "guidance is 20.0; give a number from 1 to 14"),
        ("guidance_scale", float("nan"), "guidance is nan; give a number"),
        ("seed", -1, "seed is -1; give a whole number from 0 to 4294967295"),
        ("seed", 2**32, "seed is 4294967296; give a whole number"),
        ("seed", None, "seed is None; give a whole number"),
    ],
)
def test_a_control_refuses_what_the_setting_does_not_admit(panel, pipeline, name, value, start):
    before = panel.controls[name].value
    with pytest.raises(ValueError, match=start):
        panel.controls[name].value = value
    assert panel.controls[name].value == before
    assert panel.wait(SECONDS) is None
    assert pipeline.runs == []


# -- what is on screen -----------------------------------------------------------------


def test_previews_show_before_the_picture(panel, pipeline, previews):
    shown = []
    screen = panel.screen
    screen.observe(lambda change: shown.append((screen.preview, colour(screen.picture))), "picture")
    panel.controls["num_inference_steps"].value = 3
    panel.wait(SECONDS)
    assert shown == [(True, (120, 120, 120)), (True, (140, 140, 140)), (False, (1, 3, 0))]


def test_status_caption_and_progress_tell_of_the_run(panel, pipeline, previews):
    pipeline.hold()
    panel.run()
    pipeline.begun()
    assert (panel.status, panel.screen.mood) == ("Drawing ...", "busy")
    pipeline.step()
    assert panel.screen.progress == 0.25
    pipeline.let_go()
    panel.wait(SECONDS)
    assert (panel.screen.progress, panel.screen.mood) == (0.0, "done")
    assert panel.status == "4 steps at timesteps 999, 759, 499, 259 - 0.41 s"
    assert panel.screen.caption.startswith("Self-portrait oil painting")
    assert panel.screen.alt == f"{panel.screen.caption}; 4 steps; seed 0"


def test_a_note_follows_the_status(panel, pipeline):
    pipeline.endings.append(lambda result: SimpleNamespace(**vars(result) | {"note": "fitted; blacked out"}))
    drawn(panel)
    assert panel.status.endswith("0.41 s; fitted; blacked out")


def test_the_status_of_one_step_is_in_the_singular():
    assert describe([999], 0.1) == "1 step at timestep 999 - 0.10 s"


# -- stop and errors -------------------------------------------------------------------


def test_stop_ends_the_run_within_one_step_and_keeps_the_picture(panel, pipeline, previews):
    before = drawn(panel)
    pixels = panel.screen.picture
    pipeline.hold()
    panel.controls["num_inference_steps"].value = 8
    pipeline.begun()
    pipeline.step(2)
    assert panel.screen.picture != pixels  # a preview
    panel.controls["stop"].click()
    pipeline.let_go()
    assert panel.wait(SECONDS) is before
    assert (pipeline.runs[-1]["cancelled"], pipeline.runs[-1]["steps"]) == (True, 3)
    assert (panel.status, panel.screen.mood) == ("Stopped.", "idle")
    assert panel.screen.picture == pixels
    assert len(panel.history) == 1


def test_after_a_stop_the_next_run_works(panel, pipeline):
    panel.stop()
    assert drawn(panel).settings == panel.values()
    assert pipeline.runs[-1]["cancelled"] is False


def test_an_error_shows_in_the_status_and_wait_raises_it_once(panel, pipeline):
    pipeline.endings.append(fail(RuntimeError("out of <b>memory</b>")))
    panel.controls["seed"].value = 1
    with pytest.raises(RuntimeError, match="out of <b>memory"):
        panel.wait(SECONDS)
    assert (panel.status, panel.screen.mood) == ("RuntimeError: out of <b>memory</b>", "error")
    assert panel.wait(SECONDS) is None
    assert drawn(panel).settings["seed"] == 1
    assert panel.status.startswith("4 steps")


def test_stop_before_the_first_picture_leaves_the_hint_and_not_a_preview(panel, pipeline, previews):
    pipeline.hold()
    panel.run()
    pipeline.begun()
    pipeline.step()
    assert panel.screen.preview
    panel.stop()
    pipeline.let_go()
    assert panel.wait(SECONDS) is None
    assert (panel.screen.picture, panel.screen.preview) == (b"", False)


def test_an_exit_in_a_run_is_an_error_like_any_other(panel, pipeline):
    pipeline.endings.append(fail(SystemExit(1)))
    panel.run()
    with pytest.raises(SystemExit):
        panel.wait(SECONDS)
    assert panel.status == "SystemExit: 1"
    assert drawn(panel).settings == panel.values()


def test_an_error_leaves_the_last_picture_on_screen(panel, pipeline):
    before = drawn(panel)
    pixels = panel.screen.picture
    pipeline.endings.append(fail(RuntimeError("no")))
    panel.run()
    with pytest.raises(RuntimeError):
        panel.wait(SECONDS)
    assert panel.result is before
    assert panel.screen.picture == pixels


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
    pipeline.endings.append(lambda result: SimpleNamespace(images=[None], settings=result.settings))
    panel.run()
    with pytest.raises(AttributeError):
        panel.wait(SECONDS)
    assert panel.result is before
    assert drawn(panel) is not before


def test_reset_sets_all_settings_to_the_sections_own(panel, pipeline):
    drawn(panel, prompt="a fox", num_inference_steps=20, seed=7)
    panel.controls["reset"].click()
    assert panel.values() == {name: spec.default for name, spec in SETTINGS.items()}
    assert panel.wait(SECONDS).settings == panel.values()
    panel.controls["live"].value = False
    panel.controls["seed"].value = 3
    panel.reset()
    assert panel.wait(SECONDS).settings == panel.values() and len(pipeline.runs) == 2


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


# -- history, recall, comparing -----------------------------------------------------------


def seeds_in(history):
    return [item.result.settings["seed"] for item in history]


def draw_seeds(panel, seeds):
    for seed in seeds:
        panel.controls["seed"].value = seed
        panel.wait(SECONDS)


def test_the_history_is_bounded_and_newest_first(panel):
    draw_seeds(panel, range(1, ENTRIES + 3))
    assert seeds_in(panel.history) == list(range(ENTRIES + 2, 2, -1))
    assert len(panel.screen.history) == ENTRIES


def test_a_star_keeps_a_picture_when_others_go(panel):
    draw_seeds(panel, [1])
    panel.star()
    draw_seeds(panel, range(2, ENTRIES + 3))
    assert seeds_in(panel.history) == [*range(ENTRIES + 2, 3, -1), 1]
    assert [item["starred"] for item in panel.screen.history] == [False] * (ENTRIES - 1) + [True]
    panel.recall(panel.history[panel.screen.history[-1]["key"]].key)
    panel.star()
    draw_seeds(panel, [ENTRIES + 3])
    assert 1 not in seeds_in(panel.history)


def test_there_are_not_more_stars_than_may_be(panel):
    for seed in range(STARS):
        draw_seeds(panel, [seed + 1])
        panel.star()
    draw_seeds(panel, [0])
    with pytest.raises(ValueError, match=f"{STARS} pictures have a star already; take one star away first"):
        panel.star()


def test_the_same_settings_are_in_the_history_once(panel):
    draw_seeds(panel, [1, 2, 1])
    assert seeds_in(panel.history) == [1, 2]


def test_the_history_is_bounded_in_memory_too(panel, monkeypatch):
    monkeypatch.setattr("lcm_nb.widgets.history.MEGAPIXELS", 3 * 64 * 64 / 10**6)
    draw_seeds(panel, range(1, 6))
    assert seeds_in(panel.history) == [5, 4, 3]


def test_a_small_picture_says_what_is_new_in_it_and_all_settings_on_hovering(panel):
    drawn(panel, prompt="a fox")
    drawn(panel, num_inference_steps=2, guidance_scale=3.5)
    newest, oldest = panel.screen.history
    assert (newest["caption"], oldest["caption"]) == ("steps 2, guidance 3.5", "a fox")
    assert newest["title"] == "a fox\nsteps 2, guidance 3.5, pictures 1, seed 0"
    assert newest["alt"] == "a fox; 2 steps; seed 0"


def test_a_click_on_the_history_brings_picture_and_settings_back(panel, pipeline):
    first = drawn(panel, prompt="a fox")
    pixels = panel.screen.picture
    drawn(panel, prompt="an owl", num_inference_steps=2, seed=3)
    assert panel.screen.picture != pixels
    panel.recall(panel.screen.history[-1]["key"])
    assert idle(panel).picture == pixels
    assert panel.result is first
    assert panel.values() == first.settings
    assert panel.status.startswith("4 steps at timesteps")
    assert panel.screen.shown == panel.screen.history[-1]["key"]
    assert len(pipeline.runs) == len(panel.history) == 2  # nothing was drawn


def test_a_recall_stops_the_run_in_flight_which_shows_nothing_more(panel, pipeline, previews):
    first = drawn(panel)
    pixels = panel.screen.picture
    pipeline.hold()
    panel.controls["seed"].value = 5
    pipeline.begun()
    pipeline.step()
    panel.recall(panel.screen.history[0]["key"])
    pipeline.let_go()
    assert panel.wait(SECONDS) is first
    assert pipeline.runs[-1]["cancelled"]
    assert (panel.screen.picture, panel.controls["seed"].value, panel.screen.mood) == (pixels, 0, "done")


def test_what_is_not_in_the_history_any_more_cannot_be_recalled(panel):
    with pytest.raises(ValueError, match="Picture 0 is not in the history any more"):
        panel.recall(0)


def test_remix_takes_all_settings_but_the_seed(panel, dice):
    drawn(panel, prompt="a fox", num_inference_steps=2)
    drawn(panel, prompt="an owl")
    panel.recall(panel.screen.history[-1]["key"])
    panel.remix()
    settings = panel.wait(SECONDS).settings
    assert (settings["prompt"], settings["num_inference_steps"], settings["seed"]) == ("a fox", 2, 1111)
    assert panel.values() == settings


def test_a_is_compared_with_what_follows(panel):
    drawn(panel)
    first = panel.screen.picture
    panel.pin()
    drawn(panel, num_inference_steps=2, seed=7)
    screen = panel.screen
    assert (screen.before, screen.before_name) == (first, "A")
    assert screen.before_alt.startswith("A: Self-portrait")
    assert screen.differences == [["steps", "4", "2"], ["seed", "0", "7"]]
    panel.pin()
    assert (screen.before, screen.differences, screen.pinned) == (b"", [], 0)


# -- several at once ----------------------------------------------------------------------


def test_several_pictures_are_a_row_to_choose_from(panel):
    drawn(panel, num_images=3, seed=5)
    screen = panel.screen
    assert [item["caption"] for item in screen.row] == ["seed 5", "seed 6", "seed 7"]
    assert colour(screen.picture) == (1, 4, 5)
    panel.choose(2)
    assert idle(panel).chosen == 2
    assert colour(screen.picture) == (1, 4, 7)
    assert screen.alt.endswith("seed 7")
    assert len(panel.history) == 1
    drawn(panel, num_images=1)
    assert screen.row == []


def test_try_several_draws_a_row_that_differs_in_one_setting(panel, pipeline):
    panel.controls["vary"].value = "guidance_scale"
    panel.controls["vary_run"].click()
    panel.wait(SECONDS)
    assert [run["settings"]["guidance_scale"] for run in pipeline.runs] == [1.0, 5.5, 9.5, 14.0]
    assert [item["caption"] for item in panel.screen.row] == [
        f"guidance {scale}" for scale in ("1", "5.5", "9.5", "14")
    ]
    assert panel.controls["guidance_scale"].value == 8.0
    panel.choose(1)
    assert panel.controls["guidance_scale"].value == 5.5
    assert panel.result.settings["guidance_scale"] == 5.5
    assert len(panel.screen.row) == 4


def test_try_several_tells_how_far_it_is_and_can_be_stopped(panel, pipeline):
    pipeline.hold()
    panel.vary("seed")
    for _ in range(2):
        pipeline.begun()
        told = panel.status
        pipeline.step(4)
    pipeline.begun()
    assert told == "Drawing 2 of 4 ..."
    assert panel.screen.progress == 0.5
    panel.stop()
    pipeline.let_go()
    panel.wait(SECONDS)
    assert panel.status == "Stopped."
    assert [item["caption"] for item in panel.screen.row] == ["seed 0", "seed 1"]


def test_values_that_do_not_go_with_the_others_are_left_out_of_a_row(panel, pipeline):
    refusal = fail(ValueError("low_threshold is 400; it must not exceed the high one"))
    pipeline.endings += [lambda result: result, refusal, lambda result: result, refusal]
    panel.vary("seed")
    panel.wait(SECONDS)
    assert [item["caption"] for item in panel.screen.row] == ["seed 0", "seed 2"]
    assert panel.status == "2 of 4 drawn. low_threshold is 400; it must not exceed the high one"
    assert panel.screen.mood == "done"


def test_only_numbers_can_be_tried(panel):
    with pytest.raises(ValueError, match="'prompt' is no number setting; choose one of: num_inference_steps, guidance"):
        panel.vary("prompt")


# -- what else a panel may be given ---------------------------------------------------------


@pytest.fixture
def full(pipeline):
    """A panel with all that there is."""

    def read(content: bytes) -> dict:
        if content != b"ours":
            raise ValueError("it carries no lcm_nb settings; only files that lcm_nb saved can be read")
        return {"prompt": "a castle", "seed": 12}

    hooks = dict(
        examples=["a cute fox", "an owl"], describe=lambda image: f"blue {image.getpixel((0, 0))[2]}", read=read
    )
    panel = RealPanel(SETTINGS, run=pipeline.generate, code=code, cancelled=Cancelled, **hooks)
    yield panel
    panel.close()


def test_an_example_becomes_the_prompt(full):
    full.controls["examples"].value = "an owl"
    assert full.wait(SECONDS).settings["prompt"] == "an owl"


def test_prompts_that_were_drawn_come_back_by_the_menu(full):
    menu, prompt = full.controls["examples"], full.controls["prompt"]
    for text in ("a robot", "an owl", "two\nlines", "a robot"):
        prompt.value = text
        full.run()
        full.wait(SECONDS)
    assert [value for _, value in menu.options] == ["", "a cute fox", "an owl", "a robot", "two\nlines"]
    assert [text for text, _ in menu.options][-2:] == ["↺ a robot", "↺ two lines"]
    menu.value = "two\nlines"
    assert full.wait(SECONDS).settings["prompt"] == prompt.value == "two\nlines"
    for number in range(40):
        prompt.value = f"prompt {number}"
        full.run()
        full.wait(SECONDS)
    assert [value for _, value in menu.options][3:] == [f"prompt {number}" for number in range(39, 39 - EARLIER, -1)]


def test_the_judge_says_what_it_sees_until_it_is_switched_off(full):
    drawn(full, seed=3)
    assert full.screen.words == "blue 3"
    full.controls["judge"].value = False
    assert idle(full).words == ""
    drawn(full, seed=4)
    assert full.screen.words == ""


def test_a_png_sets_the_controls_and_is_drawn(full):
    full.read(b"ours")
    settings = full.wait(SECONDS).settings
    assert (settings["prompt"], settings["seed"]) == ("a castle", 12)
    assert full.values() == settings
    full.read(b"other")
    assert idle(full).mood == "error"
    assert full.status == "Not taken: it carries no lcm_nb settings; only files that lcm_nb saved can be read"


# -- what the page asks for -----------------------------------------------------------------


def ask(panel, **message):
    """Send what the page sends."""
    panel.screen._handle_custom_msg(message, [])


def test_enter_draws_with_the_text_as_it_stands(panel, pipeline):
    panel.controls["live"].value = False
    ask(panel, do="run", name="prompt", text="a fox")
    assert panel.wait(SECONDS).settings["prompt"] == "a fox"
    ask(panel, do="run")
    panel.wait(SECONDS)
    assert len(pipeline.runs) == 2


def test_what_the_page_asks_in_vain_shows_in_the_status(panel):
    ask(panel, do="recall", key=99)
    assert panel.status == "Not done: Picture 99 is not in the history any more; draw it again."
    ask(panel, do="refuse", why="evil.png has 90 MB; at most 9 MB can be sent.")
    assert panel.status == "Not taken: evil.png has 90 MB; at most 9 MB can be sent."
    ask(panel, do="nothing that there is")
    assert panel.screen.mood == "error"


# -- code and saving ------------------------------------------------------------------------


def test_show_code_shows_that_of_the_picture(panel):
    panel.controls["prompt"].value = "<script>alert(1)</script>"
    panel.wait(SECONDS)
    assert panel.screen.code == ""
    panel.controls["show_code"].value = True
    assert idle(panel).code == "pipe('<script>alert(1)</script>', 4)"
    panel.controls["prompt"].value = "a cat"
    assert idle(panel).code == "pipe('a cat', 4)"
    panel.controls["show_code"].value = False
    assert panel.screen.code == ""


def test_show_code_before_the_first_picture_is_that_of_the_controls(panel):
    panel.controls["live"].value = False
    panel.controls["num_inference_steps"].value = 7
    panel.controls["show_code"].value = True
    assert ", 7)" in idle(panel).code


def test_show_code_for_values_that_cannot_be_drawn_says_so(panel):
    panel.controls["live"].value = False
    panel.controls["prompt"].value = ""
    panel.controls["show_code"].value = True
    assert idle(panel).status == "No code: prompt is ''; give a text"
    assert panel.screen.code == ""


def test_save_writes_a_file_of_its_own_each_time(panel, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    panel.controls["prompt"].value = "A Fox / in ../../the snow!"
    panel.wait(SECONDS)
    panel.controls["save"].click()
    assert idle(panel).status == "Saved as a-fox-in-the-snow-seed0.png"
    panel.controls["save"].click()
    assert idle(panel).status == "Saved as a-fox-in-the-snow-seed0-2.png"
    assert panel.screen.file_name == "a-fox-in-the-snow-seed0-2.png"
    assert panel.screen.file == (tmp_path / panel.screen.file_name).read_bytes()
    assert panel.save(tmp_path / "mine.png") == tmp_path / "mine.png"
    names = {"a-fox-in-the-snow-seed0.png", "a-fox-in-the-snow-seed0-2.png", "mine.png"}
    assert {path.name for path in tmp_path.iterdir()} == names
    assert Image.open("a-fox-in-the-snow-seed0.png").getpixel((0, 0)) == panel.result.images[0].getpixel((0, 0))


def test_saving_several_pictures_names_all_and_offers_the_one_on_screen(panel, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    panel.controls["prompt"].value = "a fox"
    drawn(panel, num_images=3)
    panel.choose(1)
    for stem in ("a-fox-seed0", "a-fox-seed0-2"):
        panel.controls["save"].click()
        names = [f"{stem}-{number}.png" for number in (1, 2, 3)]
        assert idle(panel).status == f"Saved as {', '.join(names)}"
        assert panel.screen.file_name == names[1]
        assert Image.open(names[1]).getpixel((0, 0)) == panel.result.images[1].getpixel((0, 0))


def test_four_saves_at_once_write_four_files(panel, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    drawn(panel, prompt="a fox")
    threads = [threading.Thread(target=panel.save) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(list(tmp_path.iterdir())) == 4


def test_there_is_nothing_to_save_before_the_first_picture(panel, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    panel.controls["save"].click()
    assert panel.status == "Not saved: There is no picture to save yet; press Run first."
    with pytest.raises(ValueError, match="no picture to save yet"):
        panel.save()
    assert list(tmp_path.iterdir()) == []


def test_the_last_pictures_are_saved_as_a_film(panel, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="no picture to save yet"):
        panel.save_film()
    for number in range(FRAMES + 2):
        panel.controls["seed"].value = 100 * number  # which tells in the colour
        panel.wait(SECONDS)
    assert panel.save_film("mine.gif") == Path("mine.gif")
    panel.controls["save_film"].click()
    assert idle(panel).status == f"Saved {FRAMES} pictures as {panel.screen.file_name}"
    assert panel.screen.file_name.endswith(f"-seed{100 * (FRAMES + 1)}.webp")
    for name in ("mine.gif", panel.screen.file_name):
        with Image.open(name) as film:
            assert film.n_frames == FRAMES and film.size == (64, 64)
            film.seek(FRAMES - 1)
            blue = film.convert("RGB").getpixel((32, 32))[2]
        assert abs(blue - 100 * (FRAMES + 1) % 256) <= 4
    for name, words in (("a.mp4", "ends in neither .webp nor .gif"), ("no/a.gif", "does not exist")):
        with pytest.raises(ValueError, match=words):
            panel.save_film(name)


# -- the end of a panel ----------------------------------------------------------------------


def alive():
    """The widgets that hold on to anything; ipywidgets keeps them until they are closed."""
    gc.collect()
    old = widgets.__version__.startswith("7.")
    registry = widgets.Widget.widgets if old else widgets.widget._instances
    return {key: widget for key, widget in registry.items() if widget is not None}


def workers():
    return {thread for thread in threading.enumerate() if thread.name == "lcm_nb panel"}


def test_panels_that_close_leave_no_thread_and_no_widget():
    before, busy = set(alive()), workers()
    for _ in range(50):
        pipeline = FakePipeline()
        panel = RealPanel(SETTINGS, run=pipeline.generate, code=code, cancelled=Cancelled)
        drawn(panel)
        panel.close()
    deadline = time.monotonic() + SECONDS
    while workers() - busy and time.monotonic() < deadline:
        time.sleep(0.01)
    assert workers() <= busy
    assert set(alive()) <= before


def test_closing_stops_the_run_in_flight(panel, pipeline):
    pipeline.hold()
    panel.run()
    pipeline.begun()
    panel.close()
    pipeline.step()
    assert pipeline.runs[-1]["cancelled"]
    assert panel.wait(SECONDS) is None


def test_a_new_panel_of_a_studio_closes_the_one_before(studio):
    studio.panel().close()  # whatever another test has left open
    before, busy = set(alive()), workers()
    for _ in range(3):
        panel = studio.panel()
        drawn(panel, num_inference_steps=1)
    open_now = len(set(alive()) - before)
    deadline = time.monotonic() + SECONDS
    while len(workers() - busy) > 1 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(workers() - busy) == 1
    panel.close()
    assert set(alive()) <= before
    assert open_now < 100


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
    assert Image.open(io.BytesIO(panel.screen.picture)).tobytes() == same.image.tobytes()
    assert panel.status.startswith("2 steps at timesteps 999, 499 - ")
    panel.controls["prompt"].value = " "
    with pytest.raises(ValueError, match="give a text with at least one word"):
        panel.wait(SECONDS)
    assert panel.status.startswith("prompt is ' '; give a text")


# -- when a preview is worth it ----------------------------------------------------------------


@pytest.fixture
def clock(monkeypatch):
    """Seconds, moved by hand."""
    now = SimpleNamespace(seconds=0.0)
    monkeypatch.setattr("lcm_nb.widgets.previews.time.perf_counter", lambda: now.seconds)
    return now


def previewed(clock, previews, *, steps, each, cost):
    """Return the steps of a run after which there was a preview, and the share of its time that they took."""
    seen, spent = [], 0.0
    previews.begin()
    for number in range(1, steps + 1):
        clock.seconds += each
        if previews.worth(step_of(number, 0, steps)):
            clock.seconds += cost
            spent += cost
            previews.made(cost)
            seen.append(number)
    return seen, spent / (steps * each)


def test_a_long_run_has_previews_a_short_one_has_none(clock):
    assert previewed(clock, Previews(), steps=4, each=0.03, cost=0.01) == ([], 0)
    seen, share = previewed(clock, Previews(), steps=8, each=0.5, cost=0.01)
    assert seen == [1, 2, 3, 4, 5, 6, 7]
    assert share < 0.05


def test_a_run_is_brief_by_what_its_steps_took(clock):
    previews = Previews()
    previews.begin()
    clock.seconds += 0.1
    assert previews.is_brief(step_of(1, 0, 4))
    assert not previews.is_brief(step_of(1, 0, 8))


def test_previews_take_at_most_a_twentieth_once_their_cost_is_known(clock):
    previews = Previews()
    previewed(clock, previews, steps=8, each=0.2, cost=0.3)
    assert previewed(clock, previews, steps=8, each=0.2, cost=0.3) == ([], 0)
    seen, share = previewed(clock, previews, steps=50, each=0.5, cost=0.3)
    assert 2 <= len(seen) <= 4 and share <= 0.05


def test_the_steps_of_several_pictures_count_together(clock):
    previews = Previews()
    previews.begin()
    clock.seconds = 8 * 0.01  # the first picture is done
    step = SimpleNamespace(number=1, total=8, picture=2, pictures=2, preview=lambda: None)
    clock.seconds += 0.01
    assert not previews.worth(step)  # 0.01 s a step: 0.07 s to go


def test_there_is_no_preview_where_the_run_offers_none():
    previews = Previews()
    previews.begin()
    assert not previews.worth(SimpleNamespace(number=1, total=50, preview=None))
