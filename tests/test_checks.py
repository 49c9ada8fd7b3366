"""The exercises' checkers: they turn down what is wrong, say why, and take what is right."""

import itertools
import json
import re

import numpy as np
import pytest
import torch
from IPython.core.formatters import DisplayFormatter
from PIL import Image

from lcm_nb.schedule import boundary_scalings
from lcm_nb.tutorial import answers, checks, progress, questions
from lcm_nb.tutorial.questions import QUESTIONS

GIVEN, DRAWN = (Image.new("RGB", (32, 32), colour) for colour in ("red", "blue"))
MASK = Image.new("L", (32, 32))
MASK.paste(255, (0, 0, 16, 32))
UNTOUCHED = [
    lambda: checks.timesteps(None, num_inference_steps=3),
    lambda: checks.timesteps(..., num_inference_steps=3),
    lambda: checks.evaluations(None, None),
    lambda: checks.evaluations(4, None),
    lambda: checks.recognised(None, subject="fox"),
    lambda: checks.lora_size(None, rank=16, inputs=96, outputs=128, kernel_size=3),
    lambda: checks.combined(None, 1.0),
    lambda: checks.cells(None, box=(40, 16, 99, 207)),
    lambda: checks.put_back(None, given=GIVEN, drawn=DRAWN, mask=MASK),
    lambda: checks.comes_back_to(None, num_inference_steps=4, eta=0.3),
    lambda: checks.tcd_noise(lambda *_: ...),
]


@pytest.mark.parametrize("check", UNTOUCHED)
def test_an_untouched_answer_gets_a_hint(check, capsys):
    assert not check()
    assert capsys.readouterr().out.startswith("Hint: ")


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ([999, 679], "2 timesteps, but 3 UNet steps run"),
        ([999, 700, 339], "700 is not a point of the schedule"),
        ([339, 679, 999], "count down"),
        ([999, 659, 339], "step 2 is elsewhere; round 1 x 50 / 3 down"),
        ("all of them", "'all of them' is not a list of whole numbers; write e.g. [999, 979]"),
        (999, "999 is one number; write a list of whole numbers"),
        ({999, 679, 339}, "has no order"),
        ({999: 1}, "{999: 1} has no order"),
        ([999, 679.5, 339], "not a list of whole numbers"),
        ([999, None, 339], "not a list of whole numbers"),
        (itertools.count(), "over 1000 entries"),
    ],
)
def test_wrong_timesteps_are_turned_down_with_the_reason(answer, why, capsys):
    assert not checks.timesteps(answer, num_inference_steps=3)
    told = capsys.readouterr().out
    assert told.startswith("Not yet: ")
    assert why in told


@pytest.mark.parametrize(
    "answer",
    [
        (999, 679, 339),
        [999.0, "679", 339],
        "999, 679, 339",
        "[999, 679, 339]",
        np.array([999, 679, 339]),
        torch.tensor([999, 679, 339]),
        iter([999, 679, 339]),
    ],
)
def test_right_timesteps_are_taken_however_they_are_written(answer, capsys):
    assert checks.timesteps(answer, num_inference_steps=3)
    assert capsys.readouterr().out.startswith("Right: ")


@pytest.mark.parametrize(("lcm", "ddim", "right"), [(4, 50, True), (8, 50, False), (4, 25, False), (4, "50", True)])
def test_evaluations_are_counted(lcm, ddim, right, capsys):
    assert bool(checks.evaluations(lcm, ddim)) is right
    assert capsys.readouterr().out.startswith("Right: " if right else "Not yet: ")


@pytest.mark.parametrize("prompt", ["", "  ", 7])
def test_no_prompt_is_turned_down(prompt, capsys):
    assert not checks.recognised(prompt, subject="fox")
    assert "write a text" in capsys.readouterr().out


def test_a_picture_of_something_else_is_turned_down(capsys):
    assert not checks.recognised("a penguin in the snow", background="space", seeds=(0,), least=1)
    told = capsys.readouterr().out
    assert told.startswith("Not yet: the judge sees background space in 0 of 1 pictures")
    assert "background snow" in told


