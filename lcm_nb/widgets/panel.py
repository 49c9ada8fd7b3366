"""Controls that rerun a pipeline inline: the latest values win, and nothing queues up.

The panel knows neither torch nor diffusers: it is given ``run(on_step=..., **settings)``.
Callbacks of widgets only post the newest values; one worker thread draws. Works on
ipywidgets 7.7 and 8.
"""

import contextvars
import html
import random
import threading
import weakref
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path

import ipywidgets as widgets

from ..pictures import encode_image
from ..settings import Setting, slug
from .inputs import ImageInput, Pair

SOURCE = ("image", "detect_edges", "low_threshold", "high_threshold")  # settings that decide what the pipeline is given
HISTORY = 6  # pictures kept to go back to
THUMBNAIL = 112  # pixels
LABELS = {
    "num_inference_steps": "steps",
    "guidance_scale": "guidance",
    "negative_prompt": "negative",
    "detect_edges": "find edges",
    "low_threshold": "canny low",
    "high_threshold": "canny high",
    "controlnet_conditioning_scale": "control",
    "adapter_conditioning_scale": "adapter",
    "adapter_conditioning_factor": "factor",
}


class Mailbox:
    """One slot between many posters and one worker: a new letter replaces an unread one."""

    def __init__(self):
        self.changed = threading.Condition()
        self.letter: dict | None = None
        self.busy = self.closed = False

    def post(self, letter: dict) -> None:
        with self.changed:
            self.letter = letter
            self.changed.notify_all()

    def take(self) -> dict | None:
        """Wait for a letter and return it; None after ``close``."""
        with self.changed:
            self.busy = False
            self.changed.notify_all()
            self.changed.wait_for(lambda: self.letter is not None or self.closed)
            letter, self.letter, self.busy = self.letter, None, self.letter is not None
            return letter

    def outdated(self) -> bool:
        """Whether newer values wait, so that the run in flight may stop."""
        return self.letter is not None or self.closed

    def wait_idle(self, timeout: float | None) -> bool:
        with self.changed:
            return self.changed.wait_for(lambda: self.letter is None and not self.busy, timeout)

    def close(self) -> None:
        with self.changed:
            self.closed = True
            self.changed.notify_all()


