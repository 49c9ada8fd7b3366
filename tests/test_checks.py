"""The exercises' checkers: they turn down what is wrong, say why, and take what is right."""

import pytest

from lcm_nb import checks

UNTOUCHED = [
    lambda: checks.timesteps(None, num_inference_steps=3),
    lambda: checks.timesteps(..., num_inference_steps=3),
    lambda: checks.evaluations(None, None),
    lambda: checks.evaluations(4, None),
    lambda: checks.recognised(None, subject="fox"),
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
