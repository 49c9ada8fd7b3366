"""A control that takes a picture: a file, painted, from the camera, or from code; or a mask, painted on a picture."""

from pathlib import Path

import anywidget
import traitlets
from PIL import Image

from ..pictures import encode_image, keep_image, read_image
from ..settings import EXAMPLE

HERE = Path(__file__).parent
OWN, YOURS, PAINTED, FILMED = "the example", "a picture of yours", "painted", "the camera"
PAINTED_SIDE = 512  # pixels of the longer side of what is painted on


class ImageInput(anywidget.AnyWidget):
    """Take a picture, or a mask: by upload or drop, painted in the page, from a camera, or by ``value`` from code.

    ``value`` is "example" or a path; a PIL image or the bytes of a file become the path
    of a copy. ``error`` says why the last upload was refused. The page shrinks what is too
    large to send. While something is painted or filmed, the page sends a frame, as the bytes of a PNG or JPEG, and the
    next one when ``taken`` has its number: nothing queues up. ``part`` says, while a frame is taken, what it is a part
    of: a "stroke" that goes on, its "end", or what the "camera" sees; else it is "".

    Parameters
    ----------
    label
        What is written before it.
    kind
        "draw" for a picture, "mask" for what is painted on one (:meth:`lay_under`).
    """

    _esm = (HERE / "paint.js").read_text(encoding="utf-8") + (HERE / "inputs.js").read_text(encoding="utf-8")
    _css = HERE / "inputs.css"
    value = traitlets.Any(EXAMPLE)
    error = traitlets.Unicode()
    label = traitlets.Unicode().tag(sync=True)
    name = traitlets.Unicode(OWN).tag(sync=True)
    kind = traitlets.Unicode("draw").tag(sync=True)
    side = traitlets.Int(PAINTED_SIDE).tag(sync=True)
    below = traitlets.Bytes().tag(sync=True)
    ink = traitlets.Bytes().tag(sync=True)
    laid = traitlets.Int(0).tag(sync=True)  # how often `below` and `ink` were set: the page shows them then
    taken = traitlets.Int(0).tag(sync=True)
    filming = traitlets.Bool(False).tag(sync=True)  # set by the page; another picture ends it

    def __init__(self, label: str, kind: str = "draw"):
        super().__init__(label=label, kind=kind)
        self.part = ""
        self._open = False  # whether something is drawn in the page now
        self._size: tuple[int, int] | None = None  # of the picture that a mask is painted on
        self.observe(self._on_value, "value")
        self.on_msg(self._on_message)

    def take(self, content: bytes | Image.Image) -> None:
        """Take the bytes of a picture file; if they are none, keep the picture that is there, and say why."""
        self.error = ""
        try:
            self.value = content
        except (ValueError, OSError) as error:
            self.error = str(error)

    def paint(self, number: int, content: bytes, part: str = "end") -> None:
        """Take frame ``number`` of what is painted or filmed, and let the page send the next one."""
        self.part = part
        try:
            if part != "camera" or self.filming:  # else it was on its way when another picture was chosen
                self.take(self._in_size(content) if self.kind == "mask" else content)
        except ValueError as error:
            self.error = str(error)
        finally:
            self.taken = number
            self.part = ""

    def lay_under(self, picture: Image.Image, mask: Image.Image | None) -> None:
        """Show a picture to paint a mask on, and the mask that it has so far; None empties it."""
        self._size = picture.size
        small = picture.convert("RGB")
        small.thumbnail((PAINTED_SIDE, PAINTED_SIDE))
        self._lay(encode_image(small, "jpeg"), encode_image(mask.resize(small.size)) if mask else b"")

    def empty(self, size: tuple[int, int]) -> None:
        """Make the mask one that marks nothing of a picture of ``size``."""
        self.value = Image.new("RGB", size)

    def _in_size(self, content: bytes) -> Image.Image:
        """Return a painted mask in the size of its picture."""
        image = read_image(content, name="What was painted")
        return image.resize(self._size or image.size, Image.Resampling.NEAREST)

    @traitlets.validate("value")
    def _keep(self, proposal):
        value = proposal["value"]
        return value if isinstance(value, str) and value == EXAMPLE else keep_image(value)

    def _on_value(self, change) -> None:
        self.error = ""
        whole = OWN if change.new == EXAMPLE else YOURS
        self.name = {"": whole, "camera": FILMED}.get(self.part, PAINTED)
        self.filming = self.filming and self.name == FILMED
        if not self.part:
            self._show_drawn()

    def _on_message(self, _, message: dict, buffers: list) -> None:
        if message.get("do") == "example":
            self.value = EXAMPLE
        elif message.get("do") == "take":
            self.take(bytes(buffers[0]))
        elif message.get("do") == "paint":
            self.paint(int(message.get("number", 0)), bytes(buffers[0]), str(message.get("part", "end")))
        elif message.get("do") in ("open", "shut"):
            self._open = message["do"] == "open"
            self._show_drawn()
        elif message.get("do") == "refuse":
            self.error = ""
            self.error = str(message.get("why", ""))

    def _show_drawn(self) -> None:
        """Put a picture of the reader's into the drawing that is open, to draw on."""
        if self.kind == "draw" and self._open and self.name in (YOURS, FILMED):
            picture = read_image(self.value)
            picture.thumbnail((self.side, self.side))
            self._lay(b"", encode_image(picture))

    def _lay(self, below: bytes, ink: bytes) -> None:
        with self.hold_sync():
            self.below, self.ink, self.laid = below, ink, self.laid + 1
