"""Files read within limits and written whole: an interrupt or a full disk leaves what was there. Knows no picture."""

import contextlib
import errno
import itertools
import os
import stat
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NoReturn

# What keeps a file from being written or read, and the remedy. "{path}" is the file, "{folder}" where it lies.
_FORBIDDEN = "the folder {folder} may not be written to; choose a folder of yours."
_FULL = "the disk is full; free some space, or choose a folder on another disk."
_REMEDIES = {
    errno.EACCES: _FORBIDDEN,
    errno.EPERM: _FORBIDDEN,
    errno.EROFS: "the disk is read-only; choose a folder on another disk.",
    errno.EISDIR: "it is a folder; give the name of a file in it.",
    errno.ENOTDIR: "a part of the path is a file and no folder; choose another folder.",
    errno.ENOENT: "the folder {folder} does not exist; create it, or choose another.",
    errno.ENOSPC: _FULL,
    errno.EDQUOT: "your share of the disk is used up; delete some files, or choose a folder on another disk.",
    errno.EFBIG: "it is larger than files may become here (ulimit -f); raise that limit, or choose another folder.",
    errno.ENAMETOOLONG: "the name is too long; choose a shorter one.",
    errno.ELOOP: "links in the path lead in a circle; choose another folder.",
    errno.EMFILE: "this process has too many files open; close some, or restart the kernel.",
    errno.ENFILE: "this computer has too many files open; close other programs.",
    errno.EIO: "the disk fails; choose a folder on another disk.",
}
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV, errno.EACCES)


def as_path(path: object, wanted: str) -> Path:
    """Return a path with "~" as the home folder; ``wanted`` says for the message what should have been given.

    Raises
    ------
    ValueError
        If it is no path, or none that a computer can have.
    """
    if not isinstance(path, (str, os.PathLike)) or not isinstance(text := os.fspath(path), str):
        raise ValueError(f"{shown(path)} is no path; give {wanted}.")
    try:
        possible = bool(text) and b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        possible = False
    if not possible:
        raise ValueError(f"{shown(text)} can be no path; give {wanted}.")
    return Path(os.path.expanduser(text))


def shown(value: object, most: int = 60) -> str:
    """Return a value for a message: its ``repr`` on one line, cut; of an array its shape."""
    if hasattr(value, "shape") and hasattr(value, "dtype") and value.shape:
        return f"an array of shape {tuple(value.shape)}"
    text = " ".join(repr(value).splitlines())
    return text if len(text) <= most else f"{text[: most - 3]}..."


# -- reading --------------------------------------------------------------------------


