"""The diffusers runtime: the stock pipeline of a section, loaded, watched and called."""

import contextlib
import copy
import functools
import gc
import inspect
import re
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import diffusers
import psutil
import torch
import transformers
from diffusers import DiffusionPipeline
from PIL import Image
from torch.utils._pytree import tree_flatten, tree_map

from ..models.checkpoints import Checkpoints
from ..models.device import DTYPE_ARGUMENT
from ..sections.section import Section
from .code import LCM_LORA, loras, own_parts, plain_code
from .preview import Decode, fit_preview
from .prompts import silenced, unread
from .runtime import Call, Drawing, Geometry, OnStep, go_on
from .shared import share, shareable, shared, told_weights

# The inpainting pipelines know a UNet that takes latents alone, and blend for it, by this number in its configuration;
# the mini family's latents have more channels. What runs is not touched by it.
BLENDING = 4
OUT_OF_MEMORY = re.compile(
    "CUDA.*out of memory|(CUBLAS|CUDNN)_STATUS_ALLOC_FAILED|can't allocate memory|not enough memory: you tried"
)
SMALL_MAC = 16 * 2**30  # bytes: below, diffusers' documentation advises attention slicing on Apple's GPUs
TEXTS = 32  # prompts whose embeddings are remembered
BLOCKS = (torch.nn.ModuleList, torch.nn.Sequential)  # what holds the blocks of a network
LARGEST = 512  # pixels on a side of a quick look at a latent
# What schedulers call the clean latent that a step predicts.
PREDICTION = ("denoised", "pred_original_sample")
# Said by SDXL's own pipeline of itself, whenever it decodes in float16.
warnings.filterwarnings("ignore", message="`upcast_vae` is deprecated", category=FutureWarning)


class DiffusersRuntime:
    """A section's stock diffusers pipeline as a :class:`~lcm_nb.runtimes.runtime.Runtime`.

    Attributes
    ----------
    pipe
        The pipeline, with the model's scheduler, on its device.
    """

    at_once = 1

    def __init__(self, section: Section, names: Checkpoints, pipe: DiffusionPipeline):
        self.section, self.names, self.pipe = section, names, pipe
        self._quick: Decode | None = None
        remember_texts(pipe)
        self._adapters = adapters(pipe.unet)  # as the section has them
        self.can_preview = "offload" not in names.measures  # a preview would swap modules in and out of the GPU

    @property
    def geometry(self) -> Geometry:
        """What pictures the model takes."""
        unet, factor = self.pipe.unet.config, self.pipe.vae_scale_factor
        return Geometry(unet.sample_size * factor, factor * 2 ** (len(unet.block_out_channels) - 1))

    def draw(self, call: Call, on_step: OnStep) -> Drawing:
        """Draw one picture with the pipeline's own call."""
        generator = torch.Generator().manual_seed(call.seed)
        remedy = "Close other programs and kernels that use it, or load the section again: it is fitted anew."
        scales = {} if self._has(call.scales) else call.scales
        twice = self.pipe.unet.config.time_cond_proj_dim is None and call.arguments.get("guidance_scale", 1) > 1
        note = unread(self.pipe.tokenizer, call.arguments, negative_acts=twice)
        with (
            enough_memory(remedy),
            scaled(self.pipe, self.section, self.names, scales),
            silenced(self.pipe),
            interruptible(self.pipe, call.waiting),
            predictions(self.pipe) as seen,
        ):

            def after_step(index: int, timestep: int, latents: torch.Tensor) -> None:
                """Tell what the step predicted; where a mask keeps a part, the last step's is the blended whole."""
                done = call.mask is not None and index + 1 == self.pipe.num_timesteps
                on_step(index, timestep, latents if done else seen[-1])

            try:
                output = self.pipe(
                    **call.arguments, **call.pictures, **_callback(self.pipe, after_step), generator=generator
                )
            finally:
                if self.pipe.vae.dtype != self.names.dtype:
                    self.pipe.vae.to(self.names.dtype)  # SDXL's pipelines leave it in float32 after an error
                self.pipe.maybe_free_model_hooks()
        censored = any(getattr(output, "nsfw_content_detected", None) or ())
        return Drawing(output.images[0], censored=censored, note=note)

    def _has(self, scales: Mapping[str, float]) -> bool:
        """Return whether the LoRAs act like this already: to set them takes a tenth of a picture of mini."""
        usual = scales == default_scales(self.section, self.names)
        return bool(scales) and usual and adapters(self.pipe.unet) == self._adapters

    @torch.no_grad()
    def decode(self, latent: torch.Tensor, quick: bool = False) -> Image.Image:
        """Decode a latent (1, C, h, w) as the pipelines do, or ``quick``: a hint of the picture in a millisecond.

        The hint has the picture's size, to ``LARGEST`` on a side.
        """
        if not quick:
            return self.pipe.image_processor.postprocess(self._decoded(latent))[0]
        hint = self._quick or self.get_ready()
        picture = self.pipe.image_processor.postprocess(hint(latent))[0]
        height, width = latent.shape[-2:]
        scale = min(self.pipe.vae_scale_factor, LARGEST / max(height, width))
        return picture.resize((int(scale * width), int(scale * height)), Image.Resampling.BICUBIC)

    @torch.no_grad()
    def get_ready(self) -> Decode:
        """Fit the hints to the decoder, which takes it about as long as two pictures of 128 pixels."""
        self._quick = fit_preview(self._decoded, self.pipe.vae.config.latent_channels)
        return self._quick

    def _decoded(self, latents: torch.Tensor) -> torch.Tensor:
        """Return the pictures (n, 3, H, W), about -1 to 1, of latents (n, C, h, w)."""
        vae = self.pipe.vae
        upcast = vae.dtype == torch.float16 and vae.config.get("force_upcast")
        if upcast:  # SDXL's VAE overflows in float16
            vae.to(torch.float32)
        try:
            return vae.decode(latents.to(vae.device, vae.dtype) / vae.config.scaling_factor).sample
        finally:
            if upcast:
                vae.to(torch.float16)

    def code(self, settings: Mapping[str, object]) -> str:
        """Return plain diffusers code that draws the picture of complete settings."""
        return plain_code(self.section, self.names, self.geometry, settings)

    def release(self) -> None:
        """Let go of the pipeline and of the GPU's memory."""
        self.pipe = None
        gc.collect()
        torch.cuda.empty_cache()


