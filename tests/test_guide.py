"""The guide profile against a loopback Hub with tiny replicas of its repositories, through the real client.

Each test runs lcm_nb in a process of its own, because the client reads its environment when it is imported.
"""

import re
import subprocess
from types import SimpleNamespace

import pytest
import torch
from guide_hub import answer, downloads, environment_of, python
from inside import DTYPE_ARGUMENT, PLANS, SECTIONS, fit, models, plan_for
from loopback import COMMIT

from lcm_nb import load
from lcm_nb.cli import main
from lcm_nb.models.device import info, resolve_device
from lcm_nb.models.doctor import examine, faster_problem
from lcm_nb.models.plans import VAES

each_section = pytest.mark.parametrize(
    "section", [pytest.param(name, marks=pytest.mark.xdist_group(f"guide {name}")) for name in SECTIONS]
)
UNET = "latent-consistency/lcm-sdxl"

# -- the plans --------------------------------------------------------------------------


def named(block: str) -> list[str]:
    """Return the repositories that one of the guide's code blocks names, in order."""
    datasets = re.findall(r"huggingface\.co/datasets/([^/]+/[^/]+)/", block)
    models = re.findall(r"huggingface\.co/([^/]+/[^/]+)/resolve/", block)
    return [*re.findall(r"(?:from_pretrained|load_lora_weights)\(\s*\"([^\"]+)\"", block), *datasets, *models]


@pytest.mark.parametrize("section", SECTIONS)
def test_the_first_plan_of_a_section_takes_what_the_guides_code_names(section):
    assert {source.repo for source in plan_for(section).sources.values()} == set(named(BLOCKS[section]))


def test_a_plan_takes_half_precision_wherever_a_repository_has_it(replicas):
    sources = [source for plans in PLANS.values() for plan in plans.values() for source in plan.sources.values()]
    for source in sources:
        there = {str(path.relative_to(replicas / source.repo)) for path in (replicas / source.repo).rglob("*")}
        halves = {name for name in there if name.endswith(".fp16.safetensors")}
        assert (source.variant == "fp16") == bool(halves and source.weights), source.repo
        assert set(source.files) <= there, source.repo


def test_nothing_can_change_a_plan():
    plan = plan_for("text-to-image")
    with pytest.raises(TypeError):
        plan.sources["unet"] = None
    with pytest.raises(AttributeError):
        plan.sources["unet"].repo = "elsewhere"


def test_fp16_only_where_the_repository_has_it():
    variants = {s.repo: s.variant for section in SECTIONS for s in plan_for(section).sources.values()}
    without = {repo for repo, variant in variants.items() if variant is None}
    loras_and_pictures = {
        "TheLastBen/Papercut_SDXL",
        "latent-consistency/lcm-lora-sdv1-5",
        "huggingface/documentation-images",
        "Adapter/t2iadapter",
    }
    assert without == {"SimianLuo/LCM_Dreamshaper_v7", "lllyasviel/sd-controlnet-canny"} | loras_and_pictures


def test_an_unknown_model_is_refused_with_those_there_are():
    with pytest.raises(
        ValueError, match=r"image-to-image has no model 'turbo'; choose one of: lcm-dreamshaper-v7, lcm"
    ):
        plan_for("image-to-image", "turbo")


# -- cold, warm, offline ----------------------------------------------------------------

