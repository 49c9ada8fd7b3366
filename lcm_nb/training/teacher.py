"""Stage 2: the teacher, a small UNet of SDXL's shape, trained with its text encoders."""

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderTiny, DDIMScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import nn
from tqdm import tqdm
from transformers import CLIPTokenizer, PreTrainedModel

from . import text
from .autoencoder import as_images, drop_derived
from .data import captions, pictures
from .loop import FLOAT32, Settings, fingerprint, made_by, make_accelerator, train

DROP = 0.1  # share of captions left out, for classifier-free guidance
SNR_CLIP = 5.0  # min-SNR weighting, on SNR + 1 as the velocity has it: full weight at high noise
SCHEDULE = dict(
    num_train_timesteps=1000,
    beta_schedule="scaled_linear",
    beta_start=0.00085,
    beta_end=0.012,
    prediction_type="v_prediction",
    rescale_betas_zero_snr=True,
    timestep_spacing="trailing",
    clip_sample=False,
    set_alpha_to_one=False,
)


def build_unet(vae: AutoencoderTiny, **overrides) -> UNet2DConditionModel:
    """Return an untrained UNet of SDXL's shape for this autoencoder's latents."""
    channels = vae.config.latent_channels
    config = dict(
        sample_size=16,
        in_channels=channels,
        out_channels=channels,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(96, 128, 112),
        layers_per_block=1,
        norm_num_groups=16,
        attention_head_dim=4,
        transformer_layers_per_block=1,
        use_linear_projection=True,
        cross_attention_dim=2 * text.WIDTH,
        addition_embed_type="text_time",
        addition_time_embed_dim=16,
        projection_class_embeddings_input_dim=text.WIDTH + 6 * 16,
    )
    return UNet2DConditionModel(**config | overrides)


def build_pipeline(vae: AutoencoderTiny, tokenizer: CLIPTokenizer, side: int) -> StableDiffusionXLPipeline:
    """Return SDXL's pipeline around a trained autoencoder; text encoders and UNet are untrained."""
    first, second = text.build_text_encoders(tokenizer)
    return StableDiffusionXLPipeline(
        vae=vae,
        text_encoder=first,
        text_encoder_2=second,
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        unet=build_unet(vae, sample_size=side),
        scheduler=DDIMScheduler(**SCHEDULE),
        force_zeros_for_empty_prompt=True,
        add_watermarker=False,
    )


def use_fast_attention(*models: PreTrainedModel | UNet2DConditionModel) -> None:
    """On a CPU, and on so few tokens, train with plain products: the fused kernel's gradient is slower."""
    if torch.cuda.is_available():
        return
    for model in models:
        if isinstance(model, UNet2DConditionModel):
            model.set_attn_processor(AttnProcessor())
        else:
            model.set_attn_implementation("eager")