class Panel(widgets.VBox):
    """A section's controls, its picture and its history. Make one with ``Studio.panel()``.

    Parameters
    ----------
    settings
        Name -> :class:`~lcm_nb.settings.Setting`; each becomes a control of that name.
    run
        Draws: ``run(on_step=callable, **settings)`` returns a result with ``image``,
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

    Attributes
    ----------
    controls
        Name -> widget: the settings, and "lock", "dice", "run", "stop", "live", "show_code", "save".
    result
        The result on screen, or None.
    """

    def __init__(
        self,
        settings: Mapping[str, Setting],
        *,
        run: Callable,
        code: Callable[[dict], str],
        cancelled: type[Exception],
        plan: Callable[[dict], tuple[dict, str]] = lambda settings: (settings, ""),
        given: Callable[[dict], object] | None = None,
    ):
        self._settings, self._run, self._code, self._cancelled = settings, run, code, cancelled
        self._plan, self._given, self._shown_source = plan, given, None
        self.result = None
        self._error: BaseException | None = None
        self._stopped = threading.Event()
        self._showing = threading.Lock()
        self._mailbox = Mailbox()
        self._history: deque = deque(maxlen=HISTORY)
        self.controls = {name: _control(name, spec) for name, spec in settings.items()}
        self.controls |= _buttons()
        self._pair = Pair() if given else None
        shape = widgets.Layout(width="384px", height="384px", object_fit="contain")
        self._picture = self._pair.pictures[1] if given else widgets.Image(format="png", layout=shape)
        self._intent = widgets.Label()
        self._caption = widgets.Label()
        wide = widgets.Layout(width="384px")
        self._status = widgets.HTML("Press Run, or move a slider.", layout=wide)  # unlike a Label, it wraps
        self._progress = widgets.IntProgress(min=0, max=1, layout=wide)
        self._strip = widgets.HBox()
        self._listing = widgets.HTML(layout=widgets.Layout(display="none"))
        super().__init__([self._arrange(), self._strip, self._listing])
        self._connect()
        # A copied context: some ipykernel versions find their output by context variable.
        target = contextvars.copy_context().run
        self._worker = threading.Thread(target=target, args=(_work, weakref.ref(self), self._mailbox), daemon=True)
        self._worker.start()
        weakref.finalize(self, self._mailbox.close)

    # -- what tests and notebooks use; the mouse takes the same paths ------------------

    def run(self) -> None:
        """Draw the current values, as the Run button does."""
        self._stopped.clear()
        self._error = None
        self._mailbox.post(self._plan(self.values())[0])

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
    def intent(self) -> str:
        """What will run, where steps are not all that decides it: the line beside strength."""
        return self._intent.value

    @property
    def status(self) -> str:
        """The status line."""
        return html.unescape(self._status.value)

    def _tell(self, status: str) -> None:
        self._status.value = html.escape(status, quote=False)

    def save(self, path: str | Path | None = None) -> Path:
        """Save the picture on screen as a PNG with its settings; the default name says the prompt and seed.

        Raises
        ------
        ValueError
            If there is no picture yet, or the path is no PNG in an existing folder.
        """
        if self.result is None:
            raise ValueError("There is no picture to save yet; press Run first.")
        return self.result.save(path or _free_name(self.result.settings))

    # -- layout and callbacks ---------------------------------------------------------

    def _arrange(self) -> widgets.HBox:
        c = self.controls
        rows = []
        for name, spec in self._settings.items():
            if name != "seed":
                rows += [c[name], _reason(spec)] if spec.inert else [c[name]]
        if self._plan(self.values())[1]:
            rows.insert(1 + rows.index(c["strength"]), self._intent)
        rows.append(widgets.HBox([c["seed"], c["lock"], c["dice"]]))
        rows.append(widgets.HBox([c["run"], c["stop"], c["live"]]))
        rows.append(widgets.HBox([c["show_code"], c["save"]]))
        left = widgets.VBox(rows, layout=widgets.Layout(width="430px"))
        right = widgets.VBox([self._pair or self._picture, self._progress, self._caption, self._status])
        return widgets.HBox([left, right], layout=widgets.Layout(flex_flow="row wrap"))

    def _connect(self) -> None:
        for name in self._settings:
            self.controls[name].observe(self._on_change, "value")
        self.controls["dice"].on_click(lambda _: self._roll())
        self.controls["run"].on_click(lambda _: self._on_run())
        self.controls["stop"].on_click(lambda _: self.stop())
        self.controls["save"].on_click(lambda _: self._on_save())
        self.controls["show_code"].observe(lambda _: self._show_code(), "value")
        for control in self.controls.values():
            if isinstance(control, ImageInput):
                control.observe(self._on_refusal, "error")
        self._show_intent()

    def _on_refusal(self, change) -> None:
        if change.new:
            self._tell(f"Not taken: {change.new}")

    def _show_intent(self) -> None:
        """Show what will run, and the picture that the pipeline will be given, before it runs."""
        settings, self._intent.value = self._plan(self.values())
        source = [settings.get(name) for name in SOURCE]
        if self._given and source != self._shown_source:  # it takes long for a large picture
            self._shown_source = source
            try:
                self._pair.show("before", encode_image(self._given(settings), "png"), "png")
            except (ValueError, OSError) as error:
                self._tell(str(error))

    def _on_change(self, change) -> None:
        self._show_intent()
        if self.controls["live"].value:
            self.run()

    def _on_run(self) -> None:
        before = self.controls["seed"].value
        if not self.controls["lock"].value:
            self._roll()
        if self.controls["seed"].value == before or not self.controls["live"].value:
            self.run()

    def _roll(self) -> None:
        self.controls["seed"].value = random.randrange(2**31)

    def _on_save(self) -> None:
        try:
            self._tell(f"Saved as {self.save()}")
        except (ValueError, OSError) as error:
            self._tell(f"Not saved: {error}")

    def _show_code(self) -> None:
        shown = self.controls["show_code"].value
        self._listing.layout.display = "block" if shown else "none"
        if not shown:
            return
        try:
            code = self._code(self.result.settings if self.result else self._plan(self.values())[0])
        except ValueError as error:
            self._listing.value = ""
            self._tell(f"No code: {error}")
        else:
            self._listing.value = f"<pre>{html.escape(code)}</pre>"

    # -- the worker's side ------------------------------------------------------------

    def _draw(self, settings: dict) -> None:
        self._error = None
        self._progress.value = 0
        self._tell("Drawing ...")
        try:
            result = self._run(on_step=self._on_step, **settings)
            self._show(result)
            self._remember(result)
        except self._cancelled:
            if self._stopped.is_set():
                self._give_up("Stopped.")
        except Exception as error:
            self._error = error
            self._give_up(f"{type(error).__name__}: {error}")

    def _give_up(self, why: str) -> None:
        self._progress.value = 0
        if self.result is not None:  # a preview may cover it
            self._set_picture(self.result.image, "png")
        self._tell(why)

    def _on_step(self, step) -> None:
        if self._stopped.is_set() or self._mailbox.outdated():
            raise self._cancelled
        self._progress.max, self._progress.value = step.total, step.number
        if step.number < step.total and step.preview:
            self._set_picture(step.preview(), "jpeg")

    def _show(self, result) -> None:
        with self._showing:  # the worker and a click on the history may both come here
            self._set_picture(result.image, "png")
            if self._pair:
                self._pair.show("before", encode_image(result.input_image, "png"), "png")
                self._shown_source = [result.settings.get(name) for name in SOURCE]
            self.result = result
            self._progress.max = self._progress.value = len(result.timesteps)
            self._caption.value = _shorten(str(result.settings.get("prompt", "")), 70)
            note = f"; {result.note}" if result.note else ""
            self._tell(describe(result.timesteps, result.seconds) + note)
            self._show_code()

    def _set_picture(self, image, kind: str) -> None:
        data = encode_image(image, kind)
        if self._pair:
            self._pair.show("after", data, kind)
            return
        with self._picture.hold_sync():
            self._picture.format, self._picture.value = kind, data

    def _remember(self, result) -> None:
        small = result.image.copy()
        small.thumbnail((THUMBNAIL, THUMBNAIL))
        picture = widgets.Image(value=encode_image(small, "jpeg"), format="jpeg")
        summary = _summary(result.settings)
        back = widgets.Button(description=_shorten(summary, 17), tooltip=f"Show this picture again: {summary}")
        back.layout.width = f"{THUMBNAIL}px"
        back.on_click(lambda _: self._show(result))
        dropped = self._history[-1] if len(self._history) == HISTORY else None
        self._history.appendleft(widgets.VBox([picture, back]))
        self._strip.children = tuple(self._history)
        if dropped:  # widgets live until closed, and live mode makes many
            for widget in (*dropped.children, dropped):
                widget.close()


