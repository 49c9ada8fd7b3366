"""Distil a LoRA instead of a whole UNet: the LCM-LoRA, on Stable Diffusion's shape.

Reference: Luo et al., "LCM-LoRA: A Universal Stable-Diffusion Acceleration Module", 2023,
arXiv:2311.05556, and the recipe of diffusers' example script: no input for w, so one guidance
weight is built in; every kind of layer gets its two thin matrices. Unlike there, the target is a
moving average: at the batch sizes of a CPU, a LoRA that was its own target learnt noise.
"""

import copy
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from torch import nn

from .distill import consistency, guided_solver_step, pseudo_huber, sample_timesteps, update_target
from .loop import Extras, Settings, make_accelerator, train, trainable
from .teacher import Batches, Teacher, load_base

RANK = 16
# The teacher's guidance that is built in. Classifier-free guidance comes on top when it is used, from 1 to 2,
# and the teacher is at its best up to twice this: the model card has the trial.
BUILT_IN_GUIDANCE = 2.0
TARGETS = (
    *("to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2"),
    *("conv1", "conv2", "conv_shortcut", "downsamplers.0.conv", "upsamplers.0.conv", "conv_in", "conv_out"),
    *("time_emb_proj", "linear_1", "linear_2"),
)


class LoraDistillation(nn.Module):
    """A UNet that is student with its LoRA and teacher without, and its moving average; calling it gives the loss."""

    def __init__(self, teacher: Teacher):
        super().__init__()
        self.teacher = teacher.requires_grad_(False)
        config = LoraConfig(r=RANK, lora_alpha=RANK, target_modules=list(TARGETS), init_lora_weights="gaussian")
        self.teacher.unet.add_adapter(config)
        self.target = copy.deepcopy(self.teacher.unet).requires_grad_(False)

    def forward(self, latents, ids, keep, noise, t, t_next) -> torch.Tensor:
        """Return the loss of a batch of the teacher, from t to t_next."""
        teacher, unet = self.teacher, self.teacher.unet
        with torch.no_grad():
            condition, nothing = teacher.condition(ids, keep), teacher.condition(ids, 0 * keep)
            z = teacher.schedule.add_noise(latents, noise, t)
            unet.disable_adapters()
            w = torch.full((len(ids),), BUILT_IN_GUIDANCE - 1, device=z.device)
            z_next = guided_solver_step(teacher, z, t, t_next, w, (condition, nothing))
            unet.enable_adapters()
            goal = consistency(self.target, teacher.schedule, z_next, t_next, condition)
        return pseudo_huber(consistency(unet, teacher.schedule, z, t, condition), goal)


def run(settings: Settings) -> Path:
    """Train on the SD base; save ``pytorch_lora_weights.safetensors`` to ``work/lcm-lora``."""
    torch.manual_seed(settings.seed)
    accelerator = make_accelerator()
    pipe = load_base(settings)
    with accelerator.main_process_first():
        batches = Batches(settings.work, pipe.tokenizer, accelerator.device)
    module = LoraDistillation(Teacher(pipe))

    def loss_of(module, generator):
        batch = batches(settings.batch_size, generator)
        batch["t"], t_next = sample_timesteps(settings.batch_size, generator)
        return module(**batch, t_next=t_next)

    extras = Extras(ema_decay=0.99, after_step=lambda m: update_target(m.target, m.teacher.unet))
    train("lcm-lora-training", module, loss_of, settings, accelerator, extras).copy_to(trainable(module))
    folder = settings.work / "lcm-lora"
    if accelerator.is_main_process:
        layers = {k: v.half().contiguous() for k, v in get_peft_model_state_dict(pipe.unet).items()}
        StableDiffusionPipeline.save_lora_weights(folder, unet_lora_layers=layers)
    return folder