XL = """
import torch
from diffusers import LCMScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
unet = UNet2DConditionModel.from_pretrained("latent-consistency/lcm-sdxl", dtype=DTYPE, variant="fp16")
pipe = StableDiffusionXLPipeline.from_pretrained(
    "stabilityai/stable-diffusion-xl-base-1.0", unet=unet, dtype=DTYPE, variant="fp16"
).to(DEVICE)
pipe.scheduler = LCMScheduler.from_config(pipe.scheduler.config)
"""
CANNY = """
import cv2
import numpy as np
from PIL import Image
image = np.array(image)
image = cv2.Canny(image, 100, 200)
image = image[:, :, None]
image = np.concatenate([image, image, image], axis=2)
canny_image = Image.fromarray(image)
"""
VERMEER = """
import torch
from diffusers.utils import load_image
image = load_image(
    "https://huggingface.co/datasets/huggingface/documentation-images/resolve/main/diffusers/input_image_vermeer.png"
)
"""
BLOCKS = {
    "text-to-image": XL
    + """
prompt = "Self-portrait oil painting, a beautiful cyborg with golden hair, 8k"
generator = torch.manual_seed(0)
image = pipe(prompt=prompt, num_inference_steps=4, generator=generator, guidance_scale=8.0).images[0]
""",
    "image-to-image": """
import torch
from diffusers import AutoPipelineForImage2Image, LCMScheduler, UNet2DConditionModel
from diffusers.utils import load_image
unet = UNet2DConditionModel.from_pretrained("SimianLuo/LCM_Dreamshaper_v7", subfolder="unet", dtype=DTYPE)
pipe = AutoPipelineForImage2Image.from_pretrained(
    "Lykon/dreamshaper-7", unet=unet, dtype=DTYPE, variant="fp16"
).to(DEVICE)
pipe.scheduler = LCMScheduler.from_config(pipe.scheduler.config)
init_image = load_image(
    "https://huggingface.co/datasets/huggingface/documentation-images/resolve/main/diffusers/img2img-init.png"
)
prompt = "Astronauts in a jungle, cold color palette, muted colors, detailed, 8k"
generator = torch.manual_seed(0)
image = pipe(
    prompt, image=init_image, num_inference_steps=4, guidance_scale=7.5, strength=0.5, generator=generator
).images[0]
""",
    "style-lora": XL
    + """
pipe.load_lora_weights("TheLastBen/Papercut_SDXL", weight_name="papercut.safetensors", adapter_name="papercut")
prompt = "papercut, a cute fox"
generator = torch.manual_seed(0)
image = pipe(prompt=prompt, num_inference_steps=4, generator=generator, guidance_scale=8.0).images[0]
""",
    "inpainting": """
import torch
from diffusers import AutoPipelineForInpainting, LCMScheduler
from diffusers.utils import load_image
pipe = AutoPipelineForInpainting.from_pretrained(
    "stable-diffusion-v1-5/stable-diffusion-inpainting", dtype=DTYPE, variant="fp16"
).to(DEVICE)
pipe.scheduler = LCMScheduler.from_config(pipe.scheduler.config)
pipe.load_lora_weights("latent-consistency/lcm-lora-sdv1-5")
init_image = load_image(
    "https://huggingface.co/datasets/huggingface/documentation-images/resolve/main/diffusers/inpaint.png"
)
mask_image = load_image(
    "https://huggingface.co/datasets/huggingface/documentation-images/resolve/main/diffusers/inpaint_mask.png"
)
prompt = "concept art digital painting of an elven castle, inspired by lord of the rings, highly detailed, 8k"
generator = torch.manual_seed(0)
image = pipe(
    prompt=prompt, image=init_image, mask_image=mask_image, generator=generator, num_inference_steps=4, guidance_scale=4
).images[0]
""",
    "controlnet": VERMEER
    + "image = image.resize((512, 512))\n"
    + CANNY
    + """
from diffusers import ControlNetModel, LCMScheduler, StableDiffusionControlNetPipeline
controlnet = ControlNetModel.from_pretrained("lllyasviel/sd-controlnet-canny", dtype=DTYPE)
pipe = StableDiffusionControlNetPipeline.from_pretrained(
    "SimianLuo/LCM_Dreamshaper_v7", controlnet=controlnet, dtype=DTYPE, safety_checker=None
).to(DEVICE)
pipe.scheduler = LCMScheduler.from_config(pipe.scheduler.config)
generator = torch.manual_seed(0)
image = pipe("the mona lisa", image=canny_image, num_inference_steps=4, generator=generator).images[0]
""",
    "t2i-adapter": VERMEER.replace(
        "datasets/huggingface/documentation-images/resolve/main/diffusers/input_image_vermeer.png",
        "Adapter/t2iadapter/resolve/main/figs_SDXLV1.0/org_canny.jpg",
    )
    + "image = image.resize((384, 384))\n"
    + CANNY
    + "canny_image = canny_image.resize((1024, 1216))\n"
    + "from diffusers import StableDiffusionXLAdapterPipeline, T2IAdapter\n"
    + """
adapter = T2IAdapter.from_pretrained("TencentARC/t2i-adapter-canny-sdxl-1.0", dtype=DTYPE, varient="fp16")
"""
    + XL.replace("StableDiffusionXLPipeline", "StableDiffusionXLAdapterPipeline").replace(
        "unet=unet,", "unet=unet, adapter=adapter,"
    )
    + """
prompt = "Mystical fairy in real, magic, 4k picture, high quality"
negative_prompt = (
    "extra digit, fewer digits, cropped, worst quality, low quality, glitch, deformed, mutated, ugly, disfigured"
)
generator = torch.manual_seed(0)
image = pipe(
    prompt=prompt, negative_prompt=negative_prompt, image=canny_image, num_inference_steps=4, guidance_scale=5,
    adapter_conditioning_scale=0.8, adapter_conditioning_factor=1, generator=generator,
).images[0]
""",
}
# The guide's map is stretched, which the studio does not do: it is handed over as it is.
GIVEN = {"t2i-adapter": "image=canny_image, detect_edges=False"}
LOAD_ALL = """
import hashlib, json, os, tempfile, urllib.request
from pathlib import Path
import numpy as np
from PIL import Image
import lcm_nb
from inside import models
found = {}
for model in models(SECTION):
    studio = lcm_nb.load(SECTION, model=model)
    result = studio.generate(num_inference_steps=2, seed=3)
    path = result.save(Path(tempfile.mkdtemp()) / "a.png")
    found[model] = {
        "picture": hashlib.sha256(result.image.tobytes()).hexdigest(),
        "colours": len(result.image.getcolors(2**24)),
        "timesteps": result.timesteps,
        "scheduler": type(studio.pipe.scheduler).__name__,
        "record": json.loads(Image.open(path).text["lcm_nb"]),
        "settings": list(studio.settings),
    }
"""
WARM = """
same = np.array_equal(lcm_nb.reproduce(path).image, result.image)
urllib.request.urlopen(os.environ["HF_ENDPOINT"] + "/mark")
for model in models(SECTION):
    lcm_nb.load(SECTION, model=model)
urllib.request.urlopen(os.environ["HF_ENDPOINT"] + "/mark")
"""
COMPARE = """
result = lcm_nb.load(SECTION).generate(GIVEN)
equal = bool((np.asarray(result.image) == np.asarray(image)).all())
block = {"equal": equal, "size": image.size, "colours": len(image.getcolors(2**24))}
print(json.dumps({"models": found, "block": block, "reproduced": same}))
"""
PLAIN = """
names = lcm_nb.checkpoints(SECTION)
import diffusers
kinds = {"unet": "UNet2DConditionModel", "controlnet": "ControlNetModel", "adapter": "T2IAdapter"}
given = {"safety_checker": None} if SECTION == "controlnet" else {}
for part, kind in kinds.items():
    if part in names.parts:
        more = {"subfolder": "unet"} if SECTION == "image-to-image" else {}
        given[part] = getattr(diffusers, kind).from_pretrained(names.parts[part], **more, **names.loading[part])
# Offline, 0.39 asks for every file of the repository where the Hub's client (1.33, say) keeps a listing of them.
if tuple(map(int, diffusers.__version__.split(".")[:2])) >= (0, 40):
    pipe = studio.pipe.__class__.from_pretrained(names.base, **given, **names.loading["base"])
else:
    pipe = studio.pipe
if names.loras:
    pipe.load_lora_weights(names.loras, weight_name="papercut.safetensors", **names.loading["loras"])
print(json.dumps({"models": found}))
"""


