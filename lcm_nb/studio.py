"""Load a section of the guide, make pictures, and find out again how each was made."""

import contextlib
import functools
import gc
import hashlib
import json
import re
import threading
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import diffusers
import numpy as np
import torch
import transformers
from diffusers import DiffusionPipeline, LCMScheduler
from PIL import Image, PngImagePlugin

from .models.checkpoints import (
    Checkpoints,
    checkpoints,
    peft_problem,
    resolve_device,
    resolve_profile,
    reuse_memory,
    versions,
)
from .models.plans import FP16_VAE, plan_for
from .pictures import encode_image, keep_image
from .runtimes.diffusers import (
    call_arguments,
    input_image,
    load_pipeline,
    plain_code,
    source_image,
    step_callback,
    styles,
)
from .settings import complete, plan, planned_timesteps, settings_for

JSON_CHUNK = "lcm_nb"
SOURCE_CHUNK = b"lcSo"  # a private PNG chunk that holds a PNG
OUT_OF_MEMORY = re.compile("CUDA.*out of memory|(CUBLAS|CUDNN)_STATUS_ALLOC_FAILED")
PREVIEW = 64  # latents on a side: more are shrunk before a preview is decoded
# Said by SDXL's own pipeline of itself, whenever it decodes in float16.
warnings.filterwarnings("ignore", message="`upcast_vae` is deprecated", category=FutureWarning)
RECORDS = ("settings", "checkpoints", "versions")  # what the JSON chunk holds as dictionaries


class Cancelled(Exception):
    """Raised inside a run to stop it within one step; the studio stays usable."""


@dataclass(frozen=True)
class Step:
    """What a run tells after each UNet step.

    ``number`` counts from 1 to ``total``, ``timestep`` is the training timestep that
    was denoised (0-999), and ``preview()`` decodes the clean picture predicted so far;
    None where that would swap modules in and out of the GPU's memory (CPU offload).
    """

    number: int
    total: int
    timestep: int
    preview: Callable[[], Image.Image] | None


