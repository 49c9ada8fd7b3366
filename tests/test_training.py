"""The training code: its data and its maths, then every stage at a size that only proves that it runs."""

import json
import re
import shutil
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import AutoencoderTiny, DDIMScheduler, LCMScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

pytest.importorskip("resvg_py", reason="resvg is not installed: pip install lcm_nb[training]")

from lcm_nb.models.checkpoints import MINI
from lcm_nb.models.device import DTYPE_ARGUMENT
from lcm_nb.models.judge import Judge
from lcm_nb.models.vocabulary import BACKGROUNDS, MEDIUMS, PALETTES, SETTINGS, SUBJECTS, SYNONYMS, plural
from lcm_nb.training import (
    card,
    data,
    distill,
    evaluate,
    loop,
    lora,
    measure_samplers,
    measure_sections,
    own,
    scenes,
    ship,
    teacher,
    text,
)
from lcm_nb.training.__main__ import STAGES, main
from lcm_nb.training.rows import Rows
from lcm_nb.training.styles import STYLES
from lcm_nb.tutorial import measure
from lcm_nb.tutorial.captions import labels, scene_at, styled_scene_at

COUNT = 400  # scenes looked at


def write_icons(work) -> None:
    """Write a coloured shape for every icon that the scenes name, so that nothing is fetched."""
    names = {*SUBJECTS.values(), *(icon for landscape in scenes.LANDSCAPES.values() for icon in landscape[-1])}
    bodies = {}
    for i, name in enumerate(sorted(names)):
        fill = f"hsl({i * 47 % 360}, 80%, {30 + i % 5 * 10}%)"
        shape = '<circle cx="16" cy="16" r="14"' if i % 2 else '<rect x="4" y="6" width="24" height="20"'
        bodies[name] = {"body": f'{shape} fill="{fill}"/>'}
    folder = work / "icons"
    folder.mkdir(parents=True)
    (folder / "icons.json").write_text(json.dumps({"icons": bodies}))


@pytest.fixture(scope="module")
def painter(tmp_path_factory):
    work = tmp_path_factory.mktemp("icons")
    write_icons(work)
    return scenes.Painter(data.icons(work))


def some(**options):
    """Return the first scenes of a stream, with their captions."""
    return [scene_at(5, i, **options) for i in range(COUNT)]


# -- scenes and captions ---------------------------------------------------------------


def test_a_scene_depends_on_its_seed_and_number_alone():
    assert scene_at(3, 17) == scene_at(3, 17)
    assert scene_at(3, 17) != scene_at(3, 18)
    assert scene_at(3, 17) != scene_at(4, 17)


def test_a_picture_depends_on_its_scene_alone(painter):
    first, second = scene_at(3, 17)[0], scene_at(3, 18)[0]
    picture = painter.draw(first)
    assert (picture.shape, picture.dtype) == ((scenes.CANVAS, scenes.CANVAS, 3), np.uint8)
    painter.draw(second)
    assert np.array_equal(painter.draw(first), picture)
    assert not np.array_equal(painter.draw(second), picture)
    assert painter.draw(first, 128).shape == (128, 128, 3)


def test_held_out_combinations_are_never_trained_on():
    def combinations(pairs):
        return {(tuple(sorted(s.subjects)), s.background, s.palette, s.medium) for s, _ in pairs}

    train, held_out = some(), some(held_out=True)
    assert not any(scene.held_out for scene, _ in train)
    assert all(scene.held_out for scene, _ in held_out)
    assert combinations(train).isdisjoint(combinations(held_out))
    assert {text for _, text in train}.isdisjoint(text for _, text in held_out)


def words_for(name: str) -> tuple[str, ...]:
    return (name, plural(name), *SYNONYMS.get(name, ()))


def missing(scene, text: str) -> list[str]:
    """Return what the scene shows on purpose and its caption does not name."""
    named = [(name, words_for(name)) for name in scene.subjects]
    named += [(colour, (colour,)) for colour in scene.colours if colour]
    if scene.background_named:
        named.append((scene.background, SETTINGS.get(scene.background, (scene.background,))))
    if scene.palette:
        named.append((scene.palette, PALETTES[scene.palette]))
    if scene.medium:
        named.append((scene.medium, MEDIUMS[scene.medium]))
    return [label for label, words in named if not any(word in text for word in words)]


@pytest.mark.parametrize("held_out", [False, True])
def test_captions_name_what_the_scene_shows(held_out):
    wrong = [(scene, text) for scene, text in some(held_out=held_out) if missing(scene, text)]
    assert wrong == []


def test_held_out_captions_always_name_the_background():
    assert all(scene.background_named for scene, _ in some(held_out=True))


def test_the_family_is_as_large_as_was_asked_for():
    assert len(SUBJECTS) >= 100
    assert (len(SETTINGS), len(BACKGROUNDS) - len(SETTINGS), len(PALETTES), len(MEDIUMS)) == (10, 12, 6, 3)
    assert "papercut" not in json.dumps([text for _, text in some()])  # a later LoRA brings it


