"""Paint the scenes of :mod:`lcm_nb.tutorial.captions` from flat icons; a picture depends on its scene alone."""

import json
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from ..models.vocabulary import COLOURS, PLAIN, SUBJECTS
from ..tutorial.captions import Scene

CANVAS = 256  # scenes are laid out on a canvas of this many pixels, then resized
SPRITE = 192

# Setting -> sky top, sky bottom, ground, wave height in pixels, horizon, prop icons.
LANDSCAPES = {
    "meadow": ((142, 200, 250), (214, 238, 255), (132, 204, 92), 10, 0.66, ("tulip", "blossom", "white-flower")),
    "forest": ((150, 206, 190), (206, 232, 214), (84, 150, 78), 6, 0.66, ("evergreen-tree", "deciduous-tree")),
    "jungle": ((58, 148, 98), (104, 190, 118), (28, 96, 62), 8, 0.70, ("palm-tree", "herb", "hibiscus")),
    "desert": ((250, 222, 160), (252, 236, 196), (226, 170, 94), 16, 0.64, ("cactus", "rock")),
    "snow": ((190, 214, 240), (226, 238, 250), (248, 250, 255), 12, 0.64, ("evergreen-tree", "snowflake")),
    "beach": ((120, 204, 246), (66, 160, 222), (246, 220, 160), 4, 0.72, ("palm-tree", "spiral-shell")),
    "city": ((190, 208, 240), (222, 230, 246), (88, 92, 104), 0, 0.78, ()),
    "space": ((18, 14, 48), (52, 36, 96), None, 0, 1.0, ()),
    "sunset": ((250, 120, 70), (254, 196, 110), (88, 44, 78), 9, 0.72, ()),
    "magic": ((92, 52, 160), (222, 132, 214), (64, 42, 122), 12, 0.78, ("sparkles", "glowing-star")),
}

GRADES = {  # palette -> colour matrix applied to RGB in 0..1, offset
    "cold": ([[0.45, 0.15, 0.10], [0.10, 0.75, 0.10], [0.10, 0.25, 0.80]], (0.0, 0.02, 0.10)),
    "warm": ([[0.85, 0.20, 0.05], [0.15, 0.70, 0.00], [0.10, 0.10, 0.45]], (0.12, 0.03, 0.0)),
    "muted": ([[0.46, 0.26, 0.05], [0.13, 0.59, 0.05], [0.13, 0.26, 0.38]], (0.06, 0.06, 0.06)),
    "pastel": ([[0.42, 0.08, 0.02], [0.04, 0.46, 0.02], [0.04, 0.08, 0.40]], (0.48, 0.46, 0.48)),
    "monochrome": ([[0.30, 0.59, 0.11]] * 3, (0.0, 0.0, 0.0)),
    "sepia": ([[0.33, 0.62, 0.12], [0.26, 0.50, 0.09], [0.18, 0.35, 0.06]], (0.08, 0.03, -0.01)),
}


class Place(NamedTuple):
    """Where a sprite lies: its centre and its side in pixels, its angle in degrees, and whether it is mirrored."""

    x: float
    y: float
    side: float
    angle: float = 0.0
    flip: bool = False


def placements(scene: Scene, rng: np.random.Generator) -> Iterator[tuple[str, str | None, Place]]:
    """Yield name, colour and place of each subject."""
    double = len(scene.subjects) == 2
    feet = CANVAS * (0.86 if scene.background in LANDSCAPES else 0.5)  # a plain backdrop has no ground: centred
    for i, (name, colour) in enumerate(zip(scene.subjects, scene.colours, strict=True)):
        side = rng.uniform(114, 128) if double else rng.uniform(164, 196)
        x = (CANVAS * (0.27 + 0.46 * i) if double else CANVAS * 0.5) + rng.uniform(-8, 8)
        y = feet - (side / 2 if scene.background in LANDSCAPES else 0) + rng.uniform(-8, 8)
        yield name, colour, Place(x, y, side, rng.uniform(-5, 5), rng.random() < 0.5)