@dataclass(frozen=True)
class Result:
    """A finished run: pictures, the settings that made them, and what it took.

    ``seconds`` is wall time with decoding; ``timesteps`` are the UNet's, in order.
    ``source`` is the picture that the run started from, as it was fitted, and
    ``input_image`` what the pipeline was given: the same, or its edges; ``note`` says
    what happened on the way: how its size was changed, what a safety checker did.
    """

    images: list[Image.Image]
    section: str
    settings: dict[str, object]
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

    def _repr_png_(self) -> bytes:
        return self.image._repr_png_()

    def save(self, path: str | Path) -> Path:
        """Write the first picture as a PNG that carries all it takes to make it again.

        The text chunk ``parameters`` is in the form that image tools read; the chunk
        ``lcm_nb`` is JSON: section, settings, checkpoint names and hashes, versions;
        the picture that the run started from is in the file, too.

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
        hashes = checkpoint_hashes(self.section, self.checkpoints)
        settings = dict(self.settings)
        if "image" in settings:
            settings["image"] = Path(settings["image"]).name  # the file that people pass on names no folder of theirs
        record = {
            "section": self.section,
            "profile": self.checkpoints.profile,
            "model": self.checkpoints.model,
            "settings": settings,
            "timesteps": self.timesteps,
            "device": self.checkpoints.device,
            "checkpoints": hashes,
            "versions": versions(),
        }
        chunks = PngImagePlugin.PngInfo()
        chunks.add_itxt("parameters", self._parameters(hashes))
        chunks.add_itxt(JSON_CHUNK, json.dumps(record))
        if self.source is not None:
            chunks.add(SOURCE_CHUNK, encode_image(self.source))
        self.image.save(path, pnginfo=chunks)
        return path

    def _parameters(self, hashes: dict[str, dict[str, str]]) -> str:
        width, height = self.image.size
        model = hashes.get("unet", hashes["base"])
        fields = {
            "Steps": self.settings["num_inference_steps"],
            "Sampler": "LCM",
            "CFG scale": self.settings["guidance_scale"],
            "Seed": self.settings["seed"],
            "Size": f"{width}x{height}",
            "Model hash": model["sha256"][:10],
            "Model": model["name"],
        }
        if "strength" in self.settings:
            fields["Denoising strength"] = self.settings["strength"]
        negative = self.settings.get("negative_prompt")
        lines = [self.settings["prompt"], *([f"Negative prompt: {negative}"] if negative else [])]
        return "\n".join([*lines, ", ".join(f"{k}: {v}" for k, v in fields.items())])


class Studio:
    """A loaded pipeline of one section. Make one with :func:`load`.

    Attributes
    ----------
    pipe
        The stock diffusers pipeline, with ``LCMScheduler``.
    section, checkpoints
        What was loaded; for the guide profile with the commit of each part.
    settings
        Name -> :class:`lcm_nb.settings.Setting`, as the section has them with this model.
    """

    def __init__(self, section: str, pipe: DiffusionPipeline, names: Checkpoints):
        self.section, self.pipe, self.checkpoints = section, pipe, names
        embedded = plan_for(section, names.model).embedded_guidance
        self.settings = settings_for(section, embedded_guidance=embedded, styles=names.styles)
        self._lock = threading.Lock()  # a pipeline shared by threads gives wrong pictures silently

    def generate(self, *, on_step: Callable[[Step], None] | None = None, **settings) -> Result:
        """Make a picture. Settings left out come from the guide's section.

        Warns if a given picture had to be scaled or cut to fit the pipeline, or if a safety
        checker blacked the new one out.

        Parameters
        ----------
        on_step
            Called after each UNet step; what it raises stops the run.
        settings
            Those of the section, which ``studio.settings`` lists with their ranges.
            For text-to-image: ``prompt``, ``num_inference_steps`` (1-50),
            ``guidance_scale`` (1-14), ``seed`` (0-2**32-1).

        Raises
        ------
        ValueError
            For an unknown setting or one out of range, before anything runs.
        MemoryError
            If the GPU's memory does not suffice; the studio stays usable.
        """
        result = self._generate(on_step=on_step, **settings)
        if result.note:
            warnings.warn(result.note, stacklevel=2)
        return result

    def _generate(self, *, on_step: Callable[[Step], None] | None = None, **settings) -> Result:
        settings = complete(self.section, settings, self.settings)
        planned = len(planned_timesteps(settings))
        source, note = self._source(settings)
        given = input_image(source, self.checkpoints, settings)
        timesteps: list[int] = []
        with (
            self._lock,
            _enough_memory("Close other kernels that use the GPU, or load the section again: it is fitted anew."),
            styles(self.section, self.pipe, self.checkpoints, settings),
            _watch_predictions(self.pipe.scheduler) as predictions,
        ):
            start = time.perf_counter()

            def after_step(index: int, timestep: int) -> None:
                timesteps.append(timestep)
                if on_step:
                    on_step(Step(index + 1, planned, timestep, self._preview(predictions[-1])))

            generator = torch.Generator().manual_seed(settings["seed"])
            arguments = call_arguments(settings, given) | step_callback(self.pipe, after_step)
            try:
                output = self.pipe(**arguments, generator=generator)
            finally:
                if self.pipe.vae.dtype != self.checkpoints.dtype:
                    self.pipe.vae.to(self.checkpoints.dtype)  # SDXL's pipelines leave it in float32 after an error
                self.pipe.maybe_free_model_hooks()
            seconds = time.perf_counter() - start
        if any(getattr(output, "nsfw_content_detected", None) or ()):
            note = "the safety checker blacked the picture out; try another seed or prompt"
        return Result(output.images, self.section, settings, seconds, timesteps, self.checkpoints, source, given, note)

    def panel(self):
        """Return the section's controls and picture as an ipywidgets panel."""
        from .widgets.panel import Panel

        def given(settings):
            return input_image(self._source(settings)[0], self.checkpoints, settings)

        options = dict(run=self._generate, code=self.code, cancelled=Cancelled, plan=plan)
        return Panel(self.settings, **options, given=given if "image" in self.settings else None)

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
        from .grid import Grid, sweep_axes

        columns, rows, cases = sweep_axes(lists)
        cases = [complete(self.section, case, self.settings) for case in cases]
        from tqdm.auto import tqdm

        return Grid(columns, rows, [self.generate(**case) for case in tqdm(cases, desc="pictures")])

    def code(self, settings: dict[str, object]) -> str:
        """Return plain diffusers code that makes the picture of ``settings``."""
        settings = complete(self.section, settings, self.settings)
        return plain_code(self.section, self.pipe, self.checkpoints, settings)

    def _source(self, settings: dict[str, object]) -> tuple[Image.Image | None, str]:
        return source_image(self.section, self.pipe, self.checkpoints, settings)

    def _preview(self, latents: torch.Tensor) -> Callable[[], Image.Image] | None:
        return None if "offload" in self.checkpoints.measures else lambda: self._decode(latents)

    @torch.no_grad()
    def _decode(self, latents: torch.Tensor) -> Image.Image:
        """Decode latents (B, 4, h, w) as the pipelines do, those of large pictures at a smaller size."""
        vae = self.pipe.vae
        if (scale := PREVIEW / max(latents.shape[-2:])) < 1:
            latents = torch.nn.functional.interpolate(latents, scale_factor=scale, mode="area")
        upcast = vae.dtype == torch.float16 and vae.config.get("force_upcast")
        if upcast:  # SDXL's VAE overflows in float16
            vae.to(torch.float32)
        try:
            pictures = vae.decode(latents.to(vae.dtype) / vae.config.scaling_factor).sample
        finally:
            if upcast:
                vae.to(torch.float16)
        return self.pipe.image_processor.postprocess(pictures)[0]


