"""The guide's section "Text-to-image"."""

from .section import DRAWN, STEPS, Section, guidance, prompt

SECTION = Section(
    name="text-to-image",
    notebook="01_text_to_image",
    title="Text-to-image",
    settings={
        "prompt": prompt("Self-portrait oil painting, a beautiful cyborg with golden hair, 8k"),
        "num_inference_steps": STEPS,
        "guidance_scale": guidance(8.0),
        **DRAWN,
    },
    pipelines={"xl": "StableDiffusionXLPipeline", "sd": "StableDiffusionPipeline"},
)
