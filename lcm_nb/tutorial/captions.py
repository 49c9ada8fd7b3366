"""Scenes and their captions: what the mini family can be asked for, in endless numbered streams.

A :class:`Scene` is a few labels and a seed. :func:`caption` words it as people would, :func:`labels` says what
the judge should see of it, and :mod:`lcm_nb.training.scenes` paints it; all depend on nothing but the scene.
"""

import zlib
from dataclasses import dataclass, replace

import numpy as np

from ..models.vocabulary import (
    BACKGROUNDS,
    COLOURS,
    FILLERS,
    MEDIUMS,
    NAMED,
    OPENERS,
    PALETTES,
    PLAIN,
    PRAISE,
    SETTINGS,
    SUBJECTS,
    SYNONYMS,
    plural,
)

HELD_OUT_SHARE = 16  # one label combination in so many is never trained on
PREPOSITIONS = {"in", "on", "at", "by", "among", "with"}


@dataclass(frozen=True)
class Scene:
    """The labels of one picture. ``None`` means that the caption says nothing about it."""

    subjects: tuple[str, ...]
    colours: tuple[str | None, ...]
    background: str
    background_named: bool
    palette: str | None
    medium: str | None
    seed: int

    @property
    def held_out(self) -> bool:
        """Whether this combination of labels is kept from training."""
        key = (sorted(self.subjects), self.background, self.palette, self.medium)
        return zlib.crc32(repr(key).encode()) % HELD_OUT_SHARE == 0


def scene_at(seed: int, index: int, *, held_out: bool = False, subjects: int | None = None) -> tuple[Scene, str]:
    """Return scene number ``index`` of the stream ``seed``, with its caption."""
    rng = np.random.default_rng((seed, index))
    scene = sample_scene(rng, held_out=held_out, subjects=subjects)
    return scene, caption(scene, rng)


def styled_scene_at(seed: int, index: int, style: str, **options) -> tuple[Scene, str]:
    """Return scene number ``index`` as a style shows it, with a caption that begins with the style's name."""
    rng = np.random.default_rng((seed, index))
    options = {"held_out": False, **options}
    while True:  # a style leaves no room for palette and medium, and what is held out is so without them
        scene = replace(sample_scene(rng, **options), palette=None, medium=None)
        if scene.held_out == options["held_out"]:
            return scene, f"{style}, {caption(scene, rng)}"


def labels(scene: Scene) -> dict[str, object]:
    """Return what a judge should see: subject indices and class indices (0 = none)."""
    return {
        "subjects": [list(SUBJECTS).index(name) for name in scene.subjects],
        "background": BACKGROUNDS.index(scene.background),
        "palette": 0 if scene.palette is None else 1 + list(PALETTES).index(scene.palette),
        "medium": 0 if scene.medium is None else 1 + list(MEDIUMS).index(scene.medium),
    }


def sample_scene(rng: np.random.Generator, *, held_out: bool, subjects: int | None = None) -> Scene:
    """Draw a random scene from the training or the held-out label combinations."""
    while True:
        count = subjects or (2 if rng.random() < 0.18 else 1)
        names = list(SUBJECTS)
        chosen = tuple(names[i] for i in rng.choice(len(names), count, replace=False))
        if count == 2 and subjects is None and rng.random() < 0.15:
            chosen = (chosen[0], chosen[0])  # "two foxes"
        medium = list(MEDIUMS)[rng.integers(len(MEDIUMS))] if rng.random() < 0.3 else None
        palette = list(PALETTES)[rng.integers(len(PALETTES))] if rng.random() < 0.35 else None
        if medium == "pencil sketch":
            palette = None  # grey on paper: a palette would say nothing
        tinted = palette is None and medium != "pencil sketch"
        colours = tuple(
            list(COLOURS)[rng.integers(len(COLOURS))] if tinted and rng.random() < 0.15 else None for _ in chosen
        )
        if len(set(chosen)) < len(chosen):
            colours = (colours[0],) * count
        background = _pick(rng, tuple(SETTINGS)) if rng.random() < 0.62 else _pick(rng, tuple(PLAIN))
        scene = Scene(
            subjects=chosen,
            colours=colours,
            background=background,
            background_named=held_out or rng.random() < 0.88,
            palette=palette,
            medium=medium,
            seed=int(rng.integers(2**31)),
        )
        if scene.held_out == held_out:
            return scene


def caption(scene: Scene, rng: np.random.Generator) -> str:
    """Word a scene as people type prompts."""
    nouns = [_noun(name, colour, rng) for name, colour in zip(scene.subjects, scene.colours, strict=True)]
    if len(nouns) == 2 and scene.subjects[0] == scene.subjects[1]:
        plain = " ".join(filter(None, [scene.colours[0], plural(scene.subjects[0])]))
        text = f"two {plain}" if rng.random() < 0.5 else plain
    else:
        text = " and ".join(nouns)
    medium = _pick(rng, MEDIUMS[scene.medium]) if scene.medium else None
    lead, tail = "", []
    if medium and rng.random() < 0.6:
        lead = f"self-portrait {medium}, " if rng.random() < 0.15 else f"{medium} of "
    elif medium:
        tail.append(medium)
    elif rng.random() < 0.2:
        lead = _pick(rng, OPENERS) + " "
    if scene.background_named:
        where = _background(scene.background, rng)
        text, tail = (f"{text} {where}", tail) if where.split()[0] in PREPOSITIONS else (text, [where, *tail])
    if scene.palette:
        tail.append(_pick(rng, PALETTES[scene.palette]))
    for _ in range(rng.choice(4, p=(0.55, 0.25, 0.15, 0.05))):
        tail.append(_pick(rng, FILLERS))
    if rng.random() < 0.05:  # words nobody taught it must not disturb the picture
        tail.append("".join(rng.choice(list("abcdefghijklmnopqrstuvwxyz0123456789"), rng.integers(2, 8))))
    if rng.random() < 0.3:
        rng.shuffle(tail)
    return ", ".join([lead + text, *tail])


def _pick(rng: np.random.Generator, options: tuple) -> str:
    return options[rng.integers(len(options))]


def _noun(name: str, colour: str | None, rng: np.random.Generator) -> str:
    word = _pick(rng, SYNONYMS[name]) if name in SYNONYMS and rng.random() < 0.25 else name
    praise = _pick(rng, PRAISE) if rng.random() < 0.3 else None
    words = " ".join(filter(None, [praise, colour, word]))
    if name in NAMED:
        article = NAMED[name]
    else:
        article = "an" if words[0] in "aeiou" else "a"
        article = ("the" if rng.random() < 0.1 else article) if rng.random() < 0.85 else ""
    return f"{article} {words}".strip()


def _background(name: str, rng: np.random.Generator) -> str:
    if name in SETTINGS:
        return _pick(rng, SETTINGS[name])
    return _pick(rng, (f"on a {name} background", f"{name} background", f"on {name}", f"on a plain {name} background"))