def test_a_picture_of_what_is_wanted_is_taken(capsys):
    assert checks.recognised("a penguin in the snow", background="snow", seeds=(0, 1), least=1)
    assert "in 2 of 2 pictures" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("kernel_size", "answer", "right"),
    [(None, 16 * (96 + 128), True), (3, 16 * (96 * 9 + 128), True), (3, 16 * (96 + 128) * 9, False)],
)
def test_the_numbers_of_a_lora_are_counted(kernel_size, answer, right, capsys):
    assert bool(checks.lora_size(answer, rank=16, inputs=96, outputs=128, kernel_size=kernel_size)) is right
    assert capsys.readouterr().out.startswith("Right: " if right else "Not yet: ")


def test_two_loras_must_show_subject_and_style(capsys):
    assert not checks.combined(1.0, 0.1)
    assert "the style does not show with lcm 1 and papercut 0.1" in capsys.readouterr().out
    assert checks.combined("1.0", 0.9)
    assert capsys.readouterr().out.startswith("Right: ")


@pytest.mark.parametrize(
    ("lcm", "papercut", "why"),
    [
        (1.0, 1.0, "papercut 1 is more than needed"),
        (0, 0.9, "lcm 0 leaves little of the LCM-LoRA"),
        (1.0, 100, "a weight of 100 is out of reach"),
        (-1, 0.5, "a weight of -1 is out of reach"),
    ],
)
def test_weights_that_need_no_picture(lcm, papercut, why, capsys):
    assert not checks.combined(lcm, papercut)
    assert why in capsys.readouterr().out


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (lambda z, clean, a, s, a2, s2: a2 * clean, "the noise is missing"),
        (lambda z, clean, a, s, a2, s2: a2 * clean + s2 * z, "z itself is not the noise"),
        (lambda z, clean, a, s, a2, s2: a2 * clean + s2 * (z - clean), "the latent is another"),
        (lambda z, clean, a, s, a2, s2: a2, "the shape ()"),
        (lambda z, clean: z, "TypeError"),
        (7, "7 is one number; a function is asked for"),
        (lambda z, clean, a, s, a2, s2: "abc", "the result, 'abc', is no tensor of numbers"),
        (lambda z, clean, a, s, a2, s2: z * float("nan"), "not finite"),
        (lambda *_: 1 / 0, "the formula fails: ZeroDivisionError: division by zero."),
        (lambda *_: exit(), "the formula fails: "),
    ],
)
def test_a_wrong_step_of_ddim_is_turned_down_with_the_reason(answer, why, capsys):
    assert not checks.ddim_step(answer)
    told = capsys.readouterr().out
    assert told.startswith("Not yet: ")
    assert why in told


def test_the_right_step_of_ddim_is_taken(capsys):
    assert checks.ddim_step(lambda z, clean, a, s, a2, s2: a2 * clean + s2 * (z - a * clean) / s)
    assert capsys.readouterr().out.startswith("Right: ")


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ([531, 349, 181], "Right: back to 531, 349, 181"),
        ([531, 349, 181, 0], "Not yet: 4 timesteps, but 3 steps add noise"),
        ([699, 531, 349], "Not yet: these are of the timesteps where the steps begin"),
        ([531, 350, 181], "Not yet: 350 is wrong; the next timestep is 499, times 0.7"),
    ],
)
def test_where_a_step_comes_back_to_is_read_off_the_scheduler(answer, told, capsys):
    assert bool(checks.comes_back_to(answer, num_inference_steps=4, eta=0.3)) is told.startswith("Right")
    assert capsys.readouterr().out.startswith(told)


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (lambda z, new, a, b: b / a * z + (1 - (b / a) ** 2) ** 0.5 * new, "Right: "),
        (lambda z, new, a, b: z + (1 - (b / a) ** 2) ** 0.5 * new, "Not yet: the new noise is right; but the picture"),
        (lambda z, new, a, b: b / a * z + (1 - b**2) ** 0.5 * new, "Not yet: that is too much noise"),
        (lambda z, new, a, b: b / a * z + (1 - b / a) * new, "Not yet: noises add by their squares"),
        (lambda z, new, a, b: b * z, "Not yet: the latent is another"),
    ],
)
def test_the_noise_of_tcd_is_the_schedulers(answer, told, capsys):
    assert bool(checks.tcd_noise(answer)) is told.startswith("Right")
    assert capsys.readouterr().out.startswith(told)


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
    assert bool(checks.overtaken(answer, figure=figure)) is why.startswith("Right")
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
        (lambda z, v, alpha, sigma, t: (alpha * z - sigma * v).mean(), "Not yet: the result has the shape ()"),
        (lambda z, v, alpha, sigma, t: "f", "Not yet: the result, 'f', is no tensor of numbers"),
        (lambda z: z, "Not yet: the formula fails: TypeError"),
        (lambda z, v, alpha, sigma, t: z / 0 * 0, "Not yet: the result holds numbers that are complex or not finite"),
        (None, "Hint"),
        ("z", "Not yet: 'z' is a text; a function is asked for"),
        (lambda z, v, alpha, sigma, t: alpha * z + sigma * v, "Not yet: at timestep 999"),
    ],
)
def test_a_wrong_consistency_function_is_told_where(function, word, capsys):
    assert not checks.consistency_function(function)
    assert capsys.readouterr().out.startswith(word)


