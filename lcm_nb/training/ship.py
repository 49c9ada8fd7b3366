"""Last stage: put the trained family where the package ships it from."""

import json
import shutil
from pathlib import Path

from PIL import Image, ImageDraw

from ..models.hashes import write_hashes
from . import data
from .loop import Settings, made_by
from .scenes import Painter, Scene

TARGET = Path(__file__).parents[1] / "mini"
PARTS = {  # folder -> its stage
    "base": "teacher",
    "lcm": "distill",
    "sd": "teacher --family sd",
    "sd-lcm": "distill --family sd",
    "controlnet-canny": "controlnet",
    "t2i-adapter-canny": "adapter",
    "loras": "lora",
    "lcm-lora": "lcm_lora",
    "sd-loras": "lora --family sd",
    "shard": "budgets",
    "judge": "judge",
    "card": "evaluate",
    "examples": "evaluate",
}
MASK = (32, 16, 223, 223)  # pixels of the inpainting example, left, top, right and bottom, to draw anew
LIMIT_MB = 100  # PyPI takes no larger file
# section -> subject, setting and medium of the picture that it starts from; a painting's strokes give canny a choice
EXAMPLES = {
    "image-to-image": ("robot", "beach", None),
    "inpainting": ("robot", "beach", None),
    "controlnet": ("panda", "meadow", "oil painting"),
    "t2i-adapter": ("fairy", "forest", "oil painting"),
}


def run(settings: Settings) -> Path:
    """Replace ``lcm_nb/mini`` by what the stages left in ``settings.work``; a smoke run leaves it alone.

    Raises
    ------
    FileNotFoundError
        If a stage has not run.
    ValueError
        If the files are larger together than the package may carry; nothing is replaced then.
    """
    return ship(settings.work, settings.work / "shipped" if settings.smoke else TARGET)


def megabytes(work: Path) -> float:
    """Return the size of what there is to ship."""
    files = (file for name in PARTS for file in (work / name).rglob("*") if file.is_file())
    return sum(file.stat().st_size for file in files) / 1e6


def ship(work: Path, target: Path) -> Path:
    """Copy the parts from ``work`` to ``target``; the card's files go to its top."""
    folders = {name: made_by(stage, work / name) for name, stage in PARTS.items()}
    size = megabytes(work)
    if size > LIMIT_MB:
        raise ValueError(f"the family takes {size:.1f} MB, and the package may carry {LIMIT_MB} MB; make it smaller")
    shutil.rmtree(target, ignore_errors=True)
    for name, folder in folders.items():
        shutil.copytree(folder, target if name == "card" else target / name, dirs_exist_ok=True)
    forget_origins(target)
    write_hashes(target)
    print(f"{size:.1f} MB in {target}")
    return target


def forget_origins(folder: Path) -> None:
    """Drop from saved configs the folder that a model was loaded from: it is one of this computer's."""
    for path in folder.rglob("config.json"):
        config = json.loads(path.read_text())
        if config.pop("_name_or_path", None):
            path.write_text(json.dumps(config, indent=2) + "\n")


def draw_examples(work: Path, folder: Path) -> None:
    """Paint the picture that each section starts from when it is given none."""
    painter = Painter(data.icons(work))
    folder.mkdir(exist_ok=True)
    for section, (subject, background, medium) in EXAMPLES.items():
        scene = Scene((subject,), (None,), background, background_named=True, palette=None, medium=medium, seed=2)
        Image.fromarray(painter.draw(scene)).save(folder / f"{section}.png")
    draw_mask(folder)


def draw_mask(folder: Path) -> None:
    """Draw the mask of the inpainting section's picture."""
    with Image.open(folder / "inpainting.png") as picture:
        mask = Image.new("L", picture.size, 0)
    ImageDraw.Draw(mask).rectangle(MASK, fill=255)
    mask.save(folder / "inpainting-mask.png")