def test_labels_are_indices_into_the_judges_classes():
    for scene, _ in some()[:50]:
        row = labels(scene)
        assert tuple(list(SUBJECTS)[i] for i in row["subjects"]) == scene.subjects
        assert BACKGROUNDS[row["background"]] == scene.background
        assert (None, *PALETTES)[row["palette"]] == scene.palette
        assert (None, *MEDIUMS)[row["medium"]] == scene.medium


def test_without_npm_the_remedy_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(RuntimeError, match="npm is not installed; install it, or unpack .*fluent-emoji-flat"):
        data.icons(tmp_path)


# -- the maths of distillation ---------------------------------------------------------


def test_the_boundary_condition_holds_at_zero_and_matches_the_scheduler():
    c_skip, c_out = distill.boundary_scalings(torch.tensor([0.0, 19.0, 999.0]))
    assert (c_skip[0].item(), c_out[0].item()) == (1.0, 0.0)
    scheduler = LCMScheduler.from_config(teacher.SCHEDULE)
    for i, t in enumerate((0, 19, 999)):
        expected = scheduler.get_scalings_for_boundary_condition_discrete(torch.tensor(float(t)))
        torch.testing.assert_close((c_skip[i].squeeze(), c_out[i].squeeze()), expected)


@pytest.fixture(scope="module")
def pipe(tmp_path_factory):
    """Return an untrained pipeline."""
    torch.manual_seed(0)
    tokenizer = teacher.text.build_tokenizer(["a cute fox"], tmp_path_factory.mktemp("tokenizer"))
    return teacher.build_pipeline(AutoencoderTiny(latent_channels=4), tokenizer, side=16)


@pytest.fixture(scope="module")
def unet(pipe):
    return pipe.unet.eval()


def inputs(count: int = 2):
    """Latents and text conditions of random numbers."""
    generator = torch.Generator().manual_seed(1)

    def noise(*shape):
        return torch.randn(shape, generator=generator)

    width = teacher.text.WIDTH
    condition = dict(
        encoder_hidden_states=noise(count, 8, 2 * width),
        added_cond_kwargs=dict(text_embeds=noise(count, width), time_ids=torch.full((count, 6), 128)),
    )
    return noise(count, 4, 16, 16), condition


@torch.no_grad()
def test_a_new_student_is_its_teacher_whatever_the_guidance(unet):
    z, condition = inputs()
    t = torch.tensor([19, 999])
    student = distill.student_of(unet)
    assert student.config.time_cond_proj_dim == distill.W_WIDTH
    expected = unet(z, t, **condition).sample
    for w in (1.0, 13.0):
        found = student(z, t, timestep_cond=distill.embed_w(torch.full((2,), w)), **condition).sample
        torch.testing.assert_close(found, expected)


@torch.no_grad()
def test_strengthened_guidance_leaves_8_as_it_was_and_acts_evenly_on_both_sides(unet):
    student = distill.student_of(unet)
    torch.nn.init.normal_(student.time_embedding.cond_proj.weight, std=0.1, generator=torch.Generator().manual_seed(0))

    def told(scale):
        return student.time_embedding.cond_proj(distill.embed_w(torch.tensor([scale - 1.0])))

    before = told(8.0) - told(1.0), told(8.0)
    distill.strengthen_guidance(student, 2.0)
    torch.testing.assert_close(told(8.0), before[1], rtol=0, atol=0.02)
    for scale in (1.0, 4.5, 11.0, 14.0):
        torch.testing.assert_close(told(scale) - told(8.0), 2 * (scale - 8) / 7 * before[0], rtol=0, atol=0.03)


@torch.no_grad()
def test_the_consistency_function_at_zero_is_the_identity(pipe):
    z, condition = inputs()
    module = distill.Distillation(teacher.Teacher(pipe))
    w, schedule = torch.tensor([3.0, 7.0]), module.teacher.schedule
    zero = torch.zeros(2, dtype=torch.long)
    assert torch.equal(distill.consistency(module.student, schedule, z, zero, condition, w), z)
    elsewhere = distill.consistency(module.student, schedule, z, torch.full((2,), 499), condition, w)
    assert not torch.allclose(elsewhere, z, atol=0.1)


@torch.no_grad()
def test_the_target_follows_the_student_slowly(pipe):
    module = distill.Distillation(teacher.Teacher(pipe))
    before = module.target.conv_in.weight.clone()
    module.student.conv_in.weight.add_(1.0)
    distill.update_target(module.target, module.student, decay=0.75)
    torch.testing.assert_close(module.target.conv_in.weight, before + 0.25)


@pytest.mark.parametrize("scale", [1.0, 8.0, 14.0])
def test_guidance_is_embedded_as_the_pipeline_does(studio, scale):
    seen = []
    hook = studio.pipe.unet.register_forward_hook(
        lambda module, arguments, options, output: seen.append(options["timestep_cond"].float().cpu()), with_kwargs=True
    )
    with hook:
        studio.generate(num_inference_steps=1, guidance_scale=scale)
    expected = distill.embed_w(torch.tensor([scale - 1])).to(studio.checkpoints.dtype).float()
    assert torch.equal(seen[0], expected)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_guidance_is_embedded_where_its_argument_is():
    w = torch.tensor([7.0])
    torch.testing.assert_close(distill.embed_w(w.cuda()).cpu(), distill.embed_w(w))


