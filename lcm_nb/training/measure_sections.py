"""Measure what the guide's other sections do: controls, style LoRAs, image-to-image, and the SD family."""

from pathlib import Path

import cv2
import numpy as np
import torch
from diffusers import DDIMScheduler, LCMScheduler, UNet2DConditionModel
from diffusers.utils import make_image_grid
from PIL import Image
from torch import nn
from tqdm import tqdm

from ..models.checkpoints import Checkpoints, mini_checkpoints
from ..models.device import resolve_device
from ..models.judge import Judge
from ..models.plans import plan_for
from ..pictures import canny
from ..runtimes.code import LCM_LORA
from ..runtimes.diffusers import load_pipeline, scaled
from ..sections import section_for
from ..sections.style_lora import STYLES
from ..tutorial import measure as measuring
from ..tutorial.captions import labels, scene_at, styled_scene_at
from ..tutorial.measure import GUIDANCE, accuracies, as_pictures, judge_pictures
from . import data
from .loop import FLOAT32, fingerprint, made_by
from .measure_samplers import TEACHER_GUIDANCE, arrange
from .rows import Rows
from .scenes import Painter
from .teacher import FAMILIES

SEED = 4_000_037  # neither training nor the judge nor the other tables see this stream
CASES = 500
STEPS = 4
SCALES = (0.0, 0.25, 0.5, 0.75, 1.0)
STRENGTHS = (0.25, 0.5, 0.75, 1.0)
TEACHER_STEPS = 25
# scale of the LCM-LoRA, steps, guidance
LORA_RUNS = ((0.0, 1, 1.0), (0.0, 4, 1.0), (1.0, 1, 1.0), (1.0, 2, 1.0), (1.0, 4, 1.0), (1.0, 4, 1.5), (1.0, 4, 2.0))
SCALE_OF = {"controlnet": "controlnet_conditioning_scale", "t2i-adapter": "adapter_conditioning_scale"}


def measure(work: Path, *, resume: bool = False, cases: int = CASES) -> dict[str, list[dict]]:
    """Return the card's rows for each section."""
    judge = Judge.from_pretrained(made_by("judge", work / "judge")).eval()
    kept = Rows(work / "evaluate" / "sections.jsonl", resume=resume)
    found = {section: rows(section, work, judge, kept, cases) for section, rows in MEASURED.items()}
    return found | {"families": families(work, judge, kept, cases), "lcm-lora": lcm_lora(work, judge, kept, cases)}


def lcm_lora(work: Path, judge: Judge, kept: Rows, cases: int) -> list[dict]:
    """Return the judge's accuracies for SD's base with the LCM-LoRA, and without it, by steps and guidance."""
    captions, rows, _ = held_out(work, cases)
    plan = plan_for("text-to-image", "lcm-lora-sdv1-5")
    pipe = load_pipeline(plan.section, mini_checkpoints(plan, resolve_device(), work))
    pipe.set_progress_bar_config(disable=True)
    arrange(pipe, torch.channels_last)
    table, case = [], {"section": "lcm-lora", "cases": cases, "weights": weights_of(pipe, judge)}
    for scale, steps, guidance in LORA_RUNS:

        def measure(scale=scale, steps=steps, guidance=guidance) -> dict:
            pipe.set_adapters(LCM_LORA, scale)
            return judged(judge, measuring.generate(pipe, captions, steps, guidance), rows)

        table.append(kept.row(case | {"scale": scale, "steps": steps, "guidance": guidance}, measure))
    return table


