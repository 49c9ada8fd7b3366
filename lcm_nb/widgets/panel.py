"""Controls that rerun a pipeline inline: the latest values win, and nothing queues up.

The panel knows neither torch nor diffusers: it is given ``run(on_step=..., **settings)``.
Callbacks of widgets only post the newest values; one worker thread draws. Works on
ipywidgets 7.7 and 8.
"""

import itertools
import random
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import ipywidgets as widgets
from IPython.display import display

from ..files import as_path, check_target, names
from ..files import save as save_files
from ..settings import EXAMPLE, Setting, slug
from .compare import label_of, say
from .controls import buttons, close_tree, control_for, several, with_prompt
from .film import SUFFIXES, Film
from .history import Drawn
from .inputs import ImageInput
from .mailbox import Mailbox
from .previews import Previews
from .screen import Screen
from .stage import Shot, Stage, shots_of, start_name

TYPING = 0.5  # seconds: a text is drawn when its typing pauses
SLOW, SETTLE = 1.5, 0.25  # seconds: where a run takes longer than SLOW, a change is drawn when the changes pause
LIST = 1.0  # seconds: of pictures that come faster, the history is shown when nothing waits, or after so long
ASLEEP = "A panel stood here. To bring it back to life, run this notebook's cells from the top (Run > Run All Cells)."


