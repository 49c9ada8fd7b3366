"""The guide's section "ControlNet"."""

from ..settings import Setting
from . import edges
from .section import DRAWN, STEPS, Section, guidance, prompt

SECTION = Section(
    name="controlnet",
    notebook="04_controlnet",
    title="ControlNet",
    settings={
        "prompt": prompt("the mona lisa"),
        **edges.SETTINGS,
        "num_inference_steps": STEPS,
        "guidance_scale": guidance(7.5),
        "controlnet_conditioning_scale": Setting(1.0, "how strongly the edges bind", 0.0, 2.0, 0.05, label="control"),
        **DRAWN,
    },
    pipelines={"sd": "StableDiffusionControlNetPipeline"},
    mini={"controlnet": "controlnet-canny"},
    options={"safety_checker": None},
    preparation=edges.EDGES,
    example_size=(512, 512),
)
