"""Put the family that ships into the working folder, with what was measured of it: training goes on from there."""

import json
import shutil
from pathlib import Path

from .budgets import weights_in
from .loop import Settings
from .ship import PARTS, TARGET

NOT_TAKEN = ("card", "examples")


def run(settings: Settings) -> Path:
    """Copy the models, the shard and the measured rows to ``settings.work``; what is there already stays.

    ``evaluate --resume`` then measures anew only what other weights draw.
    """
    parts = {name: TARGET / name for name in PARTS if name not in NOT_TAKEN}
    for name, source in {"vae": TARGET / "base" / "vae", **parts}.items():
        if not (settings.work / name).exists():
            shutil.copytree(source, settings.work / name)
    lay_out(json.loads((TARGET / "figures.json").read_text()), settings.work)
    return settings.work


def lay_out(figures: dict, work: Path) -> None:
    """Write what ``evaluate`` measured of the shipped family to where the stages look for it."""
    base = {"weights": weights_in(TARGET)}
    table = [{name: value for name, value in row.items() if name != "seconds"} for row in figures["table"]]
    rows = {
        "evaluate/rows.jsonl": table + figures["guidance_trial"],
        "evaluate/sections.jsonl": [row for section in figures["sections"].values() for row in section],
        "budgets/rows.jsonl": [row | (base if "variant" in row else {}) for row in figures["own"]],
    }
    texts = {name: "".join(json.dumps(row) + "\n" for row in found) for name, found in rows.items()}
    texts |= {
        f"{name}.json": json.dumps(figures[name]) for name in ("geometry", "training", "trial") if name in figures
    }
    for name, text in texts.items():
        path = work / name
        path.parent.mkdir(exist_ok=True)
        if not path.exists():
            path.write_text(text)