def test_an_answer_that_writes_into_the_latents_spoils_nothing(capsys):
    def spoil(z, clean, a, s, a2, s2):
        z *= 0
        clean *= 0
        return z

    assert not checks.ddim_step(spoil)
    assert checks.ddim_step(lambda z, clean, a, s, a2, s2: a2 * clean + s2 * (z - a * clean) / s)


# -- no exercise is solved by what it comes with --------------------------------------------

# Prompts that come to mind first, with the settings that the exercises start from or that are the section's own.
FIRST_TRIES = {
    "E2.2": lambda: checks.recognised(
        "an astronaut",
        section="image-to-image",
        strength=0.5,
        num_inference_steps=8,
        subject="astronaut",
        below={"strength": 0.5},
    ),
    "E3.2": lambda: checks.recognised(
        "papercut, a cute fox", section="style-lora", papercut=1.0, medium="papercut", below={"papercut": 0.9}
    ),
    "E4.2": lambda: checks.recognised("in space", controlnet_conditioning_scale=0.3, section="controlnet", **PANDA),
    "E4.2, named": lambda: checks.recognised(
        "a Panda in space", controlnet_conditioning_scale=1.0, section="controlnet", **PANDA
    ),
    "E5.2": lambda: checks.recognised(
        "magic forest", adapter_conditioning_scale=0.8, adapter_conditioning_factor=0.25, section="t2i-adapter", **FAIRY
    ),
    "E7.2": lambda: checks.combined(1.0, 1.0),
}
PANDA = dict(subject="panda", background="space", without="panda")
FAIRY = dict(subject="fairy", without="fairy", least=3)
REASONS = {
    "E2.2": "strength is 0.5; the exercise wants one below 0.5",
    "E3.2": "papercut is 1; the exercise wants one below 0.9",
    "E4.2": "The prompt would do; controlnet_conditioning_scale 0.3 is too low",
    "E4.2, named": "the prompt names the panda",
    "E5.2": "adapter_conditioning_factor 0.25 is too low",
    "E7.2": "papercut 1 is more than needed",
}


@pytest.mark.parametrize("exercise", FIRST_TRIES)
def test_no_exercise_is_solved_by_what_it_comes_with(exercise, capsys):
    assert not FIRST_TRIES[exercise]()
    told = capsys.readouterr().out
    assert told.startswith("Not yet: ")
    assert REASONS[exercise] in told


def test_a_scale_is_blamed_where_the_prompt_would_do(capsys):
    tried = dict(section="style-lora", medium="papercut", papercut=0.3)
    assert not checks.recognised("papercut, a panda in a forest", seeds=(0, 1), **tried)
    assert "The prompt would do; papercut 0.3 is too low." in capsys.readouterr().out


def test_a_run_of_no_step_is_explained(capsys):
    tried = dict(section="image-to-image", subject="astronaut", num_inference_steps=8, strength=0.1)
    assert not checks.recognised("an astronaut", **tried)
    assert "run no UNet step; use a strength of at least 0.125" in capsys.readouterr().out


# -- nonsense --------------------------------------------------------------------------


class Loud:
    def __repr__(self):
        raise RuntimeError("no name")

    def __eq__(self, other):
        raise RuntimeError("no comparison")

    __hash__ = None


