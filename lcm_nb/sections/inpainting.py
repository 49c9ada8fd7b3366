"""The guide's section "Inpainting"."""

from ..settings import Setting
from .section import DRAWN, STEPS, Section, guidance, mask, picture, prompt

SECTION = Section(
    name="inpainting",
    notebook="10_inpainting",
    title="Inpainting",
    settings={
        "prompt": prompt(
            "concept art digital painting of an elven castle, inspired by lord of the rings, highly detailed, 8k"
        ),
        "image": picture("what to draw into"),
        "mask_image": mask("white where to draw anew"),
        "num_inference_steps": STEPS,
        "strength": Setting(
            1.0, "how much noise covers what is drawn anew; steps x strength UNet steps run", 0.05, 1.0, 0.05
        ),
        "guidance_scale": guidance(4.0),
        **DRAWN,
    },
    pipelines={"sd": "AutoPipelineForInpainting"},
)
