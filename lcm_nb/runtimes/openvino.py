"""The OpenVINO runtime: diffusers' pipeline, whose UNet and VAE OpenVINO computes, on CPUs."""

import contextlib
import hashlib
import importlib.metadata
import json
import os
import shutil
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import constants
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from ..models.checkpoints import Checkpoints
from ..sections.section import Section
from .code import LCM_LORA
from .diffusers import DiffusersRuntime, enough_memory, load_pipeline

KEPT = 3  # shapes of a module that stay compiled
LIBRARIES = ("openvino", "torch", "diffusers")  # whose versions a converted model depends on


class OpenVinoRuntime(DiffusersRuntime):
    """A section's stock pipeline with converted modules as a :class:`~lcm_nb.runtimes.runtime.Runtime`."""

    def code(self, settings: Mapping[str, object]) -> str:
        """Return plain diffusers code that draws the picture of complete settings, but for rounding."""
        return f"# Drawn by {self.names.runtime}: plain diffusers rounds otherwise.\n{super().code(settings)}"


def load(section: Section, names: Checkpoints) -> OpenVinoRuntime:
    """Return a section's runtime; modules are converted, or taken from the cache, when they first run.

    Raises
    ------
    ValueError
        For a section with style LoRAs, whose scales a converted model cannot change.
    OSError
        If OpenVINO cannot use this CPU.
    MemoryError
        If this computer's memory does not suffice.
    """
    if names.styles:
        raise ValueError(
            f"runtime {names.runtime!r} cannot change the scales of {' and '.join(names.styles)}: "
            f"load {section.name} with runtime='diffusers'."
        )
    precision = "bf16" if names.computes == "bfloat16" else "f32"
    with enough_memory("Close other programs, choose a smaller model, or use profile='mini'."):
        pipe: Any = load_pipeline(section, names)
        pipe.set_progress_bar_config(disable=True)
        if names.lcm_lora:
            pipe.fuse_lora(adapter_names=[LCM_LORA])
            pipe.unload_lora_weights()
        runtime = OpenVinoRuntime(section, names, pipe)
        runtime.get_ready()  # of the stock decoder: the converted one takes a picture's shape alone
        pipe.unet = ConvertedUNet(pipe.unet, precision)
        pipe.vae.encoder = Converted(pipe.vae.encoder, precision)  # where no picture is given, it is never run
        pipe.vae.decoder = Converted(pipe.vae.decoder, precision)
    return runtime


class Converted(torch.nn.Module):
    """A module that OpenVINO computes, converted once for each shape of its inputs.

    Parameters
    ----------
    module
        The stock module, in float32; its first output is taken.
    precision
        In which OpenVINO computes: "f32" or "bf16".
    """

    def __init__(self, module: torch.nn.Module, precision: str):
        super().__init__()
        self._stock = [module]  # in a list, torch does not take it for a part of this module
        self._precision, self._weights = precision, ""
        self._compiled: dict[str, Any] = {}  # what was asked for -> what computes it
        self._one = torch.nn.Parameter(torch.zeros((), dtype=next(module.parameters()).dtype), requires_grad=False)
        self.config = getattr(module, "config", None)

    @property
    def dtype(self) -> torch.dtype:
        """That of what goes in and comes out."""
        return self._one.dtype

    @property
    def device(self) -> torch.device:
        """Where what goes in and comes out lies."""
        return self._one.device

    def forward(self, *arguments: Any, **options: Any) -> torch.Tensor:
        """Return the module's first output."""
        leaves, spec = tree_flatten((arguments, options))
        key = json.dumps([str(spec), [_described(leaf) for leaf in leaves]])
        if key not in self._compiled:
            while len(self._compiled) >= KEPT:
                self._compiled.pop(next(iter(self._compiled)))
            self._compiled[key] = self._compile(key, leaves, spec)
        tensors = [leaf.contiguous().numpy() for leaf in leaves if isinstance(leaf, torch.Tensor)]
        return torch.from_numpy(self._compiled[key](tensors, share_inputs=True)[0]).to(self.dtype)

    def _compile(self, key: str, leaves: list[Any], spec: TreeSpec) -> Any:
        """Return what computes the module for inputs of these shapes."""
        import openvino

        module, options = self._stock[0], {"INFERENCE_PRECISION_HINT": self._precision}
        options |= {"INFERENCE_NUM_THREADS": str(torch.get_num_threads()), "PERFORMANCE_HINT": "LATENCY"}
        self._weights = self._weights or _hash(module)
        path = _place(self._weights, key) / "model.xml"
        core = openvino.Core()
        if "CPU" not in core.available_devices:
            raise OSError("OpenVINO finds no CPU that it can use here; use runtime='diffusers'.")
        with contextlib.suppress(RuntimeError):  # not there, or not whole
            return core.compile_model(core.read_model(path), "CPU", options)
        shape = next(leaf.shape for leaf in leaves if isinstance(leaf, torch.Tensor))
        again = " for another shape" if self._compiled else ""
        print(f"Converting the {type(module).__name__} to OpenVINO{again}, once: {' x '.join(map(str, shape))}.")
        model = _convert(_Flat(module, leaves, spec))
        kept = _keep(model, path.parent)
        # What was kept is folded a little otherwise: this run's pixels are to be those of the next.
        return core.compile_model(core.read_model(path) if kept else model, "CPU", options)


