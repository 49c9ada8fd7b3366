"""Checkers for the exercises of the notebooks.

A checker computes the truth (from the scheduler, a measured run, or the judge), prints
one line that begins "Hint", "Not yet" or "Right", and returns whether the answer is right.
An answer still left at ``None`` or ``...`` gets the hint, so an untouched notebook runs.
"""

import operator
from collections.abc import Iterable, Sequence
from functools import lru_cache

import numpy as np

LABELS = ("subject", "background", "palette", "medium")


def timesteps(answer: Iterable[int] | None, *, num_inference_steps: int, strength: float = 1.0) -> bool:
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
    if _untouched(answer):
        return _hint(f"the schedule's points are {points[0]}, {points[1]}, ..., {points[-1]}; choose among them.")
    try:
        given = [operator.index(t) for t in answer]
    except TypeError:
        return _not_yet(f"{answer!r} is not a list of whole numbers; write e.g. [{points[0]}, {points[1]}].")
    if len(given) != len(truth):
        return _not_yet(f"{len(given)} timesteps, but {len(truth)} UNet steps run; each has its own.")
    if strays := [t for t in given if t not in points]:
        return _not_yet(f"{strays[0]} is not a point of the schedule; neighbours are {points[0] - points[1]} apart.")
    if given != sorted(given, reverse=True):
        return _not_yet("the order is wrong; sampling starts in the noise, so count down.")
    if wrong := [i for i, t in enumerate(given) if t != truth[i]]:
        number = wrong[0] + len(visited) - len(truth)
        return _not_yet(f"step {wrong[0] + 1} is elsewhere; round {number} x {len(points)} / {len(visited)} down.")
    return _right(f"{len(truth)} steps run at {', '.join(map(str, truth))}.")


def evaluations(lcm: int | None, ddim: int | None, *, lcm_steps: int = 4, ddim_steps: int = 25) -> bool:
    """Check how many latents the UNet processes for one picture (exercise E1.2).

    Parameters
    ----------
    lcm, ddim
        Answers: calls of the UNet times latents in a call, for the distilled UNet and
        for its teacher with DDIM and classifier-free guidance.
    lcm_steps, ddim_steps
        Steps of the two runs. The truth is counted while the mini family makes them.
    """
    if _untouched(lcm) or _untouched(ddim):
        return _hint("multiply the calls of the UNet by the latents in one call; guidance costs only one of the two.")
    truth = _evaluations(distilled=True, steps=lcm_steps), _evaluations(distilled=False, steps=ddim_steps)
    if lcm != truth[0]:
        return _not_yet(f"{lcm!r} is wrong for the LCM; count again what the hook above printed for {lcm_steps} steps.")
    if ddim != truth[1]:
        return _not_yet(f"{ddim!r} is wrong for DDIM; how many predictions does guidance compare at every step?")
    return _right(f"{truth[0]} against {truth[1]}: the LCM needs {truth[1] / truth[0]:g} times fewer.")


def recognised(
    prompt: str | None,
    *,
    section: str = "text-to-image",
    seeds: Sequence[int] = (0, 1, 2, 3),
    least: int = 2,
    **wanted: str | float,
) -> bool:
    """Check that the judge sees what a prompt was to draw (exercises E1.3, E2.2, E3.2, E4.2, E5.2).

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
    wanted
        What the judge must see, in words of ``lcm_nb.judge``: one or more of ``subject``,
        ``background``, ``palette`` and ``medium``. Other names are settings of the section.
    """
    labels = {name: wanted.pop(name) for name in LABELS if name in wanted}
    if _untouched(prompt):
        return _hint(f"name what the picture is to show: {_words(labels)}.")
    if not isinstance(prompt, str) or not prompt.strip():
        return _not_yet(f"{prompt!r} is no prompt; write a text with at least one word.")
    seen = []
    for seed in seeds:
        found = _seen(section, prompt, seed, tuple(wanted.items()))
        seen.append({name: found[name] for name in labels})
    hits = seen.count(labels)
    report = f"the judge sees {_words(labels)} in {hits} of {len(seeds)} pictures"
    if hits < least:
        return _not_yet(f"{report}, but {'; '.join(map(_words, seen))}. Name what is wanted, and little else.")
    return _right(f"{report}.")