def test_pseudo_huber_is_square_near_zero_and_linear_far_away():
    c = distill.HUBER_C
    zero = torch.zeros(3)
    assert distill.pseudo_huber(zero, zero).item() == 0
    near, far = torch.full((3,), c / 10), torch.full((3,), 1000 * c)
    assert distill.pseudo_huber(near, zero).item() == pytest.approx((c / 10) ** 2 / (2 * c), rel=0.01)
    assert distill.pseudo_huber(far, zero).item() == pytest.approx(999 * c, rel=0.001)
    assert distill.pseudo_huber(near, far).item() == distill.pseudo_huber(far, near).item()


@pytest.mark.parametrize("t", [999, 499, 19])
def test_the_solver_is_ddim_with_a_stride_of_twenty(t):
    z, _ = inputs(1)
    velocity = torch.randn(z.shape, generator=torch.Generator().manual_seed(2))
    scheduler = DDIMScheduler.from_config(teacher.SCHEDULE)
    scheduler.set_timesteps(50)
    assert t in scheduler.timesteps
    expected = scheduler.step(velocity, t, z, eta=0.0).prev_sample
    schedule, now = teacher.Schedule(), torch.tensor([t])
    clean, noise = schedule.clean_and_noise(z, now, velocity)
    found = schedule.ddim_step(clean, noise, (now - distill.SKIP).clamp(min=0))
    torch.testing.assert_close(found, expected)


class FakeTeacher(nn.Module):
    """A teacher whose velocity is 2 z with a prompt and -z without one."""

    def __init__(self):
        super().__init__()
        self.schedule = teacher.Schedule()

    @property
    def unet(self):
        return self

    def forward(self, z, t, *, encoder_hidden_states, added_cond_kwargs):
        told = encoder_hidden_states.abs().sum((1, 2)) > 0
        assert torch.equal(told, added_cond_kwargs["text_embeds"].abs().sum(1) > 0)
        return SimpleNamespace(sample=torch.where(told[:, None, None, None], 2 * z, -z))


def test_timesteps_are_pairs_of_the_solvers_points():
    t, t_next = distill.sample_timesteps(500, torch.Generator().manual_seed(0))
    assert set(t.tolist()) == set(range(19, 1000, 20))
    assert torch.equal(t_next, (t - 20).clamp(min=0))
    w = distill.sample_w(500, torch.Generator().manual_seed(0))
    assert 0 <= w.min() < 0.5 and 12.5 < w.max() < 13


@pytest.mark.parametrize("w", [0.0, 7.0])
def test_the_guided_solver_step_is_that_of_the_paper(w):
    fake = FakeTeacher()
    z, _ = inputs(2)
    t, t_next = torch.tensor([999, 499]), torch.tensor([979, 479])
    added = dict(text_embeds=torch.ones(2, 3), time_ids=torch.zeros(2, 6))
    condition = dict(encoder_hidden_states=torch.ones(2, 4, 3), added_cond_kwargs=added)
    nothing = dict(
        encoder_hidden_states=torch.zeros(2, 4, 3),
        added_cond_kwargs=dict(text_embeds=torch.zeros(2, 3), time_ids=torch.zeros(2, 6)),
    )
    found = distill.guided_solver_step(fake, z, t, t_next, torch.full((2,), w), (condition, nothing))

    def psi(velocity):  # what one DDIM step adds
        return fake.schedule.ddim_step(*fake.schedule.clean_and_noise(z, t, velocity), t_next) - z

    torch.testing.assert_close(found, z + (1 + w) * psi(2 * z) - w * psi(-z))


def test_the_student_aims_at_the_target_one_solver_step_nearer_to_the_picture(monkeypatch):
    """Eq. 16: the student at t_{n+k}, the target at t_n, both told the same w; the solver gets it in its unit."""
    module = distill.Distillation.__new__(distill.Distillation)
    nn.Module.__init__(module)
    module.student, module.target = "student", "target"
    module.teacher = SimpleNamespace(condition=lambda ids, keep: {"keep": keep}, schedule=teacher.Schedule())
    asked, strengths = [], []

    def consistency(unet, schedule, z, t, condition, w):
        asked.append((unet, t.tolist(), w))
        return z

    def guided_solver_step(teacher, z, t, t_next, w, texts):
        strengths.append(w)
        return z + 1

    monkeypatch.setattr(distill, "consistency", consistency)
    monkeypatch.setattr(distill, "guided_solver_step", guided_solver_step)
    latents, w = torch.zeros(2, 4, 4, 4), torch.tensor([0.0, 13.0])
    t, t_next = torch.tensor([19, 999]), torch.tensor([0, 979])
    loss = module(latents, torch.zeros(2, 5), torch.zeros_like(latents), t, t_next, w)
    assert [(unet, t) for unet, t, _ in asked] == [("target", [0, 979]), ("student", [19, 999])]
    assert torch.equal(asked[0][2], w) and torch.equal(asked[1][2], w)
    torch.testing.assert_close(strengths[0], w * distill.W_UNIT)
    assert loss.item() == pytest.approx(1.0, abs=2e-3)


