"""Networks that several sections read from the same files are held once."""

import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline

from ..models.checkpoints import Checkpoints
from ..sections.section import Section

NETWORKS = ("text_encoder", "text_encoder_2", "vae", "unet")
ALONE = {"offload", "compile", "slicing"}  # measures that change a network for the pipeline that has it
Keys = Mapping[str, str]

_held: "weakref.WeakValueDictionary[str, torch.nn.Module]" = weakref.WeakValueDictionary()
_loaded: "weakref.WeakKeyDictionary[torch.nn.Module, list[Any]]" = weakref.WeakKeyDictionary()


def shareable(section: Section, names: Checkpoints) -> Keys:
    """Return the networks that a section need not have for itself, each with all that must be the same for it.

    LoRAs change a UNet in place, a mask its configuration, and OpenVINO what a network computes with.
    """
    if names.runtime != "diffusers" or ALONE & set(names.measures):
        return {}
    alone = names.loras or names.lcm_lora or section.takes_mask
    return {name: _key(name, names) for name in NETWORKS if not (alone and name == "unet")}


def _key(name: str, names: Checkpoints) -> str:
    part = name if name in names.parts else "base"
    place = Path(names.parts[part])
    times = [file.stat().st_mtime_ns for file in sorted(place.rglob("*.safetensors"))] if place.is_dir() else []
    return repr((name, str(place), times, sorted(names.options(part).items(), key=str), names.device))


def shared(keys: Keys) -> dict[str, torch.nn.Module]:
    """Return those networks that another pipeline holds and that are as they were loaded."""
    found = {name: _held.get(key) for name, key in keys.items()}
    return {
        name: network for name, network in found.items() if network is not None and _loaded[network] == _told(network)
    }


def share(keys: Keys, pipe: DiffusionPipeline) -> None:
    """Offer a pipeline's networks to the sections that are loaded after it."""
    for name, key in keys.items():
        network = getattr(pipe, name, None)
        if isinstance(network, torch.nn.Module):
            _held[key], _loaded[network] = network, _told(network)


def _told(network: torch.nn.Module) -> list[Any]:
    """Return what is another once weights were changed, moved or replaced, or layers, hooks or methods added."""
    places = [(weight.device, weight.dtype) for weight in network.parameters()]
    hooks = [len(network._forward_hooks), len(network._forward_pre_hooks)]
    layers = [id(module) for module in network.modules()]
    return [network.training, list(vars(network)), hooks, layers, places, told_weights(network)]


def told_weights(network: torch.nn.Module) -> list[tuple[int, int]]:
    """Return what is another once a network's weights are others or were changed in place, wherever they lie."""
    return [(id(weight), 0 if weight.is_inference() else weight._version) for weight in network.parameters()]