NONSENSE = [
    "",
    "  ",
    "abc",
    "0,5",
    "nan",
    "'",
    "\ud800",
    "x" * 5000,
    True,
    float("nan"),
    float("inf"),
    -1,
    0.123,
    10**400,
    1e300,
    1j,
    b"3",
    [],
    [-8],
    [None],
    (1, 2, 3),
    [[999]],
    {},
    {"a": 1},
    {3},
    np.array([1, 2]),
    np.array(7j),
    torch.ones(2, 2),
    object(),
    Loud(),
    ZeroDivisionError,
    lambda: 1,
    lambda *_: 1 / 0,
    (1 / 0 for _ in range(3)),
]
TWO = dict(subject="fox", strength=0.5)
SLOTS = {
    "timesteps": lambda a: checks.timesteps(a, num_inference_steps=3),
    "evaluations, first": lambda a: checks.evaluations(a, 50),
    "evaluations, second": lambda a: checks.evaluations(4, a),
    "prompt": lambda a: checks.recognised(a, subject="fox"),
    "setting": lambda a: checks.recognised("a fox", section="image-to-image", subject="fox", strength=a),
    "limited setting": lambda a: checks.recognised(
        "a fox", section="style-lora", medium="papercut", papercut=a, below={"papercut": 0.9}
    ),
    "lora_size": lambda a: checks.lora_size(a, rank=8, inputs=128, outputs=512),
    "thinner_map, low": lambda a: checks.thinner_map(a, 200, section="controlnet"),
    "thinner_map, high": lambda a: checks.thinner_map(600, a, section="controlnet"),
    "control_runs, first": lambda a: checks.control_runs(a, 10, pictures=10, num_inference_steps=8),
    "control_runs, second": lambda a: checks.control_runs(80, a, pictures=10, num_inference_steps=8),
    "combined, first": lambda a: checks.combined(a, 0.8),
    "combined, second": lambda a: checks.combined(1.0, a),
    "ddim_step": lambda a: checks.ddim_step(a),
    "ddim_step's result": lambda a: checks.ddim_step(lambda *_: a),
    "cells": lambda a: checks.cells(a, box=(40, 16, 99, 207)),
    "put_back": lambda a: checks.put_back(a, given=GIVEN, drawn=DRAWN, mask=MASK),
    "overtaken": lambda a: checks.overtaken(a, figure="frechet"),
    "comes_back_to": lambda a: checks.comes_back_to(a, num_inference_steps=4, eta=0.3),
    "tcd_noise": lambda a: checks.tcd_noise(a),
    "tcd_noise's result": lambda a: checks.tcd_noise(lambda *_: a),
    "distillation_forwards": lambda a: checks.distillation_forwards(a),
    "consistency_function": lambda a: checks.consistency_function(a),
    "consistency_function's result": lambda a: checks.consistency_function(lambda *_: a),
}


@pytest.fixture
def no_drawing(monkeypatch):
    """Stand-ins for all that draws: the judge never sees a fox."""

    def seen(section, prompt, seed, settings):
        if not all(0 <= value <= 2 for _, value in settings):
            raise ValueError(f"{settings} is out of range.")
        prompt.encode()  # as a tokenizer does
        return dict(subject="owl", background="snow", palette="none", medium="none")

    monkeypatch.setattr(checks, "_seen", seen)
    monkeypatch.setattr(checks, "_seen_combined", lambda *_: ("owl", "none"))
    monkeypatch.setattr(checks, "_evaluations", lambda distilled, steps: 4 if distilled else 50)
    monkeypatch.setattr(checks, "_control_runs", lambda section, steps: 8 if section == "controlnet" else 1)
    monkeypatch.setattr(checks, "_distillation_forwards", lambda: 4)


@pytest.mark.parametrize("slot", SLOTS)
def test_nonsense_gets_a_line_about_itself(slot, no_drawing, capsys):
    for answer in NONSENSE:
        verdict = SLOTS[slot](answer)
        told = capsys.readouterr().out
        assert not verdict
        assert re.fullmatch(r"Not yet: [^\n]{10,400}\n", told), (slot, type(answer), told)
        assert "0x" not in told  # no address in memory