def frame(left: int) -> np.ndarray:
    """Return a map with one square."""
    edges = np.zeros((64, 64), np.uint8)
    edges[10:50, [left, left + 30]] = 255
    edges[[10, 49], left : left + 30] = 255
    return edges


@pytest.mark.parametrize(("shift", "least", "most"), [(0, 1, 1), (2, 1, 1), (6, 0, 0.7)])
def test_edges_are_met_within_two_pixels(shift, least, most):
    assert least <= measure_sections.edge_f1(frame(10), frame(10 + shift)) <= most


def test_edges_that_were_not_asked_for_cost_precision():
    alone, more = frame(10), frame(10) | frame(20)
    assert measure_sections.edge_f1(alone, more) == measure_sections.edge_f1(more, alone) < 1
    assert measure_sections.edge_f1(alone, np.zeros_like(alone)) == 0


def test_layout_is_of_colours_and_their_places():
    picture = np.random.default_rng(0).integers(0, 255, (8, 8, 3), np.uint8).repeat(16, 0).repeat(16, 1)
    assert measure_sections.layout_similarity(picture, picture) == pytest.approx(1)
    assert measure_sections.layout_similarity(picture, 255 - picture) == pytest.approx(-1)
    assert abs(measure_sections.layout_similarity(picture, picture[:, ::-1])) < 0.5


@pytest.mark.parametrize("style", STYLES)
def test_a_style_is_a_look_of_its_own(painter, style):
    scene, text = styled_scene_at(5, 3, style, subjects=1)
    assert text.startswith(f"{style}, ")
    assert (scene.palette, scene.medium) == (None, None)
    picture = STYLES[style](painter, scene)
    assert picture.shape == (scenes.CANVAS, scenes.CANVAS, 3)
    assert np.abs(picture.astype(int) - painter.draw(scene)).mean() > 8


def test_styled_scenes_are_held_out_by_what_they_show():
    trained = {repr(styled_scene_at(5, i, "neon")[0].held_out) for i in range(50)}
    kept = {repr(styled_scene_at(5, i, "neon", held_out=True)[0].held_out) for i in range(50)}
    assert (trained, kept) == ({"False"}, {"True"})


# -- the loop --------------------------------------------------------------------------


def run_loop(work, *, steps: int, resume: bool = False):
    """Train a line through the loop; return how often its loss was asked for, and its first weight then."""
    torch.manual_seed(0)
    seen = []

    def loss_of(module, generator):
        seen.append(module.weight.item())
        return (module(torch.ones_like(module.weight)) - 10).square().mean()

    settings = loop.Settings(work, steps=steps, batch_size=2, learning_rate=0.5, resume=resume)
    loop.train("line", nn.Linear(1, 1), loss_of, settings, loop.make_accelerator())
    return seen, json.loads((work / "line" / "state.json").read_text())


def test_resume_continues_where_the_last_sitting_ended(tmp_path):
    first, state = run_loop(tmp_path, steps=3)
    assert (len(first), state["step"], state["samples"]) == (3, 3, 6)
    second, state = run_loop(tmp_path, steps=5, resume=True)
    assert (len(second), state["step"], state["samples"]) == (2, 5, 10)
    assert second[0] not in first  # the weights went on, too
    nothing, state = run_loop(tmp_path, steps=5, resume=True)
    assert (nothing, state["step"]) == ([], 5)


def test_a_resumed_run_ends_with_the_weights_of_one_that_never_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "learning_rate_factor", lambda step, progress: 1.0)  # it follows the budget

    def run(name, steps, resume=False):
        torch.manual_seed(0)
        module = nn.Sequential(nn.Conv2d(3, 24, 3), nn.Conv2d(24, 24, 3), nn.Flatten(), nn.Linear(24, 32))
        images = torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(1))
        settings = loop.Settings(tmp_path, steps=steps, learning_rate=1e-2, resume=resume)
        ema = loop.train(name, module, lambda m, _: m(images).square().mean(), settings, loop.make_accelerator())
        return {**module.state_dict(), **{f"ema.{i}": v for i, v in enumerate(ema.shadow_params)}}

    whole = run("whole", 6)
    run("halves", 3)
    halves = run("halves", 6, resume=True)
    assert all(torch.equal(whole[name], halves[name]) for name in whole)
    start = run("start", 1)
    assert not any(torch.equal(whole[name], start[name]) for name in whole)  # every kind of layer was trained


def test_the_average_warms_up_and_is_of_what_learns(tmp_path):
    module, weights = nn.Linear(1, 1), []
    module.bias.requires_grad_(False)
    expected, bias = module.weight.item(), module.bias.item()
    extras = loop.Extras(ema_decay=0.3, after_step=lambda m: weights.append(m.weight.item()))
    settings = loop.Settings(tmp_path, steps=5, learning_rate=0.5)
    average = loop.train("x", module, lambda m, _: m.weight.sum(), settings, loop.make_accelerator(), extras)
    for decay, weight in zip((2 / 11, 3 / 12, 4 / 13, 0.3, 0.3), weights, strict=True):
        expected = min(decay, 0.3) * expected + (1 - min(decay, 0.3)) * weight
    average.copy_to(loop.trainable(module))
    assert module.weight.item() == pytest.approx(expected, rel=1e-5)
    assert module.weight.item() != weights[-1]
    assert module.bias.item() == bias


