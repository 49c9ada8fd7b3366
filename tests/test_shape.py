"""The measures of what people see, and the stages that go on from the family that ships."""

import json
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

pytest.importorskip("resvg_py", reason="resvg is not installed: pip install lcm_nb[training]")

from lcm_nb.models.vocabulary import SUBJECTS
from lcm_nb.training import blind, data, shape, sharpen, unpack
from lcm_nb.training.loop import Settings
from lcm_nb.training.scenes import GRADES, LANDSCAPES, Painter
from lcm_nb.tutorial.captions import Scene

HEAD = '<circle cx="16" cy="17" r="12" fill="#c63"/><path d="M4 4L13 8L6 15Z" fill="#752"/><path d="M28 4L19 8L26 15Z"'
FACE = ' fill="#752"/><circle cx="11" cy="15" r="2"/><circle cx="21" cy="15" r="2"/><path d="M10 22H20V25H10Z"/>'
HOUSE = '<path d="M3 15L16 3L29 15V29H3Z" fill="#c44"/><path d="M13 20H19V29H13Z"/><path d="M22 4H25V10H22Z"/>'


@pytest.fixture(scope="module")
def painter(tmp_path_factory):
    """A painter whose fox is a face with ears, and all else a house."""
    names = {*SUBJECTS.values(), *(icon for landscape in LANDSCAPES.values() for icon in landscape[-1])}
    bodies = {name: {"body": HEAD + FACE if name == SUBJECTS["fox"] else HOUSE} for name in names}
    work = tmp_path_factory.mktemp("icons")
    (work / "icons").mkdir()
    (work / "icons" / "icons.json").write_text(json.dumps({"icons": bodies}))
    return Painter(data.icons(work))


FOX = Scene(("fox",), (None,), "blue", background_named=True, palette=None, medium=None, seed=0)
SCENES = [
    FOX,
    *(replace(FOX, seed=seed, background=where) for seed, where in ((1, "city"), (2, "meadow"))),
    *(replace(FOX, palette=name) for name in GRADES),
    replace(FOX, colours=("green",)),
]


@pytest.mark.parametrize("scene", SCENES)
def test_a_scenes_subject_is_met_wherever_it_lies_and_whatever_its_colours(painter, scene):
    picture = painter.draw(scene)
    right = shape.shape_of(picture, painter.coloured("fox", None))
    assert right > 0.75
    assert right > shape.shape_of(picture, painter.coloured("house", None)) + 0.25


def test_a_subject_that_melts_is_met_less(painter):
    picture = painter.draw(FOX)
    across, down = np.meshgrid(np.arange(256, dtype=np.float32), np.arange(256, dtype=np.float32))
    melted = cv2.remap(picture, across + 6 * np.sin(down / 9), down + 6 * np.sin(across / 9), cv2.INTER_LINEAR)
    icon = painter.coloured("fox", None)
    assert shape.shape_of(melted, icon) < shape.shape_of(picture, icon) - 0.1


def test_sharpness_is_gradient_energy_against_the_real_scene(painter):
    picture = painter.draw(FOX)
    blurred = cv2.GaussianBlur(picture, (0, 0), 3)
    same, softer = shape.sharpness([picture, blurred], [picture, picture])
    assert same == 1
    assert softer < 0.4


def test_error_bars_are_those_of_a_mean():
    values = np.random.default_rng(0).normal(size=400)
    assert shape.error_bar(values) == pytest.approx(1.96 / 20, rel=0.2)
    assert shape.error_bar(values) == shape.error_bar(values)  # no chance


def test_a_blind_reader_may_use_the_captions_words():
    key = [{"subject": name} for name in ("cat", "ufo", "horse")]
    found = blind.count_right(["A kitten", "flying saucer", "dog"], key)
    assert (found["pictures"], found["right"]) == (3, [1, 2])
    assert found["wrong"] == [{"number": 3, "said": "dog", "subject": "horse"}]
    with pytest.raises(ValueError, match="2 names for 3 pictures"):
        blind.count_right(["cat", "ufo"], key)


def test_the_blind_sheet_has_a_place_for_each_picture():
    assert blind.sheet([np.zeros((64, 64, 3), np.uint8)] * 9).size == (8 * 64, 2 * 64)


def test_the_card_quotes_a_blind_readers_mistakes():
    key = [{"subject": "cat"}, {"subject": "ufo"}, {"subject": "fish"}]
    part = blind.card_part(blind.count_right(["cat", "clock", "-"], key))
    assert "named 1 of them right" in part
    assert part.count("ufo") == 1 and '2 (ufo: "clock"), 3 (fish: no name).' in part


def test_dissimilarity_is_none_for_the_same_and_grows_with_blur():
    picture = torch.rand(1, 3, 64, 64, generator=torch.manual_seed(0)) * 2 - 1
    blurs = [torch.nn.functional.avg_pool2d(picture, side, 1, side // 2) for side in (1, 3, 7)]
    found = [float(sharpen.dissimilarity(blur, picture)) for blur in blurs]
    assert abs(found[0]) < 1e-5 and found[1] < found[2] < 1


def test_edge_energy_asks_for_crisp_edges_and_plain_areas():
    step = (torch.arange(64) >= 30).float().expand(1, 3, 64, 64)
    blurred = torch.nn.functional.avg_pool2d(step, 5, 1, 2, count_include_pad=False)
    moved = step.roll(1, -1)
    moved[..., :2] = 0
    rough = step + 0.05 * torch.randn(step.shape, generator=torch.manual_seed(0))
    assert sharpen.edge_energy(step, step) == 0
    assert sharpen.edge_energy(moved, step) < 0.5 * sharpen.edge_energy(blurred, step)
    assert sharpen.edge_energy(rough, step) > sharpen.edge_energy(blurred, step)


def test_unpack_leaves_what_is_there(tmp_path):
    (tmp_path / "lcm").mkdir()
    unpack.run(Settings(tmp_path))
    assert not list((tmp_path / "lcm").iterdir())
    for name in ("vae", "base", "judge", "sd-lcm"):
        assert list((tmp_path / name).rglob("*.safetensors"))
