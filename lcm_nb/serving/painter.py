"""What draws on a server: sections in one process, as many as its memory holds, one picture at a time."""

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from PIL import Image

from ..files import shown
from ..models.device import device_name, resolve_device, versions
from ..models.hashes import checkpoint_hashes
from ..models.plans import plan_for
from ..pictures import encode_image
from ..protocol import PREVIEW_SIDE, Event, Job, error_event, start_mask, start_picture
from ..runtimes.runtime import Call, Latent
from ..settings import planned_timesteps
from ..studio import Cancelled, Studio, load

Tell = Callable[[Event], None]  # raises Cancelled if nobody wants the picture any more


class Painter:
    """Sections of a profile; the guide's are let go of, the longest unused first, where memory is short.

    Parameters
    ----------
    sections
        Section -> model, None for the guide's.
    profile, device, runtime
        As :func:`lcm_nb.load` takes them.
    """

    def __init__(
        self, sections: Mapping[str, str | None], profile: str | None, device: str | None, runtime: str | None = None
    ):
        self._models, self._device = dict(sections), device
        self._load = partial(load, profile=profile, device=device, runtime=runtime, server="")
        self._studios: dict[str, Studio] = {}  # the last used stands last

    def about(self, section: str) -> dict[str, Any]:
        """Return what clients ask of a section; it is loaded for it."""
        studio = self._studio(section)
        names, geometry = studio.checkpoints, studio.runtime.geometry
        return {
            **{name: getattr(names, name) for name in ("profile", "model", "device", "runtime")},
            "device_name": device_name(names.device),
            "dtype": str(names.dtype),
            "computes": names.computes,
            "measures": list(names.measures),
            "revisions": dict(names.revisions),
            "geometry": [geometry.side, geometry.multiple],
            "can_preview": studio.runtime.can_preview,
            "hashes": checkpoint_hashes(section, names),
            "versions": versions(),
        }

    def draw(self, job: Job, tell: Tell) -> None:
        """Draw a job's picture; what ``tell`` raises stops it within a step."""
        studio = self._studio(job.section)
        start, timesteps, total = time.perf_counter(), [], len(planned_timesteps(job.settings))

        def on_step(index: int, timestep: int, latent: Latent) -> None:
            timesteps.append(timestep)
            seen = job.watched and studio.runtime.can_preview and latent is not None and index + 1 < total
            hint = studio.runtime.decode(latent, quick=True) if seen else None
            tell({"event": "step" if job.watched else "alive", "index": index, "timestep": timestep} | _preview(hint))

        drawing = studio.runtime.draw(_call(studio, job), on_step)
        picture = {"png": encode_image(drawing.image), "censored": drawing.censored, "note": drawing.note}
        facts = {"timesteps": timesteps, "seconds": round(time.perf_counter() - start, 4)}
        tell({"event": "picture", "section": job.section, "settings": dict(job.settings), **facts, **picture})

    def _studio(self, section: str) -> Studio:
        if section not in self._studios:
            self._make_room(section)
            self._studios[section] = self._load(section, model=self._models[section])
        studio = self._studios[section] = self._studios.pop(section)
        return studio

    def _make_room(self, section: str) -> None:
        """Let go of sections until the guide's fits as it does on a device of its own, by doctor's rules."""
        if not self._studios or next(iter(self._studios.values())).checkpoints.profile == "mini":
            return
        from ..models.doctor import examine

        plan, device = plan_for(section, self._models[section]), resolve_device(self._device)
        while self._studios and ((report := examine(plan, device)).problems or report.names.measures):
            self._studios.pop(next(iter(self._studios))).runtime.release()


def _preview(hint: Image.Image | None) -> Event:
    """Return a hint as a small JPEG, and the size that it stands for."""
    if hint is None:
        return {"preview": None, "size": None}
    size = list(hint.size)
    hint.thumbnail((PREVIEW_SIDE, PREVIEW_SIDE))
    return {"preview": encode_image(hint, "jpeg"), "size": size}


def _call(studio: Studio, job: Job) -> Call:
    """Return the runtime's call of a job.

    Raises
    ------
    ValueError
        If the picture does not fit the model; clients send it fitted.
    """
    image, geometry = start_picture(job), studio.runtime.geometry
    if image and (image.width % geometry.multiple or image.height % geometry.multiple):
        raise ValueError(
            f"image has {image.width} x {image.height} pixels; both sides are to be multiples of {geometry.multiple}."
        )
    if studio.section != job.section:
        raise ValueError(f"section is {shown(job.section)}; here is {studio.section}.")
    of_role = {
        role: {name: value for name, value in job.settings.items() if studio.settings[name].role == role}
        for role in ("argument", "lora")
    }
    return Call(of_role["argument"], job.settings["seed"], image, of_role["lora"], start_mask(job, image))


class HereArtist:
    """A painter in this process, with a thread of its own, as an :class:`~lcm_nb.serving.queue.Artist`."""

    def __init__(self, painter: Painter):
        self._painter, self._thread = painter, ThreadPoolExecutor(1, "lcm_nb painter")

    async def is_there(self) -> bool:
        """Return True."""
        return True

    async def about(self, section: str) -> dict[str, Any]:
        """Return what clients ask of a section."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._painter.about, section)

    async def draw(self, job: Job) -> AsyncGenerator[Event, None]:
        """Yield a job's steps and its picture, or its error."""
        loop, ended = asyncio.get_running_loop(), threading.Event()
        events: asyncio.Queue[Event] = asyncio.Queue()

        def tell(event: Event) -> None:
            if ended.is_set():
                raise Cancelled
            if event["event"] == "alive":
                return  # the hall says so itself; each event costs its way through Ray
            loop.call_soon_threadsafe(events.put_nowait, event)

        def work() -> None:
            with contextlib.suppress(Cancelled):
                if not ended.is_set():
                    self._painter.draw(job, tell)

        working = loop.run_in_executor(self._thread, work)
        working.add_done_callback(lambda done: _fail(done, events))
        try:
            while True:
                event = await events.get()
                yield event
                if event["event"] in ("picture", "error"):
                    return
        finally:
            ended.set()
            with contextlib.suppress(Exception):
                await asyncio.shield(working)  # the next picture waits for the step that runs


def _fail(done: asyncio.Future[None], events: asyncio.Queue[Event]) -> None:
    """Tell what a piece of work raised, if it did."""
    if done.cancelled():
        events.put_nowait(error_event(OSError("The server stopped drawing.")))
    elif error := done.exception():
        events.put_nowait(error_event(error))