@pytest.fixture(scope="module")
def visit(hub, environment, tmp_path_factory):
    """Load and run a section cold, warm, by the guide's own code, and offline: two processes, once for all tests."""
    visits = {}

    def run(section: str) -> dict:
        if section not in visits:
            home = tmp_path_factory.mktemp(section)
            block = BLOCKS[section].replace("dtype=DTYPE", f"{DTYPE_ARGUMENT}=names.dtype").replace("DEVICE", '"cpu"')
            block = f"names = lcm_nb.checkpoints(SECTION)\n{block}"
            code = LOAD_ALL + WARM + block.replace("https://huggingface.co", hub.url)
            code += COMPARE.replace("GIVEN", GIVEN.get(section, ""))
            hub.mend()
            online = answer(python(code.replace("SECTION", repr(section)), environment_of(hub, home, environment)))
            first, second = [i for i, entry in enumerate(hub.log) if entry[1] == "/mark"]
            logs = {"cold": hub.log[:first], "warm": hub.log[first + 1 : second]}
            hub.mend()
            env = environment_of(hub, home, environment, HF_HUB_OFFLINE="1")
            offline = answer(python((LOAD_ALL + PLAIN).replace("SECTION", repr(section)), env))
            visits[section] = {"online": online, "offline": offline, "logs": logs | {"offline": list(hub.log)}}
        return visits[section]

    return run


