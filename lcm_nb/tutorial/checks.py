"""Checkers for the exercises and the questions of the notebooks.

A checker computes the truth (from the scheduler, a measured run, or the judge), prints
one line that begins "Hint", "Not yet" or "Right", and returns whether the answer is right.
An answer still left at ``None`` or ``...`` gets the hint, so an untouched notebook runs;
whatever else stands there gets a sentence about itself (:mod:`lcm_nb.tutorial.answers`).
With ``exercise="E1.1"`` a checker also notes the try for :func:`progress`.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from ..pictures import CELL
from . import answers
from .answers import NotYet, Verdict, checker, hint, not_yet, number, right, untouched, whole
from .answers import silently as silently  # for the solutions
from .progress import note
from .progress import progress as progress  # for readers
from .questions import FIGURES, QUESTIONS

LABELS = ("subject", "background", "palette", "medium")
# Settings with which a section shows what a fit prompt asks for: is the prompt at fault, or the setting?
FIT = {
    "image-to-image": {"strength": 0.9},
    "inpainting": {"strength": 1.0},
    "style-lora": {"papercut": 1.0},
    "controlnet": {"controlnet_conditioning_scale": 1.0},
    "t2i-adapter": {"adapter_conditioning_scale": 1.2, "adapter_conditioning_factor": 1.0},
}


@checker
def predict(question: str, answer: str | None) -> Verdict:
    """Check the answer to a question that stands before a run, and help more with each wrong try.

    Parameters
    ----------
    question
        Its number, "P1.1" to "P9.3".
    answer
        A letter.
    """
    asked = QUESTIONS.get(question)
    if asked is None:
        raise ValueError(f"there is no question {answers.shown(question)}; the last one is {list(QUESTIONS)[-1]}.")
    if untouched(answer):
        note(question, tried=False, right=False)
        return hint("write the letter of your choice for None and run this cell; or go on, and see.")
    given = answers.letter(answer, asked.choices)
    tries = note(question, tried=True, right=given == asked.letter).tries
    if given == asked.letter:
        return right(asked.why)
    return not_yet(asked.hints[min(tries, len(asked.hints)) - 1])


@checker
def timesteps(answer: Iterable[int] | None, *, num_inference_steps: int, strength: float = 1.0) -> Verdict:
    """Check which timesteps an LCM visits (exercises E1.1 and E2.1).

    Parameters
    ----------
    answer
        Training timesteps (0-999), the noisiest first.
    num_inference_steps
        Steps asked for, 1 to 50.
    strength
        Image-to-image runs the last ``int(num_inference_steps * strength)`` of them.
    """
    points, visited = _schedule(50), _schedule(num_inference_steps)
    truth = visited[num_inference_steps - int(num_inference_steps * strength) :]
    if untouched(answer):
        return hint(f"the schedule's points are {points[0]}, {points[1]}, ..., {points[-1]}; choose among them.")
    given = answers.wholes(answer, f"[{points[0]}, {points[1]}]")
    if len(given) != len(truth):
        return not_yet(f"{len(given)} timesteps, but {len(truth)} UNet steps run; each has its own.")
    if strays := [t for t in given if t not in points]:
        return not_yet(f"{strays[0]} is not a point of the schedule; neighbours are {points[0] - points[1]} apart.")
    if given != sorted(given, reverse=True):
        return not_yet("the order is wrong; sampling starts in the noise, so count down.")
    if wrong := [i for i, t in enumerate(given) if t != truth[i]]:
        number = wrong[0] + len(visited) - len(truth)
        return not_yet(f"step {wrong[0] + 1} is elsewhere; round {number} x {len(points)} / {len(visited)} down.")
    return right(f"{len(truth)} steps run at {', '.join(map(str, truth))}.")


@checker
def evaluations(lcm: int | None, ddim: int | None, *, lcm_steps: int = 4, ddim_steps: int = 25) -> Verdict:
    """Check how many latents the UNet processes for one picture (exercise E1.2).

    Parameters
    ----------
    lcm, ddim
        Answers: calls of the UNet times latents in a call, for the distilled UNet and
        for its teacher with DDIM and classifier-free guidance.
    lcm_steps, ddim_steps
        Steps of the two runs. The truth is counted while the mini family makes them.
    """
    if untouched(lcm) or untouched(ddim):
        return hint("multiply the calls of the UNet by the latents in one call; guidance costs only one of the two.")
    given = whole(lcm, "lcm"), whole(ddim, "ddim")
    truth = _evaluations(distilled=True, steps=lcm_steps), _evaluations(distilled=False, steps=ddim_steps)
    if given[0] != truth[0]:
        return not_yet(
            f"{given[0]} is wrong for the LCM; count again what the hook above printed for {lcm_steps} steps."
        )
    if given[1] != truth[1]:
        return not_yet(f"{given[1]} is wrong for DDIM; how many predictions does guidance compare at every step?")
    return right(f"{truth[0]} against {truth[1]}: the LCM needs {truth[1] / truth[0]:g} times fewer.")


@checker
def recognised(
    prompt: str | None,
    *,
    section: str = "text-to-image",
    seeds: Sequence[int] = (0, 1, 2, 3),
    least: int = 2,
    below: Mapping[str, float] | None = None,
    without: str = "",
    **wanted: str | float | None,
) -> Verdict:
    """Check that the judge sees what a prompt was to draw (exercises E1.3, E2.2, E3.2, E4.2, E5.2, E10.3).

    The mini family draws the prompt once for each seed, whatever the notebook's profile,
    because the judge knows its pictures only.

    Parameters
    ----------
    prompt
        The answer.
    section
        One of ``lcm_nb.SECTIONS``.
    seeds, least
        Seeds to draw with, and how many of the pictures must be right.
    below
        Settings that are part of the answer, and the values that they must stay below.
    without
        A word that the prompt must not have: the judge has to see it all the same.
    wanted
        What the judge must see, in words of ``lcm_nb.models.judge``: one or more of ``subject``,
        ``background``, ``palette`` and ``medium``. Other names are settings of the section.
    """
    labels = {name: wanted.pop(name) for name in LABELS if name in wanted}
    if untouched(prompt):
        return hint(f"name what the picture is to show: {_words(labels)}.")
    if missing := [name for name, value in wanted.items() if untouched(value)]:
        return hint(f"choose a number for {missing[0]}, too.")
    text, settings = answers.prompt(prompt), {name: _setting(name, value) for name, value in wanted.items()}
    if without and without in text.lower():
        return not_yet(f"the prompt names the {without}; here the outlines are to say it.")
    if above := [name for name, limit in (below or {}).items() if settings[name] >= limit]:
        return not_yet(f"{above[0]} is {settings[above[0]]:g}; the exercise wants one below {below[above[0]]:g}.")
    seen = _all_seen(section, text, seeds, settings, labels)
    hits = seen.count(labels)
    report = f"the judge sees {_words(labels)} in {hits} of {len(seeds)} pictures"
    if hits >= least:
        return right(f"{report}.")
    usual = settings | {name: value for name, value in FIT.get(section, {}).items() if name in settings}
    if usual != settings and _all_seen(section, text, seeds, usual, labels).count(labels) >= least:
        return not_yet(f"{report}. The prompt would do; {_off(settings, usual)}.")
    return not_yet(f"{report}, but {'; '.join(map(_words, seen))}. Name what is wanted, and little else.")


@checker
def cells(answer: int | None, *, box: tuple[int, int, int, int]) -> Verdict:
    """Check how many latent cells a rectangular mask marks (exercise E10.1).

    Parameters
    ----------
    answer
        Cells of 16 x 16 pixels that are drawn anew.
    box
        The first column and row that are white, and the last ones, of 256 pixels.
    """
    if untouched(answer):
        return hint("count the marked columns of cells, and the marked rows; a cell counts by its top left pixel.")
    given, mask, (left, top, last, bottom) = whole(answer, "answer"), np.zeros((256, 256), bool), box
    mask[top : bottom + 1, left : last + 1] = True
    truth, touched = int(mask[::CELL, ::CELL].sum()), int(mask.reshape(16, CELL, 16, CELL).any((1, 3)).sum())
    if given == truth:
        return right(f"{truth} of 256 cells are drawn anew.")
    if given == touched:
        return not_yet(f"{given} cells are touched by the mask; but a cell counts only if its top left pixel is white.")
    return not_yet(f"{given} is not it; cells begin at 0, 16, 32, ...: which of these columns and rows are white?")


@checker
def put_back(answer: Image.Image | None, *, given: Image.Image, drawn: Image.Image, mask: Image.Image) -> Verdict:
    """Check that a picture is the drawn one where its mask is white, and the given one elsewhere (exercise E10.2)."""
    if untouched(answer):
        return hint("PIL's Image.composite takes two pictures and a mask of mode L, white where the first one counts.")
    if not isinstance(answer, Image.Image) or answer.size != given.size:
        return not_yet(
            f"the answer is {answers.shown(answer)}; make a PIL image of {given.width} x {given.height} pixels."
        )
    pixels, white = np.asarray(answer.convert("RGB")), np.asarray(mask.convert("L")) >= 128
    for place, wanted, where in (("white", drawn, white), ("black", given, ~white)):
        wrong = float((pixels != np.asarray(wanted)).any(axis=2)[where].mean())
        if wrong:
            return not_yet(
                f"where the mask is {place}, {wrong:.0%} of the pixels are other ones; which picture belongs there?"
            )
    return right("what the mask leaves is the given picture, to the bit.")


@checker
def lora_size(answer: int | None, *, rank: int, inputs: int, outputs: int, kernel_size: int | None = None) -> Verdict:
    """Check how many numbers a LoRA holds for one linear layer, or with ``kernel_size`` for one square convolution.

    Exercises E3.1 and E7.1.
    """
    if untouched(answer):
        return hint("a LoRA adds the product of two matrices; count the numbers of both.")
    window = "" if kernel_size is None else f" x {kernel_size} x {kernel_size}"
    given, truth = whole(answer), _lora_size(rank, inputs, outputs, kernel_size)
    if given != truth:
        return not_yet(f"{given} is wrong; A is {rank} x {inputs}{window}, and B is {outputs} x {rank}.")
    return right(f"{truth:,} numbers, {truth / (inputs * outputs * (kernel_size or 1) ** 2):.1%} of the layer's own.")


@checker
def thinner_map(low: int | None, high: int | None, *, section: str) -> Verdict:
    """Check that canny thresholds leave a tenth to a half of a section's edge pixels (exercise E4.1)."""
    if untouched(low) or untouched(high):
        return hint("raise the thresholds above 100 and 200.")
    from ..models.examples import example_image
    from ..pictures import canny

    picture, given = example_image(section, "mini"), (number(low, "low"), number(high, "high"))
    try:
        found, usual = (np.count_nonzero(canny(picture, *pair)) for pair in (given, (100, 200)))
    except ValueError as error:
        return not_yet(f"{error}")
    report = f"the map has {found / usual:.0%} of the edge pixels of (100, 200)"
    if not 0.1 <= found / usual <= 0.5:
        way = "higher thresholds leave fewer" if found / usual > 0.5 else "lower thresholds leave more"
        return not_yet(f"{report}; 10% to 50% are wanted, and {way}.")
    return right(f"{report}.")


