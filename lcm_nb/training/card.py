"""The model card, written from measured figures alone."""

import itertools
from collections.abc import Callable
from pathlib import Path

from ..models.vocabulary import COLOURS, MEDIUMS, PALETTES, PLAIN, SETTINGS, SUBJECTS
from ..sections.style_lora import STYLES
from ..tutorial.measure import GUIDANCE
from . import blind
from .distill import W_GAIN
from .lcm_lora import BUILT_IN_GUIDANCE, RANK
from .lora import GAIN
from .measure_samplers import TEACHER_GUIDANCE, TRIAL_STEPS
from .scenes import CANVAS
from .shape import seen_part

GUIDE_PROMPTS = (
    "Self-portrait oil painting, a beautiful cyborg with golden hair, 8k",
    "Astronauts in a jungle, cold color palette, muted colors, detailed, 8k",
    "a cute fox",  # the guide adds the trigger word of its style LoRA
    "the mona lisa",
    "Mystical fairy in real, magic, 4k picture, high quality",
)
# figure -> goal for LCM at 4 steps on held-out captions
TARGETS = {"subject": 0.99, "background": 0.95, "palette": 0.98, "medium": 0.95, "both": 0.80}
FILES_MB = 95  # of models, all together
NAMED = 46 / 48  # the share of pictures that a reader is to name
DECIBELS = 31  # of the autoencoder on held-out scenes


def write(folder: Path, figures: dict) -> Path:
    """Write ``folder/MODEL_CARD.md`` from what ``evaluate`` measured."""
    parts = [HEADER, _contents(), _targets(figures), _sheet(figures), _samplers(figures), _speed(figures)]
    parts += [
        *([seen_part(figures["seen"])] if "seen" in figures else []),
        *([blind.card_part(figures["blind"])] if figures.get("blind") else []),
        _guidance(figures),
        *_sections(figures["sections"]),
        _own(figures["own"]),
        _geometry(figures),
        *([_trial(figures["trial"])] if figures.get("trial") else []),
        _training(figures),
        GPU_HOUR,
        FOOTER,
    ]
    path = folder / "MODEL_CARD.md"
    path.write_text("\n\n".join(part.strip() for part in parts) + "\n")
    return path


def find(figures: dict, sampler: str, steps: int) -> dict:
    """Return the row of one sampler and step count."""
    return next(row for row in figures["table"] if row["sampler"] == sampler and row["steps"] == steps)


