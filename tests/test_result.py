"""Saved pictures: what a file must look like to be reproduced, and what is refused before anything is loaded."""

import io
import json
import os
import struct
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin
from test_runtime import Dice, studio_with

import lcm_nb
from lcm_nb import png, studio
from lcm_nb.result import MAX_TEXT, read


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> bytes:
    """The file of a picture that a picture was given to."""
    given = Image.effect_noise((64, 64), 90).convert("RGB")
    result = studio_with(Dice()).generate(image=given, seed=7)
    return result.save(tmp_path_factory.mktemp("saved") / "fox.png").read_bytes()


@pytest.fixture
def loads(monkeypatch) -> list:
    """What is loaded: nothing, where a file is refused."""
    loaded = []

    def load(plan, profile, runtime, device, faster, record):
        loaded.append(profile)
        return studio_with(Dice(), plan.section.name)

    monkeypatch.setattr(studio, "_load", load)
    return loaded


def changed(data: bytes, change) -> bytes:
    """Return a saved file with other facts; ``change`` alters them or returns a text in their place."""
    facts = json.loads(next(filter(None, (png.text(*chunk, "lcm_nb", MAX_TEXT) for chunk in png.chunks(data)))))
    text = change(facts)
    parts = [
        (kind, b"lcm_nb\0\0\0\0\0" + (text if isinstance(text, str) else json.dumps(facts)).encode())
        if content.startswith(b"lcm_nb\0")
        else (kind, content)
        for kind, content in png.chunks(data)
    ]
    return png.joined(parts)


def test_a_saved_file_is_read_from_a_path_and_from_bytes(saved, tmp_path):
    path = tmp_path / "fox.png"
    path.write_bytes(saved)
    for source in (path, str(path), saved):
        record = read(source)
        assert record.facts["settings"]["seed"] == 7 and record.source.startswith(png.SIGNATURE)
        assert np.array_equal(record.pixels, np.asarray(Image.open(path)))


def test_it_is_reproduced_with_its_own_picture(saved, tmp_path, loads):
    path = tmp_path / "fox.png"
    path.write_bytes(saved)
    assert lcm_nb.reproduce(path).seeds == [7] and loads == ["mini"]
    assert lcm_nb.reproduce(path, profile="mini").seeds == [7]


def test_saving_again_takes_the_next_name(tmp_path):
    result = studio_with(Dice(), "text-to-image").generate(num_images=2)
    assert result.save(tmp_path / "fox.png").name == "fox-1.png"
    assert result.save(tmp_path / "fox.png").name == "fox-2-1.png"
    assert result.save(tmp_path / "fox.png", overwrite=True).name == "fox-1.png"
    assert len(list(tmp_path.iterdir())) == 4


@pytest.mark.parametrize("path", [None, 7, "", "fox.jpg", "nowhere/fox.png", "a\0.png"])
def test_a_wrong_path_is_refused_before_anything_is_hashed(path, monkeypatch):
    result = studio_with(Dice(), "text-to-image").generate()
    monkeypatch.setattr("lcm_nb.result.checkpoint_hashes", lambda *_: pytest.fail("hashed"))
    with pytest.raises(ValueError, match="give|end in|create"):
        result.save(path)


# -- files that are no such ---------------------------------------------------------------


def with_chunk(data: bytes, kind: bytes, content: bytes) -> bytes:
    first, *rest = png.chunks(data)
    return png.joined([first, (kind, content), *rest])


def sized(data: bytes, width: int, height: int) -> bytes:
    (_, header), *rest = png.chunks(data)
    return png.joined([(b"IHDR", struct.pack(">II", width, height) + header[8:]), *rest])


def without(data: bytes, start: bytes) -> bytes:
    return png.joined([chunk for chunk in png.chunks(data) if not (chunk[0] + chunk[1]).startswith(start)])


def plain(kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (32, 32)).save(buffer, format=kind)
    return buffer.getvalue()


def flip(data: bytes, place: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :]


def bomb(data: bytes) -> bytes:
    """A text of 100 MB in 100 kB."""
    packed = zlib.compress(b"[" * 100_000_000)
    return with_chunk(without(data, b"iTXtlcm_nb"), b"iTXt", b"lcm_nb\0\1\0\0\0" + packed)