class Painter:
    """Paint scenes with the icons of ``icons.json``.

    Parameters
    ----------
    icons
        Path of the Fluent Emoji flat ``icons.json``.
    """

    def __init__(self, icons: Path):
        self.bodies = json.loads(Path(icons).read_text())["icons"]
        self.sprite = lru_cache(maxsize=None)(self._sprite)
        self.subject = lru_cache(maxsize=None)(self._subject)
        self.strokes = _stroke_tiles()

    def coloured(self, name: str, colour: str | None) -> np.ndarray:
        """Return a subject's sprite, tinted where a colour is named."""
        sprite = self.subject(name)
        return sprite if colour is None else tint(sprite, COLOURS[colour])

    def draw(self, scene: Scene, size: int = CANVAS) -> np.ndarray:
        """Return the picture as (size, size, 3) uint8 RGB."""
        rng = np.random.default_rng(scene.seed)
        canvas = self._backdrop(scene.background, rng)
        for name, colour, place in placements(scene, rng):
            _paste(canvas, self.coloured(name, colour), place, outline=True)
        picture = self._medium(canvas, scene.medium, rng)
        if scene.palette:
            picture = grade(picture, scene.palette)
        return picture if size == CANVAS else cv2.resize(picture, (size, size), interpolation=cv2.INTER_AREA)

    def _sprite(self, icon: str) -> np.ndarray:
        """Render one icon as (192, 192, 4) RGBA uint8."""
        import resvg_py

        body = self.bodies[icon]["body"]
        svg = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32">{body}</svg>'
        png = np.frombuffer(bytes(resvg_py.svg_to_bytes(svg_string=svg, width=SPRITE, height=SPRITE)), np.uint8)
        return cv2.cvtColor(cv2.imdecode(png, cv2.IMREAD_UNCHANGED), cv2.COLOR_BGRA2RGBA)

    def _subject(self, name: str) -> np.ndarray:
        sprite = self.sprite(SUBJECTS[name])
        if name == "cyborg":
            return _cyborg(sprite)
        if name == "mona lisa":
            return _framed(sprite)
        return sprite

    def _backdrop(self, name: str, rng: np.random.Generator) -> np.ndarray:
        if name in PLAIN:
            return np.full((CANVAS, CANVAS, 3), PLAIN[name], np.uint8)
        top, bottom, ground, wave, horizon, props = LANDSCAPES[name]
        ramp = np.linspace(0, 1, CANVAS)[:, None]
        sky = (np.array(top) * (1 - ramp) + np.array(bottom) * ramp).astype(np.uint8)
        canvas = np.repeat(sky[:, None], CANVAS, 1)
        if name == "space":
            _dots(canvas, rng, 40, (255, 255, 230))
        if name == "sunset":
            cv2.circle(canvas, (int(rng.uniform(40, 216)), 150), 34, (255, 236, 150), -1, cv2.LINE_AA)
        if name == "city":
            _towers(canvas, rng)
        if ground is not None:
            line = CANVAS * horizon + wave * np.sin(np.arange(CANVAS) / 40 + rng.uniform(0, 6))
            canvas[np.arange(CANVAS)[:, None] >= line[None]] = ground
        self._props(canvas, name, props, horizon, rng)
        return canvas

    def _props(self, canvas, name, props, horizon, rng) -> None:
        spots = np.linspace(20, 236, 5) + rng.uniform(-12, 12, 5)
        tall = name in ("forest", "jungle", "snow", "beach", "desert")
        for x in spots if props else ():
            icon = props[0] if tall and rng.random() < 0.7 else props[rng.integers(len(props))]
            big = icon in ("evergreen-tree", "deciduous-tree", "palm-tree", "cactus")
            side = rng.uniform(76, 96) if big else rng.uniform(26, 36)
            if icon in ("sparkles", "glowing-star", "snowflake"):
                y = rng.uniform(20, 110)
            else:
                y = CANVAS * horizon + (10 - side / 2 if big else rng.uniform(14, 60))
            _paste(canvas, self.sprite(icon), Place(x, y, side))

    def _medium(self, picture, medium, rng) -> np.ndarray:
        if medium == "oil painting":
            soft = cv2.medianBlur(picture, 9).astype(np.int16)
            strokes = self.strokes[rng.integers(len(self.strokes))]
            return np.clip(soft + strokes[..., None], 0, 255).astype(np.uint8)
        if medium == "pencil sketch":
            grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
            blurred = cv2.GaussianBlur(255 - grey, (0, 0), 5)
            lines = cv2.divide(grey, np.maximum(255 - blurred, 1), scale=244).astype(np.float32)
            shaded = np.clip(lines * 0.6 + grey * 0.4, 0, 255).astype(np.uint8)
            return np.repeat(shaded[..., None], 3, 2)
        if medium == "pixel art":
            cells = cv2.resize(picture, (32, 32), interpolation=cv2.INTER_AREA)
            return cv2.resize(cells, (CANVAS, CANVAS), interpolation=cv2.INTER_NEAREST)
        return picture


def grade(picture: np.ndarray, palette: str) -> np.ndarray:
    """Apply a palette's colour matrix to an RGB uint8 picture."""
    matrix, offset = GRADES[palette]
    affine = np.concatenate([np.array(matrix), np.array(offset)[:, None] * 255], axis=1)
    return cv2.transform(picture, affine)  # saturates to 0..255


