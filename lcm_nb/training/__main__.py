"""``python -m lcm_nb.training STAGE``: one command for each stage of the mini family.

Stages build on each other in the order data, autoencoder, teacher, distill; geometry
needs only the data (its minutes count for each shape of latents), the judge only the
icons; evaluate needs all, and ship puts the result into the package. Own distils from
what the package ships. Unpack takes the shipped family into the working folder, so that
teacher, controlnet and adapter with --resume, and sharpen, go on from it; trial compares recipes,
shape and blind measure what people see. Everything lives in one working folder.
"""

import argparse
import importlib
import math
from pathlib import Path

from .loop import Settings

FAMILIES = ("xl", "sd")

# stage -> defaults, those of the family that ships; each stage is a module of this package with run(settings)
STAGES = {
    "data": dict(steps=60_000),
    "geometry": dict(minutes=8, batch_size=16, learning_rate=1.5e-3),
    "autoencoder": dict(minutes=75, batch_size=16, learning_rate=1.5e-3),
    "teacher": dict(minutes=145, batch_size=64, learning_rate=1e-3),
    "distill": dict(steps=771, batch_size=48, learning_rate=3e-4),  # not minutes: more updates make it worse
    # Those that ship were prolonged with --resume, so that their learning rate rose again: controlnet after 30 and 42
    # minutes, adapter after 30, until when it had seen all timesteps equally often.
    "controlnet": dict(minutes=52, batch_size=32, learning_rate=5e-4),
    "adapter": dict(minutes=58, batch_size=32, learning_rate=5e-4),
    "lora": dict(minutes=20, batch_size=16, learning_rate=3e-3),
    "lcm_lora": dict(minutes=25, batch_size=32, learning_rate=5e-4, family="sd"),
    "judge": dict(minutes=26, batch_size=64, learning_rate=2e-3),
    "budgets": dict(batch_size=32, learning_rate=3e-4, family="sd"),
    "evaluate": dict(),
    "ship": dict(),
    "own": dict(minutes=10, batch_size=32, learning_rate=3e-4, family="sd"),
    # what goes on from the family that ships, or looks at it
    "unpack": dict(),
    "trial": dict(minutes=7, batch_size=16, learning_rate=1.5e-3),
    "sharpen": dict(minutes=60, batch_size=4, learning_rate=4e-4),
    "shape": dict(steps=150),
    "blind": dict(steps=48),
}
# stages whose module is not of their name
MODULES = {"judge": "train_judge"}
# what is different for the SD family, which starts from trained weights
SD = {"teacher": dict(minutes=40, learning_rate=5e-4), "distill": dict(steps=950), "lora": dict(minutes=15)}
# sizes that only prove that a stage runs
SMOKE = {
    "data": dict(steps=96),
    "geometry": dict(steps=2, minutes=math.inf, batch_size=2),
    "autoencoder": dict(steps=4, minutes=math.inf, batch_size=2),
    "teacher": dict(steps=3, minutes=math.inf, batch_size=4),
    "distill": dict(steps=3, minutes=math.inf, batch_size=4),
    "controlnet": dict(steps=2, minutes=math.inf, batch_size=2),
    "adapter": dict(steps=2, minutes=math.inf, batch_size=2),
    "lora": dict(steps=2, minutes=math.inf, batch_size=2),
    "lcm_lora": dict(steps=2, minutes=math.inf, batch_size=2),
    "judge": dict(steps=3, minutes=math.inf, batch_size=8),
    "budgets": dict(batch_size=2),
    "evaluate": dict(),
    "ship": dict(),
    "own": dict(steps=2, minutes=math.inf, batch_size=2),
    "unpack": dict(),
    "trial": dict(steps=2, minutes=math.inf, batch_size=2),
    "sharpen": dict(steps=2, minutes=math.inf, batch_size=2),
    "shape": dict(steps=6),
    "blind": dict(steps=4),
}


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and run one stage."""
    parser = argparse.ArgumentParser(
        prog="python -m lcm_nb.training", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("stage", choices=STAGES)
    parser.add_argument("--work", type=Path, default=Path("work"), help="folder for data, checkpoints and logs")
    parser.add_argument("--minutes", type=float, help="time budget of the stage, earlier sittings included")
    parser.add_argument("--steps", type=int, help="updates at most (data, shape, blind: pictures)")
    parser.add_argument("--batch-size", type=int, help="samples an update and a process")
    parser.add_argument("--learning-rate", type=float)
    parser.add_argument("--seed", type=int, help="start of all random numbers (default 0)")
    parser.add_argument("--resume", action="store_true", default=None, help="continue from the last checkpoint")
    parser.add_argument("--smoke", action="store_true", default=None, help="a tiny size that proves the stage runs")
    parser.add_argument("--family", choices=FAMILIES, help="teacher, distill: xl (default) or sd, which needs xl's")
    parser.add_argument("--pictures", type=int, help="teacher, distill, controls: the first so many of the data alone")
    parser.add_argument("--latent-channels", type=int, help="autoencoder: channels of its latents (default 8)")
    given = {k: v for k, v in vars(parser.parse_args(argv)).items() if v is not None}
    stage = given.pop("stage")
    defaults = STAGES[stage] | (SD.get(stage, {}) if given.get("family") == "sd" else {})
    defaults |= SMOKE[stage] if given.get("smoke") else {}
    if "steps" in given and "minutes" not in given:
        defaults["minutes"] = math.inf
    importlib.import_module(f".{MODULES.get(stage, stage)}", __package__).run(Settings(**defaults | given))


if __name__ == "__main__":
    main()
