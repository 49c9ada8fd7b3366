"""How each section's pipeline is loaded and called, and the plain code that does the same."""

import contextlib
import inspect
import warnings
from collections.abc import Callable, Iterator, Mapping

import torch
from diffusers import (
    AutoencoderKL,
    AutoPipelineForImage2Image,
    ControlNetModel,
    DiffusionPipeline,
    LCMScheduler,
    StableDiffusionControlNetPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLAdapterPipeline,
    StableDiffusionXLPipeline,
    T2IAdapter,
    UNet2DConditionModel,
)
from PIL import Image

from ..models.checkpoints import DTYPE_ARGUMENT, Checkpoints
from ..models.plans import plan_for
from ..pictures import canny, example_image, fit_image, read_image
from ..settings import EXAMPLE, LORAS, RECIPES

PIPELINES = {
    "text-to-image": StableDiffusionXLPipeline,
    "image-to-image": AutoPipelineForImage2Image,
    "style-lora": StableDiffusionXLPipeline,
    "controlnet": StableDiffusionControlNetPipeline,
    "t2i-adapter": StableDiffusionXLAdapterPipeline,
}
# Parts that are loaded on their own and handed to the pipeline.
PARTS = {"unet": UNet2DConditionModel, "controlnet": ControlNetModel, "adapter": T2IAdapter, "vae": AutoencoderKL}
# Where a part lies inside its repository or folder, if not at the top.
SUBFOLDERS = {("image-to-image", "unet"): "unet"}
LCM_LORA, LCM_LORA_FILE = "lcm", "pytorch_lora_weights.safetensors"
# What is done to a setting before the call; all others go to the pipeline as they are.
PREPARED = {"seed", "image", "detect_edges", "low_threshold", "high_threshold", *LORAS}


def load_pipeline(section: str, names: Checkpoints) -> DiffusionPipeline:
    """Return a section's stock pipeline on its device, with ``LCMScheduler`` and all LoRAs.

    Raises
    ------
    RuntimeError
        If a module came out in another dtype than was asked for, or with another scheduler.
    """
    parts = {
        part: kind.from_pretrained(names.parts[part], **_subfolder(section, part), **names.loading[part])
        for part, kind in _own_parts(names).items()
    }
    kind = pipeline_class(section, names)
    pipe = kind.from_pretrained(names.base, **parts, **_extra(section), **names.loading["base"])
    pipe.scheduler = LCMScheduler.from_config(pipe.scheduler.config)
    _load_loras(pipe, names)
    _set_loras(pipe, names, {style: RECIPES[section].settings[style].default for style in names.styles})
    _check_loaded(pipe, names)
    if "slicing" in names.measures:
        pipe.vae.enable_slicing()
    if "offload" in names.measures:  # last, and instead of `to`: it hooks what is there, and moves it when it runs
        pipe.enable_model_cpu_offload(device=names.device)
        return pipe
    return pipe.to(names.device)


def pipeline_class(section: str, names: Checkpoints) -> type[DiffusionPipeline]:
    """Return the class that runs a section with a model."""
    plain = section == "text-to-image" and plan_for(section, names.model).family == "sd"
    return StableDiffusionPipeline if plain else PIPELINES[section]


def _load_loras(pipe: DiffusionPipeline, names: Checkpoints) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Already found a `peft_config`")  # more than one is the point
        for repo, file, adapter, loading in _loras(names):
            pipe.load_lora_weights(repo, weight_name=file, adapter_name=adapter, **loading)


def _loras(names: Checkpoints) -> list[tuple[str, str, str, dict]]:
    """Return repository, file, adapter name and loading arguments of each LoRA."""
    lcm = [(names.lcm_lora, LCM_LORA_FILE, LCM_LORA, names.loading["lcm_lora"])] if names.lcm_lora else []
    return lcm + [(names.loras, f"{style}.safetensors", style, names.loading["loras"]) for style in names.styles]


def _check_loaded(pipe: DiffusionPipeline, names: Checkpoints) -> None:
    """Refuse what diffusers loads without a word where it does not know an argument."""
    modules = {name: m for name, m in pipe.components.items() if isinstance(m, torch.nn.Module)}
    wrong = {name: m.dtype for name, m in modules.items() if m.dtype != names.dtype}
    if wrong:
        raise RuntimeError(
            f"{', '.join(wrong)} came as {', '.join(sorted(set(map(str, wrong.values()))))} instead of {names.dtype}: "
            f"this diffusers does not know the argument {DTYPE_ARGUMENT!r}; install a version that lcm_nb admits."
        )
    if not isinstance(pipe.scheduler, LCMScheduler):
        raise RuntimeError(f"The scheduler is {type(pipe.scheduler).__name__} instead of LCMScheduler.")


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
    image = _opened(section, names, settings)
    fitted = image if _is_map(settings) and _stays(image, pipe) else fit_image(image, **_fit(pipe))
    if fitted.size == image.size:
        return fitted, ""
    was, now = ("{} x {}".format(*size) for size in (image.size, fitted.size))
    return fitted, f"the picture was fitted from {was} to {now} pixels: scaled, cut at the edges, not stretched"


def _opened(section: str, names: Checkpoints, settings: Mapping[str, object]) -> Image.Image:
    example = settings["image"] == EXAMPLE
    return example_image(section, names.profile) if example else read_image(settings["image"])


def _is_map(settings: Mapping[str, object]) -> bool:
    return settings.get("detect_edges") is False


def _stays(image: Image.Image, pipe: DiffusionPipeline) -> bool:
    """Return whether a map of edges can stay as it is: scaling breaks thin lines."""
    multiple = _fit(pipe)["multiple"]
    return not (image.width % multiple or image.height % multiple)


