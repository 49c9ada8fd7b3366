"""Load a section of the guide, make pictures, and find out again how each was made."""

import contextlib
import os
import threading
import time
import uuid
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

import numpy as np
from PIL import Image

from . import kept
from .grid import Grid, Growing, sweep_axes
from .models.checkpoints import Checkpoints, mini_checkpoints, peft_problem
from .models.device import (
    PROFILES,
    SERVER,
    TOKEN,
    resolve_device,
    resolve_profile,
    resolve_runtime,
    reuse_memory,
    versions,
)
from .models.examples import example_image, example_mask
from .models.hashes import check_family, checkpoint_hashes
from .models.hub import cached, gigabytes
from .models.plans import Plan, plan_for
from .models.vocabulary import unknown
from .pictures import REDUCED, fit_image, fit_mask, read_image, with_hole
from .result import Record, Result, Step, read
from .runtimes.runtime import Call, Latent, Runtime
from .sections.section import Section
from .settings import EXAMPLE, complete, planned_timesteps, seeds, what_runs
from .turn import Turn, check_process

if TYPE_CHECKING:
    import torch

    from .widgets.panel import Panel

_loaded_in: int | None = None  # the process that has torch's threads
CENSORED = "the safety checker blacked the picture out; try another seed or prompt"


class Cancelled(Exception):
    """Raised inside a run to stop it within one step; the studio stays usable."""


class Where(TypedDict, total=False):
    """The server that is to draw, and the token that lets in."""

    server: str
    token: str


