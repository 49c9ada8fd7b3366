"""The guide's repositories in small: every file name, layout, missing variant and configuration field, at tiny widths.

Depths are the real ones, and so are the classes; weights are random, and pictures smaller. What a run
must not download (other formats, single files, full precision beside fp16) is there, too, as a few bytes.
"""

import json
from pathlib import Path

import diffusers
import numpy as np
import torch
import transformers
from diffusers.pipelines.stable_diffusion import StableDiffusionSafetyChecker
from diffusers.utils import convert_state_dict_to_kohya
from full_size import CONFIGS, CONTROLNET, LCM_DREAMSHAPER, LORAS, PIPELINES, SD_INPAINTING, SDXL, SSD, TAESD, TAESDXL
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from PIL import Image
from safetensors.torch import save_file

VAE_FIX, PICTURES = "madebyollin/sdxl-vae-fp16-fix", "datasets/huggingface/documentation-images"
MAP = "Adapter/t2iadapter/figs_SDXLV1.0/org_canny.jpg"
NO_VARIANT = (LCM_DREAMSHAPER, CONTROLNET, VAE_FIX, TAESD, TAESDXL)
BULK = {
    SDXL: (
        "sd_xl_base_1.0.safetensors",
        "sd_xl_base_1.0_0.9vae.safetensors",
        "text_encoder/flax_model.msgpack",
        "text_encoder/model.onnx",
        "unet/diffusion_flax_model.msgpack",
        "unet/model.onnx",
        "unet/model.onnx_data",
        "vae_1_0/config.json",
        "vae_1_0/diffusion_pytorch_model.fp16.safetensors",
        "vae_1_0/diffusion_pytorch_model.safetensors",
        "vae_decoder/model.onnx",
    ),
    SSD: ("SSD-1B.safetensors", "SSD-1B-A1111.safetensors", "SSD-1B-modelspec.safetensors"),
    LCM_DREAMSHAPER: (
        "LCM_Dreamshaper_v7_4k.safetensors",
        "lcm_pipeline.py",
        "lcm_scheduler.py",
        "text_encoder/model.onnx",
        "unet/model.onnx",
        "unet/model.onnx_data",
        "vae_encoder/model.onnx",
        "vae_decoder/model.onnx",
    ),
    SD_INPAINTING: ("sd-v1-5-inpainting.ckpt",),
    CONTROLNET: ("diffusion_pytorch_model.bin",),
    VAE_FIX: ("diffusion_pytorch_model.bin", "sdxl.vae.safetensors", "sdxl_vae.safetensors"),
    TAESD: ("diffusion_pytorch_model.bin", "taesd_decoder.pth", "taesd_encoder.safetensors"),
    TAESDXL: ("diffusion_pytorch_model.bin", "taesdxl_decoder.pth"),
    "TheLastBen/Papercut_SDXL": ("1.jpg",),
    "ByteDance/SDXL-Lightning": (
        "sdxl_lightning_2step_lora.safetensors",
        "sdxl_lightning_4step.safetensors",
        "sdxl_lightning_4step_unet.safetensors",
    ),
    "ByteDance/Hyper-SD": ("Hyper-SDXL-1step-lora.safetensors", "Hyper-SD15-4steps-lora.safetensors"),
    "tianweiy/DMD2": ("dmd2_sdxl_4step_lora.safetensors", "dmd2_sdxl_4step_unet_fp16.bin"),
}
LORA_FILES = {
    "TheLastBen/Papercut_SDXL": "papercut",
    "ByteDance/SDXL-Lightning": "sdxl_lightning_4step_lora",
    "ByteDance/Hyper-SD": "Hyper-SDXL-4steps-lora",
    "tianweiy/DMD2": "dmd2_sdxl_4step_lora_fp16",
}
TINY_UNET = {"norm_num_groups": 4, "cross_attention_dim": 16}
TINY_XL = TINY_UNET | {
    "addition_time_embed_dim": 8,
    "attention_head_dim": [1, 2, 2],
    "block_out_channels": [8, 16, 16],
    "cross_attention_dim": 32,
    "projection_class_embeddings_input_dim": 16 + 6 * 8,
}
TINY_SD = TINY_UNET | {"attention_head_dim": 2, "block_out_channels": [8, 16, 16, 16]}
TINY_CLIP = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_attention_heads": 2,
    "projection_dim": 16,
    "vocab_size": 514,
}
TINY = {
    "AutoencoderTiny": {"encoder_block_out_channels": [8, 8, 8, 8], "decoder_block_out_channels": [8, 8, 8, 8]},
    "AutoencoderKL": {"block_out_channels": [8, 8, 8, 8], "norm_num_groups": 4},
    "CLIPTextModel": TINY_CLIP,
    "CLIPTextModelWithProjection": TINY_CLIP,
    "ControlNetModel": TINY_SD | {"conditioning_embedding_out_channels": [4, 4, 8, 8]},
    "T2IAdapter": {"channels": [8, 16, 16, 16]},
}
TINY_CHECKER = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2}
TOKENIZER = {"model_max_length": 77, "pad_token": "<|endoftext|>", "tokenizer_class": "CLIPTokenizer"}


