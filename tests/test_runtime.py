"""The seam between studio and runtime: a runtime of twenty lines is enough for a whole studio."""

import multiprocessing
import pickle
import sys
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from peft import LoraConfig
from PIL import Image

import lcm_nb
from lcm_nb.models.checkpoints import checkpoints
from lcm_nb.models.plans import plan_for
from lcm_nb.runtimes.runtime import Call, Drawing, Geometry
from lcm_nb.settings import planned_timesteps
from lcm_nb.studio import Cancelled, Studio


class Dice:
    """A runtime that draws noise of the seed and needs no model."""

    geometry, can_preview, at_once = Geometry(side=64, multiple=16), True, 1

    def __init__(self, censors: bool = False):
        self.censors, self.calls = censors, []

    def draw(self, call: Call, on_step) -> Drawing:
        self.calls.append(call)
        for index, timestep in enumerate(planned_timesteps(call.arguments)):
            on_step(index, timestep, np.full((4, 4), timestep))
        pixels = np.random.default_rng(call.seed).integers(0, 256, (64, 64, 3), np.uint8)
        return Drawing(Image.fromarray(pixels), self.censors)

    def decode(self, latent, quick=False) -> Image.Image:
        return Image.fromarray(latent.astype(np.uint8))

    def code(self, settings) -> str:
        return f"dice({settings['seed']})"

    def release(self) -> None:
        self.calls.clear()


def studio_with(runtime: Dice, section: str = "image-to-image") -> Studio:
    return Studio(plan_for(section), checkpoints(section, "mini", "cpu"), runtime)


@pytest.fixture
def picture() -> Image.Image:
    return Image.effect_noise((100, 60), 90).convert("RGB")


def test_a_studio_asks_its_runtime_for_one_picture_a_seed(picture):
    runtime, told = Dice(), []
    with pytest.warns(UserWarning, match="fitted from 100 x 60 to"):
        result = studio_with(runtime).generate(image=picture, num_images=2, seed=7, on_step=told.append)
    assert [call.seed for call in runtime.calls] == [7, 8]
    assert runtime.calls[0].image.width % 16 == runtime.calls[0].image.height % 16 == 0
    assert runtime.calls[0].arguments.keys() == {"prompt", "num_inference_steps", "strength", "guidance_scale"}
    assert [(step.picture, step.number, step.total, step.timestep) for step in told] == [
        (1, 1, 2, 499),
        (1, 2, 2, 259),
        (2, 1, 2, 499),
        (2, 2, 2, 259),
    ]
    assert told[0].denoised.max() == 499 and told[0].preview().size == (4, 4)
    assert result.timesteps == [499, 259] and len(result.images) == 2


def test_all_that_happened_is_noted(picture):
    with pytest.warns(UserWarning) as told:
        result = studio_with(Dice(censors=True)).generate(image=picture)
    assert "fitted from 100 x 60" in result.note and "safety checker blacked" in result.note
    assert str(told[0].message) == result.note


def test_what_the_model_did_not_read_is_noted_once_for_all_pictures():
    class Cuts(Dice):
        def draw(self, call, on_step):
            return replace(super().draw(call, on_step), note="not read: 'x'")

    assert studio_with(Cuts(), "text-to-image").draw(num_images=3).note == "not read: 'x'"


def test_a_deep_picture_is_noted():
    deep = Image.fromarray(np.tile(np.linspace(0, 65535, 64).astype(np.uint16), (64, 1)))
    with pytest.warns(UserWarning, match="more than 8 bits a colour"):
        studio_with(Dice()).generate(image=deep)


def test_scales_of_styles_and_edges_reach_the_runtime_and_not_the_pipeline():
    runtime = Dice()
    studio_with(runtime, "style-lora").generate(papercut=0.5)
    assert runtime.calls[0].scales == {"papercut": 0.5, "neon": 0.0}
    assert not runtime.calls[0].arguments.keys() & {"papercut", "neon", "seed", "num_images"}


def test_code_is_the_runtime_s():
    assert studio_with(Dice()).code({"seed": 3}) == "dice(3)"


def test_a_damaged_picture_is_refused_before_a_sweep_draws(tmp_path, picture):
    good, bad, runtime = tmp_path / "good.png", tmp_path / "bad.png", Dice()
    picture.save(good)
    bad.write_bytes(good.read_bytes()[:2000])
    with pytest.raises(ValueError, match=r"bad\.png is damaged"):
        studio_with(runtime).sweep(image=[good, bad])
    assert runtime.calls == []


def test_a_picture_is_decoded_once_for_many_runs(tmp_path, picture, monkeypatch):
    """Its header is looked at when settings are checked; the pixels come in when it is drawn, and when it changes."""
    path, decoded = tmp_path / "picture.png", []
    picture.resize((64, 64)).save(path)
    load = Image.Image.convert
    monkeypatch.setattr(Image.Image, "convert", lambda image, *a, **k: decoded.append(1) or load(image, *a, **k))
    studio = studio_with(Dice())
    first = studio.generate(image=path)
    assert len(decoded) == 1
    first.source.paste("red", (0, 0, 64, 64))  # a reader's own copy
    second = studio.generate(image=path, seed=1)
    assert len(decoded) == 1
    assert second.source.getextrema() != first.source.getextrema()
    Image.new("RGB", (64, 64), "blue").save(path)
    assert studio.generate(image=path).source.getpixel((0, 0)) == (0, 0, 255)
    assert len(decoded) == 2