class Studio:
    """A loaded section. Make one with :func:`load`.

    Attributes
    ----------
    section, checkpoints
        What was loaded; for the guide profile with the commit of each part.
    settings
        Name -> :class:`lcm_nb.settings.Setting`, as the section has them with this model.
    runtime
        What draws (:class:`lcm_nb.runtimes.runtime.Runtime`).
    """

    def __init__(self, plan: Plan, names: Checkpoints, runtime: Runtime):
        self._section, self.section, self.checkpoints, self.runtime = plan.section, plan.section.name, names, runtime
        self.settings = plan.model.settings_in(plan.section, names.styles)
        self._turn, self._lane = Turn(), uuid.uuid4().hex
        self._panel: Panel | None = None
        # The last picture, decoded once for many runs: as it was fitted, its size before, and what was done.
        self._fitted: tuple[object, Image.Image, tuple[int, int], str] | None = None
        self._judge: Any = None  # loaded when a panel first asks what a picture shows

    @property
    def pipe(self) -> Any:
        """The runtime's pipeline: the stock one, where diffusers draws."""
        runtime: Any = self.runtime
        return runtime.pipe

    def generate(self, *, on_step: Callable[[Step], None] | None = None, **settings: Any) -> Result:
        """Make a picture, or several. Settings left out come from the guide's section.

        Warns if a given picture had to be scaled or cut to fit the pipeline, if the model does not read all of
        the prompt or does not know a word of it, or if a safety checker blacked a new picture out.

        Parameters
        ----------
        on_step
            Called after each UNet step; what it raises stops the run.
        settings
            Those of the section, which ``studio.settings`` lists with their ranges.
            For text-to-image: ``prompt``, ``num_inference_steps`` (1-50),
            ``guidance_scale`` (1-14), ``num_images`` (1-8), ``seed`` (0-2**32-1). Each of several
            pictures is, to the bit, the one that its seed draws alone.

        Raises
        ------
        ValueError
            For an unknown setting or one out of range, before anything runs; inside ``on_step``, and in a
            process that was forked, where it would wait for itself.
        MemoryError
            If the device's memory does not suffice; the studio stays usable.
        """
        result = self.draw(on_step=on_step, **settings)
        if result.note:
            warnings.warn(result.note, stacklevel=2)
        return result

    def draw(
        self,
        *,
        on_step: Callable[[Step], None] | None = None,
        waiting: Callable[[], object] | None = None,
        lane: str = "",
        **settings: Any,
    ) -> Result:
        """Make pictures as :meth:`generate` does, but warn of nothing: the result's note says it. The panel's way.

        Parameters
        ----------
        on_step
            Called after each UNet step; what it raises stops the run.
        waiting
            Called again and again while another run has the studio, and while this one draws; what it raises ends it.
        lane
            On a server a newer run of the same lane takes this one's place.
        settings
            Those of the section.

        Raises
        ------
        ValueError, MemoryError
            As :meth:`generate`.
        """
        settings = self._complete(settings)
        source, mask, note = self._source(settings)
        given = self._given(source, mask, settings)
        timesteps: list[int] = []
        how: dict[str, Any] = {"watched": on_step is not None, "lane": lane} | ({"waiting": waiting} if waiting else {})
        with self._turn.taken(waiting) if self.runtime.at_once == 1 else contextlib.nullcontext():
            start = time.perf_counter()
            drawings = []
            for number, seed in enumerate(seeds(settings), 1):
                timesteps.clear()
                call = replace(self._call(settings, seed, source, mask, given), **how)
                drawings.append(self.runtime.draw(call, self._watch(settings, number, timesteps, on_step)))
            seconds = time.perf_counter() - start
        told = dict.fromkeys(drawing.note for drawing in drawings)  # of several pictures the same, once
        notes = [note, *told, self._strange(settings)]
        notes += [CENSORED] if any(drawing.censored for drawing in drawings) else []
        images = [drawing.image for drawing in drawings]
        facts = (self.section, settings, seconds, timesteps, self.checkpoints)
        return Result(images, *facts, source, given, "; ".join(filter(None, notes)), mask)

    def _strange(self, settings: Mapping[str, Any]) -> str:
        """Return which words of the prompt the mini family does not know; of the guide's models nobody can tell.

        The section's own prompt is the guide's, and nobody chose its words here.
        """
        prompt = settings["prompt"]
        if self.checkpoints.profile != "mini" or prompt == self.settings["prompt"].default:
            return ""
        return unknown(prompt, self.checkpoints.styles)

    def _complete(self, settings: Mapping[str, object]) -> dict[str, Any]:
        return complete(self.settings, settings, owner=self.section)

    def _call(
        self,
        settings: Mapping[str, Any],
        seed: int,
        source: Image.Image | None,
        mask: Image.Image | None,
        given: Image.Image | None,
    ) -> Call:
        arguments = {name: value for name, value in settings.items() if self.settings[name].role == "argument"}
        scales = {style: settings[style] for style in self.checkpoints.styles}
        return Call(arguments, seed, given if mask is None else source, scales, mask)  # the pipeline cuts the hole

    def _watch(
        self, settings: Mapping[str, Any], number: int, timesteps: list[int], on_step: Callable[[Step], None] | None
    ) -> Callable[[int, int, Latent], None]:
        """Return what the runtime calls after each step of picture ``number``."""
        total, pictures = len(planned_timesteps(settings)), len(seeds(settings))

        def after_step(index: int, timestep: int, denoised: Latent) -> None:
            timesteps.append(timestep)
            if on_step:
                seen = self.runtime.can_preview and denoised is not None
                preview = (lambda: self.runtime.decode(denoised, quick=True)) if seen else None
                on_step(Step(index + 1, total, timestep, denoised, preview, number, pictures))

        return after_step

    def panel(self) -> "Panel":
        """Return the section's controls and picture as an ipywidgets panel; an earlier one of this studio closes."""
        try:
            from .widgets.panel import Panel
        except ModuleNotFoundError as error:
            if (error.name or "").startswith("lcm_nb"):
                raise
            raise ImportError(
                f"Panels need the package {error.name}: `pip install {error.name}`, then restart the kernel."
            ) from None

        def given(settings: Mapping[str, Any]) -> Image.Image | None:
            source, mask, _ = self._source(settings)
            return self._given(source, mask, settings)

        if self._panel is not None:
            self._panel.close()
        panel: Panel = Panel(
            self.settings,
            run=lambda **settings: self.draw(waiting=panel.check, lane=self._lane, **settings),  # the panel below
            code=self.code,
            cancelled=Cancelled,
            plan=what_runs,
            given=given if self._section.starts_from_picture else None,
            examples=self._section.examples,
            # The judge is torch's, which a computer that does not draw may lack.
            describe=self._describe if self.checkpoints.profile == "mini" and not self.checkpoints.server else None,
            read=self._settings_of,
            picture=self._opened,
            side=self.runtime.geometry.side,
        )
        self._panel = panel
        return panel

    def _opened(self, name: str, value: str) -> Image.Image:
        """Return the picture, or the mask, that a value of the setting ``name`` stands for."""
        if value != EXAMPLE:
            return read_image(value)
        example = example_mask if name == "mask_image" else example_image
        return example(self.section, self.checkpoints.profile)

    def _describe(self, image: Image.Image) -> str:
        """Return in a line what the mini family's judge sees in a picture."""
        if self._judge is None:
            from .models.judge import load as load_judge

            self._judge = load_judge()
        return self._judge.sentence(image)

    def _settings_of(self, content: bytes) -> dict[str, Any]:
        """Return the settings, complete, that the bytes of a saved picture carry.

        Raises
        ------
        ValueError
            If they carry none, or those of another section.
        """
        record = read(content)
        if record.facts["section"] != self.section:
            raise ValueError(f"The picture was made in the section {record.facts['section']}; open its panel for it.")
        return self._complete({name: value for name, value in record.settings.items() if name in self.settings})

    def sweep(self, **lists: Any) -> Grid:
        """Make a labelled grid: the first list runs across, the second down.

        Single values apply to all pictures, e.g.
        ``sweep(num_inference_steps=[1, 2, 4, 8], guidance_scale=[1, 4, 8], seed=3)``. A server draws several at once.
        A picture that fails is named in a warning and in its cell (``grid.failed``), and the others stay.

        Raises
        ------
        ValueError
            If not one or two settings are lists, a list is empty, or a value is out
            of range; nothing has run then.
        Exception
            What the first picture raised, if all failed.
        """
        columns, rows, cases = sweep_axes(lists)
        cases = [self._complete(case) for case in cases]
        for path in {case["image"] for case in cases if case.get("image", EXAMPLE) != EXAMPLE}:
            read_image(path)  # refuses a damaged one before the first picture is drawn
        results, failed = self._draw_all(cases, Growing(columns, rows, len(cases), self.runtime.at_once > 1))
        if len(failed) == len(cases):
            raise failed[0]
        grid = Grid(columns, rows, results, {place: str(error) for place, error in failed.items()})
        for place, error in failed.items():
            warnings.warn(f"{grid.label(place)} was not drawn: {error}", stacklevel=2)
        return grid

    def _draw_all(
        self, cases: list[dict[str, Any]], growing: Growing
    ) -> tuple[list[Result | None], dict[int, Exception]]:
        """Draw cases, as many at once as the runtime does; return the results and, by place, what went wrong."""
        results: list[Result | None] = [None] * len(cases)
        failed: dict[int, Exception] = {}
        for place, take in self._drawn(cases):
            try:
                results[place] = take()
            except Cancelled:
                raise
            except Exception as error:
                failed[place] = error
            growing.show(results)
        growing.end()
        return results, failed

    def _drawn(self, cases: list[dict[str, Any]]) -> Iterator[tuple[int, Callable[[], Result]]]:
        """Yield, as they come, the place of each case and what returns its result."""
        if self.runtime.at_once == 1:
            yield from ((place, partial(self.generate, **case)) for place, case in enumerate(cases))
            return
        ended = threading.Event()

        def check() -> None:
            if ended.is_set():
                raise Cancelled

        with ThreadPoolExecutor(self.runtime.at_once, "lcm_nb sweep") as pool:
            places: dict[Future[Result], int] = {
                pool.submit(self.draw, waiting=check, **case): place for place, case in enumerate(cases)
            }
            try:
                for future in as_completed(places):
                    yield places[future], future.result
            finally:  # interrupted: what waits does not begin, and what runs stops
                ended.set()
                pool.shutdown(cancel_futures=True)

    def code(self, settings: Mapping[str, object]) -> str:
        """Return plain code that makes the picture of ``settings``."""
        return self.runtime.code(self._complete(settings))

    def _source(self, settings: Mapping[str, Any]) -> tuple[Image.Image | None, Image.Image | None, str]:
        """Return the picture that a run starts from, RGB, its mask, and what made them fit ("" for nothing)."""
        if not self._section.starts_from_picture:
            return None, None, ""
        preparation = self._section.preparation
        keep = preparation is not None and preparation.is_done(settings)
        key, last = (settings["image"], _changed(settings["image"]), keep), self._fitted
        if last is None or last[0] != key:
            last = self._fitted = (key, *self._fit(settings["image"], keep))
        return last[1].copy(), self._mask(settings, last[2]), last[3]

    def _fit(self, path: str, keep: bool) -> tuple[Image.Image, tuple[int, int], str]:
        """Return the picture at a path as the pipeline takes it, its size before, and what was done to it."""
        image, geometry = self._opened("image", path), self.runtime.geometry
        fitted = fit_image(image, side=geometry.side, multiple=geometry.multiple, keep=keep)
        notes = ["the picture had more than 8 bits a colour and was scaled to 8"] if REDUCED in image.info else []
        if fitted.size != image.size:
            was, now = ("{} x {}".format(*size) for size in (image.size, fitted.size))
            notes.append(f"the picture was fitted from {was} to {now} pixels: scaled, cut at the edges, not stretched")
        return fitted, image.size, "; ".join(notes)

    def _mask(self, settings: Mapping[str, Any], size: tuple[int, int]) -> Image.Image | None:
        """Return the mask of a picture of this size, fitted as the picture is; None where the section takes none."""
        if not self._section.takes_mask:
            return None
        mask, geometry = self._opened("mask_image", settings["mask_image"]), self.runtime.geometry
        return fit_mask(mask, size, side=geometry.side, multiple=geometry.multiple)

    def _given(
        self, source: Image.Image | None, mask: Image.Image | None, settings: Mapping[str, Any]
    ) -> Image.Image | None:
        """Return what the pipeline is given: the picture itself, or what the section or a mask makes of it."""
        preparation = self._section.preparation
        if source is not None and mask is not None:
            return with_hole(source, mask)
        if source is None or preparation is None:
            return source
        return preparation.run(source, settings, self.checkpoints.detect_side)