def large_files(section: str) -> set[str]:
    """Return "repository/file" of the large files that the plans of a section name."""
    sources = [source for plan in PLANS[section].values() for source in plan.sources.values()]
    weights = {f"{source.repo}/{file}" for source in sources for file in source.files}
    places = [(f"datasets/{s.repo}" if s.kind == "dataset" else s.repo, s) for s in sources if s.is_picture]
    return weights | {f"{place}/{file}" for place, source in places for file in source.texts}


@each_section
def test_a_cold_load_downloads_what_the_plans_name_and_no_more(section, visit):
    got = {path for path in downloads(visit(section)["logs"]["cold"]) if not path.endswith((".json", ".txt"))}
    assert got == large_files(section)  # e.g. of LCM_Dreamshaper_v7's 18 GB what a run needs


@each_section
def test_a_warm_load_downloads_nothing(section, visit):
    assert downloads(visit(section)["logs"]["warm"]) == set()


@each_section
def test_offline_makes_no_request_and_the_same_pictures(section, visit):
    seen = visit(section)
    assert seen["logs"]["offline"] == []
    pictures = [{m: found["picture"] for m, found in seen[when]["models"].items()} for when in ("online", "offline")]
    assert pictures[0] == pictures[1]


@each_section
def test_every_model_of_a_section_draws(section, visit):
    found = visit(section)["online"]["models"]
    assert tuple(found) == models(section)
    for model, one in found.items():
        assert one["colours"] > 1000, "a picture, not a plane"
        assert one["scheduler"] == plan_for(section, model).model.scheduler
        assert one["timesteps"] == ([499] if section == "image-to-image" else [999, 499])
        real = not plan_for(section, model).model.embedded_guidance  # an LCM-LoRA: classifier-free guidance
        assert ("negative_prompt" in one["settings"]) == (real or section == "t2i-adapter")


@each_section
def test_a_saved_picture_records_the_commits(section, visit):
    for model, one in visit(section)["online"]["models"].items():
        record, sources = one["record"], plan_for(section, model).sources
        assert (record["model"], record["profile"]) == (model, "guide")
        assert record["checkpoints"].keys() == {part for part in sources if part not in ("picture", "mask")}
        for part, checkpoint in record["checkpoints"].items():
            assert (checkpoint["name"], checkpoint["revision"]) == (sources[part].repo, COMMIT)
            assert re.fullmatch("[0-9a-f]{64}", checkpoint["sha256"])
    assert visit(section)["online"]["reproduced"]


@each_section
def test_the_guides_own_code_gives_the_same_pixels(section, visit):
    block = visit(section)["online"]["block"]
    assert block["equal"]
    assert block["colours"] > 1000
    sizes = {"controlnet": [512, 512], "t2i-adapter": [1024, 1216]}
    assert block["size"] == sizes.get(section, block["size"])


def test_guidance_of_an_lcm_lora_is_classifier_free(whole_hub, environment, tmp_path):
    code = """
import json, numpy as np, lcm_nb
studio, batches = lcm_nb.load("text-to-image", model="lcm-lora-sdv1-5"), []
studio.pipe.unet.register_forward_pre_hook(lambda unet, arguments: batches.append(len(arguments[0])))
draw = lambda **more: np.asarray(studio.generate(prompt="a fox", num_inference_steps=1, **more).image)
plain, twice, negative = draw(), draw(guidance_scale=2.0), draw(guidance_scale=2.0, negative_prompt="snow")
try:
    studio.generate(guidance_scale=8.0)
except ValueError as error:
    refusal = str(error)
print(json.dumps([batches, bool((twice == negative).all()), refusal]))
"""
    batches, equal, refusal = answer(python(code, environment_of(whole_hub, tmp_path, environment)))
    assert batches == [1, 2, 2]
    assert not equal
    assert refusal.startswith("guidance_scale is 8.0; give a number from 1 to 2")


