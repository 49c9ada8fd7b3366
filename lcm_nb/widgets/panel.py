"""Controls that rerun a pipeline inline: the latest values win, and nothing queues up.

The panel knows neither torch nor diffusers: it is given ``run(on_step=..., **settings)``.
Callbacks of widgets only post the newest values; one worker thread draws. Works on
ipywidgets 7.7 and 8.
"""

import random
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import ipywidgets as widgets
from IPython.display import display

from ..pictures import encode_image
from ..settings import Setting, slug
from .compare import caption, differences, label_of, listed, say
from .controls import buttons, close_tree, control_for, several
from .history import Drawn, History
from .inputs import ImageInput
from .mailbox import Mailbox
from .previews import Previews
from .screen import Screen

SOURCE = ("image", "detect_edges", "low_threshold", "high_threshold")  # settings that decide what the pipeline is given
TYPING = 0.5  # seconds: a text is drawn when its typing pauses
ASLEEP = "A panel was here. To bring it back to life, run this notebook's cells from the top (Run > Run All Cells)."
_saving = threading.Lock()  # two panels that save at once must not choose one name


@dataclass(frozen=True, kw_only=True)
class Hooks:
    """What a panel is given to work with.

    Parameters
    ----------
    run
        Draws: ``run(on_step=callable, **settings)`` returns a result with ``images`` or ``image``,
        ``settings``, ``timesteps``, ``seconds``, ``note`` and ``save``, with ``given`` also
        ``input_image``.
    code
        Returns the plain code for some settings.
    cancelled
        The exception that stops ``run`` when ``on_step`` raises it.
    plan
        Returns the settings that will run, and a sentence about them or "".
    given
        Returns the picture that the pipeline will be given; shown beside the result.
    examples
        Prompts to choose from.
    describe
        Says in a line what a picture shows.
    read
        Returns the settings that the bytes of a saved PNG carry.
    """

    run: Callable
    code: Callable[[dict], str]
    cancelled: type[Exception]
    plan: Callable[[dict], tuple[dict, str]] = lambda settings: (settings, "")
    given: Callable[[dict], object] | None = None
    examples: Iterable[str] = ()
    describe: Callable[[object], str] | None = None
    read: Callable[[bytes], dict] | None = None