def describe(timesteps: list[int], seconds: float) -> str:
    """Return e.g. "4 steps at timesteps 999, 759, 499, 259 - 0.41 s"."""
    steps = "1 step at timestep" if len(timesteps) == 1 else f"{len(timesteps)} steps at timesteps"
    return f"{steps} {', '.join(map(str, timesteps))} - {seconds:.2f} s"


def _work(panel_reference: weakref.ref, mailbox: Mailbox) -> None:
    """Draw letter after letter; hold no reference to the panel between two of them."""
    while (settings := mailbox.take()) is not None:
        panel = panel_reference()
        if panel is None:
            return
        panel._draw(settings)
        del panel


def _reason(spec: Setting) -> widgets.HTML:
    """Return the line under a control that has no effect."""
    return widgets.HTML(f"<small>{html.escape(spec.inert)}</small>", layout=widgets.Layout(margin="0 0 0 90px"))


def _control(name: str, spec: Setting):
    label = LABELS.get(name, name)
    wide = widgets.Layout(width="420px")
    if spec.kind == "image":
        return ImageInput(label)
    if spec.kind == "text":
        return widgets.Text(value=spec.default, description=label, layout=wide, disabled=bool(spec.inert))
    if spec.kind == "switch":
        return widgets.Checkbox(value=spec.default, description=label, layout=wide)
    if name == "seed":
        layout = widgets.Layout(width="230px")
        return widgets.BoundedIntText(
            value=spec.default, min=int(spec.low), max=int(spec.high), description=label, layout=layout
        )
    kind = widgets.IntSlider if isinstance(spec.default, int) else widgets.FloatSlider
    high = spec.slider_high or spec.high
    return kind(value=spec.default, min=spec.low, max=high, step=spec.step, description=label, layout=wide)


def _buttons() -> dict[str, object]:
    def slim(text, **options):
        return widgets.ToggleButton(description=text, layout=widgets.Layout(width="90px"), **options)

    def button(text, tooltip, style=""):
        layout = widgets.Layout(width="90px")
        return widgets.Button(description=text, tooltip=tooltip, button_style=style, layout=layout)

    return {
        "lock": slim("keep seed", value=True),
        "dice": button("new seed", "Pick a random seed"),
        "run": button("Run", "Draw the current values", "primary"),
        "stop": button("Stop", "Stop the run within one step"),
        "live": slim("live", value=True),
        "show_code": slim("show code", value=False),
        "save": button("Save", "Save the picture as a PNG that carries its settings"),
    }


def _summary(settings: dict) -> str:
    return f"{settings.get('num_inference_steps', '')} steps, seed {settings.get('seed', '')}"


def _shorten(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def _free_name(settings: dict) -> Path:
    stem = f"{slug(str(settings.get('prompt', 'picture')))}-seed{settings.get('seed', 0)}"
    path = Path(f"{stem}.png")
    number = 2
    while path.exists():
        path, number = Path(f"{stem}-{number}.png"), number + 1
    return path
