"""The guide's section "LoRA": styles on top of the text-to-image model."""

from ..settings import Setting
from .section import DRAWN, STEPS, Section, guidance, prompt

STYLES = ("papercut", "neon")


def _scale(style: str) -> Setting:
    default = 1.0 if style == "papercut" else 0.0
    return Setting(default, f"how strongly the {style} LoRA acts", 0.0, 2.0, 0.1, role="lora")


SECTION = Section(
    name="style-lora",
    notebook="03_style_lora",
    title="Style LoRA",
    settings={
        "prompt": prompt("papercut, a cute fox"),
        **{style: _scale(style) for style in STYLES},
        "num_inference_steps": STEPS,
        "guidance_scale": guidance(8.0),
        **DRAWN,
    },
    pipelines={"xl": "StableDiffusionXLPipeline"},
    mini={"loras": "loras"},
    examples=(
        "papercut, a cute fox",
        "papercut, a castle at sunset",
        "papercut, an owl in a forest",
        "neon, a cat in a city",
        "neon, a guitar on a black background",
    ),
)
