"""Canny edges as what a pipeline takes: shared by ControlNet and T2I-Adapter."""

from PIL import Image

from ..pictures import canny, fit_image
from ..settings import Setting
from .section import Preparation, Settings, picture

SETTINGS = {
    "image": picture("whose edges to follow"),
    "detect_edges": Setting(
        True,
        "take the picture's edges; off: the picture is a map of edges already",
        kind="switch",
        label="find edges",
        role="prepare",
    ),
    "low_threshold": Setting(
        100, "gradient at which an edge goes on", 0, 1000, 5, slider_high=600, label="canny low", role="prepare"
    ),
    "high_threshold": Setting(
        200,
        "gradient at which an edge starts; not below the low threshold",
        0,
        1000,
        5,
        slider_high=600,
        label="canny high",
        role="prepare",
    ),
}


def _detect(source: Image.Image, settings: Settings, side: int | None) -> Image.Image:
    """Return the edges, in the size of ``source``; at ``side`` pixels the guide looks for them."""
    if not settings["detect_edges"]:
        return source
    seen = fit_image(source, side=side, multiple=8) if side else source
    edges = canny(seen, settings["low_threshold"], settings["high_threshold"])
    return edges if edges.size == source.size else edges.resize(source.size)


def _code(settings: Settings, side: int | None) -> list[str]:
    if not settings["detect_edges"]:
        return []
    seen = f"fit_image(image, side={side}, multiple=8)" if side else "image"
    return [
        f"edges = cv2.Canny(np.array({seen}), {settings['low_threshold']}, {settings['high_threshold']})",
        f"image = Image.fromarray(np.stack([edges] * 3, axis=2)){'.resize(image.size)' if side else ''}",
    ]


def _imports(settings: Settings) -> list[str]:
    return ["import cv2", "import numpy as np", "from PIL import Image"] if settings["detect_edges"] else []


EDGES = Preparation(_detect, _code, _imports, is_done=lambda settings: not settings["detect_edges"])
