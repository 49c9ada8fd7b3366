"""How each section's pipeline is loaded and called, and the plain code that does the same."""

import contextlib
import inspect
import warnings
from collections.abc import Callable, Iterator, Mapping

from diffusers import (
    AutoPipelineForImage2Image,
    ControlNetModel,
    DiffusionPipeline,
    LCMScheduler,
    StableDiffusionControlNetPipeline,
    StableDiffusionXLAdapterPipeline,
    StableDiffusionXLPipeline,
    T2IAdapter,
    UNet2DConditionModel,
)
from PIL import Image

from .images import canny, example_image, fit_image, read_image
from .profiles import Checkpoints
from .recipes import EXAMPLE, LORAS, RECIPES

PIPELINES = {
    "text-to-image": StableDiffusionXLPipeline,
    "image-to-image": AutoPipelineForImage2Image,
    "style-lora": StableDiffusionXLPipeline,
    "controlnet": StableDiffusionControlNetPipeline,
    "t2i-adapter": StableDiffusionXLAdapterPipeline,
}
# Parts that are loaded on their own and handed to the pipeline.
PARTS = {"unet": UNet2DConditionModel, "controlnet": ControlNetModel, "adapter": T2IAdapter}
# Where a part lies inside its repository or folder, if not at the top.
SUBFOLDERS = {("image-to-image", "unet"): "unet"}
# What is done to a setting before the call; all others go to the pipeline as they are.
PREPARED = {"seed", "image", "low_threshold", "high_threshold", *LORAS}


def load_pipeline(section: str, names: Checkpoints) -> DiffusionPipeline:
    """Return a section's stock pipeline with ``LCMScheduler`` and, for LoRAs, with all of them loaded."""
    loading = names.loading | {"use_safetensors": True}
    parts = {
        part: kind.from_pretrained(names.parts[part], **_subfolder(section, part), **loading)
        for part, kind in _own_parts(names).items()
    }
    pipe = PIPELINES[section].from_pretrained(names.base, **parts, **_extra(section), **loading).to(names.device)
    pipe.scheduler = LCMScheduler.from_config(pipe.scheduler.config)
    if names.loras:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Already found a `peft_config`")  # more than one is the point
            for lora in LORAS:
                pipe.load_lora_weights(names.loras, weight_name=f"{lora}.safetensors", adapter_name=lora)
        _set_loras(pipe, {lora: RECIPES[section].settings[lora].default for lora in LORAS})
    return pipe


def _own_parts(names: Checkpoints) -> dict[str, type]:
    return {part: kind for part, kind in PARTS.items() if part in names.parts}


def _subfolder(section: str, part: str) -> dict[str, str]:
    return {"subfolder": SUBFOLDERS[section, part]} if (section, part) in SUBFOLDERS else {}


def _extra(section: str) -> dict[str, None]:
    return {"safety_checker": None} if section == "controlnet" else {}


def source_image(
    section: str, pipe: DiffusionPipeline, names: Checkpoints, settings: Mapping[str, object]
) -> tuple[Image.Image | None, str]:
    """Return the picture that a run starts from, RGB, and what was done to make it fit the pipeline ("" for nothing).

    Without a picture among the settings it is None.
    """
    if "image" not in settings:
        return None, ""
    example = settings["image"] == EXAMPLE
    image = example_image(section, names.profile) if example else read_image(settings["image"])
    fitted = fit_image(image, **_fit(pipe))
    if fitted.size == image.size:
        return fitted, ""
    was, now = ("{} x {}".format(*size) for size in (image.size, fitted.size))
    return fitted, f"the picture was fitted from {was} to {now} pixels: scaled, cut at the edges, not stretched"


def _fit(pipe: DiffusionPipeline) -> dict[str, int]:
    """Return the side that the model learnt, in pixels, and of what each side must be a multiple."""
    side = pipe.unet.config.sample_size * pipe.vae_scale_factor
    deepest = pipe.vae_scale_factor * 2 ** (len(pipe.unet.config.block_out_channels) - 1)
    return {"side": side, "multiple": deepest}


def input_image(source: Image.Image | None, settings: Mapping[str, object]) -> Image.Image | None:
    """Return what the pipeline is given: the picture itself, or its edges where thresholds are set."""
    if source is not None and "low_threshold" in settings:
        return canny(source, settings["low_threshold"], settings["high_threshold"])
    return source


def call_arguments(settings: Mapping[str, object], image: Image.Image | None) -> dict[str, object]:
    """Return the keyword arguments of the pipeline, but for generator and callback."""
    arguments = {name: value for name, value in settings.items() if name not in PREPARED}
    return arguments | ({"image": image} if image is not None else {})


