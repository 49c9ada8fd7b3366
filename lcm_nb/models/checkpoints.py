"""The checkpoints of a section with a model: their names, and how they are loaded."""

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .device import DTYPE_ARGUMENT, computes_bfloat16, resolve_device, resolve_profile, weights_dtype
from .plans import MAIN, Plan, plan_for

if TYPE_CHECKING:
    import torch

PARTS = ("base", "unet", "controlnet", "adapter", "vae", "lcm_lora", "loras")
MINI = Path(__file__).parents[1] / "mini"


class _Name(str):
    """A name that stands in code as it is."""

    __slots__ = ()
    __repr__ = str.__str__


@dataclass(frozen=True)
class Server:
    """The server that draws: its address, its device, and what it has, for the files that are saved.

    ``dtype`` is the name of its weights', e.g. "torch.float32", and ``computes`` of what it computes in.
    """

    address: str
    device_name: str
    dtype: str
    computes: str
    hashes: Mapping[str, Mapping[str, str]]
    versions: Mapping[str, str]


@dataclass(frozen=True)
class Checkpoints:
    """What the plain diffusers cells need.

    ``base``, ``unet``, ``controlnet``, ``adapter``, ``vae``, ``lcm_lora`` and ``loras`` are Hub names
    or folders, None where there is none; ``lcm_lora_file`` and ``styles`` name the files of the last two.
    ``device`` goes to ``pipe.to``. ``scheduler`` is the name of the diffusers class, ``scheduler_options``
    what is set besides the base's own configuration. ``variants``, ``revisions`` and ``subfolders`` map parts
    to what is set for them, and ``measures`` are what is done to fit the device's memory
    (:mod:`lcm_nb.models.doctor`). ``runtime`` is the name of what draws
    (:func:`lcm_nb.models.device.resolve_runtime`), and ``server`` where another computer does, None where this one.
    """

    base: str
    dtype: "torch.dtype"
    device: str
    profile: str
    model: str
    family: str
    unet: str | None = None
    controlnet: str | None = None
    adapter: str | None = None
    vae: str | None = None
    lcm_lora: str | None = None
    lcm_lora_file: str = "pytorch_lora_weights.safetensors"
    loras: str | None = None
    styles: tuple[str, ...] = ()
    scheduler: str = "LCMScheduler"
    scheduler_options: Mapping[str, Any] = field(default_factory=dict)
    detect_side: int | None = None
    measures: tuple[str, ...] = ()
    variants: Mapping[str, str] = field(default_factory=dict)
    revisions: Mapping[str, str] = field(default_factory=dict)
    subfolders: Mapping[str, str] = field(default_factory=dict)
    runtime: str = "diffusers"
    server: Server | None = None

    @property
    def parts(self) -> dict[str, str]:
        """Return the names of what is loaded, by part."""
        return {name: getattr(self, name) for name in PARTS if getattr(self, name)}

    @property
    def computes(self) -> str:
        """Return what the networks compute in: "float32", "bfloat16" or "float16"."""
        if self.server:
            return self.server.computes
        inside = self.runtime == "openvino" and computes_bfloat16()  # and takes and gives float32
        return "bfloat16" if inside else str(self.dtype).removeprefix("torch.")

    @property
    def loading(self) -> dict[str, dict[str, Any]]:
        """Return for each part the keyword arguments of ``from_pretrained`` of the installed diffusers.

        Those of a LoRA are for ``load_lora_weights``. Pickles are never opened.
        """
        return {part: self._loading(part) for part in self.parts}

    def options(self, part: str) -> dict[str, Any]:
        """Return all keyword arguments with which a part is loaded on its own: where it lies, and ``loading``."""
        place = {"subfolder": self.subfolders[part]} if part in self.subfolders else {}
        return place | self.loading[part]

    def moved(self, folders: Mapping[str, Path]) -> "Checkpoints":
        """Return the same with parts read from folders of this computer."""
        places: dict[str, Any] = {part: str(folders[part]) for part in self.parts if part in folders}
        return replace(self, **places, revisions={}) if places else self

    def _loading(self, part: str) -> dict[str, Any]:
        arguments = {} if part in ("loras", "lcm_lora") else {DTYPE_ARGUMENT: self.dtype}
        if part in self.variants:
            arguments["variant"] = self.variants[part]
        if part in self.revisions:
            arguments["revision"] = self.revisions[part]
        return arguments | {"use_safetensors": True}


def checkpoints(
    section: str, profile: str | None = None, device: str | None = None, model: str | None = None
) -> Checkpoints:
    """Return the names, dtype, variants and device that the plain diffusers cells use.

    Parameters
    ----------
    section
        One of ``lcm_nb.SECTIONS``.
    profile, device
        As in :func:`lcm_nb.load`.
    model
        One of ``lcm_nb.models.plans.models(section)``; default: the guide's. The mini family has the guide's and,
        where a section has it, "lcm-lora-sdv1-5".

    Raises
    ------
    ValueError
        For an unknown section, profile, device or model.
    """
    profile, device = resolve_profile(profile), resolve_device(device)
    plan = plan_for(section, model, profile)
    return guide_checkpoints(plan, device) if profile == "guide" else mini_checkpoints(plan, device)


def guide_checkpoints(plan: Plan, device: str, server: Server | None = None) -> Checkpoints:
    """Return a plan's checkpoints on the Hub."""
    sources = {part: source for part, source in plan.sources.items() if part in PARTS}
    names: dict[str, Any] = {part: source.repo for part, source in sources.items()}
    if "lcm_lora" in sources:
        names["lcm_lora_file"] = sources["lcm_lora"].files[0]
    return replace(
        _common(plan, device, "guide", server),
        **names,
        styles=plan.styles,
        detect_side=plan.detect_side,
        variants={part: source.variant for part, source in sources.items() if source.variant},
        revisions={part: source.revision for part, source in sources.items() if source.revision != MAIN},
    )


def mini_checkpoints(plan: Plan, device: str, folder: Path = MINI, server: Server | None = None) -> Checkpoints:
    """Return a plan's checkpoints in a folder that is laid out like the one that ships.

    Raises
    ------
    ValueError
        If the mini family has no such model.
    """
    if not plan.mini:
        raise ValueError(
            f"The mini profile has no {plan.model.name!r}; use profile='guide' for it, or leave model out."
        )
    names: dict[str, Any] = {part: str(folder / place) for part, place in plan.mini.items()}
    return replace(_common(plan, device, "mini", server), **names, styles=plan.section.styles)


def _common(plan: Plan, device: str, profile: str, server: Server | None) -> Checkpoints:
    own = {part: plan.sources[part].subfolder for part in ("unet", "controlnet", "adapter") if part in plan.sources}
    dtype: Any = _Name(server.dtype) if server else weights_dtype(device, profile)  # torch is not needed for a name
    return Checkpoints(
        base="",
        dtype=dtype,
        server=server,
        device=device,
        profile=profile,
        model=plan.model.name,
        family=plan.family,
        scheduler=plan.model.scheduler,
        scheduler_options=plan.model.scheduler_options,
        subfolders={part: folder for part, folder in own.items() if folder},
    )


def peft_problem(names: Checkpoints) -> str:
    """Return in one sentence what LoRAs lack here, "" if nothing."""
    if not (names.loras or names.lcm_lora) or importlib.util.find_spec("peft"):
        return ""
    return "LoRAs need the package peft: `pip install peft`, then restart the kernel."
