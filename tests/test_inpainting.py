"""Inpainting: what stays stays, what is drawn anew is the prompt's, and what is wrong with a mask is said."""

import json
from functools import cache

import numpy as np
import pytest
import torch
from inside import example_mask
from PIL import Image, ImageDraw

import lcm_nb
from lcm_nb.models.judge import load as load_judge

SIZE = (256, 256)
CELL = 16  # pixels of a latent of the mini family
BOX = (64, 48, 191, 223)  # cells' edges


@cache
def studio(model: str = "lcm-dreamshaper-v7"):
    return lcm_nb.load("inpainting", model=model)


def masked(size=SIZE, box=BOX) -> Image.Image:
    mask = Image.new("L", size, 0)
    ImageDraw.Draw(mask).rectangle(box, fill=255)
    return mask


def through_the_autoencoder(picture: Image.Image) -> np.ndarray:
    """What the model makes of a picture that it only encodes and decodes."""
    pipe = studio().pipe
    with torch.no_grad():
        latents = pipe.vae.encode(pipe.image_processor.preprocess(picture)).latents
    return np.asarray(studio().runtime.decode(latents)).astype(int)


def test_the_mini_family_draws_with_its_own_model_and_the_guide_with_the_guides():
    assert lcm_nb.checkpoints("inpainting").model == "lcm-dreamshaper-v7"
    assert lcm_nb.checkpoints("inpainting", "guide").model == "lcm-lora-sd-inpainting"
    with pytest.raises(ValueError, match="no 'lcm-lora-sd-inpainting'; use profile='guide'"):
        lcm_nb.load("inpainting", model="lcm-lora-sd-inpainting")


def test_the_weights_take_what_they_took_before():
    assert studio().pipe.unet.config.in_channels == 4  # what the pipeline asks for
    assert studio().pipe.unet.conv_in.in_channels == studio().pipe.vae.config.latent_channels == 8


@pytest.mark.parametrize("steps", [1, 4])
def test_far_from_the_mask_the_picture_is_what_the_autoencoder_makes_of_it(steps):
    picture = lcm_nb.example_image("inpainting")
    drawn = np.asarray(studio().generate(mask_image=masked(), num_inference_steps=steps).image).astype(int)
    change = np.abs(drawn - through_the_autoencoder(picture)).max(axis=2)
    left, top, right, bottom = BOX
    reach = 4 * CELL  # of the decoder's convolutions
    inner = change[top : bottom + 1, left : right + 1].copy()
    change[max(top - reach, 0) : bottom + 1 + reach, max(left - reach, 0) : right + 1 + reach] = 0
    assert change.max() <= 1  # of 255
    assert inner.mean() > 10


def test_beside_the_mask_hardly_anything_changes():
    picture = lcm_nb.example_image("inpainting")
    drawn = np.asarray(studio().generate(mask_image=masked()).image).astype(int)
    change = np.abs(drawn - through_the_autoencoder(picture)).mean(axis=2)
    outside = np.asarray(masked()) == 0
    assert change[outside].mean() < 5  # the decoder looks over the edge
    assert change[~outside].mean() > 20


def test_what_is_drawn_anew_is_the_prompts():
    judge = load_judge()
    before = judge.describe(lcm_nb.example_image("inpainting"))["subjects"]
    after = [judge.describe(studio().generate(prompt="a castle on a beach", seed=s).image)["subjects"] for s in (0, 1)]
    assert before == ["robot"] and after == [["castle"]] * 2


def test_the_lcm_lora_draws_into_pictures_too():
    picture = lcm_nb.example_image("inpainting")
    result = studio("lcm-lora-sdv1-5").generate(prompt="a castle on a beach", guidance_scale=1.5)
    assert load_judge().describe(result.image)["subjects"] == ["castle"]
    assert result.input_image != picture


