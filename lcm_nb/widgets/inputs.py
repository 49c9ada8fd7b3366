"""A control that takes a picture: by upload, by drop, or from code."""

from pathlib import Path

import anywidget
import traitlets

from ..pictures import keep_image
from ..settings import EXAMPLE

HERE = Path(__file__).parent
OWN, YOURS = "the example", "a picture of yours"


class ImageInput(anywidget.AnyWidget):
    """Take a picture: by upload or drop, or by ``value`` from code.

    ``value`` is "example" or a path; a PIL image or the bytes of a file become the path
    of a copy. ``error`` says why the last upload was refused. The page shrinks what is too
    large to send.
    """

    _esm, _css = HERE / "inputs.js", HERE / "inputs.css"
    value = traitlets.Any(EXAMPLE)
    error = traitlets.Unicode()
    label = traitlets.Unicode().tag(sync=True)
    name = traitlets.Unicode(OWN).tag(sync=True)

    def __init__(self, label: str):
        super().__init__(label=label)
        self.observe(self._on_value, "value")
        self.on_msg(self._on_message)

    def take(self, content: bytes) -> None:
        """Take the bytes of a picture file; if they are none, keep the picture that is there, and say why."""
        self.error = ""
        try:
            self.value = content
        except (ValueError, OSError) as error:
            self.error = str(error)

    @traitlets.validate("value")
    def _keep(self, proposal):
        value = proposal["value"]
        return value if isinstance(value, str) and value == EXAMPLE else keep_image(value)

    def _on_value(self, change) -> None:
        self.error = ""
        self.name = OWN if change.new == EXAMPLE else YOURS

    def _on_message(self, _, message: dict, buffers: list) -> None:
        if message.get("do") == "example":
            self.value = EXAMPLE
        elif message.get("do") == "take":
            self.take(bytes(buffers[0]))
        elif message.get("do") == "refuse":
            self.error = ""
            self.error = str(message.get("why", ""))
