"""The mini family's words, as notebooks show them."""

from lcm_nb.tutorial import words
from lcm_nb.tutorial.vocabulary import SUBJECTS


def test_every_subject_is_shown():
    assert set(words()["subjects"]) == set(SUBJECTS)
    for name in SUBJECTS:
        assert name in " ".join(repr(words()).split())
        assert name in words()._repr_html_()


def test_the_lines_fit_a_terminal():
    assert max(map(len, repr(words()).splitlines())) <= 110
