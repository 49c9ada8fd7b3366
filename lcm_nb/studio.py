"""Load a section of the guide, make pictures, and find out again how each was made."""

import contextlib
import functools
import hashlib
import json
import threading
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import diffusers
import numpy as np
import torch
import transformers
from diffusers import LCMScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
from PIL import Image, PngImagePlugin

from .profiles import Checkpoints, checkpoints, resolve_device, reuse_memory, versions
from .recipes import complete, recipe_for

JSON_CHUNK = "lcm_nb"
RECORDS = ("settings", "checkpoints", "versions")  # what the chunk holds as dictionaries


class Cancelled(Exception):
    """Raised inside a run to stop it within one step; the studio stays usable."""


@dataclass(frozen=True)
class Step:
    """What a run tells after each UNet step.

    ``number`` counts from 1 to ``total``, ``timestep`` is the training timestep that
    was denoised (0-999), and ``preview()`` decodes the clean picture predicted so far.
    """

    number: int
    total: int
    timestep: int
    preview: Callable[[], Image.Image]


@dataclass(frozen=True)
class Result:
    """A finished run: pictures, the settings that made them, and what it took.

    ``seconds`` is wall time with decoding; ``timesteps`` are the UNet's, in order.
    """

    images: list[Image.Image]
    section: str
    settings: dict[str, object]
    seconds: float
    timesteps: list[int]
    checkpoints: Checkpoints = field(repr=False)

    @property
    def image(self) -> Image.Image:
        """The first picture."""
        return self.images[0]

    def _repr_png_(self) -> bytes:
        return self.image._repr_png_()

    def save(self, path: str | Path) -> Path:
        """Write the first picture as a PNG that carries all it takes to make it again.

        The text chunk ``parameters`` is in the form that image tools read; the chunk
        ``lcm_nb`` is JSON: section, settings, checkpoint names and hashes, versions.

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
        hashes = checkpoint_hashes(self.checkpoints)
        record = {
            "section": self.section,
            "profile": self.checkpoints.profile,
            "settings": self.settings,
            "timesteps": self.timesteps,
            "device": self.checkpoints.device,
            "checkpoints": hashes,
            "versions": versions(),
        }
        chunks = PngImagePlugin.PngInfo()
        chunks.add_itxt("parameters", self._parameters(hashes))
        chunks.add_itxt(JSON_CHUNK, json.dumps(record))
        self.image.save(path, pnginfo=chunks)
        return path

    def _parameters(self, hashes: dict[str, dict[str, str]]) -> str:
        width, height = self.image.size
        fields = {
            "Steps": self.settings["num_inference_steps"],
            "Sampler": "LCM",
            "CFG scale": self.settings["guidance_scale"],
            "Seed": self.settings["seed"],
            "Size": f"{width}x{height}",
            "Model hash": hashes["unet"]["sha256"][:10],
            "Model": hashes["unet"]["name"],
        }
        return f"{self.settings['prompt']}\n" + ", ".join(f"{k}: {v}" for k, v in fields.items())


class Studio:
    """A loaded pipeline of one section. Make one with :func:`load`.

    Attributes
    ----------
    pipe
        The stock diffusers pipeline, with ``LCMScheduler``.
    section, checkpoints
        What was loaded.
    """

    def __init__(self, section: str, pipe: StableDiffusionXLPipeline, names: Checkpoints):
        self.section, self.pipe, self.checkpoints = section, pipe, names
        self._lock = threading.Lock()  # a pipeline shared by threads gives wrong pictures silently

    def generate(self, *, on_step: Callable[[Step], None] | None = None, **settings) -> Result:
        """Make a picture. Settings left out come from the guide's section.

        Parameters
        ----------
        on_step
            Called after each UNet step; what it raises stops the run.
        settings
            For text-to-image: ``prompt``, ``num_inference_steps`` (1-50),
            ``guidance_scale`` (1-14), ``seed`` (0-2**32-1).

        Raises
        ------
        ValueError
            For an unknown setting or one out of range, before anything runs.
        """
        settings = complete(self.section, settings)
        timesteps: list[int] = []
        with self._lock, _watch_predictions(self.pipe.scheduler) as predictions:
            start = time.perf_counter()

            def after_step(pipe, index, timestep, tensors):
                timesteps.append(int(timestep))
                if on_step:
                    latents = predictions[-1]
                    on_step(Step(index + 1, pipe.num_timesteps, int(timestep), lambda: self._decode(latents)))
                return tensors

            arguments = {k: v for k, v in settings.items() if k != "seed"}
            generator = torch.Generator().manual_seed(settings["seed"])
            try:
                images = self.pipe(**arguments, generator=generator, callback_on_step_end=after_step).images
            finally:
                self.pipe.maybe_free_model_hooks()
            seconds = time.perf_counter() - start
        return Result(images, self.section, settings, seconds, timesteps, self.checkpoints)

    def panel(self):
        """Return the section's controls and picture as an ipywidgets panel."""
        from .panel import Panel

        return Panel(recipe_for(self.section).settings, run=self.generate, code=self.code, cancelled=Cancelled)

    def sweep(self, **lists):
        """Make a labelled grid: the first list runs across, the second down.

        Single values apply to all pictures, e.g.
        ``sweep(num_inference_steps=[1, 2, 4, 8], guidance_scale=[1, 4, 8], seed=3)``.

        Raises
        ------
        ValueError
            If not one or two settings are lists, a list is empty, or a value is out
            of range; nothing has run then.
        """
        from .figures import Grid, sweep_axes

        columns, rows, cases = sweep_axes(lists)
        cases = [complete(self.section, case) for case in cases]
        from tqdm.auto import tqdm

        return Grid(columns, rows, [self.generate(**case) for case in tqdm(cases, desc="pictures")])

    def code(self, settings: dict[str, object]) -> str:
        """Return plain diffusers code that makes the picture of ``settings``."""
        settings, names = complete(self.section, settings), self.checkpoints
        loading = "".join(f", {name}={value!r}" for name, value in names.loading.items())
        return f"""\
import torch
from diffusers import LCMScheduler, StableDiffusionXLPipeline, UNet2DConditionModel

unet = UNet2DConditionModel.from_pretrained(
    {names.unet!r}{loading}
)
pipe = StableDiffusionXLPipeline.from_pretrained(
    {names.base!r}, unet=unet{loading}
).to({names.device!r})
pipe.scheduler = LCMScheduler.from_config(pipe.scheduler.config)

image = pipe(
    prompt={settings["prompt"]!r},
    num_inference_steps={settings["num_inference_steps"]},
    guidance_scale={settings["guidance_scale"]},
    generator=torch.manual_seed({settings["seed"]}),
).images[0]
"""

    @torch.no_grad()
    def _decode(self, latents: torch.Tensor) -> Image.Image:
        vae = self.pipe.vae
        pictures = vae.decode(latents.to(vae.dtype) / vae.config.scaling_factor).sample
        return self.pipe.image_processor.postprocess(pictures)[0]


