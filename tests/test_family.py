"""The family that ships is checked against its list of hashes: once a load, and by the doctor."""

import shutil
import time

import pytest
from inside import MINI

import lcm_nb
from lcm_nb import cli
from lcm_nb.models import hashes
from lcm_nb.models.checkpoints import mini_checkpoints
from lcm_nb.models.plans import PLANS

PARTS = ("base", "lcm")


@pytest.fixture
def family(tmp_path):
    """A copy of two parts of the family, with its list."""
    folder = tmp_path / "mini"
    for part in PARTS:
        shutil.copytree(MINI / part, folder / part)
    hashes.write_hashes(folder)
    return folder


def test_the_list_that_ships_is_that_of_the_files():
    """After a change of the family: ``python -m lcm_nb.models.hashes``."""
    listed = set(hashes.listed(MINI))
    there = {file.relative_to(MINI).as_posix() for file in MINI.rglob("*") if file.is_file() and file.parent != MINI}
    assert listed == there
    assert hashes.family_problem() == ""


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (
            lambda f: flip(f / "lcm/diffusion_pytorch_model.safetensors"),
            "lcm/diffusion.* is damaged .*install",
        ),
        (
            lambda f: (f / "base/tokenizer/tokenizer.json").unlink(),
            "json .* cannot be read .No such.*install",
        ),
        (lambda f: (f / hashes.LIST).write_text("{"), "are incomplete .*install lcm_nb again: `pip install"),
        (lambda f: shutil.rmtree(f), "are incomplete .*install lcm_nb again: `pip install"),
    ],
    ids=["a flipped bit", "no tokenizer", "half a list", "no folder"],
)
def test_harm_is_told_with_the_remedy_and_seen_although_all_was_well_before(family, harm, message):
    assert hashes.family_problem(family) == ""
    harm(family)
    with pytest.raises(OSError, match=message) as told:
        hashes.check_family([family / part for part in PARTS], family)
    assert hashes.family_problem(family) == str(told.value)


def test_only_what_is_loaded_is_checked(family):
    flip(family / "lcm/diffusion_pytorch_model.safetensors")
    hashes.check_family([family / "base"], family)


def test_load_and_doctor_say_it(family, monkeypatch, capsys):
    listed = hashes.listed(MINI) | {"lcm/config.json": "0" * 64}
    monkeypatch.setattr(hashes, "listed", lambda folder: listed)
    with pytest.raises(OSError, match="lcm/config.json of the small models is damaged"):
        lcm_nb.load("text-to-image", profile="mini")
    cli.main(["doctor", "text-to-image"])
    assert "problem   lcm/config.json of the small models is damaged" in capsys.readouterr().out


def test_a_second_check_reads_nothing(monkeypatch):
    parts = mini_checkpoints(PLANS["text-to-image"]["lcm-sdxl"], "cpu").parts.values()
    hashes.check_family(parts)
    monkeypatch.setattr("builtins.open", lambda *_, **__: pytest.fail("opened"))
    start = time.perf_counter()
    hashes.check_family(parts)
    assert time.perf_counter() - start < 0.1
