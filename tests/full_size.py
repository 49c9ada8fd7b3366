"""The guide's checkpoints as plain data, and what their sizes need: counted without weights, or measured on a GPU."""

import argparse
import contextlib
import gc
import json
import statistics
import sys
import time
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple
from unittest import mock

SDXL, LCM_SDXL = "stabilityai/stable-diffusion-xl-base-1.0", "latent-consistency/lcm-sdxl"
SSD, LCM_SSD = "segmind/SSD-1B", "latent-consistency/lcm-ssd-1b"
SD, DREAMSHAPER = "stable-diffusion-v1-5/stable-diffusion-v1-5", "Lykon/dreamshaper-7"
SD_INPAINTING = "stable-diffusion-v1-5/stable-diffusion-inpainting"
LCM_DREAMSHAPER = "SimianLuo/LCM_Dreamshaper_v7"
TAESD, TAESDXL = "madebyollin/taesd", "madebyollin/taesdxl"
PAPERCUT = "TheLastBen/Papercut_SDXL"
CONTROLNET, ADAPTER = "lllyasviel/sd-controlnet-canny", "TencentARC/t2i-adapter-canny-sdxl-1.0"

# -- UNets ----------------------------------------------------------------------------

UNET = {
    "act_fn": "silu",
    "center_input_sample": False,
    "downsample_padding": 1,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "in_channels": 4,
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-05,
    "norm_num_groups": 32,
    "out_channels": 4,
}
SD_UNET = UNET | {
    "attention_head_dim": 8,
    "block_out_channels": [320, 640, 1280, 1280],
    "cross_attention_dim": 768,
    "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
    "sample_size": 64,
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
}
SD_INPAINTING_UNET = SD_UNET | {"in_channels": 9}
LCM_SD_UNET = SD_UNET | {"sample_size": 96, "time_cond_proj_dim": 256}
SDXL_UNET = UNET | {
    "addition_embed_type": "text_time",
    "addition_embed_type_num_heads": 64,
    "addition_time_embed_dim": 256,
    "attention_head_dim": [5, 10, 20],
    "block_out_channels": [320, 640, 1280],
    "cross_attention_dim": 2048,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "projection_class_embeddings_input_dim": 2816,
    "sample_size": 128,
    "time_cond_proj_dim": None,
    "transformer_layers_per_block": [1, 2, 10],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "upcast_attention": None,
    "use_linear_projection": True,
}
SSD_UNET = SDXL_UNET | {
    "mid_block_type": "UNetMidBlock2D",
    "reverse_transformer_layers_per_block": [[4, 4, 10], [2, 1, 1], 1],
    "transformer_layers_per_block": [1, [2, 2], [4, 4]],
}
LCM = {"time_cond_proj_dim": 256}

# -- VAEs and encoders ----------------------------------------------------------------

VAE = {
    "act_fn": "silu",
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "in_channels": 3,
    "latent_channels": 4,
    "layers_per_block": 2,
    "norm_num_groups": 32,
    "out_channels": 3,
    "sample_size": 512,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
}
SDXL_VAE = VAE | {"force_upcast": True, "sample_size": 1024, "scaling_factor": 0.13025}
TINY_VAE = {
    "act_fn": "relu",
    "decoder_block_out_channels": [64, 64, 64, 64],
    "encoder_block_out_channels": [64, 64, 64, 64],
    "force_upcast": False,
    "in_channels": 3,
    "latent_channels": 4,
    "latent_magnitude": 3,
    "latent_shift": 0.5,
    "num_decoder_blocks": [3, 3, 3, 1],
    "num_encoder_blocks": [1, 3, 3, 3],
    "out_channels": 3,
    "scaling_factor": 1.0,
    "upsampling_scaling_factor": 2,
}
CLIP_L = {
    "attention_dropout": 0.0,
    "bos_token_id": 0,
    "dropout": 0.0,
    "eos_token_id": 2,
    "hidden_act": "quick_gelu",
    "hidden_size": 768,
    "initializer_factor": 1.0,
    "initializer_range": 0.02,
    "intermediate_size": 3072,
    "layer_norm_eps": 1e-05,
    "max_position_embeddings": 77,
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "pad_token_id": 1,
    "projection_dim": 768,
    "vocab_size": 49408,
}
CLIP_BIG_G = CLIP_L | {
    "hidden_act": "gelu",
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_attention_heads": 20,
    "num_hidden_layers": 32,
    "projection_dim": 1280,
}
SAFETY_CHECKER = {
    "logit_scale_init_value": 2.6592,
    "projection_dim": 768,
    "text_config": {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12},
    "vision_config": {
        "hidden_act": "quick_gelu",
        "hidden_size": 1024,
        "image_size": 224,
        "intermediate_size": 4096,
        "num_attention_heads": 16,
        "num_hidden_layers": 24,
        "patch_size": 14,
    },
}

