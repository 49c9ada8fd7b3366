"""The exercises' checkers: they turn down what is wrong, say why, and take what is right."""

import json

import pytest

from lcm_nb.tutorial import checks

UNTOUCHED = [
    lambda: checks.timesteps(None, num_inference_steps=3),
    lambda: checks.timesteps(..., num_inference_steps=3),
    lambda: checks.evaluations(None, None),
    lambda: checks.evaluations(4, None),
    lambda: checks.recognised(None, subject="fox"),
    lambda: checks.lora_size(None, rank=16, inputs=96, outputs=128, kernel_size=3),
    lambda: checks.combined(None, 1.0),
]


@pytest.mark.parametrize("check", UNTOUCHED)
def test_an_untouched_answer_gets_a_hint(check, capsys):
    assert check() is False
    assert capsys.readouterr().out.startswith("Hint: ")


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ([999, 679], "2 timesteps, but 3 UNet steps run"),
        ([999, 700, 339], "700 is not a point of the schedule"),
        ([339, 679, 999], "count down"),
        ([999, 659, 339], "step 2 is elsewhere; round 1 x 50 / 3 down"),
        ("999, 679, 339", "not a list of whole numbers"),
        (999, "not a list of whole numbers"),
    ],
)
def test_wrong_timesteps_are_turned_down_with_the_reason(answer, why, capsys):
    assert checks.timesteps(answer, num_inference_steps=3) is False
    told = capsys.readouterr().out
    assert told.startswith("Not yet: ")
    assert why in told


def test_right_timesteps_are_taken(capsys):
    assert checks.timesteps((999, 679, 339), num_inference_steps=3) is True
    assert capsys.readouterr().out.startswith("Right: ")


@pytest.mark.parametrize(("lcm", "ddim", "right"), [(4, 50, True), (8, 50, False), (4, 25, False), (4, "50", False)])
def test_evaluations_are_counted(lcm, ddim, right, capsys):
    assert checks.evaluations(lcm, ddim) is right
    assert capsys.readouterr().out.startswith("Right: " if right else "Not yet: ")


@pytest.mark.parametrize("prompt", ["", "  ", 7])
def test_no_prompt_is_turned_down(prompt, capsys):
    assert checks.recognised(prompt, subject="fox") is False
    assert "write a text" in capsys.readouterr().out


def test_a_picture_of_something_else_is_turned_down(capsys):
    assert checks.recognised("a penguin in the snow", background="space", seeds=(0,), least=1) is False
    told = capsys.readouterr().out
    assert told.startswith("Not yet: the judge sees background space in 0 of 1 pictures")
    assert "background snow" in told


def test_a_picture_of_what_is_wanted_is_taken(capsys):
    assert checks.recognised("a penguin in the snow", background="snow", seeds=(0, 1), least=1) is True
    assert "in 2 of 2 pictures" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("kernel_size", "answer", "right"),
    [(None, 16 * (96 + 128), True), (3, 16 * (96 * 9 + 128), True), (3, 16 * (96 + 128) * 9, False)],
)
def test_the_numbers_of_a_lora_are_counted(kernel_size, answer, right, capsys):
    assert checks.lora_size(answer, rank=16, inputs=96, outputs=128, kernel_size=kernel_size) is right
    assert capsys.readouterr().out.startswith("Right: " if right else "Not yet: ")


def test_two_loras_must_show_subject_and_style(capsys):
    assert checks.combined("much", 1.0) is False
    assert checks.combined(1.0, 0.0) is False
    assert "the style is too weak" in capsys.readouterr().out
    assert checks.combined(1.0, 1.0) is True
    assert capsys.readouterr().out.startswith("Right: ")


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (lambda z, clean, a, s, a2, s2: a2 * clean, "the noise is missing"),
        (lambda z, clean, a, s, a2, s2: a2 * clean + s2 * z, "z itself is not the noise"),
        (lambda z, clean, a, s, a2, s2: a2 * clean + s2 * (z - clean), "the latent is another"),
        (lambda z, clean, a, s, a2, s2: a2, "the shape ()"),
        (lambda z, clean: z, "TypeError"),
        (7, "TypeError"),
    ],
)
def test_a_wrong_step_of_ddim_is_turned_down_with_the_reason(answer, why, capsys):
    assert checks.ddim_step(answer) is False
    told = capsys.readouterr().out
    assert told.startswith("Not yet: ")
    assert why in told


def test_the_right_step_of_ddim_is_taken(capsys):
    assert checks.ddim_step(lambda z, clean, a, s, a2, s2: a2 * clean + s2 * (z - a * clean) / s) is True
    assert capsys.readouterr().out.startswith("Right: ")


TABLE = {("LCM", 4): 10.0, ("DDIM", 25): 9.0, ("DDIM", 2): 30.0, ("DDIM", 4): 12.0, ("DDIM", 8): 10.0}


@pytest.mark.parametrize(
    ("answer", "figure", "why"),
    [
        (8, "frechet", "Right: "),
        (4, "frechet", "lower is better"),
        (25, "frechet", "fewer steps are enough"),
        (3, "frechet", "3 steps were not measured; 2, 4, 8, 25 were"),
        (2, "subject", "Right: "),
        (25, "subject", "higher is better"),
    ],
)
def test_where_ddim_overtakes_is_read_from_the_table(answer, figure, why, tmp_path, monkeypatch, capsys):
    rows = [dict(sampler=name, steps=steps, **{figure: value}) for (name, steps), value in TABLE.items()]
    (tmp_path / "figures.json").write_text(json.dumps({"table": rows}))
    monkeypatch.setattr(checks, "FIGURES", tmp_path / "figures.json")
    assert checks.overtaken(answer, figure=figure) is why.startswith("Right")
    assert why in capsys.readouterr().out


def test_the_table_that_ships_is_read(capsys):
    assert not checks.overtaken(3, figure="subject")
    assert "3 steps were not measured; 1, 2, 4, 8, 25, 50 were." in capsys.readouterr().out


def test_distillation_forwards_are_counted(capsys):
    assert not checks.distillation_forwards(None)
    assert not checks.distillation_forwards(3)
    assert checks.distillation_forwards(4)
    assert [line.split(":")[0] for line in capsys.readouterr().out.splitlines()] == ["Hint", "Not yet", "Right"]


@pytest.mark.parametrize(
    ("function", "word"),
    [
        (lambda z, v, alpha, sigma, t: None, "Hint"),
        (lambda z, v, alpha, sigma, t: alpha * z - sigma * v, "Not yet: at timestep 0"),
        (lambda z, v, alpha, sigma, t: (alpha * z - sigma * v).mean(), "Not yet: the result is no tensor"),
        (lambda z, v, alpha, sigma, t: alpha * z + sigma * v, "Not yet: at timestep 999"),
    ],
)
def test_a_wrong_consistency_function_is_told_where(function, word, capsys):
    assert not checks.consistency_function(function)
    assert capsys.readouterr().out.startswith(word)