@checker
def control_runs(controlnet: int | None, adapter: int | None, *, pictures: int, num_inference_steps: int) -> Verdict:
    """Check how often a ControlNet and a T2I-Adapter run (exercise E5.1); the truth is counted in one run of each."""
    if untouched(controlnet) or untouched(adapter):
        return hint("which of the two knows the timestep?")
    given = {"controlnet": whole(controlnet, "controlnet"), "t2i-adapter": whole(adapter, "adapter")}
    for section, count in given.items():
        if count != pictures * _control_runs(section, num_inference_steps):
            return not_yet(f"{count} is wrong for {section}; count its runs in one picture first.")
    return right(f"{given['controlnet']} against {given['t2i-adapter']} runs.")


@checker
def combined(
    lcm: float | None,
    papercut: float | None,
    *,
    prompt: str = "papercut, a fox",
    subject: str = "fox",
    least: int = 3,
    below: float = 0.95,
) -> Verdict:
    """Check that an LCM-LoRA and a style LoRA, at these weights, show subject and style (exercise E7.2).

    The mini family draws in four steps at guidance 1.0 with the seeds 0 to 3; ``least`` of the
    pictures must show the judge both. The style's weight must stay below ``below``, and the
    LCM-LoRA's be a half at least: with less this is no four-step model, whatever the judge sees.
    """
    if untouched(lcm) or untouched(papercut):
        return hint("look for the palest window in the grid above, and change one weight at a time.")
    weights = number(lcm, "lcm"), number(papercut, "papercut")
    if strays := [weight for weight in weights if not 0 <= weight <= 2]:
        return not_yet(f"a weight of {strays[0]:g} is out of reach; 0 is off, 1 its maker's choice, 2 far too much.")
    if weights[0] < 0.5:
        return not_yet(f"lcm {weights[0]:g} leaves little of the LCM-LoRA; the exercise wants 0.5 or more of it.")
    if weights[1] >= below:
        return not_yet(f"papercut {weights[1]:g} is more than needed; the exercise wants less than {below:g}.")
    seen = [_seen_combined(prompt, seed, *weights) for seed in range(4)]
    both = seen.count((subject, "papercut"))
    report = f"the judge sees a {subject} in papercut in {both} of {len(seen)} pictures"
    if both < least:
        styled = sum(medium == "papercut" for _, medium in seen)
        why = "the style does not show" if styled < least else f"the {subject} is lost"
        return not_yet(f"{report}: {why} with lcm {weights[0]:g} and papercut {weights[1]:g}.")
    return right(f"{report}.")