def tint(sprite: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    """Recolour a sprite: its lightness stays, its hue becomes ``colour``."""
    light = sprite[..., :3].astype(np.float32).max(-1, keepdims=True) / 255
    light = light * 0.7 + 0.3 * sprite[..., :3].astype(np.float32).mean(-1, keepdims=True) / 255
    target = np.array(colour, np.float32)
    flat = np.where(light < 0.72, target * light / 0.72, target + (255 - target) * (light - 0.72) / 0.28 * 0.75)
    rgb = 0.88 * flat + 0.12 * sprite[..., :3]
    return np.dstack([np.clip(rgb, 0, 255).astype(np.uint8), sprite[..., 3]])


def _cyborg(sprite: np.ndarray) -> np.ndarray:
    """Turn the right half of the golden-haired woman's face to steel, with a glowing eye."""
    out = sprite.copy()
    half = np.zeros(sprite.shape[:2], bool)
    half[int(SPRITE * 0.25) : int(SPRITE * 0.66), SPRITE // 2 : int(SPRITE * 0.74)] = True
    steel = cv2.cvtColor(sprite[..., :3], cv2.COLOR_RGB2GRAY).astype(np.float32)[..., None]
    steel = np.clip(steel * (0.72, 0.82, 0.92) + (10, 18, 26), 0, 255).astype(np.uint8)
    out[..., :3][half] = steel[half]
    centre = (int(SPRITE * 0.61), int(SPRITE * 0.45))
    cv2.circle(out, centre, 15, (40, 48, 60, 255), -1, cv2.LINE_AA)
    cv2.circle(out, centre, 9, (255, 40, 40, 255), -1, cv2.LINE_AA)
    return out


def _framed(sprite: np.ndarray) -> np.ndarray:
    """Hang a sprite in a golden frame before an olive landscape."""
    out = np.zeros_like(sprite)
    left, right = int(SPRITE * 0.12), int(SPRITE * 0.88)
    out[4 : SPRITE - 4, left:right] = (206, 158, 54, 255)
    out[12 : SPRITE - 12, left + 8 : right - 8] = (150, 106, 30, 255)
    out[16 : SPRITE - 16, left + 12 : right - 12] = (140, 146, 92, 255)
    out[int(SPRITE * 0.55) : SPRITE - 16, left + 12 : right - 12] = (96, 92, 58, 255)
    inner = np.zeros_like(sprite)
    inner[16 : SPRITE - 16, left + 12 : right - 12] = 1
    small = cv2.warpAffine(sprite, np.array([[0.8, 0, SPRITE * 0.1], [0, 0.8, SPRITE * 0.16]]), (SPRITE, SPRITE))
    alpha = (small[..., 3:] / 255.0) * inner[..., :1]
    out[..., :3] = (out[..., :3] * (1 - alpha) + small[..., :3] * alpha).astype(np.uint8)
    return out


def _paste(canvas: np.ndarray, sprite: np.ndarray, place: Place, *, outline: bool = False) -> None:
    """Blend a sprite into the canvas; ``outline`` darkens a thin rim, so that a yellow star shows on yellow."""
    x, y, side, angle, flip = place
    if flip:
        sprite = sprite[:, ::-1]
    if side < SPRITE * 0.6:
        pixels = max(round(side), 4)
        sprite = cv2.resize(sprite, (pixels, pixels), interpolation=cv2.INTER_AREA)
    extent = sprite.shape[0]
    matrix = cv2.getRotationMatrix2D((extent / 2, extent / 2), angle, side / extent)
    matrix[:, 2] += (x - extent / 2, y - extent / 2)
    pasted = cv2.warpAffine(sprite, matrix, (CANVAS, CANVAS), flags=cv2.INTER_LINEAR)
    top, bottom = max(int(y - side * 0.75), 0), min(int(y + side * 0.75), CANVAS)
    left, right = max(int(x - side * 0.75), 0), min(int(x + side * 0.75), CANVAS)
    area = canvas[top:bottom, left:right]
    part = pasted[top:bottom, left:right]
    if outline:
        rim = cv2.dilate(part[..., 3], _RIM).astype(np.uint16)[..., None]
        area[:] = (area * (25500 - rim.astype(np.uint32) * 38) // 25500).astype(np.uint8)
    alpha = part[..., 3:].astype(np.uint16)
    area[:] = ((area * (255 - alpha) + part[..., :3] * alpha) // 255).astype(np.uint8)


_RIM = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (7, 7))


def _dots(canvas, rng, count, colour) -> None:
    for x, y, r in zip(rng.integers(0, CANVAS, count), rng.integers(0, CANVAS, count), rng.integers(1, 3, count)):
        cv2.circle(canvas, (int(x), int(y)), int(r), colour, -1, cv2.LINE_AA)


def _towers(canvas, rng) -> None:
    for left in range(0, CANVAS, 43):
        height = int(rng.uniform(0.30, 0.58) * CANVAS)
        top = int(CANVAS * 0.8) - height
        canvas[top:, left : left + 40] = (92, 100, 140)
        for row in range(top + 10, int(CANVAS * 0.76), 20):
            for column in (left + 7, left + 24):
                canvas[row : row + 10, column : column + 9] = (244, 226, 140)


def _stroke_tiles(count: int = 12) -> np.ndarray:
    """Return brush-stroke lightness offsets, (count, 256, 256) int16 in -20..20."""
    rng = np.random.default_rng(7)
    tiles = []
    for _ in range(count):
        noise = cv2.GaussianBlur(rng.standard_normal((CANVAS * 2, CANVAS * 2)).astype(np.float32), (0, 0), 2.0)
        kernel = np.zeros((31, 31), np.float32)
        cv2.line(kernel, (2, 26), (28, 4), 1.0, 1)
        tile = cv2.filter2D(noise, -1, kernel)[CANVAS // 2 :, CANVAS // 2 :][:CANVAS, :CANVAS]
        tiles.append(np.clip(tile / tile.std() * 8, -20, 20).astype(np.int16))
    return np.stack(tiles)