def _changed(path: str) -> tuple[int, int] | None:
    """Return what tells that a file has changed: when, and its size; None where there is none."""
    with contextlib.suppress(OSError, ValueError):
        about = os.stat(path)
        return about.st_mtime_ns, about.st_size
    return None


def load(
    section: str,
    profile: str | None = None,
    device: str | None = None,
    model: str | None = None,
    runtime: str | None = None,
    faster: str | Iterable[str] = (),
    **where: Unpack[Where],
) -> Studio:
    """Load a section of the guide and return its studio.

    In the guide profile, what is missing is downloaded; one line says so before. Where the GPU's memory is
    small, modules wait in the computer's memory until they run, and one line says that, too.

    Parameters
    ----------
    section
        One of ``lcm_nb.SECTIONS``.
    profile
        "mini" (small models that ship with the package) or "guide" (the guide's own);
        default: ``LCM_NB_PROFILE``, else "guide" with CUDA and "mini" without.
    device
        A torch device; default "cuda" where there is one, else "cpu".
    model
        For the guide profile one of ``lcm_nb.models.plans.models(section)``, e.g. "lcm-lora-sdxl";
        default: the guide's.
    runtime
        What draws: "diffusers" (the default), or on CPUs "openvino", which is faster and needs the extra
        ``lcm_nb[openvino]``; "openvino-float32" computes no bfloat16. Its pixels differ from those of diffusers.
    faster
        For the guide profile, what makes pictures faster at a price: one or more of "fp16-vae" (SDXL's, for
        GPUs), "tiny-vae" (fine detail is lost) and "compile" (newer CUDA GPUs). ``lcm-nb doctor`` says which
        there are. None was measured on a GPU yet.
    where
        ``server``, the address of one that draws instead of this computer (``lcm-nb serve``, docs/serving.md), and
        its ``token``; default: ``LCM_NB_SERVER`` and ``LCM_NB_TOKEN``. ``server=""`` draws here in any case. A
        server has its own profile, model, device and runtime.

    Raises
    ------
    ValueError
        For an unknown section, profile, device, model or runtime, or ``faster`` that cannot be had.
    TypeError
        For another argument.
    OSError
        If a checkpoint does not fit this computer, cannot be downloaded, or is damaged, or a server does not
        answer: in one sentence, with the remedy.
    MemoryError
        If the device's memory does not suffice after all; nothing stays in it.
    """
    if unknown := where.keys() - Where.__annotations__:
        raise TypeError(
            f"load has no argument {', '.join(map(repr, sorted(unknown)))}; it takes section, profile, device, model, "
            "runtime, faster, server and token, and chooses variant and dtype itself."
        )
    if server := _server(where):
        for name, value in (("device", device), ("runtime", runtime), ("faster", faster or None)):
            if value is not None:
                raise ValueError(
                    f"{name} is {value!r}, and the server {server} draws, with its own; leave {name} out, "
                    'or give server="" to draw here.'
                )
        return _connect(section, {"profile": profile, "model": model}, where)
    profile = resolve_profile(profile)
    plan = plan_for(section, model, profile)
    runtime, device = resolve_runtime(runtime, device)
    return _load(plan, profile, runtime, device, _resolve_faster(faster, plan, profile, device))


