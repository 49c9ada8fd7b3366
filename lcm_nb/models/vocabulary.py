"""What the mini family can draw, as plain data, and which words of a prompt it does not know.

Every name is a word that people may type. Icon names are those of the
MIT-licensed Fluent Emoji flat set (npm package ``@iconify-json/fluent-emoji-flat``).
"""

import re
from collections.abc import Iterable
from functools import cache

# Subject -> icon. "cyborg" and "mona lisa" are composed in training/scenes.py from the icons named here.
SUBJECTS = {
    # animals
    "fox": "fox",
    "cat": "cat-face",
    "dog": "dog-face",
    "panda": "panda",
    "owl": "owl",
    "penguin": "penguin",
    "unicorn": "unicorn",
    "dinosaur": "sauropod",
    "octopus": "octopus",
    "tiger": "tiger-face",
    "lion": "lion",
    "bear": "bear",
    "koala": "koala",
    "frog": "frog",
    "monkey": "monkey-face",
    "rabbit": "rabbit-face",
    "mouse": "mouse-face",
    "pig": "pig-face",
    "cow": "cow-face",
    "wolf": "wolf",
    "raccoon": "raccoon",
    "hedgehog": "hedgehog",
    "elephant": "elephant",
    "giraffe": "giraffe",
    "whale": "spouting-whale",
    "dolphin": "dolphin",
    "shark": "shark",
    "fish": "tropical-fish",
    "crab": "crab",
    "turtle": "turtle",
    "snail": "snail",
    "butterfly": "butterfly",
    "bee": "honeybee",
    "ladybug": "lady-beetle",
    "chick": "front-facing-baby-chick",
    "duck": "duck",
    "swan": "swan",
    "flamingo": "flamingo",
    "parrot": "parrot",
    "dragon": "dragon-face",
    "horse": "horse-face",
    "sheep": "ewe",
    # people and creatures
    "astronaut": "astronaut",
    "fairy": "woman-fairy",
    "wizard": "man-mage",
    "cyborg": "woman-medium-light",
    "princess": "princess",
    "detective": "detective",
    "robot": "robot",
    "ghost": "ghost",
    "alien": "alien",
    "ninja": "ninja",
    "mermaid": "woman-merpeople",
    "vampire": "man-vampire",
    "snowman": "snowman",
    "santa claus": "santa-claus",
    "clown": "clown-face",
    "skull": "skull",
    "mona lisa": "woman-light",
    # vehicles
    "rocket": "rocket",
    "car": "automobile",
    "bus": "bus",
    "train": "locomotive",
    "sailboat": "sailboat",
    "helicopter": "helicopter",
    "bicycle": "bicycle",
    "tractor": "tractor",
    "ufo": "flying-saucer",
    # buildings
    "house": "house",
    "castle": "castle",
    "tent": "tent",
    "church": "church",
    # plants and food
    "sunflower": "sunflower",
    "rose": "rose",
    "mushroom": "mushroom",
    "apple": "red-apple",
    "banana": "banana",
    "strawberry": "strawberry",
    "pineapple": "pineapple",
    "watermelon": "watermelon",
    "hamburger": "hamburger",
    "pizza": "pizza",
    "cake": "birthday-cake",
    "cupcake": "cupcake",
    "doughnut": "doughnut",
    "ice cream": "soft-ice-cream",
    "carrot": "carrot",
    # instruments, objects, sky
    "guitar": "guitar",
    "violin": "violin",
    "drum": "drum",
    "trumpet": "trumpet",
    "balloon": "balloon",
    "key": "key",
    "umbrella": "umbrella",
    "crown": "crown",
    "clock": "alarm-clock",
    "camera": "camera",
    "gift": "wrapped-gift",
    "teddy bear": "teddy-bear",
    "trophy": "trophy",
    "book": "closed-book",
    "bell": "bell",
    "light bulb": "light-bulb",
    "star": "star",
    "moon": "crescent-moon",
    "sun": "sun-with-face",
    "rainbow": "rainbow",
    "heart": "red-heart",
}

# Other words for a subject: the caption uses them now and then, the label stays.
SYNONYMS = {
    "cat": ("kitten",),
    "dog": ("puppy",),
    "rabbit": ("bunny",),
    "dinosaur": ("brontosaurus",),
    "mona lisa": ("la gioconda",),
    "cyborg": ("cyborg with golden hair", "cyborg woman", "woman with golden hair"),
    "wizard": ("mage", "magician"),
    "car": ("automobile",),
    "ufo": ("flying saucer",),
    "hamburger": ("burger",),
    "doughnut": ("donut",),
    "ladybug": ("ladybird",),
    "chick": ("baby bird",),
    "house": ("home",),
    "gift": ("present",),
    "train": ("locomotive",),
    "bicycle": ("bike",),
}

# Subjects that no article fits, or only "the".
NAMED = {"mona lisa": "the", "santa claus": ""}


