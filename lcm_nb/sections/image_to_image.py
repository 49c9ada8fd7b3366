"""The guide's section "Image-to-image"."""

from ..settings import Setting
from .section import DRAWN, STEPS, Section, guidance, picture, prompt

SECTION = Section(
    name="image-to-image",
    notebook="02_image_to_image",
    title="Image-to-image",
    settings={
        "prompt": prompt("Astronauts in a jungle, cold color palette, muted colors, detailed, 8k"),
        "image": picture("what to start from"),
        "num_inference_steps": STEPS,
        "strength": Setting(0.5, "how much noise covers the picture; steps x strength UNet steps run", 0.05, 1.0, 0.05),
        "guidance_scale": guidance(7.5),
        **DRAWN,
    },
    pipelines={"sd": "AutoPipelineForImage2Image"},
)