# -- the terminal -----------------------------------------------------------------------


def lcm_nb(env: dict[str, str], *options: str) -> subprocess.CompletedProcess:
    return python(f"import sys; from lcm_nb.cli import main; sys.exit(main({list(options)!r}))", env)


def test_doctor_tells_what_is_here_and_what_fetch_would_bring(whole_hub, environment, tmp_path):
    env = environment_of(whole_hub, tmp_path, environment)
    before = lcm_nb(env, "doctor")
    assert before.returncode == 0, before.stderr
    assert re.findall(r"(?m)^(\S+), model (\S+)$", before.stdout) == [(s, models(s)[0]) for s in SECTIONS]
    assert "latent-consistency/lcm-sdxl (fp16, openrail++): 5.14 GB" in before.stdout
    assert "SimianLuo/LCM_Dreamshaper_v7 (float32, mit): 3.44 GB" in before.stdout
    assert before.stdout.count("it will run") == len(SECTIONS)
    assert whole_hub.log == []  # it asks nobody

    fetched = lcm_nb(env, "fetch", "text-to-image", "style-lora")
    assert fetched.returncode == 0, fetched.stderr
    lines = fetched.stdout.splitlines()
    assert lines[0].startswith("Downloading ") and lines[0].endswith(
        f"stabilityai/stable-diffusion-xl-base-1.0, {UNET}"
    )
    assert lines[1:] == [
        "text-to-image: lcm-sdxl is here, whole and checked",
        lines[2],
        "style-lora: lcm-sdxl is here, whole and checked",
    ]
    after = lcm_nb(env, "doctor", "text-to-image")
    assert after.stdout.count(": here") == 2
    assert re.search(r"download +0.00 MB to ", after.stdout)


@pytest.mark.parametrize(
    ("env", "options", "problem"),
    [
        ({"MEMORY": "1000000000"}, [], r"GB of memory are needed, and cpu .* has 1.00 GB free"),
        ({"SIMULATE": "small-disk"}, [], "are to be downloaded, and the disk of"),
        ({"SIMULATE": "no-peft"}, ["style-lora"], "LoRAs need the package peft"),
    ],
)
def test_the_doctors_exit_code_tells_of_a_problem(env, options, problem, whole_hub, environment, tmp_path):
    done = lcm_nb(environment_of(whole_hub, tmp_path, environment) | env, "doctor", *options)
    assert done.returncode == 1
    assert re.search(rf"(?m)^  problem +.*{problem}", done.stdout)


@pytest.mark.parametrize("options", [["doctor", "text-to-video"], ["fetch", "controlnet", "--model", "lcm-sdxl"]])
def test_a_wrong_word_ends_in_one_line(options, capsys):
    assert main(options) == 2
    assert re.fullmatch(r"lcm-nb: .*choose one of: .*\n", capsys.readouterr().err)


# -- pins -------------------------------------------------------------------------------

PIN = """
import importlib, json, pathlib
import inside
plans = importlib.import_module(inside.ROOMS["plan_for"])
plans.PINS = pathlib.Path(PATH)
commits = inside.pin(plans.PINS)
import lcm_nb
names = lcm_nb.checkpoints("text-to-image")
drawn = lcm_nb.load("text-to-image").generate(num_inference_steps=1)
drawn.save(PATH + ".png")
plans.PINS.write_text(json.dumps(commits | {names.unet: 40 * "f"}))
try:
    lcm_nb.load("text-to-image")
except OSError as error:
    refusal = str(error)
same = lcm_nb.reproduce(PATH + ".png").image.tobytes() == drawn.image.tobytes()
loading = names.loading["unet"]["revision"]
print(json.dumps({"commits": commits, "loading": loading, "refusal": refusal, "same": same}))
"""


