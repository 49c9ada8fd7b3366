"""``lcm-nb info`` and ``lcm-nb draw "a cute fox"``: the package from a terminal."""

import argparse
import sys
from pathlib import Path

from .recipes import RECIPES, complete, slug

SECTION = "text-to-image"


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit code: 0, or 2 after a one-line error."""
    arguments = _parser().parse_args(argv)
    try:
        arguments.command(arguments)
    except (ValueError, OSError) as error:
        print(f"lcm-nb: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="lcm-nb", description="Latent Consistency Models from a terminal.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    info = commands.add_parser("info", help="print versions, device and profile")
    info.set_defaults(command=_info)

    draw = commands.add_parser("draw", help="draw a picture with the small models that ship with the package")
    draw.add_argument("prompt", help="what to draw")
    for option, name, kind in (
        ("--steps", "num_inference_steps", int),
        ("--guidance", "guidance_scale", float),
        ("--seed", "seed", int),
    ):
        spec = RECIPES[SECTION].settings[name]
        draw.add_argument(option, dest=name, type=kind, default=spec.default, help=f"{spec.help} ({spec.default})")
    draw.add_argument("--output", type=Path, metavar="FILE.png", help="where to save it (a name made of the prompt)")
    draw.set_defaults(command=_draw)

    stamp = commands.add_parser("stamp", help="write badges and Colab's install line; without options, remove them")
    stamp.add_argument("--repo", metavar="OWNER/NAME", help="the repository on GitHub")
    stamp.add_argument("--ref", metavar="TAG", help="the tag, branch or commit to open and install")
    stamp.set_defaults(command=_stamp)
    return parser


def _info(arguments: argparse.Namespace) -> None:
    from .profiles import info  # imports torch, which --help need not wait for

    facts = info()
    width = max(map(len, facts))
    for name, value in facts.items():
        print(f"{name:<{width}}  {value}")


def _draw(arguments: argparse.Namespace) -> None:
    names = ("prompt", "num_inference_steps", "guidance_scale", "seed")
    settings = complete(SECTION, {name: getattr(arguments, name) for name in names})  # refuses before models load
    path = arguments.output or Path(f"{slug(arguments.prompt)}.png")

    from .studio import load

    result = load(SECTION, profile="mini").generate(**settings)
    print(result.save(path))
    print(f"timesteps {', '.join(map(str, result.timesteps))} - {result.seconds:.2f} s")


def _stamp(arguments: argparse.Namespace) -> None:
    from .stamp import stamp

    changed = stamp(Path.cwd(), arguments.repo, arguments.ref)
    print(*changed or ["Nothing to change."], sep="\n")


if __name__ == "__main__":
    sys.exit(main())