# -- who may run --------------------------------------------------------------------------


def test_a_run_inside_a_run_is_refused_and_the_studio_stays_usable():
    studio = studio_with(Dice(), "text-to-image")
    with pytest.raises(ValueError, match="called inside on_step.*load a second studio"):
        studio.generate(on_step=lambda step: studio.generate())
    assert studio.generate().seeds == [0]


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, GeneratorExit, MemoryError, Cancelled])
def test_whatever_ends_a_run_leaves_the_studio_usable(kind):
    def stop(step):
        raise kind

    studio = studio_with(Dice(), "text-to-image")
    with pytest.raises(kind):
        studio.generate(on_step=stop)
    told = []
    thread = threading.Thread(target=lambda: told.append(studio.generate().seeds))
    thread.start()
    thread.join(10)
    assert told == [[0]]


def test_one_who_waits_may_give_up():
    """What ``waiting`` raises ends the wait behind another run, at once."""
    studio, begun, end = studio_with(Dice(), "text-to-image"), threading.Event(), threading.Event()

    def hold(step):
        begun.set()
        end.wait(10)

    def give_up():
        raise Cancelled

    thread = threading.Thread(target=lambda: studio.generate(on_step=hold, num_inference_steps=1))
    thread.start()
    begun.wait(10)
    start = time.monotonic()
    with pytest.raises(Cancelled):
        studio.draw(waiting=give_up)
    assert time.monotonic() - start < 1
    end.set()
    thread.join()
    assert studio.draw(waiting=give_up).seeds == [0]  # nobody is waited for


def _draw_in_child(studio, told):
    try:
        studio.generate()
    except ValueError as error:
        told.put(str(error))


@pytest.mark.parametrize("section", ["image-to-image", "controlnet", "t2i-adapter"])
def test_a_run_ends_within_a_step_and_the_next_is_as_ever(section):
    studio = lcm_nb.load(section, profile="mini")
    settings, steps, looks = {"num_inference_steps": 4, "seed": 3}, [], []
    before = studio.generate(**settings)

    def look():
        looks.append(len(steps))
        if len(looks) - looks.index(len(steps)) > 6 and steps:  # some blocks into the second step
            raise Cancelled

    with pytest.raises(Cancelled):
        studio.draw(on_step=steps.append, waiting=look, **settings)
    assert len(steps) == 1
    asked = len(looks)
    assert studio.generate(**settings).images[0].tobytes() == before.images[0].tobytes()
    assert len(looks) == asked  # nobody is asked any more


def test_a_run_is_not_ended_by_what_ends_another_that_shares_its_networks():
    drawn, ended = lcm_nb.load("text-to-image", profile="mini"), lcm_nb.load("t2i-adapter", profile="mini")
    assert drawn.pipe.unet is ended.pipe.unet
    begun, done, raised = threading.Event(), threading.Event(), []

    def look():
        raised.append(threading.get_ident())
        begun.set()
        done.wait(60)
        raise Cancelled

    def begin():
        with pytest.raises(Cancelled):
            ended.draw(waiting=look)

    thread = threading.Thread(target=begin)
    thread.start()
    assert begun.wait(60)  # it stands at its first block, until the other has drawn
    assert drawn.generate(num_inference_steps=1).images
    done.set()
    thread.join()
    assert raised == [thread.ident]


@pytest.mark.skipif(sys.platform == "win32", reason="no fork")
@pytest.mark.filterwarnings("ignore:This process")
def test_a_forked_child_is_told_and_does_not_hang():
    context, studio = multiprocessing.get_context("fork"), studio_with(Dice(), "text-to-image")
    told = context.Queue()
    with studio._turn.taken():  # another thread may hold it when the process forks
        child = context.Process(target=_draw_in_child, args=(studio, told))
        child.start()
        assert "get_context('spawn')" in told.get(timeout=30)
    child.join()


# -- what is asked for in vain ------------------------------------------------------------


def test_a_package_that_panels_lack_is_named_with_its_remedy(monkeypatch):
    for name in [name for name in sys.modules if name.startswith("lcm_nb.widgets")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "anywidget", None)
    with pytest.raises(ImportError, match="Panels need the package anywidget: `pip install anywidget`"):
        studio_with(Dice(), "text-to-image").panel()


# -- previews -------------------------------------------------------------------------


