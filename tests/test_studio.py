"""The studio against the guide's own code, and every way in which a run can go wrong."""

import io
import json
import platform
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, LCMScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
from inside import MINI
from PIL import Image, PngImagePlugin
from safetensors import safe_open
from sd_parsers import ParserManager

import lcm_nb

SECTION = "text-to-image"
PROMPT = "Self-portrait oil painting, a beautiful cyborg with golden hair, 8k"
TIMESTEPS = {  # the-guide.md, measured on diffusers 0.42.1
    1: [999],
    2: [999, 499],
    4: [999, 759, 499, 259],
    8: [999, 879, 759, 639, 499, 379, 259, 139],
}


def same(first: Image.Image, second: Image.Image) -> bool:
    """Whether two pictures are equal bit for bit."""
    return np.array_equal(np.asarray(first), np.asarray(second))


def alike(first: Image.Image, second: Image.Image) -> float:
    """The correlation of two pictures seen from afar, at 16 x 16 pixels."""
    small = [np.asarray(image.resize((16, 16)), dtype=float).ravel() for image in (first, second)]
    return float(np.corrcoef(*small)[0, 1])


@pytest.fixture(scope="module")
def guide():
    """The guide's own pipeline, loaded as its text-to-image section loads it."""
    names = lcm_nb.checkpoints(SECTION)
    unet = UNet2DConditionModel.from_pretrained(names.unet, **names.loading["unet"])
    pipe = StableDiffusionXLPipeline.from_pretrained(names.base, unet=unet, **names.loading["base"]).to(names.device)
    pipe.scheduler = LCMScheduler.from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def draw(pipe, seed: int, **arguments) -> Image.Image:
    """The guide's call."""
    return pipe(**arguments, generator=torch.manual_seed(seed)).images[0]


# -- same pixels -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prompt", "steps", "scale", "seed"),
    [(PROMPT, 4, 8.0, 0), ("a cute fox in the snow", 1, 1.0, 3), ("the mona lisa", 2, 13.5, 2**32 - 1)],
)
def test_generate_equals_the_guides_code(studio, guide, prompt, steps, scale, seed):
    plain = draw(guide, seed, prompt=prompt, num_inference_steps=steps, guidance_scale=scale)
    result = studio.generate(prompt=prompt, num_inference_steps=steps, guidance_scale=scale, seed=seed)
    assert same(result.image, plain)


def test_watching_the_steps_changes_no_pixel(studio, guide):
    plain = draw(guide, 5, prompt="a cat", num_inference_steps=3, guidance_scale=6.0)
    watched = studio.generate(
        prompt="a cat", num_inference_steps=3, guidance_scale=6.0, seed=5, on_step=lambda step: step.preview()
    )
    assert same(watched.image, plain)


def test_what_is_left_out_is_the_guides_call(studio, guide):
    result = studio.generate()
    assert result.settings == {
        "prompt": PROMPT,
        "num_inference_steps": 4,
        "guidance_scale": 8.0,
        "num_images": 1,
        "seed": 0,
    }
    assert same(result.image, draw(guide, 0, prompt=PROMPT, num_inference_steps=4, guidance_scale=8.0))


def test_the_code_of_a_picture_makes_that_picture(studio):
    settings = {"prompt": 'it\'s "quoted" \\ and\nbroken', "num_inference_steps": 2, "guidance_scale": 3.5, "seed": 11}
    names, code = {}, studio.code(settings)
    exec(code, names)
    assert "guidance_scale=3.5," in code  # untrained weights would draw the same without it
    assert same(names["image"], studio.generate(**settings).image)


def test_prompt_steps_and_seed_change_the_picture(studio):
    first = studio.generate(num_inference_steps=2).image
    for change in ({"prompt": "a rocket"}, {"num_inference_steps": 3}, {"seed": 1}):
        assert not same(studio.generate(**{"num_inference_steps": 2} | change).image, first), change


