"""Draw the gallery: every setting of every section, at a few values, with everything else left as it is."""

import html
from pathlib import Path

import lcm_nb
from lcm_nb.sections import SECTIONS, section_for

# What to draw each setting at. A section that comes later needs a row for what it adds.
VALUES = {
    "prompt": ["a cute fox in a meadow", "an owl in the snow", "a robot in a city", "a whale on a beach"],
    "num_inference_steps": [1, 2, 4, 8],
    "guidance_scale": [1.0, 5.0, 8.0, 14.0],
    "seed": [0, 1, 2, 3],
    "strength": [0.25, 0.5, 0.75, 1.0],
    "papercut": [0.0, 0.5, 1.0, 1.5],
    "neon": [0.0, 0.5, 1.0, 1.5],
    "low_threshold": [0, 50, 100, 200],
    "high_threshold": [200, 300, 400, 600],
    "controlnet_conditioning_scale": [0.0, 0.5, 1.0, 2.0],
    "adapter_conditioning_scale": [0.0, 0.4, 0.8, 1.6],
    "adapter_conditioning_factor": [0.25, 0.5, 0.75, 1.0],
    "detect_edges": [True, False],
}
WITHOUT = {"image", "mask_image", "num_images", "negative_prompt"}  # given, counting, or without effect: no sweep
BESIDE = {"seed": {"prompt": VALUES["prompt"][0]}, "neon": {"prompt": "neon, a cute fox", "papercut": 0.0}}
INTRODUCTION = """# What each setting does

Every row changes one setting and leaves everything else alone: the mini models drew it when this page was built. The
settings of a section are those of its panel and of `studio.generate`; what several sections share is shown once.
"""


def draw(out: Path) -> None:
    """Write ``gallery.md`` and its pictures into a folder."""
    out.mkdir(parents=True, exist_ok=True)
    text, shown = [INTRODUCTION], set(WITHOUT)
    for name in SECTIONS:
        section = section_for(name)
        new = [setting for setting in section.settings if setting not in shown]
        shown |= set(new)
        if missing := [setting for setting in new if setting not in VALUES]:
            raise ValueError(f"docs/site/gallery.py has no values for {missing}, settings of {name}; add them.")
        print(f"Gallery: {name}", flush=True)
        studio = lcm_nb.load(name, profile="mini", device="cpu")
        text += [f"## {section.title}\n\nIn [its notebook](notebooks/{section.notebook}.ipynb), with more words.\n"]
        text += [_row(studio, section.settings[setting], setting, out) for setting in new]
    (out / "gallery.md").write_text("\n".join(text), encoding="utf-8")


def _row(studio, spec, setting: str, out: Path) -> str:
    """Draw a setting's row and return it as Markdown."""
    figures = []
    for number, value in enumerate(VALUES[setting]):
        result = studio.generate(**BESIDE.get(setting, {}), **{setting: value})
        file = f"{studio.section}-{setting}-{number}.webp"
        result.image.save(out / file, quality=85, method=6)
        label = html.escape(str(value))
        alt = html.escape(f"{result.settings['prompt']}, drawn with {setting} = {value}")
        size = f'width="{result.image.width}" height="{result.image.height}"'
        image = f'<img loading="lazy" {size} alt="{alt}" src="gallery/{file}">'
        figures.append(f"<figure>{image}<figcaption>{label}</figcaption></figure>")
    row = "\n".join(figures)
    return f'### `{setting}`\n\n{spec.help[:1].upper()}{spec.help[1:]}.\n\n<div class="row">\n{row}\n</div>\n'
