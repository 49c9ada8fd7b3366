"""The mini family's words: as notebooks show them, and what is said of others."""

import pytest
from inside import section_for

import lcm_nb
from lcm_nb.models.vocabulary import SUBJECTS, unknown
from lcm_nb.tutorial import words
from lcm_nb.tutorial.captions import scene_at


def test_every_subject_is_shown():
    assert set(words()["subjects"]) == set(SUBJECTS)
    for name in SUBJECTS:
        assert name in " ".join(repr(words()).split())
        assert name in words()._repr_html_()


def test_the_lines_fit_a_terminal():
    assert max(map(len, repr(words()).splitlines())) <= 110


# -- words that it does not know ----------------------------------------------------------


@pytest.mark.parametrize(
    ("prompt", "named"),
    [
        ("a zebra in a meadow", "'zebra'"),
        ("a Zebra, ZEBRA and a kangaroo", "'zebra', 'kangaroo'"),
        ("a fox’s submarine, 狐狸", "'submarine', '狐狸'"),
        ("alpha beta gamma delta epsilon zeta eta", "'alpha', 'beta', 'gamma', 'delta', 'epsilon' and 2 more"),
        ("z" * 2000, f"'{'z' * 24}...'"),
    ],
)
def test_unknown_words_are_named(prompt, named):
    assert unknown(prompt) == f"the mini family does not know {named} (lcm_nb.tutorial.words() shows what it knows)"


@pytest.mark.parametrize("name", lcm_nb.SECTIONS)
def test_all_examples_are_known(name):
    section = section_for(name)
    strange = [unknown(text, section.styles) for text in section.examples]  # a loaded style is a word, too
    assert strange == ["" for _ in section.examples]


def test_the_guides_prompts_are_known_but_for_that_of_inpainting():
    prompts = {name: section_for(name).settings["prompt"].default for name in lcm_nb.SECTIONS}
    assert [name for name, text in prompts.items() if unknown(text, section_for(name).styles)] == ["inpainting"]


def test_what_the_family_was_taught_is_known():
    strange = [unknown(caption) for caption in (scene_at(0, index)[1] for index in range(500))]
    # one caption in twenty has a word of random letters, which nobody is to know
    assert sum(map(bool, strange)) < 50
    shown = " ".join(word for kind in words().values() for word in kind)
    assert unknown(shown) == ""
    assert unknown("two foxes that are in the snow, please") == ""


def test_the_note_and_the_panel_say_it(studio):
    with pytest.warns(UserWarning, match="does not know 'zebra'"):
        result = studio.generate(prompt="a zebra", num_inference_steps=1)
    assert result.note == unknown("a zebra")
    panel = studio.panel()
    try:
        panel.controls["live"].value = False
        panel.controls["num_inference_steps"].value = 1
        panel.controls["prompt"].value = "a zebra"
        panel.run()
        panel.wait(60)
        assert panel.status.endswith(result.note)
        panel.controls["prompt"].value = "a fox"
        panel.run()
        assert panel.wait(60).note == "" and "know" not in panel.status
    finally:
        panel.close()