# -- schedulers, ControlNet, adapter --------------------------------------------------

NOISE = {
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "num_train_timesteps": 1000,
    "steps_offset": 1,
    "trained_betas": None,
}
EULER = NOISE | {
    "interpolation_type": "linear",
    "prediction_type": "epsilon",
    "timestep_spacing": "leading",
    "use_karras_sigmas": False,
}
PNDM = NOISE | {"set_alpha_to_one": False, "skip_prk_steps": True}
# As diffusers writes it; the repository's own file could not be read. It holds no weights.
DEIS = NOISE | {"algorithm_type": "deis", "prediction_type": "epsilon", "solver_order": 2, "solver_type": "logrho"}
LCM_SCHEDULER = NOISE | {
    "clip_sample": False,
    "original_inference_steps": 50,
    "prediction_type": "epsilon",
    "set_alpha_to_one": True,
    "steps_offset": 1,
    "timestep_spacing": "leading",
}
CANNY = {
    key: SD_UNET[key]
    for key in SD_UNET
    if key not in ("center_input_sample", "out_channels", "sample_size", "up_block_types")
} | {
    "conditioning_embedding_out_channels": [16, 32, 96, 256],
    "controlnet_conditioning_channel_order": "rgb",
    "only_cross_attention": False,
    "resnet_time_scale_shift": "default",
    "upcast_attention": False,
    "use_linear_projection": False,
}
CANNY_XL = {
    "adapter_type": "full_adapter_xl",
    "channels": [320, 640, 1280, 1280],
    "downscale_factor": 16,
    "in_channels": 3,
    "num_res_blocks": 2,
}


def _sdxl(unet: dict) -> dict[str, tuple[str, dict]]:
    return {
        "unet": ("UNet2DConditionModel", unet),
        "vae": ("AutoencoderKL", SDXL_VAE),
        "text_encoder": ("CLIPTextModel", CLIP_L),
        "text_encoder_2": ("CLIPTextModelWithProjection", CLIP_BIG_G),
        "scheduler": ("EulerDiscreteScheduler", EULER),
    }


def _sd(unet: dict, scheduler: tuple[str, dict]) -> dict[str, tuple[str, dict]]:
    return {
        "unet": ("UNet2DConditionModel", unet),
        "vae": ("AutoencoderKL", VAE),
        "text_encoder": ("CLIPTextModel", CLIP_L),
        "scheduler": scheduler,
        "safety_checker": ("StableDiffusionSafetyChecker", SAFETY_CHECKER),
    }


