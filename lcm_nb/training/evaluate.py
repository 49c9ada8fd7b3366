"""Measure the family on held-out captions and write its model card."""

import json
from pathlib import Path

from ..tutorial import measure
from . import blind, budgets, card, measure_samplers, measure_sections, shape
from .loop import Settings, made_by
from .ship import draw_examples, megabytes


def run(settings: Settings) -> Path:
    """Measure, then write figures.json, sheets and MODEL_CARD.md to ``work/card``, and ``work/examples``."""
    work, size = settings.work, measure_samplers.SMOKE if settings.smoke else measure_samplers.Size()
    pipes = measure_samplers.load_pipelines(work)
    geometry = json.loads(made_by("geometry", work / "geometry.json").read_text())
    figures = measure_samplers.measure(work, pipes, size, resume=settings.resume)
    cases = 2 if settings.smoke else measure_sections.CASES
    figures["sections"] = measure_sections.measure(work, resume=settings.resume, cases=cases)
    small = dict(count=4, rows=shape.ROWS[:1]) if settings.smoke else {}
    figures["seen"] = shape.measure(work, pipes, resume=settings.resume, **small)
    figures["own"] = own_runs(work)
    figures |= dict(training=training_cost(work), geometry=geometry)
    if (work / "trial.json").exists():
        figures["trial"] = json.loads((work / "trial.json").read_text())
    figures["contact_sheet"] = measure_samplers.held_out_cases(work, 6 if settings.smoke else 24, 1)[0]
    folder = work / "card"
    folder.mkdir(exist_ok=True)
    for name, captions, columns in (
        ("contact_sheet", figures["contact_sheet"], 6),
        ("guide_prompts", card.GUIDE_PROMPTS, 5),
    ):
        measure.sheet(pipes["LCM"], captions, columns).save(folder / f"{name}.jpg", quality=88)
    for section in measure_sections.MEASURED:
        sheet = measure_sections.contact_sheet(section, work, 2 if settings.smoke else 8)
        sheet.save(folder / f"{section}.jpg", quality=88)
    figures["blind"] = blind.result(work, folder)
    draw_examples(work, work / "examples")
    figures["megabytes"] = megabytes(work)
    (folder / "figures.json").write_text(json.dumps(figures, indent=1) + "\n")
    card.write(folder, figures)
    return folder


def own_runs(work: Path) -> list[dict]:
    """Return what the stage "budgets" measured of the base that there is now.

    Raises
    ------
    ValueError
        If it was run for another one.
    """
    path, weights = made_by("budgets", work / "budgets" / "rows.jsonl"), budgets.weights_in(work)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows = [row for row in rows if row.get("weights", weights) == weights]  # the rate has none
    if not any("variant" in row for row in rows):
        raise ValueError(f"{path} is of another base: run `python -m lcm_nb.training budgets --resume` first")
    return rows


def training_cost(work: Path) -> list[dict]:
    """Return steps, minutes and samples of every stage that left a log, and of what was unpacked."""
    path = work / "training.json"
    rows = {row["stage"]: row for row in (json.loads(path.read_text()) if path.exists() else [])}
    for log in sorted(work.glob("*/log.jsonl")):
        lines = [json.loads(line) for line in log.read_text().splitlines()]
        losses = [line for line in lines if "loss" in line]
        psnrs = [line["psnr"] for line in lines if "psnr" in line]
        if losses:
            name = log.parent.name
            rows[name] = {"stage": name, **losses[-1], **({"psnr": psnrs[-1]} if psnrs else {})}
    return [rows[name] for name in sorted(rows)]