@checker
def ddim_step(answer: Callable | None) -> Verdict:
    """Check a formula for DDIM's next latent against ``DDIMScheduler`` (exercise E6.1).

    Parameters
    ----------
    answer
        Function of the latent z, its clean prediction, alpha and sigma at z's timestep, and alpha and sigma at
        the next one. It is given NumPy arrays and numbers, and returns the latent at the next timestep.
    """
    advice = "solve z = alpha clean + sigma noise for the noise, and mix it with the clean latent at the next levels."
    if untouched(answer):
        return hint(advice)
    z, clean, levels, truth = _ddim_case()
    given = answers.call(answer, z.copy(), clean.copy(), *levels)
    if untouched(given):
        return hint(advice)
    given = answers.array(given, truth.shape)
    if np.allclose(given, truth, atol=1e-4):
        return right("DDIM uses the noise that it finds in z again; an LCM draws new noise.")
    if np.allclose(given, levels[2] * clean, atol=1e-4):
        return not_yet("the noise is missing; what is left of z when alpha clean is taken away?")
    if np.allclose(given, levels[2] * clean + levels[3] * z, atol=1e-4):
        return not_yet("z itself is not the noise; take alpha clean away, and divide by sigma.")
    return not_yet("the latent is another; the next one is alpha_later clean + sigma_later noise.")


