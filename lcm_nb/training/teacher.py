"""Stage 2: the teacher, a small UNet of SDXL's shape, trained with its text encoders."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from diffusers import (
    AutoencoderTiny,
    DDIMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from diffusers.models.attention_processor import AttnProcessor
from torch import nn
from tqdm import tqdm
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer, PreTrainedModel

from . import text
from .autoencoder import as_images, drop_derived
from .data import captions, pictures
from .loop import FLOAT32, Extras, Settings, fingerprint, made_by, make_accelerator, train, trainable

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
        if hasattr(model, "set_attn_processor"):
            model.set_attn_processor(AttnProcessor())
        else:
            model.set_attn_implementation("eager")


class Schedule(nn.Module):
    """alpha and sigma of the noise schedule, and the DDIM solver between its points.

    By hand: a scheduler of diffusers takes one timestep for a whole batch, training one for each picture.
    """

    def __init__(self):
        super().__init__()
        alphas = DDIMScheduler(**SCHEDULE).alphas_cumprod
        self.register_buffer("alpha", alphas.sqrt(), persistent=False)
        self.register_buffer("sigma", (1 - alphas).sqrt(), persistent=False)

    def at(self, t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return alpha and sigma at timesteps (B,), each (B, 1, 1, 1)."""
        return self.alpha[t][:, None, None, None], self.sigma[t][:, None, None, None]

    def clean_and_noise(self, z, t, velocity) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the clean latent and the noise that a velocity prediction at z_t stands for."""
        alpha, sigma = self.at(t)
        velocity = velocity.float()
        return alpha * z - sigma * velocity, sigma * z + alpha * velocity

    def add_noise(self, z0, noise, t) -> torch.Tensor:
        """Return z_t = alpha z_0 + sigma noise."""
        alpha, sigma = self.at(t)
        return alpha * z0 + sigma * noise

    def ddim_step(self, clean, noise, t) -> torch.Tensor:
        """Move to timestep t, Psi of the paper: along the straight line through (clean, noise)."""
        return self.add_noise(clean, noise, t)


class Teacher(nn.Module):
    """A pipeline's text encoders and UNet; calling it gives the training loss of a batch."""

    def __init__(self, pipe: StableDiffusionXLPipeline | StableDiffusionPipeline):
        super().__init__()
        self.text_encoder, self.unet = pipe.text_encoder, pipe.unet
        self.text_encoder_2 = getattr(pipe, "text_encoder_2", None)
        use_fast_attention(*filter(None, (self.text_encoder, self.text_encoder_2, self.unet)))
        pixels = pipe.unet.config.sample_size * pipe.vae_scale_factor
        self.register_buffer("empty", text.tokenize(pipe.tokenizer, [""]), persistent=False)
        self.schedule = Schedule()
        snr = (self.schedule.alpha / self.schedule.sigma) ** 2
        self.register_buffer("weight", (snr + 1).clamp(max=SNR_CLIP) / (snr + 1), persistent=False)
        self.register_buffer("time_ids", torch.tensor([[pixels, pixels, 0, 0, pixels, pixels]]), persistent=False)

    def condition(self, ids: torch.Tensor, keep: torch.Tensor) -> dict:
        """Return the UNet's text arguments; where ``keep`` is 0, those of no prompt.

        SDXL has zeros then; Stable Diffusion encodes the empty prompt.
        """
        if self.text_encoder_2 is None:
            ids = torch.where(keep[:, None] > 0, ids, self.empty)
            return dict(encoder_hidden_states=self.text_encoder(ids).last_hidden_state)
        states, pooled = text.encode(self.text_encoder, self.text_encoder_2, ids)
        return dict(
            encoder_hidden_states=states * keep[:, None, None],
            added_cond_kwargs=dict(text_embeds=pooled * keep[:, None], time_ids=self.time_ids.repeat(len(ids), 1)),
        )

    def forward(self, latents, ids, keep, noise, t, control=None) -> torch.Tensor:
        """Return the weighted squared error of the predicted velocity v = alpha eps - sigma x0.

        ``control(z_t, t, condition)`` may return more arguments for the UNet.
        """
        alpha, sigma = self.schedule.at(t)
        z, condition = self.schedule.add_noise(latents, noise, t), self.condition(ids, keep)
        more = control(z, t, condition) if control else {}
        predicted = self.unet(z, t, **condition, **more).sample
        error = (predicted.float() - (alpha * noise - sigma * latents)).square().mean((1, 2, 3))
        return (self.weight[t] * error).mean() / self.weight.mean()


