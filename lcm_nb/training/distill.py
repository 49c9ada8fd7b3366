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

from ..schedule import boundary_scalings
from ..tutorial.measure import GUIDANCE
from .loop import Extras, Settings, fingerprint, make_accelerator, train, trainable
from .teacher import FAMILIES, Batches, Schedule, Teacher, load_base, save_pipeline, use_fast_attention

SKIP = 20  # k: 1000 training timesteps / 50 solver points
W_RANGE = (0.0, 13.0)  # guidance_scale - 1; at 0 there is no guidance
# One unit of the LCM's w is this much of the teacher's. A caption says nearly all there is to say about
# a scene, so the usual numbers drive the teacher too far: the model card has the trial.
W_UNIT = 1 / 3
W_WIDTH = 256  # of the sinusoidal embedding of w
# How many times as much guidance is to move the pictures as what was learnt does, by family; see strengthen_guidance.
W_GAIN = {"xl": 2.0}
HUBER_C = 1e-3
TARGET_DECAY = 0.95


def embed_w(w: torch.Tensor) -> torch.Tensor:
    """Return the sinusoidal embedding (B, 256) of w, as the pipelines compute it from guidance_scale - 1."""
    embed = LatentConsistencyModelPipeline.get_guidance_scale_embedding
    return embed(None, w.cpu(), embedding_dim=W_WIDTH).to(w.device)  # it works on the CPU only


class Distillation(nn.Module):
    """The student, its frozen teacher and its moving-average target; calling it gives the loss."""

    def __init__(self, teacher: Teacher):
        super().__init__()
        self.teacher = teacher.requires_grad_(False).eval()
        self.student = student_of(teacher.unet)
        use_fast_attention(self.student)
        self.target = copy.deepcopy(self.student).requires_grad_(False)

    def forward(self, latents, ids, noise, t, t_next, w) -> torch.Tensor:
        """Return Eq. 16 for latents z (B, C, h, w), tokens of c (B, tokens), noise, timesteps and w (B,)."""
        teacher, schedule = self.teacher, self.teacher.schedule
        with torch.no_grad():
            condition, nothing = conditions(teacher, ids)
            z = schedule.add_noise(latents, noise, t)
            z_next = guided_solver_step(teacher, z, t, t_next, W_UNIT * w, (condition, nothing))
            goal = consistency(self.target, schedule, z_next, t_next, condition, w)
        return pseudo_huber(consistency(self.student, schedule, z, t, condition, w), goal)  # Eq. 16


def sample_timesteps(count: int, generator: torch.Generator, skip: int = SKIP) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw t_{n+k}, one of 19, 39, ..., 999 for k = 20, and t_n = t_{n+k} - k, (count,) each; t_n is at least 0."""
    index = torch.randint(1000 // skip, (count,), generator=generator, device=generator.device)
    t = skip * (index + 1) - 1
    return t, (t - skip).clamp(min=0)


def sample_w(count: int, generator: torch.Generator) -> torch.Tensor:
    """Draw w = guidance_scale - 1 uniformly, (count,)."""
    share = torch.rand(count, generator=generator, device=generator.device)
    return W_RANGE[0] + share * (W_RANGE[1] - W_RANGE[0])


def conditions(teacher: Teacher, ids: torch.Tensor) -> tuple[dict, dict]:
    """Return what the UNet gets of captions (B, tokens), c, and of no caption, the empty one."""
    keep = torch.ones(len(ids), device=ids.device)
    return teacher.condition(ids, keep), teacher.condition(ids, 0 * keep)


def consistency(unet, schedule: Schedule, z, t, condition: dict, w: torch.Tensor | None = None) -> torch.Tensor:
    """Return Eq. 9: f(z, c, t) = c_skip z + c_out x0; with ``w``, also an input of the UNet (section 4.2)."""
    velocity = unet(z, t, timestep_cond=None if w is None else embed_w(w), **condition).sample
    clean, _ = schedule.clean_and_noise(z, t, velocity)
    c_skip, c_out = boundary_scalings(t.float()[:, None, None, None])
    return c_skip * z + c_out * clean


@torch.no_grad()
def guided_solver_step(teacher: Teacher, z, t, t_next, w, texts: tuple[dict, dict]) -> torch.Tensor:
    """Take one step of the augmented probability-flow ODE (Eq. 13 and 17): z + (1 + w) Psi(c) - w Psi(empty).

    ``texts`` are the :func:`conditions` c and empty. Psi is linear in the prediction, so the predictions are
    combined first (Eq. 12).
    """
    condition, nothing = texts
    both = {name: _joined(given, nothing[name]) for name, given in condition.items()}
    velocity = teacher.unet(torch.cat([z, z]), torch.cat([t, t]), **both).sample
    conditional, unconditional = velocity.float().chunk(2)
    w = w[:, None, None, None]
    clean, noise = teacher.schedule.clean_and_noise(z, t, conditional + w * (conditional - unconditional))
    return teacher.schedule.ddim_step(clean, noise, t_next)


@torch.no_grad()
def update_target(target: nn.Module, student: nn.Module, decay: float = TARGET_DECAY) -> None:
    """Move the target, the last line of algorithm 1: theta^- <- mu theta^- + (1 - mu) theta.

    By hand: it is a line of the paper, and the loop's ``EMAModel`` averages for another purpose.
    """
    torch._foreach_lerp_(list(target.parameters()), list(student.parameters()), 1 - decay)


def _joined(first, second):
    """Concatenate two batches of the UNet's arguments, which may be dictionaries of tensors."""
    if isinstance(first, dict):
        return {name: _joined(value, second[name]) for name, value in first.items()}
    return torch.cat([first, second])