def read(path: object, *, most: int, wanted: str) -> bytes:
    """Return the bytes of a file, at most ``most``; neither a pipe nor a device is waited for.

    Raises
    ------
    ValueError
        If there is no such file, it is a folder, too large, or cannot be read; ``wanted`` ends the sentence.
    """
    place = as_path(path, wanted)
    try:
        handle = os.open(place, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        with open(handle, "rb") as file:
            about = os.fstat(file.fileno())
            if not stat.S_ISREG(about.st_mode):
                raise ValueError(f"{place} is no ordinary file; give {wanted}.")
            data = file.read(most + 1) if about.st_size <= most else b""
            size = max(about.st_size, len(data))
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError(f"There is no file {place}; give {wanted}.") from None
    except IsADirectoryError:
        raise ValueError(f"{place} is a folder; give {wanted}.") from None
    except OSError as error:
        raise ValueError(f"{_cut(place)} cannot be read ({error.strerror or error}); give {wanted}.") from None
    if size > most:
        raise ValueError(f"{place} has {size / 1e6:.0f} MB; at most {most / 1e6:.0f} MB are read. Make it smaller.")
    return data


# -- writing --------------------------------------------------------------------------


def check_target(path: object, suffix: str = ".png") -> Path:
    """Return the path at which a file is to be written, once it is sure that it can be: nothing stays behind.

    Raises
    ------
    ValueError
        If it does not end in ``suffix``, its folder does not exist, or it is a folder.
    OSError
        If the folder may not be written to, or the name is too long; with the remedy.
    """
    wanted = f"the name of a file that ends in {suffix}"
    place = as_path(path, wanted)
    if place.suffix.lower() != suffix:
        raise ValueError(
            f"{_cut(place)} does not end in {suffix}; only {suffix[1:].upper()} files carry their settings."
        )
    with spoken(place):
        if not place.parent.is_dir():
            raise ValueError(f"The folder {_cut(place.parent)} does not exist; create it, or save elsewhere.")
        if place.is_dir():
            raise ValueError(f"{place} is a folder; give {wanted}.")
        with contextlib.suppress(FileNotFoundError):
            os.lstat(place)  # says whether such a name can be
        with _temporary(place, b"", lasting=True):
            pass
    return place


def save(path: Path, contents: Sequence[bytes], *, overwrite: bool = False, lasting: bool = True) -> list[Path]:
    """Write files whole or not at all, and return their paths.

    One goes to ``path``; of several, ``fox.png`` makes ``fox-1.png``, ``fox-2.png``, ... Where one of these names is
    taken, ``fox-2``, ``fox-3``, ... is tried in place of ``fox``; two processes never get the same name.

    Parameters
    ----------
    overwrite
        Replace what is there, at once: a reader sees the old file or the new one.
    lasting
        Wait until the disk has them, so that a power cut takes none.

    Raises
    ------
    OSError
        In one sentence what kept them from being written; files of before are as they were.
    """
    with contextlib.ExitStack() as stack, spoken(path):
        parts = [stack.enter_context(_temporary(path, data, lasting)) for data in contents]
        if overwrite:
            paths = names(path, len(parts))
            for part, name in zip(parts, paths, strict=True):
                os.replace(part, name)
        else:
            stems = itertools.chain([path.stem], (f"{path.stem}-{number}" for number in itertools.count(2)))
            tries = (names(path.with_stem(stem), len(parts)) for stem in stems)
            paths = next(tried for tried in tries if _claim(parts, tried))
        if lasting:
            _sync_folder(path.parent)
    return paths


def replace(path: Path, data: bytes, *, lasting: bool = True) -> None:
    """Write a file in place of one that may be there, as :func:`save` does."""
    save(path, [data], overwrite=True, lasting=lasting)


def names(path: Path, count: int) -> list[Path]:
    """Return the paths of ``count`` files that are saved together as ``path``."""
    return [path] if count == 1 else [path.with_stem(f"{path.stem}-{number}") for number in range(1, count + 1)]


@contextlib.contextmanager
def spoken(path: Path) -> Iterator[None]:
    """Turn what the system says of a file into one sentence with a remedy, an error of the same kind."""
    try:
        yield
    except OSError as error:
        _say(error, path)


def _say(error: OSError, path: Path) -> NoReturn:
    told = type(error)(f"{_cut(path)} was not saved: {_why(error, path)}")
    told.errno = error.errno
    raise told from None


def _why(error: OSError, path: Path) -> str:
    remedy = _REMEDIES.get(error.errno or 0)
    return remedy.format(folder=path.parent) if remedy else f"{error.strerror or error}; choose another folder."


def _cut(path: Path) -> str:
    text = str(path)
    return text if len(text) <= 200 else f"{text[:60]}...{text[-20:]}"


@contextlib.contextmanager
def _temporary(path: Path, data: bytes, lasting: bool) -> Iterator[Path]:
    """Write a file beside ``path``, if ``lasting`` down to the disk; it is gone afterwards, whatever happens."""
    part = path.parent / f".lcm_nb-{uuid.uuid4().hex}.part"
    try:
        with open(part, "xb") as file:
            file.write(data)
            file.flush()
            if lasting:
                os.fsync(file.fileno())
        yield part
    finally:
        with contextlib.suppress(OSError):
            part.unlink()


def _claim(parts: Sequence[Path], paths: Sequence[Path]) -> bool:
    """Give the files their names, all or none; return whether none of these was taken."""
    done: list[Path] = []
    try:
        for part, path in zip(parts, paths, strict=True):
            _link(part, path)
            done.append(path)
    except BaseException as error:
        for path in done:
            path.unlink(missing_ok=True)
        if isinstance(error, FileExistsError):
            return False
        raise
    return True


def _link(part: Path, path: Path) -> None:
    """Let ``path`` be the file ``part``, unless there is one: in one step, where the disk knows links."""
    try:
        os.link(part, path)
    except FileExistsError:
        raise
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        try:
            os.replace(part, path)
        except BaseException:
            path.unlink(missing_ok=True)
            raise


def _sync_folder(folder: Path) -> None:
    """Let the names reach the disk, too, where the system has a way."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
