"""The questions that stand before a run, "Predict P1.1" and so on: which answer is right, and what helps to find it.

Question and choices stand in the notebook, where they are read; here is what :func:`lcm_nb.tutorial.checks.predict`
needs. A truth that hangs on measured figures is read from them, so that new figures change it.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

FIGURES = Path(__file__).parents[1] / "mini" / "figures.json"  # of the model card


@dataclass(frozen=True)
class Question:
    """A question with a few choices.

    ``right`` is the letter of the right one, or a function that finds it in what was measured; ``why`` says what
    makes it right. ``hints`` are three, for the first, the second, and every later wrong answer.
    """

    right: str | Callable[[], str]
    hints: tuple[str, str, str]
    why: str
    choices: str = "abc"

    @property
    def letter(self) -> str:
        """The letter of the right choice."""
        return self.right if isinstance(self.right, str) else self.right()


def _crossing() -> str:
    """Return at how many equal steps DDIM has first the lower Frechet distance: a at 1 or 2, b at 4 or 8, c later."""
    rows = json.loads(FIGURES.read_text())["table"]
    of = {(row["sampler"], row["steps"]): row["frechet"] for row in rows}
    crossed = (steps for steps in (1, 2, 4, 8) if of["DDIM", steps] <= of["LCM", steps])
    return {1: "a", 2: "a", 4: "b", 8: "b"}.get(next(crossed, 0), "c")


def _worst_ablation() -> str:
    """Return without which part one step falls furthest: a the average, b the skip, c the sampled guidance."""
    runs = json.loads(FIGURES.read_text())["own"]
    letters = {"no EMA target": "a", "skip 1": "b", "w fixed at 7": "c"}
    lowest = {
        letters[run["variant"]]: min(point["1"]["subject"] for point in run["points"])
        for run in runs
        if run.get("variant") in letters
    }
    return min(lowest, key=lowest.__getitem__)


QUESTIONS = {
    "P1.1": Question(
        "b",
        (
            "f answers with a clean latent, from wherever it starts.",
            "there is no noise left in what f returns, and the prompt is whole at every step; what does a jump from "
            "pure noise not know yet?",
            "many clean pictures fit the same noise, and one jump lands between them; what cancels out there?",
        ),
        "one jump lands between all pictures that fit; later steps start from less noise, where fewer fit.",
    ),
    "P1.2": Question(
        "a",
        (
            "what does the seed decide, and what does the guidance scale?",
            "the noise is the same in all four pictures, and it is the noise that places things.",
            "w only says how strongly to follow the prompt; think of the knob for contrast.",
        ),
        "the same noise gives the same layout; w changes how strongly it is drawn.",
    ),
    "P2.1": Question(
        "c",
        (
            "the pipeline runs the last int(steps * strength) of its steps.",
            "four steps are asked for; multiply 4 by each strength.",
            "int(4 * 0.25) is 1; go on with 0.5, 0.75 and 1.0.",
        ),
        "int(4 * strength) of the four steps run, the last ones.",
    ),
    "P2.2": Question(
        "b",
        (
            "both start at 499, so both begin with the same share of the picture.",
            "what happens to a latent at every step after the first?",
            "each further step adds new noise and draws anew what the one before has left; which run has more of them?",
        ),
        "from the same start, every further step covers with noise and draws anew.",
    ),
    "P3.1": Question(
        "b",
        (
            "which of the two changes weights?",
            "the base was never trained with the word; a word without a meaning brings what?",
            "the LoRA's numbers are added to every layer, whatever the prompt says.",
        ),
        "the LoRA is in the weights and acts whatever the prompt says; the base has never read the word.",
    ),
    "P3.2": Question(
        "c",
        (
            "look at the formula: where does s stand?",
            "s multiplies every number that the LoRA adds, all of them at once.",
            "a multiple of all numbers is a weaker or stronger change everywhere, not one in a part of the picture.",
        ),
        "s multiplies all that the LoRA adds: less is paler everywhere, more than 1.0 exaggerates.",
    ),
    "P3.3": Question(
        "a",
        (
            "what does set_adapters do with the two changes?",
            "they are added, W + B1 A1 + B2 A2; nothing is divided by two.",
            "each LoRA was trained alone; what has neither of them ever seen?",
        ),
        "the sum is more than either LoRA has seen: nothing keeps them in balance, and one may drown the other.",
    ),
    "P4.1": Question(
        "a",
        (
            "which of the two says where lines go?",
            "the ControlNet adds what it reads from the map at every step, whatever the prompt is.",
            "the map decides on shapes; what is left for the words?",
        ),
        "the map says where, the prompt says what: words fill the outlines that are given.",
    ),
    "P4.2": Question(
        "b",
        (
            "the scale s multiplies what the copy adds.",
            "at 0 nothing is added; between 0 and 1, something between nothing and all.",
            "a number that multiplies is no switch; and beyond 1.0, what would 1.5 times the addition do?",
        ),
        "s multiplies the additions: at 0 the prompt is alone, and the map binds the more, the larger s is.",
    ),
    "P4.3": Question(
        "c",
        (
            "an edge begins where the gradient exceeds the high threshold.",
            "a higher bar is passed by fewer pixels.",
            "lines have the same width at all thresholds; what differs is how many of them pass.",
        ),
        "a higher bar leaves the strong outlines, and drops the strokes of the brush.",
    ),
    "P5.1": Question(
        "a",
        (
            "the adapter adds what it reads at the place where it reads it.",
            "the adapter does not know what a fairy is; can it tell that a map was pressed?",
            "what is drawn takes its shape from the lines of the map.",
        ),
        "the figure takes the map's proportions; nobody in the loop knows that they are wrong.",
    ),
    "P5.2": Question(
        "b",
        (
            "one of the two settings multiplies, the other one counts.",
            "the factor is the share of the steps at which the feature maps are added.",
            "0.25 of four steps, and 0.5 of four steps; count them.",
        ),
        "0.25 of four steps is the first alone, 0.5 the first two; the strength is the scale's.",
    ),
    "P6.1": Question(
        "c",
        (
            "c_skip = 0.25 / ((10 t)^2 + 0.25); put a choice in for t.",
            "at t = 19 it is 0.25 / (36,100 + 0.25); is that the first t below one percent?",
            "it is one percent where (10 t)^2 is 99 times 0.25; solve for t.",
        ),
        "(10 t)^2 = 24.75 at t = 0.497: half a timestep from the clean end.",
    ),
    "P6.2": Question(
        "a",
        (
            "what was the LCM trained to answer from pure noise, and what the base?",
            "from pure noise an ordinary model can only predict the mean of all pictures that fit.",
            "a mean is blurred, and guidance exaggerates the difference of two means; who is left?",
        ),
        "f leads to a clean end from anywhere; the base predicts a mean, which guidance only makes glaring.",
    ),
    "P6.3": Question(
        "b",
        (
            "where does a negative prompt go, in classifier-free guidance?",
            "it takes the place of the run without the prompt; which of the two has such a run?",
            "the LCM's UNet is called with one latent a step: there is no second one for a negative prompt.",
        ),
        "only the base has a second latent, and that is where a negative prompt acts.",
    ),
    "P6.4": Question(
        _crossing,
        (
            "at one step an ordinary sampler has a blurred mean; what does each further step bring to either?",
            "in the paper's table, how far apart are the two at 8 steps?",
            "go up from one step, doubling: is DDIM's distance ever the lower one of the two at the same number?",
        ),
        "few steps are the LCM's; each further one brings an ordinary sampler nearer, on easy scenes soon very near.",
    ),
    "P6.5": Question(
        "b",
        (
            "how long are the bars with 24 pictures, against how far apart the samplers are?",
            "of 24 pictures each is 4 percent; which of the differences are many times that?",
            "compare the gap at one step with the gap at four.",
        ),
        "the gap at one step is many bars wide; what is a few percent apart takes a thousand captions.",
    ),
    "P7.1": Question(
        "c",
        (
            "a scheduler decides where the UNet is asked; does it change what the UNet answers?",
            "the LCM's scheduler takes each answer for the clean end; whose answers are that?",
            "an undistilled UNet answers with a mean of many pictures, under every scheduler.",
        ),
        "the scheduler and the LoRA belong together: only the distilled answers are clean ends.",
    ),
    "P7.2": Question(
        "b",
        (
            "is there an input for w in this UNet?",
            "above 1.0 each step needs a prediction with the prompt and one without.",
            "the UNet works on two latents; do text encoder and decoder work twice, too?",
        ),
        "two latents a call, and less than twice the time: the text encoder and the decoder work once.",
    ),
    "P7.3": Question(
        "a",
        (
            "a negative prompt acts in the run without the prompt; from which scale on is there one?",
            "at 1.0 the formula leaves the prediction with the prompt alone.",
            "and how many latents a step does the full LCM take, at any scale?",
        ),
        "at 1.0, and for a full LCM at every scale, there is no second run for it to act in.",
    ),
    "P7.4": Question(
        "b",
        (
            "look at the first grid of this notebook: what does the LCM-LoRA do for the base?",
            "without it, the LCM's scheduler takes a mean of many pictures for the clean end.",
            "a mean has soft outlines and pale colours; does the paper show as early in it?",
        ),
        "the LCM-LoRA makes each answer a clean end; with less of it outlines and colours fade, and paper comes later.",
    ),
    "P8.1": Question(
        "a",
        (
            "the student has the teacher's weights; what does the teacher see in pure noise?",
            "one step gives the mean of all pictures that fit the caption.",
            "the mean is fog; and what do three more steps do, for a teacher that knows the captions?",
        ),
        "from pure noise a diffusion model predicts a mean; with more steps it draws, as the teacher does.",
    ),
    "P8.2": Question(
        _worst_ablation,
        (
            "which of the parts keeps the goal still while the student learns?",
            "with a small skip learning is slow, and with one w it is easier; what makes it go backwards?",
            "a student that is its own target chases itself.",
        ),
        "read from the stored curves: of the three, this one falls furthest below its start.",
    ),
    "P9.1": Question(
        "b",
        (
            "what does the velocity at a point know of its own path's end?",
            "it is a mean of all directions that could have led there; from pure noise, which are these?",
            "in pure noise every point of the data is equally likely, wherever the noise lies; what is their mean?",
        ),
        "from pure noise all of the data is equally likely, and the step leads to its mean.",
    ),
    "P9.2": Question(
        "c",
        (
            "what have DDIM, Euler and DPM-Solver++ in common: do they add noise?",
            "a flaw stays where nothing covers it; at which eta is nothing new added?",
            "at eta 1 the step is the LCM's own; look at the other end.",
        ),
        "at eta 0 the step is DDIM's: no new noise, and flaws of the first guess stay.",
    ),
    "P9.3": Question(
        "a",
        (
            "who calls the scheduler's step, and with which arguments?",
            "the pipeline has an argument eta of its own; its documentation says what for, and with which default.",
            "that default was made for DDIM without noise.",
        ),
        "the pipeline hands on its own default, 0.0; the scheduler's 0.3 is never used.",
    ),
}