def table(head: list[str], rows: list[list]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _points(value: float) -> str:
    return f"{100 * value:.1f} points"


def _contents() -> str:
    return f"""
## What it draws

Flat illustrations, {CANVAS} x {CANVAS} pixels: {len(SUBJECTS)} subjects, alone or in pairs, in {len(SETTINGS)}
settings or on {len(PLAIN)} plain backgrounds, in {len(PALETTES)} palettes and {len(MEDIUMS)} mediums, and in
{len(COLOURS)} colours.

- **Subjects**: {", ".join(SUBJECTS)}
- **Settings**: {", ".join(SETTINGS)}; **plain backgrounds**: {", ".join(PLAIN)}
- **Palettes**: {", ".join(PALETTES)}; **mediums**: {", ".join(MEDIUMS)}; **colours**: {", ".join(COLOURS)}
"""


def _targets(figures: dict) -> str:
    lcm, last = find(figures, "LCM", 4), _slowest(figures)
    eight = next((row for row in figures["table"] if row["sampler"] == "LCM" and row["steps"] == 8), lcm)
    gap = max(last[name] - lcm[name] for name in TARGETS if name != "both")
    real, distance = figures["real"], "{:.2f}".format
    lower = [
        *([name, lcm[name], goal, _percent] for name, goal in TARGETS.items()),
        ["subject at 8 steps", eight["subject"], TARGETS["subject"], _percent],
        ["times as fast as the teacher", last["seconds"] / lcm["seconds"], 10, "{:.1f}".format],
        ["the judge itself: subject", real["subject"], 0.95, _percent],
        ["the judge itself: background", real["background"], 0.98, _percent],
        ["the autoencoder, dB", figures["psnr"], DECIBELS, "{:.1f}".format],
    ]
    if found := figures.get("blind"):
        lower.append(["named by a reader, see below", len(found["right"]) / found["pictures"], NAMED, _percent])
    upper = [
        ["Frechet distance, the teacher's being the goal", lcm["frechet"], last["frechet"], distance],
        ["Frechet distance at 8 steps, that at 4 being the goal", eight["frechet"], lcm["frechet"], distance],
        ["largest loss against the teacher", gap, 0.02, _points],
        ["seconds a picture", lcm["seconds"], 0.25, distance],
        ["peak memory, MB", figures["peak_memory_mb"], 900, "{:.0f}".format],
        ["files, MB", figures["megabytes"], FILES_MB, "{:.1f}".format],
    ]
    rows = [_outcome(*claim, at_most=False) for claim in lower] + [_outcome(*claim, at_most=True) for claim in upper]
    teacher = ", ".join(f"{name} {_percent(last[name])}" for name in TARGETS)
    return f"""
## Against what was asked

LCM at 4 steps and guidance {GUIDANCE:g}, on {figures["captions"]} held-out captions with one subject and
{figures["pair_captions"]} with two ("both": both named right); neither these captions nor these combinations of labels
were trained on. Palette and medium count where the caption names one; the colour of a plain background counts unless
the picture is to be grey or sepia.

{table(["figure", "measured", "goal", "outcome"], rows)}

The teacher at {last["steps"]} {last["sampler"]} steps and guidance {TEACHER_GUIDANCE:.2f}: {teacher}. The judge itself
was tested on as many real held-out scenes; there it also gets palette {_percent(real["palette"])} and medium
{_percent(real["medium"])} right.
"""


def _outcome(name: str, measured: float, goal: float, write: Callable, *, at_most: bool) -> list:
    sign, bound = (-1, "at most ") if at_most else (1, "")
    return [name, write(measured), bound + write(goal), "reached" if sign * measured >= sign * goal else "**missed**"]


def _slowest(figures: dict) -> dict:
    """Return the teacher's row with the most DDIM steps."""
    return max((row for row in figures["table"] if row["sampler"] == "DDIM"), key=lambda row: row["steps"])


def _samplers(figures: dict) -> str:
    rows = [
        [
            row["sampler"],
            row["steps"],
            row["steps"] if row["sampler"] == "LCM" else 2 * row["steps"],
            *(_percent(row[name]) for name in TARGETS),
            f"{row['frechet']:.2f}",
            f"{row['seconds']:.2f}",
        ]
        for row in figures["table"]
    ]
    return f"""
## Steps and samplers

LCM at guidance {GUIDANCE:g}, the others at {TEACHER_GUIDANCE:.2f}, which is the same to the teacher (see below). UNet
forwards count both halves of classifier-free guidance. "Frechet" is the Frechet distance between the judge's
features of the pictures and of real held-out scenes (lower is better; it compares samplers here, and is no FID).

{table(["sampler", "steps", "UNet forwards", *TARGETS, "Frechet", "s an image"], rows)}
"""


def _speed(figures: dict) -> str:
    lcm, slow = find(figures, "LCM", 4)["seconds"], _slowest(figures)
    return f"""
## Speed and memory

Measured on {figures["machine"]}: one picture at 4 LCM steps, decoding included, {lcm:.2f} s;
{slow["steps"]} guided {slow["sampler"]} steps {slow["seconds"]:.2f} s, {slow["seconds"] / lcm:.1f} times as long.
A fresh process that imports diffusers, loads the pipeline and draws one picture peaks at
{figures["peak_memory_mb"]:.0f} MB of resident memory.
"""


def _sheet(figures: dict) -> str:
    captions = "\n".join(f"{i + 1}. {text}" for i, text in enumerate(figures["contact_sheet"]))
    return f"""
## Contact sheet

The first {len(figures["contact_sheet"])} held-out captions, 4 steps, unselected, row by row:

![Sheet of small illustrated scenes, one for each caption below](contact_sheet.jpg)

{captions}

The guide's prompts, in the same way: {"; ".join(GUIDE_PROMPTS)}.

![Five small illustrations, one for each of the guide's prompts](guide_prompts.jpg)
"""


def _guidance(figures: dict) -> str:
    trial = figures["guidance_trial"]
    judged = [name for name in TARGETS if name != "both"]
    rows = [[f"{row['guidance']:.2f}", *(_percent(row[name]) for name in judged)] for row in trial]
    return f"""
## What guidance means here

A caption says nearly all there is to say about such a scene, so guidance acts more strongly than on photographs: the
scales that suit Stable Diffusion drive these colours and shapes too far. Teacher, {TRIAL_STEPS} DDIM steps,
{trial[0]["captions"][0]} held-out captions:

{table(["guidance_scale", *judged], rows)}

So that the guide's numbers serve here, too, the LCM was told three times the weight that its teacher had: at
`guidance_scale={GUIDANCE:g}` it does in one pass what the teacher does with two at {TEACHER_GUIDANCE:.2f}.

In so few updates it learnt to hear that number only faintly: guidance 14 moved 48 pictures from guidance 1 by 3.4 of
255 (mean absolute difference), where the teacher's move by 14. So what SDXL's LCM had learnt of it was made
{W_GAIN["xl"]:g} times as strong around {GUIDANCE:g}, and even (`distill.strengthen_guidance`): they move by 11, with
contrast and saturation rising from 1 to 14 as the teacher's do. At {GUIDANCE:g}, and so in all tables of steps, nothing
changed. Beyond {GUIDANCE:g} this exaggerates: at 14 the judge sees a palette less often.
"""


def _sections(figures: dict) -> list[str]:
    """Return a part of the card for each of the guide's other sections."""
    cases = figures["controlnet"][0]["cases"]
    parts = [
        f"""
## The guide's other sections

Each on {cases} held-out scenes, 4 steps, at the section's own guidance. Accuracies are the judge's.

{table(["figure", "measured", "goal", "outcome"], _section_goals(figures))}
""",
        _families(figures["families"]),
        _lcm_lora(figures["lcm-lora"]),
    ]
    for section, (title, text, key, columns, below) in TABLES.items():
        rows = [[_scale(row[key]), *(write(row[name]) for name, write in columns.values())] for row in figures[section]]
        parts.append(f"""
### {title}

{text}

{table([key, *columns], rows)}

![{below}]({section}.jpg)
""")
    return parts


def _section_goals(figures: dict) -> list[list]:
    """Return a row for each thing that was asked of the sections."""
    rows = []

    def ask(name: str, measured: float, goal: float, write: Callable, *, at_most: bool = False) -> None:
        rows.append(_outcome(name, measured, goal, write, at_most=at_most))

    def ask_monotone(name: str, values: list[float], write: Callable, *, rising: bool = True) -> None:
        held = all(a <= b if rising else a >= b for a, b in itertools.pairwise(values))
        told = ", ".join(map(write, values))
        rows.append([name, told, "rising" if rising else "falling", "reached" if held else "**missed**"])

    for section, goal in (("controlnet", 0.82), ("t2i-adapter", 0.70)):
        first, last = figures[section][0], figures[section][-1]
        ask(f"{section}: edge F1 at scale 1", last["edge_f1"], goal, _number)
        ask(f"{section}: edge F1 at scale 0", first["edge_f1"], 0.35, _number, at_most=True)
        ask(f"{section}: subject lost to the control", first["subject"] - last["subject"], 0.05, _points, at_most=True)
        ask_monotone(f"{section}: edge F1, scale 0 to 1", [row["edge_f1"] for row in figures[section]], _number)
    for style in STYLES:
        found = [row for row in figures["style-lora"] if list(row["scales"]) == [style]]
        seen = [row[f"seen_{style}"] for row in found]
        ask(f"{style}: seen at scale 1", seen[-1], 0.90, _percent)
        ask(f"{style}: seen at scale 0", seen[0], 0.05, _percent, at_most=True)
        ask(f"{style}: subject lost", found[0]["subject"] - found[-1]["subject"], 0.04, _points, at_most=True)
        ask_monotone(f"{style}: seen, scale 0 to 1", seen, _percent)
    found = figures["image-to-image"]
    ask_monotone("image-to-image: layout kept, by strength", [row["layout"] for row in found], _number, rising=False)
    ask_monotone("image-to-image: subject, by strength", [row["subject"] for row in found], _percent)
    return rows


def _families(rows: list[dict]) -> str:
    judged = [name for name in TARGETS if name != "both"]
    cells = [[row["family"], row["model"], row["steps"], *(_percent(row[name]) for name in judged)] for row in rows]
    return f"""
### Two families

The SD family's teacher was not trained from nothing, but started from the XL family's weights, for a fraction of the
time. Teachers draw with DDIM at guidance {TEACHER_GUIDANCE:.2f}, LCMs at {GUIDANCE:g}.

{table(["family", "model", "steps", *judged], cells)}
"""


def _lcm_lora(rows: list[dict]) -> str:
    judged = [name for name in TARGETS if name != "both"]
    cells = [[row["scale"], row["steps"], row["guidance"], *(_percent(row[name]) for name in judged)] for row in rows]
    return f"""
### LCM-LoRA

`lcm-lora/` on the UNet of `sd/`, drawn with `LCMScheduler`; at scale 0 the base's own weights. Rank {RANK}, every kind
of layer, the teacher's guidance {BUILT_IN_GUIDANCE:g} built in; guidance above 1 is classifier-free and runs the UNet
on twice the latents.

{table(["scale", "steps", "guidance", *judged], cells)}
"""


def _own(rows: list[dict]) -> str:
    """Return what notebook 08's loop reaches: budgets, and the same without one of its parts."""
    rate = next(row for row in rows if "updates_per_minute" in row)
    runs = [row for row in rows if "variant" in row]
    budgets = sorted((row for row in runs if len(row["steps"]) == 3), key=lambda row: row["updates"])
    first = budgets[0]
    steps = [str(n) for n in first["steps"]]

    def cells(point: dict) -> list[str]:
        return [_percent(point[n]["subject"]) for n in steps] + [_percent(point[steps[-1]]["medium"])]

    lines = [["none", 0, 0, *cells(first["points"][0])]]
    for row in budgets:
        minutes = f"{row['updates'] / rate['updates_per_minute']:.0f}"
        lines.append([minutes, row["updates"], f"{row['updates'] * row['batch_size']:,}", *cells(row["points"][-1])])
    others = [row for row in runs if row not in budgets]
    names = [f"{n} step{'s' if n != 1 else ''}" for n in others[0]["steps"]]
    ablations = []
    for row in others:
        last = row["points"][-1]
        seen = [_percent(last[str(n)]["subject"]) for n in row["steps"]]
        ablations.append([row["variant"], *seen, f"{row['response']:.1f}"])
    return f"""
## Distil your own: what minutes buy

The loop of notebook 08 from the shard that ships, subject accuracy on {first["cases"]} held-out captions; medium at
{steps[-1]} steps. Minutes are the updates, in batches of {first["batch_size"]}, at {rate["updates_per_minute"]:.0f} a
minute, measured on {rate["threads"]} CPU threads with nothing else running.

{table(["minutes", "updates", "samples", *(f"{n} step{'s' if n != '1' else ''}" for n in steps), "medium"], lines)}

The same for {others[0]["updates"]} updates in batches of {others[0]["batch_size"]}, each without one part of the
algorithm; subject accuracy on {others[0]["cases"]} captions. Response is how far guidance 14 moves the pictures from
guidance 1: mean absolute difference, of 255.

{table(["variant", *names, "response"], ablations)}
"""


def _scale(value: float | dict) -> str:
    return f"{value:g}" if not isinstance(value, dict) else ", ".join(f"{k} {v:g}" for k, v in value.items())


def _number(value: float) -> str:
    return f"{value:.3f}"


def _geometry(figures: dict) -> str:
    rows = [
        [
            f"{row['factor']}",
            " x ".join(map(str, row["latents"])),
            f"{row['psnr']:.1f}",
            f"{row['seconds']:.2f}",
        ]
        for row in figures["geometry"]
    ]
    minutes = figures["geometry"][0]["minutes"]
    return f"""
## Shape of the latents

Autoencoders of both shapes, each trained from nothing for {minutes:g} minutes on the same pictures, and what one
training pass of the same UNet over a batch of latents of each shape takes. f = 16 was chosen: everything that the
UNet does, in training and in the notebooks, costs a fraction, and the autoencoder that ships, trained for longer,
reaches {figures["psnr"]:.1f} dB.

{table(["f", "latents", "PSNR, dB", "UNet training pass, s"], rows)}
"""


def _trial(found: list[dict]) -> str:
    rows = [
        [row["run"], f"{row['updates']:,}", f"{row['minutes']:.1f}", f"{row['psnr']:.1f}"]
        + [f"{row[name]:.3f}" for name in ("shape", "worst_tenth", "sharpness")]
        for row in found
    ]
    return f"""
## Autoencoders compared

The stage "trial": three shapes of latents, each from nothing for the same minutes on one CPU thread, and three losses
for the decoder that ships, each for the same updates. What each makes of real held-out scenes, not of samples: what
other latents would cost a teacher is not in this table.

{table(["run", "updates", "minutes", "PSNR, dB", "shape", "worst tenth", "sharpness"], rows)}
"""


def _training(figures: dict) -> str:
    rows = [
        [
            row["stage"],
            f"{row['step']:,}",
            f"{row['samples']:,}",
            f"{row['minutes']:.0f}",
            row["device"],
            f"{row['loss']:.4f}",
        ]
        for row in figures["training"]
    ]
    return f"""
## Training cost

On {figures["machine"]}. Minutes are wall time; two stages on one CPU thread each can run side by side.

{table(["stage", "updates", "samples", "minutes", "on", "last loss"], rows)}
"""


_JUDGED = {"subject": ("subject", _percent), "background": ("background", _percent)}
_EDGES = "F1 compares the canny map that was given with the picture's own, with a tolerance of 2 pixels."
_ROWS = "from top to bottom: the map, and pictures at scale 0, 0.5 and 1"
TABLES = {  # section -> title, text, what varies, columns, what its contact sheet shows
    "image-to-image": (
        "Image-to-image",
        "The prompt of each scene, from the picture of another one. Layout is the correlation of the colours of both "
        "pictures at 8 x 8 pixels.",
        "strength",
        {"layout": ("layout", _number), **_JUDGED},
        "Sheet of pictures; from top to bottom: the given ones, and strengths 0.25, 0.5, 0.75 and 1",
    ),
    "style-lora": (
        "Style LoRA",
        "How often the judge sees each style. The files hold what was learnt on `base/` times "
        + ", ".join(f"{gain:g} ({style})" for style, gain in GAIN.items())
        + ", so that scale 1 suits the LCM.",
        "scales",
        {
            "papercut": ("seen_papercut", _percent),
            "neon": ("seen_neon", _percent),
            "subject": ("subject", _percent),
        },
        "Sheet of pictures; from top to bottom: no LoRA, papercut, neon, both at 0.5",
    ),
    "controlnet": ("ControlNet", _EDGES, "scale", {"F1": ("edge_f1", _number), **_JUDGED}, f"Sheet, {_ROWS}"),
    "t2i-adapter": ("T2I-Adapter", _EDGES, "scale", {"F1": ("edge_f1", _number), **_JUDGED}, f"Sheet, {_ROWS}"),
}

HEADER = """
# Model card: the mini family

Small latent diffusion models that this project trained from nothing, for learning how a Latent Consistency Model
works. They load with the stock diffusers classes:

- `base/`: a whole `StableDiffusionXLPipeline`: AutoencoderTiny, two CLIP text encoders, a UNet of SDXL's shape
  (the teacher, for classifier-free guidance), safetensors in half precision.
- `lcm/`: the UNet of the Latent Consistency Model distilled from it, laid out like `latent-consistency/lcm-sdxl`.
- `sd/`: a `StableDiffusionPipeline` of the shape of Stable Diffusion 1.x, started from the weights of `base/`.
- `sd-lcm/`: the LCM distilled from it, a whole pipeline like `SimianLuo/LCM_Dreamshaper_v7`.
- `controlnet-canny/` on `sd/`, `t2i-adapter-canny/` on `base/`: both frozen in training, both used with the LCMs.
- `loras/`: the styles papercut and neon, trained on `base/`.
- `lcm-lora/`: an LCM-LoRA for `sd/`, laid out like `latent-consistency/lcm-lora-sdv1-5`; `sd-loras/`: papercut for it.
- `shard/`: latents and captions of 3,000 training pictures, to distil from in notebook 08.
- `examples/`: the pictures that the sections start from.
- `judge/`: the classifier behind the figures below.

Every figure is written by `python -m lcm_nb.training evaluate` from `figures.json`.
"""

GPU_HOUR = """
## What an hour of a GPU would buy

Not run: no GPU was at hand for this edition. Every stage takes a CUDA device by itself, with the same command. The
teacher that ships saw 515,200 scenes, at 59 a second on two cores; a card that trains on 2,000 a second sees as many in
four and a half minutes, and 2.4 million in the twenty below. After 50 updates `log.jsonl` of a stage says what a card
does. First, on CPUs:

```bash
python -m lcm_nb.training unpack --work work                 # begins with the family that ships
python -m lcm_nb.training data --work work                   # 60,000 scenes, four minutes on two cores
python -m lcm_nb.training shape --work work                  # how it draws now; again after each stage
```

Then the hour, about 60 minutes of training; encoding the scenes, once, comes before the first of them by itself:

```bash
T="python -m lcm_nb.training"
$T teacher --work work --resume --minutes 20 --batch-size 512
$T distill --work work --steps 800 --batch-size 256                   # larger batches, not more updates
$T teacher --work work --family sd --minutes 5 --batch-size 512       # starts from the XL teacher's weights
$T distill --work work --family sd --steps 950 --batch-size 256
$T controlnet --work work --minutes 6 --batch-size 256
$T adapter --work work --minutes 6 --batch-size 256
$T lora --work work --minutes 2 --batch-size 128                      # both styles, two minutes each
$T lora --work work --family sd --minutes 1 --batch-size 128
$T lcm_lora --work work --minutes 2 --batch-size 256
```

Afterwards, on CPUs again: `budgets`, `blind`, `evaluate` (hours on two cores) and `ship`. All members but autoencoder
and judge are remade, because their bases move. Minutes are a guess by the shares that the stages had on CPUs; a stage
whose loss still falls takes more with `--resume` and more `--minutes`. Not so distillation: an LCM of 2,064 updates in
batches of 48, judged on 200 held-out captions, had 90 % of the subjects and 60 % of the mediums right at eight steps,
one of 771 updates 98.5 and 84 %. We do not know why, and larger batches were not tried.
"""

FOOTER = """
## Data, licence, limits

Captions come from `lcm_nb.tutorial.captions`; scenes are composed by `lcm_nb.training.scenes` from the Fluent Emoji
flat icons (npm package `@iconify-json/fluent-emoji-flat`, MIT licence, copyright Microsoft Corporation). The weights
are under the Apache-2.0 licence, like the code. The models know the words above and little else: other words are
ignored or misread. They cannot draw photographs or real persons.
"""