def test_pins_name_the_commit_of_every_repository_and_are_loaded(whole_hub, environment, tmp_path):
    path = tmp_path / "pins.json"
    found = answer(python(PIN.replace("PATH", repr(str(path))), environment_of(whole_hub, tmp_path, environment)))
    repos = {source.repo for plans in PLANS.values() for plan in plans.values() for source in plan.sources.values()}
    others = {source.repo for families in VAES.values() for source in families.values()}
    assert found["commits"].keys() == repos | others
    assert set(found["commits"].values()) == {COMMIT} == {found["loading"]}
    assert found["refusal"].startswith(f"{UNET} has no revision '{40 * 'f'}'; run `lcm-nb pin` again")
    assert found["same"], "a saved picture is drawn again with its own commits, whatever is pinned by now"


# -- what is done to fit ----------------------------------------------------------------

T4, GB = 15_800_000_000, 10**9
OFFLOAD = ("slicing", "offload")


@pytest.mark.parametrize(
    ("section", "model", "free", "measures"),
    [
        *((section, model, T4, ("slicing",)) for section in SECTIONS for model in models(section)),
        ("text-to-image", "lcm-sdxl", 8 * GB, OFFLOAD),
        ("controlnet", "lcm-dreamshaper-v7", 3.5 * GB, OFFLOAD),
        ("text-to-image", "lcm-ssd-1b", 6 * GB, OFFLOAD),
        ("text-to-image", "lcm-ssd-1b", 4 * GB, (*OFFLOAD, "fp16-vae")),
    ],
)
def test_the_least_measures_are_taken_that_fit(section, model, free, measures):
    taken, needed = fit(plan_for(section, model), "cuda", free)
    assert taken == measures
    assert needed <= free


def test_where_nothing_fits_the_need_is_told():
    taken, needed = fit(plan_for("text-to-image"), "cuda", 2 * GB)
    assert taken == (*OFFLOAD, "fp16-vae")
    assert needed > 2 * GB


MEASURED = """
import json
from dataclasses import replace
import numpy as np
import lcm_nb
from inside import FP16_VAE, bring, load_pipeline, plan_for, with_vae
from lcm_nb.runtimes.diffusers import DiffusersRuntime
from lcm_nb.studio import Studio
names = lcm_nb.checkpoints("style-lora")
names = replace(names, measures=("slicing", "offload", "fp16-vae"), vae=FP16_VAE.repo)
folders = bring(with_vae(plan_for("style-lora").sources, FP16_VAE))
plan = plan_for("style-lora")
pipe = load_pipeline(plan.section, names.moved(folders))
studio, previews, own = Studio(plan, names, DiffusersRuntime(plan.section, names, pipe)), [], {}
modules = ("text_encoder", "text_encoder_2", "unet", "vae")
image = studio.generate(seed=1, on_step=lambda step: previews.append(step.preview)).image
exec(studio.code({"seed": 1}), own)
print(json.dumps({
    "hooked": all(hasattr(getattr(pipe, part), "_hf_hook") for part in modules),
    "upcast": pipe.vae.config.force_upcast,
    "sliced": pipe.vae.use_slicing,
    "previews": previews,
    "code": studio.code({}),
    "equal": bool((np.asarray(image) == np.asarray(own["image"])).all()),
}))
"""


def test_all_measures_together_draw_and_show_in_the_code(whole_hub, environment, tmp_path):
    found = answer(python(MEASURED, environment_of(whole_hub, tmp_path, environment)))
    assert found["hooked"] and found["sliced"] and found["upcast"] is False
    assert found["previews"] == [None] * 4  # a preview would swap modules in and out
    assert found["equal"]
    got = downloads(whole_hub.log)
    assert "madebyollin/sdxl-vae-fp16-fix/diffusion_pytorch_model.safetensors" in got
    assert not any("base-1.0/vae/diffusion" in path for path in got)
    code = found["code"].splitlines()
    order = [i for i, line in enumerate(code) for word in ("LCMScheduler.from", "load_lora", "offload") if word in line]
    assert (
        order == sorted(order) and ".to(" not in found["code"]
    )  # the offload comes last, and no module was moved before