class Batches:
    """Random batches of latents and token ids, held in memory; ``picks`` are the last batch's numbers."""

    def __init__(
        self,
        work: Path,
        tokenizer: CLIPTokenizer,
        device: torch.device,
        name: str = "data",
        *,
        count: int | None = None,
    ):
        self.latents = encode_pictures(work, device, name, count=count)
        self.ids = text.tokenize(tokenizer, captions(work, name)[: len(self.latents)])
        self.device = device
        self.picks = torch.empty(0)

    def __call__(self, count: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """Draw the arguments of :class:`Teacher` for ``count`` pictures."""
        draw = dict(generator=generator, device=self.device)
        self.picks = picks = torch.randint(len(self.latents), (count,), **draw).cpu()
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
def encode_pictures(
    work: Path, device: torch.device, name: str = "data", batch_size: int = 32, count: int | None = None
) -> torch.Tensor:
    """Return the latents of all pictures, or of the first ``count``, (N, C, h, w) float16.

    They are kept beside the pictures for this encoder, and a run that was cut short goes on where it stopped.
    """
    data = pictures(work, name)
    vae = AutoencoderTiny.from_pretrained(work / "vae").eval()
    vae.to(device, memory_format=torch.channels_last)
    latents, done = _open_latents(work / name, vae, data.shape)
    count = len(data) if count is None else min(count, len(data))
    for start in tqdm(range(done, count, batch_size), desc="encode"):
        stop = min(start + batch_size, count)
        with torch.autocast(device.type, torch.bfloat16):
            part = vae.encoder(as_images(data[start:stop]).to(device))
        latents[start:stop] = part.half().cpu().numpy()
        (work / name / "latents.txt").write_text(f"{fingerprint(vae.encoder)}, {len(data)} pictures, {stop} done")
    return torch.from_numpy(np.array(latents[:count]))


def _open_latents(folder: Path, vae: AutoencoderTiny, shape: tuple) -> tuple[np.ndarray, int]:
    """Return the file of latents of pictures of ``shape`` (N, H, W, 3), memory-mapped, and how many are there."""
    path, label = folder / "latents.npy", folder / "latents.txt"
    made_from = f"{fingerprint(vae.encoder)}, {shape[0]} pictures, "
    if path.exists() and label.exists() and label.read_text().startswith(made_from):
        return np.lib.format.open_memmap(path, mode="r+"), int(label.read_text().split()[-2])
    label.unlink(missing_ok=True)
    factor = 2 ** (len(vae.config.encoder_block_out_channels) - 1)
    full = shape[0], vae.config.latent_channels, shape[1] // factor, shape[2] // factor
    return np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=full), 0


@dataclass(frozen=True)
class Family:
    """A teacher and its LCM: pipeline class, folders under the working folder, and where the LCM's UNet is in its."""

    pipeline: type
    base: str
    lcm: str
    lcm_unet: str | None = None


FAMILIES = {
    "xl": Family(StableDiffusionXLPipeline, "base", "lcm"),
    "sd": Family(StableDiffusionPipeline, "sd", "sd-lcm", "unet"),
}


def load_base(settings: Settings) -> StableDiffusionXLPipeline | StableDiffusionPipeline:
    """Return the family's trained teacher as a pipeline in single precision, with the newest autoencoder."""
    family = FAMILIES[settings.family]
    vae = AutoencoderTiny.from_pretrained(made_by("autoencoder", settings.work / "vae"))
    stage = "teacher" if settings.family == "xl" else f"teacher --family {settings.family}"
    return family.pipeline.from_pretrained(made_by(stage, settings.work / family.base), vae=vae, **FLOAT32)


