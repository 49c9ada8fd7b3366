"""The guide's other sections: the same pixels as its code, steps that always run, and scales that leave no trace."""

import dataclasses
import json
from functools import cache

import cv2
import numpy as np
import pytest
import torch
from diffusers import (
    AutoPipelineForImage2Image,
    AutoPipelineForInpainting,
    ControlNetModel,
    LCMScheduler,
    StableDiffusionControlNetPipeline,
    StableDiffusionXLAdapterPipeline,
    StableDiffusionXLPipeline,
    T2IAdapter,
    UNet2DConditionModel,
)
from inside import ROOMS, SECTIONS, example_mask, load_pipeline, planned_timesteps, section_for
from PIL import Image

import lcm_nb

OTHERS = [section for section in SECTIONS if section != "text-to-image"]
PICTURES = ["image-to-image", "controlnet", "t2i-adapter"]
each_section = pytest.mark.parametrize("section", OTHERS)


@cache
def studio_of(section: str):
    """The section's studio, loaded once."""
    return lcm_nb.load(section)


def same(first: Image.Image, second: Image.Image) -> bool:
    return np.array_equal(np.asarray(first), np.asarray(second))


def guide_canny(image: Image.Image) -> Image.Image:
    """The guide's own map."""
    edges = cv2.Canny(np.array(image), 100, 200)[:, :, None]
    return Image.fromarray(np.concatenate([edges, edges, edges], axis=2))


# -- the guide's code blocks, with other names, dtype and device: what loads, and what draws


def load_image_to_image(names):
    unet = UNet2DConditionModel.from_pretrained(names.unet, subfolder="unet", **names.loading["unet"])
    return AutoPipelineForImage2Image.from_pretrained(names.base, unet=unet, **names.loading["base"])


def draw_image_to_image(pipe):
    prompt = "Astronauts in a jungle, cold color palette, muted colors, detailed, 8k"
    init_image = lcm_nb.example_image("image-to-image")
    generator = torch.manual_seed(0)
    return pipe(
        prompt, image=init_image, num_inference_steps=4, guidance_scale=7.5, strength=0.5, generator=generator
    ).images[0]


def load_style_lora(names):
    unet = UNet2DConditionModel.from_pretrained(names.unet, **names.loading["unet"])
    pipe = StableDiffusionXLPipeline.from_pretrained(names.base, unet=unet, **names.loading["base"])
    pipe.load_lora_weights(names.loras, weight_name="papercut.safetensors", adapter_name="papercut")
    return pipe


def draw_style_lora(pipe):
    generator = torch.manual_seed(0)
    return pipe(prompt="papercut, a cute fox", num_inference_steps=4, generator=generator, guidance_scale=8.0).images[0]


def load_controlnet(names):
    controlnet = ControlNetModel.from_pretrained(names.controlnet, **names.loading["controlnet"])
    return StableDiffusionControlNetPipeline.from_pretrained(
        names.base, controlnet=controlnet, safety_checker=None, **names.loading["base"]
    )


def draw_controlnet(pipe):
    canny_image = guide_canny(lcm_nb.example_image("controlnet"))
    generator = torch.manual_seed(0)
    return pipe("the mona lisa", image=canny_image, num_inference_steps=4, generator=generator).images[0]


def load_t2i_adapter(names):
    adapter = T2IAdapter.from_pretrained(names.adapter, **names.loading["adapter"])
    unet = UNet2DConditionModel.from_pretrained(names.unet, **names.loading["unet"])
    return StableDiffusionXLAdapterPipeline.from_pretrained(
        names.base, unet=unet, adapter=adapter, **names.loading["base"]
    )


def draw_t2i_adapter(pipe):
    image = lcm_nb.example_image("t2i-adapter")
    assert image.width % 16 == image.height % 16 == 0  # as the adapter needs it: nothing is to be fitted
    return pipe(
        prompt="Mystical fairy in real, magic, 4k picture, high quality",
        negative_prompt="extra digit, fewer digits, cropped, worst quality, low quality, glitch, deformed, mutated, "
        "ugly, disfigured",
        image=guide_canny(image),
        num_inference_steps=4,
        guidance_scale=5,
        adapter_conditioning_scale=0.8,
        adapter_conditioning_factor=1,
        generator=torch.manual_seed(0),
    ).images[0]


def load_inpainting(names):
    unet = UNet2DConditionModel.from_pretrained(names.unet, subfolder="unet", **names.loading["unet"])
    pipe = AutoPipelineForInpainting.from_pretrained(names.base, unet=unet, **names.loading["base"])
    pipe.unet.register_to_config(in_channels=4)  # the one line that the guide has not
    return pipe