def lora_size(answer: int | None, *, rank: int, inputs: int, outputs: int) -> bool:
    """Check how many numbers a LoRA holds for one linear layer (exercise E3.1)."""
    if _untouched(answer):
        return _hint("a LoRA adds the product of two matrices; count the numbers of both.")
    truth = _lora_size(rank, inputs, outputs)
    if answer != truth:
        return _not_yet(f"{answer!r} is wrong; A is {rank} x {inputs}, and B is {outputs} x {rank}.")
    return _right(f"{truth:,} numbers, {truth / (inputs * outputs):.1%} of the layer's own.")


def thinner_map(low: int | None, high: int | None, *, section: str) -> bool:
    """Check that canny thresholds leave a tenth to a half of a section's edge pixels (exercise E4.1)."""
    if _untouched(low) or _untouched(high):
        return _hint("raise the thresholds above 100 and 200.")
    from .images import canny, example_image

    picture = example_image(section, "mini")
    try:
        found, usual = (np.count_nonzero(canny(picture, *pair)) for pair in ((low, high), (100, 200)))
    except (TypeError, ValueError) as error:
        return _not_yet(f"{error}")
    report = f"the map has {found / usual:.0%} of the edge pixels of (100, 200)"
    if not 0.1 <= found / usual <= 0.5:
        return _not_yet(f"{report}; 10% to 50% are wanted, and higher thresholds leave fewer.")
    return _right(f"{report}.")


def control_runs(controlnet: int | None, adapter: int | None, *, pictures: int, num_inference_steps: int) -> bool:
    """Check how often a ControlNet and a T2I-Adapter run (exercise E5.1); the truth is counted in one run of each."""
    if _untouched(controlnet) or _untouched(adapter):
        return _hint("which of the two knows the timestep?")
    for name, answer in (("controlnet", controlnet), ("t2i-adapter", adapter)):
        if answer != pictures * _control_runs(name, num_inference_steps):
            return _not_yet(f"{answer!r} is wrong for {name}; count its runs in one picture first.")
    return _right(f"{controlnet} against {adapter} runs.")


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

    sizes = []
    pipe = _studio().pipe if distilled else _teacher()
    hook = pipe.unet.register_forward_pre_hook(lambda unet, arguments: sizes.append(len(arguments[0])))
    try:
        generator = torch.Generator().manual_seed(0)
        pipe("a fox", num_inference_steps=steps, guidance_scale=8.0, generator=generator, output_type="latent")
    finally:
        hook.remove()
    return sum(sizes)


def _teacher():
    """Return the mini base pipeline as it is: its own UNet, with DDIM."""
    from diffusers import DDIMScheduler, StableDiffusionXLPipeline

    from .profiles import checkpoints

    names = checkpoints("text-to-image", "mini", "cpu")
    pipe = StableDiffusionXLPipeline.from_pretrained(names.base, **names.loading["base"])
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@lru_cache
def _lora_size(rank: int, inputs: int, outputs: int) -> int:
    from peft import LoraConfig, inject_adapter_in_model
    from torch import nn

    layer = inject_adapter_in_model(LoraConfig(r=rank, target_modules=["0"]), nn.Sequential(nn.Linear(inputs, outputs)))
    return sum(value.numel() for name, value in layer.named_parameters() if "lora_" in name)


@lru_cache
def _control_runs(section: str, steps: int) -> int:
    """Return how often a section's control runs for one picture."""
    studio, calls = _studio(section), []
    control = studio.pipe.controlnet if section == "controlnet" else studio.pipe.adapter
    hook = control.register_forward_pre_hook(lambda *_: calls.append(1))
    try:
        studio.generate(num_inference_steps=steps)
    finally:
        hook.remove()
    return len(calls)


@lru_cache
def _seen(section: str, prompt: str, seed: int, settings: tuple) -> dict[str, str]:
    """Return what the judge sees in the mini family's picture, by kind of label."""
    found = _judge().describe(_studio(section).generate(prompt=prompt, seed=seed, **dict(settings)).image)
    return {"subject": found.pop("subjects")[0], **found}


@lru_cache(maxsize=1)  # memory is short on Binder
def _studio(section: str = "text-to-image"):
    from .studio import load

    return load(section, "mini", "cpu")


@lru_cache
def _judge():
    from .judge import load

    return load()


def _untouched(answer: object) -> bool:
    return answer is None or answer is ...


def _hint(message: str) -> bool:
    print(f"Hint: {message}")
    return False


def _not_yet(message: str) -> bool:
    print(f"Not yet: {message}")
    return False


def _right(message: str) -> bool:
    print(f"Right: {message}")
    return True