def _server(where: Where) -> str:
    """Return the address of the server that is to draw, "" for this computer."""
    return where["server"] if "server" in where else os.environ.get(SERVER, "")


def _connect(section: str, wanted: Mapping[str, str | None], where: Where) -> Studio:
    """Return the studio of a section that a server draws."""
    from .runtimes.remote import connect

    plan, runtime = connect(section, wanted, _server(where), where.get("token") or os.environ.get(TOKEN, ""))
    return Studio(plan, runtime.names, runtime)


def _resolve_faster(faster: str | Iterable[str], plan: Plan, profile: str, device: str) -> tuple[str, ...]:
    if not faster:
        return ()
    from .models.doctor import resolve_faster

    return resolve_faster(faster, plan, profile, device)


def _load(
    plan: Plan, profile: str, runtime: str, device: str, faster: tuple[str, ...], record: Record | None = None
) -> Studio:
    """Load a plan; a record says which commits to take of its parts, else the pinned or newest, and which dtype."""
    global _loaded_in
    check_process(_loaded_in or os.getpid())
    kept.clean()
    folders: dict[str, Path] = {}
    dtype = _dtype(runtime, device, record)
    if profile == "guide":
        from .models.doctor import prepare

        commits = record.commits if record else {}
        names, folders = prepare(plan, device, commits=commits, dtype=dtype, faster=faster)
    else:
        names = mini_checkpoints(plan, device)
        check_family(names.parts.values())
    if problem := peft_problem(names):
        raise ImportError(problem)
    names = replace(names, runtime=runtime)
    reuse_memory()
    from .runtimes.diffusers import quiet_loads

    with contextlib.nullcontext() if profile == "guide" else quiet_loads():
        drawing = _loader(runtime)(plan.section, names.moved(folders))
    _loaded_in = os.getpid()
    return Studio(plan, names, drawing)