def load(section: str, profile: str | None = None, device: str | None = None) -> Studio:
    """Load a section of the guide and return its studio.

    Parameters
    ----------
    section
        One of ``lcm_nb.SECTIONS``.
    profile
        "mini" (small models that ship with the package) or "guide" (the guide's own);
        default: ``LCM_NB_PROFILE``, else "guide" with CUDA and "mini" without.
    device
        A torch device; default "cuda" where there is one, else "cpu".

    Raises
    ------
    ValueError
        For an unknown section, profile or device.
    NotImplementedError
        For the guide profile, which this release does not load yet.
    """
    names = checkpoints(section, profile, device)
    if names.profile == "guide":
        raise NotImplementedError(
            "The guide profile is not ready yet. Use lcm_nb.load(section, profile='mini'), "
            "or set the environment variable LCM_NB_PROFILE=mini."
        )
    reuse_memory()
    with _no_loading_bars():
        unet = UNet2DConditionModel.from_pretrained(names.unet, use_safetensors=True, **names.loading)
        pipe = StableDiffusionXLPipeline.from_pretrained(names.base, unet=unet, use_safetensors=True, **names.loading)
    pipe = pipe.to(names.device)
    pipe.scheduler = LCMScheduler.from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    return Studio(section, pipe, names)


def reproduce(path: str | Path) -> Result:
    """Make the picture of a PNG that ``Result.save`` wrote once more.

    It is drawn on the device of the first time, where there is one. Warns if it comes out
    different, which another device or other library versions can cause.

    Raises
    ------
    ValueError
        If the file carries no settings, or damaged ones, or was made with checkpoints
        that differ from those here.
    """
    record, before = _read(path)
    names = checkpoints(record["section"], record["profile"])
    for part, found in checkpoint_hashes(names).items():
        then = record["checkpoints"].get(part, {"name": "none", "sha256": ""})
        if found["sha256"] != then["sha256"]:
            raise ValueError(
                f"{path} was made with another checkpoint {then['name']!r} "
                f"(sha256 {then['sha256'][:10]}, here {found['sha256'][:10]}); "
                f"install the lcm_nb version that made it."
            )
    studio = load(record["section"], record["profile"], _device_of(record))
    result = studio.generate(**record["settings"])
    if not np.array_equal(before, np.asarray(result.image)):
        now = {"device": studio.checkpoints.device, **versions()}
        then = {"device": record.get("device"), **record["versions"]}
        changed = {name: (value, now.get(name)) for name, value in then.items() if now.get(name) != value}
        warnings.warn(
            f"The picture differs from {path}; device and versions then and now: {changed or 'equal'}.", stacklevel=2
        )
    return result