# Setting -> the phrases that name it. scenes.LANDSCAPES says how it is painted.
SETTINGS = {
    "meadow": ("in a meadow", "in the grass", "in a field of flowers", "meadow"),
    "forest": ("in a forest", "in the woods", "forest"),
    "jungle": ("in a jungle", "in the jungle", "jungle"),
    "desert": ("in a desert", "in the desert", "on the sand", "desert"),
    "snow": ("in the snow", "in winter", "snowy landscape", "snow"),
    "beach": ("on a beach", "at the beach", "by the sea", "beach"),
    "city": ("in a city", "in the city", "city street", "city"),
    "space": ("in space", "in outer space", "among the stars", "space"),
    "sunset": ("at sunset", "in the evening", "at dusk", "sunset"),
    "magic": ("magic", "in a magical world", "with magic sparkles", "mystical, magic"),
}

PLAIN = {
    "white": (245, 245, 245),
    "black": (32, 32, 36),
    "red": (214, 62, 58),
    "orange": (246, 150, 62),
    "yellow": (250, 212, 76),
    "green": (96, 178, 92),
    "blue": (72, 124, 214),
    "purple": (140, 92, 196),
    "pink": (246, 164, 196),
    "brown": (140, 96, 68),
    "grey": (150, 152, 156),
    "turquoise": (84, 200, 196),
}

PALETTES = {
    "cold": ("cold color palette", "cold colors", "cool tones"),
    "warm": ("warm color palette", "warm colors", "warm tones"),
    "muted": ("muted colors", "muted color palette", "dull colors"),
    "pastel": ("pastel colors", "pastel color palette", "soft pastel"),
    "monochrome": ("black and white", "monochrome", "greyscale"),
    "sepia": ("sepia", "sepia tones", "vintage sepia"),
}

MEDIUMS = {
    "oil painting": ("oil painting", "painting", "oil on canvas"),
    "pencil sketch": ("pencil sketch", "pencil drawing", "sketch"),
    "pixel art": ("pixel art", "8-bit pixel art", "pixel graphics"),
}

# Colour adjectives for subjects, as RGB.
COLOURS = {
    "red": (222, 44, 44),
    "orange": (246, 134, 24),
    "yellow": (250, 206, 36),
    "green": (48, 168, 66),
    "blue": (44, 104, 226),
    "purple": (138, 62, 200),
    "pink": (246, 112, 170),
}

PRAISE = ("cute", "beautiful", "little", "lovely", "mystical", "happy", "big", "small", "funny")
OPENERS = ("a photo of", "a picture of", "an illustration of", "a drawing of", "an image of", "photo of")
FILLERS = (
    "detailed",
    "8k",
    "4k",
    "4k picture",
    "high quality",
    "highly detailed",
    "masterpiece",
    "in real",
    "best quality",
    "sharp",
    "trending",
    "digital art",
)

BACKGROUNDS = (*SETTINGS, *PLAIN)

# What else stands in captions, and words that ask for nothing to be seen.
FRAME = ("self-portrait", "two", "a plain background")
SMALL = (
    "a an the this that these those some and or but with without of in on at by to from into onto for as near over "
    "under behind beside between i me my it its he his she her they their you your who which is are be being was were "
    "has have having very so just please draw show"
)

MOST_NAMED = 5  # unknown words that a note names


def plural(name: str) -> str:
    """Return the plural of a subject's name."""
    irregular = {"mouse": "mice", "wolf": "wolves", "fish": "fish", "sheep": "sheep", "butterfly": "butterflies"}
    irregular |= {"fairy": "fairies", "cherry": "cherries", "strawberry": "strawberries"}
    if name in irregular:
        return irregular[name]
    return name + ("es" if name.endswith(("s", "x", "ch")) else "s")


def unknown(prompt: str, styles: Iterable[str] = ()) -> str:
    """Return in one sentence which words of a prompt no caption of the training had, "" for none.

    Parameters
    ----------
    styles
        Names of style LoRAs that are loaded: these words are known, too.
    """
    known = _known() | set(styles)
    strange = list(dict.fromkeys(word for word in _split(prompt) if word not in known))
    if not strange:
        return ""
    named = [f"{word[:24]}..." if len(word) > 24 else word for word in strange[:MOST_NAMED]]
    more = f" and {len(strange) - MOST_NAMED} more" if len(strange) > MOST_NAMED else ""
    words = ", ".join(f"'{word}'" for word in named) + more
    return f"the mini family does not know {words} (lcm_nb.tutorial.words() shows what it knows)"


def _split(text: str) -> list[str]:
    """Return the words of a text, small, without the 's of "fox's"."""
    return [word.lower().removesuffix("'s") for word in re.findall(r"\w+(?:'\w+)?", text.replace("’", "'"))]


@cache
def _known() -> frozenset[str]:
    phrases = [*SUBJECTS, *map(plural, SUBJECTS), *BACKGROUNDS, *PALETTES, *COLOURS, *PRAISE, *OPENERS, *FILLERS]
    for more in (SYNONYMS, SETTINGS, PALETTES, MEDIUMS):
        phrases += [phrase for several in more.values() for phrase in several]
    return frozenset(_split(" ".join([*phrases, *FRAME, SMALL])))
