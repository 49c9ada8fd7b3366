"""What people try that cannot be: one sentence each, with the value and the remedy; nothing is loaded for it."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import lcm_nb
from lcm_nb import cli, pictures
from lcm_nb.models import plans
from lcm_nb.models.device import resolve_device
from lcm_nb.models.plans import plan_for
from lcm_nb.sections import BY_NAME
from lcm_nb.settings import complete

ARRAY = np.zeros((300, 300, 3), np.uint8)
LONG = "x" * 5000


def settings(section: str, **given):
    return complete(BY_NAME[section].settings, given, owner=section)


CASES = {
    "array as picture": (lambda: pictures.read_image(ARRAY), r"array of shape \(300, 300, 3\).*Image.fromarray"),
    "array as setting": (lambda: settings("image-to-image", image=ARRAY), "Image.fromarray"),
    "array as prompt": (lambda: settings("text-to-image", prompt=ARRAY), "prompt is an array of shape"),
    "array as seed": (lambda: settings("text-to-image", seed=ARRAY), "seed is an array of shape"),
    "array as switch": (lambda: settings("controlnet", detect_edges=ARRAY), "detect_edges is an array of shape"),
    "long list": (lambda: settings("text-to-image", prompt=[LONG]), r"prompt is \['xxx"),
    "long path": (lambda: pictures.read_image(LONG), "too long"),
    "long address": (lambda: pictures.read_image("https://" + LONG), "is a web address"),
    "no name": (lambda: pictures.read_image(""), "'' can be no path"),
    "null byte": (lambda: pictures.read_image("a\0b"), "can be no path"),
    "folder": (lambda: pictures.read_image(Path(__file__).parent), "is a folder; give the path of a PNG"),
    "canny of None": (lambda: pictures.canny(None), "None is no picture; give a path"),
    "canny at None": (lambda: pictures.canny(Image.new("RGB", (32, 32)), None), "low is None; give a threshold"),
    "canny at text": (lambda: pictures.canny(Image.new("RGB", (32, 32)), 1, "200"), "high is '200'; give a threshold"),
    "canny at nan": (lambda: pictures.canny(Image.new("RGB", (32, 32)), float("nan")), "low is nan"),
    "device list": (lambda: resolve_device(["cpu"]), r"device \['cpu'\] is not available here; use 'c"),
    "device meta": (lambda: resolve_device("meta"), "device 'meta' is not available here"),
    "device number": (lambda: resolve_device(0), "device 0 is not available here"),
    "device nothing": (lambda: resolve_device(""), "device '' is not available here"),
    "section list": (lambda: plan_for(["controlnet"]), r"no section \['controlnet'\]; choose one of"),
    "model list": (lambda: plan_for("controlnet", ["x"]), r"no model \['x'\]; choose one of"),
    "profile list": (lambda: lcm_nb.load("controlnet", ["mini"]), r"profile is \['mini'\]; use"),
}


@pytest.mark.parametrize("name", CASES)
def test_what_cannot_be_is_refused_in_one_sentence(name):
    act, message = CASES[name]
    with pytest.raises(ValueError, match=message) as told:
        act()
    assert len(str(told.value)) < 400 and "\n" not in str(told.value)


def test_home_is_known(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    Image.new("RGB", (32, 32)).save(tmp_path / "fox.png")
    assert pictures.read_image("~/fox.png").size == (32, 32)
    assert pictures.keep_image("~/fox.png") == str(tmp_path / "fox.png")


def test_without_opencv_the_remedy_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(ImportError, match="`pip install opencv-python-headless`"):
        pictures.canny(Image.new("RGB", (32, 32)))


@pytest.mark.parametrize("text", ["", '{"a": ', "[]", '{"a": 1}', "[" * 50_000, b"\xff\xfe"])
def test_half_written_pins_are_named(tmp_path, monkeypatch, text):
    monkeypatch.setattr(plans, "PINS", tmp_path / "pins.json")
    plans.PINS.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=r"pins\.json is damaged; delete it, or run `lcm-nb pin` again"):
        plans.pins()
    plans.PINS.write_text(json.dumps({"a": "b"}))
    assert plans.pins() == {"a": "b"}


# -- the terminal -------------------------------------------------------------------------


@pytest.mark.parametrize("output", ["fox.jpg", "nowhere/fox.png", "x" * 300 + ".png", "a\ud800\udfff.png"])
def test_a_wrong_output_is_refused_before_anything_is_loaded(output, monkeypatch, capsys):
    monkeypatch.setattr("lcm_nb.studio.load", lambda *_, **__: pytest.fail("loaded"))
    assert cli.main(["draw", "a fox", "--output", output]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_drawing_twice_keeps_both_and_force_replaces(tmp_path, monkeypatch, capsys):
    from test_runtime import Dice, studio_with

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("lcm_nb.studio.load", lambda *_, **__: studio_with(Dice(), "text-to-image"))
    for options, name in (([], "a-fox.png"), ([], "a-fox-2.png"), (["--force"], "a-fox.png")):
        assert cli.main(["draw", "a fox", *options]) == 0
        assert capsys.readouterr().out.splitlines()[0] == name
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.skipif(sys.platform == "win32", reason="another signal")
@pytest.mark.parametrize("seconds", [0.5, 3])
def test_control_c_prints_one_line(environment, tmp_path, seconds):
    code = "import sys; from lcm_nb.cli import main; print('on', flush=True); sys.exit(main(['draw', 'a fox']))"
    command = [sys.executable, "-c", code]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, env=environment, cwd=tmp_path, **pipes)
    assert process.stdout.readline() == "on\n"
    time.sleep(seconds)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=120)
    assert process.returncode == 130, error
    assert error == "lcm-nb: stopped; what was saved before is whole\n"
    assert list(tmp_path.iterdir()) == []