class Panel(widgets.VBox):
    """A section's controls, its picture and its history. Make one with ``Studio.panel()``.

    Parameters
    ----------
    settings
        Name -> :class:`~lcm_nb.settings.Setting`; each becomes a control of that name.
    hooks
        The fields of :class:`Hooks`.

    Attributes
    ----------
    controls
        Name -> widget: the settings, and "lock", "dice", "run", "stop", "live", "show_code", "save",
        "vary", "vary_run", with examples "examples", with ``describe`` "judge".
    screen
        What the page shows: its traits are the picture, the status, the history.
    history
        What was drawn, the newest first.
    result
        The result on screen, or None.
    """

    def __init__(self, settings: Mapping[str, Setting], **hooks):
        self._settings, self._hooks = settings, Hooks(**hooks)
        self.history, self._mailbox, self._previews = History(), Mailbox(), Previews()
        self._error: BaseException | None = None
        self._stopped = threading.Event()
        self._lock = threading.RLock()  # the worker and a click on the history may both show something
        self._quietly = threading.local()
        self._shown: Drawn | None = None
        self._pinned: tuple[Drawn, int] | None = None
        self._row: list[tuple[Drawn, int, str]] = []
        self._chosen = 0
        self._source: list | None = None
        self._intent = widgets.HTML()
        self.screen = Screen(status="Ready.", reads=self._hooks.read is not None)
        self.controls = {name: control_for(name, spec) for name, spec in settings.items()}
        self.controls |= buttons(settings, self._hooks.examples, self._hooks.describe is not None)
        body = widgets.Box([self._arrange(), self.screen])
        body.add_class("lcm-body")
        super().__init__([body])
        self.add_class("lcm-panel")
        self._connect()
        self._show_intent()
        self._look_ahead()

    # -- what tests and notebooks use; the mouse takes the same paths ------------------

    def run(self) -> None:
        """Draw the current values, as the Run button does.

        Raises
        ------
        ValueError
            If the panel was closed.
        """
        self._post([self.values()])

    def stop(self) -> None:
        """Stop the run in flight within one step; the picture on screen stays."""
        self._stopped.set()

    def wait(self, timeout: float | None = None):
        """Wait until nothing runs, and return the result on screen.

        Raises
        ------
        TimeoutError
            If a run is still going after ``timeout`` seconds.
        Exception
            What the last run raised, if it failed.
        """
        if not self._mailbox.wait_idle(timeout):
            raise TimeoutError(f"the picture is not ready after {timeout} s; wait longer or call panel.stop()")
        error, self._error = self._error, None
        if error is not None:
            raise error
        return self.result

    def values(self) -> dict[str, object]:
        """Return the settings as the controls show them."""
        return {name: self.controls[name].value for name in self._settings}

    @property
    def result(self):
        """The result on screen, or None."""
        return self._shown.result if self._shown else None

    @property
    def intent(self) -> str:
        """What will run, where steps are not all that decides it: the line beside strength."""
        return self._intent.value

    @property
    def status(self) -> str:
        """The status line."""
        return self.screen.status

    def save(self, path: str | Path | None = None) -> Path:
        """Save the picture on screen as a PNG with its settings; the default name says the prompt and seed.

        Raises
        ------
        ValueError
            If there is no picture yet, or the path is no PNG in an existing folder.
        """
        if self.result is None:
            raise ValueError("There is no picture to save yet; press Run first.")
        return _save(self.result, path)

    def recall(self, key: int) -> None:
        """Show a picture of the history, and set the controls to what made it; nothing is drawn.

        Raises
        ------
        ValueError
            If the history has no picture of this ``key``.
        """
        self._pick(self.history[key], 0, _row_of(self.history[key]))

    def choose(self, index: int) -> None:
        """Show the picture at ``index`` (from 0) of the row that was drawn together."""
        drawn, picture, _ = self._row[index]
        self._pick(drawn, picture, self._row, index)

    def remix(self) -> None:
        """Draw with the settings of the picture on screen, all but the seed, which is a new one."""
        if self.result is not None:
            self._set({**self.result.settings, "seed": random.randrange(2**31)})
            self.run()

    def star(self) -> None:
        """Keep the picture on screen in the history for good, or no longer.

        Raises
        ------
        ValueError
            If too many are kept already.
        """
        if self._shown:
            self.history.star(self._shown)
            self._show_history()

    def pin(self) -> None:
        """Make the picture on screen A, with which those that follow are compared; or end that."""
        with self._lock:
            image = self._row[self._chosen][1] if self._row else 0
            self._pinned = None if self._pinned or not self._shown else (self._shown, image)
            self.screen.show(**self._beside())
        self._show_history()

    def vary(self, name: str) -> None:
        """Draw some pictures that differ in one number setting alone; they become a row to choose from.

        Raises
        ------
        ValueError
            If there is no such number setting.
        """
        spec = self._settings.get(name)
        if spec is None or spec.kind != "number":
            numbers = [name for name, spec in self._settings.items() if spec.kind == "number"]
            raise ValueError(f"{name!r} is no number setting; choose one of: {', '.join(numbers)}.")
        now = self.values()
        self._post([{**now, name: value} for value in several(spec, now[name])], name)

    def read(self, content: bytes) -> None:
        """Take the settings that a saved PNG carries, and draw them; what is wrong with it shows in the status."""
        if self._hooks.read:
            self._mailbox.post_errand("read", lambda: self._try("Not taken", lambda: self._take(content)))

    def close(self) -> None:
        """End the worker, and free every widget of the panel; a run in flight stops within one step."""
        self._mailbox.close()
        self.history.clear()
        self._row, self._shown, self._pinned = [], None, None
        close_tree(self._intent)  # it is not shown in each section
        close_tree(self)

    # -- layout and callbacks ---------------------------------------------------------

    def _arrange(self) -> widgets.VBox:
        c, rows = self.controls, []
        for name, spec in self._settings.items():
            if name == "seed":
                continue
            rows += [c[name], _reason(spec)] if spec.inert else [c[name]]
            rows += [c["examples"]] if name == "prompt" and "examples" in c else []
        if self._hooks.plan(self.values())[1]:
            self._intent.add_class("lcm-intent")
            rows.insert(1 + rows.index(c["strength"]), self._intent)
        c["seed"].add_class("lcm-seed")
        rows.append(widgets.HBox([c["seed"], c["lock"], c["dice"]]))
        rows.append(widgets.HBox([c["run"], c["stop"], c["live"], c["show_code"], c["save"]]))
        rows.append(widgets.HBox([c["vary"], c["vary_run"], *([c["judge"]] if "judge" in c else [])]))
        left = widgets.VBox(rows)
        left.add_class("lcm-controls")
        return left

    def _connect(self) -> None:
        c = self.controls
        for name in self._settings:
            c[name].observe(self._on_change, "value")
            if isinstance(c[name], ImageInput):
                c[name].observe(self._on_refusal, "error")
        c["dice"].on_click(lambda _: self._roll())
        c["run"].on_click(lambda _: self._on_run())
        c["stop"].on_click(lambda _: self.stop())
        c["save"].on_click(lambda _: self._on_save())
        c["vary_run"].on_click(lambda _: self.vary(c["vary"].value))
        c["show_code"].observe(lambda _: self._show_code(), "value")
        if "examples" in c:
            c["examples"].observe(self._on_example, "value")
        if "judge" in c:
            c["judge"].observe(lambda _: self._show_words(), "value")
        actions = {name: getattr(self, name) for name in ("recall", "choose", "remix", "star", "pin", "read", "stop")}
        actions = {name: self._told(action) for name, action in actions.items()}
        self.screen.listen(
            actions | {"run": self._on_key, "refuse": lambda why: self._tell(f"Not taken: {why}", "error")}
        )

    def _told(self, action: Callable) -> Callable:
        """Return ``action`` for the page: what it refuses shows in the status."""
        return lambda **arguments: self._try("Not done", lambda: action(**arguments))

    def _try(self, what: str, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:
            self._tell(f"{what}: {_sentence(error)}", "error")

    def _on_change(self, change) -> None:
        if getattr(self._quietly, "now", False):
            return
        self._show_intent()
        if self.controls["live"].value and not self._mailbox.closed:
            self._post([self.values()], pause=TYPING if isinstance(change.owner, widgets.Text) else 0.0)
        else:
            self._look_ahead()

    def _on_refusal(self, change) -> None:
        if change.new:
            self._refuse(change.new)

    def _refuse(self, why: str) -> None:
        self._tell(f"Not taken: {why}", "error")

    def _on_run(self) -> None:
        if not self.controls["lock"].value:
            self._set({"seed": random.randrange(2**31)})
        self.run()

    def _on_key(self, name: str = "", text: str = "") -> None:
        if name in self._settings and self._settings[name].kind == "text":
            self._set({name: text})  # the last letters may still be under way
        self._on_run()

    def _on_example(self, change) -> None:
        if change.new:
            self.controls["prompt"].value = change.new

    def _on_save(self) -> None:
        result = self.result
        if result is None:
            self._tell("Not saved: There is no picture to save yet; press Run first.", "error")
        else:
            self._mailbox.post_errand(
                f"save {time.monotonic_ns()}", lambda: self._try("Not saved", lambda: self._keep(result))
            )

    def _roll(self) -> None:
        self.controls["seed"].value = random.randrange(2**31)

    def _set(self, settings: Mapping[str, object]) -> None:
        """Set controls, and draw nothing."""
        self._quietly.now = True
        try:
            for name, value in settings.items():
                if name in self._settings:
                    self.controls[name].value = value
        finally:
            self._quietly.now = False
        self._show_intent()

    def _post(self, cases: list[dict], varied: str = "", *, pause: float = 0.0) -> None:
        if self._mailbox.closed:
            raise ValueError("This panel was closed; make a new one with studio.panel().")
        self._stopped.clear()
        self._error = None
        cases = [self._hooks.plan(case)[0] for case in cases]
        self._mailbox.post(lambda: self._draw(cases, varied), pause=pause)

    # -- what the worker does -----------------------------------------------------------

    def _draw(self, cases: list[dict], varied: str) -> None:
        self._error, row = None, []
        try:
            for number, case in enumerate(cases, 1):
                self._begin(f" {number} of {len(cases)}" if varied else "", (number - 1) / len(cases))
                on_step = partial(self._on_step, case=number, cases=len(cases))
                drawn = Drawn(self._hooks.run(on_step=on_step, **case))
                if varied:
                    row.append((drawn, 0, f"{label_of(varied, self._settings[varied])} {say(case[varied])}"))
                self._finish(drawn, row or _row_of(drawn), last=number == len(cases))
        except self._hooks.cancelled:
            if self._stopped.is_set():
                self._give_up("Stopped.", "idle")
        except BaseException as error:  # SystemExit, too: this thread must go on
            self._error = error
            self._give_up(_sentence(error), "error")

    def _begin(self, which: str, done: float) -> None:
        self._previews.begin()
        self.screen.show(status=f"Drawing{which} ...", mood="busy", progress=done)

    def _on_step(self, step, *, case: int, cases: int) -> None:
        if self._stopped.is_set() or self._mailbox.outdated():
            raise self._hooks.cancelled
        picture, pictures = getattr(step, "picture", 1), getattr(step, "pictures", 1)
        within = (picture - 1 + step.number / step.total) / pictures
        shown = {"progress": (case - 1 + within) / cases}
        if not self._previews.worth(step):
            self.screen.show(**shown)
            return
        start = time.perf_counter()
        shown |= {"picture": encode_image(step.preview(), "jpeg"), "preview": True, "alt": "a preview"}
        with self._lock:
            if not self._mailbox.dropped:
                self.screen.show(**shown)
        self._previews.made(time.perf_counter() - start)

    def _finish(self, drawn: Drawn, row: list, *, last: bool) -> None:
        index = len(row) - 1 if row and row[0][0] is not drawn else 0
        image = row[index][1] if row else 0
        drawn.png(image), drawn.before()  # encoded before the lock is taken
        with self._lock:
            if self._mailbox.dropped:
                return
            self._show(drawn, row, index, busy=not last)
            self.history.add(drawn)
        self._show_history()
        if last:
            self._show_words()
            self._show_code()

    def _give_up(self, why: str, mood: str) -> None:
        with self._lock:
            if self._mailbox.dropped:
                return
            shown = {"status": why, "mood": mood, "progress": 0.0}
            if self._shown:  # a preview may cover it
                shown |= self._pictures()
            elif self.screen.preview:
                shown |= {"picture": b"", "preview": False}
            self.screen.show(**shown)

    def _take(self, content: bytes) -> None:
        self._set(self._hooks.read(content))
        self.run()

    def _keep(self, result) -> None:
        path = _save(result, None)
        self.screen.show(
            status=f"Saved as {path}", mood="done", file=Path(path).read_bytes(), file_name=Path(path).name
        )

    # -- what is on screen ----------------------------------------------------------------

    def _tell(self, status: str, mood: str) -> None:
        self.screen.show(status=status, mood=mood)

    def _show_intent(self) -> None:
        self._intent.value = self._hooks.plan(self.values())[1]

    def _look_ahead(self) -> None:
        """Have the worker show what the pipeline will be given, where that changed and nothing is drawn."""
        if self._hooks.given and self._source_of(self.values()) != self._source:
            self._mailbox.post_errand("given", lambda: self._try("No picture", self._show_given))

    def _source_of(self, settings: Mapping[str, object]) -> list:
        return [settings.get(name) for name in SOURCE]

    def _show_given(self) -> None:
        settings = self._hooks.plan(self.values())[0]
        before = encode_image(self._hooks.given(settings), "png")
        with self._lock:
            self._source = self._source_of(settings)
            if not self._pinned:
                self.screen.show(
                    before=before, before_alt="what the run starts from", before_name=self._start(settings)
                )

    def _start(self, settings: Mapping[str, object]) -> str:
        return "edges" if settings.get("detect_edges") else "start"

    def _pick(self, drawn: Drawn, image: int, row: list, index: int | None = None) -> None:
        self._mailbox.drop()
        self._stopped.clear()
        with self._lock:
            self._error = None
            self._show(drawn, row, image if index is None else index)
        self._set(drawn.result.settings)
        self._show_history()
        self._show_words()
        self._show_code()

    def _show(self, drawn: Drawn, row: list, index: int, *, busy: bool = False) -> None:
        self._shown, self._row, self._chosen = drawn, row, index
        result = drawn.result
        self._source = self._source_of(result.settings)
        shown = self._pictures() | {"caption": say(result.settings.get("prompt", "")), "words": ""}
        if not busy:
            note = f"; {result.note}" if result.note else ""
            shown |= {"status": describe(result.timesteps, result.seconds) + note, "mood": "done", "progress": 0.0}
        self.screen.show(**shown, shown=drawn.key, chosen=index)

    def _pictures(self) -> dict[str, object]:
        """Return what of the screen is the picture, and what is beside it."""
        image = self._row[self._chosen][1] if self._row else 0
        alt = _alt(self._shown.result.settings, image)
        return {"picture": self._shown.png(image), "preview": False, "alt": alt} | self._beside()

    def _beside(self) -> dict[str, object]:
        if self._pinned:
            drawn, image = self._pinned
            settings, now = drawn.result.settings, self._shown.result.settings
            lines = [list(line) for line in differences(settings, now, self._settings)]
            before = {"before": drawn.png(image), "before_alt": f"A: {_alt(settings, image)}", "before_name": "A"}
            return before | {"differences": lines, "pinned": drawn.key}
        before = self._shown.before() if self._shown and self._hooks.given else b""
        name = self._start(self._shown.result.settings) if before else ""
        alt = "what the run started from" if before else ""
        return {"before": before, "before_alt": alt, "before_name": name, "differences": [], "pinned": 0}

    def _show_history(self) -> None:
        with self._lock:
            all_drawn = list(self.history)
            older = [drawn.result.settings for drawn in all_drawn[1:]] + [None]
            history = [
                self._small(drawn, 0) | {"caption": caption(drawn.result.settings, before, self._settings)}
                for drawn, before in zip(all_drawn, older)
            ]
            row = [self._small(drawn, image) | {"caption": text} for drawn, image, text in self._row]
            self.screen.show(history=history, row=row)

    def _small(self, drawn: Drawn, image: int) -> dict[str, object]:
        settings = drawn.result.settings
        told = {"title": listed(settings, self._settings), "alt": _alt(settings, image)}
        return told | {"data": drawn.thumbnail(image), "key": drawn.key, "starred": drawn.starred}

    def _show_words(self) -> None:
        if not self._hooks.describe or not self._shown:
            return
        drawn, image = self._shown, self._row[self._chosen][1] if self._row else 0

        def judge() -> None:
            words = self._hooks.describe(drawn.images[image]) if self.controls["judge"].value else ""
            if self._shown is drawn:
                self.screen.show(words=words)

        self._mailbox.post_errand("judge", lambda: self._try("The judge", judge))

    def _show_code(self) -> None:
        if not self.controls["show_code"].value:
            self.screen.show(code="")
            return

        def show() -> None:
            self.screen.show(code="")
            settings = self.result.settings if self.result else self._hooks.plan(self.values())[0]
            self.screen.show(code=self._hooks.code(settings))

        self._mailbox.post_errand("code", lambda: self._try("No code", show))

    def _ipython_display_(self, **_) -> None:
        """Show the panel, and a line that only those see who open the notebook without a kernel."""
        asleep = f'<div class="lcm-asleep"><small>{ASLEEP}</small></div>'
        view = {"version_major": 2, "version_minor": 0, "model_id": self.model_id}
        display({"text/html": asleep, "text/plain": ASLEEP}, raw=True)
        display({"application/vnd.jupyter.widget-view+json": view, "text/plain": "lcm_nb panel"}, raw=True)


def describe(timesteps: list[int], seconds: float) -> str:
    """Return e.g. "4 steps at timesteps 999, 759, 499, 259 - 0.41 s"."""
    steps = "1 step at timestep" if len(timesteps) == 1 else f"{len(timesteps)} steps at timesteps"
    return f"{steps} {', '.join(map(str, timesteps))} - {seconds:.2f} s"


def _row_of(drawn: Drawn) -> list[tuple[Drawn, int, str]]:
    """Return the row of a result: its pictures, where there are more than one."""
    seed = drawn.result.settings.get("seed", 0)
    many = len(drawn.images) > 1
    return [(drawn, image, f"seed {seed + image}") for image in range(len(drawn.images))] if many else []


def _alt(settings: Mapping[str, object], image: int) -> str:
    steps = settings.get("num_inference_steps", 0)
    seed = settings.get("seed", 0) + image
    return f"{settings.get('prompt', '')}; {steps} step{'s' * (steps != 1)}; seed {seed}"


def _reason(spec: Setting) -> widgets.Label:
    """Return the line under a control that has no effect."""
    line = widgets.Label(spec.inert)
    line.add_class("lcm-reason")
    return line


def _sentence(error: BaseException) -> str:
    """Return an error as a line: those that are sentences as they are, others with their kind."""
    spoken = isinstance(error, (ValueError, OSError, MemoryError)) and str(error)
    return str(error) if spoken else f"{type(error).__name__}: {error}"


def _save(result, path: str | Path | None) -> Path:
    with _saving:
        return result.save(path or _free_name(result.settings))


def _free_name(settings: dict) -> Path:
    stem = f"{slug(str(settings.get('prompt', 'picture')))}-seed{settings.get('seed', 0)}"
    path = Path(f"{stem}.png")
    number = 2
    while path.exists():
        path, number = Path(f"{stem}-{number}.png"), number + 1
    return path