def _fit(pipe: DiffusionPipeline) -> dict[str, int]:
    """Return the side that the model learnt, in pixels, and of what each side must be a multiple."""
    side = pipe.unet.config.sample_size * pipe.vae_scale_factor
    deepest = pipe.vae_scale_factor * 2 ** (len(pipe.unet.config.block_out_channels) - 1)
    return {"side": side, "multiple": deepest}


def input_image(source: Image.Image | None, names: Checkpoints, settings: Mapping[str, object]) -> Image.Image | None:
    """Return what the pipeline is given: the picture itself, or its edges where they are to be detected."""
    if source is None or not settings.get("detect_edges"):
        return source
    seen = fit_image(source, side=names.detect_side, multiple=8) if names.detect_side else source
    edges = canny(seen, settings["low_threshold"], settings["high_threshold"])
    return edges.resize(source.size) if edges.size != source.size else edges


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
def styles(section: str, pipe: DiffusionPipeline, names: Checkpoints, settings: Mapping[str, object]) -> Iterator[None]:
    """Set the LoRAs' scales for a run, and the section's own again afterwards, whatever happens."""
    scales = {name: settings[name] for name in names.styles}
    if not scales:
        yield
        return
    _set_loras(pipe, names, scales)
    try:
        yield
    finally:
        _set_loras(pipe, names, {style: RECIPES[section].settings[style].default for style in scales})


def _set_loras(pipe: DiffusionPipeline, names: Checkpoints, scales: Mapping[str, float]) -> None:
    if not _loras(names):
        return
    active = _active(names, scales)
    if not active:
        pipe.disable_lora()
        return
    pipe.enable_lora()
    pipe.set_adapters(list(active), adapter_weights=list(active.values()))


def _active(names: Checkpoints, scales: Mapping[str, float]) -> dict[str, float]:
    """Return adapter -> weight of the LoRAs that act; an LCM-LoRA always does."""
    lcm = {LCM_LORA: 1.0} if names.lcm_lora else {}
    return lcm | {style: scales[style] for style in names.styles if scales[style]}


def plain_code(section: str, pipe: DiffusionPipeline, names: Checkpoints, settings: Mapping[str, object]) -> str:
    """Return plain diffusers code that makes the picture of ``settings``."""
    lines = [*_imports(_kinds(section, names), settings), "", *_loading_lines(section, names)]
    lines += _lora_lines(names, settings) + _measure_lines(names) + _image_lines(section, pipe, names, settings)
    lines += ["", "image = pipe("]
    lines += [f"    {name}={value!r}," for name, value in call_arguments(settings, None).items()]
    lines += ["    image=image,"] if "image" in settings else []
    lines += [f"    generator=torch.manual_seed({settings['seed']}),", ").images[0]"]
    return "\n".join(lines) + "\n"


def _kinds(section: str, names: Checkpoints) -> list[str]:
    kinds = [pipeline_class(section, names), LCMScheduler, *_own_parts(names).values()]
    return sorted({kind.__name__ for kind in kinds})


def _loading_lines(section: str, names: Checkpoints) -> list[str]:
    parts, lines = _own_parts(names), []
    for part, kind in parts.items():
        options = _arguments(_subfolder(section, part) | names.loading[part])
        lines.append(f"{part} = {kind.__name__}.from_pretrained(\n    {names.parts[part]!r}{options}\n)")
    given = "".join(f", {part}={part}" for part in parts) + _arguments(_extra(section) | names.loading["base"])
    kind = pipeline_class(section, names).__name__
    place = "" if "offload" in names.measures else f".to({names.device!r})"
    lines.append(f"pipe = {kind}.from_pretrained(\n    {names.base!r}{given}\n){place}")
    return [*lines, "pipe.scheduler = LCMScheduler.from_config(pipe.scheduler.config)"]


def _arguments(values: Mapping[str, object]) -> str:
    return "".join(f", {name}={value!r}" for name, value in values.items())


def _measure_lines(names: Checkpoints) -> list[str]:
    lines = {
        "slicing": "pipe.vae.enable_slicing()",
        "offload": f"pipe.enable_model_cpu_offload(device={names.device!r})",
    }
    return [line for measure, line in lines.items() if measure in names.measures]


def _imports(kinds: list[str], settings: Mapping[str, object]) -> list[str]:
    lines = ["import torch", f"from diffusers import {', '.join(kinds)}"]
    if settings.get("detect_edges"):
        lines = ["import cv2", "import numpy as np", *lines, "from PIL import Image"]
    if "image" in settings:
        lines += ["", "from lcm_nb.pictures import example_image, fit_image, read_image"]
    return lines


def _lora_lines(names: Checkpoints, settings: Mapping[str, object]) -> list[str]:
    active = _active(names, settings) if _loras(names) else {}
    lines = [
        f"pipe.load_lora_weights(\n    {repo!r}, weight_name={file!r}, adapter_name={adapter!r}{_arguments(loading)}\n)"
        for repo, file, adapter, loading in _loras(names)
        if adapter in active
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
    as_it_is = _is_map(settings) and _stays(_opened(section, names, settings), pipe)
    lines = ["", f"image = {opened}" if as_it_is else f"image = fit_image({opened}, {fit})"]
    if settings.get("detect_edges"):
        low, high = settings["low_threshold"], settings["high_threshold"]
        seen = f"fit_image(image, side={names.detect_side}, multiple=8)" if names.detect_side else "image"
        back = ".resize(image.size)" if names.detect_side else ""
        lines += [
            f"edges = cv2.Canny(np.array({seen}), {low}, {high})",
            f"image = Image.fromarray(np.stack([edges] * 3, axis=2)){back}",
        ]
    return lines