def _device_of(record: dict) -> str | None:
    """Return the device of a record, or None where there is no such device."""
    with contextlib.suppress(ValueError):
        return resolve_device(record.get("device"))
    return None


def _read(path: str | Path) -> tuple[dict, np.ndarray]:
    """Return the record and the pixels of a file that ``Result.save`` wrote."""
    with Image.open(path) as image:
        text = getattr(image, "text", {}).get(JSON_CHUNK, "null")
        pixels = np.asarray(image.convert("RGB"))
    with contextlib.suppress(ValueError):
        record = json.loads(text)
        whole = isinstance(record, dict) and record.keys() >= {"section", "profile", *RECORDS}
        if whole and all(isinstance(record[name], dict) for name in RECORDS):
            return record, pixels
    raise ValueError(f"{path} carries no lcm_nb settings; only files written by Result.save can be reproduced.")


def checkpoint_hashes(names: Checkpoints) -> dict[str, dict[str, str]]:
    """Return name and SHA-256 of the weight files behind local checkpoints, by part."""
    found = {}
    for part in ("base", "unet"):
        digest = hashlib.sha256()
        folder = Path(getattr(names, part))
        for file in sorted(folder.rglob("*.safetensors")):
            digest.update(file.read_bytes())
        found[part] = {"name": f"lcm_nb {names.profile} {folder.name}", "sha256": digest.hexdigest()}
    return found


@contextlib.contextmanager
def _no_loading_bars():
    """Hide the bars of loads that take a second; the switches are the libraries' own, and global."""
    switches = [m for m in (diffusers.utils.logging, transformers.utils.logging) if m.is_progress_bar_enabled()]
    for switch in switches:
        switch.disable_progress_bar()
    try:
        yield
    finally:
        for switch in switches:
            switch.enable_progress_bar()


@contextlib.contextmanager
def _watch_predictions(scheduler: LCMScheduler):
    """Collect the clean latents that ``LCMScheduler.step`` predicts and the pipeline drops."""
    predictions: list[torch.Tensor] = []
    original = scheduler.step

    @functools.wraps(original)  # pipelines read the signature: without it they withhold the generator
    def step(*arguments, **options):
        output = original(*arguments, **options)
        predictions[:] = [output[1]]
        return output

    scheduler.step = step
    try:
        yield predictions
    finally:
        del scheduler.step
