"""What a reader has answered so far: kept in this kernel's memory, and in a file only where one is named."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from ..files import as_path, read, replace, shown

MOST = 1_000_000  # bytes of a file of progress; all notebooks together need three thousand
_WANTED = "the name of a .json file that checks.progress() has written, or of a new one"


@dataclass(frozen=True)
class Tries:
    """How often a question was answered, and whether the last word was "Right"."""

    tries: int = 0
    right: bool = False


_seen: dict[str, Tries] = {}  # number of a question or an exercise -> what became of it


def note(number: str, *, tried: bool, right: bool) -> Tries:
    """Write down one run of a check, and return what there is on it; what was right once stays so."""
    before = _seen.get(number, Tries())
    _seen[number] = Tries(before.tries + (tried and not before.right), before.right or right)
    return _seen[number]


def forget() -> None:
    """Begin anew."""
    _seen.clear()


def progress(path: str | Path | None = None) -> None:
    """Print which questions and exercises are answered, of those whose cells have run in this kernel.

    Parameters
    ----------
    path
        A JSON file. What earlier notebooks wrote there is printed, too, and all is written there.
        Without it nothing leaves this kernel.

    Raises
    ------
    ValueError
        If the file holds something else.
    OSError
        If it cannot be written.
    """
    found = dict(_seen)
    if path is not None:
        place = as_path(path, _WANTED)
        for number, earlier in (_read(place) if place.exists() else {}).items():
            found[number] = max(earlier, found.get(number, Tries()), key=lambda each: (each.right, each.tries))
        replace(place, f"{json.dumps({name: asdict(found[name]) for name in sorted(found)}, indent=1)}\n".encode())
    for number in sorted(found, key=lambda name: (name[1:], name[0] != "P")):
        print(f"{number:5} {_words(found[number])}")
    print(f"{sum(each.right for each in found.values())} of {len(found)} right")


def _words(tries: Tries) -> str:
    if not tries.tries:
        return "not tried"
    times = "1 try" if tries.tries == 1 else f"{tries.tries} tries"
    return f"right, {times}" if tries.right else f"not yet, {times}"


def _read(place: Path) -> dict[str, Tries]:
    try:
        entries = json.loads(read(place, most=MOST, wanted=_WANTED))
        found = {name: Tries(**entry) for name, entry in entries.items()}
        if not all(type(each.tries) is int and type(each.right) is bool for each in found.values()):
            raise TypeError
    except (TypeError, AttributeError, RecursionError, json.JSONDecodeError, UnicodeDecodeError):
        raise ValueError(f"{shown(str(place))} holds no progress; give {_WANTED}.") from None
    return found