def test_a_checkpoint_of_other_inputs_is_not_resumed(tmp_path):
    def run(made_from, resume):
        settings = loop.Settings(tmp_path, steps=1, resume=resume)
        module = nn.Linear(1, 1)
        extras = loop.Extras(made_from=made_from)
        loop.train("x", module, lambda m, _: m.weight.sum(), settings, loop.make_accelerator(), extras)

    run("these weights", resume=False)
    run("these weights", resume=True)
    with pytest.raises(ValueError, match="x was begun with other weights .* leave out --resume"):
        run("other weights", resume=True)
    run("other weights", resume=False)


def test_a_fingerprint_is_of_weights_alone():
    first, second = nn.BatchNorm1d(3), nn.BatchNorm1d(3)
    assert loop.fingerprint(first) == loop.fingerprint(second)
    second.weight.data[1] += 1e-3
    assert loop.fingerprint(first) != loop.fingerprint(second)


def test_without_resume_a_stage_starts_over(tmp_path):
    first, _ = run_loop(tmp_path, steps=3)
    again, state = run_loop(tmp_path, steps=3)
    assert again == first
    assert state["step"] == 3


# -- every stage, end to end -----------------------------------------------------------


# Stages that go on from the family that ships, or look at it: they change what the others left, so that they
# run in a copy of the folder, see test_what_ships_can_be_trained_on_and_looked_at.
AFTER = ("unpack", "trial", "sharpen", "shape", "blind")


def stage(name: str, work, *options: str) -> None:
    main([name, "--smoke", "--work", str(work), *options])


@pytest.fixture(scope="module")
def work(tmp_path_factory, environment):
    """Return a working folder in which every stage but ``AFTER`` has run at its smallest size, in their order."""
    work = tmp_path_factory.mktemp("work")
    write_icons(work)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", environment["PYTHONPATH"])  # for the process whose memory is measured
        for name in STAGES:
            if name in AFTER:
                continue
            stage(name, work)
            if name == "lora":
                stage("lora", work, "--family=sd")
            if name == "distill":
                stage("teacher", work, "--family=sd")
                stage("distill", work, "--family=sd")
    return work


def test_the_readme_names_the_stages_as_they_are(root):
    named = re.findall(r"python -m lcm_nb\.training (\w+)", (root / "README.md").read_text())
    assert len(named) > 10
    assert set(named) <= set(STAGES)


def test_stages_come_in_the_order_in_which_they_need_each_other():
    first = ["data", "geometry", "autoencoder", "teacher", "distill"]
    later = ["controlnet", "adapter", "lora", "lcm_lora", "judge", "budgets", "evaluate", "ship", "own"]
    assert list(STAGES) == [*first, *later, *AFTER]


def test_what_ships_can_be_trained_on_and_looked_at(work, tmp_path):
    copy = shutil.copytree(work, tmp_path / "copy", ignore=shutil.ignore_patterns("card"))
    encoder = loop.fingerprint(AutoencoderTiny.from_pretrained(copy / "vae").encoder)
    for name in ("trial", "sharpen"):
        stage(name, copy)
    stage("distill", copy, "--resume")
    for name in ("shape", "blind"):
        stage(name, copy)
    assert len(json.loads((copy / "trial.json").read_text())) == 6
    for folder in ("vae", "base/vae", "sd/vae", "sd-lcm/vae"):
        vae = AutoencoderTiny.from_pretrained(copy / folder)
        assert loop.fingerprint(vae.encoder) == encoder
    assert json.loads((copy / "shape.json").read_text())["LCM, 1 step"]["shape"][0] <= 1
    Image.open(copy / "blind" / "sheet.png").verify()


@pytest.mark.parametrize(("name", "folder"), [("adapter", "t2i-adapter-canny"), ("controlnet", "controlnet-canny")])
def test_a_control_goes_on_from_the_weights_that_are_there(work, tmp_path, name, folder):
    copy = shutil.copytree(work, tmp_path / "copy", ignore=shutil.ignore_patterns("card", f"{folder}-training"))
    path = copy / folder / "diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    key = next(key for key in weights if key.endswith("conv_in.bias"))
    weights[key] += 1
    save_file(weights, path)
    stage(name, copy, "--resume")
    assert (load_file(path)[key] - weights[key]).abs().max() < 0.01
    stage(name, copy)  # from nothing
    assert (load_file(path)[key] - weights[key]).abs().max() > 0.5