@pytest.mark.parametrize("scale", [1.0, 8.0])
def test_guidance_reaches_the_unet_as_an_embedding_of_one_picture(studio, scale):
    seen = []
    hook = studio.pipe.unet.register_forward_hook(
        lambda module, arguments, options, output: seen.append((len(arguments[0]), options["timestep_cond"].cpu())),
        with_kwargs=True,
    )
    with hook:
        studio.generate(num_inference_steps=2, guidance_scale=scale)
    width = studio.pipe.unet.config.time_cond_proj_dim
    embedding = studio.pipe.get_guidance_scale_embedding(torch.tensor([scale - 1]), width)
    for count, given in seen:
        assert count == 1  # the batch is not doubled: guidance costs nothing
        assert torch.equal(given, embedding.to(given.dtype))
    assert len(seen) == 2


@pytest.mark.parametrize("steps", TIMESTEPS)
def test_timesteps_are_those_of_the_lcm_schedule(studio, steps):
    assert studio.generate(num_inference_steps=steps).timesteps == TIMESTEPS[steps]


def test_a_negative_prompt_changes_nothing(studio):
    plain = draw(studio.pipe, 0, prompt=PROMPT, num_inference_steps=2, guidance_scale=8.0)
    negative = draw(
        studio.pipe, 0, prompt=PROMPT, num_inference_steps=2, guidance_scale=8.0, negative_prompt="golden hair"
    )
    assert same(plain, negative)


# -- what a result is ------------------------------------------------------------------


def test_a_result_says_what_was_made(studio):
    result = studio.generate(num_inference_steps=1)
    side = studio.pipe.unet.config.sample_size * studio.pipe.vae_scale_factor
    assert result.image.size == (side, side)
    assert result.images == [result.image]
    assert result.section == SECTION
    assert result.seconds > 0
    assert result._repr_png_().startswith(b"\x89PNG")


# -- refusals --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 4}, r"no setting 'steps'.*num_inference_steps"),
        ({"negative_prompt": "ugly"}, r"no setting 'negative_prompt'"),
        ({"num_inference_steps": 0}, r"num_inference_steps is 0; give a whole number from 1 to 50"),
        ({"num_inference_steps": 51}, r"num_inference_steps is 51; give a whole number from 1 to 50"),
        ({"num_inference_steps": 2.5}, r"num_inference_steps is 2.5; give a whole number from 1 to 50"),
        ({"guidance_scale": 20}, r"guidance_scale is 20; give a number from 1 to 14"),
        ({"guidance_scale": "8"}, r"guidance_scale is '8'; give a number from 1 to 14"),
        ({"seed": -1}, r"seed is -1; give a whole number from 0 to 4294967295"),
        ({"prompt": ""}, r"prompt is ''; give a text"),
        ({"prompt": ["a cat"]}, r"prompt is \['a cat'\]; give a text"),
    ],
)
def test_wrong_settings_are_refused_before_anything_runs(studio, settings, message):
    steps = []
    with pytest.raises(ValueError, match=message):
        studio.generate(on_step=steps.append, **settings)
    assert steps == []
    with pytest.raises(ValueError, match=message):
        studio.code(settings)


def test_a_sweep_checks_every_value_before_it_draws_one(studio, monkeypatch):
    drawn = []
    monkeypatch.setattr(studio, "generate", lambda **settings: drawn.append(settings))
    with pytest.raises(ValueError, match="num_inference_steps is 60"):
        studio.sweep(num_inference_steps=[1, 2, 60])
    assert drawn == []


def test_unknown_section_profile_and_device_are_refused(monkeypatch):
    with pytest.raises(ValueError, match="no section 'video'.*text-to-image"):
        lcm_nb.load("video")
    with pytest.raises(ValueError, match="profile is 'large'; use 'mini'.*'guide'"):
        lcm_nb.load(SECTION, profile="large")
    with pytest.raises(ValueError, match="device 'teapot' is not available here; use"):
        lcm_nb.load(SECTION, device="teapot")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_cuda_is_refused_where_there_is_none():
    with pytest.raises(ValueError, match="device 'cuda' is not available here; use 'cpu'"):
        lcm_nb.load(SECTION, device="cuda")