def start(settings: Settings) -> StableDiffusionXLPipeline | StableDiffusionPipeline:
    """Return what training starts from: nothing, a saved base without its state, or for SD the weights of SDXL."""
    work = settings.work
    if settings.family == "sd":
        base = load_base(replace(settings, family="xl"))
        return derive_sd(base, text.tokenize(base.tokenizer, captions(work)[:256]))
    vae = AutoencoderTiny.from_pretrained(made_by("autoencoder", work / "vae"))
    tokenizer = text.build_tokenizer(captions(work), work / "tokenizer")
    factor = 2 ** (len(vae.config.encoder_block_out_channels) - 1)
    pipe = build_pipeline(vae, tokenizer, side=pictures(work).shape[1] // factor)
    if settings.resume and not (work / "teacher").exists() and (work / "base").exists():
        pipe = load_base(settings)  # weights are a start, too
    return pipe


def run(settings: Settings) -> Path:
    """Train, then save a whole pipeline folder to ``work/base``, or ``work/sd``."""
    torch.manual_seed(settings.seed)
    accelerator = make_accelerator()
    with accelerator.main_process_first():
        pipe = start(settings)
        batches = Batches(settings.work, pipe.tokenizer, accelerator.device, count=settings.pictures)
    teacher = Teacher(pipe)
    name = "teacher" if settings.family == "xl" else f"teacher-{settings.family}"
    folder = settings.work / FAMILIES[settings.family].base

    def loss_of(module, generator):
        return module(**batches(settings.batch_size, generator))

    extras = Extras(made_from=fingerprint(pipe.vae.encoder))
    train(name, teacher, loss_of, settings, accelerator, extras).copy_to(trainable(teacher))
    if accelerator.is_main_process:
        pipe.vae = AutoencoderTiny.from_pretrained(settings.work / "vae")  # its decoder may have gone on learning
        save_pipeline(pipe, folder)
    return folder


@torch.no_grad()
def derive_sd(pipe: StableDiffusionXLPipeline, ids: torch.Tensor) -> StableDiffusionPipeline:
    """Return Stable Diffusion's pipeline with SDXL's second text encoder and what fits of its UNet.

    SDXL reads the encoder's last layer but one, as it is; Stable Diffusion its last one,
    normalised. So the last layer goes, and the norm gets the scale that the states of the
    captions ``ids`` (N, tokens) have. What the pooled text and the sizes added to the time
    embedding on average, goes into its bias.
    """
    output = pipe.text_encoder_2(ids, output_hidden_states=True)
    return StableDiffusionPipeline(
        vae=pipe.vae,
        text_encoder=_derive_encoder(pipe, output.hidden_states[-2]),
        tokenizer=pipe.tokenizer,
        unet=_derive_unet(pipe, output.hidden_states[-2], output.text_embeds),
        scheduler=pipe.scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _derive_encoder(pipe: StableDiffusionXLPipeline, states: torch.Tensor) -> CLIPTextModel:
    """Return SDXL's second encoder without its last layer, with a norm of the scale of ``states`` (N, tokens, C)."""
    old = pipe.text_encoder_2
    config = old.config.to_dict() | {"num_hidden_layers": old.config.num_hidden_layers - 1}
    encoder = CLIPTextModel(CLIPTextConfig.from_dict(config))
    fit(encoder, old.text_model.state_dict())
    encoder.final_layer_norm.weight.fill_(float(states.std(-1, correction=0).mean()))
    encoder.final_layer_norm.bias.fill_(float(states.mean()))
    return encoder


def _derive_unet(pipe: StableDiffusionXLPipeline, states: torch.Tensor, pooled: torch.Tensor) -> UNet2DConditionModel:
    """Return SDXL's UNet without what it reads of the first encoder, of pooled text (N, C) and of sizes."""
    unet = UNet2DConditionModel.from_config(
        pipe.unet.config,
        cross_attention_dim=text.WIDTH,
        addition_embed_type=None,
        addition_time_embed_dim=None,
        projection_class_embeddings_input_dim=None,
    )
    tensors = pipe.unet.state_dict()
    for name in tensors:
        if name.endswith(("attn2.to_k.weight", "attn2.to_v.weight")):
            tensors[name] = tensors[name][:, text.WIDTH :]  # what it reads of the second encoder
    side = pipe.unet.config.sample_size * pipe.vae_scale_factor
    sizes = torch.tensor([[side, side, 0, 0, side, side]]).repeat(len(pooled), 1)
    added = pipe.unet.get_aug_embed(states, states, dict(text_embeds=pooled, time_ids=sizes)).mean(0)
    tensors["time_embedding.linear_2.bias"] = tensors["time_embedding.linear_2.bias"] + added
    fit(unet, tensors)
    return unet


def fit(module: nn.Module, tensors: dict[str, torch.Tensor]) -> None:
    """Load those of the tensors that the module has.

    Raises
    ------
    RuntimeError
        If a parameter of the module is not among the tensors.
    """
    missing, _ = module.load_state_dict(tensors, strict=False)
    if missing:
        raise RuntimeError(f"the weights do not fit: {missing} are missing")


def save_pipeline(pipe: StableDiffusionXLPipeline, folder: Path) -> None:
    """Save a pipeline in half precision, without the config entry that makes its autoencoder warn."""
    pipe.to("cpu", torch.float16).save_pretrained(folder)
    drop_derived(folder / "vae")