@checker
def overtaken(answer: int | None, *, figure: str, sampler: str = "DDIM", lcm_steps: int = 4) -> Verdict:
    """Check at how many steps a sampler is first as good as the LCM in the model card's table (exercise E6.2).

    Parameters
    ----------
    answer
        Smallest measured number of steps of ``sampler``.
    figure
        "frechet" (lower is better) or "subject" (higher is better).
    sampler, lcm_steps
        What is compared: "DDIM" or "DPM-Solver++", and the LCM's number of steps.
    """
    goal = _measured("LCM", figure)[lcm_steps]
    if untouched(answer):
        return hint(
            f"the LCM has {goal:.3g} at {lcm_steps} steps; go along the curve of {sampler} until it is as good."
        )
    rows, sign = _measured(sampler, figure), 1 if figure == "frechet" else -1
    if (answer := whole(answer)) not in rows:
        return not_yet(f"{answer} steps were not measured; {', '.join(map(str, rows))} were.")
    truth = next((steps for steps, value in rows.items() if sign * value <= sign * goal), None)
    report = f"{sampler} has {rows[answer]:.3g} at {answer} steps, the LCM {goal:.3g} at {lcm_steps}"
    if sign * rows[answer] > sign * goal:
        return not_yet(f"{report}; {'lower' if sign > 0 else 'higher'} is better.")
    if answer != truth:
        return not_yet(f"{report}; but fewer steps are enough.")
    return right(f"{report}.")


@checker
def distillation_forwards(answer: int | None) -> Verdict:
    """Check how many latents pass through UNets for a picture of a distillation's batch (exercise E8.1).

    The truth is counted in one update of a batch of two.
    """
    if untouched(answer):
        return hint("three networks; one of them compares with and without the caption.")
    given, truth = whole(answer), _distillation_forwards()
    if given != truth:
        return not_yet(f"{given} is wrong; look at the batches that guided_solver_step and consistency pass on.")
    return right(f"{truth} latents a picture, and a gradient for one of them.")