def pseudo_huber(prediction: torch.Tensor, goal: torch.Tensor) -> torch.Tensor:
    """Return d(x, y) = sqrt(|x - y|^2 + c^2) - c, element by element, averaged."""
    return ((prediction.float() - goal.float()).square() + HUBER_C**2).sqrt().sub(HUBER_C).mean()


def student_of(unet: UNet2DConditionModel) -> UNet2DConditionModel:
    """Return a copy of the teacher that also takes w; the new projection starts at zero."""
    student = UNet2DConditionModel.from_config(unet.config, time_cond_proj_dim=W_WIDTH)
    missing, unexpected = student.load_state_dict(unet.state_dict(), strict=False)
    if unexpected or missing != ["time_embedding.cond_proj.weight"]:
        raise RuntimeError(f"the teacher's weights do not fit: missing {missing}, unexpected {unexpected}")
    nn.init.zeros_(student.time_embedding.cond_proj.weight)
    return student.requires_grad_(True)


@torch.no_grad()
def strengthen_guidance(student: UNet2DConditionModel, gain: float, *, fixed: float = GUIDANCE - 1) -> None:
    """Let what the student learnt of w act ``gain`` times as strongly, and evenly; at w = ``fixed`` nothing changes.

    In few updates an LCM hears little of w. After 771, guidance 8 moved 48 pictures from those at guidance 1 by 2.4 of
    255 and guidance 14 by 3.4, with less saturation than 8; the teacher's move by 10 and 14, and gain contrast and
    saturation all the way. Here the projection of w becomes the one nearest to c(fixed) + gain (w - fixed) / fixed
    (c(fixed) - c(0)), where c(w) is what it added to the embedded timestep before. With a gain of 2 the pictures move
    by 7.6 and 11, and gain both all the way.
    """
    projection = student.time_embedding.cond_proj.weight
    inputs = embed_w(torch.linspace(*W_RANGE, 261, device=projection.device)).double()
    start, middle = (projection.double() @ embed_w(torch.tensor([w]))[0].to(inputs) for w in (0.0, fixed))
    share = (torch.linspace(*W_RANGE, len(inputs)).to(inputs) - fixed)[:, None] / fixed
    wanted = middle + gain * share * (middle - start)
    gram = inputs.T @ inputs + 1e-6 * len(inputs) * torch.eye(W_WIDTH).to(inputs)  # or weights would grow without bound
    projection.copy_(torch.linalg.solve(gram, inputs.T @ wanted).T)


def run(settings: Settings) -> Path:
    """Distil a family's teacher; save SDXL's UNet to ``work/lcm``, or SD's pipeline to ``work/sd-lcm``.

    From the teacher always: to go on from an LCM that ships, whose optimizer's state is gone, made it worse (subject
    at four steps 100 % before and 93 % after 1,010 updates; 790 updates from the teacher 100 %).

    Nor is longer better: on 200 held-out captions, after 771, 1,100 and 2,064 updates, the judge saw the subject in
    100, 100 and 93.5 % at four steps and in 98.5, 95 and 90 % at eight; meanwhile guidance 14 moved the pictures from
    guidance 1 by 4.7 and, in the end, 10 of 255.
    """
    torch.manual_seed(settings.seed)
    accelerator = make_accelerator()
    pipe = load_base(settings)
    with accelerator.main_process_first():
        batches = Batches(settings.work, pipe.tokenizer, accelerator.device, count=settings.pictures)
    module = Distillation(Teacher(pipe))
    folder = settings.work / FAMILIES[settings.family].lcm
    name = "distill" if settings.family == "xl" else f"distill-{settings.family}"

    def loss_of(module, generator):
        batch = batches(settings.batch_size, generator)
        t, t_next = sample_timesteps(settings.batch_size, generator)
        w = sample_w(settings.batch_size, generator)
        return module(batch["latents"], batch["ids"], batch["noise"], t, t_next, w)

    made_from = fingerprint(*(m for m in pipe.components.values() if isinstance(m, nn.Module) and m is not pipe.vae))
    extras = Extras(
        ema_decay=0.995,
        after_step=lambda m: update_target(m.target, m.student),
        made_from=made_from,
        eager=[module.student.time_embedding.cond_proj.weight],  # starts at zero, and w is all it has to tell
    )
    train(name, module, loss_of, settings, accelerator, extras).copy_to(trainable(module))
    if settings.family in W_GAIN:
        strengthen_guidance(module.student, W_GAIN[settings.family])
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