class Schedule(nn.Module):
    """alpha and sigma of the noise schedule, and the DDIM solver between its points."""

    def __init__(self):
        super().__init__()
        alphas = DDIMScheduler(**SCHEDULE).alphas_cumprod
        self.register_buffer("alpha", alphas.sqrt(), persistent=False)
        self.register_buffer("sigma", (1 - alphas).sqrt(), persistent=False)

    def at(self, t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.alpha[t][:, None, None, None], self.sigma[t][:, None, None, None]

    def clean_and_noise(self, z, t, velocity) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the clean latent and the noise that a velocity prediction at z_t stands for."""
        alpha, sigma = self.at(t)
        velocity = velocity.float()
        return alpha * z - sigma * velocity, sigma * z + alpha * velocity

    def add_noise(self, z0, noise, t) -> torch.Tensor:
        alpha, sigma = self.at(t)
        return alpha * z0 + sigma * noise

    def ddim_step(self, clean, noise, t) -> torch.Tensor:
        """Psi: move to timestep t along the straight line through (clean, noise)."""
        return self.add_noise(clean, noise, t)


class Teacher(nn.Module):
    """A pipeline's text encoders and UNet; calling it gives the training loss of a batch."""

    def __init__(self, pipe: StableDiffusionXLPipeline):
        super().__init__()
        self.text_encoder, self.text_encoder_2, self.unet = pipe.text_encoder, pipe.text_encoder_2, pipe.unet
        use_fast_attention(pipe.text_encoder, pipe.text_encoder_2, pipe.unet)
        pixels = pipe.unet.config.sample_size * pipe.vae_scale_factor
        self.schedule = Schedule()
        snr = (self.schedule.alpha / self.schedule.sigma) ** 2
        self.register_buffer("weight", (snr + 1).clamp(max=SNR_CLIP) / (snr + 1), persistent=False)
        self.register_buffer("time_ids", torch.tensor([[pixels, pixels, 0, 0, pixels, pixels]]), persistent=False)

    def condition(self, ids: torch.Tensor, keep: torch.Tensor) -> dict:
        """Return the UNet's text arguments; where ``keep`` is 0 they are zeros, SDXL's empty prompt."""
        states, pooled = text.encode(self.text_encoder, self.text_encoder_2, ids)
        return dict(
            encoder_hidden_states=states * keep[:, None, None],
            added_cond_kwargs=dict(text_embeds=pooled * keep[:, None], time_ids=self.time_ids.repeat(len(ids), 1)),
        )

    def forward(self, latents, ids, keep, noise, t) -> torch.Tensor:
        """Weighted squared error of the predicted velocity v = alpha eps - sigma x0."""
        alpha, sigma = self.schedule.at(t)
        predicted = self.unet(self.schedule.add_noise(latents, noise, t), t, **self.condition(ids, keep)).sample
        error = (predicted.float() - (alpha * noise - sigma * latents)).square().mean((1, 2, 3))
        return (self.weight[t] * error).mean() / self.weight.mean()


class Batches:
    """Random batches of latents and token ids, held in memory."""

    def __init__(self, work: Path, tokenizer, device: torch.device):
        self.latents = encode_pictures(work, device)
        self.ids = text.tokenize(tokenizer, captions(work)[: len(self.latents)])
        self.device = device

    def __call__(self, count: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        draw = dict(generator=generator, device=self.device)
        picks = torch.randint(len(self.latents), (count,), **draw).cpu()
        latents = self.latents[picks].to(self.device).float()
        spread = torch.arange(count, device=self.device) + torch.rand(count, **draw)  # evenly over all timesteps
        return dict(
            latents=latents,
            ids=self.ids[picks].to(self.device),
            keep=(torch.rand(count, **draw) >= DROP).float(),
            noise=torch.randn(latents.shape, **draw),
            t=(spread * 1000 / count).long().clamp(max=999),
        )


@torch.no_grad()
def encode_pictures(work: Path, device: torch.device, batch_size: int = 32) -> torch.Tensor:
    """Return all pictures' latents, (N, C, h, w) float16; they are kept in ``work/latents.npy`` for this encoder."""
    path, label = work / "latents.npy", work / "latents.txt"
    data = pictures(work)
    vae = AutoencoderTiny.from_pretrained(work / "vae").eval()
    made_from = f"{fingerprint(vae.encoder)}, {len(data)} pictures"
    if path.exists() and label.exists() and label.read_text() == made_from:
        return torch.from_numpy(np.load(path))
    vae.to(device, memory_format=torch.channels_last)
    parts = []
    for start in tqdm(range(0, len(data), batch_size), desc="encode"):
        with torch.autocast(device.type, torch.bfloat16):
            latents = vae.encoder(as_images(data[start : start + batch_size]).to(device))
        parts.append(latents.half().contiguous().cpu())
    latents = torch.cat(parts)
    np.save(path, latents.numpy())
    label.write_text(made_from)
    return latents


def run(settings: Settings) -> Path:
    """Train, then save a whole pipeline folder to ``work/base``."""
    work = settings.work
    torch.manual_seed(settings.seed)
    accelerator = make_accelerator()
    vae = AutoencoderTiny.from_pretrained(made_by("autoencoder", work / "vae"))
    with accelerator.main_process_first():
        tokenizer = text.build_tokenizer(captions(work), work / "tokenizer")
        batches = Batches(work, tokenizer, accelerator.device)
    pipe = build_pipeline(vae, tokenizer, side=batches.latents.shape[-1])
    if settings.resume and not (work / "teacher").exists() and (work / "base").exists():
        pipe = StableDiffusionXLPipeline.from_pretrained(work / "base", vae=vae, **FLOAT32)  # weights are a start, too
    teacher = Teacher(pipe)

    def loss_of(module, generator):
        return module(**batches(settings.batch_size, generator))

    train("teacher", teacher, loss_of, settings, accelerator, made_from=fingerprint(vae.encoder)).copy_to(teacher)
    if accelerator.is_main_process:
        pipe.vae = AutoencoderTiny.from_pretrained(work / "vae")  # its decoder may have gone on learning meanwhile
        save_pipeline(pipe, work / "base")
    return work / "base"


def save_pipeline(pipe: StableDiffusionXLPipeline, folder: Path) -> None:
    """Save a pipeline in half precision, without the config entry that makes its autoencoder warn."""
    pipe.to("cpu", torch.float16).save_pretrained(folder)
    drop_derived(folder / "vae")