@pytest.mark.parametrize("slot", SLOTS)
def test_every_slot_has_a_hint(slot, no_drawing, capsys):
    for answer in (None, ...):
        assert not SLOTS[slot](answer)
        assert capsys.readouterr().out.startswith("Hint: ")


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ("0,5", "'0,5' has a comma; write a point, and no quotes: 0.5."),
        ("twelve", "'twelve' is a text; write one number."),
        ([8], "[8] is a list; write one number."),
        ((8, 4), "(8, 4) is a list; write one number."),
        (np.array([8, 4]), "array([8, 4]) is a thing of type ndarray; write one number."),
        ({"a": 8}, "{'a': 8} is a dictionary; write one number."),
        (float("nan"), "nan is not a finite number."),
        (True, "True is true or false; write one number."),
        (max, "the builtin_function_or_method is a function; write one number."),
        (4.5, "4.5 is not a whole number; it is a count."),
    ],
)
def test_what_is_no_number_is_told_so(answer, why, capsys):
    assert not checks.distillation_forwards(answer)
    assert capsys.readouterr().out == f"Not yet: {why}\n"


@pytest.mark.parametrize("answer", [5120, "5120", " 5,120 ", "'5120'", 5120.0, np.int64(5120), torch.tensor(5120)])
def test_a_right_number_is_taken_however_it_is_written(answer):
    assert checks.lora_size(answer, rank=8, inputs=128, outputs=512)


def test_a_solution_can_be_checked_silently(capsys):
    with checks.silently():
        assert checks.timesteps([999, 679, 339], num_inference_steps=3)
    assert capsys.readouterr().out == ""


def test_a_verdict_shows_nothing_in_a_notebook():
    assert DisplayFormatter().format(answers.Verdict(False)) == ({}, {})
    assert repr(answers.Verdict(False)) == "Verdict(False)"


@pytest.mark.parametrize(
    ("answer", "right", "why"),
    [
        (48, True, "48 of 256 cells are drawn anew"),
        (60, False, "60 cells are touched by the mask"),
        (47, False, "cells begin at 0, 16, 32"),
        ("many", False, "many"),
    ],
)
def test_cells_are_counted(answer, right, why, capsys):
    assert bool(checks.cells(answer, box=(40, 16, 99, 207))) == right
    assert why in capsys.readouterr().out


@pytest.mark.parametrize(
    ("answer", "right", "why"),
    [
        (Image.composite(DRAWN, GIVEN, MASK), True, "to the bit"),
        (DRAWN, False, "where the mask is black, 100% of the pixels"),
        (GIVEN, False, "where the mask is white, 100% of the pixels"),
        (DRAWN.resize((16, 16)), False, "make a PIL image of 32 x 32 pixels"),
        ("blue", False, "make a PIL image"),
    ],
)
def test_pixels_that_are_put_back_are_compared(answer, right, why, capsys):
    assert bool(checks.put_back(answer, given=GIVEN, drawn=DRAWN, mask=MASK)) == right
    assert why in capsys.readouterr().out


# -- questions before a run --------------------------------------------------------------


@pytest.fixture
def fresh():
    progress.forget()
    yield
    progress.forget()


@pytest.mark.parametrize("number", QUESTIONS)
def test_hints_sharpen_and_the_right_choice_is_taken(number, fresh, capsys):
    asked = QUESTIONS[number]
    wrong = next(letter for letter in asked.choices if letter != asked.letter)
    assert not checks.predict(number, None)
    assert capsys.readouterr().out.startswith("Hint: ")
    for hint in (*asked.hints, asked.hints[2]):
        assert not checks.predict(number, wrong)
        assert capsys.readouterr().out == f"Not yet: {hint}\n"
    assert checks.predict(number, asked.letter)
    assert capsys.readouterr().out == f"Right: {asked.why}\n"


def test_hints_differ_and_letters_are_spread():
    told = [hint for asked in QUESTIONS.values() for hint in asked.hints]
    assert len(set(told)) == len(told)
    letters = [asked.letter for asked in QUESTIONS.values()]
    assert all(letters.count(letter) >= 5 for letter in "abc")


@pytest.mark.parametrize("answer", ["B", " b ", "(b)", "b)", "'b'", "b."])
def test_a_letter_is_taken_however_it_is_written(answer, fresh):
    assert checks.predict("P1.1", answer)