# -- profiles --------------------------------------------------------------------------


def test_the_environment_names_the_profile(monkeypatch):
    monkeypatch.setenv("LCM_NB_PROFILE", "guide")
    names = lcm_nb.checkpoints(SECTION)
    assert (names.profile, names.unet) == ("guide", "latent-consistency/lcm-sdxl")
    assert names.loading["unet"]["variant"] == "fp16"
    assert lcm_nb.checkpoints(SECTION, profile="mini").profile == "mini"


def test_without_a_word_the_profile_follows_the_machine(monkeypatch):
    monkeypatch.delenv("LCM_NB_PROFILE")
    for there, profile in ((True, "guide"), (False, "mini")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        assert lcm_nb.checkpoints(SECTION, device="cpu").profile == profile


def test_a_wrong_profile_in_the_environment_is_refused(monkeypatch):
    monkeypatch.setenv("LCM_NB_PROFILE", "tiny")
    with pytest.raises(ValueError, match="environment variable LCM_NB_PROFILE is 'tiny'; use 'mini'"):
        lcm_nb.load(SECTION)


def test_the_mini_profile_says_which_models_it_has_not():
    with pytest.raises(ValueError, match="mini profile has no 'lcm-lora-sdxl'; use profile='guide'"):
        lcm_nb.load(SECTION, model="lcm-lora-sdxl")


def test_with_the_mini_lcm_lora_guidance_is_classifier_free():
    """Above 1 the UNet gets two latents a step, and a negative prompt acts; at 1 neither."""
    studio, batches = lcm_nb.load(SECTION, "mini", model="lcm-lora-sdv1-5"), []
    studio.pipe.unet.register_forward_pre_hook(lambda unet, arguments: batches.append(len(arguments[0])))
    given = dict(prompt="a cute fox", num_inference_steps=2, seed=3)
    plain = [studio.generate(guidance_scale=g, **given).image.tobytes() for g in (1.0, 1.5)]
    told = [studio.generate(guidance_scale=g, negative_prompt="meadow", **given).image.tobytes() for g in (1.0, 1.5)]
    assert batches == [1, 1, 2, 2, 1, 1, 2, 2]
    assert plain[0] == told[0] and plain[1] != told[1]
    assert "load_lora_weights" in studio.code(given)


# -- steps, previews, stopping ---------------------------------------------------------


def test_every_step_is_told_once_with_a_preview(studio):
    told, previews, decoded = [], [], []

    def on_step(step):
        told.append((step.number, step.total, step.timestep))
        previews.append(step.preview())
        decoded.append(studio.runtime.decode(step.denoised))

    result = studio.generate(num_inference_steps=4, on_step=on_step)
    assert told == [(1, 4, 999), (2, 4, 759), (3, 4, 499), (4, 4, 259)]
    assert [preview.size for preview in previews] == [result.image.size] * 4
    assert not same(previews[0], previews[1])
    assert same(decoded[-1], result.image)  # after the last step nothing is left to predict
    assert alike(previews[-1], result.image) > 0.9 > alike(previews[-1], studio.generate(prompt="a rocket").image)


class Enough(Exception):
    """What the tests below raise to stop a run."""


@pytest.mark.parametrize("last", [1, 3])
def test_an_exception_stops_within_one_step_and_leaves_no_trace(studio, last):
    fresh = studio.generate(seed=8).image
    forwards = []
    hook = studio.pipe.unet.register_forward_hook(lambda *_: forwards.append(1))

    def on_step(step):
        if step.number == last:
            raise Enough

    with hook, pytest.raises(Enough):
        studio.generate(num_inference_steps=8, on_step=on_step)
    assert len(forwards) == last
    assert type(studio.pipe.scheduler) is LCMScheduler  # what watched the run is gone
    assert same(studio.generate(seed=8).image, fresh)


def test_threads_that_share_a_studio_get_the_right_pictures(studio):
    seeds = [0, 1, 2, 3]
    alone = [studio.generate(seed=seed, num_inference_steps=3).image for seed in seeds]
    with ThreadPoolExecutor(len(seeds)) as pool:
        together = list(pool.map(lambda seed: studio.generate(seed=seed, num_inference_steps=3).image, seeds))
    assert [same(a, b) for a, b in zip(alone, together, strict=True)] == [True] * len(seeds)


# -- PNG files that carry their settings -----------------------------------------------


@pytest.fixture
def saved(studio, tmp_path):
    """A result, and the PNG it was saved to."""
    result = studio.draw(prompt="a cute fox, 8k: \u00fcber\nsecond line", num_inference_steps=2, seed=21)
    return result, result.save(tmp_path / "fox.png")


def test_other_tools_read_the_settings_of_a_saved_picture(saved):
    result, path = saved
    info = ParserManager().parse(path)
    (sampler,) = info.samplers
    assert info.generator.value == "AUTOMATIC1111"
    assert sampler.prompts[0].value == result.settings["prompt"]
    assert sampler.name == "LCM"
    assert sampler.parameters == {"steps": "2", "cfg_scale": "8.0", "seed": "21"}
    assert sampler.model.name == "lcm_nb mini lcm"
    assert info.metadata["Size"] == "x".join(map(str, result.image.size))


def test_the_json_chunk_holds_all_it_takes_to_draw_again(saved):
    result, path = saved
    with Image.open(path) as image:
        record = json.loads(image.text["lcm_nb"])
        assert image.text["parameters"].startswith(result.settings["prompt"])
    assert record["section"] == SECTION
    assert record["profile"] == "mini"
    assert record["settings"] == result.settings
    assert record["timesteps"] == [999, 499]
    assert record["versions"]["torch"] == torch.__version__
    assert {part: entry["name"] for part, entry in record["checkpoints"].items()} == {
        "base": "lcm_nb mini base",
        "unet": "lcm_nb mini lcm",
    }
    assert all(len(entry["sha256"]) == 64 for entry in record["checkpoints"].values())
    assert str(MINI) not in json.dumps(record)  # a picture that people pass on names no folder of theirs


@pytest.mark.filterwarnings("error")
def test_reproduce_draws_the_same_picture_again(saved):
    result, path = saved
    again = lcm_nb.reproduce(path)
    assert same(again.image, result.image)
    assert again.settings == result.settings


def test_a_picture_that_was_changed_is_told_apart(saved):
    _, path = saved
    rewrite(path, change=lambda record: record["versions"].update(torch="1.0"), invert=True)
    with pytest.warns(UserWarning, match=r"differs from .*fox\.png.*'torch': \('1\.0', "):
        lcm_nb.reproduce(path)


def test_another_checkpoint_is_refused(saved):
    _, path = saved
    rewrite(path, change=lambda record: record["checkpoints"]["unet"].update(sha256="0" * 64))
    with pytest.raises(ValueError, match=r"another checkpoint 'lcm_nb mini lcm' \(sha256 0000000000, here .*install"):
        lcm_nb.reproduce(path)


def rewrite(path, *, change, invert=False):
    """Save a picture again with other records, and its colours turned round if ``invert``."""
    with Image.open(path) as image:
        record, pixels = json.loads(image.text["lcm_nb"]), np.asarray(image)
    change(record)
    chunks = PngImagePlugin.PngInfo()
    chunks.add_itxt("lcm_nb", json.dumps(record))
    Image.fromarray(255 - pixels if invert else pixels).save(path, pnginfo=chunks)


@pytest.mark.parametrize("name", ["plain.png", "plain.jpg"])
def test_a_file_without_settings_is_refused(tmp_path, name):
    path = tmp_path / name
    Image.new("RGB", (8, 8)).save(path)
    with pytest.raises(ValueError, match=f"{name} carries no lcm_nb settings.*Result.save"):
        lcm_nb.reproduce(path)


@pytest.mark.parametrize("text", ["not json", "[]", "{}", '{"section": "text-to-image"}'])
def test_damaged_settings_are_refused(tmp_path, text):
    path = tmp_path / "damaged.png"
    chunks = PngImagePlugin.PngInfo()
    chunks.add_itxt("lcm_nb", text)
    Image.new("RGB", (8, 8)).save(path, pnginfo=chunks)
    with pytest.raises(ValueError, match="damaged.png carries no lcm_nb settings"):
        lcm_nb.reproduce(path)


def test_save_refuses_what_would_lose_the_settings(saved, tmp_path):
    result, _ = saved
    with pytest.raises(ValueError, match=r"fox\.jpg does not end in \.png"):
        result.save(tmp_path / "fox.jpg")
    with pytest.raises(ValueError, match="nowhere does not exist; create it"):
        result.save(tmp_path / "nowhere" / "fox.png")
    assert [path.name for path in tmp_path.iterdir()] == ["fox.png"]


# -- the checkpoints that ship ---------------------------------------------------------


def test_weights_are_half_precision_safetensors():
    weights = sorted(MINI.rglob("*.safetensors"))
    assert {path.parent.name for path in weights} >= {"lcm", "unet", "vae", "text_encoder", "text_encoder_2"}
    for path in weights:
        with safe_open(path, "pt") as file:
            kinds = {file.get_slice(name).get_dtype() for name in file.keys()}
        if path.parent.name == "shard":
            assert kinds == {"I8", "F32"}  # latents, and their scale
            continue
        whole_numbers = {"I64"}  # position ids, batch counts
        assert "F16" in kinds and kinds <= {"F16"} | whole_numbers, path
    pickles = [path for path in MINI.rglob("*") if path.suffix in {".bin", ".pt", ".pth", ".ckpt", ".pkl"}]
    assert pickles == []


def test_the_unets_have_the_shape_that_was_asked_for():
    lcm = UNet2DConditionModel.from_pretrained(MINI / "lcm")
    base = UNet2DConditionModel.from_pretrained(MINI / "base", subfolder="unet")
    assert lcm.num_parameters() <= 8_000_000
    assert lcm.config.time_cond_proj_dim and base.config.time_cond_proj_dim is None
    for unet in (lcm, base):
        assert unet.config.addition_embed_type == "text_time"
        assert unet.config.down_block_types[0] == "DownBlock2D"
        assert unet.config.up_block_types[-1] == "UpBlock2D"


def test_latents_need_no_scaling(studio):
    assert studio.pipe.vae.config.scaling_factor == 1.0
    assert type(studio.pipe) is StableDiffusionXLPipeline
    assert type(studio.pipe.scheduler) is LCMScheduler


def test_what_was_loaded_has_the_dtype_that_was_asked_for(studio):
    for part in (studio.pipe.unet, studio.pipe.vae, studio.pipe.text_encoder, studio.pipe.text_encoder_2):
        assert part.dtype == studio.checkpoints.dtype


def test_loading_and_drawing_print_no_warning(environment):
    code = "import lcm_nb; lcm_nb.load('text-to-image').generate(num_inference_steps=1)"
    command = [sys.executable, "-W", "default", "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=300)
    told = [line for line in done.stderr.splitlines() if line.strip() and "it/s]" not in line]  # but for progress
    assert (told, done.stdout) == ([], "")


FAULTS = """
import resource
import torch
from diffusers import AutoencoderTiny
import lcm_nb

vae = AutoencoderTiny.from_pretrained(BASE, subfolder="vae")
latents = torch.zeros(1, vae.config.latent_channels, 16, 16)


@torch.no_grad()
def faults():
    vae.decode(latents)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(3):
        vae.decode(latents)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


before = faults()
lcm_nb.load("text-to-image")
print(before, faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another allocator than glibc's")
def test_a_loaded_studio_keeps_the_decoder_s_memory_for_the_next_picture(environment):
    """Each page that comes fresh from the system is a page fault."""
    code = FAULTS.replace("BASE", repr(str(MINI / "base")))
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    before, after = map(int, done.stdout.split())
    assert after < before / 4


# -- several pictures --------------------------------------------------------------------


@pytest.fixture(scope="module")
def three(studio):
    return studio.generate(prompt="a cute fox", num_inference_steps=2, num_images=3, seed=2**32 - 2)


def test_each_of_several_pictures_is_the_one_that_its_seed_draws_alone(studio, three):
    assert three.seeds == [2**32 - 2, 2**32 - 1, 0]
    for image, seed in zip(three.images, three.seeds, strict=True):
        assert same(image, studio.generate(prompt="a cute fox", num_inference_steps=2, seed=seed).image)


def test_several_pictures_are_told_apart_while_they_are_drawn(studio):
    told = []
    studio.generate(
        num_inference_steps=2,
        num_images=2,
        on_step=lambda step: told.append((step.picture, step.pictures, step.number)),
    )
    assert told == [(1, 2, 1), (1, 2, 2), (2, 2, 1), (2, 2, 2)]


def test_several_pictures_show_beside_each_other(three):
    with Image.open(io.BytesIO(three._repr_png_())) as shown:
        assert shown.width >= 3 * three.image.width and shown.height == three.image.height
        assert same(shown.crop((shown.width - three.image.width, 0, *shown.size)), three.images[2])


@pytest.mark.filterwarnings("error")
def test_several_pictures_are_saved_and_reproduced_whole(three, tmp_path):
    assert three.save(tmp_path / "fox.png") == tmp_path / "fox-1.png"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fox-1.png", "fox-2.png", "fox-3.png"]
    for path, seed in zip(sorted(tmp_path.iterdir()), three.seeds, strict=True):
        with open(path, "rb") as file:
            (sampler,) = ParserManager().parse(file).samplers
        assert sampler.parameters["seed"] == str(seed)
    again = lcm_nb.reproduce(tmp_path / "fox-2.png")
    assert all(same(a, b) for a, b in zip(again.images, three.images, strict=True))


def test_the_code_of_several_pictures_makes_them(studio):
    settings, names = {"num_inference_steps": 1, "num_images": 2, "seed": 5}, {}
    exec(studio.code(settings), names)
    result = studio.generate(**settings)
    assert all(same(a, b) for a, b in zip(names["images"], result.images, strict=True))


# -- what the model predicts -------------------------------------------------------------


@pytest.mark.parametrize("scheduler", [LCMScheduler, DDIMScheduler])
def test_a_step_brings_the_clean_latent_that_the_scheduler_predicts(studio, scheduler):
    """Whatever scheduler the reader puts into the pipeline: it is the stock one, before and after."""
    own, told = studio.pipe.scheduler, []
    studio.pipe.scheduler = mine = scheduler.from_config(own.config)
    try:
        result = studio.generate(num_inference_steps=2, on_step=told.append)
        assert studio.pipe.scheduler is mine
    finally:
        studio.pipe.scheduler = own
    seen = [np.asarray(studio.runtime.decode(step.denoised)).astype(int) for step in told]
    off = [np.abs(picture - np.asarray(result.image)).mean() for picture in seen]
    assert off[1] <= (0 if scheduler is LCMScheduler else 5)  # DDIM's last step ends a little short of its prediction
    assert off[0] > 5


def test_a_missing_file_is_refused_in_one_sentence(tmp_path):
    with pytest.raises(ValueError, match=r"There is no file .*fox\.png; give the path of a PNG"):
        lcm_nb.reproduce(tmp_path / "fox.png")
