"""The plain diffusers code that draws a picture: what "show code" shows."""

from collections.abc import Mapping, Sequence

from ..models.checkpoints import Checkpoints
from ..sections.section import Section
from ..settings import EXAMPLE, seeds
from .runtime import Geometry

# Parts that are loaded on their own and handed to the pipeline -> names of their diffusers classes.
PARTS = {
    "unet": "UNet2DConditionModel",
    "controlnet": "ControlNetModel",
    "adapter": "T2IAdapter",
    "vae": "AutoencoderKL",
}
LCM_LORA = "lcm"  # the adapter's name
Lora = tuple[str, str, str, Mapping[str, object]]


def loras(names: Checkpoints) -> list[Lora]:
    """Return repository, file, adapter name and loading arguments of each LoRA; that of the steps first."""
    few_steps = [(names.lcm_lora, names.lcm_lora_file, LCM_LORA, names.loading["lcm_lora"])] if names.lcm_lora else []
    return few_steps + [
        (names.loras, f"{style}.safetensors", style, names.loading["loras"]) for style in names.styles if names.loras
    ]


def own_parts(names: Checkpoints) -> dict[str, str]:
    """Return the parts that are loaded on their own, and the names of their diffusers classes."""
    kinds = PARTS | ({"vae": "AutoencoderTiny"} if "tiny-vae" in names.measures else {})
    return {part: kind for part, kind in kinds.items() if part in names.parts}


def plain_code(section: Section, names: Checkpoints, geometry: Geometry, settings: Mapping[str, object]) -> str:
    """Return plain diffusers code with which the section draws the picture of complete ``settings``."""
    pipeline, parts = section.pipelines[names.family], own_parts(names)
    lines = [*_imports(section, sorted({pipeline, names.scheduler, *parts.values()}), settings), ""]
    lines += [*_loading(section, names, parts), *_loras(loras(names), settings), *_measures(names)]
    lines += [*_picture(section, names, geometry, settings), "", *_call(section, settings)]
    return "\n".join(lines) + "\n"


def _imports(section: Section, kinds: list[str], settings: Mapping[str, object]) -> list[str]:
    lines = ["import torch", f"from diffusers import {', '.join(kinds)}"]
    if section.preparation:
        lines = sorted(
            [*section.preparation.imports(settings), *lines], key=lambda line: (line[:4] == "from", line.lower())
        )
    if section.starts_from_picture:
        masks = [settings["mask_image"]] if section.takes_mask else []
        homes = [name for name, value in zip(("image", "mask"), (settings["image"], *masks)) if value == EXAMPLE]
        examples = ", ".join(f"example_{name}" for name in homes)
        readers = [
            "fit_image",
            *(["fit_mask"] if masks else []),
            *(["read_image"] if settings["image"] != EXAMPLE else []),
        ]
        lines += ["", *([f"from lcm_nb.models.examples import {examples}"] if homes else [])]
        lines += [f"from lcm_nb.pictures import {', '.join(readers)}"]
    return lines


def _loading(section: Section, names: Checkpoints, parts: Mapping[str, str]) -> list[str]:
    lines = [
        f"{part} = {kind}.from_pretrained(\n    {names.parts[part]!r}{_arguments(names.options(part))}\n)"
        for part, kind in parts.items()
    ]
    given = "".join(f", {part}={part}" for part in parts) + _arguments({**section.options, **names.loading["base"]})
    place = "" if "offload" in names.measures else f".to({names.device!r})"
    options = _arguments(names.scheduler_options)
    lines.append(f"pipe = {section.pipelines[names.family]}.from_pretrained(\n    {names.base!r}{given}\n){place}")
    if section.takes_mask and names.profile == "mini":
        lines.append("pipe.unet.register_to_config(in_channels=4)  # what it calls a UNet that takes latents alone")
    return [*lines, f"pipe.scheduler = {names.scheduler}.from_config(pipe.scheduler.config{options})"]


def _arguments(values: Mapping[str, object]) -> str:
    return "".join(f", {name}={value!r}" for name, value in values.items())


def _loras(found: Sequence[Lora], settings: Mapping[str, object]) -> list[str]:
    """Load those that act: a style where its scale is not 0, that of the steps always."""
    active = {adapter: settings.get(adapter, 1.0) for _, _, adapter, _ in found if settings.get(adapter, 1.0)}
    lines = [
        f"pipe.load_lora_weights(\n    {repo!r}, weight_name={file!r}, adapter_name={adapter!r}{_arguments(loading)}\n)"
        for repo, file, adapter, loading in found
        if adapter in active
    ]
    return lines + ([f"pipe.set_adapters({list(active)}, adapter_weights={list(active.values())})"] if active else [])


def _measures(names: Checkpoints) -> list[str]:
    lines = {
        "slicing": "pipe.vae.enable_slicing()",
        "compile": "pipe.unet.compile_repeated_blocks(fullgraph=True)",
        "offload": f"pipe.enable_model_cpu_offload(device={names.device!r})",
    }
    return [line for measure, line in lines.items() if measure in names.measures]


def _picture(section: Section, names: Checkpoints, geometry: Geometry, settings: Mapping[str, object]) -> list[str]:
    if not section.starts_from_picture:
        return []
    example = settings["image"] == EXAMPLE
    opened = f"example_image({section.name!r}, {names.profile!r})" if example else f"read_image({settings['image']!r})"
    options = f"side={geometry.side}, multiple={geometry.multiple}"
    if section.takes_mask:
        own = settings["mask_image"] != EXAMPLE
        mask = repr(settings["mask_image"]) if own else f"example_mask({section.name!r}, {names.profile!r})"
        return [
            "",
            f"picture = {opened}",
            f"mask_image = fit_mask({mask}, picture.size, {options})",
            f"image = fit_image(picture, {options})",
        ]
    if not section.preparation:
        return ["", f"image = fit_image({opened}, {options})"]
    whole = ", keep=True" if section.preparation.is_done(settings) else ""
    lines = section.preparation.code(settings, names.detect_side)
    return ["", f"image = fit_image({opened}, {options}{whole})", *lines]


def _call(section: Section, settings: Mapping[str, object]) -> list[str]:
    several = seeds(settings)
    lines = [f"    {name}={value!r}," for name, value in settings.items() if section.role(name) == "argument"]
    lines += ["    image=image,"] if section.starts_from_picture else []
    if section.takes_mask:
        lines += ["    mask_image=mask_image,", "    height=image.height,", "    width=image.width,"]
    if len(several) == 1:
        return ["image = pipe(", *lines, f"    generator=torch.manual_seed({several[0]}),", ").images[0]"]
    inner = [f"    {line}" for line in lines]
    return [
        "images = [",
        "    pipe(",
        *inner,
        "        generator=torch.manual_seed(seed),",
        "    ).images[0]",
        f"    for seed in {several}",
        "]",
    ]
