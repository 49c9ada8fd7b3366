"""A sheet of pictures for a reader who sees nothing else, and who says which subject each shows.

The first run draws ``work/blind/sheet.png`` and keeps the answers apart, in ``work/blind-key/key.json``.
Once the reader's names are in ``work/blind/names.txt``, one a line, the same command counts the right ones.
"""

import itertools
import json
from pathlib import Path

import cv2
import numpy as np
import torch
from diffusers.utils import make_image_grid
from PIL import Image

from ..models.vocabulary import SYNONYMS
from ..tutorial.captions import scene_at
from ..tutorial.measure import SEED, generate
from . import data
from .loop import Settings
from .measure_samplers import arrange, load_pipelines
from .shape import as_pictures

STREAM = 77  # its captions are in no other table
COLUMNS, STEPS = 8, 4


def run(settings: Settings) -> Path:
    """Draw the sheet of ``settings.steps`` held-out captions at 4 LCM steps, or count a reader's right names."""
    folder, key = settings.work / "blind", settings.work / "blind-key" / "key.json"
    names = folder / "names.txt"
    if names.exists() and key.exists():
        found = count_right(names.read_text().splitlines(), json.loads(key.read_text()))
        (folder / "result.json").write_text(json.dumps(found, indent=1) + "\n")
        print(f"{len(found['right'])} of {found['pictures']} right; wrong: {found['wrong']}")
        return folder
    scenes = [(scene, text) for scene, text in itertools.islice(_held_out(settings.work), settings.steps)]
    pipe = load_pipelines(settings.work)["LCM"]
    arrange(pipe, torch.channels_last)
    drawn = as_pictures(generate(pipe, [text for _, text in scenes], STEPS))
    for path in (folder, key.parent):
        path.mkdir(parents=True, exist_ok=True)
    sheet(drawn).save(folder / "sheet.png")
    key.write_text(json.dumps([{"subject": scene.subjects[0], "caption": text} for scene, text in scenes], indent=1))
    return folder


def _held_out(work: Path):
    trained = set(data.captions(work))
    stream = (scene_at(SEED + STREAM, i, held_out=True, subjects=1) for i in itertools.count())
    return (case for case in stream if case[1] not in trained)


def sheet(pictures: list[np.ndarray]) -> Image.Image:
    """Return the pictures (H, W, 3) in rows of eight, each with its number."""
    for number, picture in enumerate(pictures, 1):
        for colour, width in (((255, 255, 255), 4), ((0, 0, 0), 1)):
            cv2.putText(picture, str(number), (6, 24), cv2.FONT_HERSHEY_SIMPLEX, 0.7, colour, width, cv2.LINE_AA)
    rows = -(-len(pictures) // COLUMNS)
    blank = [Image.new("RGB", pictures[0].shape[1::-1], "white")] * (rows * COLUMNS - len(pictures))
    return make_image_grid([*map(Image.fromarray, pictures), *blank], rows=rows, cols=COLUMNS)


def result(work: Path, folder: Path) -> dict | None:
    """Return what a reader got right, None where nobody has read; the sheet goes to ``folder`` at half size."""
    path = work / "blind" / "result.json"
    if not path.exists():
        return None
    Image.open(work / "blind" / "sheet.png").reduce(2).save(folder / "blind.jpg", quality=85)
    return json.loads(path.read_text())


def card_part(found: dict) -> str:
    """Return the model card's part on what a reader got right."""
    said = {row["number"]: f'"{row["said"]}"' if row["said"].strip("-") else "no name" for row in found["wrong"]}
    wrong = ", ".join(f"{row['number']} ({row['subject']}: {said[row['number']]})" for row in found["wrong"])
    return f"""
## What a reader sees

A reader who knew which subjects there are, but saw nothing except this sheet of {found["pictures"]} held-out captions
at {STEPS} steps, named {len(found["right"])} of them right. Not right: {wrong or "none"}.

![Numbered sheet of small illustrated scenes](blind.jpg)
"""


def count_right(names: list[str], key: list[dict]) -> dict:
    """Compare a reader's names with the subjects; a synonym of the captions is as good, case and articles aside.

    Raises
    ------
    ValueError
        If there is not one name for each picture.
    """
    if len(names) != len(key):
        raise ValueError(f"{len(names)} names for {len(key)} pictures; write one name a line, a dash where unsure")
    right, wrong = [], []
    for number, (name, row) in enumerate(zip(names, key, strict=True), 1):
        said = name.strip().lower().removeprefix("a ").removeprefix("an ").removeprefix("the ")
        accepted = {row["subject"], *SYNONYMS.get(row["subject"], ())}
        if said in accepted:
            right.append(number)
        else:
            wrong.append({"number": number, "said": said, "subject": row["subject"]})
    return {"pictures": len(key), "right": right, "wrong": wrong}
