"""Checkers for the exercises of the notebooks.

A checker computes the truth (from the scheduler, a measured run, or the judge), prints
one line that begins "Hint", "Not yet" or "Right", and returns whether the answer is right.
An answer still left at ``None`` or ``...`` gets the hint, so an untouched notebook runs.
"""

import operator
from collections.abc import Iterable, Sequence
from functools import lru_cache


def timesteps(answer: Iterable[int] | None, *, num_inference_steps: int) -> bool:
    """Check which timesteps an LCM visits (exercise E1.1).

    Parameters
    ----------
    answer
        Training timesteps (0-999), the noisiest first.
    num_inference_steps
        UNet steps of the run, 1 to 50.
    """
    points, truth = _schedule(50), _schedule(num_inference_steps)
    if _untouched(answer):
        return _hint(f"the schedule's points are {points[0]}, {points[1]}, ..., {points[-1]}; choose among them.")
    try:
        given = [operator.index(t) for t in answer]
    except TypeError:
        return _not_yet(f"{answer!r} is not a list of whole numbers; write e.g. [{points[0]}, {points[1]}].")
    if len(given) != len(truth):
        return _not_yet(f"{len(given)} timesteps for {len(truth)} steps; each step has its own.")
    if strays := [t for t in given if t not in points]:
        return _not_yet(f"{strays[0]} is not a point of the schedule; neighbours are {points[0] - points[1]} apart.")
    if given != sorted(given, reverse=True):
        return _not_yet("the order is wrong; sampling starts in the noise, so count down.")
    if wrong := [i for i, t in enumerate(given) if t != truth[i]]:
        return _not_yet(f"step {wrong[0] + 1} is elsewhere; round {wrong[0]} x {len(points)} / {len(truth)} down.")
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


def recognised(prompt: str | None, *, seeds: Sequence[int] = (0, 1, 2, 3), least: int = 2, **wanted: str) -> bool:
    """Check that the judge sees what a prompt was to draw (exercise E1.3).

    The mini family draws the prompt once for each seed, whatever the notebook's profile,
    because the judge knows its pictures only.

    Parameters
    ----------
    prompt
        The answer.
    seeds, least
        Seeds to draw with, and how many of the pictures must be right.
    wanted
        What the judge must see, in words of ``lcm_nb.judge``: one or more of ``subject``,
        ``background``, ``palette`` and ``medium``.
    """
    if _untouched(prompt):
        return _hint(f"name what the picture is to show: {_words(wanted)}.")
    if not isinstance(prompt, str) or not prompt.strip():
        return _not_yet(f"{prompt!r} is no prompt; write a text with at least one word.")
    seen = [{name: _seen(prompt, seed)[name] for name in wanted} for seed in seeds]
    hits = seen.count(wanted)
    report = f"the judge sees {_words(wanted)} in {hits} of {len(seeds)} pictures"
    if hits < least:
        return _not_yet(f"{report}, but {'; '.join(map(_words, seen))}. Name what is wanted, and little else.")
    return _right(f"{report}.")


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
    pipe = StableDiffusionXLPipeline.from_pretrained(names.base, use_safetensors=True, **names.loading)
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@lru_cache
def _seen(prompt: str, seed: int) -> dict[str, str]:
    """Return what the judge sees in the mini family's picture, by kind of label."""
    found = _judge().describe(_studio().generate(prompt=prompt, seed=seed).image)
    return {"subject": found.pop("subjects")[0], **found}


@lru_cache
def _studio():
    from .studio import load

    return load("text-to-image", "mini", "cpu")


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
