"""Stage 3: latent consistency distillation (LCD).

Reference: Luo et al., "Latent Consistency Models", 2023, arXiv:2310.04378, section 4 and
algorithm 1; "Eq." below means its equations. Symbols as there: z latents, c the caption,
w (omega) the guidance weight, k the number of skipped timesteps, Psi the ODE solver (DDIM),
f the consistency function, theta the student and theta^- its moving average. The paper's
768-pixel model predicts v, as ours does; with v the clean latent is alpha z - sigma v.
"""

import copy
from pathlib import Path

import torch
from diffusers import LCMScheduler, UNet2DConditionModel
from diffusers.pipelines.latent_consistency_models import LatentConsistencyModelPipeline
from torch import nn

from .loop import Settings, fingerprint, make_accelerator, train
from .teacher import FAMILIES, Batches, Teacher, load_base, save_pipeline, use_fast_attention

SKIP = 20  # k: 1000 training timesteps / 50 solver points
W_RANGE = (0.0, 13.0)  # guidance_scale - 1; at 0 there is no guidance
# One unit of the LCM's w is this much of the teacher's. A caption says nearly all there is to say about
# a scene, so the usual numbers drive the teacher too far: the model card has the trial.
W_UNIT = 1 / 3
W_WIDTH = 256  # of the sinusoidal embedding of w
SIGMA_DATA, TIMESTEP_SCALING = 0.5, 10.0
HUBER_C = 1e-3
TARGET_DECAY = 0.95