@checker
def consistency_function(function: Callable) -> Verdict:
    """Check ``function(z, velocity, alpha, sigma, t)`` against Eq. 9 at some timesteps (exercise E8.2)."""
    import torch

    from ..schedule import alphas_cumprod, boundary_scalings

    advice = "the clean latents are alpha z - sigma v; c_skip and c_out mix them with z."
    if untouched(function):
        return hint(advice)
    z, velocity = torch.randn(2, 1, 8, 16, 16, generator=torch.Generator().manual_seed(0))
    for t in (999, 499, 19, 0):
        alpha = float(alphas_cumprod(zero_terminal_snr=True)[t] ** 0.5)
        sigma = (1 - alpha**2) ** 0.5
        found = answers.call(function, z.clone(), velocity.clone(), alpha, sigma, t)
        if untouched(found):
            return hint(advice)
        c_skip, c_out = boundary_scalings(t)
        truth = (c_skip * z + c_out * (alpha * z - sigma * velocity)).numpy()
        found = answers.array(found, truth.shape)
        if not np.allclose(found, truth, atol=1e-4):
            return not_yet(f"at timestep {t} the result is off by {np.abs(found - truth).max():.2f} at most.")
    return right("equal at timesteps 999, 499, 19 and 0, where f returns its input.")


@checker
def comes_back_to(answer: Iterable[int] | None, *, num_inference_steps: int, eta: float) -> Verdict:
    """Check to which timesteps TCD's steps come back before they add noise (exercise E9.1).

    Parameters
    ----------
    answer
        Training timesteps (0-999), one for each step but the last, which adds none.
    num_inference_steps, eta
        Of the run. The truth is read off what ``TCDScheduler`` makes of a latent without noise.
    """
    if untouched(answer):
        return hint("the next timesteps are 759, 499 and 259; of each r the step comes back to (1 - eta) r.")
    truth = _comes_back_to(num_inference_steps, eta)
    given = answers.wholes(answer, "[531, 349]")
    if len(given) != len(truth):
        return not_yet(f"{len(given)} timesteps, but {len(truth)} steps add noise; each comes back to one.")
    visited = _schedule(num_inference_steps)
    if given == [int((1 - eta) * t) for t in visited[:-1]]:
        return not_yet("these are of the timesteps where the steps begin; take those where the next ones do.")
    if wrong := [i for i, t in enumerate(given) if t != truth[i]]:
        return not_yet(f"{given[wrong[0]]} is wrong; the next timestep is {visited[wrong[0] + 1]}, times {1 - eta:g}.")
    return right(f"back to {', '.join(map(str, truth))}, then on to the next timestep with new noise.")


@checker
def tcd_noise(answer: Callable | None) -> Verdict:
    """Check a formula for the noise that TCD's step adds against ``TCDScheduler`` (exercise E9.2).

    Parameters
    ----------
    answer
        Function of the latent z_s, new noise, and alpha at s and at the next timestep r. It is given NumPy arrays
        and numbers, and returns the latent at r.
    """
    advice = "multiply z_s by alpha_r / alpha_s; then ask how much noise is missing, in squares."
    if untouched(answer):
        return hint(advice)
    z_s, new, (alpha_s, alpha_r), truth = _tcd_case()
    given = answers.call(answer, z_s.copy(), new.copy(), alpha_s, alpha_r)
    if untouched(given):
        return hint(advice)
    given, keep = answers.array(given, truth.shape), alpha_r / alpha_s
    if np.allclose(given, truth, atol=1e-4):
        return right("as TCDScheduler's: the picture has its share, and so has all noise together.")
    if np.allclose(given, z_s + (1 - keep**2) ** 0.5 * new, atol=1e-4):
        return not_yet("the new noise is right; but the picture in z_s has still the share of s.")
    if np.allclose(given, keep * z_s + (1 - alpha_r**2) ** 0.5 * new, atol=1e-4):
        return not_yet("that is too much noise: some is in z_s already.")
    if np.allclose(given, keep * z_s + (1 - keep) * new, atol=1e-4):
        return not_yet("noises add by their squares: 1 - k^2 is missing, under a root.")
    return not_yet("the latent is another; it is k z_s + sqrt(1 - k^2) new, for one number k.")


