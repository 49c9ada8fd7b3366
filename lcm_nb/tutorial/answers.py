"""Read what a reader wrote as an answer, and say what a checker thinks of it.

Anything may stand in an exercise's cell. The functions here return what it means, or raise
:class:`NotYet` with a sentence about that very answer; :func:`checker` prints the sentence.
"""

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from contextlib import contextmanager, redirect_stdout
from functools import wraps
from io import StringIO
from itertools import islice
from numbers import Real

import numpy as np

from . import progress

LONGEST = 60  # characters of an answer that a sentence repeats
LARGEST = 10**12  # of a count; no exercise has one near it
MOST = 1000  # entries of a list; there are no more timesteps


class NotYet(Exception):
    """An answer is not right (yet); the message says why."""


class Verdict:
    """What a checker returns: true if the answer is right. A notebook shows nothing of it, the line is printed."""

    def __init__(self, right: bool, *, tried: bool = True):
        self._right = right
        self.tried = tried

    def __bool__(self):
        return self._right

    def __repr__(self):
        return f"Verdict({self._right})"

    def _ipython_display_(self) -> None:
        """Show nothing."""


def checker(check: Callable[..., Verdict]) -> Callable[..., Verdict]:
    """Let a checker's ``NotYet`` be a printed line, and an ``exercise`` that is named be noted for ``progress``."""

    @wraps(check)
    def checked(*arguments, exercise: str | None = None, **options) -> Verdict:
        try:
            verdict = check(*arguments, **options)
        except NotYet as why:
            verdict = not_yet(str(why))
        if exercise:
            progress.note(exercise, tried=verdict.tried, right=bool(verdict))
        return verdict

    return checked


@contextmanager
def silently() -> Iterator[None]:
    """Let checkers print nothing, so that a solution that runs with all cells does not give the answer away."""
    with redirect_stdout(StringIO()):
        yield


def hint(message: str) -> Verdict:
    """Print what to try first, for an answer that nobody has touched."""
    return _say("Hint", message)


def not_yet(message: str) -> Verdict:
    """Print what is wrong with an answer."""
    return _say("Not yet", message)


def right(message: str) -> Verdict:
    """Print what is right, with the truth."""
    return _say("Right", message)


def _say(word: str, message: str) -> Verdict:
    print(f"{word}: {message}")
    return Verdict(word == "Right", tried=word != "Hint")


def untouched(answer: object) -> bool:
    """Return whether the answer still is what the exercise came with."""
    return answer is None or answer is ...


def shown(answer: object) -> str:
    """Return an answer as its reader would know it again, on one line."""
    try:
        text = " ".join(repr(answer).split())
    except Exception:  # objects of a reader's own
        text = ""
    if not text or text.startswith("<"):  # a function, a generator: the address in memory helps nobody
        return f"the {type(answer).__name__}"
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 4]} ..."


def number(answer: object, name: str = "") -> float:
    """Return an answer as a number; one in quotes counts, too.

    Raises
    ------
    NotYet
        If it is none, or not finite; ``name`` says which answer it is.
    """
    where = f" for {name}" if name else ""
    if untouched(answer):
        raise NotYet(f"there is no answer yet{where}; write one number.")
    value = _unpacked(answer)
    if isinstance(value, Real) and not isinstance(value, bool):
        try:
            value = float(value)
        except OverflowError:
            value = math.inf
        if math.isfinite(value):
            return value
        raise NotYet(f"{shown(answer)}{where} is not a finite number.")
    if isinstance(answer, str) and re.fullmatch(r"\s*-?\d*,\d+\s*", answer):
        raise NotYet(f"{shown(answer)}{where} has a comma; write a point, and no quotes: {answer.replace(',', '.')}.")
    raise NotYet(f"{shown(answer)}{where} is {_kind(answer)}; write one number.")


def whole(answer: object, name: str = "") -> int:
    """Return an answer as a whole number; ``NotYet`` if it is none."""
    value = number(answer, name)
    if value != int(value) or abs(value) > LARGEST:
        what = "far too large" if abs(value) > LARGEST else "not a whole number; it is a count"
        raise NotYet(f"{shown(answer)}{f' for {name}' if name else ''} is {what}.")
    return int(value)


