"""Fetch the icons, then write pictures and captions.

``work/data`` holds ``pictures.npy`` (N, 256, 256, 3) uint8, ``captions.json`` and
``labels.json``; scene ``i`` depends on the seed and ``i`` alone.
"""

import json
import shutil
import subprocess
import tarfile
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ..tutorial.captions import Scene, labels, scene_at, styled_scene_at
from .loop import Settings, made_by
from .scenes import CANVAS, Painter
from .styles import STYLES

PACKAGE = "@iconify-json/fluent-emoji-flat@1.2.6"
JUDGE_SEED = 1_000_003  # the judge never sees the generator's scenes
STYLE_SEED = 3_000_017


def icons(work: Path) -> Path:
    """Return the path of ``icons.json``, fetching the npm package when it is not there yet."""
    path = work / "icons" / "icons.json"
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    if not shutil.which("npm"):
        raise RuntimeError(f"npm is not installed; install it, or unpack {PACKAGE} and put its icons.json at {path}")
    subprocess.run(["npm", "pack", PACKAGE], cwd=path.parent, check=True, capture_output=True)
    with tarfile.open(next(path.parent.glob("*.tgz"))) as archive:
        path.write_bytes(archive.extractfile("package/icons.json").read())
    return path


def _captioned(seed: int, index: int, style: str | None) -> tuple[Scene, str]:
    return styled_scene_at(seed, index, style) if style else scene_at(seed, index)


def _render(job: tuple) -> None:
    path, icon_path, seed, style, start, stop = job
    painter = Painter(icon_path)
    pictures = np.lib.format.open_memmap(path, mode="r+")
    for index in range(start, stop):
        scene, _ = _captioned(seed, index, style)
        pictures[index] = STYLES[style](painter, scene) if style else painter.draw(scene)


def run(settings: Settings, *, name: str = "data", seed: int | None = None, style: str | None = None) -> Path:
    """Write ``settings.steps`` captioned pictures to ``work/name``; what is there already stays."""
    folder, count = settings.work / name, settings.steps
    seed = settings.seed if seed is None else seed
    folder.mkdir(parents=True, exist_ok=True)
    done = folder / "captions.json"
    if done.exists() and len(json.loads(done.read_text())) == count:
        return folder
    path, icon_path = folder / "pictures.npy", icons(settings.work)
    np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=(count, CANVAS, CANVAS, 3)).flush()
    jobs = [(path, icon_path, seed, style, i, min(i + 250, count)) for i in range(0, count, 250)]
    with ProcessPoolExecutor() if len(jobs) > 1 else nullcontext() as pool:  # processes pay off from two jobs on
        work = pool.map if pool else map
        list(tqdm(work(_render, jobs), total=len(jobs), desc=f"{name} x 250"))
    scenes = [_captioned(seed, i, style) for i in range(count)]
    (folder / "labels.json").write_text(json.dumps([labels(scene) for scene, _ in scenes]))
    done.write_text(json.dumps([text for _, text in scenes]))
    return folder


def pictures(work: Path, name: str = "data") -> np.ndarray:
    """Return the written pictures, memory-mapped, (N, 256, 256, 3) uint8."""
    path = made_by("data", work / name / "pictures.npy")
    return np.load(path, mmap_mode="r")


def captions(work: Path, name: str = "data") -> list[str]:
    """Return the captions of the written pictures, in order."""
    return json.loads((work / name / "captions.json").read_text())
