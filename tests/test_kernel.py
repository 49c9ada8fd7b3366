"""The panel in a real kernel, driven by the messages that a front end sends."""

import io
from importlib.metadata import version

import pytest
from front_end import SCREEN, kernel
from PIL import Image

SUBSHELLS = int(version("ipykernel").split(".")[0]) >= 7  # Colab's 6 has none
CELL = """
import lcm_nb
panel = lcm_nb.load("text-to-image").panel()
panel
"""


@pytest.fixture(scope="module")
def front_end(environment, tmp_path_factory):
    with kernel(environment, tmp_path_factory.mktemp("kernel")) as front_end:
        front_end.run(CELL)
        yield front_end


@pytest.mark.parametrize(("steps", "timesteps", "in_subshell"), [(2, "999, 499", False), (1, "999", True)])
def test_a_moved_slider_sends_a_new_picture_and_status(front_end, steps, timesteps, in_subshell):
    screen = front_end.find(_anywidget_id=SCREEN)
    before = front_end.models[screen].get("picture", b"")
    subshell = front_end.new_subshell() if in_subshell and SUBSHELLS else None
    front_end.move(front_end.find(_model_name="IntSliderModel", description="steps"), steps, subshell)
    status = front_end.wait_for_status(f"{steps} step")
    assert f" {timesteps} - " in status
    after = front_end.models[screen]["picture"]
    assert after != before
    assert Image.open(io.BytesIO(after)).format == "PNG"
    assert front_end.complaints() == []


def test_an_error_arrives_in_the_status_and_not_as_a_traceback(front_end):
    front_end.move(front_end.find(_model_name="TextareaModel"), "")
    front_end.wait_for_status("prompt is ''; give a text")
    front_end.move(front_end.find(_model_name="TextareaModel"), "a cute fox")
    front_end.wait_for_status("1 step at timestep 999")
    assert front_end.complaints() == []


def test_a_cell_can_wait_for_the_picture(front_end):
    front_end.run("panel.controls['num_inference_steps'].value = 4\nprint(panel.wait(120).timesteps)")
    assert front_end.printed() == "[999, 759, 499, 259]\n"
    assert front_end.complaints() == []


def test_the_page_recalls_a_picture_with_its_settings(front_end):
    screen = front_end.find(_anywidget_id=SCREEN)
    history = front_end.models[screen]["history"]
    assert len(history) >= 2
    front_end.ask(screen, do="recall", key=history[-1]["key"])
    front_end.wait_for_status("2 steps at timesteps 999, 499")
    front_end.run("print(panel.values() == panel.result.settings, panel.values()['num_inference_steps'])")
    assert front_end.printed() == "True 2\n"
    assert front_end.complaints() == []
