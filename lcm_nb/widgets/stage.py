"""What a panel shows: the picture chosen, those beside it, and those before it."""

import threading
from collections.abc import Mapping
from dataclasses import dataclass

from PIL import Image

from ..pictures import encode_image
from ..settings import Setting, seeds
from .compare import alt_text, caption, differences, listed, say
from .history import Drawn, History
from .screen import Screen


@dataclass(frozen=True)
class Shot:
    """One picture of a result: ``index`` counts from 0, ``label`` is what sets it apart in its row."""

    drawn: Drawn
    index: int = 0
    label: str = ""

    @property
    def settings(self) -> dict[str, object]:
        """What it was drawn with."""
        return self.drawn.result.settings

    @property
    def image(self) -> Image.Image:
        """Its pixels."""
        return self.drawn.images[self.index]

    @property
    def alt(self) -> str:
        """The picture in words."""
        settings = self.settings
        return alt_text(settings, seeds(settings)[self.index] if "seed" in settings else 0)


def shots_of(drawn: Drawn) -> list[Shot]:
    """Return the pictures of a result."""
    if len(drawn.images) == 1:
        return [Shot(drawn)]
    return [Shot(drawn, index, f"seed {seed}") for index, seed in enumerate(seeds(drawn.result.settings))]


class Stage:
    """Decides what the screen shows. The worker and a click may both come: one lock keeps them apart.

    Attributes
    ----------
    shown
        The shot on screen, or None.
    pinned
        The shot that is A, or None.
    row
        The shots that were drawn together, to choose from.
    history
        What was drawn, the newest first.
    """

    def __init__(self, screen: Screen, specs: Mapping[str, Setting]):
        self.screen, self._specs = screen, specs
        self.history = History()
        self.lock = threading.RLock()
        self.shown: Shot | None = None
        self.pinned: Shot | None = None
        self.row: list[Shot] = []

    @property
    def result(self):
        """The result on screen, or None."""
        return self.shown.drawn.result if self.shown else None

    def tell(self, status: str, mood: str, **more) -> None:
        """Set the status line, and how it looks: "idle", "busy", "done" or "error"."""
        self.screen.show(status=status, mood=mood, **more)

    def show(self, shot: Shot, row: list[Shot], *, busy: bool = False) -> None:
        """Put a picture on screen, with the row that it belongs to."""
        with self.lock:
            self.shown, self.row = shot, row
            result = shot.drawn.result
            traits = self._pictures() | {"caption": say(shot.settings.get("prompt", "")), "words": ""}
            if not busy:
                note = f"; {result.note}" if result.note else ""
                status = describe(result.timesteps, result.seconds) + note
                traits |= {"status": status, "mood": "done", "progress": 0.0}
            self.screen.show(**traits, shown=shot.drawn.key, chosen=row.index(shot))

    def remember(self, drawn: Drawn) -> None:
        """Put a result into the history."""
        with self.lock:
            self.history.add(drawn)

    def preview(self, image: Image.Image, **more) -> None:
        """Show a guess on the way."""
        self.screen.show(preview=True, picture=encode_image(image, "jpeg"), alt="a guess on the way", **more)

    def give_up(self, status: str, mood: str) -> None:
        """Say why there is no new picture; the last one covers a preview."""
        with self.lock:
            traits = self._pictures() if self.shown else {"picture": b"", "preview": False, "alt": ""}
            self.tell(status, mood, progress=0.0, **traits)

    def start_from(self, image: Image.Image, name: str) -> None:
        """Show what the next run starts from, beside the picture on screen."""
        data = encode_image(image, "png")
        with self.lock:
            if not self.pinned:
                self.screen.show(before=data, before_alt=f"what the run starts from: {name}", before_name=name)

    def pin(self) -> None:
        """Make the picture on screen A; or end that."""
        with self.lock:
            self.pinned = None if self.pinned else self.shown
            self.screen.show(**self._beside())

    def list_small(self) -> None:
        """Show the row and the history."""
        with self.lock:
            drawn = list(self.history)
            older = [next_.result.settings for next_ in drawn[1:]] + [None]
            history = [
                self._small(Shot(each)) | {"caption": caption(each.result.settings, before, self._specs)}
                for each, before in zip(drawn, older)
            ]
            row = [self._small(shot) | {"caption": shot.label} for shot in self.row] if len(self.row) > 1 else []
            self.screen.show(history=history, row=row)

    def clear(self) -> None:
        """Let go of all pictures."""
        with self.lock:
            self.history.clear()
            self.shown, self.pinned, self.row = None, None, []

    def _pictures(self) -> dict[str, object]:
        shot = self.shown
        return {"preview": False, "picture": shot.drawn.png(shot.index), "alt": shot.alt} | self._beside()

    def _beside(self) -> dict[str, object]:
        """Return what of the screen stands beside the picture: A, what the run started from, or nothing."""
        if self.pinned:
            pin = self.pinned
            before = {"before": pin.drawn.png(pin.index), "before_alt": f"A: {pin.alt}", "before_name": "A"}
            lines = differences(self._alone(pin), self._alone(self.shown), self._specs)
            return before | {"differences": lines, "pinned": pin.drawn.key}
        before = self.shown.drawn.before() if self.shown else b""
        name = start_name(self.shown.settings) if before else ""
        alt = f"what the run started from: {name}" if before else ""
        return {"before": before, "before_alt": alt, "before_name": name, "differences": [], "pinned": 0}

    def _alone(self, shot: Shot) -> dict[str, object]:
        """Return the settings of one picture among several."""
        return shot.settings | ({"seed": seeds(shot.settings)[shot.index]} if "seed" in shot.settings else {})

    def _small(self, shot: Shot) -> dict[str, object]:
        drawn = shot.drawn
        told = {"title": listed(self._alone(shot), self._specs), "alt": shot.alt}
        return told | {"data": drawn.thumbnail(shot.index), "key": drawn.key, "starred": drawn.starred}


def start_name(settings: Mapping[str, object]) -> str:
    """Return what to call the picture that a run is given."""
    return "edges" if settings.get("detect_edges") else "start"


def describe(timesteps: list[int], seconds: float) -> str:
    """Return e.g. "4 steps at timesteps 999, 759, 499, 259 - 0.41 s"."""
    steps = "1 step at timestep" if len(timesteps) == 1 else f"{len(timesteps)} steps at timesteps"
    return f"{steps} {', '.join(map(str, timesteps))} - {seconds:.2f} s"
