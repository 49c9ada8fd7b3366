"""What drawing takes on this computer, beside the guide's plain code and the bare networks: ``lcm-nb bench``.

Works are timed in turn, round by round, so that what else the computer does touches all alike; ratios are taken
within a round. The plain code draws in a process of its own, whose memory is as the system has it.
"""

import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from torch.utils._pytree import tree_map

from .models.checkpoints import checkpoints
from .models.device import RUNTIMES, info
from .models.plans import plan_for
from .runtimes.diffusers import load_pipeline, quiet_loads
from .runtimes.runtime import Call
from .studio import Studio, load

STEPS = (1, 2, 4, 8)
PLAIN, BARE = "plain code", "bare networks"
SWEEP, BATCH = 12, 4  # pictures
LONG, LONG_EVERY = (f"sweep of {SWEEP}", f"{BATCH} pictures"), 3  # these are timed every third round
COLD = """
import json
from time import {clock} as clock
start = clock()
{code}
drawn = clock() - start
try:  # Linux's other count begins with that of the process that started this one
    peak = next(1024 * int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
except OSError:
    peak = None
print(json.dumps({{"load": loaded, "first picture": drawn, "peak memory": peak}}))
"""
OURS = """import lcm_nb
studio = lcm_nb.load({section!r}, runtime={runtime!r})
loaded = clock() - start
studio.generate()"""
QUARTILES = ("low", "median", "high")
Seconds = dict[tuple[str, str], list[float]]  # (work, who) -> one number a round


def measure(
    sections: Iterable[str], *, rounds: int = 7, cold: int = 3, clock: Callable[[], float] = time.perf_counter
) -> dict[str, Any]:
    """Return what was measured: the machine, and a row for each section, work and way to do it.

    Parameters
    ----------
    sections
        Of ``lcm_nb.SECTIONS``.
    rounds
        How often each work is timed.
    cold
        How often a process is started that loads and draws one picture; 0 for never.
    clock
        ``time.perf_counter``, or ``time.process_time`` for the CPU's seconds, which on a computer that does other
        work, and with one thread, are nearly those of a quiet one.
    """
    rows = []
    for section in sections:
        studios = {name: studio for name in at_hand() if (studio := _loaded(section, name))}
        taken = _warm(section, studios, rounds, clock)
        taken |= _cold(section, studios, cold, clock)
        rows += [_row(section, work, who, taken) for work, who in taken]
    return {"machine": _machine(), "rounds": rounds, "clock": clock.__name__, "rows": rows}


def at_hand() -> tuple[str, ...]:
    """Return the runtimes that are installed."""
    return RUNTIMES if importlib.util.find_spec("openvino") else RUNTIMES[:1]


def _loaded(section: str, runtime: str) -> Studio | None:
    try:
        return load(section, runtime=runtime)
    except ValueError as error:  # not for this section, or not on this device
        print(error, file=sys.stderr)
        return None


# -- in turn --------------------------------------------------------------------------


def _warm(section: str, studios: Mapping[str, Studio], rounds: int, clock: Callable[[], float]) -> Seconds:
    """Time all works round by round, after one round that is not counted."""
    taken: Seconds = {}
    names = next(iter(studios.values())).checkpoints
    given = (section, names.profile, names.model, names.device)
    with ProcessPoolExecutor(1, get_context("spawn"), _load_plain, given) as plain:
        works = _works(studios, lambda call: plain.submit(_draw_plain, call, clock).result())
        for number in range(rounds + 1):
            due = [key for key in works if number % LONG_EVERY == 1 % LONG_EVERY or key[0] not in LONG]
            for key in sorted(due, key=lambda key: hash((number, *key))):  # no work is always after the same one
                start = clock()
                elsewhere = works[key]()
                if number:
                    taken.setdefault(key, []).append(elsewhere if key[1] == PLAIN else clock() - start)
    return {key: taken[key] for key in works}


def _works(studios: Mapping[str, Studio], plain: Callable[[Call], float]) -> dict[tuple[str, str], Callable[[], Any]]:
    """Return (work, who) -> what does it; "plain code" and "bare networks" are of the first studio."""
    works: dict[tuple[str, str], Callable[[], Any]] = {}
    first = next(iter(studios.values()))
    for steps in STEPS:
        work, settings = f"{steps} step{'s' if steps > 1 else ''}", _settings(first, steps)
        works[work, PLAIN] = partial(plain, _call(first, settings))
        works[work, BARE] = bare(first, settings)
        works |= {(work, name): partial(studio.generate, **settings) for name, studio in studios.items()}
    settings = _settings(first, 4)
    for name, studio in studios.items():
        seen: list[Any] = []
        studio.generate(**settings, on_step=seen.append)
        works["preview", name] = seen[0].preview
        works["event to picture", name] = _panel(studio)
        if "num_images" in studio.settings:
            works[f"{BATCH} pictures", name] = partial(studio.generate, **settings, num_images=BATCH)
        works[f"sweep of {SWEEP}", name] = partial(studio.sweep, **settings, seed=list(range(SWEEP)))
    return works


def _settings(studio: Studio, steps: int) -> dict[str, Any]:
    """Return settings by which the UNet runs ``steps`` times."""
    return {"num_inference_steps": steps} | ({"strength": 1.0} if "strength" in studio.settings else {})


def _call(studio: Studio, settings: Mapping[str, Any]) -> Call:
    complete = studio._complete(settings)
    source, mask, _ = studio._source(complete)
    return studio._call(complete, 0, source, mask, studio._given(source, mask, complete))


def _panel(studio: Studio) -> Callable[[], None]:
    panel = studio.panel()

    def change() -> None:
        panel.run()
        panel.wait(600)

    return change


