"""In what pictures differ, in words."""

from collections.abc import Mapping

from ..settings import Setting

PICTURE_FILES = (".png", ".jpg", ".jpeg", ".webp")
Settings = Mapping[str, object]
Specs = Mapping[str, Setting]


def label_of(name: str, spec: Setting | None) -> str:
    """Return the word for a setting that is on its control."""
    return (spec.label if spec else "") or name


def say(value: object) -> str:
    """Return a setting's value as a page shows it: numbers short, files without their folders."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, float):
        return f"{value:g}"
    text = str(value)
    return text.replace("\\", "/").rsplit("/", 1)[-1] if text.endswith(PICTURE_FILES) else text


def listed(settings: Settings, specs: Specs) -> str:
    """Return all settings in one text, the prompt first: what hovering over a picture tells."""
    rest = [f"{label_of(name, specs.get(name))} {say(value)}" for name, value in settings.items() if name != "prompt"]
    return "\n".join([say(settings.get("prompt", "")), ", ".join(rest)])


def differences(one: Settings, other: Settings, specs: Specs) -> list[list[str]]:
    """Return label, value and other value of each setting in which two pictures differ."""
    names = [name for name in {**one, **other} if one.get(name) != other.get(name)]
    return [
        [label_of(name, specs.get(name)), say(one.get(name, "not set")), say(other.get(name, "not set"))]
        for name in names
    ]


def caption(settings: Settings, before: Settings | None, specs: Specs) -> str:
    """Return what is new in a picture against the one drawn before it, in few words."""
    prompt = say(settings.get("prompt", ""))
    if before is None or before.get("prompt") != settings.get("prompt"):
        return prompt
    changed = [f"{label} {value}" for label, value, _ in differences(settings, before, specs)]
    return ", ".join(changed) or prompt


def alt_text(settings: Settings, seed: int) -> str:
    """Return a picture in words, for those who do not see it."""
    steps = settings.get("num_inference_steps", 0)
    return f"{settings.get('prompt', '')}; {steps} step{'s' * (steps != 1)}; seed {seed}"
