"""The panel's own front end: picture, status, history and keys, drawn by ``screen.js``."""

import threading
from collections.abc import Callable
from pathlib import Path

import anywidget
import traitlets

HERE = Path(__file__).parent


class Screen(anywidget.AnyWidget):
    """What the panel shows. It decides nothing: :meth:`show` sets traits, and what the page asks for is passed on.

    Pictures are the bytes of PNG or JPEG files; an empty one is never drawn. ``history`` and ``row``
    are lists of dictionaries: ``data`` (a small picture), ``alt``, ``caption``, ``title``, and for the
    history ``key`` and ``starred``.
    """

    _esm, _css = HERE / "screen.js", HERE / "screen.css"

    hint = traitlets.Unicode("The picture will be here.").tag(sync=True)
    picture = traitlets.Bytes().tag(sync=True)
    preview = traitlets.Bool(False).tag(sync=True)  # a guess on the way, not a result
    alt = traitlets.Unicode().tag(sync=True)
    before = traitlets.Bytes().tag(sync=True)
    before_alt = traitlets.Unicode().tag(sync=True)
    before_name = traitlets.Unicode().tag(sync=True)
    view = traitlets.Enum(["one", "split", "side"], "split").tag(sync=True)
    position = traitlets.Int(50).tag(sync=True)  # of the line between two pictures, 0 (left) to 100 (right)
    differences = traitlets.List().tag(sync=True)  # [label, value of A, value of this] each
    status = traitlets.Unicode().tag(sync=True)
    mood = traitlets.Enum(["idle", "busy", "done", "error"], "idle").tag(sync=True)
    progress = traitlets.Float(0.0).tag(sync=True)  # 0 to 1; drawn while busy
    caption = traitlets.Unicode().tag(sync=True)
    words = traitlets.Unicode().tag(sync=True)  # what the judge sees
    row = traitlets.List().tag(sync=True)
    chosen = traitlets.Int(0).tag(sync=True)
    history = traitlets.List().tag(sync=True)
    shown = traitlets.Int(0).tag(sync=True)  # key of the picture on screen, 0 for none
    pinned = traitlets.Int(0).tag(sync=True)  # key of A, 0 for none
    code = traitlets.Unicode().tag(sync=True)
    file = traitlets.Bytes().tag(sync=True)  # a saved PNG or film, for the browser to keep
    file_name = traitlets.Unicode().tag(sync=True)
    reads = traitlets.Bool(False).tag(sync=True)  # whether PNGs of ours may be dropped

    def __init__(self, **traits):
        self._showing = threading.RLock()
        super().__init__(**traits)

    def show(self, **traits) -> None:
        """Set traits, in one message."""
        with self._showing, self.hold_sync():
            for name, value in traits.items():
                setattr(self, name, value)

    def listen(self, actions: dict[str, Callable]) -> None:
        """Call ``actions[do](**arguments)`` when the page asks for it; dropped files come as ``content``."""

        def on_message(_, message: dict, buffers: list) -> None:
            arguments = {name: value for name, value in message.items() if name != "do"}
            if buffers:
                arguments["content"] = bytes(buffers[0])
            if message.get("do") in actions:
                actions[message["do"]](**arguments)

        self.on_msg(on_message)