def draw_inpainting(pipe):
    return pipe(
        prompt="concept art digital painting of an elven castle, inspired by lord of the rings, highly detailed, 8k",
        image=lcm_nb.example_image("inpainting"),
        mask_image=example_mask("inpainting"),
        generator=torch.manual_seed(0),
        num_inference_steps=4,
        guidance_scale=4,
    ).images[0]


GUIDE = {
    "inpainting": (load_inpainting, draw_inpainting),
    "image-to-image": (load_image_to_image, draw_image_to_image),
    "style-lora": (load_style_lora, draw_style_lora),
    "controlnet": (load_controlnet, draw_controlnet),
    "t2i-adapter": (load_t2i_adapter, draw_t2i_adapter),
}


@cache
def guide(section: str) -> Image.Image:
    """The picture of the guide's own code, drawn once."""
    load, draw = GUIDE[section]
    names = lcm_nb.checkpoints(section)
    pipe = load(names).to(names.device)
    pipe.scheduler = LCMScheduler.from_config(pipe.scheduler.config)
    return draw(pipe)


@each_section
def test_nothing_is_warned_of(section, recwarn, caplog, capfd):
    lcm_nb.load(section).generate()
    assert [str(warning.message) for warning in recwarn] == []
    assert [record.getMessage() for record in caplog.records] == []
    assert capfd.readouterr().err == ""


@each_section
def test_what_is_left_out_is_the_guides_call(section):
    assert same(studio_of(section).generate().image, guide(section))


CHANGES = {
    "inpainting": dict(prompt="a cat", num_inference_steps=5, strength=0.8, guidance_scale=8.0, seed=3),
    "image-to-image": dict(prompt="a cat", num_inference_steps=5, strength=0.8, seed=3),
    "style-lora": dict(prompt="neon, a cat", papercut=0.0, neon=0.8, seed=3),
    "controlnet": dict(prompt="a cat", low_threshold=50, controlnet_conditioning_scale=0.4, seed=3),
    "t2i-adapter": dict(prompt="a cat", adapter_conditioning_scale=0.4, adapter_conditioning_factor=0.5, seed=3),
}


@each_section
@pytest.mark.parametrize("changed", [False, True])
def test_the_code_of_a_picture_makes_that_picture(section, changed):
    settings, names = CHANGES[section] if changed else {}, {}
    exec(studio_of(section).code(settings), names)
    assert same(names["image"], studio_of(section).generate(**settings).image)


@pytest.mark.parametrize(
    ("section", "change"), [(section, {name: value}) for section in OTHERS for name, value in CHANGES[section].items()]
)
def test_every_setting_changes_the_picture(section, change):
    assert not same(studio_of(section).generate(**change).image, guide(section))


# -- pictures that a run starts from ----------------------------------------------------


@pytest.mark.parametrize("section", PICTURES)
@pytest.mark.parametrize("size", [(300, 200), (97, 230)])
def test_a_picture_of_any_shape_is_fitted_and_said(section, size):
    picture = Image.effect_noise(size, 90).convert("RGB")
    with pytest.warns(UserWarning, match=f"fitted from {size[0]} x {size[1]} to .* not stretched"):
        result = studio_of(section).generate(image=picture, num_inference_steps=2)
    assert result.image.size == result.source.size == result.input_image.size
    assert (result.image.width > result.image.height) == (size[0] > size[1])


@pytest.mark.parametrize("section", PICTURES)
def test_a_saved_picture_brings_the_one_it_started_from(section, tmp_path):
    picture = tmp_path / "private" / "me.png"
    picture.parent.mkdir()
    Image.effect_noise((256, 256), 90).convert("RGB").save(picture)
    result = studio_of(section).generate(image=picture, num_inference_steps=2)
    path = result.save(tmp_path / "picture.png")
    picture.unlink()
    assert b"private" not in path.read_bytes()
    assert same(lcm_nb.reproduce(path).image, result.image)
    with Image.open(path) as image:
        assert json.loads(image.text["lcm_nb"])["settings"]["image"] == "me.png"


# -- never zero steps -------------------------------------------------------------------


@pytest.mark.parametrize(("steps", "strength"), [(4, 0.2), (1, 0.8)])
def test_a_run_without_a_step_is_refused_with_the_remedy(steps, strength):
    with pytest.raises(ValueError, match=r"run no UNet step; use a strength of at least .*, or \d+ steps"):
        studio_of("image-to-image").generate(num_inference_steps=steps, strength=strength)


@pytest.mark.parametrize(("steps", "strength"), [(4, 0.5), (4, 1.0), (8, 0.3), (3, 0.34), (1, 1.0), (50, 0.1)])
def test_the_timesteps_that_were_planned_run(steps, strength):
    result = studio_of("image-to-image").generate(num_inference_steps=steps, strength=strength)
    assert result.timesteps == planned_timesteps(result.settings)
    assert len(result.timesteps) == int(steps * strength)