def _setting(name: str, value: object) -> object:
    """Return a setting's value as ``generate`` takes it."""
    return value if type(value) is int and abs(value) < 10**6 else number(value, name)


def _all_seen(
    section: str, prompt: str, seeds: Sequence[int], settings: Mapping[str, object], labels: Iterable[str]
) -> list[dict[str, str]]:
    """Return what the judge sees of these labels in each seed's picture; ``NotYet`` where nothing can be drawn."""
    try:
        found = [_seen(section, prompt, seed, tuple(settings.items())) for seed in seeds]
    except (TypeError, ValueError) as error:  # of the studio, about a prompt or a setting
        raise NotYet(answers.told(error)) from None
    return [{name: each[name] for name in labels} for each in found]


def _off(settings: Mapping[str, float], fit: Mapping[str, float]) -> str:
    """Return which settings are too low or too high."""
    off = [name for name in settings if settings[name] != fit[name]]
    return " and ".join(
        f"{name} {settings[name]:g} is too {'low' if settings[name] < fit[name] else 'high'}" for name in off
    )


def _words(labels: dict[str, str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in labels.items())


def _schedule(num_inference_steps: int) -> list[int]:
    from diffusers import LCMScheduler

    scheduler = LCMScheduler()
    scheduler.set_timesteps(num_inference_steps)
    return scheduler.timesteps.tolist()


@lru_cache
def _evaluations(*, distilled: bool, steps: int) -> int:
    """Return the latents that pass through the mini UNet in one run."""
    import torch

    from .measure import forwards

    pipe = _studio().pipe if distilled else _teacher()
    with forwards(pipe.unet) as sizes:
        generator = torch.Generator().manual_seed(0)
        pipe("a fox", num_inference_steps=steps, guidance_scale=8.0, generator=generator, output_type="latent")
    return sum(sizes)


def _teacher():
    """Return the mini base pipeline as it is: its own UNet, with DDIM."""
    from diffusers import DDIMScheduler, StableDiffusionXLPipeline

    from ..models.checkpoints import checkpoints

    names = checkpoints("text-to-image", "mini", "cpu")
    pipe = StableDiffusionXLPipeline.from_pretrained(names.base, **names.loading["base"])
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@lru_cache
def _lora_size(rank: int, inputs: int, outputs: int, kernel_size: int | None = None) -> int:
    from peft import LoraConfig, inject_adapter_in_model
    from torch import nn

    plain = nn.Linear(inputs, outputs) if kernel_size is None else nn.Conv2d(inputs, outputs, kernel_size)
    layer = inject_adapter_in_model(LoraConfig(r=rank, target_modules=["0"]), nn.Sequential(plain))
    return sum(value.numel() for name, value in layer.named_parameters() if "lora_" in name)


@lru_cache
def _control_runs(section: str, steps: int) -> int:
    """Return how often a section's control runs for one picture."""
    from .measure import forwards

    studio = _studio(section)
    with forwards(studio.pipe.controlnet if section == "controlnet" else studio.pipe.adapter) as calls:
        studio.generate(num_inference_steps=steps)
    return len(calls)


@lru_cache
def _ddim_case() -> tuple[np.ndarray, np.ndarray, tuple[float, ...], np.ndarray]:
    """Return a latent, its clean prediction, both noise levels, and DDIM's latent after the second of four steps."""
    import torch
    from diffusers import DDIMScheduler

    betas = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    scheduler = DDIMScheduler(**betas, prediction_type="sample", clip_sample=False, timestep_spacing="trailing")
    scheduler.set_timesteps(4)
    now, later = scheduler.timesteps[1:3]
    z, clean = torch.randn(2, 1, 8, 16, 16, generator=torch.Generator().manual_seed(0))
    truth = scheduler.step(clean, now, z).prev_sample
    shares = (scheduler.alphas_cumprod[t] for t in (now, later))
    levels = tuple(float(level) for share in shares for level in (share.sqrt(), (1 - share).sqrt()))
    return z.numpy(), clean.numpy(), levels, truth.numpy()


def _tcd(num_inference_steps: int):
    """Return a scheduler that takes predictions of the clean latent, with its steps set."""
    from diffusers import TCDScheduler

    scheduler = TCDScheduler(prediction_type="sample", rescale_betas_zero_snr=True)
    scheduler.set_timesteps(num_inference_steps)
    return scheduler


def _comes_back_to(num_inference_steps: int, eta: float) -> list[int]:
    """Return the timestep of each step's first move: the one whose alpha the clean part of its result has."""
    import torch

    scheduler, found = _tcd(num_inference_steps), []
    for t in scheduler.timesteps[:-1]:
        noiseless = scheduler.alphas_cumprod[t].sqrt().reshape(1)  # alpha_t times a clean latent of 1
        back = scheduler.step(torch.ones(1), t, noiseless, eta=eta).pred_noised_sample
        found.append(int((scheduler.alphas_cumprod.sqrt() - back).abs().argmin()))
    return found


@lru_cache
def _tcd_case() -> tuple[np.ndarray, np.ndarray, tuple[float, ...], np.ndarray]:
    """Return z_s, new noise, alpha at s and at r, and TCD's latent at r, for the second of four steps at eta 0.3."""
    import torch

    scheduler, generator = _tcd(4), torch.Generator().manual_seed(0)
    now, later = scheduler.timesteps[1:3]
    z, clean = torch.randn(2, 1, 8, 16, 16, generator=generator)
    stepped = scheduler.step(clean, now, z, eta=0.3, generator=torch.Generator().manual_seed(1))
    new = torch.randn(z.shape, generator=torch.Generator().manual_seed(1))
    alphas = tuple(float(scheduler.alphas_cumprod[t] ** 0.5) for t in (int(0.7 * later), later))
    return stepped.pred_noised_sample.numpy(), new.numpy(), alphas, stepped.prev_sample.numpy()


def _measured(sampler: str, figure: str) -> dict[int, float]:
    """Return one figure of the model card's table by number of steps, fewest first."""
    rows = json.loads(FIGURES.read_text())["table"]
    return dict(sorted((row["steps"], row[figure]) for row in rows if row["sampler"] == sampler))


@lru_cache
def _seen(section: str, prompt: str, seed: int, settings: tuple) -> dict[str, str]:
    """Return what the judge sees in the mini family's picture, by kind of label."""
    found = _judge().describe(_studio(section).generate(prompt=prompt, seed=seed, **dict(settings)).image)
    return {"subject": found.pop("subjects")[0], **found}


@lru_cache
def _seen_combined(prompt: str, seed: int, lcm: float, papercut: float) -> tuple[str, str]:
    """Return subject and medium that the judge sees with both LoRAs at these weights."""
    import torch

    pipe = _two_loras()
    pipe.set_adapters(["lcm", "papercut"], adapter_weights=[lcm, papercut])
    options = dict(num_inference_steps=4, guidance_scale=1.0, generator=torch.Generator().manual_seed(seed))
    found = _judge().describe(pipe(prompt, **options).images[0])
    return found["subjects"][0], found["medium"]


@lru_cache
def _two_loras():
    """Return the mini LCM-LoRA's pipeline with the style LoRA that was made for the same base."""
    import warnings

    pipe, names = (studio := _studio(model="lcm-lora-sdv1-5")).pipe, studio.checkpoints
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Already found a `peft_config`")  # two are the point
        style = dict(weight_name="papercut.safetensors", adapter_name="papercut")
        pipe.load_lora_weights(names.loras, **style, **names.loading["loras"])
    return pipe


@lru_cache
def _distillation_forwards() -> int:
    """Return the latents that pass through all UNets in one update, for each picture of its batch."""
    from ..training import own  # no other module of this folder knows training
    from ..training.loop import Settings
    from .measure import forwards

    accelerator, count = own.make_accelerator(), 2
    base, teacher = own.load_teacher(accelerator.device)
    student = own.new_student(teacher)
    settings = Settings(Path("."), steps=1, batch_size=count)
    with forwards(student, teacher.unet) as sizes:
        list(own.distil(student, teacher, own.Shard(base.tokenizer), settings, accelerator))
    return sum(sizes) // count


@lru_cache(maxsize=1)  # memory is short on Binder
def _studio(section: str = "text-to-image", model: str | None = None):
    from ..studio import load

    return load(section, "mini", "cpu", model)


@lru_cache
def _judge():
    from ..models.judge import load

    return load()