@dataclass(frozen=True, kw_only=True)
class Hooks:
    """What a panel is given to work with.

    Parameters
    ----------
    run
        Draws: ``run(on_step=callable, **settings)`` returns a result with ``images``, ``settings``,
        ``timesteps``, ``seconds``, ``note`` and ``save``, with ``given`` also ``input_image``.
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
    picture
        Returns the picture that a value of a setting stands for, by the setting's name.
    side
        Pixels of a side of the pictures that are drawn: of what is painted in the page, too.
    """

    run: Callable
    code: Callable[[dict], str]
    cancelled: type[Exception]
    plan: Callable[[dict], tuple[dict, str]] = lambda settings: (settings, "")
    given: Callable[[dict], object] | None = None
    examples: Iterable[str] = ()
    describe: Callable[[object], str] | None = None
    read: Callable[[bytes], dict] | None = None
    picture: Callable[[str, str], object] | None = None
    side: int = 512


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
        "save_film", "reset", "vary", "vary_run", with examples "examples", with ``describe`` "judge".
    specs
        Name -> setting, as given.
    screen
        What the page shows: its traits are the picture, the status, the history.
    """

    def __init__(self, settings: Mapping[str, Setting], **hooks):
        self.specs, self._hooks = settings, Hooks(**hooks | {"examples": tuple(hooks.get("examples", ()))})
        self._mailbox, self._previews = Mailbox(), Previews()
        self._error: BaseException | None = None
        self._stopped = threading.Event()
        self._quietly = threading.local()
        self._errands = itertools.count()
        self._source: list | None = None  # the settings of the picture that is shown as the start
        self._intent = widgets.Label()
        self.screen = Screen(status="Press Run, or move a slider.", reads=self._hooks.read is not None)
        self._stage, self._film = Stage(self.screen, settings), Film()
        self._took = 0.0  # seconds of the last run
        self._listed = 0.0  # when the history was shown
        self.controls = {name: control_for(name, spec) for name, spec in settings.items()}
        self.controls |= buttons(settings, self._hooks.examples, judge=self._hooks.describe is not None)
        body = widgets.Box([self._arrange(), self.screen])
        body.add_class("lcm-body")
        super().__init__([body])
        self.add_class("lcm-panel")
        self._connect()
        self._show_intent()
        self._show_mask()
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

    def check(self) -> None:
        """Raise the exception that stops a run, if Stop was pressed or newer values wait; for whatever waits to run."""
        if self._stopped.is_set() or self._mailbox.outdated():
            raise self._hooks.cancelled

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
        return {name: self.controls[name].value for name in self.specs}

    @property
    def result(self):
        """The result on screen, or None."""
        return self._stage.result

    @property
    def history(self):
        """What was drawn, the newest first; :class:`~lcm_nb.widgets.history.History`."""
        return self._stage.history

    @property
    def intent(self) -> str:
        """What will run, where steps are not all that decides it: the line beside strength."""
        return self._intent.value

    @property
    def status(self) -> str:
        """The status line."""
        return self.screen.status

    def save(self, path: str | Path | None = None) -> Path:
        """Save the result on screen as PNG files with its settings; the default name says the prompt and seed.

        Nothing is replaced: where a name is taken, the next free one is used. The first file's path is returned.

        Raises
        ------
        ValueError
            If there is no picture yet, or the path is no PNG in an existing folder.
        OSError
            If it cannot be written; the message says what to do.
        """
        if self.result is None:
            raise ValueError("There is no picture to save yet; press Run first.")
        return self.result.save(path or _name(self.result.settings))

    def save_film(self, path: str | Path | None = None) -> Path:
        """Save the last pictures as an endless film, in the order in which they were drawn, and return its path.

        There are at most 120, fewer where they are large (64 MB); a picture stays for 0.2 s, the last one for 2 s.

        Parameters
        ----------
        path
            Of a WebP (".webp") or a GIF (".gif"); the default name says prompt and seed. Nothing is replaced.

        Raises
        ------
        ValueError
            If there is no picture yet, or the path is neither, or its folder does not exist.
        OSError
            If it cannot be written; the message says what to do.
        """
        if self.result is None:
            raise ValueError("There is no picture to save yet; press Run first.")
        default = _name(self.result.settings).with_suffix(".webp")
        place = as_path(default if path is None else path, "the name of a file that ends in .webp or .gif")
        if (suffix := place.suffix.lower()) not in SUFFIXES:
            raise ValueError(f"{place} ends in neither .webp nor .gif; a film is one of these.")
        return save_files(check_target(place, suffix), [self._film.encode(suffix)])[0]

    def reset(self) -> None:
        """Set all settings to the section's own, and draw if the panel is live."""
        self._set({name: spec.default for name, spec in self.specs.items()})
        if self.controls["live"].value:
            self.run()
        else:
            self._look_ahead()

    def recall(self, key: int) -> None:
        """Show a picture of the history, and set the controls to what made it; nothing is drawn.

        Raises
        ------
        ValueError
            If the history has no picture of this ``key``.
        """
        row = shots_of(self.history[key])
        self._pick(row[0], row)

    def choose(self, index: int) -> None:
        """Show the picture at ``index`` (from 0) of the row that was drawn together."""
        self._pick(self._stage.row[index], self._stage.row)

    def remix(self) -> None:
        """Draw with the settings of the picture on screen, all but the seed, which is a new one."""
        if self.result is not None:
            self._set({**self.result.settings, "seed": _new_seed()})
            self.run()

    def star(self) -> None:
        """Keep the picture on screen in the history for good, or no longer.

        Raises
        ------
        ValueError
            If too many are kept already.
        """
        if self._stage.shown:
            self.history.star(self._stage.shown.drawn)
            self._stage.list_small()

    def pin(self) -> None:
        """Make the picture on screen A, with which those that follow are compared; or end that."""
        self._stage.pin()

    def vary(self, name: str) -> None:
        """Draw some pictures that differ in one number setting alone; they become a row to choose from.

        Raises
        ------
        ValueError
            If there is no such number setting.
        """
        numbers = [other for other, spec in self.specs.items() if spec.kind == "number" and spec.role != "count"]
        if name not in numbers:
            raise ValueError(f"{name!r} is no number setting; choose one of: {', '.join(numbers)}.")
        now = self.values() | ({"num_images": 1} if "num_images" in self.specs else {})
        values = several(self.specs[name], now[name])
        self._post([{**now, name: value} for value in values], name)

    def read(self, content: bytes) -> None:
        """Take the settings that a saved PNG carries, and draw them; what is wrong with it shows in the status."""
        if self._hooks.read:
            self._errand("read", "Not taken", lambda: self._take(content))

    def close(self) -> None:
        """End the worker, and free every widget of the panel; a run in flight stops within one step."""
        self._mailbox.close()
        self._stage.clear()
        self._film.clear()
        close_tree(self._intent)  # it is not in each panel's tree
        close_tree(self)

    # -- layout and callbacks ---------------------------------------------------------

    def _arrange(self) -> widgets.VBox:
        c, rows = self.controls, []
        for name, spec in self.specs.items():
            if spec.role == "seed":
                continue
            rows += [c[name], _reason(spec)] if spec.inert else [c[name]]
            rows += [c["examples"]] if name == "prompt" and "examples" in c else []
        if self._hooks.plan(self.values())[1]:
            self._intent.add_class("lcm-intent")
            rows.insert(1 + rows.index(c["strength"]), self._intent)
        rows.append(widgets.HBox([c["seed"], c["lock"], c["dice"]]))
        rows.append(widgets.HBox([c["run"], c["stop"], c["live"], c["show_code"], c["save"], c["save_film"]]))
        rows.append(widgets.HBox([c[name] for name in ("vary", "vary_run", "judge", "reset") if name in c]))
        left = widgets.VBox(rows)
        left.add_class("lcm-controls")
        return left

    def _connect(self) -> None:
        c = self.controls
        if self._mask:
            c["image"].observe(self._on_picture, "value")  # before what draws
        for name in self.specs:
            c[name].observe(self._on_change, "value")
            if isinstance(c[name], ImageInput):
                c[name].side = self._hooks.side
                c[name].observe(lambda change: change.new and self._refuse(change.new), "error")
                c[name].observe(self._on_taken, "taken")
        c["dice"].on_click(lambda _: self._roll())
        c["run"].on_click(lambda _: self._on_run())
        c["stop"].on_click(lambda _: self.stop())
        c["reset"].on_click(lambda _: self.reset())
        c["save"].on_click(lambda _: self._on_save())
        c["save_film"].on_click(lambda _: self._errand("film", "Not saved", self._keep_film))
        c["vary_run"].on_click(lambda _: self.vary(c["vary"].value))
        c["show_code"].observe(lambda _: self._show_code(), "value")
        if "examples" in c:
            c["examples"].observe(self._on_example, "value")
        if "judge" in c:
            c["judge"].observe(lambda _: self._show_words(), "value")
        actions = {name: getattr(self, name) for name in ("recall", "choose", "remix", "star", "pin", "read", "stop")}
        actions |= {"run": self._on_key, "refuse": self._refuse}
        self.screen.listen({name: partial(self._try, "Not done", action) for name, action in actions.items()})

    def _try(self, what: str, action: Callable[..., None], **arguments) -> None:
        """Do what the page asks for; what is refused shows in the status."""
        try:
            action(**arguments)
        except Exception as error:
            self._stage.tell(f"{what}: {_sentence(error)}", "error")

    def _errand(self, name: str, what: str, action: Callable[[], None]) -> None:
        """Have the worker do something small when it does not draw."""
        self._mailbox.post_errand(name, partial(self._try, what, action))

    def _on_change(self, change) -> None:
        if getattr(self._quietly, "now", False):
            return
        if change.owner is self._mask and not change.owner.part:
            self._show_mask()
        self._show_intent()
        if not self.controls["live"].value:
            self._look_ahead()
        elif not self._mailbox.closed:
            self._post([self.values()], **self._patience(change.owner))

    def _patience(self, control: widgets.Widget) -> dict[str, Any]:
        """Return how long a control's change waits for the next, and whether for the run in flight, too.

        A stroke that goes on, or a camera, would else stop each run before there is a picture.
        """
        if isinstance(control, widgets.Textarea):
            return {"pause": TYPING}
        part = getattr(control, "part", "")
        pause = SETTLE if self._took > SLOW and part != "camera" else 0.0  # a camera never pauses
        return {"pause": pause, "patient": part in ("stroke", "camera")}

    def _on_taken(self, change) -> None:
        """Let the last frame of a stroke be drawn at once, also where it brought nothing new."""
        if change.owner.part == "end":
            self._mailbox.hurry()

    @property
    def _mask(self) -> ImageInput | None:
        """The control of the mask, where the section takes one."""
        return next((self.controls[name] for name, spec in self.specs.items() if spec.kind == "mask"), None)

    def _on_picture(self, change) -> None:
        """Begin a new mask for a new picture."""
        if getattr(self._quietly, "now", False):
            return
        self._quietly.now = True
        try:
            if change.new == EXAMPLE:
                self._mask.value = EXAMPLE
            else:
                self._mask.empty(self._hooks.picture("image", change.new).size)
        finally:
            self._quietly.now = False
        self._show_mask()

    def _show_mask(self) -> None:
        """Show the mask on its picture, to be painted on."""
        if self._mask and self._hooks.picture:
            self._try("Not taken", self._lay_mask)

    def _lay_mask(self) -> None:
        image, mask = (self._hooks.picture(name, self.controls[name].value) for name in ("image", "mask_image"))
        self._mask.lay_under(image, mask)

    def _refuse(self, why: str) -> None:
        self._stage.tell(f"Not taken: {why}", "error")

    def _on_run(self) -> None:
        if not self.controls["lock"].value:
            self._set({"seed": _new_seed()})
        self.run()

    def _on_key(self, name: str = "", text: str = "") -> None:
        if name in self.specs and self.specs[name].kind == "text":
            self._set({name: text})  # the last letters may still be under way
        self._on_run()

    def _remember_prompt(self, prompt: str) -> None:
        """Put a prompt that was drawn into the menu of prompts, the newest above."""
        if menu := self.controls.get("examples"):
            menu.options = with_prompt(menu.options, prompt, self._hooks.examples)

    def _on_example(self, change) -> None:
        if change.new:
            self.controls["prompt"].value = change.new

    def _on_save(self) -> None:
        shot = self._stage.shown
        if shot is None:
            self._stage.tell("Not saved: There is no picture to save yet; press Run first.", "error")
        else:
            self._errand(f"save {next(self._errands)}", "Not saved", lambda: self._keep(shot))

    def _roll(self) -> None:
        self.controls["seed"].value = _new_seed()

    def _set(self, settings: Mapping[str, object]) -> None:
        """Set controls, and draw nothing."""
        self._quietly.now = True
        try:
            for name in settings.keys() & self.specs.keys():
                self.controls[name].value = settings[name]
        finally:
            self._quietly.now = False
        if settings.keys() & {"image", "mask_image"}:
            self._show_mask()
        self._show_intent()

    def _pick(self, shot: Shot, row: list[Shot]) -> None:
        self._mailbox.drop()
        self._error = None
        self._stage.show(shot, row)
        self._source = self._source_of(shot.settings)
        self._set(shot.settings)
        self._list()
        self._show_more()

    def _post(self, cases: list[dict], varied: str = "", **patience: Any) -> None:
        if self._mailbox.closed:
            raise ValueError("This panel was closed; make a new one with studio.panel().")
        self._stopped.clear()
        self._error = None
        cases = [self._hooks.plan(case)[0] for case in cases]
        self._mailbox.post(lambda: self._draw(cases, varied), **patience)

    # -- what the worker does -----------------------------------------------------------

    def _draw(self, cases: list[dict], varied: str) -> None:
        self._error = None
        try:
            if varied:
                self._draw_row(cases, varied)
            else:
                drawn = self._draw_one(cases[0])
                self._finish(drawn, shots_of(drawn))
        except self._hooks.cancelled:
            if self._stopped.is_set() and not self._mailbox.dropped:
                self._stage.give_up("Stopped.", "idle")
        except BaseException as error:  # SystemExit, too: this thread must go on
            if not self._mailbox.dropped:
                self._error = error
                self._stage.give_up(_sentence(error), "error")

    def _draw_row(self, cases: list[dict], varied: str) -> None:
        """Draw case after case; those that do not go together with the other settings are left out."""
        row, refused = [], []
        for number, case in enumerate(cases, 1):
            label = f"{label_of(varied, self.specs[varied])} {say(case[varied])}"
            try:
                row.append(Shot(self._draw_one(case, number, len(cases)), 0, label))
            except ValueError as error:
                refused.append(error)
            else:
                self._finish(row[-1].drawn, list(row), busy=number < len(cases))
        if refused and not row:
            raise refused[0]
        if refused:
            self._stage.tell(f"{len(row)} of {len(cases)} drawn. {refused[0]}", "done", progress=0.0)

    def _draw_one(self, case: dict, number: int = 1, cases: int = 1) -> Drawn:
        which = f" {number} of {cases}" if cases > 1 else ""
        self._stage.tell(f"Drawing{which} ...", "busy", progress=(number - 1) / cases)
        self._previews.begin()
        drawn = Drawn(self._hooks.run(on_step=partial(self._on_step, number, cases), **case))
        self._took = drawn.result.seconds
        return drawn

    def _on_step(self, case: int, cases: int, step) -> None:
        self.check()
        if self._previews.is_brief(step):
            return
        within = (step.picture - 1 + step.number / step.total) / step.pictures
        progress = (case - 1 + within) / cases
        if not self._previews.worth(step):
            self.screen.show(progress=progress)
            return
        start = time.perf_counter()
        image = step.preview()
        with self._stage.lock:
            if not self._mailbox.dropped:
                self._stage.preview(image, progress=progress)
        self._previews.made(time.perf_counter() - start)

    def _finish(self, drawn: Drawn, row: list[Shot], *, busy: bool = False) -> None:
        shot = next(shot for shot in row if shot.drawn is drawn)
        drawn.png(shot.index), drawn.before()  # encoded before the lock is taken
        with self._stage.lock:
            if self._mailbox.dropped:  # the user went to another picture meanwhile
                return
            self._source = self._source_of(shot.settings)
            self._stage.show(shot, row, busy=busy)
            self._stage.remember(drawn)
            self._film.add(drawn.png(shot.index))
        self._remember_prompt(str(shot.settings.get("prompt", "")))
        if busy or time.monotonic() - self._listed > LIST:
            self._list()
        else:  # two dozen pictures are much for a page that is drawn in
            self._errand("list", "No history", self._list)
        if not busy:
            self._show_more()

    def _list(self) -> None:
        self._stage.list_small()
        self._listed = time.monotonic()

    def _show_more(self) -> None:
        self._show_words()
        self._show_code()

    def _take(self, content: bytes) -> None:
        self._set(self._hooks.read(content))
        self.run()

    def _keep(self, shot: Shot) -> None:
        """Save all pictures of a result; the one on screen is offered to the browser."""
        first = shot.drawn.result.save(_name(shot.settings))
        count = len(shot.drawn.images)
        paths = [first] if count == 1 else names(first.with_stem(first.stem.removesuffix("-1")), count)
        told, path = ", ".join(map(str, paths)), paths[shot.index]
        self._stage.tell(f"Saved as {told}", "done", file=path.read_bytes(), file_name=path.name)

    def _keep_film(self) -> None:
        path = self.save_film()
        told = f"Saved {len(self._film)} picture{'s' * (len(self._film) != 1)} as {path}"
        self._stage.tell(told, "done", file=path.read_bytes(), file_name=path.name)

    # -- what is shown beside the picture ---------------------------------------------------

    def _show_intent(self) -> None:
        self._intent.value = self._hooks.plan(self.values())[1]

    def _source_of(self, settings: Mapping[str, object]) -> list:
        """Return the values that decide what the pipeline is given."""
        return [settings.get(name) for name, spec in self.specs.items() if spec.role in ("picture", "prepare")]

    def _look_ahead(self) -> None:
        """Have what the pipeline will be given shown, where that changed and nothing is drawn."""

        def show() -> None:
            settings = self._hooks.plan(self.values())[0]
            self._stage.start_from(self._hooks.given(settings), start_name(settings))
            self._source = self._source_of(settings)

        if self._hooks.given and self._source_of(self.values()) != self._source:
            self._errand("given", "Not taken", show)

    def _show_words(self) -> None:
        shot = self._stage.shown
        if not self._hooks.describe or not shot:
            return

        def judge() -> None:
            words = self._hooks.describe(shot.image) if self.controls["judge"].value else ""
            if self._stage.shown == shot:
                self.screen.show(words=words)

        self._errand("judge", "No description", judge)

    def _show_code(self) -> None:
        def show() -> None:
            self.screen.show(code="")
            settings = self.result.settings if self.result else self._hooks.plan(self.values())[0]
            self.screen.show(code=self._hooks.code(settings))

        if self.controls["show_code"].value:
            self._errand("code", "No code", show)
        else:
            self.screen.show(code="")

    def _ipython_display_(self, **_) -> None:
        """Show the panel, and a line that only those see who open the notebook without a kernel."""
        asleep = f'<div class="lcm-asleep"><small>{ASLEEP}</small></div>'
        view = {"version_major": 2, "version_minor": 0, "model_id": self.model_id}
        display({"text/html": asleep, "text/plain": ASLEEP}, raw=True)
        display({"application/vnd.jupyter.widget-view+json": view, "text/plain": "lcm_nb panel"}, raw=True)


def _new_seed() -> int:
    return random.randrange(2**31)


def _reason(spec: Setting) -> widgets.Label:
    """Return the line under a control that has no effect."""
    line = widgets.Label(spec.inert)
    line.add_class("lcm-reason")
    return line


def _sentence(error: BaseException) -> str:
    """Return an error as a line: those that are sentences as they are, others with their kind."""
    spoken = isinstance(error, (ValueError, OSError, MemoryError)) and str(error)
    return str(error) if spoken else f"{type(error).__name__}: {error}"


def _name(settings: Mapping[str, object]) -> Path:
    return Path(f"{slug(str(settings.get('prompt', 'picture')))}-seed{settings.get('seed', 0)}.png")