def load(section: Section, names: Checkpoints) -> DiffusersRuntime:
    """Return a section's runtime: its pipeline on its device, with its scheduler and all LoRAs.

    Raises
    ------
    RuntimeError
        If a module came out in another dtype than was asked for, or with another scheduler.
    MemoryError
        If the device's memory does not suffice; nothing stays in it.
    """
    with enough_memory("Close other programs and kernels that use it, choose a smaller model, or use profile='mini'."):
        pipe = load_pipeline(section, names)
        pipe.set_progress_bar_config(disable=True)
        runtime = DiffusersRuntime(section, names, pipe)
        if runtime.can_preview:
            runtime.get_ready()  # else the first preview would seem too dear for a second one
    return runtime


@contextlib.contextmanager
def quiet_loads() -> Iterator[None]:
    """Hide the bars of loads that take a second; the switches are the libraries' own, and global."""
    switches = [m for m in (diffusers.utils.logging, transformers.utils.logging) if m.is_progress_bar_enabled()]
    for switch in switches:
        switch.disable_progress_bar()
    try:
        yield
    finally:
        for switch in switches:
            switch.enable_progress_bar()


def load_pipeline(section: Section, names: Checkpoints) -> DiffusionPipeline:
    """Return a section's stock pipeline on its device, with its scheduler and all LoRAs."""
    keys = shareable(section, names)
    parts: dict[str, Any] = dict(shared(keys))
    for part, kind in own_parts(names).items():
        if part not in parts:
            parts[part] = getattr(diffusers, kind).from_pretrained(names.parts[part], **names.options(part))
    kind = getattr(diffusers, section.pipelines[names.family])
    pipe = kind.from_pretrained(names.base, **parts, **section.options, **names.loading["base"])
    if section.takes_mask and pipe.unet.config.in_channels == pipe.vae.config.latent_channels:
        pipe.unet.register_to_config(in_channels=BLENDING)
    scheduler = getattr(diffusers, names.scheduler)
    pipe.scheduler = scheduler.from_config(pipe.scheduler.config, **names.scheduler_options)
    _load_loras(pipe, names)
    set_scales(pipe, names, default_scales(section, names))
    _check_loaded(pipe, names, scheduler)
    if "slicing" in names.measures:
        pipe.vae.enable_slicing()
    if "compile" in names.measures:
        pipe.unet.compile_repeated_blocks(fullgraph=True)
    if names.device.startswith("mps") and psutil.virtual_memory().total < SMALL_MAC:
        pipe.enable_attention_slicing()
    if "offload" in names.measures:  # last, and instead of `to`: it hooks what is there, and moves it when it runs
        pipe.enable_model_cpu_offload(device=names.device)
        return pipe
    pipe.to(names.device)
    share(keys, pipe)
    return pipe