def build(folder: Path) -> None:
    """Write every repository as ``folder/OWNER/NAME``, datasets under ``folder/datasets``."""
    torch.manual_seed(0)
    for repo in CONFIGS:
        _repository(folder / repo, repo)
    _vae_fix(folder / VAE_FIX)
    for repo in LORAS:
        _lora(folder / repo, repo)
    _pictures(folder / PICTURES / "diffusers", folder / MAP)
    for repo, names in BULK.items():
        for name in names:
            _write(folder / repo / name, b"not to be downloaded")


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def _repository(folder: Path, repo: str) -> None:
    whole = repo in PIPELINES
    for name in CONFIGS[repo]:
        at = folder / name if whole else folder
        if name == "scheduler":
            kind, config = CONFIGS[repo][name]
            getattr(diffusers, kind).from_config(config).save_pretrained(at)
        else:
            _save(make(repo, name), at, repo)
    if whole:
        _pipeline_files(folder, repo)


def make(repo: str, component: str) -> torch.nn.Module:
    """Return a tiny module of the real class and depth; nothing in it is zero."""
    kind, config = CONFIGS[repo][component]
    config = config | TINY.get(kind, {})
    if kind == "UNet2DConditionModel":
        xl = "addition_embed_type" in config
        config |= (TINY_XL if xl else TINY_SD) | {"sample_size": config["sample_size"] // (4 if xl else 2)}
    if kind == "StableDiffusionSafetyChecker":
        parts = {name: config[name] | TINY_CHECKER for name in ("text_config", "vision_config")}
        config = transformers.CLIPConfig(**config | parts | {"projection_dim": 8})
        return StableDiffusionSafetyChecker(config)
    if kind.startswith("CLIP"):
        module = getattr(transformers, kind)(transformers.CLIPTextConfig(**config))
    else:
        module = getattr(diffusers, kind).from_config(config)
    return _roughen(module)


def _roughen(module: torch.nn.Module) -> torch.nn.Module:
    """Add noise to zeros: a ControlNet begins without effect."""
    with torch.no_grad():
        for parameter in module.parameters():
            if not parameter.any():
                parameter.normal_(0, 0.05)
    return module


def _save(module: torch.nn.Module, at: Path, repo: str) -> None:
    """Save full precision and, where the repository has it, fp16 with the same numbers."""
    half = module.half()
    if repo not in NO_VARIANT:
        half.save_pretrained(at, variant="fp16")
    module.float().save_pretrained(at)


def _pipeline_files(folder: Path, repo: str) -> None:
    components = CONFIGS[repo]
    libraries = {"CLIPTextModel": "transformers", "CLIPTextModelWithProjection": "transformers"}
    libraries["StableDiffusionSafetyChecker"] = "stable_diffusion"
    index = {name: [libraries.get(kind, "diffusers"), kind] for name, (kind, _) in components.items()}
    for name in ("tokenizer", "tokenizer_2") if "text_encoder_2" in components else ("tokenizer",):
        index[name] = ["transformers", "CLIPTokenizer"]
        _tokenizer(folder / name)
    if "safety_checker" in components:
        index["feature_extractor"] = ["transformers", "CLIPImageProcessor"]
        transformers.CLIPImageProcessor().save_pretrained(folder / "feature_extractor")
        index["requires_safety_checker"] = True
    else:
        index["force_zeros_for_empty_prompt"] = True
    index = {"_class_name": PIPELINES[repo], "_diffusers_version": "0.22.0"} | index
    _write(folder / "model_index.json", json.dumps(index, indent=1).encode())
    _write(folder / "README.md", b"A replica.")


def _tokenizer(folder: Path) -> None:
    """Write a CLIP tokenizer that knows single characters."""
    signs = list(_bytes_as_characters().values())
    words = [*signs, *(sign + "</w>" for sign in signs), "<|startoftext|>", "<|endoftext|>"]
    _write(folder / "vocab.json", json.dumps({word: i for i, word in enumerate(words)}).encode())
    _write(folder / "merges.txt", b"#version: 0.2\n")
    special = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
    _write(folder / "special_tokens_map.json", json.dumps(special | {"pad_token": "<|endoftext|>"}).encode())
    _write(folder / "tokenizer_config.json", json.dumps(TOKENIZER | special).encode())


def _bytes_as_characters() -> dict[int, str]:
    """Return byte -> printable character, as byte-level tokenizers write it."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return {byte: chr(byte) for byte in shown} | {byte: chr(256 + i) for i, byte in enumerate(hidden)}


def _vae_fix(folder: Path) -> None:
    vae = make(SDXL, "vae")
    vae.register_to_config(force_upcast=False)
    _save(vae, folder, VAE_FIX)


def _lora(folder: Path, repo: str) -> None:
    """Write a LoRA of rank 2 in the key names of the Kohya trainer, which these repositories have."""
    lora = LORAS[repo]
    unet = make(lora["unet"], "unet")
    unet.add_adapter(LoraConfig(r=2, lora_alpha=2, init_lora_weights="gaussian", target_modules=_targets(unet, lora)))
    _roughen(unet)
    state = {f"unet.{key}": value for key, value in get_peft_model_state_dict(unet).items()}
    state = {key.replace("base_model.model.", ""): value for key, value in state.items()}
    kohya = {key: value.half().contiguous() for key, value in convert_state_dict_to_kohya(state).items()}
    folder.mkdir(parents=True, exist_ok=True)
    save_file(kohya, folder / f"{LORA_FILES.get(repo, 'pytorch_lora_weights')}.safetensors")


def _targets(unet: torch.nn.Module, lora: dict) -> list[str]:
    layers = (torch.nn.Linear, torch.nn.Conv2d)
    return [n for n, m in unet.named_modules() if isinstance(m, layers) and n.endswith(lora["targets"])]


def _pictures(folder: Path, map_file: Path) -> None:
    """Draw pictures with soft and with hard edges and a mask, 512 x 512, and an upright picture as a JPEG."""
    folder.mkdir(parents=True, exist_ok=True)
    y, x = np.mgrid[:512, :512] / 512
    landscape = np.stack([200 * (1 - y), 120 + 80 * np.sin(9 * x), 255 * y], axis=2)
    portrait = np.where(((x - 0.5) ** 2 + (y - 0.4) ** 2 < 0.06)[..., None], (230, 200, 160), (40, 60, 90))
    portrait = np.where((abs(x - 0.5) < 0.5 * (y - 0.55))[..., None], (180, 140, 30), portrait)
    mask = np.where((abs(x - 0.5) < 0.3)[..., None], (255, 255, 255), (0, 0, 0))
    pictures = {"img2img-init": landscape, "input_image_vermeer": portrait, "inpaint": landscape, "inpaint_mask": mask}
    for name, picture in pictures.items():
        Image.fromarray(picture.astype(np.uint8)).save(folder / f"{name}.png")
    map_file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(portrait.astype(np.uint8)).crop((50, 0, 462, 512)).save(map_file)
