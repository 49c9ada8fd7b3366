"""Train a ControlNet on Stable Diffusion's base, and a T2I-Adapter on SDXL's, to follow canny edges.

The base is frozen. Both are used with the LCM that was distilled from it.
"""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import torch
from diffusers import ControlNetModel, T2IAdapter, UNet2DConditionModel
from torch import nn
from tqdm import tqdm

from .data import pictures
from .loop import FLOAT32, Settings, make_accelerator, train, trainable
from .teacher import Batches, Teacher, load_base, use_fast_attention

THRESHOLDS = (100, 200)  # the guide's


def build_controlnet(unet: UNet2DConditionModel, factor: int) -> ControlNetModel:
    """Return a ControlNet that starts from the UNet's weights, for maps ``factor`` times as wide as latents."""
    halvings = factor.bit_length() - 1
    return ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(16, 16, 32, 32, 64)[: halvings + 1])


@torch.no_grad()
def wake(control: ControlNetModel, maps: torch.Tensor) -> None:
    """Scale the convolutions that shrink the maps so that the outputs of each have unit variance on (N, 3, H, W) maps.

    After Mishkin and Matas, 2015, arXiv:1511.06422. As diffusers starts them, the signal of
    thin lines fades from layer to layer: in 500 updates nothing was learnt.
    """
    embedding = control.controlnet_cond_embedding
    for layer in (embedding.conv_in, *embedding.blocks):
        layer.bias.zero_()
        layer.weight /= layer(maps).std()
        maps = nn.functional.silu(layer(maps))


def build_adapter(unet: UNet2DConditionModel, factor: int) -> T2IAdapter:
    """Return an untrained adapter; it starts where the UNet's first, attention-free stage ends."""
    channels = list(unet.config.block_out_channels)
    return T2IAdapter(
        in_channels=3,
        channels=[*channels, channels[-1]],
        num_res_blocks=1,
        downscale_factor=2 * factor,
        adapter_type="full_adapter_xl",
    )


class Controlled(nn.Module):
    """A frozen teacher with a control that learns; calling it gives the teacher's loss."""

    def __init__(self, teacher: Teacher, control: ControlNetModel | T2IAdapter):
        super().__init__()
        self.teacher, self.control = teacher.requires_grad_(False), control

    def forward(self, edges: torch.Tensor, **batch) -> torch.Tensor:
        """Take ``edges`` (B, 3, H, W) in 0..1, and the teacher's batch."""

        def adapt(z, t, condition):
            return dict(down_intrablock_additional_residuals=self.control(edges))

        def steer(z, t, condition):
            down, middle = self.control(z, t, controlnet_cond=edges, return_dict=False, **condition)
            return dict(down_block_additional_residuals=down, mid_block_additional_residual=middle)

        return self.teacher(**batch, control=adapt if isinstance(self.control, T2IAdapter) else steer)


def all_edges(work: Path) -> np.ndarray:
    """Return the canny maps of all training pictures, (N, H, W / 8) bits; they are kept beside the pictures."""
    path, data = work / "data" / "edges.npy", pictures(work)
    if path.exists() and path.stat().st_mtime > (work / "data" / "pictures.npy").stat().st_mtime:
        return np.load(path)
    edges = np.stack([np.packbits(cv2.Canny(p, *THRESHOLDS) > 0, axis=-1) for p in tqdm(data, desc="canny maps")])
    np.save(path, edges)
    return edges


def as_maps(edges: np.ndarray) -> torch.Tensor:
    """Return maps (B, 3, H, W) in 0..1 of (B, H, W / 8) bits."""
    return torch.from_numpy(np.unpackbits(edges, axis=-1))[:, None].expand(-1, 3, -1, -1).float()


def mostly_noisy(t: torch.Tensor) -> torch.Tensor:
    """Return uniform timesteps drawn towards 999, where layout is decided, by the cubic of arXiv:2302.08453."""
    return (1000 * (1 - (t / 1000) ** 3)).long().clamp(max=999)


def run_control(settings: Settings, name: str, family: str, build) -> Path:
    """Train what ``build(unet, factor)`` returns on a family's base, and save it to ``work/name``.

    ``settings.resume`` goes on from a checkpoint or, where there is none, from the weights in ``work/name``.
    """
    torch.manual_seed(settings.seed)
    accelerator = make_accelerator()
    pipe = load_base(replace(settings, family=family))
    batches = Batches(settings.work, pipe.tokenizer, accelerator.device, count=settings.pictures)
    edges = all_edges(settings.work)
    control = build(pipe.unet, pipe.vae_scale_factor)
    folder = settings.work / name
    goes_on = settings.resume and folder.exists() and not (settings.work / f"{name}-training" / "state.json").exists()
    if goes_on:
        control.load_state_dict(type(control).from_pretrained(folder, **FLOAT32).state_dict())
    module = Controlled(Teacher(pipe), control)
    if isinstance(control, ControlNetModel):
        use_fast_attention(control)
        if not goes_on:
            wake(control, as_maps(edges[:32]))

    def loss_of(module, generator):
        batch = batches(settings.batch_size, generator)
        if isinstance(control, T2IAdapter):
            batch["t"] = mostly_noisy(batch["t"])
        return module(edges=as_maps(edges[batches.picks.numpy()]).to(accelerator.device), **batch)

    train(f"{name}-training", module, loss_of, settings, accelerator).copy_to(trainable(module))
    control.cpu().half().save_pretrained(folder)
    return folder
