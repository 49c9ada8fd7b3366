"""The package from a terminal.

``lcm-nb info``, ``draw``, ``bench``; for a class ``check``, ``student``, ``serve``; for the guide ``doctor``,
``fetch``, ``pin``.
"""

import argparse
import os
import sys
import time
from pathlib import Path
from typing import Any

from .files import check_target
from .sections import BY_NAME, SECTIONS
from .settings import complete, slug

SECTION = "text-to-image"


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit code.

    0, 1 where ``check`` or ``doctor`` found a problem, 2 after a one-line error, 130 after Ctrl+C.
    """
    arguments = _parser().parse_args(argv)
    try:
        return arguments.command(arguments) or 0
    except KeyboardInterrupt:
        print("lcm-nb: stopped; what was saved before is whole", file=sys.stderr)
        return 130
    except (ValueError, OSError, ImportError, MemoryError) as error:
        print(f"lcm-nb: {' '.join(str(error).split())}", file=sys.stderr)
        return 2


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
        spec = BY_NAME[SECTION].settings[name]
        draw.add_argument(option, dest=name, type=kind, default=spec.default, help=f"{spec.help} ({spec.default})")
    draw.add_argument("--output", type=Path, metavar="FILE.png", help="where to save it (a name made of the prompt)")
    draw.add_argument(
        "--force", action="store_true", help="replace the file if it is there; else the next name is taken"
    )
    draw.set_defaults(command=_draw)

    _add_class(commands)
    _add_guide(commands)
    _add_bench(commands)
    _add_serve(commands)
    return parser


def _add_class(commands: Any) -> None:
    check = commands.add_parser("check", help="say within a minute whether this computer is ready for the notebooks")
    check.set_defaults(command=_check)

    student = commands.add_parser("student", help="write the notebooks without their solutions")
    student.add_argument("folder", metavar="DIR", help="where to write them; replaces nothing that was worked in")
    student.add_argument("--notebooks", metavar="FOLDER", help="where the notebooks are (those of this checkout)")
    student.set_defaults(command=_student)


def _add_guide(commands: Any) -> None:
    doctor = commands.add_parser("doctor", help="say whether the models fit this computer and are whole; asks nobody")
    doctor.add_argument("section", nargs="?", help=f"one of {', '.join(SECTIONS)}; default: all")
    doctor.add_argument("--model", help="default: the guide's")
    doctor.add_argument("--device", help="a torch device; default: cuda where there is one, else cpu")
    doctor.set_defaults(command=_doctor)

    fetch = commands.add_parser("fetch", help="download the guide's models, so that HF_HUB_OFFLINE=1 works afterwards")
    fetch.add_argument("section", nargs="*", help=f"any of {', '.join(SECTIONS)}; default: all")
    fetch.add_argument("--model", help="default: the guide's")
    fetch.set_defaults(command=_fetch)

    pin = commands.add_parser(
        "pin", help="write down the present commit of every repository, and load these from now on"
    )
    pin.set_defaults(command=_pin)


def _add_bench(commands: Any) -> None:
    bench = commands.add_parser("bench", help="measure what drawing takes here, beside plain code; some minutes")
    bench.add_argument(
        "section", nargs="*", default=[SECTION], help=f"any of {', '.join(SECTIONS)}; default: {SECTION}"
    )
    bench.add_argument("--rounds", type=int, default=7, help="how often each work is timed (7)")
    bench.add_argument("--cold", type=int, default=3, help="how many new processes load and draw (3; 0 for none)")
    bench.add_argument(
        "--cpu-seconds", action="store_true", help="count the CPU's seconds: for a computer that does other work"
    )
    bench.add_argument("--output", type=Path, metavar="FOLDER", help="where to write JSON, table and plot (nowhere)")
    bench.set_defaults(command=_bench)


def _add_serve(commands: Any) -> None:
    serve = commands.add_parser("serve", help="draw for the notebooks of a class (docs/serving.md)")
    serve.add_argument(
        "section", nargs="*", default=[SECTION], help=f"any of {', '.join(SECTIONS)}; default: {SECTION}"
    )
    serve.add_argument("--profile", help="mini or guide; default: guide where there is a GPU")
    serve.add_argument("--model", help="default: the guide's of each section")
    serve.add_argument("--device", help="a torch device; default: cuda where there is one, else cpu")
    serve.add_argument("--replicas", default="auto", help="how many draw at once (auto: one a GPU, or a pair of cores)")
    serve.add_argument("--host", default="127.0.0.1", help="where to listen (127.0.0.1); 0.0.0.0 lets others in")
    serve.add_argument("--port", type=int, default=8000, help="(8000)")
    serve.add_argument("--token-file", metavar="FILE", help="made if it is not there; else a new token is printed")
    serve.add_argument("--certificate", default="", metavar="PEM", help="for TLS, with --key")
    serve.add_argument("--key", default="", metavar="PEM", help="for TLS, with --certificate")
    serve.add_argument(
        "--address", default="", help="of a running Ray cluster to join, e.g. auto; default: start Ray here"
    )
    serve.add_argument("--check", action="store_true", help="draw one picture on the server that runs, and end")
    serve.set_defaults(command=_serve)


def _serve(arguments: argparse.Namespace) -> None:
    from .models.plans import plan_for

    sections = {plan_for(name, arguments.model).section.name: arguments.model for name in arguments.section}
    if not arguments.replicas.isdigit() and arguments.replicas != "auto":
        raise ValueError(f"--replicas is {arguments.replicas!r}; give a number from 1, or auto.")
    try:
        from .serving import server
    except ModuleNotFoundError as error:
        raise ImportError(f'lcm-nb serve needs {error.name}: `pip install "lcm_nb[serve]"`.') from None
    options = {name: getattr(arguments, name) for name in ("profile", "device", "host", "port", "certificate", "key")}
    replicas = 0 if arguments.replicas == "auto" else int(arguments.replicas)
    order = server.Order(sections, replicas=replicas, cluster=arguments.address, **options)
    if arguments.check:
        tokens = (
            server.read_tokens(arguments.token_file) if arguments.token_file else [os.environ.get("LCM_NB_TOKEN", "")]
        )
        print(server.check(os.environ.get("LCM_NB_SERVER") or order.address, (tokens or [""])[0].split(" ")[-1]))
        return
    server.run(order, arguments.token_file)


def _info(arguments: argparse.Namespace) -> None:
    from .models.device import info  # imports torch, which --help need not wait for

    facts = info()
    width = max(map(len, facts))
    for name, value in facts.items():
        print(f"{name:<{width}}  {value}")


def _draw(arguments: argparse.Namespace) -> None:
    names = ("prompt", "num_inference_steps", "guidance_scale", "seed")
    settings = complete(BY_NAME[SECTION].settings, {name: getattr(arguments, name) for name in names}, owner=SECTION)
    path = check_target(arguments.output or f"{slug(arguments.prompt)}.png")  # before anything is loaded

    from .studio import load

    result = load(SECTION, profile="mini").draw(**settings)
    print(result.save(path, overwrite=arguments.force))
    print(f"timesteps {', '.join(map(str, result.timesteps))} - {result.seconds:.2f} s")
    if result.note:
        print(f"lcm-nb: {result.note}", file=sys.stderr)


def _check(arguments: argparse.Namespace) -> int:
    from .check import check

    return int(not check())


def _student(arguments: argparse.Namespace) -> None:
    from .student import NOTEBOOKS, write

    for path in write(arguments.folder, arguments.notebooks or NOTEBOOKS):
        print(path)


def _doctor(arguments: argparse.Namespace) -> int:
    from .models.device import resolve_device
    from .models.doctor import examine
    from .models.hashes import family_problem
    from .models.plans import plan_for

    sections, device = [arguments.section] if arguments.section else SECTIONS, resolve_device(arguments.device)
    reports = [examine(plan_for(section, arguments.model), device) for section in sections]
    print("\n\n".join(report.text for report in reports))
    problem = family_problem()
    print(f"\nmini family\n  {f'problem   {problem}' if problem else 'verdict   whole, as it was shipped'}")
    return int(bool(problem) or any(report.problems for report in reports))


def _fetch(arguments: argparse.Namespace) -> None:
    from .models.hub import bring
    from .models.plans import plan_for

    plans = {section: plan_for(section, arguments.model) for section in arguments.section or SECTIONS}
    for section, plan in plans.items():
        bring(plan.sources)
        print(f"{section}: {plan.model.name} is here, whole and checked")


def _pin(arguments: argparse.Namespace) -> None:
    from .models.hub import pin
    from .models.plans import PINS

    for repo, commit in pin().items():
        print(f"{commit}  {repo}")
    print(f"written to {PINS}")


def _bench(arguments: argparse.Namespace) -> None:
    from .bench import measure, table, write

    if arguments.rounds < 1 or arguments.cold < 0:
        raise ValueError(f"--rounds is {arguments.rounds} and --cold {arguments.cold}; give at least 1 and 0.")
    clock = time.process_time if arguments.cpu_seconds else time.perf_counter
    measured = measure(arguments.section, rounds=arguments.rounds, cold=arguments.cold, clock=clock)
    print(table(measured))
    for path in write(measured, arguments.output) if arguments.output else []:
        print(f"written to {path}")


if __name__ == "__main__":
    sys.exit(main())