def wholes(answer: object, example: str) -> list[int]:
    """Return an answer as a list of whole numbers; ``NotYet``, with ``example``, if it is none."""
    lists = f"write a list of whole numbers, e.g. {example}"
    if isinstance(answer, str):
        entries: Iterable = answer.strip(" []()").replace(",", " ").split()
    elif isinstance(answer, (Mapping, Set)):
        raise NotYet(f"{shown(answer)} has no order; {lists}.")
    else:
        try:
            entries = list(islice(iter(answer), MOST + 1))
        except Exception:  # iterators of a reader's own
            raise NotYet(f"{shown(answer)} is {_kind(answer)}; {lists}.") from None
    try:
        found = [whole(entry) for entry in entries]
    except NotYet:
        raise NotYet(f"{shown(answer)} is not a list of whole numbers; write e.g. {example}.") from None
    if len(found) > MOST:
        raise NotYet(f"{shown(answer)} has over {MOST} entries; {lists}.")
    return found


def prompt(answer: object) -> str:
    """Return an answer as a prompt; ``NotYet`` if it is no text, or an empty one."""
    if isinstance(answer, str) and answer.strip():
        return str(answer)
    what = "an empty text" if isinstance(answer, str) else _kind(answer)
    raise NotYet(f"{shown(answer)} is {what}; write a text with at least one word, in quotes.")


def letter(answer: object, choices: str) -> str:
    """Return an answer as one of some letters; ``NotYet`` if it is none of them."""
    text = answer.strip(" ().:'\"").lower() if isinstance(answer, str) else ""
    if len(text) == 1 and text in choices:
        return text
    named = ", ".join(f'"{each}"' for each in choices[:-1])
    raise NotYet(f'{shown(answer)} is none of the choices; write {named} or "{choices[-1]}", with the quotes.')


def call(function: object, *arguments: object) -> object:
    """Return what a reader's own function returns; ``NotYet`` if it is none, or raises."""
    if not callable(function):
        raise NotYet(f"{shown(function)} is {_kind(function)}; a function is asked for.")
    try:
        return function(*arguments)
    except (Exception, SystemExit) as error:
        raise NotYet(f"the formula fails: {type(error).__name__}: {told(error)}") from None


def array(answer: object, shape: tuple[int, ...]) -> np.ndarray:
    """Return what a reader's own function returned as numbers; ``NotYet`` if it has another shape than a latent."""
    try:
        answer = answer.detach().cpu().float() if hasattr(answer, "detach") else answer
        found = np.asarray(answer)
        found = found.astype(complex if np.iscomplexobj(found) else float)
    except Exception:
        raise NotYet(f"the result, {shown(answer)}, is no tensor of numbers; a latent has the shape {shape}.") from None
    if found.shape != shape:
        raise NotYet(f"the result has the shape {found.shape}; a latent has {shape}.")
    if np.iscomplexobj(found) or not np.isfinite(found).all():
        raise NotYet("the result holds numbers that are complex or not finite; is there a division by zero?")
    return found


def told(error: BaseException) -> str:
    """Return an error's message as one sentence."""
    try:
        text = " ".join(str(error).split())
    except Exception:  # errors of a reader's own
        text = ""
    return f"{text.rstrip('.') or 'without a message'}."


def _unpacked(answer: object) -> object:
    """Return the number in quotes, or in an array or tensor of one; anything else as it is."""
    if isinstance(answer, str):
        text = answer.strip().strip("'\"").strip()
        if re.fullmatch(r"\d{1,3}(,\d{3})+", text):  # thousands
            text = text.replace(",", "")
        try:
            return float(text)
        except ValueError:
            return answer
    try:
        return answer.item()  # arrays and tensors; ValueError or RuntimeError where they hold several
    except Exception:
        return answer


def _kind(answer: object) -> str:
    """Return in words what an answer is."""
    if isinstance(answer, (bool, np.bool_)):
        return "true or false"
    if isinstance(answer, str):
        return "a text"
    if isinstance(answer, Real):
        return "one number"
    if isinstance(answer, Mapping):
        return "a dictionary"
    if isinstance(answer, (list, tuple, Set)):
        return "a list"
    if callable(answer):
        return "a function"
    return f"a thing of type {type(answer).__name__}"