# repository -> component -> class and configuration; where there is one component, it lies at the top
CONFIGS: dict[str, dict[str, tuple[str, dict]]] = {
    SDXL: _sdxl(SDXL_UNET),
    LCM_SDXL: {"unet": ("UNet2DConditionModel", SDXL_UNET | LCM)},
    SSD: _sdxl(SSD_UNET),
    LCM_SSD: {"unet": ("UNet2DConditionModel", SSD_UNET | LCM)},
    SD: _sd(SD_UNET, ("PNDMScheduler", PNDM)),
    SD_INPAINTING: _sd(SD_INPAINTING_UNET, ("PNDMScheduler", PNDM)),  # its scheduler's file could not be read, either
    DREAMSHAPER: _sd(SD_UNET, ("DEISMultistepScheduler", DEIS)),
    LCM_DREAMSHAPER: _sd(LCM_SD_UNET, ("LCMScheduler", LCM_SCHEDULER)),
    CONTROLNET: {"controlnet": ("ControlNetModel", CANNY)},
    ADAPTER: {"adapter": ("T2IAdapter", CANNY_XL)},
    TAESD: {"vae": ("AutoencoderTiny", TINY_VAE)},
    TAESDXL: {"vae": ("AutoencoderTiny", TINY_VAE)},
}
# the class that model_index.json names
PIPELINES = {
    SDXL: "StableDiffusionXLPipeline",
    SSD: "StableDiffusionXLPipeline",
    SD: "StableDiffusionPipeline",
    SD_INPAINTING: "StableDiffusionInpaintPipeline",
    DREAMSHAPER: "StableDiffusionPipeline",
    LCM_DREAMSHAPER: "LatentConsistencyModelPipeline",
}
# repository, component, bytes per number, published bytes
PUBLISHED = [
    (LCM_SDXL, "unet", 2, 5.14e9),
    (LCM_SDXL, "unet", 4, 10.3e9),
    (LCM_SSD, "unet", 2, 2.66e9),
    (SSD, "unet", 2, 2.66e9),
    (LCM_DREAMSHAPER, "unet", 4, 3.44e9),
    (CONTROLNET, "controlnet", 4, 1.45e9),
    (ADAPTER, "adapter", 2, 158e6),
    (ADAPTER, "adapter", 4, 316e6),
]
# Ends of the names of the UNet layers that LoRAs sit on: kohya's default, and diffusers' LCM-LoRA training script.
# Papercut's rank and layers follow from its size alone; rank 32 in float32 would have the same.
ATTENTION = ("to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2")
EVERYWHERE = (
    *ATTENTION,
    *("conv1", "conv2", "conv_shortcut", "downsamplers.0.conv", "upsamplers.0.conv", "time_emb_proj"),
)
LORAS = {
    "latent-consistency/lcm-lora-sdv1-5": {"bytes": 135e6, "unet": SD, "rank": 64, "targets": EVERYWHERE},
    "latent-consistency/lcm-lora-sdxl": {"bytes": 394e6, "unet": SDXL, "rank": 64, "targets": EVERYWHERE},
    "latent-consistency/lcm-lora-ssd-1b": {"bytes": 210e6, "unet": SSD, "rank": 64, "targets": EVERYWHERE},
    "ByteDance/SDXL-Lightning": {"bytes": 394e6, "unet": SDXL, "rank": 64, "targets": EVERYWHERE},
    "ByteDance/Hyper-SD": {"bytes": 787e6, "unet": SDXL, "rank": 128, "targets": EVERYWHERE},
    "h1t/TCD-SDXL-LoRA": {"bytes": 394e6, "unet": SDXL, "rank": 64, "targets": EVERYWHERE},
    "tianweiy/DMD2": {"bytes": 394e6, "unet": SDXL, "rank": 64, "targets": EVERYWHERE},
    PAPERCUT: {"bytes": 341e6, "unet": SDXL, "rank": 64, "targets": ATTENTION},
}
# By how much --tiny divides what a configuration holds.
SHRUNK = {"sample_size": 4} | dict.fromkeys(
    (
        *("addition_time_embed_dim", "block_out_channels", "channels", "conditioning_embedding_out_channels"),
        *("cross_attention_dim", "hidden_size", "intermediate_size", "norm_num_groups", "num_hidden_layers"),
        *("projection_class_embeddings_input_dim", "projection_dim"),
    ),
    8,
)


def build(repo: str, component: str, *, device: str = "meta", tiny: bool = False):
    """Return a component of a repository with fresh random weights; on torch's meta device it takes no memory."""
    import diffusers
    import torch
    import transformers
    from diffusers.pipelines import stable_diffusion

    name, config = CONFIGS[repo][component]
    config = {key: _divide(value, SHRUNK.get(key)) if tiny else value for key, value in config.items()}
    kind = next(getattr(m, name) for m in (diffusers, transformers, stable_diffusion) if hasattr(m, name))
    with torch.device("cpu" if component == "scheduler" else device):  # a scheduler's few numbers are read at once
        return kind(kind.config_class(**config)) if hasattr(kind, "config_class") else kind.from_config(config)


