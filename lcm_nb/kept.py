"""Files from memory that this process keeps in the temporary folder.

A file goes when nothing holds its path any more and newer ones came, at the latest when the process ends, or when the
next begins.
"""

import atexit
import contextlib
import os
import re
import shutil
import stat
import tempfile
import threading
import weakref
from collections import OrderedDict, deque
from functools import lru_cache
from pathlib import Path

from . import files

MOST = 200_000_000  # bytes that are kept in memory, to write them again where a cleaner took them
NEWEST = 64  # files that stay though nothing holds their path: it may stand in a text, as in code that was shown
SLACK = 600.0  # seconds by which a process's start may look different to another: clocks are set
_NAME = re.compile(r"lcm_nb-(\d+)-(\d+)-\w+")
_remembered: OrderedDict[str, bytes] = OrderedDict()
_lock = threading.RLock()  # a path may be let go of anywhere, by the thread that has the lock, too


class Kept(str):
    """The path of a kept file, which stays as long as anything holds this very text: a control, a result's settings."""


_held: weakref.WeakValueDictionary[str, Kept] = weakref.WeakValueDictionary()
_newest: deque[Kept] = deque(maxlen=NEWEST)


def keep(data: bytes, name: str) -> Kept:
    """Return the path of a file of this process that holds ``data``; the same name stands for the same bytes."""
    with _lock:
        place = _folder(os.getpid()) / name
        path = _held.get(str(place)) or _hold(str(place))
        if path not in _newest:
            _newest.append(path)
        _remembered[str(path)] = data
        _remembered.move_to_end(str(path))
        while len(_remembered) > 1 and sum(map(len, _remembered.values())) > MOST:
            _remembered.popitem(last=False)
        _write(place, data)
    return path


def _hold(place: str) -> Kept:
    path = _held[place] = Kept(place)
    weakref.finalize(path, _forget, place, os.getpid()).atexit = False
    return path


def _forget(place: str, process: int) -> None:
    with _lock:
        if place in _held or os.getpid() != process:  # kept again meanwhile; or the file is a forked child's parent's
            return
        _remembered.pop(place, None)
        with contextlib.suppress(OSError):
            os.remove(place)


def bring_back(path: str | Path) -> None:
    """Write a kept file again if it is one and a cleaner of temporary folders took it."""
    with _lock:
        if (data := _remembered.get(str(path))) is not None:
            _write(Path(path), data)


def clean() -> None:
    """Remove what processes left behind that were killed: folders of this name and this user alone."""
    with contextlib.suppress(OSError), os.scandir(tempfile.gettempdir()) as entries:
        for entry in entries:
            found = _NAME.fullmatch(entry.name)
            if found and _is_own(entry.path) and not _is_alive(int(found[1]), int(found[2])):
                shutil.rmtree(entry.path, ignore_errors=True)


def _write(path: Path, data: bytes) -> None:
    with contextlib.suppress(OSError):
        if path.stat().st_size == len(data):
            return
    with files.spoken(path):
        path.parent.mkdir(mode=0o700, exist_ok=True)
        files.replace(path, data, lasting=False)


@lru_cache
def _folder(process: int) -> Path:
    """Return the folder of a process, made when it is asked for first; a forked child has its own."""
    clean()
    with files.spoken(Path(tempfile.gettempdir()) / "lcm_nb"):
        folder = Path(tempfile.mkdtemp(prefix=f"lcm_nb-{process}-{int(_start(process) or 0)}-"))
    atexit.register(_remove, folder, process)
    return folder


def _remove(folder: Path, process: int) -> None:
    if os.getpid() == process:  # a forked child that exits runs its parent's farewells, too
        shutil.rmtree(folder, ignore_errors=True)


def _is_own(path: str) -> bool:
    try:
        about = os.lstat(path)
    except OSError:
        return False
    return stat.S_ISDIR(about.st_mode) and (not hasattr(os, "getuid") or about.st_uid == os.getuid())


def _is_alive(process: int, start: int) -> bool:
    now = _start(process)
    return now is not None and (not now or not start or abs(now - start) < SLACK)


def _start(process: int) -> float | None:
    """Return when a process began, in seconds since 1970; None if there is none, 0 if nobody says."""
    import psutil

    try:
        return float(psutil.Process(process).create_time())
    except psutil.NoSuchProcess:
        return None
    except (psutil.Error, OSError):
        return 0.0


def _fresh_lock() -> None:
    global _lock
    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_fresh_lock)  # another thread may have held it