# -- faster, at a price -----------------------------------------------------------------

FASTER = """
import json, tempfile
from pathlib import Path
import numpy as np
from PIL import Image
import lcm_nb
found = {}
for section, faster in (("text-to-image", "tiny-vae"), ("text-to-image", "fp16-vae"), ("controlnet", "tiny-vae")):
    studio, own = lcm_nb.load(section, faster=faster), {}
    result = studio.generate(num_inference_steps=2, seed=1)
    path = result.save(Path(tempfile.mkdtemp()) / "a.png")
    exec(studio.code({"num_inference_steps": 2, "seed": 1}), own)
    found[f"{section} {faster}"] = {
        "vae": type(studio.pipe.vae).__name__,
        "colours": len(result.image.getcolors(2**24)),
        "same as code": bool((np.asarray(result.image) == np.asarray(own["image"])).all()),
        "record": json.loads(Image.open(path).text["lcm_nb"]),
        "reproduced": bool((np.asarray(lcm_nb.reproduce(path).image) == np.asarray(result.image)).all()),
    }
print(json.dumps(found))
"""


def test_other_vaes_draw_are_recorded_and_reproduced(whole_hub, environment, tmp_path):
    found = answer(python(FASTER, environment_of(whole_hub, tmp_path, environment)))
    repos = ("madebyollin/taesdxl", "madebyollin/sdxl-vae-fp16-fix", "madebyollin/taesd")
    for (name, one), repo in zip(found.items(), repos, strict=True):
        assert one["vae"] == ("AutoencoderTiny" if "tiny" in name else "AutoencoderKL")
        least = 1000 if name.startswith("text") else 1  # the replica of the other tiny VAE is nearly a plane
        assert one["colours"] > least and one["same as code"] and one["reproduced"], name
        assert one["record"]["checkpoints"]["vae"]["name"] == repo
        assert name.split()[1] in one["record"]["measures"]
    got = downloads(whole_hub.log)
    assert {f"{repo}/diffusion_pytorch_model.safetensors" for repo in repos} <= got
    assert not any("base-1.0/vae/diffusion" in path or "Dreamshaper_v7/vae/diffusion" in path for path in got)


@pytest.mark.parametrize(
    ("section", "options", "problem"),
    [
        ("text-to-image", {"faster": "xformers"}, "faster is 'xformers'; use one or more of 'fp16-vae', 'tiny-vae'"),
        ("text-to-image", {"faster": [["compile"]]}, r"faster is \['compile'\]; use one"),
        ("text-to-image", {"faster": ["tiny-vae", "fp16-vae"]}, "faster names two VAEs; leave 'fp16-vae' or"),
        ("controlnet", {"faster": "fp16-vae"}, "is for SDXL's VAE, and that of lcm-dreamshaper-v7 is safe"),
        ("style-lora", {"faster": "compile"}, "would compile style-lora anew at every scale of a style; leave it out"),
        ("text-to-image", {"faster": "compile"}, "'compile' is for CUDA GPUs, and device is 'cpu'; leave it out"),
        ("text-to-image", {"faster": "tiny-vae", "profile": "mini"}, "is for the guide's models; use profile='guide'"),
    ],
)
def test_what_cannot_be_faster_is_refused_before_anything_is_loaded(section, options, problem):
    with pytest.raises(ValueError, match=problem):
        load(section, **{"profile": "guide", "device": "cpu"} | options)


@pytest.mark.parametrize(("capability", "problem"), [((7, 5), "needs compute capability 8.0, and Tesla T4 has 7.5")])
def test_an_older_gpu_does_not_compile(capability, problem, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla T4")
    assert faster_problem(plan_for("text-to-image"), "cuda", ["compile"]).startswith(f"faster='compile' {problem}")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 9))
    assert faster_problem(plan_for("text-to-image"), "cuda", ["compile"]) == ""


def test_with_a_tiny_vae_less_is_needed():
    plan = plan_for("text-to-image")
    whole, small = (fit(plan, "cuda", 10**12, faster=faster)[1] for faster in ((), ("tiny-vae",)))
    assert small < 0.8 * whole
    assert fit(plan, "cuda", 4 * GB, faster=("tiny-vae",))[0] == (*OFFLOAD, "tiny-vae")


