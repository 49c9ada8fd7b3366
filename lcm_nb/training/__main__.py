"""``python -m lcm_nb.training STAGE``: one command for each stage of the mini family."""

import argparse
import importlib
import math
from pathlib import Path

from .loop import Settings

# stage -> defaults; each stage is a module of this package with run(settings)
STAGES = {
    "data": dict(steps=60_000),
    "autoencoder": dict(minutes=60, batch_size=16, learning_rate=8e-4),
}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m lcm_nb.training", description=__doc__)
    parser.add_argument("stage", choices=STAGES)
    parser.add_argument("--work", type=Path, default=Path("work"), help="folder for data, checkpoints and logs")
    parser.add_argument("--minutes", type=float, help="time budget of the stage, earlier sittings included")
    parser.add_argument("--steps", type=int, help="updates at most (data: pictures)")
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--learning-rate", type=float)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--resume", action="store_true", help="continue from the last checkpoint")
    parser.add_argument("--option", action="append", default=[], metavar="NAME=NUMBER", help="a stage's own setting")
    arguments = vars(parser.parse_args(argv))
    stage = arguments.pop("stage")
    options = {k: float(v) if "." in v else int(v) for k, v in (o.split("=") for o in arguments.pop("option"))}
    chosen = STAGES[stage] | {k: v for k, v in arguments.items() if v is not None}
    if arguments["steps"] and arguments["minutes"] is None:
        chosen["minutes"] = math.inf
    importlib.import_module(f".{stage}", __package__).run(Settings(**chosen, options=options))


if __name__ == "__main__":
    main()