@pytest.mark.parametrize("answer", ["", "d", "ab", "soft", 2, ["b"], True, b"b"])
def test_what_is_no_choice_is_told_so_and_is_no_try(answer, fresh, capsys):
    assert not checks.predict("P1.1", answer)
    assert re.fullmatch(
        r'Not yet: .+ is none of the choices; write "a", "b" or "c", with the quotes.\n', capsys.readouterr().out
    )
    checks.predict("P1.1", "a")
    assert QUESTIONS["P1.1"].hints[0] in capsys.readouterr().out


def test_an_unknown_question_is_refused():
    with pytest.raises(ValueError, match="no question 'P9.9'; the last one is P9.3"):
        checks.predict("P9.9", None)


def test_keys_agree_with_what_can_be_computed(monkeypatch, tmp_path):
    """c_skip, the steps of a strength, the share of a factor; and what is read from figures follows them."""
    assert boundary_scalings(0.5)[0] < 0.01 < boundary_scalings(0.49)[0] and QUESTIONS["P6.1"].letter == "c"
    assert [int(4 * strength) for strength in (0.25, 0.5, 0.75, 1.0)] == [1, 2, 3, 4] and QUESTIONS[
        "P2.1"
    ].letter == "c"
    for crossing, letter in {1: "a", 2: "a", 4: "b", 8: "b", 99: "c"}.items():
        table = [dict(sampler="LCM", steps=n, frechet=10) for n in (1, 2, 4, 8)]
        table += [dict(sampler="DDIM", steps=n, frechet=9 if n >= crossing else 99) for n in (1, 2, 4, 8)]
        own = [
            dict(variant=name, points=[{"1": {"subject": 0.1 if name == worst else 0.7}}])
            for worst in [{"a": "no EMA target", "b": "skip 1", "c": "w fixed at 7"}[letter]]
            for name in ("no EMA target", "skip 1", "w fixed at 7", "as in the paper")
        ]
        (tmp_path / "figures.json").write_text(json.dumps(dict(table=table, own=own)))
        monkeypatch.setattr(questions, "FIGURES", tmp_path / "figures.json")
        assert QUESTIONS["P6.4"].letter == letter
        assert QUESTIONS["P8.2"].letter == letter


# -- progress ----------------------------------------------------------------------------


def test_progress_tells_what_was_tried(fresh, capsys):
    checks.predict("P1.2", None)
    checks.predict("P1.1", "a")
    checks.predict("P1.1", "b")
    checks.timesteps([999], num_inference_steps=3, exercise="E1.1")
    with checks.silently():
        checks.timesteps([999, 679, 339], num_inference_steps=3)  # as a solution does: not the reader's
    capsys.readouterr()
    checks.progress()
    assert capsys.readouterr().out.splitlines() == [
        "P1.1  right, 2 tries",
        "E1.1  not yet, 1 try",
        "P1.2  not tried",
        "1 of 3 right",
    ]


def test_what_was_right_stays_so(fresh, capsys):
    for answer in ([999, 679, 339], [999], None):
        checks.timesteps(answer, num_inference_steps=3, exercise="E1.1")
    capsys.readouterr()
    checks.progress()
    assert capsys.readouterr().out.splitlines()[0] == "E1.1  right, 1 try"


def test_progress_goes_on_from_a_file(fresh, tmp_path, capsys):
    path = tmp_path / "progress.json"
    checks.predict("P1.1", "b")
    checks.progress(path)
    progress.forget()
    checks.predict("P1.1", None)
    checks.predict("P2.1", "a")
    checks.progress(path)
    assert capsys.readouterr().out.splitlines()[-3:] == ["P1.1  right, 1 try", "P2.1  not yet, 1 try", "1 of 2 right"]
    assert json.loads(path.read_text())["P1.1"] == {"tries": 1, "right": True}


@pytest.mark.parametrize(
    "content", ["", "[]", '{"P1.1": 3}', '{"P1.1": {"tries": "x", "right": 1}}', '{"P1.1": {"a": 1}}']
)
def test_a_file_of_something_else_is_refused_and_kept(content, fresh, tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(content)
    with pytest.raises(ValueError, match="holds no progress"):
        checks.progress(path)
    assert path.read_text() == content
