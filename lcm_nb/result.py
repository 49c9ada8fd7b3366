"""What a run tells and leaves: steps, pictures, and PNG files that say how they were made."""

import io
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, PngImagePlugin

from . import png
from .files import check_target, shown
from .files import read as read_file
from .files import save as save_files
from .grid import row
from .models.checkpoints import Checkpoints
from .models.device import versions
from .models.hashes import checkpoint_hashes
from .pictures import MAX_BYTES, encode_image, keep_image, read_image
from .settings import MOST_IMAGES, seeds

JSON_CHUNK = "lcm_nb"
SOURCE_CHUNK, MASK_CHUNK = b"lcSo", b"lcMa"  # private PNG chunks that hold a PNG each
MAX_TEXT = 100_000  # bytes of the JSON chunk: a prompt has 2,000 characters at most
ONLY = "Only files written by Result.save can be reproduced."


@dataclass(frozen=True)
class Step:
    """What a run tells after each UNet step.

    ``number`` counts from 1 to ``total``, ``timestep`` is the training timestep that was denoised (0-999), and
    ``denoised`` the clean latent predicted there, a tensor (1, C, h, w). ``preview()`` is a hint of its picture
    (the picture is ``studio.runtime.decode(denoised)``); None where that would swap modules in and out of the GPU's
    memory (CPU offload). ``picture`` of ``pictures`` is being drawn, counted from 1.
    """

    number: int
    total: int
    timestep: int
    denoised: Any
    preview: Callable[[], Image.Image] | None
    picture: int = 1
    pictures: int = 1