def families(work: Path, judge: Judge, kept: Rows, cases: int) -> list[dict]:
    """Return the judge's accuracies for the teacher and the LCM of both families."""
    captions, rows, _ = held_out(work, cases)
    table = []
    for name, family in FAMILIES.items():
        pipe = family.pipeline.from_pretrained(work / family.base, **FLOAT32)
        pipe.set_progress_bar_config(disable=True)
        lcm = UNet2DConditionModel.from_pretrained(work / family.lcm, subfolder=family.lcm_unet, **FLOAT32)
        runs = {
            "teacher": (pipe.unet, DDIMScheduler, TEACHER_STEPS, TEACHER_GUIDANCE),
            "LCM": (lcm, LCMScheduler, STEPS, GUIDANCE),
        }
        for kind, (unet, scheduler, steps, guidance) in runs.items():
            pipe.unet, pipe.scheduler = unet, scheduler.from_config(pipe.scheduler.config)
            arrange(pipe, torch.channels_last)
            case = {"family": name, "model": kind, "steps": steps, "cases": cases, "weights": weights_of(pipe, judge)}

            def measure(pipe=pipe, steps=steps, guidance=guidance) -> dict:
                return accuracies(judge_pictures(judge, measuring.generate(pipe, captions, steps, guidance))[0], rows)

            table.append(kept.row(case, measure))
    return table


def weights_of(pipe, judge: Judge) -> str:
    """Return a fingerprint of all that decides a row."""
    return fingerprint(*(part for part in pipe.components.values() if isinstance(part, nn.Module)), judge)


def held_out(work: Path, cases: int) -> tuple[list[str], list[dict], list[np.ndarray]]:
    """Return captions, labels and pictures (256, 256, 3) of held-out scenes with one subject each."""
    painter = Painter(data.icons(work))
    scenes = [scene_at(SEED, i, held_out=True, subjects=1) for i in range(cases)]
    return (
        [caption for _, caption in scenes],
        [labels(scene) for scene, _ in scenes],
        [painter.draw(scene) for scene, _ in scenes],
    )


def controls(section: str, work: Path, judge: Judge, kept: Rows, cases: int) -> list[dict]:
    """Return, for each scale, how well edges are kept and how often the subject is right."""
    pipe, scale = load(section, work), SCALE_OF[section]
    captions, rows, drawn = held_out(work, cases)
    maps = [canny(Image.fromarray(picture)) for picture in drawn]

    def at(value: float) -> dict:
        pictures = generate(section, pipe, captions, maps, **{scale: value})
        found = [canny(picture) for picture in as_pictures(pictures)]
        f1 = [edge_f1(np.array(a)[..., 0], np.array(b)[..., 0]) for a, b in zip(maps, found, strict=True)]
        return {"edge_f1": float(np.mean(f1)), **judged(judge, pictures, rows)}

    case = {"section": section, "cases": cases, "weights": weights_of(pipe, judge)}
    return [kept.row(case | {"scale": value}, at, value) for value in tqdm(SCALES, desc=section)]


def loras(section: str, work: Path, judge: Judge, kept: Rows, cases: int) -> list[dict]:
    """Return, for each style and scale, how often the judge sees the style, and the subject."""
    pipe, names = load(section, work), names_of(section, work)
    if unknown := set(STYLES) - set(judge.config.mediums):
        raise ValueError(f"the judge does not know {', '.join(sorted(unknown))}; train it again.")

    def at(scales: dict[str, float]) -> dict:
        scenes = [styled_scene_at(SEED, i, ", ".join(scales), held_out=True, subjects=1) for i in range(cases)]
        with scaled(pipe, section_for(section), names, dict.fromkeys(STYLES, 0.0) | scales):
            pictures = generate(section, pipe, [caption for _, caption in scenes])
        scores, _ = judge_pictures(judge, pictures)
        seen = [judge.config.mediums[i] for i in scores["medium"].argmax(1).tolist()]
        shares = {f"seen_{name}": seen.count(name) / cases for name in STYLES}
        return {**shares, "subject": accuracies(scores, [labels(scene) for scene, _ in scenes])["subject"]}

    runs = [{style: scale} for style in STYLES for scale in SCALES] + [dict.fromkeys(STYLES, 0.5)]
    case = {"section": section, "cases": cases, "weights": weights_of(pipe, judge)}
    return [kept.row(case | {"scales": run}, at, run) for run in tqdm(runs, desc=section)]