def bare(studio: Studio, settings: Mapping[str, Any]) -> Callable[[], None]:
    """Return what runs once more the networks' own calls of a picture, and nothing else."""
    calls: list[tuple[torch.nn.Module, Any]] = []
    pipe = studio.pipe
    parts = [getattr(pipe, name, None) for name in ("unet", "controlnet", "adapter")]
    networks = [part for part in (*parts, pipe.vae.decoder) if part is not None]

    def note(network: torch.nn.Module, arguments: Any, options: Any) -> None:
        calls.append((network, _copied((arguments, options))))

    hooks = [network.register_forward_pre_hook(note, with_kwargs=True) for network in networks]
    studio.generate(**settings)
    for hook in hooks:
        hook.remove()

    @torch.no_grad()
    def again() -> None:
        for network, given in calls:
            arguments, options = _copied(given)
            network(*arguments, **options)

    return again


def _copied(given: Any) -> Any:
    """Return arguments in lists of their own: a UNet takes an adapter's states out of theirs."""
    return tree_map(lambda leaf: leaf, given)


# -- the plain code, in its own process -------------------------------------------------

_plain: list[Any] = []


def _load_plain(section: str, profile: str, model: str, device: str) -> None:
    with quiet_loads():
        pipe = load_pipeline(plan_for(section, model).section, checkpoints(section, profile, device, model))
    pipe.set_progress_bar_config(disable=True)
    _plain.append(pipe)


def _draw_plain(call: Call, clock: Callable[[], float]) -> float:
    start = clock()
    _plain[0](**call.arguments, **call.pictures, generator=torch.manual_seed(call.seed)).images[0]
    return clock() - start


# -- from nothing -----------------------------------------------------------------------


def _cold(section: str, studios: Mapping[str, Studio], rounds: int, clock: Callable[[], float]) -> Seconds:
    """Load and draw in new processes."""
    taken: Seconds = {}
    codes = {PLAIN: f"loaded = None\n{next(iter(studios.values())).code({})}"}
    codes |= {name: OURS.format(section=section, runtime=name) for name in studios}
    for _ in range(rounds):
        for who, code in codes.items():
            script = COLD.format(code=code, clock=clock.__name__)
            done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
            for work, value in json.loads(done.stdout.splitlines()[-1]).items():
                if value is not None:
                    taken.setdefault((work, who), []).append(value)
    return taken


# -- what is told -------------------------------------------------------------------------


def _row(section: str, work: str, who: str, taken: Seconds) -> dict[str, Any]:
    """Return a row; where a work is several pictures, ratios are those of one."""
    values = taken[work, who]
    count = SWEEP if work.startswith("sweep") else BATCH if work.endswith("pictures") else 1
    beside = "4 steps" if count > 1 or work == "event to picture" else work
    row: dict[str, Any] = {"section": section, "work": work, "who": who, **_quartiles(values)}
    for ratio, other in (("to plain", PLAIN), ("to bare", BARE)):
        if others := taken.get((beside, other)):
            row[ratio] = statistics.median(a / count / b for a, b in zip(values, others))
    if work == "preview":
        row["of 8 steps"] = statistics.median(a / b for a, b in zip(values, taken["8 steps", who]))
    return row


def _quartiles(values: list[float]) -> dict[str, float]:
    low, median, high = statistics.quantiles(values, n=4) if len(values) > 1 else values * 3
    return {"low": low, "median": median, "high": high}


def _machine() -> dict[str, Any]:
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    facts = {"processor": _processor(), "cores": os.cpu_count(), "threads": torch.get_num_threads()}
    return {**info(), **facts, "load": load, "date": time.strftime("%Y-%m-%d")}


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def table(measured: Mapping[str, Any]) -> str:
    """Return what was measured as a table in Markdown: medians, quartiles, and ratios."""
    lines = ["| section | work | who | median | quartiles | to plain | to bare |", "|---|---|---|---|---|---|---|"]
    for row in measured["rows"]:
        unit, scale = ("MB", 1e-6) if row["work"] == "peak memory" else ("ms", 1e3)
        low, median, high = (f"{scale * row[name]:,.{1 if scale * row[name] < 10 else 0}f}" for name in QUARTILES)
        ratios = [f"{row[name]:.2f}" if name in row else "" for name in ("to plain", "to bare")]
        cells = (row["section"], row["work"], row["who"], f"{median} {unit}", f"{low}-{high}", *ratios)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def plot(measured: Mapping[str, Any], path: Path) -> None:
    """Draw the ratios of four steps to the plain code."""
    from matplotlib.figure import Figure

    rows = [row for row in measured["rows"] if row["work"] == "4 steps" and row["who"] != PLAIN]
    figure = Figure(figsize=(8, 0.6 + 0.35 * len(rows)), layout="constrained")
    axes = figure.subplots()
    bars = axes.barh([f"{row['section']}: {row['who']}" for row in rows], [row["to plain"] for row in rows])
    axes.bar_label(bars, fmt="%.2f", padding=-32, color="white")
    axes.axvline(1.0, color="black", linestyle="--")
    axes.invert_yaxis()
    axes.set_xlabel("time of a picture in four steps, the guide's plain code = 1")
    machine = measured["machine"]
    axes.set_title(f"{machine['processor'].partition(',')[0]}, threads: {machine['threads']}", fontsize=10)
    figure.savefig(path, dpi=110)


def write(measured: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write JSON, table and plot into a folder, and return the files."""
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"bench.{ending}" for ending in ("json", "md", "png")]
    files[0].write_text(json.dumps(measured, indent=1) + "\n", encoding="utf-8")
    files[1].write_text(table(measured) + "\n", encoding="utf-8")
    plot(measured, files[2])
    return files
