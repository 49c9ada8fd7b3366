"""Turn a notebook that has run into a page: words for every picture, and something to see where a panel stood."""

import base64
import html
import io
import re

from nbformat import NotebookNode
from PIL import Image

WIDGET = "application/vnd.jupyter.widget-view+json"
STATE = "application/vnd.jupyter.widget-state+json"
LIVE = re.compile(r'lcm_nb\.load\("(?P<section>text-to-image|image-to-image)"[^)]*\)')
ALT = re.compile(r"(?s)(?P<prompt>.*); (?P<steps>\d+) steps?; seed (?P<seed>\d+)")
SEEN = re.compile(r"(?i)you should (?:see|read)\b")
OPENING = re.compile(r"(?i)^(?:\*\*What you should see\.\*\*|You should (?:see|read))\s+")
DRAWN = re.compile(r"'prompt': (?P<quote>['\"])(?P<prompt>.*?)(?P=quote), 'num_inference_steps': (?P<steps>\d+)")
ANCHOR = re.compile(r"\]\([\w./-]*#[\w-]+\)")  # JupyterLab's keep capitals
LONGEST = 300  # letters of a picture's description
RUN = "Open the notebook to move its sliders."


def presented(notebook: NotebookNode) -> NotebookNode:
    """Return the notebook with outputs that a page without a kernel can show."""
    state = notebook.metadata.pop("widgets", {}).get(STATE, {}).get("state", {})
    loaded = ""
    for cell, after in zip(notebook.cells, [*notebook.cells[1:], None]):
        if cell.cell_type != "code":
            cell.source = anchored(cell.source)
            continue
        if found := re.findall(r"lcm_nb\.load\([^)]*\)", cell.source):
            loaded = found[-1]
        if "solution" in cell.metadata.get("tags", []):
            cell.metadata.tags = [*cell.metadata.tags, "hide-cell"]
        seen = _seen(after)
        cell.outputs = [output for output in cell.outputs if not _is_progress(output, state)]
        for output in cell.outputs:
            _describe(output, state, seen, live=_live(loaded))
    return notebook


def _live(loaded: str) -> str:
    """Return the section that draws in the page as this line loads it, "" if none does."""
    found = LIVE.fullmatch(loaded)
    return found["section"] if found and "model=" not in loaded else ""


def anchored(text: str) -> str:
    """Return Markdown whose links to headings are written as Sphinx names these."""
    return ANCHOR.sub(lambda link: link[0].lower(), text)


def _is_progress(output: NotebookNode, state: dict) -> bool:
    """Return whether an output is a widget without a picture, such as a full bar, or what a panel leaves."""
    if "lcm-asleep" in output.get("data", {}).get("text/html", ""):
        return True
    model = output.get("data", {}).get(WIDGET, {}).get("model_id")
    return model is not None and not any(_bytes(view) for view in _tree(state, model))


def _seen(cell: NotebookNode | None) -> str:
    """Return what the cell after an output says is to be seen in it, "" if it does not say."""
    if cell is None or cell.cell_type != "markdown":
        return ""
    text = next((part for part in cell.source.split("\n\n") if SEEN.search(part)), "")
    text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", OPENING.sub("", text.strip()))
    text = " ".join(re.sub(r"[*`$]", "", text).split())
    return text[:1].upper() + text[1:]


def _short(text: str) -> str:
    """Return whole sentences of a text, as many as fit."""
    sentences = re.findall(r".+?[.?](?=\s|$)|.+$", text)
    short = ""
    for sentence in sentences:
        if short and len(short + sentence) > LONGEST:
            break
        short += sentence
    return short.strip()[: 2 * LONGEST]


def _describe(output: NotebookNode, state: dict, seen: str, *, live: str) -> None:
    """Change one output in place: pictures become HTML with a description, widgets what stands for them."""
    data = output.get("data", {})
    if WIDGET in data:
        output.data = {"text/html": _widget(state, data[WIDGET]["model_id"], seen, live=live)}
    elif kind := next((kind for kind in ("image/png", "image/jpeg") if kind in data), None):
        plain = data.get("text/plain", "")
        words = _short(" ".join(part for part in (_named(plain), seen) if part)) or "A picture that this cell drew."
        output.data = {"text/html": _image(base64.b64decode(data[kind]), words)}
    elif "text/html" in data:
        output.data = {"text/html": data["text/html"].replace("<table", '<table class="words"', 1)}


def _named(plain: str) -> str:
    """Return what a result or a grid says of itself, "" for what says only where it lies in memory."""
    if drawn := DRAWN.search(plain):
        return f"{drawn['prompt']}, drawn in {drawn['steps']} steps."
    return f"{plain.strip().rstrip('.')}." if plain.startswith("Grid of ") else ""


def _image(data: bytes, alt: str) -> str:
    """Return an <img> that carries its picture, smaller than PNG makes it."""
    picture, packed = Image.open(io.BytesIO(data)), io.BytesIO()
    picture.convert("RGBA" if "A" in picture.mode else "RGB").save(packed, "webp", quality=90, method=6)
    source = base64.b64encode(packed.getvalue()).decode()
    size = f'width="{picture.width}" height="{picture.height}"'
    return f'<img class="drawn" {size} alt="{html.escape(alt)}" src="data:image/webp;base64,{source}">'


def _widget(state: dict, model: str, seen: str, *, live: str) -> str:
    """Return what stands for a widget: the LCM that draws in the page, or its pictures with a caption."""
    views = list(_tree(state, model))
    screen = next((view for view in views if view["model_name"] == "AnyModel" and "mood" in view["state"]), None)
    if screen is None:
        pictures = [_image(data, _short(seen) or "What the cell drew.") for view in views for data in _bytes(view)]
        run = f" {RUN}" if any("Slider" in view["model_name"] for view in views) else ""
        return f"<figure>{''.join(pictures)}<figcaption>What the cell showed at its end.{run}</figcaption></figure>"
    alt = screen["state"]["alt"]
    if live and (settings := ALT.fullmatch(alt)):
        attributes = " ".join(f'data-{name}="{html.escape(value)}"' for name, value in settings.groupdict().items())
        return f'<div class="lcm-live" data-section="{live}" {attributes}></div>'
    caption = html.escape(screen["state"]["status"])
    buffers = _bytes(screen, "picture")
    pictures = "".join(_image(data, f"The panel's picture: {alt}") for data in buffers)
    return f"<figure>{pictures}<figcaption>The panel's picture at its end. {caption} {RUN}</figcaption></figure>"


def _tree(state: dict, model: str):
    """Yield a widget and all below it."""
    if not (view := state.get(model)):
        return
    yield view
    for child in view["state"].get("children", []):
        yield from _tree(state, child.removeprefix("IPY_MODEL_"))


def _bytes(view: dict, *names: str) -> list[bytes]:
    """Return the pictures that a widget's state holds."""
    wanted = names or ("picture", "value")
    found = (base64.b64decode(buffer["data"]) for buffer in view.get("buffers", []) if buffer["path"][0] in wanted)
    return [data for data in found if data]