def test_a_hint_is_like_its_picture_and_has_its_size(studio):
    seen = []
    picture = studio.generate(seed=3, on_step=seen.append).image
    hint, whole = seen[-1].preview(), studio.runtime.decode(seen[-1].denoised)
    assert hint.size == whole.size == picture.size
    assert np.array_equal(np.asarray(whole), np.asarray(picture)), "the last step's clean latent is the picture's"
    small = [np.asarray(image.resize((32, 32), Image.Resampling.BOX), float) for image in (hint, whole)]
    flat = np.abs(small[1] - small[1].mean((0, 1))).mean()
    assert np.abs(small[0] - small[1]).mean() < 0.35 * flat


def test_a_hint_does_not_run_the_decoder(studio, monkeypatch):
    seen, decoded = [], []
    studio.generate(num_inference_steps=1, on_step=seen.append)
    seen[0].preview()  # the first one may fit the hints to the decoder
    decode = studio.pipe.vae.decode
    monkeypatch.setattr(studio.pipe.vae, "decode", lambda *a, **k: decoded.append(1) or decode(*a, **k))
    seen[0].preview()
    assert decoded == []
    studio.runtime.decode(seen[0].denoised)
    assert decoded == [1]


# -- prompts --------------------------------------------------------------------------


def test_a_prompt_is_encoded_once_and_the_pixels_are_the_same(studio, monkeypatch):
    encoded, forward = [], type(studio.pipe.text_encoder).forward
    counted = lambda encoder, *a, **k: encoded.append(1) or forward(encoder, *a, **k)  # noqa: E731
    monkeypatch.setattr(type(studio.pipe.text_encoder), "forward", counted)
    settings = dict(prompt="a fox that was never drawn before", num_inference_steps=1)
    first = studio.generate(**settings)
    once = len(encoded)
    second = studio.generate(**settings)
    assert once > 0 and len(encoded) == once
    assert np.array_equal(np.asarray(first.image), np.asarray(second.image))
    other = studio.generate(**settings | {"prompt": "another"})
    assert len(encoded) == 2 * once and not np.array_equal(np.asarray(first.image), np.asarray(other.image))


@pytest.fixture
def own_studio():
    """A studio whose text encoder the test may change."""
    return lcm_nb.load("text-to-image", profile="mini")


def test_a_lora_on_a_text_encoder_is_seen_at_every_scale(own_studio):
    encoder, draw = own_studio.pipe.text_encoder, lambda: np.asarray(own_studio.generate(num_inference_steps=1).image)
    plain = draw()
    config = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    torch.manual_seed(0)
    encoder.add_adapter(config, "own")
    with_lora = draw()
    encoder.disable_adapters()
    without = draw()
    encoder.enable_adapters()
    again = draw()
    for layer in encoder.modules():
        if hasattr(layer, "scale_layer"):
            layer.scale_layer(3.0)
    stronger = draw()
    assert not np.array_equal(plain, with_lora) and not np.array_equal(with_lora, stronger)
    assert np.array_equal(plain, without) and np.array_equal(with_lora, again)


def test_changed_weights_of_a_text_encoder_are_seen(own_studio):
    draw = lambda: np.asarray(own_studio.generate(num_inference_steps=1).image)  # noqa: E731
    plain = draw()
    with torch.no_grad():
        next(own_studio.pipe.text_encoder.parameters()).mul_(1.5)
    assert not np.array_equal(plain, draw())


def test_styles_act_as_asked_whatever_was_set_by_hand():
    studio = lcm_nb.load("style-lora", profile="mini")
    settings = {"num_inference_steps": 1, "seed": 2}
    before, without = (studio.generate(**settings, **given).image for given in ({}, {"papercut": 0.0}))
    assert before.tobytes() != without.tobytes()
    for change in (lambda: studio.pipe.set_adapters(["neon"], [0.3]), studio.pipe.disable_lora):
        change()
        assert studio.generate(**settings).image.tobytes() == before.tobytes()
        assert studio.generate(**settings, papercut=0.0).image.tobytes() == without.tobytes()


def test_a_call_can_be_sent_to_another_process():
    call = Call({"prompt": "a fox"}, 7, Image.new("RGB", (64, 64), "red"))
    assert pickle.loads(pickle.dumps(call)) == call


def test_sections_hold_once_what_they_read_from_the_same_files():
    studios = [lcm_nb.load(section) for section in ("text-to-image", "t2i-adapter")]
    first, second = (studio.runtime.pipe for studio in studios)
    for name in ("text_encoder", "text_encoder_2", "vae", "unet"):
        assert getattr(first, name) is getattr(second, name), name
    assert lcm_nb.load("style-lora").runtime.pipe.unet is not first.unet, "LoRAs change it"


def test_a_network_that_was_changed_is_read_anew():
    changed = lcm_nb.load("image-to-image").runtime.pipe
    with torch.no_grad():
        changed.unet.conv_in.weight.mul_(2)
    again = lcm_nb.load("image-to-image").runtime.pipe
    assert again.vae is changed.vae and again.unet is not changed.unet
    assert torch.equal(again.unet.conv_in.weight * 2, changed.unet.conv_in.weight)
    assert lcm_nb.load("inpainting").runtime.pipe.unet is not again.unet, "its configuration is another"
