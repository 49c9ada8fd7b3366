"""The guide's section "T2I-Adapter"."""

from ..settings import Setting
from . import edges
from .section import DRAWN, STEPS, Section, guidance, prompt

SECTION = Section(
    name="t2i-adapter",
    notebook="05_t2i_adapter",
    title="T2I-Adapter",
    settings={
        "prompt": prompt("Mystical fairy in real, magic, 4k picture, high quality"),
        "negative_prompt": Setting(
            "extra digit, fewer digits, cropped, worst quality, low quality, glitch, deformed, mutated, ugly, "
            "disfigured",
            "what the guide passes",
            kind="text",
            optional=True,
            inert="no effect: a full LCM embeds guidance, and runs nothing that a negative prompt could change",
            label="negative",
        ),
        **edges.SETTINGS,
        "num_inference_steps": STEPS,
        "guidance_scale": guidance(5.0),
        "adapter_conditioning_scale": Setting(0.8, "how strongly the edges bind", 0.0, 2.0, 0.05, label="adapter"),
        "adapter_conditioning_factor": Setting(
            1.0, "for which share of the steps, from the first, the edges bind", 0.0, 1.0, 0.05, label="factor"
        ),
        **DRAWN,
    },
    pipelines={"xl": "StableDiffusionXLAdapterPipeline"},
    mini={"adapter": "t2i-adapter-canny"},
    preparation=edges.EDGES,
)