def test_what_was_measured_of_the_family_that_ships_is_not_measured_again(tmp_path):
    stage("unpack", tmp_path)
    figures = json.loads((ship.TARGET / "figures.json").read_text())
    pipe = measure_samplers.load_pipelines(tmp_path)["LCM"]
    judge = Judge.from_pretrained(tmp_path / "judge").eval()
    kept = Rows(tmp_path / "evaluate" / "rows.jsonl", resume=True)
    case = measure_samplers.case_of("LCM", 4, 8.0, pipe, judge, (figures["captions"], figures["pair_captions"]))
    assert kept.row(case, pytest.fail)["subject"] == card.find(figures, "LCM", 4)["subject"]
    with torch.no_grad():
        pipe.unet.conv_in.weight.mul_(2)
    changed = measure_samplers.case_of("LCM", 4, 8.0, pipe, judge, (figures["captions"], figures["pair_captions"]))
    assert kept.row(changed, lambda: {"subject": -1.0})["subject"] == -1.0
    cost = {row["stage"]: row for row in evaluate.training_cost(tmp_path)}
    assert cost == {row["stage"]: row for row in figures["training"]}
    assert len(evaluate.own_runs(tmp_path)) == len(figures["own"])
    path = tmp_path / "budgets" / "rows.jsonl"
    path.write_text(path.read_text().replace('"weights": "', '"weights": "0'))
    with pytest.raises(ValueError, match="is of another base: run .* budgets --resume"):
        evaluate.own_runs(tmp_path)


@pytest.mark.parametrize(
    "name",
    ["geometry", "autoencoder", "teacher", "distill", "controlnet", "adapter", "lora", "lcm_lora", "evaluate", "ship"],
)
def test_a_stage_without_what_it_needs_says_what_to_run(tmp_path, name):
    said = r"is missing: run `python -m lcm_nb\.training (\w+)[\w -]*` first"
    with pytest.raises(FileNotFoundError, match=said) as error:
        stage(name, tmp_path)
    order = list(STAGES)
    assert order.index(re.search(said, str(error.value))[1]) < order.index(name)


def test_data_are_pictures_captions_and_labels(work):
    captions = data.captions(work)
    rows = json.loads((work / "data" / "labels.json").read_text())
    assert data.pictures(work).shape == (len(captions), scenes.CANVAS, scenes.CANVAS, 3)
    assert len(rows) == len(captions) > 0
    assert captions[7] == scene_at(0, 7)[1]


def test_the_trained_parts_run_the_guides_code(work):
    loading = {"use_safetensors": True, DTYPE_ARGUMENT: torch.float32}
    unet = UNet2DConditionModel.from_pretrained(work / "lcm", **loading)
    pipe = StableDiffusionXLPipeline.from_pretrained(work / "base", unet=unet, **loading)
    pipe.scheduler = LCMScheduler.from_config(pipe.scheduler.config)
    image = pipe("a cute fox", num_inference_steps=2, guidance_scale=8.0, generator=torch.manual_seed(0)).images[0]
    assert image.size == (scenes.CANVAS, scenes.CANVAS)
    assert pipe.vae.config.scaling_factor == 1.0
    assert unet.config.time_cond_proj_dim == distill.W_WIDTH


def test_the_judge_names_what_it_sees(work):
    judge = Judge.from_pretrained(work / "judge", **{DTYPE_ARGUMENT: torch.float32}).eval()
    found = judge.describe(Image.new("RGB", (256, 256), "red"), count=2)
    assert len(found["subjects"]) == 2
    assert found["background"] in BACKGROUNDS


def test_evaluate_writes_the_card(work):
    figures = json.loads((work / "card" / "figures.json").read_text())
    card = (work / "card" / "MODEL_CARD.md").read_text()
    assert {row["sampler"] for row in figures["table"]} == {"LCM", "DDIM", "DPM-Solver++"}
    assert all(0 <= row["subject"] <= 1 and row["seconds"] > 0 for row in figures["table"])
    assert card.startswith("---") or card.startswith("# ")
    for word in ("LCM", "DDIM", "DPM-Solver++", "Fluent Emoji", "MIT"):
        assert word in card
    for name in ("contact_sheet", "guide_prompts"):
        Image.open(work / "card" / f"{name}.jpg").verify()


def test_held_out_captions_were_never_trained_on(work, tmp_path):
    captions, _ = measure_samplers.held_out_cases(work, 5, 1)
    copy = tmp_path / "data"
    copy.mkdir()
    (copy / "captions.json").write_text(json.dumps(captions[:2]))
    assert measure_samplers.held_out_cases(tmp_path, 3, 1)[0] == captions[2:]
    assert not set(captions) & set(data.captions(work))


def test_the_card_that_ships_is_written_from_the_figures_that_ship(tmp_path):
    figures = json.loads((MINI / "figures.json").read_text())
    assert card.write(tmp_path, figures).read_text() == (MINI / "MODEL_CARD.md").read_text()


@pytest.mark.parametrize(("subject", "outcome"), [(0.99, "reached"), (0.98, "**missed**")])
def test_the_card_says_what_was_reached(work, tmp_path, subject, outcome):
    figures = json.loads((work / "card" / "figures.json").read_text())
    lcm = card.find(figures, "LCM", 4)
    lcm["subject"] = subject
    text = card.write(tmp_path, figures).read_text()
    assert f"| subject | {100 * subject:.1f} % | 99.0 % | {outcome} |" in text
    lcm["seconds"] = 2.0
    assert "| seconds a picture | 2.00 | at most 0.25 | **missed** |" in card.write(tmp_path, figures).read_text()


