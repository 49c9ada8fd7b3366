"""Prompts longer than a model reads: the result says so, and nothing else does."""

import logging

import pytest
from inside import MINI
from transformers import CLIPTokenizer

from lcm_nb.runtimes.prompts import unread

WORDS = "a cute fox in a meadow, " * 5 + "Überraschend  viele WÖRTER"


@pytest.fixture(scope="module")
def tokenizer():
    return CLIPTokenizer.from_pretrained(MINI / "base" / "tokenizer")


def test_what_is_read_is_not_spoken_of(tokenizer):
    assert unread(tokenizer, {"prompt": "a cute fox"}) == ""
    assert unread(tokenizer, {"prompt": "fox " * (tokenizer.model_max_length - 2)}) == ""
    assert unread(tokenizer, {"prompt": "fox", "negative_prompt": ""}) == ""


def test_the_first_word_too_many_is_the_first_that_is_named(tokenizer):
    most = tokenizer.model_max_length
    told = unread(tokenizer, {"prompt": "fox " * (most - 2) + "Robot  beach"})
    assert told == f"the prompt has {most + 2} tokens, and the model reads {most}; not read: 'Robot beach'"


def test_it_is_what_the_tokenizer_cuts_off(tokenizer):
    told = unread(tokenizer, {"prompt": WORDS})
    rest = told.partition("not read: ")[2].strip("'").removesuffix("...")
    whole, cut = tokenizer(WORDS, verbose=False).input_ids, tokenizer(WORDS, truncation=True).input_ids
    assert tokenizer(rest).input_ids[1:6] == whole[len(cut) - 1 :][:5]


def test_long_rests_are_cut_and_both_prompts_are_named(tokenizer):
    told = unread(tokenizer, {"prompt": "fox " * 400, "negative_prompt": "fox " * 400})
    assert "the prompt has" in told and "the negative prompt has" in told and len(told) < 300


def test_a_negative_prompt_without_effect_is_not_spoken_of(tokenizer):
    given = {"prompt": "a fox", "negative_prompt": "fox " * 400}
    assert unread(tokenizer, given, negative_acts=False) == "" != unread(tokenizer, given)


@pytest.fixture
def lines():
    """What diffusers and transformers print."""
    found, handler = [], logging.Handler()
    handler.emit = lambda record: found.append(record.getMessage())
    loggers = [logging.getLogger(name) for name in ("diffusers", "transformers")]
    for logger in loggers:
        logger.addHandler(handler)
    yield found
    for logger in loggers:
        logger.removeHandler(handler)


def test_a_run_says_it_in_its_note_and_nowhere_else(studio, lines):
    result = studio.draw(prompt="fox " * 100, num_inference_steps=1)
    assert result.note.startswith("the prompt has 102 tokens, and the model reads 40; not read: 'fox fox")
    assert lines == []
    studio.pipe("owl " * 100, num_inference_steps=1)  # another: what was encoded once is remembered
    assert any("truncated" in line for line in lines)  # the plain pipeline goes on to say it
    with pytest.warns(UserWarning, match="102 tokens"):
        studio.generate(prompt="fox " * 100, num_inference_steps=1)