class ConvertedUNet(Converted):
    """A UNet that OpenVINO computes, as pipelines ask for it."""

    def __init__(self, unet: Any, precision: str):
        super().__init__(unet, precision)
        if hasattr(unet, "add_embedding"):
            self.add_embedding = unet.add_embedding  # SDXL's pipelines read its width

    def forward(self, *arguments: Any, return_dict: bool = False, **options: Any) -> tuple[torch.Tensor]:
        """Return a tuple, as with ``return_dict=False``."""
        return (super().forward(*arguments, return_dict=False, **options),)


class _Flat(torch.nn.Module):
    """A module that takes the tensors among its arguments alone."""

    def __init__(self, module: torch.nn.Module, leaves: list[Any], spec: TreeSpec):
        super().__init__()
        self.module, self.leaves, self.spec = module, leaves, spec
        self.places = [place for place, leaf in enumerate(leaves) if isinstance(leaf, torch.Tensor)]

    @property
    def tensors(self) -> tuple[torch.Tensor, ...]:
        """An example of what it takes."""
        return tuple(self.leaves[place] for place in self.places)

    def forward(self, *tensors: torch.Tensor) -> torch.Tensor:
        leaves = list(self.leaves)
        for place, tensor in zip(self.places, tensors):
            leaves[place] = tensor
        arguments, options = tree_unflatten(leaves, self.spec)
        output = self.module(*arguments, **options)
        return output[0] if isinstance(output, tuple) else output


def _convert(flat: _Flat) -> Any:
    """Return a module as OpenVINO's model of static shapes."""
    with _no_telemetry(), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", torch.jit.TracerWarning)  # shapes are static: what is constant may be so
        warnings.simplefilter("ignore", DeprecationWarning)
        from openvino import convert_model

        traced = torch.jit.trace(flat, flat.tensors, check_trace=False)
        return convert_model(traced, example_input=flat.tensors, input=[tuple(t.shape) for t in flat.tensors])


@contextlib.contextmanager
def _no_telemetry() -> Iterator[None]:
    """Let OpenVINO's converter find no telemetry, without which it works as well."""
    found = {name: module for name, module in sys.modules.items() if name.startswith("openvino_telemetry")}
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules["openvino_telemetry"]
        sys.modules.update(found)


# -- the cache ------------------------------------------------------------------------


def cache_folder() -> Path:
    """Return where converted models are kept, beside the Hub's cache."""
    return Path(constants.HF_HOME) / "lcm_nb" / "openvino"


def _place(weights: str, key: str) -> Path:
    made_by = [f"{name} {importlib.metadata.version(name)}" for name in LIBRARIES]
    return cache_folder() / hashlib.sha256("\n".join([weights, key, *made_by]).encode()).hexdigest()[:32]


def _keep(model: Any, folder: Path) -> bool:
    """Write a model, whole or not at all, and return whether it is there."""
    import openvino

    unfinished = ""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        unfinished = tempfile.mkdtemp(prefix="unfinished-", dir=folder.parent)
        openvino.save_model(model, Path(unfinished) / "model.xml", compress_to_fp16=False)
        shutil.rmtree(folder, ignore_errors=True)  # one that could not be read
        os.replace(unfinished, folder)
        return True
    except (OSError, RuntimeError) as error:
        warnings.warn(
            f"The converted model was not kept in {folder.parent} ({error}); make room there, "
            "or it is converted again next time.",
            stacklevel=2,
        )
        return False
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _hash(module: torch.nn.Module) -> str:
    """Return the SHA-256 of a module's class, configuration and weights."""
    digest = hashlib.sha256(f"{type(module).__name__} {dict(getattr(module, 'config', {}))}".encode())
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().numpy().data)
    return digest.hexdigest()


def _described(leaf: Any) -> str:
    return f"{leaf.dtype} {tuple(leaf.shape)}" if isinstance(leaf, torch.Tensor) else repr(leaf)