def boundary_scalings(t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return c_skip and c_out of Eq. 9, (B, 1, 1, 1) each: f(z, 0) = z whatever the network says."""
    scaled = TIMESTEP_SCALING * t.float()[:, None, None, None]
    c_skip = SIGMA_DATA**2 / (scaled**2 + SIGMA_DATA**2)
    c_out = scaled / (scaled**2 + SIGMA_DATA**2).sqrt()
    return c_skip, c_out


def embed_w(w: torch.Tensor) -> torch.Tensor:
    """Return the sinusoidal embedding (B, 256) of w, as the pipelines compute it from guidance_scale - 1."""
    embed = LatentConsistencyModelPipeline.get_guidance_scale_embedding
    return embed(None, w.cpu(), embedding_dim=W_WIDTH).to(w.device)  # it works on the CPU only


class Distillation(nn.Module):
    """The student, its frozen teacher and its moving-average target; calling it gives the loss."""

    def __init__(self, teacher: Teacher):
        super().__init__()
        self.schedule = teacher.schedule
        self.teacher = teacher.requires_grad_(False).eval()
        self.student = student_of(teacher.unet)
        use_fast_attention(self.student)
        self.target = copy.deepcopy(self.student).requires_grad_(False)

    def consistency(self, unet, z, t, w_embedding, condition) -> torch.Tensor:
        """Eq. 9 with w as in section 4.2: f(z, w, c, t) = c_skip z + c_out x0."""
        velocity = unet(z, t, timestep_cond=w_embedding, **condition).sample
        clean, _ = self.schedule.clean_and_noise(z, t, velocity)
        c_skip, c_out = boundary_scalings(t)
        return c_skip * z + c_out * clean

    @torch.no_grad()
    def guided_solver_step(self, z, t, t_next, w, condition, nothing) -> torch.Tensor:
        """Eq. 17: one step of the augmented probability-flow ODE (Eq. 13), z + (1 + w) Psi(c) - w Psi(empty).

        Psi is linear in the prediction, so the predictions are combined first (Eq. 12).
        """
        both = {name: _joined(given, nothing[name]) for name, given in condition.items()}
        velocity = self.teacher.unet(torch.cat([z, z]), torch.cat([t, t]), **both).sample
        conditional, unconditional = velocity.float().chunk(2)
        w = w[:, None, None, None]
        clean, noise = self.schedule.clean_and_noise(z, t, conditional + w * (conditional - unconditional))
        return self.schedule.ddim_step(clean, noise, t_next)

    def forward(self, latents, ids, noise, index, w) -> torch.Tensor:
        t = SKIP * (index + 1) - 1  # t_{n+k}, one of 19, 39, ..., 999
        t_next = (t - SKIP).clamp(min=0)  # t_n
        with torch.no_grad():
            keep = torch.ones(len(ids), device=ids.device)
            condition, nothing = self.teacher.condition(ids, keep), self.teacher.condition(ids, 0 * keep)
            z = self.schedule.add_noise(latents, noise, t)
            z_next = self.guided_solver_step(z, t, t_next, W_UNIT * w, condition, nothing)
            w_embedding = embed_w(w)
            goal = self.consistency(self.target, z_next, t_next, w_embedding, condition)
        prediction = self.consistency(self.student, z, t, w_embedding, condition)
        return pseudo_huber(prediction, goal)  # Eq. 16

    @torch.no_grad()
    def update_target(self, decay: float = TARGET_DECAY) -> None:
        """Algorithm 1, last line: theta^- <- mu theta^- + (1 - mu) theta."""
        torch._foreach_lerp_(list(self.target.parameters()), list(self.student.parameters()), 1 - decay)


def _joined(first, second):
    """Concatenate two batches of the UNet's arguments, which may be dictionaries of tensors."""
    if isinstance(first, dict):
        return {name: _joined(value, second[name]) for name, value in first.items()}
    return torch.cat([first, second])


def pseudo_huber(prediction: torch.Tensor, goal: torch.Tensor) -> torch.Tensor:
    """d(x, y) = sqrt(|x - y|^2 + c^2) - c, element by element, averaged."""
    return ((prediction.float() - goal.float()).square() + HUBER_C**2).sqrt().sub(HUBER_C).mean()


def student_of(unet: UNet2DConditionModel) -> UNet2DConditionModel:
    """Return a copy of the teacher that also takes w; the new projection starts at zero."""
    student = UNet2DConditionModel.from_config(unet.config, time_cond_proj_dim=W_WIDTH)
    missing, unexpected = student.load_state_dict(unet.state_dict(), strict=False)
    if unexpected or missing != ["time_embedding.cond_proj.weight"]:
        raise RuntimeError(f"the teacher's weights do not fit: missing {missing}, unexpected {unexpected}")
    nn.init.zeros_(student.time_embedding.cond_proj.weight)
    return student.requires_grad_(True)


def run(settings: Settings) -> Path:
    """Distil a family's teacher; save SDXL's UNet to ``work/lcm``, or SD's pipeline to ``work/sd-lcm``."""
    torch.manual_seed(settings.seed)
    accelerator = make_accelerator()
    pipe = load_base(settings)
    with accelerator.main_process_first():
        batches = Batches(settings.work, pipe.tokenizer, accelerator.device)
    module = Distillation(Teacher(pipe))

    def loss_of(module, generator):
        batch = batches(settings.batch_size, generator)
        index = torch.randint(1000 // SKIP, (settings.batch_size,), generator=generator, device=generator.device)
        share = torch.rand(settings.batch_size, generator=generator, device=generator.device)
        w = W_RANGE[0] + share * (W_RANGE[1] - W_RANGE[0])
        return module(batch["latents"], batch["ids"], batch["noise"], index, w)

    made_from = fingerprint(*(m for m in pipe.components.values() if isinstance(m, nn.Module) and m is not pipe.vae))
    options = dict(ema_decay=0.995, after_step=Distillation.update_target, made_from=made_from)
    options["eager"] = [module.student.time_embedding.cond_proj.weight]  # starts at zero, and w is all it has to tell
    name = "distill" if settings.family == "xl" else f"distill-{settings.family}"
    train(name, module, loss_of, settings, accelerator, **options).copy_to(module)
    folder = settings.work / FAMILIES[settings.family].lcm
    if accelerator.is_main_process:
        save_student(pipe, module.student, settings.family, folder)
    return folder


def save_student(pipe, student: UNet2DConditionModel, family: str, folder: Path) -> None:
    """Save the LCM as its model on the Hub is laid out: SDXL's is a UNet, Stable Diffusion's a whole pipeline."""
    if family == "xl":
        student.cpu().half().save_pretrained(folder)
        return
    scheduler = LCMScheduler.from_config(pipe.scheduler.config)
    parts = {k: v for k, v in pipe.components.items() if k in ("vae", "text_encoder", "tokenizer")}
    nothing = dict(safety_checker=None, feature_extractor=None, requires_safety_checker=False)
    save_pipeline(LatentConsistencyModelPipeline(unet=student, scheduler=scheduler, **parts, **nothing), folder)
