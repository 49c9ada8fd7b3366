"""The SHA-256 of the weights that made a picture, and of the files of the family that ships.

``python -m lcm_nb.models.hashes`` writes the list of the family's hashes anew, after its files have changed.
"""

import hashlib
import json
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path

from ..files import replace
from .checkpoints import MINI, Checkpoints
from .hub import weight_hashes
from .plans import Source, other_vaes, plan_for


def checkpoint_hashes(section: str, names: Checkpoints) -> dict[str, dict[str, str]]:
    """Return by part the name, the SHA-256 of the weights, and for the Hub's parts the commit."""
    if names.server:
        return {part: dict(made) for part, made in names.server.hashes.items()}
    if names.profile == "mini":
        return {part: _of_folder(Path(place)) for part, place in names.parts.items()}
    sources = dict(plan_for(section, names.model).sources)
    if names.vae:
        sources["vae"] = other_vaes()[names.vae]
    return {part: _of_source(sources[part], names.revisions[part]) for part in names.parts}


def _of_folder(folder: Path) -> dict[str, str]:
    files = sorted(folder.rglob("*.safetensors"))
    return {"name": f"lcm_nb mini {folder.name}", "sha256": _together(tuple((file, *_state(file)) for file in files))}


@lru_cache
def _together(files: tuple[tuple[Path, int, int], ...]) -> str:
    digest = hashlib.sha256()
    for file, *_ in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _of_source(source: Source, commit: str) -> dict[str, str]:
    hashes = weight_hashes(source, commit)
    whole = hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()
    return {"name": source.repo, "revision": commit, "sha256": whole}


# -- the family that ships --------------------------------------------------------------

LIST = "hashes.json"
READERS = 2  # hashing leaves Python's lock free
_REMEDY = "install lcm_nb again: `pip install --force-reinstall --no-deps lcm_nb`, or from its folder `git checkout`."


def write_hashes(folder: Path = MINI) -> Path:
    """Write file -> SHA-256 of all files in the folders of a family; those at its top are for readers.

    Returns
    -------
    path
        The list, at the family's top.
    """
    files = sorted(file for file in folder.rglob("*") if file.is_file() and file.parent != folder)
    hashes = {file.relative_to(folder).as_posix(): _sha256(file, *_state(file)) for file in files}
    replace(folder / LIST, f"{json.dumps(hashes, indent=1)}\n".encode())
    return folder / LIST


def check_family(parts: Iterable[str] | None = None, folder: Path = MINI) -> None:
    """Refuse a family that is not as it was shipped; a file is read once in a process, and again if it changes.

    Parameters
    ----------
    parts
        The paths of those of its folders that are to be checked; default: all.

    Raises
    ------
    OSError
        If a file is missing or damaged, with the remedy.
    """
    chosen = None if parts is None else [Path(part).relative_to(folder).parts for part in parts]
    hashes = {
        name: wanted
        for name, wanted in listed(folder).items()
        if chosen is None or any(Path(name).parts[: len(part)] == part for part in chosen)
    }
    with ThreadPoolExecutor(READERS) as pool:
        for problem in pool.map(lambda name: _problem(folder, name, hashes[name]), hashes):
            if problem:
                raise OSError(f"{problem}; {_REMEDY}")


def _problem(folder: Path, name: str, wanted: str) -> str:
    try:
        found = _sha256(folder / name, *_state(folder / name))
    except OSError as error:
        return f"{name} of the small models cannot be read ({error.strerror})"
    return "" if found == wanted else f"{name} of the small models is damaged (sha256 {found[:10]}, not {wanted[:10]})"


def family_problem(folder: Path = MINI) -> str:
    """Return in one sentence what is wrong with the family that ships, "" for nothing."""
    try:
        check_family(folder=folder)
    except OSError as error:
        return str(error)
    return ""


def listed(folder: Path) -> dict[str, str]:
    """Return file -> SHA-256 as it was shipped."""
    try:
        hashes = json.loads((folder / LIST).read_bytes())
    except (OSError, ValueError, RecursionError):
        hashes = None
    if not isinstance(hashes, dict) or not all(isinstance(value, str) for value in hashes.values()):
        raise OSError(f"The small models in {folder} are incomplete (no {LIST} that can be read); {_REMEDY}")
    return hashes


def _state(file: Path) -> tuple[int, int]:
    """Return what tells that a file has changed: when, and its size."""
    about = file.stat()
    return about.st_mtime_ns, about.st_size


@lru_cache(maxsize=1024)
def _sha256(file: Path, changed: int, size: int) -> str:
    with open(file, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


if __name__ == "__main__":
    print(write_hashes())