def _dtype(runtime: str, device: str, record: Record | None) -> "torch.dtype | None":
    """Return the dtype of the guide's weights, None for the device's usual."""
    import torch

    if runtime != "diffusers":
        return torch.float32  # OpenVINO converts these, and rounds by itself
    if record is None or record.dtype is None or record.facts.get("device") != device:
        return None
    return getattr(torch, record.dtype)


def _loader(runtime: str) -> Callable[[Section, Checkpoints], Runtime]:
    """Return what loads a runtime of that name."""
    if runtime == "diffusers":
        from .runtimes import diffusers

        return diffusers.load
    from .runtimes import openvino

    return openvino.load


def reproduce(path: str | Path, profile: str | None = None, **where: Unpack[Where]) -> Result:
    """Make the picture of a PNG that ``Result.save`` wrote once more.

    It is drawn on the device of the first time, where there is one, with the Hub's commits of then, or on a server
    with what that has; of several pictures all are drawn. Warns if it comes out different, which another device or
    other library versions can cause.

    Parameters
    ----------
    profile
        "guide" allows to download what a picture of the guide profile was made with; without it, that is
        drawn only where all of it is here.
    where
        ``server`` and ``token`` as in :func:`load`.

    Raises
    ------
    ValueError
        If there is no such file, it carries no settings, or damaged ones, or was made with checkpoints
        that differ from those here, or that are not here.
    OSError
        If a checkpoint of that time cannot be downloaded.
    """
    record = read(path)
    facts = record.facts
    plan = plan_for(facts["section"], facts.get("model"))
    if _server(where):
        settings = _settings_of(path, record, plan, facts["profile"])
        wanted = {"profile": profile or facts["profile"], "model": plan.model.name}
        studio = _connect(plan.section.name, wanted, where)
    else:
        runtime, device = resolve_runtime(_runtime_of(record), _device_of(facts))
        chosen = _profile_of(path, record, profile, plan, device)
        settings = _settings_of(path, record, plan, chosen)
        studio = _load(plan, chosen, runtime, device, _faster_of(record, plan, device), record)
    _check_weights(path, record, studio)
    result = studio.draw(**settings)  # its note was told when it was made
    again = np.asarray(result.images[facts.get("picture", 0)])
    if not np.array_equal(record.pixels, again):
        names = studio.checkpoints
        there = names.server.versions if names.server else versions()
        now = {"device": names.device, "dtype": names.computes, "measures": list(names.measures), **there}
        then = {name: facts[name] for name in ("device", "dtype", "measures") if name in facts} | facts["versions"]
        changed = {name: (value, now.get(name)) for name, value in then.items() if now.get(name) != value}
        warnings.warn(
            f"The picture differs from {path}; then and now: {changed or 'equal'}.",
            stacklevel=2,
        )
    return result