def test_latents_of_another_encoder_are_not_used(work, tmp_path):
    copy = shutil.copytree(work, tmp_path / "copy", ignore=shutil.ignore_patterns("judge*", "card", "decoder"))
    before = np.load(copy / "data" / "latents.npy")
    assert torch.equal(teacher.encode_pictures(copy, torch.device("cpu")), torch.from_numpy(before))
    vae = AutoencoderTiny.from_pretrained(copy / "vae")
    vae.encoder.layers[-1].bias.data += 1
    vae.save_pretrained(copy / "vae")
    after = teacher.encode_pictures(copy, torch.device("cpu")).float().numpy()
    np.testing.assert_allclose(after - before, 1, atol=0.1)


def test_a_decoder_that_goes_on_learning_reaches_the_base(work, tmp_path):
    copy = shutil.copytree(work, tmp_path / "copy", ignore=shutil.ignore_patterns("judge*", "card"))
    step = json.loads((copy / "decoder" / "state.json").read_text())["step"]
    encoder = AutoencoderTiny.from_pretrained(copy / "vae").encoder
    before = loop.fingerprint(AutoencoderTiny.from_pretrained(copy / "base" / "vae").decoder)
    stage("autoencoder", copy, "--resume", "--steps", str(5 * (step + 1)))
    vae = AutoencoderTiny.from_pretrained(copy / "base" / "vae")
    assert loop.fingerprint(vae.decoder) != before
    assert loop.fingerprint(vae.encoder) == loop.fingerprint(encoder)  # the latents stay good