def _check_loaded(pipe: DiffusionPipeline, names: Checkpoints, scheduler: type) -> None:
    """Refuse what diffusers loads without a word where it does not know an argument."""
    modules = {name: m for name, m in pipe.components.items() if isinstance(m, torch.nn.Module)}
    wrong = {name: m.dtype for name, m in modules.items() if m.dtype != names.dtype}
    if wrong:
        raise RuntimeError(
            f"{', '.join(wrong)} came as {', '.join(sorted(set(map(str, wrong.values()))))} instead of {names.dtype}: "
            f"this diffusers does not know the argument {DTYPE_ARGUMENT!r}; install a version that lcm_nb admits."
        )
    if not isinstance(pipe.scheduler, scheduler):
        raise RuntimeError(f"The scheduler is {type(pipe.scheduler).__name__} instead of {names.scheduler}.")


# -- LoRAs ----------------------------------------------------------------------------


def _load_loras(pipe: DiffusionPipeline, names: Checkpoints) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Already found a `peft_config`")  # more than one is the point
        for repo, file, adapter, loading in loras(names):
            pipe.load_lora_weights(repo, weight_name=file, adapter_name=adapter, **loading)


def default_scales(section: Section, names: Checkpoints) -> dict[str, float]:
    """Return the scales of a section's style LoRAs, as the guide has them."""
    return {style: float(section.settings[style].default) for style in names.styles}


def set_scales(pipe: DiffusionPipeline, names: Checkpoints, scales: Mapping[str, float]) -> None:
    """Let style LoRAs act as strongly as ``scales`` says; an LCM-LoRA acts always."""
    if not loras(names):
        return
    active = ({LCM_LORA: 1.0} if names.lcm_lora else {}) | {style: scale for style, scale in scales.items() if scale}
    if not active:
        pipe.disable_lora()
        return
    pipe.enable_lora()
    pipe.set_adapters(list(active), adapter_weights=list(active.values()))


@contextlib.contextmanager
def scaled(
    pipe: DiffusionPipeline, section: Section, names: Checkpoints, scales: Mapping[str, float]
) -> Iterator[None]:
    """Set the style LoRAs' scales for a run, and the section's own again afterwards, whatever happens."""
    if not scales:
        yield
        return
    set_scales(pipe, names, scales)
    try:
        yield
    finally:
        set_scales(pipe, names, default_scales(section, names))


# -- texts ----------------------------------------------------------------------------


def remember_texts(pipe: Any) -> None:
    """Let a pipeline remember what its text encoders made of the last prompts, to the bit.

    With model CPU offload the encoders stay where they are, then. What is no plain value, such as a tensor given
    instead of a prompt, is not remembered. Whoever changes an encoder, its weights or the LoRAs on it, has its
    prompts encoded anew.
    """
    known: dict[str, Any] = {}
    encode = pipe.encode_prompt

    @functools.wraps(encode)
    def encode_prompt(*arguments: Any, **options: Any) -> Any:
        encoders = [_state(getattr(pipe, name, None)) for name in ("text_encoder", "text_encoder_2", "tokenizer")]
        leaves, spec = tree_flatten((arguments, options))
        if not all(leaf is None or isinstance(leaf, (str, bool, int, float, torch.device)) for leaf in leaves):
            return encode(*arguments, **options)
        key = repr((encoders, leaves, spec))
        made = known.pop(key) if key in known else encode(*arguments, **options)
        known[key] = made  # the last used stands last
        if len(known) > TEXTS:
            known.pop(next(iter(known)))
        return tree_map(lambda leaf: leaf.clone() if isinstance(leaf, torch.Tensor) else leaf, made)

    pipe.encode_prompt = encode_prompt


