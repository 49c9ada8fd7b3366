"""Widgets that take and show pictures. They know neither torch nor diffusers."""

import anywidget
import ipywidgets as widgets
import traitlets

from ..pictures import keep_image
from ..settings import EXAMPLE

ESM = """
function show(img, model, name) {
  const update = () => {
    const value = model.get(name);
    img.hidden = !value || !value.byteLength;
    if (img.hidden) return;
    if (img.src) URL.revokeObjectURL(img.src);
    img.src = URL.createObjectURL(new Blob([value]));
  };
  model.on(`change:${name}`, update);
  update();
}

function render({ model, el }) {
  el.classList.add("lcm-compare");
  const stage = document.createElement("div");
  const before = document.createElement("img"), after = document.createElement("img");
  const slider = document.createElement("input");
  before.alt = "before"; after.alt = "after";
  before.draggable = after.draggable = false;
  stage.append(after, before);
  Object.assign(slider, { type: "range", min: 0, max: 100, value: model.get("position") });
  slider.setAttribute("aria-label", "share of the picture that shows what the run started from");
  const place = () => {
    slider.value = model.get("position");
    before.style.clipPath = `inset(0 ${100 - slider.value}% 0 0)`;
    stage.style.setProperty("--at", `${slider.value}%`);
  };
  slider.addEventListener("input", () => {
    model.set("position", Number(slider.value));
    model.save_changes();
    place();
  });
  stage.addEventListener("pointermove", (event) => {
    if (!event.buttons) return;
    const box = stage.getBoundingClientRect();
    slider.value = Math.round(100 * Math.min(Math.max((event.clientX - box.left) / box.width, 0), 1));
    slider.dispatchEvent(new Event("input"));
  });
  model.on("change:position", place);
  show(before, model, "before");
  show(after, model, "after");
  place();
  el.append(stage, slider);
}

export default { render };
"""
CSS = """
.lcm-compare { width: 384px; }
.lcm-compare div {
  position: relative; display: grid; width: 384px; min-height: 96px; touch-action: none; user-select: none;
}
.lcm-compare div::after {
  content: ""; position: absolute; top: 0; bottom: 0; left: var(--at); width: 2px;
  background: white; box-shadow: 0 0 2px black; pointer-events: none;
}
.lcm-compare img { grid-area: 1 / 1; width: 100%; height: auto; }
.lcm-compare input { width: 100%; margin: 4px 0 0; }
"""


class Compare(anywidget.AnyWidget):
    """Show ``before`` left of a line that can be dragged, and ``after`` right of it.

    ``before`` and ``after`` are the bytes of picture files of one shape, or empty;
    ``position`` is where the line stands, 0 (left edge) to 100 (right edge).
    """

    _esm, _css = ESM, CSS
    before = traitlets.Bytes().tag(sync=True)
    after = traitlets.Bytes().tag(sync=True)
    position = traitlets.Int(50).tag(sync=True)


class Pair(widgets.VBox):
    """What a run starts from and what it makes: on one spot, or side by side.

    Side by side needs no custom widget: it is the view for pages that do not run those.
    """

    def __init__(self):
        self.compare = Compare()
        shape = dict(width="384px", height="384px", object_fit="contain")
        self.pictures = [widgets.Image(layout=widgets.Layout(**shape)) for _ in range(2)]
        self.side_by_side = widgets.ToggleButton(description="side by side", layout=widgets.Layout(width="120px"))
        self._plain = widgets.HBox(self.pictures, layout=widgets.Layout(flex_flow="row wrap", display="none"))
        super().__init__([self.compare, self._plain, self.side_by_side])
        self.side_by_side.observe(self._arrange, "value")

    def show(self, name: str, data: bytes, kind: str) -> None:
        """Show the bytes of a "png" or "jpeg" file as "before" or "after"."""
        setattr(self.compare, name, data)
        picture = self.pictures[name == "after"]
        with picture.hold_sync():
            picture.format, picture.value = kind, data

    def _arrange(self, change) -> None:
        self.compare.layout.display = "none" if change.new else ""
        self._plain.layout.display = "flex" if change.new else "none"


class ImageInput(widgets.HBox):
    """Take a picture: by upload, or by ``value`` from code.

    ``value`` is "example" or a path; a PIL image or the bytes of a file become the path
    of a copy. ``error`` says why the last upload was refused.
    """

    value = traitlets.Any(EXAMPLE)
    error = traitlets.Unicode()

    def __init__(self, description: str):
        accept = ".png,.jpg,.jpeg,.webp"
        self.upload = widgets.FileUpload(accept=accept, multiple=False, description=description)
        self.example = widgets.Button(description="example", tooltip="Use the section's own picture")
        self._name = widgets.Label("the section's own picture")
        super().__init__([self.upload, self.example, self._name])
        self.upload.observe(self._on_upload, "value")
        self.example.on_click(lambda _: self.set_trait("value", EXAMPLE))
        self.observe(self._on_value, "value")

    @traitlets.validate("value")
    def _keep(self, proposal):
        value = proposal["value"]
        return value if isinstance(value, str) and value == EXAMPLE else keep_image(value)

    def _on_value(self, change) -> None:
        self.error = ""
        self._name.value = "the section's own picture" if change.new == EXAMPLE else "a picture of yours"

    def _on_upload(self, change) -> None:
        files = list(change.new.values() if isinstance(change.new, dict) else change.new)  # ipywidgets 7, and 8
        if not files:
            return
        self.error = ""
        try:
            self.value = bytes(files[0]["content"])
        except (ValueError, OSError) as error:
            self.error = str(error)
        self.upload.set_trait("value", type(change.new)())  # so that the same file again is an event again