def test_a_mask_is_fitted_as_its_picture_is():
    picture = lcm_nb.example_image("inpainting").resize((600, 400))
    mask = masked(picture.size, (150, 100, 299, 399))
    with pytest.warns(UserWarning, match="fitted from 600 x 400 to"):
        result = studio().generate(image=picture, mask_image=mask, num_inference_steps=1)
    assert result.mask.size == result.source.size == result.image.size
    hole = np.asarray(result.mask) > 0
    assert hole.mean() == pytest.approx(np.asarray(mask).mean() / 255, abs=0.03)
    assert (np.asarray(result.input_image)[hole] == 127).all()
    assert (np.asarray(result.input_image)[~hole] == np.asarray(result.source)[~hole]).all()


def test_grey_counts_by_its_lightness_and_colour_as_grey():
    dim = masked().point(lambda value: 100 + value // 5)  # 100 and 151
    same = [studio().generate(mask_image=m, num_inference_steps=1).image for m in (masked(), dim, dim.convert("RGB"))]
    assert len({image.tobytes() for image in same}) == 1


PICTURE = Image.effect_noise(SIZE, 90).convert("RGB")
WRONG = {
    "another size": (dict(image=PICTURE, mask_image=masked((128, 128))), "128 x 128 pixels, and image has 256 x 256"),
    "empty": (dict(image=PICTURE, mask_image=Image.new("L", SIZE, 0)), "mask_image marks nothing; paint white"),
    "a dot": (dict(image=PICTURE, mask_image=masked(box=(3, 3, 9, 9))), "marks too little; .* at least 32 pixels wide"),
    "full": (
        dict(image=PICTURE, mask_image=Image.new("L", SIZE, 255)),
        "marks the whole picture: nothing .* would stay",
    ),
    "no mask": (dict(image=PICTURE), "mask_image is left out, and image is <PIL.*; give the picture's own mask"),
    "no picture": (dict(image=None, mask_image=masked()), "None is no picture; give a path"),
    "None": (dict(image=PICTURE, mask_image=None), "None is no picture; give a path"),
    "a mask for the example": (dict(mask_image=masked((100, 100))), "100 x 100 pixels, and image has 256 x 256"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_with_a_mask_is_said_before_anything_is_drawn(name, monkeypatch):
    settings, message = WRONG[name]
    monkeypatch.setattr(studio().runtime, "draw", lambda *_: pytest.fail("drawn"))
    with pytest.raises(ValueError, match=message):
        studio().generate(**settings)


def test_a_section_without_a_mask_says_which_have_one():
    with pytest.raises(ValueError, match="'controlnet' takes no mask; these sections do: inpainting"):
        example_mask("controlnet", "mini")


def test_a_saved_picture_brings_its_mask(tmp_path):
    private = tmp_path / "private"
    private.mkdir()
    PICTURE.save(private / "me.png")
    masked().save(private / "hole.png")
    given = dict(image=private / "me.png", mask_image=private / "hole.png", num_inference_steps=2)
    result = studio().generate(**given)
    path = result.save(tmp_path / "picture.png")
    for file in private.iterdir():
        file.unlink()
    assert b"private" not in path.read_bytes()
    assert lcm_nb.reproduce(path).image.tobytes() == result.image.tobytes()
    with Image.open(path) as image:
        assert json.loads(image.text["lcm_nb"])["settings"]["mask_image"] == "hole.png"


def test_a_saved_picture_without_its_mask_is_refused(tmp_path):
    from lcm_nb import png

    result = studio().generate(image=PICTURE, mask_image=masked(), num_inference_steps=1)
    path = result.save(tmp_path / "picture.png")
    chunks = [chunk for chunk in png.chunks(path.read_bytes()) if chunk[0] != b"lcMa"]
    path.write_bytes(png.joined(chunks))
    with pytest.raises(ValueError, match="has lost the picture that it started from"):
        lcm_nb.reproduce(path)


def test_code_with_a_picture_and_a_mask_of_ones_own_draws_the_same(tmp_path):
    PICTURE.resize((300, 280)).save(tmp_path / "me.png")
    masked((300, 280)).save(tmp_path / "hole.png")
    settings, names = dict(image=tmp_path / "me.png", mask_image=tmp_path / "hole.png", num_inference_steps=2), {}
    exec(studio().code(settings), names)
    with pytest.warns(UserWarning, match="fitted from 300 x 280"):
        result = studio().generate(**settings)
    assert names["image"].tobytes() == result.image.tobytes()