# -- no trace after an error or a cancel ------------------------------------------------


class Enough(Exception):
    """What stops a run below."""


@each_section
def test_an_exception_stops_within_one_step_and_leaves_no_trace(section):
    studio, told = studio_of(section), []
    studio.generate()  # as a reader has, before the run that is stopped

    def on_step(step):
        told.append(step.number)
        raise Enough

    with pytest.raises(Enough):
        studio.generate(**CHANGES[section], on_step=on_step)
    assert told == [1]
    assert same(GUIDE[section][1](studio.pipe), guide(section))  # the pipeline itself is as it was
    assert same(studio.generate().image, guide(section))


@each_section
def test_every_step_is_told_with_a_preview(section):
    studio, seen = studio_of(section), []
    result = studio.generate(on_step=seen.append)
    count = len(result.timesteps)
    assert [(step.number, step.total) for step in seen] == [(i + 1, count) for i in range(count)]
    assert same(studio.runtime.decode(seen[-1].denoised), result.image)
    assert seen[-1].preview().size == result.image.size


# -- LoRAs ------------------------------------------------------------------------------


def test_scale_0_is_the_text_to_image_section(studio):
    plain = studio.generate(prompt="a cute fox")
    assert same(studio_of("style-lora").generate(prompt="a cute fox", papercut=0.0).image, plain.image)


def test_two_loras_act_together():
    studio = studio_of("style-lora")
    pictures = [studio.generate(papercut=p, neon=n).image for p, n in ((0.5, 0.5), (0.5, 0.0), (0.0, 0.5))]
    assert not any(same(pictures[0], other) for other in pictures[1:])


# -- panels -----------------------------------------------------------------------------


@each_section
def test_the_panel_draws_what_the_studio_draws(section):
    studio = studio_of(section)
    panel = studio.panel()
    panel.controls["live"].value = False
    for name, value in CHANGES[section].items():
        panel.controls[name].value = value
    panel.run()
    assert same(panel.wait(300).image, studio.generate(**CHANGES[section]).image)


def test_the_panel_says_what_will_run_and_never_runs_nothing():
    panel = studio_of("image-to-image").panel()
    panel.controls["live"].value = False
    assert panel.intent == "will run 2 UNet steps at timesteps 499, 259"
    panel.controls["strength"].value = 0.2
    assert panel.intent.startswith("will run 1 UNet step at timestep 259 (strength raised to 0.25")
    panel.run()
    assert panel.wait(300).settings["strength"] == 0.25


# -- what was loaded is what was asked for ------------------------------------------------


def test_a_dtype_that_diffusers_ignores_is_noticed(monkeypatch):
    section = section_for("text-to-image")
    names = dataclasses.replace(lcm_nb.checkpoints("text-to-image"), dtype=torch.bfloat16)
    load_pipeline(section, names)
    monkeypatch.setattr(f"{ROOMS['DTYPE_ARGUMENT']}.DTYPE_ARGUMENT", "dtyp")  # as 0.39 does not know "dtype"
    with pytest.raises(
        RuntimeError, match=r"unet came as torch.float16, torch.float32 instead of torch.bfloat16: this diffusers"
    ):
        load_pipeline(section, names)


# -- maps that are given ------------------------------------------------------------------


@pytest.mark.parametrize("section", ["controlnet", "t2i-adapter"])
def test_a_map_that_is_given_stays_as_it_is(section):
    given = guide_canny(lcm_nb.example_image(section))
    result = studio_of(section).generate(image=given, detect_edges=False, seed=2)
    assert same(result.input_image, given)
    assert same(result.image, studio_of(section).generate(seed=2).image)  # the studio finds the same edges


@pytest.mark.parametrize("value", ["yes", 2, None])
def test_a_switch_takes_true_and_false(value):
    with pytest.raises(ValueError, match=r"detect_edges is .*; give True or False"):
        studio_of("controlnet").generate(detect_edges=value)


# -- memory that runs out -----------------------------------------------------------------


def test_after_memory_ran_out_in_the_decoding_the_next_picture_is_right(monkeypatch):
    """SDXL's pipelines turn the VAE into float32 to decode, and only afterwards back."""
    studio = studio_of("style-lora")
    vae = studio.pipe.vae

    def decode(*arguments, **options):
        vae.to(torch.float64)
        raise torch.OutOfMemoryError("CUDA out of memory.")

    with monkeypatch.context() as patch, pytest.raises(MemoryError, match="GPU's memory does not suffice. Close other"):
        patch.setattr(vae, "decode", decode)
        studio.generate()
    assert same(studio.generate().image, guide("style-lora"))
