"""Files: written whole or not at all, under a name of their own; read within limits; kept while a process lives."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from PIL import Image

from lcm_nb import files, kept, pictures

OLD, NEW = b"old" * 100, b"new" * 20_000


def listing(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# -- names ------------------------------------------------------------------------------


def test_what_is_there_is_not_replaced_unless_asked(tmp_path):
    path = tmp_path / "fox.png"
    assert [files.save(path, [bytes([n])])[0].name for n in range(3)] == ["fox.png", "fox-2.png", "fox-3.png"]
    assert files.save(path, [NEW], overwrite=True) == [path]
    assert path.read_bytes() == NEW and listing(tmp_path) == ["fox-2.png", "fox-3.png", "fox.png"]


def test_several_files_are_named_together(tmp_path):
    path = tmp_path / "fox.png"
    (tmp_path / "fox-2.png").write_bytes(OLD)
    saved = files.save(path, [b"1", b"2"])
    assert [file.name for file in saved] == ["fox-2-1.png", "fox-2-2.png"]
    assert listing(tmp_path) == ["fox-2-1.png", "fox-2-2.png", "fox-2.png"]  # fox-1.png was let go of


@pytest.mark.parametrize("links", [True, False], ids=["links", "no links"])
@pytest.mark.parametrize("count", [1, 2])
def test_saves_at_once_never_share_a_name(tmp_path, monkeypatch, links, count):
    if not links:
        monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOTSUP, "none here")))
    with ThreadPoolExecutor(8) as pool:
        saved = list(pool.map(lambda n: files.save(tmp_path / "fox.png", [bytes([n])] * count), range(24)))
    paths = [path for group in saved for path in group]
    assert len(set(paths)) == 24 * count and sorted(p.name for p in paths) == listing(tmp_path)
    assert all(path.read_bytes() == bytes([n]) for n, group in enumerate(saved) for path in group)


def test_a_reader_sees_the_old_file_or_the_new_one(tmp_path):
    path, seen, end = tmp_path / "fox.png", set(), threading.Event()
    path.write_bytes(OLD)

    def reads():
        while not end.is_set():
            seen.add(path.read_bytes())

    reader = threading.Thread(target=reads)
    reader.start()
    for n in range(40):
        files.replace(path, (OLD, NEW)[n % 2])
    end.set()
    reader.join()
    assert seen <= {OLD, NEW}


# -- what goes wrong --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.EACCES, "choose a folder of yours"),
        (errno.EPERM, "choose a folder of yours"),
        (errno.EISDIR, "give the name of a file in it"),
        (errno.ENOSPC, "the disk is full; free some space"),
        (errno.EDQUOT, "delete some files"),
        (errno.EFBIG, "ulimit -f"),
        (errno.EROFS, "read-only; choose a folder on another disk"),
        (errno.ENAMETOOLONG, "choose a shorter one"),
        (errno.ENOENT, "does not exist; create it"),
        (errno.EMFILE, "restart the kernel"),
        (errno.EIO, "the disk fails; choose"),
        (errno.ESTALE, "choose another folder"),
    ],
)
@pytest.mark.parametrize("overwrite", [True, False])
def test_every_errno_has_its_sentence_and_leaves_what_was_there(tmp_path, monkeypatch, number, remedy, overwrite):
    path = tmp_path / "fox.png"
    path.write_bytes(OLD)
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(number, os.strerror(number))))
    with pytest.raises(OSError) as told:
        files.save(path, [NEW], overwrite=overwrite)
    assert remedy in str(told.value) and "fox.png was not saved" in str(told.value) and told.value.errno == number
    assert path.read_bytes() == OLD and listing(tmp_path) == ["fox.png"]


@pytest.mark.parametrize("call", ["fsync", "link", "replace"])
def test_an_interrupt_leaves_what_was_there(tmp_path, monkeypatch, call):
    path = tmp_path / "fox.png"
    path.write_bytes(OLD)
    monkeypatch.setattr(os, call, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        files.save(path, [NEW], overwrite=call == "replace")
    assert path.read_bytes() == OLD and listing(tmp_path) == ["fox.png"]


@pytest.mark.skipif(sys.platform == "win32", reason="no limit of file sizes")
def test_a_true_limit_leaves_the_old_file_whole(tmp_path):
    path = tmp_path / "fox.png"
    path.write_bytes(OLD)
    code = (
        "import resource, pathlib; from lcm_nb import files\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))\n"
        f"files.replace(pathlib.Path({str(path)!r}), b'x' * 50000)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[1])
    assert "ulimit -f" in done.stderr and done.returncode == 1
    assert path.read_bytes() == OLD and listing(tmp_path) == ["fox.png"]


def targets(folder: Path) -> dict[str, object]:
    (folder / "is.png").mkdir()
    (folder / "file").touch()
    return {
        "does not end in .png": folder / "fox.jpg",
        "nowhere does not exist; create it": folder / "nowhere" / "fox.png",
        "is a folder; give the name": folder / "is.png",
        "file does not exist": folder / "file" / "fox.png",
        "name is too long; choose a shorter": folder / f"{'x' * 300}.png",
        "None is no path": None,
        "7 is no path": 7,
        "'' can be no path": "",
        "can be no path; give the name": "a\0b.png",
        r"\\udfff.* can be no path": "\ud800\udfff.png",
    }


def test_a_target_is_refused_before_anything_is_drawn(tmp_path):
    for message, target in targets(tmp_path).items():
        with pytest.raises((ValueError, OSError), match=message) as told:
            files.check_target(target)
        assert len(str(told.value)) < 600 and "\n" not in str(told.value)


def test_a_good_target_is_left_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert files.check_target("~/fox.png") == tmp_path / "fox.png" and listing(tmp_path) == []


# -- reading ----------------------------------------------------------------------------


def sources(folder: Path) -> dict[str, object]:
    os.mkfifo(folder / "pipe")
    (folder / "large").write_bytes(b"x" * 2_000_001)
    return {
        "There is no file .*none; give a picture": folder / "none",
        "is a folder; give a picture": folder,
        "pipe is no ordinary file": folder / "pipe",
        "has 2 MB; at most 1 MB are read": folder / "large",
        "None is no path": None,
        r"File name too long\); give a picture": folder / ("x" * 300),
    }


@pytest.mark.skipif(sys.platform == "win32", reason="no pipes in folders")
def test_what_cannot_be_read_is_refused_at_once(tmp_path):
    for message, source in sources(tmp_path).items():
        with pytest.raises(ValueError, match=message):
            files.read(source, most=1_000_000, wanted="a picture")


# -- pictures from memory -----------------------------------------------------------------


@pytest.fixture
def picture() -> Image.Image:
    return Image.effect_noise((64, 64), 90).convert("RGB")


def test_a_picture_from_memory_survives_its_folder(picture):
    path = Path(pictures.keep_image(picture))
    shutil.rmtree(path.parent)
    assert pictures.keep_image(str(path)) == str(path)
    shutil.rmtree(path.parent)
    assert pictures.read_image(path).tobytes() == picture.tobytes()
    assert pictures.keep_image(picture) == str(path)


def test_threads_share_a_picture(picture):
    def use(_):
        return pictures.read_image(pictures.keep_image(picture)).tobytes()

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(use, range(64))) == {picture.tobytes()}


def test_what_is_kept_is_bounded(picture, monkeypatch):
    monkeypatch.setattr(kept, "MOST", 30_000)
    for n in range(6):
        kept.keep(bytes([n]) * 10_000, f"{n}.png")
    assert sum(map(len, kept._remembered.values())) <= 30_000


RUN = "import os, sys, time; from lcm_nb import kept; print(kept.keep(b'mine', 'a.png'), flush=True); "


def started(code: str, folder: Path) -> subprocess.Popen:
    env = os.environ | {"TMPDIR": str(folder)}
    return subprocess.Popen(
        [sys.executable, "-c", RUN + code], stdout=subprocess.PIPE, text=True, env=env, cwd=Path(__file__).parents[1]
    )


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_the_next_start_removes_what_a_killed_process_left_and_nothing_else(tmp_path, monkeypatch):
    for other in ("lcm_nb-mine", "lcm_nb-1-x", "other-99999999-1-abc"):
        (tmp_path / other).mkdir()
    (tmp_path / "lcm_nb-99999999-5-link").symlink_to(tmp_path / "other-99999999-1-abc")
    living, dead = started("time.sleep(60)", tmp_path), started("time.sleep(60)", tmp_path)
    try:
        alive, gone = (Path(process.stdout.readline().strip()) for process in (living, dead))
        assert gone.is_file()
        dead.send_signal(signal.SIGKILL)
        dead.wait()
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        kept.clean()
        assert alive.is_file() and not gone.parent.exists()
        assert {"lcm_nb-mine", "lcm_nb-1-x", "other-99999999-1-abc", "lcm_nb-99999999-5-link"} <= {*listing(tmp_path)}
    finally:
        living.kill()
        living.wait()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_forked_child_that_exits_takes_nothing_along(tmp_path):
    code = "path = kept.keep(b'mine', 'a.png')\nchild = os.fork()\nif not child: sys.exit()\n"
    done = started(f"exec({code + 'os.waitpid(child, 0); print(os.path.exists(path))'!r})", tmp_path)
    assert done.communicate(timeout=60)[0].splitlines()[-1] == "True"
    assert listing(tmp_path) == []  # and at the end nothing stays