def _profile_of(path: object, record: Record, wanted: str | None, plan: Plan, device: str) -> str:
    """Return a record's profile, once it is sure that nothing is downloaded that nobody asked for."""
    profile = record.facts["profile"]
    if profile not in PROFILES:
        raise ValueError(f"{path} names the profile {profile!r}; there are {' and '.join(PROFILES)}.")
    if wanted is not None and resolve_profile(wanted) != profile:
        raise ValueError(f"{path} was made with the {profile} profile; give profile={profile!r}, or leave it out.")
    if profile == "guide" and wanted is None:
        from .models.doctor import examine

        report = examine(plan, device, record.commits, faster=_faster_of(record, plan, device))
        absent = [source.repo for source in report.sources.values() if not cached(source)]
        if absent:
            raise ValueError(
                f"{path} was made with models that are not on this computer ({', '.join(absent)}, "
                f"{gigabytes(report.download)}); lcm_nb.reproduce(..., profile='guide') downloads them."
            )
    return profile


def _settings_of(path: object, record: Record, plan: Plan, profile: str) -> dict[str, Any]:
    """Return the settings of a record, checked before anything is loaded, with the picture that it started from."""
    picture = record.facts.get("picture", 0)
    given = {"image": record.source, "mask_image": record.mask}
    if any(not data and record.facts["settings"].get(name, EXAMPLE) != EXAMPLE for name, data in given.items()):
        raise ValueError(f"{path} has lost the picture that it started from; take the file as Result.save wrote it.")
    styles = plan.section.styles if profile == "mini" else plan.styles
    try:
        settings = complete(plan.model.settings_in(plan.section, styles), record.settings, owner=plan.section.name)
    except ValueError as error:
        raise ValueError(f"{path} carries settings that cannot be drawn: {error}") from None
    if picture >= len(seeds(settings)):
        raise ValueError(f"{path} says that it is picture {picture + 1} of {len(seeds(settings))}; it was changed.")
    return settings


def _check_weights(path: str | Path, record: Record, studio: Studio) -> None:
    for part, found in checkpoint_hashes(studio.section, studio.checkpoints).items():
        then = record.facts["checkpoints"].get(part, {"name": "none", "sha256": ""})
        if found["sha256"] != then["sha256"]:
            commit = f" at commit {then['revision'][:10]}" if "revision" in then else ""
            raise ValueError(
                f"{path} was made with another checkpoint {then['name']!r}{commit} (sha256 {then['sha256'][:10]}, "
                f"here {found['sha256'][:10]}); install the lcm_nb version that made it."
            )


def _runtime_of(record: Record) -> str | None:
    """Return the runtime of a record; one that rounded in float32 is not to do so in bfloat16."""
    runtime = record.facts.get("runtime")
    return "openvino-float32" if runtime == "openvino" and record.facts.get("dtype") == "float32" else runtime


def _faster_of(record: Record, plan: Plan, device: str) -> tuple[str, ...]:
    """Return what made a record's picture faster, as far as it can be had on this device."""
    from .models.doctor import FASTER, faster_problem

    wanted = [name for name in FASTER if name in record.facts.get("measures", ())]
    return tuple(name for name in wanted if not faster_problem(plan, device, [name]))


def _device_of(facts: Mapping[str, Any]) -> str:
    """Return the device of a record, or the usual one where there is no such device."""
    with contextlib.suppress(ValueError):
        return resolve_device(facts.get("device"))
    return resolve_device()