def _divide(value: int | list[int], by: int | None) -> int | list[int]:
    if not by:
        return value
    return [_divide(each, by) for each in value] if isinstance(value, list) else value // by


def parameters(repo: str, component: str) -> int:
    """Return how many numbers a component's weight file holds."""
    return sum(parameter.numel() for parameter in build(repo, component).parameters())


def lora_parameters(repo: str) -> int:
    """Return how many numbers a LoRA of ``LORAS`` holds by its rank and target layers."""
    lora = LORAS[repo]
    modules = build(lora["unet"], "unet").named_modules()
    weights = [module.weight for name, module in modules if name.endswith(lora["targets"])]
    return sum(lora["rank"] * (weight[0].numel() + weight.shape[0]) for weight in weights)


# -- what a run needs beside the weights ----------------------------------------------


class Shape(NamedTuple):
    """One way to run a section of the guide; sizes in pixels, ``batch`` 2 is classifier-free guidance."""

    unet: str
    base: str
    height: int
    width: int
    extra: str | None = None
    batch: int = 1


SHAPES = {
    "text-to-image": Shape(LCM_SDXL, SDXL, 1024, 1024),
    "text-to-image, LCM-LoRA": Shape(SDXL, SDXL, 1024, 1024, batch=2),
    "text-to-image, SSD-1B": Shape(LCM_SSD, SSD, 1024, 1024),
    "image-to-image": Shape(LCM_DREAMSHAPER, DREAMSHAPER, 768, 768),
    "style-lora": Shape(LCM_SDXL, SDXL, 1024, 1024),
    "image-to-image, LCM-LoRA": Shape(SD, SD, 768, 768, batch=2),
    "inpainting": Shape(SD_INPAINTING, SD_INPAINTING, 768, 768, batch=2),
    "controlnet": Shape(LCM_DREAMSHAPER, LCM_DREAMSHAPER, 512, 512, CONTROLNET),
    "controlnet, LCM-LoRA": Shape(SD, SD, 512, 512, CONTROLNET, batch=2),
    "t2i-adapter": Shape(LCM_SDXL, SDXL, 1216, 1024, ADAPTER),
}


def peak_bytes(run: Callable[[], object], *modules) -> int:
    """Return the most bytes that live tensors hold while ``run`` works, weights of ``modules`` left out.

    Storages are followed by weak references, so that a meta tensor counts from the operation that
    makes it until Python lets it go. What a kernel borrows inside one operation is not seen.
    """
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_map_only
    from torch.utils.weak import WeakIdKeyDictionary

    weights = (tensor for module in modules for tensor in (*module.parameters(), *module.buffers()))
    known = WeakIdKeyDictionary({tensor.untyped_storage(): True for tensor in weights})
    now = peak = 0

    def count(change: int) -> None:
        nonlocal now, peak
        now += change
        peak = max(peak, now)

    def see(tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage not in known:  # neither a view nor written in place
            known[storage] = True
            count(storage.nbytes())
            weakref.finalize(storage, count, -storage.nbytes())

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, arguments=(), options=None):
            output = function(*arguments, **(options or {}))
            tree_map_only(torch.Tensor, see, output)
            return output

    with Watch(), torch.no_grad():
        run()
    return peak


