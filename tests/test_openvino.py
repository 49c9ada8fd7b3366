"""The OpenVINO runtime, with the mini family: like diffusers but for rounding, and a cache that is whole or absent."""

import shutil
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import lcm_nb
from lcm_nb.models import device
from lcm_nb.result import read

RUNTIME = "openvino-float32"  # on any CPU the same


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The cache of converted models, empty at first."""
    pytest.importorskip("openvino", reason="openvino is not installed")
    from lcm_nb.runtimes import openvino

    place, patch = tmp_path_factory.mktemp("home"), pytest.MonkeyPatch()
    patch.setattr(openvino, "constants", SimpleNamespace(HF_HOME=str(place)))
    yield openvino.cache_folder()
    patch.undo()


@pytest.fixture(scope="module")
def drawn(folder):
    """A studio that has drawn a picture, and the picture."""
    studio = lcm_nb.load("text-to-image", runtime=RUNTIME)
    return studio, studio.generate(seed=3, num_inference_steps=2)


def convert_something() -> None:
    """Convert a layer and run it."""
    from lcm_nb.runtimes.openvino import Converted

    layer = torch.nn.Linear(4, 4)
    assert torch.allclose(Converted(layer, "f32")(torch.ones(1, 4)), layer(torch.ones(1, 4)), atol=1e-5)


def far(one, other) -> int:
    return np.abs(np.asarray(one, int) - np.asarray(other, int)).max()


def test_pictures_are_those_of_diffusers_but_for_rounding(drawn, studio):
    assert far(drawn[1].image, studio.generate(seed=3, num_inference_steps=2).image) <= 2
    assert drawn[1].timesteps == [999, 499]


def test_steps_previews_and_stopping_are_the_studio_s(drawn):
    studio, seen = drawn[0], []
    picture = studio.generate(seed=3, num_inference_steps=2, on_step=seen.append).image
    assert seen[0].preview().size == picture.size
    assert np.array_equal(np.asarray(studio.runtime.decode(seen[-1].denoised)), np.asarray(picture))

    def stop(step):
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        studio.generate(on_step=stop)


def test_models_are_kept_and_whole(drawn, folder):
    kept = sorted(folder.iterdir())
    assert len(kept) == 2 and all((place / "model.bin").is_file() for place in kept)


def test_a_second_studio_takes_them_from_the_cache(drawn, capsys):
    again = lcm_nb.load("text-to-image", runtime=RUNTIME).generate(seed=3, num_inference_steps=2)
    assert np.array_equal(np.asarray(again.image), np.asarray(drawn[1].image))
    assert "Converting" not in capsys.readouterr().out


def test_a_broken_cache_is_made_anew(drawn, folder, capsys):
    for place in folder.iterdir():
        (place / "model.xml").write_text("<net")
        (place / "model.bin").write_bytes(b"")
    again = lcm_nb.load("text-to-image", runtime=RUNTIME).generate(seed=3, num_inference_steps=2)
    assert np.array_equal(np.asarray(again.image), np.asarray(drawn[1].image))
    assert capsys.readouterr().out.count("once: 1 x 8 x 16 x 16") == 2
    assert len(list(folder.iterdir())) == 2


def test_another_shape_is_said(folder, capsys):
    from lcm_nb.runtimes.openvino import Converted

    layer = Converted(torch.nn.Linear(4, 4), "f32")
    assert layer(torch.ones(1, 4)).shape == (1, 4) and layer(torch.ones(2, 4)).shape == (2, 4)
    assert capsys.readouterr().out.splitlines() == [
        "Converting the Linear to OpenVINO, once: 1 x 4.",
        "Converting the Linear to OpenVINO for another shape, once: 2 x 4.",
    ]


def test_an_interrupted_conversion_leaves_nothing(drawn, folder, monkeypatch):
    import openvino

    for place in folder.iterdir():
        shutil.rmtree(place)

    def interrupted(model, path, **_):
        path.write_text("half")
        raise KeyboardInterrupt

    monkeypatch.setattr(openvino, "save_model", interrupted)
    with pytest.raises(KeyboardInterrupt):
        convert_something()
    assert list(folder.iterdir()) == []


def test_a_full_disk_is_said_and_the_picture_comes(drawn, folder, monkeypatch):
    import openvino

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(openvino, "save_model", full)
    with pytest.warns(UserWarning, match=r"was not kept in .* \(\[Errno 28\] No space left on device\); make room"):
        convert_something()
    assert list(folder.iterdir()) == []


def test_the_file_says_what_drew_it(drawn, tmp_path):
    studio, result = drawn
    facts = read(result.save(tmp_path / "fox.png")).facts
    assert facts["runtime"] == RUNTIME and facts["versions"]["openvino"][:2] == "20"
    assert studio.code({}).startswith(f"# Drawn by {RUNTIME}: plain diffusers rounds otherwise.\nimport torch")


@pytest.mark.parametrize("section", ["controlnet", "t2i-adapter", "image-to-image"])
def test_other_sections_are_those_of_diffusers_but_for_rounding(section, folder):
    settings = dict(seed=3, num_inference_steps=2)
    ours, plain = (lcm_nb.load(section, runtime=name).generate(**settings).image for name in (RUNTIME, "diffusers"))
    assert far(ours, plain) <= 2


def test_scales_of_styles_are_refused_with_the_remedy(folder):
    with pytest.raises(
        ValueError, match=r"cannot change the scales of papercut and neon: load style-lora with runtime="
    ):
        lcm_nb.load("style-lora", runtime=RUNTIME)


def test_telemetry_is_never_imported(folder):
    code = (
        "import sys, torch; from lcm_nb.runtimes.openvino import _convert, _Flat, tree_flatten\n"
        "leaves, spec = tree_flatten(((torch.zeros(1, 4),), {}))\n"
        "_convert(_Flat(torch.nn.Linear(4, 4), leaves, spec))\n"
        "sys.exit(any(name.startswith('openvino_telemetry') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


# -- refused before anything is loaded ------------------------------------------------


def test_an_unknown_runtime_is_refused_with_those_there_are():
    with pytest.raises(
        ValueError, match="runtime is 'tensorrt'; use one of 'diffusers', 'openvino', 'openvino-float32'"
    ):
        lcm_nb.load("text-to-image", runtime="tensorrt")


def test_a_device_it_cannot_use_is_refused():
    with pytest.raises(ValueError, match="'openvino' computes on the CPU, and device is 'cuda'; leave device out"):
        lcm_nb.load("text-to-image", device="cuda", runtime="openvino")


def test_without_the_package_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(device.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        ImportError, match=r"needs the package openvino: `pip install \"lcm_nb\[openvino\]\"`, then restart"
    ):
        lcm_nb.load("text-to-image", runtime="openvino")