def _state(encoder: Any) -> list[Any]:
    """Return what is another when an encoder, its weights, or the LoRAs on it are."""
    if not isinstance(encoder, torch.nn.Module):
        return [id(encoder)]
    return [id(encoder), told_weights(encoder), adapters(encoder)]


def adapters(network: torch.nn.Module) -> list[Any]:
    """Return how each layer's LoRAs act now."""
    layers = [module for module in network.modules() if hasattr(type(module), "active_adapters")]  # peft's
    names = ("scaling", "active_adapters", "disable_adapters", "merged_adapters")
    return [[copy.copy(getattr(layer, name, None)) for name in names] for layer in layers]


# -- watching a run -------------------------------------------------------------------


@contextlib.contextmanager
def predictions(pipe: DiffusionPipeline) -> Iterator[list[torch.Tensor]]:
    """Collect, while a pipeline runs, the clean latent (1, C, h, w) that each step predicts, and that pipelines drop.

    Meanwhile the pipeline has a copy of its scheduler, of a class with the same steps that keeps them.
    """
    seen: list[torch.Tensor] = []
    scheduler = pipe.scheduler
    pipe.scheduler = copy.copy(scheduler)  # not made anew from its configuration, which warns of what it does not know
    pipe.scheduler.__class__ = _telling(type(scheduler))  # type: ignore[arg-type]
    pipe.scheduler.seen = seen
    try:
        yield seen
    finally:
        pipe.scheduler = scheduler


@functools.cache
def _telling(kind: Any) -> Any:
    """Return a scheduler class of the same steps, whose instances keep in ``seen`` the clean latent of each."""

    class Telling(kind):
        @functools.wraps(kind.step)  # pipelines read the signature: without it they withhold the generator
        def step(self, *arguments: Any, return_dict: bool = True, **options: Any) -> Any:
            output = super().step(*arguments, return_dict=True, **options)
            self.seen.append(next((output[name] for name in PREDICTION if name in output), None))
            return output if return_dict else output.to_tuple()

    return Telling


@contextlib.contextmanager
def interruptible(pipe: DiffusionPipeline, check: Callable[[], object]) -> Iterator[None]:
    """Call ``check`` before each block of UNet and VAE: what it raises ends a run within a part of a step."""
    if check is go_on:
        yield
        return
    own = threading.get_ident()

    def before(*_: Any) -> None:
        if threading.get_ident() == own:  # another section's run may share the networks
            check()

    networks = [pipe.unet, pipe.vae.encoder, pipe.vae.decoder]
    parts = [part for network in networks for part in network.children()]
    blocks = [block for part in parts for block in (part if isinstance(part, BLOCKS) else [part])]
    hooks = [block.register_forward_pre_hook(before) for block in networks + blocks]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _callback(
    pipe: DiffusionPipeline, after_step: Callable[[int, int, torch.Tensor], None]
) -> dict[str, Callable[..., Any]]:
    """Return the callback argument that this pipeline takes, calling ``after_step(index, timestep, latents)``."""
    if "callback_on_step_end" not in inspect.signature(pipe.__call__).parameters:
        return {"callback": lambda index, timestep, latents: after_step(index, int(timestep), latents)}  # T2I-Adapter's

    def callback(pipe: DiffusionPipeline, index: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        after_step(index, int(timestep), tensors["latents"])
        return tensors

    return {"callback_on_step_end": callback}


@contextlib.contextmanager
def enough_memory(remedy: str) -> Iterator[None]:
    """Turn "out of memory" into one sentence, and let go of what the failed work held."""
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and not OUT_OF_MEMORY.search(str(error)):
            raise
        traceback.clear_frames(error.__traceback__)
        whose = "This computer's" if "DefaultCPUAllocator" in str(error) else "The GPU's"
    else:
        return
    gc.collect()
    torch.cuda.empty_cache()
    raise MemoryError(f"{whose} memory does not suffice. {remedy}")
