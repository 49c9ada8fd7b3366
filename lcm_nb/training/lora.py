"""Train the style LoRAs on a base; they work on the LCM, or beside the LCM-LoRA, that was distilled from it."""

from dataclasses import replace
from pathlib import Path

import torch
from diffusers import StableDiffusionXLPipeline
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict

from . import data
from .loop import Extras, Settings, make_accelerator, train, trainable
from .styles import STYLES
from .teacher import Batches, Teacher, load_base

SCENES = 4_000
RANK = 4
# What was learnt is saved times this, so that scale 1.0 on the LCM shows the style and still the subject.
# Chosen on 64 to 96 captions that no table of the card uses.
GAIN = {"papercut": 1.3, "neon": 0.85}
FOLDERS = {"xl": "loras", "sd": "sd-loras"}
TARGETS = ("to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2", "conv1", "conv2")


def run(settings: Settings) -> Path:
    """Train one LoRA a style, each for ``settings.minutes``; save them to ``work/loras``, or ``work/sd-loras``."""
    folder = settings.work / FOLDERS[settings.family]
    for style in STYLES if settings.family == "xl" else ("papercut",):  # one shows how a LoRA joins the LCM-LoRA
        train_style(style, settings, folder)
    return folder


def train_style(style: str, settings: Settings, folder: Path) -> None:
    """Teach the UNet a style that its captions name; only the low-rank matrices learn."""
    torch.manual_seed(settings.seed)
    accelerator = make_accelerator()
    count = 32 if settings.smoke else SCENES
    data.run(replace(settings, steps=count), name=f"data-{style}", seed=settings.seed + data.STYLE_SEED, style=style)
    pipe = load_base(settings)
    batches = Batches(settings.work, pipe.tokenizer, accelerator.device, f"data-{style}")
    module = Teacher(pipe).requires_grad_(False)
    pipe.unet.add_adapter(
        LoraConfig(r=RANK, lora_alpha=RANK, target_modules=list(TARGETS), init_lora_weights="gaussian")
    )

    def loss_of(module, generator):
        return module(**batches(settings.batch_size, generator))

    name = f"lora-{style}" if settings.family == "xl" else f"lora-{style}-{settings.family}"
    train(name, module, loss_of, settings, accelerator, Extras(ema_decay=0.99)).copy_to(trainable(module))
    layers = get_peft_model_state_dict(pipe.unet)
    layers = {k: (v * GAIN[style] if "lora_B" in k else v).half().contiguous() for k, v in layers.items()}
    StableDiffusionXLPipeline.save_lora_weights(folder, unet_lora_layers=layers, weight_name=f"{style}.safetensors")