def peak_activations(section: str) -> dict[str, int]:
    """Return the bytes that one UNet step in float16 and the VAE's decoding hold, weights left out.

    Parameters
    ----------
    section
        A key of ``SHAPES``. SDXL's VAE decodes in float32: its pipelines upcast a VAE with ``force_upcast``.
    """
    import torch

    shape = SHAPES[section]
    dtype = torch.float32 if CONFIGS[shape.base]["vae"][1].get("force_upcast") else torch.float16
    vae, unet = build(shape.base, "vae"), build(shape.unet, "unet").half()
    vae = vae if dtype == torch.float32 else vae.half()
    extra = [build(shape.extra, name).half() for name in CONFIGS.get(shape.extra, ())]
    size = (shape.height // 8, shape.width // 8)
    latents = torch.empty(1, 4, *size, dtype=dtype, device="meta")
    # Fused attention keeps its output, no matrix of all tokens by all tokens.
    fused = mock.patch("torch.nn.functional.scaled_dot_product_attention", lambda query, *_, **__: query.clone())
    with fused:
        return {
            "unet step": peak_bytes(lambda: _step(shape, unet, *extra), unet, *extra),
            "vae decode": peak_bytes(lambda: vae.decode(latents), vae),
        }


def _step(shape: Shape, unet, control=None):
    """Run the UNet once as the pipelines do, after its ControlNet or T2I-Adapter."""
    import torch

    def empty(*sizes: int) -> torch.Tensor:
        return torch.empty(sizes, dtype=torch.float16, device="meta")

    n, config = shape.batch, unet.config
    latents, text = (
        empty(n, config.in_channels, shape.height // 8, shape.width // 8),
        empty(n, 77, config.cross_attention_dim),
    )
    timestep = torch.empty((), dtype=torch.int64, device="meta")
    given = {"timestep_cond": empty(n, config.time_cond_proj_dim)} if config.time_cond_proj_dim else {}
    if config.addition_embed_type:
        given["added_cond_kwargs"] = {"text_embeds": empty(n, 1280), "time_ids": empty(n, 6)}
    if shape.extra == CONTROLNET:
        picture = empty(n, 3, shape.height, shape.width)
        down, middle = control(latents, timestep, text, picture, return_dict=False)
        given |= {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}
    if shape.extra == ADAPTER:
        states = control(empty(1, 3, shape.height, shape.width))
        given["down_intrablock_additional_residuals"] = [state.clone() for state in states]  # `states` serve all steps
    return unet(latents, timestep, text, **given)


def components(section: str) -> dict[str, str]:
    """Return component -> repository of what a section's pipeline computes with, without a safety checker."""
    shape = SHAPES[section]
    repos = [repo for repo in (shape.base, shape.unet, shape.extra) if repo]  # the later ones replace parts
    return {name: repo for repo in repos for name in CONFIGS[repo] if name not in ("safety_checker", "scheduler")}


def weight_bytes(section: str) -> int:
    """Return the bytes of a section's pipeline in float16."""
    style = lora_parameters(PAPERCUT) if section == "style-lora" else 0
    return 2 * (style + sum(parameters(repo, name) for name, repo in components(section).items()))


def needed_bytes(section: str) -> int:
    """Return the most bytes that weights and live tensors of a run take, with an SDXL VAE's upcast."""
    base, peaks = SHAPES[section].base, peak_activations(section)
    upcast = 2 * parameters(base, "vae") if CONFIGS[base]["vae"][1].get("force_upcast") else 0
    return weight_bytes(section) + max(peaks["unet step"], upcast + peaks["vae decode"])


# -- measured on a GPU ----------------------------------------------------------------

ROOT = Path(__file__).parents[1]
PARTS = {"encode": ("text_encoder", "text_encoder_2"), "UNet": ("unet", "controlnet", "adapter"), "decode": ("vae",)}
MEASURED = {
    "text-to-image": "StableDiffusionXLPipeline",
    "image-to-image": "StableDiffusionImg2ImgPipeline",
    "style-lora": "StableDiffusionXLPipeline",
    "controlnet": "StableDiffusionControlNetPipeline",
    "t2i-adapter": "StableDiffusionXLAdapterPipeline",
}
CALL = {"prompt": "a cute fox", "num_inference_steps": 4, "guidance_scale": 8.0}
REPEATS = 5
OUT_OF_MEMORY = "out of memory"
# PyTorch sees 14.75 GiB on a T4; its CUDA context takes about half a GiB of them.
T4_BYTES = int(14.2 * 2**30)
HEAD = """# The guide's pipelines in full size

{device}, torch {torch}, diffusers {diffusers}. {weights}; 4 steps, one picture, median of {repeats} after a
warm-up. "Computed" is what weights and live tensors take in full size by `tests/full_size.py`. GB are 10^9 bytes.

Parts are those of one picture: the text encoders, which `Studio.generate` asks once for a prompt; the UNet with what
runs beside it; the VAE's decoder.

| section | run | picture | computed GB | allocated GB | reserved GB | encode s | UNet s | decode s | seconds |
|---|---|---|---|---|---|---|---|---|---|
"""
WEIGHTS = "Random float16 weights of the real shapes; PyTorch held to {:.1f} GB, what a T4 leaves it"
TINY_WEIGHTS = "Random float32 weights, widths divided by 8: this proves the script and measures nothing"


def tokenizer():
    """Return a CLIP tokenizer that spells ASCII; its special tokens have CLIP's numbers."""
    from transformers import CLIPTokenizer

    letters = [chr(code) for code in range(33, 127)]
    tokens = [*letters, *(f"{letter}</w>" for letter in letters)]
    special = {"<|startoftext|>": 49406, "<|endoftext|>": 49407}
    return CLIPTokenizer({token: i for i, token in enumerate(tokens)} | special, [], model_max_length=77)


def assemble(section: str, device: str, *, tiny: bool = False):
    """Return a section's pipeline with random weights on a device: float16, or float32 where ``tiny``."""
    import diffusers
    import torch
    from peft import LoraConfig

    parts = components(section)
    torch.set_default_dtype(torch.float32 if tiny else torch.float16)  # nothing is made in float32 first
    try:
        modules = {name: build(repo, name, device=device, tiny=tiny).eval() for name, repo in parts.items()}
    finally:
        torch.set_default_dtype(torch.float32)
    tokenizers = {name.replace("text_encoder", "tokenizer"): tokenizer() for name in parts if "text_encoder" in name}
    names = ("safety_checker", "feature_extractor", "requires_safety_checker")
    unchecked = dict.fromkeys(names) if "safety_checker" in CONFIGS[SHAPES[section].base] else {}
    scheduler = diffusers.LCMScheduler.from_config(build(SHAPES[section].base, "scheduler").config)
    pipe = getattr(diffusers, MEASURED[section])(**modules, **tokenizers, **unchecked, scheduler=scheduler)
    if section == "style-lora":
        lora = LORAS[PAPERCUT]
        targets = [name for name, _ in pipe.unet.named_modules() if name.endswith(lora["targets"])]
        pipe.unet.add_adapter(LoraConfig(r=lora["rank"], target_modules=targets), "papercut")
    pipe.set_progress_bar_config(disable=True)
    return pipe


def ways(section: str, pipe, device: str, *, tiny: bool = False) -> Iterator[tuple[str, Callable]]:
    """Yield the ways to make a picture, the pipeline changed for each: the guide's plain call, and this project's."""
    import torch
    from PIL import Image

    from lcm_nb.models.checkpoints import checkpoints
    from lcm_nb.models.doctor import faster_problem
    from lcm_nb.models.plans import plan_for
    from lcm_nb.pictures import canny
    from lcm_nb.runtimes.diffusers import DiffusersRuntime
    from lcm_nb.studio import Studio

    shape, picture = SHAPES[section], {}
    if shape.extra or section == "image-to-image":
        size = [side // 4 // 32 * 32 if tiny else side for side in (shape.width, shape.height)]
        picture = {"image": Image.effect_noise(size, 64).convert("RGB")}
    given = {"image": canny(picture["image"])} if shape.extra else picture
    call = CALL | ({"strength": 1.0} if section == "image-to-image" else {})
    plan = plan_for(section)
    yield type(pipe).__name__, lambda: pipe(**call, **given, generator=torch.manual_seed(0)).images[0]
    names = replace(checkpoints(section, "guide", device), dtype=pipe.unet.dtype)
    studio = Studio(plan, names, DiffusersRuntime(plan.section, names, pipe))
    run = lambda: studio.generate(**call, **picture, seed=0).image  # noqa: E731
    yield "Studio.generate", run
    for name in ("fp16-vae", "tiny-vae", "compile"):
        if not faster_problem(plan, device, [name]):
            change(pipe, name, shape, device, tiny=tiny)
            yield f"{name} besides" if name == "compile" else name, run


def change(pipe, faster: str, shape: Shape, device: str, *, tiny: bool) -> None:
    """Change a pipeline with random weights as ``lcm_nb.load(..., faster=)`` does."""
    if faster == "compile":
        pipe.unet.compile_repeated_blocks(fullgraph=True)
    elif faster == "fp16-vae":
        pipe.vae.register_to_config(force_upcast=False)
    else:
        repo = TAESDXL if "addition_embed_type" in CONFIGS[shape.base]["unet"][1] else TAESD
        pipe.vae = build(repo, "vae", device=device, tiny=tiny).to(pipe.unet.dtype).eval()


@contextlib.contextmanager
def apart(pipe, clock: Callable[[], float]) -> Iterator[dict[str, float]]:
    """Collect the seconds that the parts of a pipeline take while it draws."""
    taken, started, hooks = dict.fromkeys(PARTS, 0.0), {}, []
    for part, names in PARTS.items():
        for name in names:
            module = getattr(pipe, name, None)
            if module is None:
                continue
            module = module.decoder if name == "vae" else module

            def begin(*_, part=part):
                started[part] = clock()

            def end(*_, part=part):
                taken[part] += clock() - started[part]

            hooks += [module.register_forward_pre_hook(begin), module.register_forward_hook(end)]
    try:
        yield taken
    finally:
        for hook in hooks:
            hook.remove()


def measure(run: Callable, pipe, cuda: bool, repeats: int) -> tuple[str, list[float]]:
    """Return a picture's size; peaks allocated and reserved (GB); medians of the parts' seconds and of all.

    Raises
    ------
    ValueError
        If the picture has one colour, as one of NaN has.
    """
    import torch

    if cuda:
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    image, times, parts = run(), [], []
    for _ in range(repeats):
        start = time.perf_counter()
        run()  # ends with the picture in the computer's memory: nothing is left to wait for
        times.append(time.perf_counter() - start)
    for _ in range(repeats):  # apart from the whole: looking waits for the GPU
        with apart(pipe, lambda: (torch.cuda.synchronize() if cuda else None, time.perf_counter())[1]) as taken:
            run()
        parts.append(list(taken.values()))
    if all(low == high for low, high in image.getextrema()):
        raise ValueError("The picture has one colour; the random weights gave no finite numbers.")
    peaks = (torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()) if cuda else (0, 0)
    seconds = [*(statistics.median(part) for part in zip(*parts, strict=True)), statistics.median(times)]
    return "{} x {}".format(*image.size), [*(peak / 1e9 for peak in peaks), *seconds]


def rows(section: str, device: str, *, tiny: bool = False) -> list[str]:
    """Return a section's rows of the table; where memory ran out, one says so."""
    import torch

    computed, pipe, lines = needed_bytes(section) / 1e9, assemble(section, device, tiny=tiny), []
    for way, run in ways(section, pipe, device, tiny=tiny):
        try:
            size, numbers = measure(run, pipe, device == "cuda", 1 if tiny else REPEATS)
        except (torch.OutOfMemoryError, MemoryError):  # the studio turns the one into the other
            size, numbers = OUT_OF_MEMORY, [float("nan")] * 6
        lines.append(f"| {section} | {way} | {size} | " + " | ".join(f"{n:.2f}" for n in (computed, *numbers)) + " |")
    return lines


def table(device: str, *, tiny: bool = False) -> str:
    """Return the Markdown table of all that is measured, and the verdict."""
    import diffusers
    import torch

    head = HEAD.format(
        device=torch.cuda.get_device_name() if device == "cuda" else "CPU",
        torch=torch.__version__,
        diffusers=diffusers.__version__,
        weights=TINY_WEIGHTS if tiny else WEIGHTS.format(T4_BYTES / 1e9),
        repeats=1 if tiny else REPEATS,
    )
    body = "\n".join(line for section in MEASURED for line in rows(section, device, tiny=tiny))
    verdict = f"fits in 16 GB (T4): {'no' if OUT_OF_MEMORY in body else 'yes'} by measured peak\n"
    return f"{head}{body}\n" + ("" if tiny else f"\n{verdict}")


# -- measured on a CPU ------------------------------------------------------------------

CPU_WAYS = ("float32", "bfloat16", "openvino")


def on_a_cpu(way: str, *, tiny: bool = False):
    """Return a pipeline of Stable Diffusion 1.5's shape with random weights, the same for all of ``CPU_WAYS``."""
    import diffusers
    import torch

    from lcm_nb.runtimes.openvino import Converted, ConvertedUNet

    torch.manual_seed(0)
    parts = ("unet", "vae", "text_encoder")
    modules = {name: build(LCM_DREAMSHAPER, name, device="cpu", tiny=tiny).eval() for name in parts}
    if way == "bfloat16":
        modules = {name: module.to(torch.bfloat16) for name, module in modules.items()}
    scheduler = build(LCM_DREAMSHAPER, "scheduler")
    unchecked = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    pipe = diffusers.StableDiffusionPipeline(**modules, **unchecked, tokenizer=tokenizer(), scheduler=scheduler)
    if way == "openvino":
        pipe.unet = ConvertedUNet(pipe.unet, "bf16")
        pipe.vae.decoder = Converted(pipe.vae.decoder, "bf16")
    pipe.set_progress_bar_config(disable=True)
    return pipe


def cpu_figures(rounds: int, output: Path | None, *, tiny: bool = False) -> dict:
    """Return the CPU seconds of one thread that the parts of a picture take by each way, ways in turn.

    CPU seconds say nearly the same on a computer that does other work as on a quiet one. Pictures have one step;
    "4 steps" is computed of the parts.
    """
    import torch

    from lcm_nb.bench import _machine

    torch.set_num_threads(1)
    call = CALL if tiny else CALL | {"height": 512, "width": 512}
    pipes = {way: on_a_cpu(way, tiny=tiny) for way in CPU_WAYS}
    pipes["openvino"](**call | {"num_inference_steps": 1})  # converts
    found = {way: {part: [] for part in (*PARTS, "4 steps")} for way in CPU_WAYS}
    for number in range(1, rounds + 1):
        for way, pipe in pipes.items():
            with apart(pipe, time.process_time) as taken:
                pipe(**call | {"num_inference_steps": 1}, generator=torch.manual_seed(0))
            whole = taken["encode"] + 4 * taken["UNet"] + taken["decode"]
            for part, seconds in {**taken, "4 steps": whole}.items():
                found[way][part].append(seconds)
        told = {"machine": _machine(), "rounds": number, "CPU seconds of one thread": found}
        if output:
            output.write_text(json.dumps(told, indent=1) + "\n")
    return told


def main(arguments: list[str] | None = None) -> int:
    """Measure on the CUDA device here, or prove this script with ``--tiny``."""
    parser = argparse.ArgumentParser(description="Measure the guide's pipelines in full size, with random weights.")
    parser.add_argument("--output", type=Path, help="Markdown file to write; default tests/full_size.md")
    parser.add_argument("--tiny", action="store_true", help="run the same code small, on the CPU")
    parser.add_argument("--cpu", type=int, metavar="ROUNDS", help="measure Stable Diffusion 1.5's shape on the CPU")
    options = parser.parse_args(arguments)
    sys.path.insert(0, str(ROOT))  # lcm_nb need not be installed
    import torch

    if options.cpu:
        print(json.dumps(cpu_figures(options.cpu, options.output, tiny=options.tiny), indent=1))
        return 0
    if not (options.tiny or torch.cuda.is_available()):
        print("There is no CUDA device here; run this on a computer with one, or add --tiny.", file=sys.stderr)
        return 2
    if not options.tiny:
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, T4_BYTES / total))
    text = table("cpu" if options.tiny else "cuda", tiny=options.tiny)
    print(text)
    output = options.output or (None if options.tiny else ROOT / "tests/full_size.md")
    if output:
        output.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