def test_two_processes_train_as_one(work, tmp_path):
    """As `accelerate launch` does it: twice the samples an update, one set of files."""
    copy = shutil.copytree(work, tmp_path / "copy", ignore=shutil.ignore_patterns("judge*", "card"))
    several = ["--multi_gpu", "--num_processes=2", "--num_machines=1", "--mixed_precision=no", "--dynamo_backend=no"]
    options = ["distill", "--smoke", "--steps=2", "--batch-size=2", f"--work={copy}"]
    launch = [sys.executable, "-m", "accelerate.commands.launch", *several, "-m", "lcm_nb.training", *options]
    done = subprocess.run(launch, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    state = json.loads((copy / "distill" / "state.json").read_text())
    assert (state["step"], state["samples"]) == (2, 8)


def test_the_optimizer_follows_parameters_to_other_memory():
    """Where several processes train, accelerate moves the parameters after the optimizer has seen them."""
    layer = torch.nn.Linear(32, 32)
    optimizer = loop.Optimizer(layer, 1e-2)
    for parameter in layer.parameters():
        parameter.data, parameter.grad = parameter.data.clone(), torch.randn_like(parameter)
    before = {name: value.detach().clone() for name, value in layer.named_parameters()}
    optimizer.step(1e-2)
    for name, value in layer.named_parameters():
        assert (value != before[name]).float().mean() > 0.9, name


def test_two_processes_distil_as_one_with_the_double_batch(tmp_path):
    """Notebook 08's loop: the same loss curve and the same way through the weights, but for bfloat16's rounding."""
    several = ["--multi_gpu", "--num_processes=2", "--num_machines=1", "--mixed_precision=no", "--dynamo_backend=no"]
    launch = [sys.executable, "-m", "accelerate.commands.launch", *several, "-m", "lcm_nb.training"]
    start = UNet2DConditionModel.from_pretrained(MINI / "sd" / "unet").state_dict()
    losses, ways = {}, {}
    main(["own", "--steps=8", "--batch-size=8", f"--work={tmp_path / 'one'}"])
    options = ["own", "--steps=8", "--batch-size=4", f"--work={tmp_path / 'two'}"]
    done = subprocess.run([*launch, *options], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    for name in ("one", "two"):
        lines = (tmp_path / name / "own" / "losses.jsonl").read_text().splitlines()
        losses[name] = np.array([json.loads(line)["loss"] for line in lines])
        end = UNet2DConditionModel.from_pretrained(tmp_path / name / "own" / "unet").state_dict()
        ways[name] = torch.cat([(end[key].float() - value.float()).flatten() for key, value in start.items()])
    assert losses["one"].std() > 0.15 * losses["one"].mean(), "the batches differ from one another"
    assert losses["two"][0] == pytest.approx(losses["one"][0], rel=1e-4)
    np.testing.assert_allclose(losses["two"], losses["one"], rtol=0.08)
    assert torch.nn.functional.cosine_similarity(ways["one"], ways["two"], dim=0) > 0.9


def test_the_shard_holds_the_first_latents(work):
    latents, captions = measure.load_shard(work / measure.SHARD)
    exact = teacher.encode_pictures(work, torch.device("cpu")).float()
    assert latents.shape == exact.shape == (len(captions), 8, 16, 16)
    assert captions == data.captions(work)
    assert float((latents - exact).square().mean().sqrt()) < 0.02 * float(exact.std())


def test_each_variant_is_what_it_says(work):
    """Losses of the first update, where all start alike, and of the second."""
    base, frozen = own.load_teacher(folder=work)
    shard, accelerator = own.Shard(base.tokenizer, work), loop.make_accelerator()
    settings = loop.Settings(work, steps=3, batch_size=4, learning_rate=1e-3)
    runs = {}
    for name, variant in own.VARIANTS.items():
        torch.manual_seed(0)
        runs[name] = list(own.distil(own.new_student(frozen), frozen, shard, settings, accelerator, variant))
    whole, none, skip, fixed = runs.values()
    assert whole[0] == none[0], "student and target start alike"
    assert whole[1] != none[1]
    assert len({whole[0], skip[0], fixed[0]}) == 3, "the solver's steps differ"


def test_a_budget_ends_by_steps_or_by_minutes(monkeypatch):
    assert list(own.budget(steps=4)) == [0.0, 0.25, 0.5, 0.75]
    clock = iter([100.0, 100.0, 130.0, 160.0])
    monkeypatch.setattr("lcm_nb.training.own.time.monotonic", lambda: next(clock))
    assert list(own.budget(minutes=1)) == [0.0, 0.5]


def test_resume_on_the_command_line_continues_a_stage(work, tmp_path):
    copy = shutil.copytree(work, tmp_path / "copy", ignore=shutil.ignore_patterns("judge*", "card"))
    before = json.loads((copy / "distill" / "state.json").read_text())
    steps, count = before["step"] + 1, before["samples"]
    stage("distill", copy, "--resume", "--steps", str(steps), "--batch-size", "1")
    after = json.loads((copy / "distill" / "state.json").read_text())
    assert (after["step"], after["samples"]) == (steps, count + 1)


def test_evaluate_resumed_keeps_the_rows_that_are_judged(work, tmp_path, monkeypatch):
    copy = shutil.copytree(work, tmp_path / "copy", ignore=shutil.ignore_patterns("judge-*", "card"))
    path = copy / "evaluate" / "rows.jsonl"
    first, *others = map(json.loads, path.read_text().splitlines())
    first["subject"] = 0.125  # a mark: no four captions give it
    path.write_text("".join(json.dumps(row) + "\n" for row in [first, *others[1:]]))
    for module, name in ((measure, "sheet"), (measure_sections, "contact_sheet")):  # drawn, not judged
        monkeypatch.setattr(module, name, lambda *arguments: Image.new("RGB", (8, 8)))
    monkeypatch.setattr(measure_samplers, "peak_memory", lambda work: 500.0)  # of a process: looked at once is enough
    stage("evaluate", copy, "--resume")
    table = json.loads((copy / "card" / "figures.json").read_text())["table"]
    assert table[0]["subject"] == 0.125
    assert [(row["sampler"], row["steps"]) for row in table] == [
        ("LCM", 1),
        ("LCM", 4),
        ("DDIM", 2),
        ("DPM-Solver++", 2),
    ]
    assert {k: v for k, v in table[1].items() if k != "seconds"} == others[0]


def test_stable_diffusion_starts_from_what_sdxl_has_learnt(work):
    """With the average pooled text the two see the same, but for the states of the first encoder."""
    base = teacher.load_base(loop.Settings(work))
    ids = text.tokenize(base.tokenizer, data.captions(work)[:32])
    sd = teacher.derive_sd(base, ids)
    states = base.text_encoder_2(ids, output_hidden_states=True).hidden_states[-2]
    found = sd.text_encoder(ids)[0]
    assert torch.corrcoef(torch.stack([states.flatten(), found.flatten()]))[0, 1] > 0.98
    first = base.unet.down_blocks[1].attentions[0].transformer_blocks[0].attn2.to_k.weight
    assert torch.equal(sd.unet.down_blocks[1].attentions[0].transformer_blocks[0].attn2.to_k.weight, first[:, -96:])
    assert sd.unet.config.addition_embed_type is None


def test_the_lora_file_loads_whole(work):
    pipe = StableDiffusionXLPipeline.from_pretrained(work / "base")
    pipe.load_lora_weights(work / "loras", weight_name="papercut.safetensors", adapter_name="papercut")
    layers = {name for name, _ in pipe.unet.named_parameters() if "lora_" in name}
    for target in lora.TARGETS:
        assert any(f".{target}.lora_A" in name for name in layers), target
    with safe_open(work / "loras" / "papercut.safetensors", framework="pt") as file:
        assert len(layers) == len(list(file.keys()))


def test_a_judge_that_knows_no_style_is_refused(work):
    judge = Judge(list(SUBJECTS), list(BACKGROUNDS), ["none", *PALETTES], ["none", *MEDIUMS])
    with pytest.raises(ValueError, match="does not know neon, papercut; train it again"):
        measure_sections.loras("style-lora", work, judge, Rows(work / "evaluate" / "x.jsonl", resume=False), 1)


def test_ship_copies_the_family_and_its_card(work):
    shipped = work / "shipped"
    for part in ("base/unet", "lcm", "judge"):
        name = "diffusion_pytorch_model.safetensors"
        assert (shipped / part / name).read_bytes() == (work / part / name).read_bytes()
    assert {"MODEL_CARD.md", "figures.json", "contact_sheet.jpg"} <= {path.name for path in shipped.iterdir()}
    assert not [path for path in shipped.rglob("*.json") if "_name_or_path" in path.read_text()]


def test_ship_refuses_a_family_that_is_too_large(work, tmp_path, monkeypatch):
    monkeypatch.setattr(ship, "LIMIT_MB", 1)
    target = tmp_path / "mini"
    target.mkdir()
    with pytest.raises(ValueError, match="may carry 1 MB"):
        ship.ship(work, target)
    assert target.is_dir()  # nothing was replaced