# -- what a CPU computes ----------------------------------------------------------------

NATIVE = """
import inside
from lcm_nb.models import checkpoints, device, doctor
for room in (checkpoints, device, doctor):
    room.computes_bfloat16 = lambda: NATIVE
"""
ON_A_CPU = """
import json, tempfile, warnings
from pathlib import Path
import numpy as np
from PIL import Image
import lcm_nb
studio = lcm_nb.load("controlnet")
result = studio.generate(num_inference_steps=1)
path = result.save(Path(tempfile.mkdtemp()) / "a.png")
for room in (checkpoints, device, doctor):
    room.computes_bfloat16 = lambda: not NATIVE  # another computer
with warnings.catch_warnings():
    warnings.simplefilter("error")
    same = np.array_equal(lcm_nb.reproduce(path).image, result.image)
print(json.dumps({
    "dtypes": sorted({str(m.dtype) for m in studio.pipe.components.values() if hasattr(m, "dtype")}),
    "record": json.loads(Image.open(path).text["lcm_nb"]),
    "colours": len(result.image.getcolors(2**24)),
    "reproduced": same,
}))
"""


@pytest.mark.parametrize(("native", "kind"), [(True, "bfloat16"), (False, "float32")])
def test_weights_are_as_the_cpu_computes_and_are_so_again(native, kind, whole_hub, environment, tmp_path):
    code = (NATIVE + ON_A_CPU).replace("NATIVE", str(native))
    done = python(code, environment_of(whole_hub, tmp_path, environment))
    found = answer(done)
    assert found["dtypes"] == [f"torch.{kind}"] and found["record"]["dtype"] == kind
    assert f"Weights in {kind}, " in done.stdout
    assert found["colours"] > 1000 and found["reproduced"]


def test_the_doctor_says_what_a_cpu_computes(monkeypatch):
    said, needed = {}, {}
    for native in (True, False):
        for room in ("checkpoints", "device", "doctor"):
            monkeypatch.setattr(f"lcm_nb.models.{room}.computes_bfloat16", lambda native=native: native)
        report = examine(plan_for("controlnet"), "cpu")
        said[native], needed[native] = report.text, report.needed
    assert "weights in bfloat16, which this CPU computes" in said[True]
    assert "weights in float32, on the CPU: slow" in said[False]
    assert "faster='tiny-vae'" in said[True] and "faster='compile'" not in said[True]
    assert 1.9 < needed[False] / needed[True] < 2.1


def test_apples_gpu_is_chosen_and_known(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.mps, "recommended_max_memory", lambda: 11 * GB)
    monkeypatch.setattr(torch.mps, "driver_allocated_memory", lambda: GB)
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=14 * GB, total=16 * GB))
    device = resolve_device()
    report = examine(plan_for("text-to-image"), device)
    assert device == "mps" and info()["device"] == "mps (Apple's GPU)"
    assert report.names.dtype == torch.float16 and report.free == 10 * GB
    assert "mps (Apple's GPU), 10.00 GB of memory free" in report.text


# -- OpenVINO ---------------------------------------------------------------------------

FUSED = """
import json
import numpy as np
import lcm_nb
pictures = []
for runtime in ("diffusers", "openvino-float32"):
    studio = lcm_nb.load("text-to-image", model="lcm-lora-sdv1-5", runtime=runtime)
    pictures.append(np.asarray(studio.generate(num_inference_steps=2, seed=1).image, int))
layers = [name for name, _ in studio.runtime.pipe.unet._stock[0].named_modules() if "lora" in name]
print(json.dumps({"far": int(np.abs(pictures[0] - pictures[1]).max()), "layers": layers,
                  "range": int(np.ptp(pictures[0]))}))
"""


def test_an_lcm_lora_is_fused_for_openvino_and_draws_the_same_but_for_rounding(whole_hub, environment, tmp_path):
    pytest.importorskip("openvino", reason="openvino is not installed")
    code = (NATIVE + FUSED).replace("NATIVE", "False")
    found = answer(python(code, environment_of(whole_hub, tmp_path, environment)))
    assert found["layers"] == [] and found["range"] > 50
    assert found["far"] <= 2