def strengths(section: str, work: Path, judge: Judge, kept: Rows, cases: int) -> list[dict]:
    """Return, for each strength, how like its init a picture is, and how often it shows its prompt.

    The init of each prompt is the picture of another scene.
    """
    pipe = load(section, work)
    captions, rows, drawn = held_out(work, cases)
    images = [Image.fromarray(picture) for picture in drawn[1:] + drawn[:1]]

    def at(strength: float) -> dict:
        pictures = generate(section, pipe, captions, images, strength=strength)
        alike = [
            layout_similarity(np.asarray(a), np.asarray(b)) for a, b in zip(images, as_pictures(pictures), strict=True)
        ]
        return {"layout": float(np.mean(alike)), **judged(judge, pictures, rows)}

    case = {"section": section, "cases": cases, "weights": weights_of(pipe, judge)}
    return [kept.row(case | {"strength": value}, at, value) for value in tqdm(STRENGTHS, desc=section)]


MEASURED = {
    "image-to-image": strengths,
    "style-lora": loras,
    "controlnet": controls,
    "t2i-adapter": controls,
}


def contact_sheet(section: str, work: Path, count: int) -> Image.Image:
    """Return a sheet of held-out cases: what is given in the first row, and a row for each run below."""
    pipe = load(section, work)
    captions, _, drawn = held_out(work, count)
    given = [Image.fromarray(picture) for picture in drawn]
    if section == "image-to-image":
        given = given[1:] + given[:1]
        rows = [given] + [as_pictures(generate(section, pipe, captions, given, strength=value)) for value in STRENGTHS]
    elif section == "style-lora":
        rows = []
        for scales in ({}, *({style: 1.0} for style in STYLES), dict.fromkeys(STYLES, 0.5)):
            with scaled(pipe, section_for(section), names_of(section, work), dict.fromkeys(STYLES, 0.0) | scales):
                prompts = [", ".join([*scales, caption]) for caption in captions]
                rows.append(as_pictures(generate(section, pipe, prompts)))
    else:
        given = [canny(picture) for picture in given]
        scale = SCALE_OF[section]
        runs = [generate(section, pipe, captions, given, **{scale: value}) for value in (0.0, 0.5, 1.0)]
        rows = [given, *map(as_pictures, runs)]
    return make_image_grid([picture for row in rows for picture in row], rows=len(rows), cols=count)


def names_of(section: str, work: Path) -> Checkpoints:
    """Return a section's checkpoints in a working folder."""
    return mini_checkpoints(plan_for(section), resolve_device(), work)


def load(section: str, work: Path):
    """Return a section's pipeline with the checkpoints of a working folder."""
    pipe = load_pipeline(section_for(section), names_of(section, work))
    pipe.set_progress_bar_config(disable=True)
    arrange(pipe, torch.channels_last)
    return pipe


def generate(section: str, pipe, prompts: list[str], images: list | None = None, **options) -> torch.Tensor:
    """Return (N, 3, H, W) pictures in 0..1 at the section's own guidance."""
    guidance = section_for(section).settings["guidance_scale"].default
    return measuring.generate(pipe, prompts, STEPS, guidance, images=images, **options)


def judged(judge: Judge, pictures: torch.Tensor, rows: list[dict]) -> dict[str, float]:
    """Return the judge's accuracies."""
    return accuracies(judge_pictures(judge, pictures)[0], rows)


def edge_f1(wanted: np.ndarray, found: np.ndarray, *, tolerance: int = 2) -> float:
    """Return the harmonic mean of precision and recall of edge pixels, (H, W) uint8 maps.

    An edge pixel is met if the other map has one at most ``tolerance`` pixels away in
    each direction.
    """
    near = np.ones((2 * tolerance + 1,) * 2, np.uint8)
    precision = _share((found > 0) & (cv2.dilate(wanted, near) > 0), found > 0)
    recall = _share((wanted > 0) & (cv2.dilate(found, near) > 0), wanted > 0)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _share(part: np.ndarray, whole: np.ndarray) -> float:
    return float(part.sum() / max(whole.sum(), 1))


def layout_similarity(first: np.ndarray, second: np.ndarray) -> float:
    """Return the correlation of two (H, W, 3) pictures' colours at 8 x 8 pixels, -1 to 1."""
    small = [cv2.resize(picture, (8, 8), interpolation=cv2.INTER_AREA).astype(float) for picture in (first, second)]
    return float(np.corrcoef(small[0].ravel(), small[1].ravel())[0, 1])
