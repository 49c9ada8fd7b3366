"""Two looks that the base never sees: the LoRAs learn them.

"papercut" is layered paper with cast shadows and grain; "neon" is glowing tubes in the dark.
"""

import cv2
import numpy as np

from ..models.vocabulary import PLAIN
from ..tutorial.captions import Scene
from .scenes import CANVAS, LANDSCAPES, Painter, placements

TALL = ("evergreen-tree", "deciduous-tree", "palm-tree", "cactus")


def papercut(painter: Painter, scene: Scene) -> np.ndarray:
    """Paint a scene as sheets of paper, one upon the other; (256, 256, 3) uint8 RGB."""
    rng = np.random.default_rng(scene.seed)
    canvas = _cut_backdrop(painter, scene.background, rng)
    for name, colour, place in placements(scene, rng):
        sprite = painter.coloured(name, colour)
        canvas = _lay(canvas, *_cut_out(sprite[:, ::-1] if place.flip else sprite, *place[:3]))
    grain = cv2.GaussianBlur(rng.standard_normal((CANVAS, CANVAS)).astype(np.float32), (0, 0), 1.0) * 6
    return np.clip(canvas + grain[..., None], 0, 255).astype(np.uint8)


def _cut_backdrop(painter: Painter, background: str, rng: np.random.Generator) -> np.ndarray:
    if background in PLAIN:
        sheet = np.full((CANVAS, CANVAS, 3), PLAIN[background], np.float32)
        angles = np.linspace(0, 2 * np.pi, 80, endpoint=False)
        radius = 118 + 6 * np.sin(5 * angles + rng.uniform(0, 6))
        rim = np.stack([CANVAS / 2 + radius * np.cos(angles), CANVAS / 2 + radius * np.sin(angles)], axis=1)
        window = np.full((CANVAS, CANVAS), 255, np.uint8)
        cv2.fillPoly(window, [rim.astype(np.int32)], 0, cv2.LINE_AA)
        return _lay(sheet * 0.92, sheet, window)
    top, bottom, ground, wave, horizon, props = LANDSCAPES[background]
    top, bottom = np.array(top, np.float32), np.array(bottom, np.float32)
    canvas = np.full((CANVAS, CANVAS, 3), top, np.float32)
    for i, height in enumerate((0.22, 0.42)):
        canvas = _lay(canvas, top + (bottom - top) * (i + 1) / 2, _hills(height, 10, 26 + 6 * i, rng))
    if ground is None:
        return canvas
    canvas = _lay(canvas, np.minimum(np.array(ground) * 1.12, 255), _hills(horizon - 0.02, max(wave, 6), 34, rng))
    for x in np.linspace(20, 236, 5) + rng.uniform(-12, 12, 5) if props else ():
        tall = props[0] in TALL
        side = rng.uniform(76, 96) if tall else rng.uniform(28, 38)
        y = CANVAS * horizon + (10 - side / 2 if tall else 20)
        canvas = _lay(canvas, *_cut_out(painter.sprite(props[0]), x, y, side))
    return _lay(canvas, np.array(ground, np.float32), _hills(horizon + 0.12, max(wave, 6), 42, rng))


def _hills(height: float, wave: float, length: float, rng: np.random.Generator) -> np.ndarray:
    line = CANVAS * height + wave * np.sin(np.arange(CANVAS) / length + rng.uniform(0, 6))
    return ((np.arange(CANVAS)[:, None] >= line[None]) * 255).astype(np.uint8)


def _cut_out(sprite: np.ndarray, x: float, y: float, side: float) -> tuple[np.ndarray, np.ndarray]:
    """Return a sprite as few colours of paper, (256, 256, 3), and its shape, (256, 256)."""
    extent = sprite.shape[0]
    matrix = np.array([[side / extent, 0, x - side / 2], [0, side / extent, y - side / 2]])
    placed = cv2.warpAffine(sprite, matrix, (CANVAS, CANVAS), flags=cv2.INTER_AREA)
    colours = np.round(cv2.medianBlur(placed[..., :3], 7) / 51.0) * 51.0
    return colours.astype(np.float32), placed[..., 3]


def _lay(canvas: np.ndarray, colours: np.ndarray, shape: np.ndarray) -> np.ndarray:
    """Lay a sheet of paper on the canvas: it casts a shadow, and its edge is light."""
    moved = cv2.warpAffine(shape, np.float32([[1, 0, 4], [0, 1, 7]]), (CANVAS, CANVAS))
    shadow = cv2.GaussianBlur(moved, (0, 0), 5).astype(np.float32)[..., None] / 255
    edge = cv2.subtract(shape, cv2.erode(shape, np.ones((3, 3), np.uint8))).astype(np.float32)[..., None] / 255
    opaque = shape.astype(np.float32)[..., None] / 255
    return canvas * (1 - 0.5 * shadow) * (1 - opaque) + np.minimum(colours + 70 * edge, 255) * opaque


def neon(painter: Painter, scene: Scene) -> np.ndarray:
    """Paint a scene as glowing outlines in the dark; (256, 256, 3) uint8 RGB."""
    picture = painter.draw(scene)
    edges = cv2.Canny(cv2.GaussianBlur(picture, (0, 0), 1.2), 60, 140)
    tubes = cv2.dilate(edges, np.ones((3, 3), np.uint8)).astype(np.float32)[..., None] / 255
    hsv = cv2.cvtColor(cv2.medianBlur(picture, 9), cv2.COLOR_RGB2HSV)
    hsv[..., 1], hsv[..., 2] = np.maximum(hsv[..., 1], 170), 255
    light = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB) * tubes
    dark = picture * 0.12 + np.array([10.0, 8.0, 30.0])
    return np.clip(dark + 2.0 * cv2.GaussianBlur(light, (0, 0), 5) + 1.4 * light, 0, 255).astype(np.uint8)


STYLES = {"papercut": papercut, "neon": neon}