BAD_FILES = {
    "text": (lambda d: b"hello", "it is no PNG"),
    "empty": (lambda d: b"", "it is no PNG"),
    "jpeg": (lambda d: plain("jpeg"), "it is no PNG"),
    "postscript": (lambda d: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "it is no PNG"),
    "plain": (lambda d: plain("png"), "carries no lcm_nb settings"),
    "cut": (lambda d: d[: len(d) // 2], "is damaged .it ends too early"),
    "signature alone": (lambda d: d[:8], "is damaged .it ends too early"),
    "flipped bit": (lambda d: flip(d, len(d) // 2), "is damaged .the chunk .* another checksum"),
    "flipped text": (lambda d: flip(d, d.index(b"lcm_nb\0") + 20), "is damaged .the chunk 'iTXt' .* another checksum"),
    "no pixels": (lambda d: without(d, b"IDAT"), "is damaged"),
    "81 megapixels": (lambda d: sized(d, 9000, 9000), "9000 x 9000 pixels; at most 40 megapixels"),
    "bomb": (bomb, "its text has more than 100,000 bytes"),
    "long text": (lambda d: changed(d, lambda f: " " * 200_000), "its text has more than 100,000 bytes"),
    "large": (lambda d: with_chunk(d, b"lcXx", b"x" * 21_000_000), "has 21 MB; at most 20 MB"),
    "half a text": (lambda d: with_chunk(without(d, b"iTXtlcm_nb"), b"iTXt", b"lcm_nb\0\0\0\0\0\xff"), "is damaged"),
}
BAD_FACTS = {
    "no JSON": (lambda f: "{", "no lcm_nb settings that can be read"),
    "deep": (lambda f: "[" * 50_000, "no lcm_nb settings that can be read"),
    "long number": (lambda f: "1" * 50_000, "no lcm_nb settings that can be read"),
    "a list": (lambda f: "[]", "no lcm_nb settings that can be read"),
    "empty": (lambda f: "{}", "no lcm_nb settings that can be read"),
    "section": (lambda f: f.update(section=["x"]), r"section is \['x'\]"),
    "no section": (lambda f: f.update(section="video"), "no section 'video'"),
    "model": (lambda f: f.update(model={}), "model is {}"),
    "no model": (lambda f: f.update(model="x"), "no model 'x'"),
    "profile": (lambda f: f.update(profile=1), "profile is 1"),
    "no profile": (lambda f: f.update(profile=""), "profile ''; there are mini and guide"),
    "settings": (lambda f: f.update(settings=[]), r"settings is \[\]"),
    "checkpoints": (lambda f: f.update(checkpoints={"base": "x"}), "checkpoints is"),
    "commit": (lambda f: f["checkpoints"]["base"].update(revision="../x"), "checkpoints is"),
    "versions": (lambda f: f.update(versions={"torch": 2}), "versions is"),
    "picture": (lambda f: f.update(picture=True), "picture is True"),
    "dtype": (lambda f: f.update(dtype="int8"), "dtype is 'int8'"),
    "measures": (lambda f: f.update(measures="tiny-vae"), "measures is 'tiny-vae'"),
    "picture 3": (lambda f: f.update(picture=3), "picture 4 of 1"),
    "prompt": (lambda f: f["settings"].update(prompt="x" * 50_000), "prompt has 50,000 characters"),
    "steps": (lambda f: f["settings"].update(num_inference_steps=10**6), "cannot be drawn: num_inference_steps is"),
    "not a number": (lambda f: f["settings"].update(guidance_scale=float("nan")), "guidance_scale is nan"),
    "unknown": (lambda f: f["settings"].update(callback="x"), "no setting 'callback'"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_file_that_is_none_is_refused_in_one_sentence(saved, tmp_path, loads, name):
    make, message = BAD_FILES[name]
    refused(make(saved), message, tmp_path, loads)


@pytest.mark.parametrize("name", BAD_FACTS)
def test_wrong_facts_are_refused_in_one_sentence(saved, tmp_path, loads, name):
    change, message = BAD_FACTS[name]
    refused(changed(saved, change), message, tmp_path, loads)


def refused(data: bytes, message: str, folder: Path, loads: list) -> None:
    path = folder / "evil.png"
    path.write_bytes(data)
    start = time.monotonic()
    with pytest.raises(ValueError, match=message) as told:
        lcm_nb.reproduce(path)
    said = str(told.value)
    assert "evil.png" in said or "no section" in said or "no model" in said
    assert len(said) < 500 and "\n" not in said and loads == [] and time.monotonic() - start < 2


def test_what_is_no_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    for source, message in {
        None: "None is no path",
        7: "7 is no path",
        tmp_path: "is a folder",
        tmp_path / "pipe.png": "no ordinary file",
        tmp_path / ("x" * 300): "cannot be read",
        "https://example.org/fox.png": "no file",
    }.items():
        with pytest.raises(ValueError, match=message):
            lcm_nb.reproduce(source)


def test_a_lost_picture_opens_no_file_of_that_name(saved, tmp_path, loads):
    path = tmp_path / "evil.png"
    path.write_bytes(without(changed(saved, lambda f: f["settings"].update(image="/etc/hosts")), b"lcSo"))
    with pytest.raises(ValueError, match="lost the picture that it started from"):
        lcm_nb.reproduce(path)


def test_other_tools_may_have_packed_the_text(saved):
    text = next(filter(None, (png.text(*chunk, "lcm_nb", MAX_TEXT) for chunk in png.chunks(saved))))
    chunks = PngImagePlugin.PngInfo()
    chunks.add_itxt("lcm_nb", text, zip=True)
    buffer = io.BytesIO()
    Image.new("RGB", (32, 32)).save(buffer, format="png", pnginfo=chunks)
    assert read(buffer.getvalue()).facts == json.loads(text)


# -- the guide profile --------------------------------------------------------------------


def test_a_picture_of_the_guide_downloads_nothing_unasked(saved, tmp_path, loads, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "none"))
    path = tmp_path / "fox.png"
    path.write_bytes(changed(saved, lambda f: f.update(profile="guide")))
    with pytest.raises(ValueError, match=r"not on this computer .*dreamshaper.* GB\); .*profile='guide'\) downloads"):
        lcm_nb.reproduce(path)
    with pytest.raises(ValueError, match="made with the guide profile; give profile='guide'"):
        lcm_nb.reproduce(path, profile="mini")
    assert loads == []
    assert lcm_nb.reproduce(path, profile="guide").seeds == [7] and loads == ["guide"]


def test_what_is_in_the_cache_is_used_unasked(saved, tmp_path, loads, monkeypatch):
    monkeypatch.setattr(studio, "cached", lambda source: True)
    path = tmp_path / "fox.png"
    path.write_bytes(changed(saved, lambda f: f.update(profile="guide")))
    assert lcm_nb.reproduce(path).seeds == [7] and loads == ["guide"]