def load(
    section: str, profile: str | None = None, device: str | None = None, model: str | None = None, **unknown
) -> Studio:
    """Load a section of the guide and return its studio.

    In the guide profile, what is missing is downloaded; one line says so before. Where the GPU's memory is
    small, modules wait in the computer's memory until they run, and one line says that, too.

    Parameters
    ----------
    section
        One of ``lcm_nb.SECTIONS``.
    profile
        "mini" (small models that ship with the package) or "guide" (the guide's own);
        default: ``LCM_NB_PROFILE``, else "guide" with CUDA and "mini" without.
    device
        A torch device; default "cuda" where there is one, else "cpu".
    model
        For the guide profile one of ``lcm_nb.models.plans.models(section)``, e.g. "lcm-lora-sdxl";
        default: the guide's.

    Raises
    ------
    ValueError
        For an unknown section, profile, device or model.
    TypeError
        For another argument.
    OSError
        If a checkpoint does not fit this computer or cannot be downloaded: in one sentence, with the remedy.
    MemoryError
        If the GPU's memory does not suffice after all; nothing stays in it.
    """
    if unknown:
        raise TypeError(
            f"load has no argument {', '.join(map(repr, unknown))}; it takes section, profile, device and model, "
            "and chooses variant and dtype itself."
        )
    guide = resolve_profile(profile) == "guide"
    if guide:
        from .models.doctor import prepare

        names, folders = prepare(section, device, model)
    else:
        names, folders = checkpoints(section, profile, device, model), {}
    if problem := peft_problem(names):
        raise ImportError(problem)
    reuse_memory()
    remedy = "Close other kernels that use the GPU, choose a smaller model, or use profile='mini'."
    with contextlib.nullcontext() if guide else _no_loading_bars(), _enough_memory(remedy):
        pipe = load_pipeline(section, names.moved(folders))
    pipe.set_progress_bar_config(disable=True)
    return Studio(section, pipe, names)


@contextlib.contextmanager
def _enough_memory(remedy: str):
    """Turn "out of memory" into one sentence, and let go of what the failed work held."""
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and not OUT_OF_MEMORY.search(str(error)):
            raise
        traceback.clear_frames(error.__traceback__)
        failed = True
    else:
        failed = False
    if failed:
        gc.collect()
        torch.cuda.empty_cache()
        raise MemoryError(f"The GPU's memory does not suffice. {remedy}")


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
    record, before, source = _read(path)
    studio = load(record["section"], record["profile"], _device_of(record), record.get("model"))
    for part, found in checkpoint_hashes(studio.section, studio.checkpoints).items():
        then = record["checkpoints"].get(part, {"name": "none", "sha256": ""})
        if found["sha256"] != then["sha256"]:
            commit = f" at commit {then['revision'][:10]}" if "revision" in then else ""
            remedy = "pin that commit" if commit else "install the lcm_nb version that made it"
            raise ValueError(
                f"{path} was made with another checkpoint {then['name']!r}{commit} "
                f"(sha256 {then['sha256'][:10]}, here {found['sha256'][:10]}); {remedy}."
            )
    result = studio.generate(**record["settings"] | ({"image": keep_image(source)} if source else {}))
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


def _read(path: str | Path) -> tuple[dict, np.ndarray, bytes | None]:
    """Return the record, the pixels and the source picture of a file that ``Result.save`` wrote."""
    with Image.open(path) as image:
        text = getattr(image, "text", {}).get(JSON_CHUNK, "null")
        source = dict(chunk[:2] for chunk in getattr(image, "private_chunks", [])).get(SOURCE_CHUNK)
        pixels = np.asarray(image.convert("RGB"))
    with contextlib.suppress(ValueError):
        record = json.loads(text)
        whole = isinstance(record, dict) and record.keys() >= {"section", "profile", *RECORDS}
        if whole and all(isinstance(record[name], dict) for name in RECORDS):
            return record, pixels, source
    raise ValueError(f"{path} carries no lcm_nb settings; only files written by Result.save can be reproduced.")


def checkpoint_hashes(section: str, names: Checkpoints) -> dict[str, dict[str, str]]:
    """Return by part the name, the SHA-256 of the weights, and for the Hub's parts the commit."""
    return {
        part: _hub_hash(section, names, part) if names.profile == "guide" else _folder_hash(names.parts[part])
        for part in names.parts
    }


def _folder_hash(name: str) -> dict[str, str]:
    digest, folder = hashlib.sha256(), Path(name)
    for file in sorted(folder.rglob("*.safetensors")):
        digest.update(file.read_bytes())
    return {"name": f"lcm_nb mini {folder.name}", "sha256": digest.hexdigest()}


def _hub_hash(section: str, names: Checkpoints, part: str) -> dict[str, str]:
    from .models.hub import weight_hashes

    source = FP16_VAE if part == "vae" else plan_for(section, names.model).sources[part]
    commit = names.revisions[part]
    hashes = weight_hashes(source, commit)
    whole = hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()
    return {"name": source.repo, "revision": commit, "sha256": whole}


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