def step_callback(pipe: DiffusionPipeline, after_step: Callable[[int, int], None]) -> dict[str, Callable]:
    """Return the callback argument that this pipeline takes, calling ``after_step(index, timestep)``."""
    if "callback_on_step_end" not in inspect.signature(pipe.__call__).parameters:
        return {"callback": lambda index, timestep, latents: after_step(index, int(timestep))}  # T2I-Adapter's is older

    def callback(pipe, index, timestep, tensors):
        after_step(index, int(timestep))
        return tensors

    return {"callback_on_step_end": callback}


@contextlib.contextmanager
def styles(section: str, pipe: DiffusionPipeline, settings: Mapping[str, object]) -> Iterator[None]:
    """Set the LoRAs' scales for a run, and the section's own again afterwards, whatever happens."""
    scales = {name: settings[name] for name in LORAS if name in settings}
    if not scales:
        yield
        return
    _set_loras(pipe, scales)
    try:
        yield
    finally:
        _set_loras(pipe, {lora: RECIPES[section].settings[lora].default for lora in scales})


def _set_loras(pipe: DiffusionPipeline, scales: Mapping[str, float]) -> None:
    active = {name: scale for name, scale in scales.items() if scale}
    if not active:
        pipe.disable_lora()
        return
    pipe.enable_lora()
    pipe.set_adapters(list(active), adapter_weights=list(active.values()))


def plain_code(section: str, pipe: DiffusionPipeline, names: Checkpoints, settings: Mapping[str, object]) -> str:
    """Return plain diffusers code that makes the picture of ``settings``."""
    loading = "".join(f", {name}={value!r}" for name, value in names.loading.items())
    parts = _own_parts(names)
    kinds = sorted({PIPELINES[section].__name__, "LCMScheduler", *(kind.__name__ for kind in parts.values())})
    lines = [*_imports(kinds, settings), ""]
    for part, kind in parts.items():
        options = "".join(f", {k}={v!r}" for k, v in _subfolder(section, part).items()) + loading
        lines.append(f"{part} = {kind.__name__}.from_pretrained(\n    {names.parts[part]!r}{options}\n)")
    given = "".join(f", {part}={part}" for part in parts) + "".join(f", {k}={v}" for k, v in _extra(section).items())
    kind = PIPELINES[section].__name__
    lines.append(f"pipe = {kind}.from_pretrained(\n    {names.base!r}{given}{loading}\n).to({names.device!r})")
    lines.append("pipe.scheduler = LCMScheduler.from_config(pipe.scheduler.config)")
    lines += _lora_lines(names, settings) + _image_lines(section, pipe, names, settings)
    lines += ["", "image = pipe("]
    lines += [f"    {name}={value!r}," for name, value in call_arguments(settings, None).items()]
    lines += ["    image=image,"] if "image" in settings else []
    lines += [f"    generator=torch.manual_seed({settings['seed']}),", ").images[0]"]
    return "\n".join(lines) + "\n"


def _imports(kinds: list[str], settings: Mapping[str, object]) -> list[str]:
    lines = ["import torch", f"from diffusers import {', '.join(kinds)}"]
    if "low_threshold" in settings:
        lines = ["import cv2", "import numpy as np", *lines, "from PIL import Image"]
    if "image" in settings:
        lines += ["", "from lcm_nb.images import example_image, fit_image, read_image"]
    return lines


def _lora_lines(names: Checkpoints, settings: Mapping[str, object]) -> list[str]:
    active = {name: settings[name] for name in LORAS if settings.get(name)}
    lines = [
        f"pipe.load_lora_weights({names.loras!r}, weight_name={lora + '.safetensors'!r}, adapter_name={lora!r})"
        for lora in active
    ]
    return lines + ([f"pipe.set_adapters({list(active)}, adapter_weights={list(active.values())})"] if active else [])


def _image_lines(
    section: str, pipe: DiffusionPipeline, names: Checkpoints, settings: Mapping[str, object]
) -> list[str]:
    if "image" not in settings:
        return []
    source = settings["image"]
    opened = f"example_image({section!r}, {names.profile!r})" if source == EXAMPLE else f"read_image({source!r})"
    fit = ", ".join(f"{name}={value}" for name, value in _fit(pipe).items())
    lines = ["", f"image = fit_image({opened}, {fit})"]
    if "low_threshold" in settings:
        low, high = settings["low_threshold"], settings["high_threshold"]
        lines += [
            f"edges = cv2.Canny(np.array(image), {low}, {high})",
            "image = Image.fromarray(np.stack([edges] * 3, axis=2))",
        ]
    return lines
