"""Put the family that ships into the working folder, so that training can go on from it."""

import shutil
from pathlib import Path

from .loop import Settings
from .ship import PARTS, TARGET

NOT_MODELS = ("card", "shard", "examples")


def run(settings: Settings) -> Path:
    """Copy the models from the package to ``settings.work``; folders that are there already stay."""
    models = {name: TARGET / name for name in PARTS if name not in NOT_MODELS}
    for name, source in {"vae": TARGET / "base" / "vae", **models}.items():
        if not (settings.work / name).exists():
            shutil.copytree(source, settings.work / name)
    return settings.work