@dataclass(frozen=True)
class Result:
    """A finished run: pictures, the settings that made them, and what it took.

    ``images`` have the seeds ``seed``, ``seed + 1``, ...; ``seconds`` is wall time with decoding, for all;
    ``timesteps`` are the UNet's for one, in order. ``source`` is the picture that the run started from, as it was
    fitted, and ``input_image`` what the pipeline was given: the same, its edges, or what ``mask`` leaves of it;
    ``note`` says what happened on the way: how its size was changed, what of the prompt was not read, which of its
    words the mini family does not know, what a safety checker did.
    """

    images: list[Image.Image]
    section: str
    settings: dict[str, Any]
    seconds: float
    timesteps: list[int]
    checkpoints: Checkpoints = field(repr=False)
    source: Image.Image | None = None
    input_image: Image.Image | None = None
    note: str = ""
    mask: Image.Image | None = None

    @property
    def image(self) -> Image.Image:
        """The first picture."""
        return self.images[0]

    @property
    def seeds(self) -> list[int]:
        """The seed of each picture."""
        return seeds(self.settings)

    @property
    def where(self) -> str:
        """What drew: a device of this computer, or a server's with its address."""
        server = self.checkpoints.server
        return f"{server.device_name} of {server.address}" if server else f"{self.checkpoints.device} of this computer"

    def _repr_png_(self) -> bytes:
        return encode_image(row(self.images))

    def save(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write the pictures as PNG files that carry all it takes to make them again.

        One picture becomes ``path``; several become ``fox-1.png``, ``fox-2.png``, ... for ``fox.png``. Where a
        name is taken, ``fox-2`` is tried in place of ``fox``, and so on. The text
        chunk ``parameters`` is in the form that image tools read; the chunk ``lcm_nb`` is JSON: section, settings,
        checkpoint names and hashes, versions; the picture that the run started from is in the file, too.

        Parameters
        ----------
        overwrite
            Replace files that are there. Each is whole at all times: the old one or the new one.

        Returns
        -------
        path
            The first file, under the name that it got.

        Raises
        ------
        ValueError
            If ``path`` does not end in ``.png``, or its folder does not exist.
        OSError
            If it cannot be written, with the remedy; files of before are as they were.
        """
        place = check_target(path)
        hashes = checkpoint_hashes(self.section, self.checkpoints)
        contents = [self._png(index, hashes) for index in range(len(self.images))]
        return save_files(place, contents, overwrite=overwrite)[0]

    def _png(self, index: int, hashes: dict[str, dict[str, str]]) -> bytes:
        """Return the file of picture ``index``."""
        buffer = io.BytesIO()
        self.images[index].save(buffer, format="png", pnginfo=self._chunks(index, hashes))
        return buffer.getvalue()

    def _chunks(self, index: int, hashes: dict[str, dict[str, str]]) -> PngImagePlugin.PngInfo:
        """Return what the file of picture ``index`` carries."""
        settings = dict(self.settings)
        for name in settings.keys() & {"image", "mask_image"}:
            settings[name] = Path(settings[name]).name  # the file that people pass on names no folder of theirs
        server = self.checkpoints.server
        record = {
            "section": self.section,
            "profile": self.checkpoints.profile,
            "model": self.checkpoints.model,
            "settings": settings,
            "picture": index,
            "timesteps": self.timesteps,
            "device": self.checkpoints.device,
            "runtime": self.checkpoints.runtime,
            "dtype": self.checkpoints.computes,
            "measures": list(self.checkpoints.measures),
            "checkpoints": hashes,
            "versions": dict(server.versions) if server else versions(),
        }
        chunks = PngImagePlugin.PngInfo()
        chunks.add_itxt("parameters", self._parameters(index, hashes))
        chunks.add_itxt(JSON_CHUNK, json.dumps(record))
        for chunk, image in ((SOURCE_CHUNK, self.source), (MASK_CHUNK, self.mask)):
            if image is not None:
                chunks.add(chunk, encode_image(image))
        return chunks

    def _parameters(self, index: int, hashes: dict[str, dict[str, str]]) -> str:
        width, height = self.images[index].size
        model = hashes.get("unet", hashes["base"])
        fields = {
            "Steps": self.settings["num_inference_steps"],
            "Sampler": self.checkpoints.scheduler.removesuffix("Scheduler"),
            "CFG scale": self.settings["guidance_scale"],
            "Seed": self.seeds[index],
            "Size": f"{width}x{height}",
            "Model hash": model["sha256"][:10],
            "Model": model["name"],
        }
        if "strength" in self.settings:
            fields["Denoising strength"] = self.settings["strength"]
        negative = self.settings.get("negative_prompt")
        lines = [self.settings["prompt"], *([f"Negative prompt: {negative}"] if negative else [])]
        return "\n".join([*lines, ", ".join(f"{k}: {v}" for k, v in fields.items())])


@dataclass(frozen=True)
class Record:
    """What a saved file says: ``facts`` of the JSON chunk, its pixels, the picture that it started from, its mask."""

    facts: dict[str, Any]
    pixels: np.ndarray
    source: bytes | None
    mask: bytes | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """The settings; the picture that it started from and its mask are kept as files, and named there."""
        given = {"image": self.source, "mask_image": self.mask}
        return self.facts["settings"] | {name: keep_image(data) for name, data in given.items() if data}

    @property
    def dtype(self) -> str | None:
        """What the networks computed in; None in files of before, which said it only by their device."""
        return self.facts.get("dtype", "float32" if self.facts.get("device") == "cpu" else None)

    @property
    def commits(self) -> dict[str, str]:
        """The commits of the parts that came from the Hub."""
        parts = self.facts["checkpoints"]
        return {part: made["revision"] for part, made in parts.items() if "revision" in made}


def read(source: str | Path | bytes) -> Record:
    """Return what a file that ``Result.save`` wrote says of its picture.

    Nothing but PNG is opened, of at most 20 MB and 40 megapixels, with at most 100 kB of settings.

    Parameters
    ----------
    source
        A path, or the bytes of the file.

    Raises
    ------
    ValueError
        If there is no such file, it carries no settings, or damaged ones.
    """
    if isinstance(source, (bytes, bytearray, memoryview)):
        name, data = "The uploaded file", bytes(source)
        if len(data) > MAX_BYTES:
            raise ValueError(f"{name} has {len(data) / 1e6:.0f} MB; at most {MAX_BYTES // 10**6} MB are read.")
    else:
        name, data = str(source), read_file(source, most=MAX_BYTES, wanted="the path of a PNG that Result.save wrote")
    if not data.startswith(png.SIGNATURE):
        raise ValueError(f"{name} carries no lcm_nb settings: it is no PNG. {ONLY}")
    try:
        chunks = list(png.chunks(data))
        text = next((text for chunk in chunks if (text := png.text(*chunk, JSON_CHUNK, MAX_TEXT)) is not None), None)
    except ValueError as error:
        raise ValueError(f"{name} is damaged ({error}); take another copy of it.") from None
    if text is None:
        raise ValueError(f"{name} carries no lcm_nb settings. {ONLY}")
    facts = _facts(name, text)
    pixels = np.asarray(read_image(png.joined([chunk for chunk in chunks if chunk[0] in png.PICTURE]), name=name))
    own = dict(chunks)
    return Record(facts, pixels, own.get(SOURCE_CHUNK), own.get(MASK_CHUNK))


def _facts(name: str, text: str) -> dict[str, Any]:
    """Return what the JSON chunk says, once its form is right; whether the values are is seen when they are used."""
    try:
        facts = json.loads(text)
    except (ValueError, RecursionError):
        facts = None
    if not isinstance(facts, dict) or not facts.keys() >= FORM.keys() - OPTIONAL:
        raise ValueError(f"{name} carries no lcm_nb settings that can be read. {ONLY}")
    for key, fits in FORM.items():
        if key in facts and not fits(facts[key]):
            raise ValueError(f"{name} carries damaged lcm_nb settings: {key} is {shown(facts[key])}. {ONLY}")
    return facts


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_number(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < MOST_IMAGES


def _is_made(value: object) -> bool:
    """Return whether a part's entry has a name, a hash and perhaps a commit."""
    if not isinstance(value, dict) or not all(isinstance(value.get(key), str) for key in ("name", "sha256")):
        return False
    return "revision" not in value or bool(re.fullmatch("[0-9a-f]{40}", str(value["revision"])))


def _each(fits: Callable[[object], bool]) -> Callable[[object], bool]:
    return lambda value: isinstance(value, dict) and all(map(fits, value.values()))


DTYPES = ("float32", "bfloat16", "float16")
# What the JSON chunk holds, and how each looks. Files of before had no model, picture, device, dtype and measures.
FORM: dict[str, Callable[[object], bool]] = {
    "section": _is_text,
    "profile": _is_text,
    "model": lambda value: value is None or isinstance(value, str),
    "settings": lambda value: isinstance(value, dict),
    "picture": _is_number,
    "device": lambda value: value is None or isinstance(value, str),
    "dtype": lambda value: value in DTYPES,
    "measures": lambda value: isinstance(value, list) and all(map(_is_text, value)),
    "checkpoints": _each(_is_made),
    "versions": _each(_is_text),
}
OPTIONAL = {"model", "picture", "device", "dtype", "measures"}
