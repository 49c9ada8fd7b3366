"""What a run tells and leaves: steps, pictures, and PNG files that say how they were made."""

import contextlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, PngImagePlugin

from .grid import row
from .models.checkpoints import Checkpoints
from .models.device import versions
from .models.hashes import checkpoint_hashes
from .pictures import encode_image
from .settings import seeds

JSON_CHUNK = "lcm_nb"
SOURCE_CHUNK = b"lcSo"  # a private PNG chunk that holds a PNG
RECORDS = ("settings", "checkpoints", "versions")  # what the JSON chunk holds as dictionaries


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
    fitted, and ``input_image`` what the pipeline was given: the same, or its edges; ``note`` says
    what happened on the way: how its size was changed, what a safety checker did.
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

    @property
    def image(self) -> Image.Image:
        """The first picture."""
        return self.images[0]

    @property
    def seeds(self) -> list[int]:
        """The seed of each picture."""
        return seeds(self.settings)

    def _repr_png_(self) -> bytes:
        return encode_image(row(self.images))

    def save(self, path: str | Path) -> Path:
        """Write the pictures as PNG files that carry all it takes to make them again.

        One picture becomes ``path``; several become ``fox-1.png``, ``fox-2.png``, ... for ``fox.png``. The text
        chunk ``parameters`` is in the form that image tools read; the chunk ``lcm_nb`` is JSON: section, settings,
        checkpoint names and hashes, versions; the picture that the run started from is in the file, too.

        Returns
        -------
        path
            The first file.

        Raises
        ------
        ValueError
            If ``path`` does not end in ``.png``, or its folder does not exist.
        """
        path = Path(path)
        if path.suffix.lower() != ".png":
            raise ValueError(f"{path} does not end in .png; only PNG files carry their settings.")
        if not path.parent.is_dir():
            raise ValueError(f"The folder {path.parent} does not exist; create it, or save elsewhere.")
        paths = [path]
        if len(self.images) > 1:
            paths = [path.with_stem(f"{path.stem}-{number}") for number in range(1, len(self.images) + 1)]
        hashes = checkpoint_hashes(self.section, self.checkpoints)
        for index, file in enumerate(paths):
            self.images[index].save(file, pnginfo=self._chunks(index, hashes))
        return paths[0]

    def _chunks(self, index: int, hashes: dict[str, dict[str, str]]) -> PngImagePlugin.PngInfo:
        """Return what the file of picture ``index`` carries."""
        settings = dict(self.settings)
        if "image" in settings:
            settings["image"] = Path(settings["image"]).name  # the file that people pass on names no folder of theirs
        record = {
            "section": self.section,
            "profile": self.checkpoints.profile,
            "model": self.checkpoints.model,
            "settings": settings,
            "picture": index,
            "timesteps": self.timesteps,
            "device": self.checkpoints.device,
            "runtime": self.checkpoints.runtime,
            "checkpoints": hashes,
            "versions": versions(),
        }
        chunks = PngImagePlugin.PngInfo()
        chunks.add_itxt("parameters", self._parameters(index, hashes))
        chunks.add_itxt(JSON_CHUNK, json.dumps(record))
        if self.source is not None:
            chunks.add(SOURCE_CHUNK, encode_image(self.source))
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
    """What a saved file says: ``facts`` of the JSON chunk, its pixels, and the picture that it started from."""

    facts: dict[str, Any]
    pixels: np.ndarray
    source: bytes | None

    @property
    def commits(self) -> dict[str, str]:
        """The commits of the parts that came from the Hub."""
        parts = self.facts["checkpoints"]
        return {part: made["revision"] for part, made in parts.items() if "revision" in made}


def read(path: str | Path) -> Record:
    """Return what a file that ``Result.save`` wrote says of its picture.

    Raises
    ------
    ValueError
        If there is no such file, or it carries no settings, or damaged ones.
    """
    if not Path(path).is_file():
        raise ValueError(f"There is no file {path}; give the path of a PNG that Result.save wrote.")
    with Image.open(path) as image:
        text = getattr(image, "text", {}).get(JSON_CHUNK, "null")
        source = dict(chunk[:2] for chunk in getattr(image, "private_chunks", [])).get(SOURCE_CHUNK)
        pixels = np.asarray(image.convert("RGB"))
    with contextlib.suppress(ValueError):
        facts = json.loads(text)
        whole = isinstance(facts, dict) and facts.keys() >= {"section", "profile", *RECORDS}
        if whole and all(isinstance(facts[name], dict) for name in RECORDS):
            return Record(facts, pixels, source)
    raise ValueError(f"{path} carries no lcm_nb settings; only files written by Result.save can be reproduced.")
