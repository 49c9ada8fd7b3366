"""The mini LCM in a browser: as a page of its own (:mod:`lcm_nb.export`), or in a notebook by :func:`web_panel`."""

import json
import os
from pathlib import Path

import anywidget
import traitlets

from ..sections import section_for
from ..settings import complete

HERE = Path(__file__).parent
PIECE = 2**20  # bytes of a message
SECTION = "text-to-image"
KNOWN = {name: spec for name, spec in section_for(SECTION).settings.items() if spec.role != "count"}


def built_folder() -> Path:
    """Return where the export builds and :func:`web_panel` looks unless told otherwise.

    It is ``LCM_NB_WEB``, else ``lcm_nb/web`` in the user's cache.
    """
    if folder := os.environ.get("LCM_NB_WEB"):
        return Path(folder)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lcm_nb" / "web"


class WebPanel(anywidget.AnyWidget):
    """Controls and picture of an LCM that runs in the reader's browser. Make one with :func:`web_panel`.

    Attributes
    ----------
    prompt, num_inference_steps, guidance_scale, seed
        As the controls show them; what is set from Python is drawn.
    address
        Where the browser gets the model from; "": from this kernel.
    """

    _esm, _css = (HERE / "lcm.js").read_text(encoding="utf-8"), (HERE / "lcm.css").read_text(encoding="utf-8")
    address = traitlets.Unicode().tag(sync=True)
    prompt = traitlets.Unicode().tag(sync=True)
    num_inference_steps = traitlets.Int().tag(sync=True)
    guidance_scale = traitlets.Float().tag(sync=True)
    seed = traitlets.Int().tag(sync=True)

    def __init__(self, folder: Path | None, **traits):
        self._folder = folder
        super().__init__(**traits)
        if folder:
            self.on_msg(self._send_asset)

    @traitlets.validate("prompt", "num_inference_steps", "guidance_scale", "seed")
    def _check(self, proposal):
        name = proposal["trait"].name
        return complete(KNOWN, {name: proposal["value"]}, owner=SECTION)[name]

    def _send_asset(self, _, message: dict, buffers: list) -> None:
        """Send a file of the built folder in pieces, to the view that asked for it."""
        path = self._folder / "assets" / str(message.get("need"))
        if path not in (self._folder / "assets").iterdir():  # no other file of this computer
            return
        data = path.read_bytes()
        for start in range(0, len(data), PIECE):
            answer = {"asset": path.name, "view": message.get("view"), "done": start + PIECE >= len(data)}
            self.send(answer, buffers=[data[start : start + PIECE]])


def web_panel(folder: str | Path | None = None, *, address: str = "", **settings) -> WebPanel:
    """Return a panel whose pictures the browser draws, not the kernel.

    A class on a small hub costs its server only the download. The model comes from the folder that
    ``python -m lcm_nb.export`` built, through the kernel, or from the address where such a folder is published.

    Parameters
    ----------
    folder
        Of an export; default: where the export builds unless told otherwise (:func:`built_folder`).
    address
        Of a published export; its host must allow other pages to read it (CORS) unless it is the notebook's own.
    settings
        What the controls show at first: ``prompt``, ``num_inference_steps`` (1-8), ``guidance_scale`` (1-14), ``seed``.

    Raises
    ------
    ValueError
        If there is no export in the folder, or for a setting that there is not, or one out of range.
    """
    settings = complete(KNOWN, settings, owner=SECTION)
    if address:
        if folder is not None:
            raise ValueError(f"folder is {str(folder)!r} and address is {address!r}; give one of them.")
        return WebPanel(None, address=address, **settings)
    folder = Path(folder) if folder is not None else built_folder()
    if not _is_export(folder):
        raise ValueError(
            f"There is no export in {folder}; make one with `python -m lcm_nb.export {folder}`, "
            "or give the address where one is published."
        )
    return WebPanel(folder, **settings)


def _is_export(folder: Path) -> bool:
    try:
        return "files" in json.loads((folder / "assets" / "manifest.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
