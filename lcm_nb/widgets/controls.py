"""A stock control for each setting, and the panel's buttons."""

from collections.abc import Iterable, Mapping

import ipywidgets as widgets
import traitlets

from ..settings import Setting
from .compare import label_of
from .inputs import ImageInput

Options = tuple[tuple[str, str], ...]  # of a menu: what it shows, and the value

TOOLTIP = "tooltip" if hasattr(widgets.DOMWidget, "tooltip") else "description_tooltip"  # ipywidgets 8, or Colab's 7
SEVERAL = 4  # values that "try several" draws
EARLIER = 12  # prompts drawn before that the menu of prompts holds


class Refused(traitlets.TraitError, ValueError):
    """A value that a control does not take; the control keeps the one it had."""


class _Exact(traitlets.TraitType):
    """A number that comes through as it was given: nothing is cast, cut or rounded in silence."""

    default_value = 0

    def validate(self, control, value):
        return control.admit(value)


class _Admitting(traitlets.HasTraits):
    """What the number controls share: a value out of range is refused, one beyond the slider's end is shown."""

    value = _Exact().tag(sync=True)

    def admit(self, value):
        """Return the value if the setting admits it.

        Raises
        ------
        ValueError
            If it is no number, not whole where it must be, or out of range.
        """
        spec = getattr(self, "spec", None)
        if spec is None:  # while the control is being made
            return value
        whole = isinstance(spec.default, int)
        kind = f"{'a whole' if whole else 'a'} number from {spec.low:g} to {_number(spec.high)}"
        try:
            number = float(value)
            wrong = isinstance(value, (bool, str)) or (whole and not number.is_integer())
        except (TypeError, ValueError, OverflowError):
            wrong = True
        if wrong or not spec.low <= number <= spec.high:
            raise Refused(f"{self.description} is {value!r}; give {kind} ({spec.help}).")
        return int(number) if whole else number

    @traitlets.validate("value")
    def _validate_value(self, proposal):
        value = proposal["value"]
        if value > self.max:
            self.max = value  # the slider grows
        return value


class WholeSlider(_Admitting, widgets.IntSlider):
    """A slider of whole numbers."""


class RealSlider(_Admitting, widgets.FloatSlider):
    """A slider of real numbers."""


class Seed(_Admitting, widgets.BoundedIntText):
    """A box for a whole number."""


def control_for(name: str, spec: Setting):
    """Return the control of a setting; its value is the setting's default."""
    label = label_of(name, spec)
    if spec.kind in ("image", "mask"):
        return ImageInput(label, "mask" if spec.kind == "mask" else "draw")
    options = {"description": label, TOOLTIP: f"{label}: {spec.help}"}
    if spec.kind == "text":
        control = widgets.Textarea(value=spec.default, rows=2, disabled=bool(spec.inert), **options)
    elif spec.kind == "switch":
        control = widgets.Checkbox(value=spec.default, indent=False, **options)
    else:
        control = _number_control(name, spec, options)
    control.layout.width = "auto"
    control.add_class(f"lcm-set-{name}")  # by it the page knows which setting a box is
    return control


def _number_control(name: str, spec: Setting, options: dict):
    if spec.role == "seed":
        control = Seed(value=spec.default, min=int(spec.low), max=int(spec.high), **options)
    else:
        kind = WholeSlider if isinstance(spec.default, int) else RealSlider
        end = max(spec.slider_high or spec.high, spec.default)
        control = kind(value=spec.default, min=spec.low, max=end, step=spec.step, **options)
    control.spec = spec
    return control


def buttons(settings: Mapping[str, Setting], examples: Iterable[str], *, judge: bool) -> dict[str, object]:
    """Return name -> widget of what is on the panel besides the settings."""
    first = "num_inference_steps"
    varied = [
        (label_of(name, spec), name)
        for name, spec in settings.items()
        if spec.kind == "number" and spec.role != "count"
    ]
    made = {
        "lock": _toggle("keep seed", "Run draws with the seed in the box; off: with a new one each time", value=True),
        "dice": _button("new seed", "Pick a random seed"),
        "run": _button("Run", "Draw the current values (Enter in a text, or Ctrl+Enter)", "primary"),
        "stop": _button("Stop", "Stop the run within one step (Esc)"),
        "live": _toggle("live", "Draw at each change of a control", value=True),
        "show_code": _toggle("show code", "Show the plain diffusers code of the picture", value=False),
        "save": _button("Save", "Save the picture as a PNG that carries its settings"),
        "save_film": _button("Save film", "Save the last pictures as a film (WebP); panel.save_film() makes GIFs, too"),
        "reset": _button("reset", "Set everything to the section's own values"),
        "vary": _menu("try several", varied, "Which setting to try", first),
        "vary_run": _button(f"Draw {SEVERAL}", f"Draw {SEVERAL} pictures that differ in this setting alone"),
    }
    if examples := list(examples):
        choices = [("choose a prompt …", ""), *((text, text) for text in examples)]
        made["examples"] = _menu("examples", choices, "Prompts that this model draws well, and those that you drew", "")
    if judge:
        made["judge"] = _toggle("judge", "Say under the picture what a small classifier sees in it", value=True)
    return made


def several(spec: Setting, now: float) -> list:
    """Return values of a number setting to try: spread over the slider, or seeds from the present one on."""
    low, high = spec.low, spec.slider_high or spec.high
    if spec.role == "seed":  # neighbours are as different as any
        return [int(min(now, high - SEVERAL + 1)) + i for i in range(SEVERAL)]
    grid = [low + round((high - low) * i / (SEVERAL - 1) / spec.step) * spec.step for i in range(SEVERAL)]
    kind = type(spec.default)
    return list(dict.fromkeys(kind(round(min(value, high), 10)) for value in grid))


def with_prompt(options: Options, prompt: str, examples: Iterable[str]) -> Options:
    """Return the menu of prompts with one that was drawn: examples first, then the others, the newest first."""
    first = {"", *examples}
    if prompt in first:
        return options
    head = [option for option in options if option[1] in first]
    earlier = [option for option in options if option[1] not in first and option[1] != prompt]
    return (*head, (f"↺ {' '.join(prompt.split())}", prompt), *earlier[: EARLIER - 1])


def close_tree(widget: widgets.Widget) -> None:
    """Close a widget, all that it holds, and their layouts and styles: closing a box frees the box alone."""
    held = [getattr(widget, name, None) for name in ("layout", "style", "children")]
    for part in held:
        for child in part if isinstance(part, (tuple, list)) else (part,):
            if isinstance(child, widgets.Widget):
                close_tree(child)
    widgets.Widget.close(widget)


def _toggle(text: str, tooltip: str, *, value: bool) -> widgets.ToggleButton:
    return widgets.ToggleButton(value=value, description=text, tooltip=tooltip, layout={"width": "auto"})


def _button(text: str, tooltip: str, style: str = "") -> widgets.Button:
    return widgets.Button(description=text, tooltip=tooltip, button_style=style, layout={"width": "auto"})


def _menu(label: str, options: list[tuple[str, str]], tooltip: str, value: str) -> widgets.Dropdown:
    layout = {"width": "auto"}
    return widgets.Dropdown(options=options, value=value, description=label, layout=layout, **{TOOLTIP: tooltip})


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:g}"
