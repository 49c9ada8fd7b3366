"""In what two pictures differ, in words."""

from collections.abc import Mapping

from ..settings import Setting

LABELS = {
    "num_inference_steps": "steps",
    "guidance_scale": "guidance",
    "negative_prompt": "negative",
    "detect_edges": "find edges",
    "low_threshold": "canny low",
    "high_threshold": "canny high",
    "controlnet_conditioning_scale": "control",
    "adapter_conditioning_scale": "adapter",
    "adapter_conditioning_factor": "factor",
}


def label_of(name: str, spec: Setting | None) -> str:
    """Return the word for a setting that is on its control."""
    return (getattr(spec, "label", "") if spec else "") or LABELS.get(name, name)


def say(value: object) -> str:
    """Return a setting's value as a page shows it: numbers short, file names without folders."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, float):
        return f"{value:g}"
    return str(value).replace("\\", "/").rsplit("/", 1)[-1] if _is_path(value) else str(value)


def _is_path(value: object) -> bool:
    return isinstance(value, str) and value.endswith((".png", ".jpg", ".jpeg", ".webp"))


def listed(settings: Mapping[str, object], specs: Mapping[str, Setting]) -> str:
    """Return all settings in one text, the prompt first: what hovering over a picture tells."""
    rest = [f"{label_of(name, specs.get(name))} {say(value)}" for name, value in settings.items() if name != "prompt"]
    return "\n".join([say(settings.get("prompt", "")), ", ".join(rest)])


def differences(
    one: Mapping[str, object], other: Mapping[str, object], specs: Mapping[str, Setting]
) -> list[tuple[str, str, str]]:
    """Return label, value and other value of each setting in which two pictures differ."""
    names = [name for name in {**one, **other} if one.get(name) != other.get(name)]
    return [
        (label_of(name, specs.get(name)), say(one.get(name, "not set")), say(other.get(name, "not set")))
        for name in names
    ]


def caption(settings: Mapping[str, object], before: Mapping[str, object] | None, specs: Mapping[str, Setting]) -> str:
    """Return what is new in a picture against the one drawn before it, in few words."""
    prompt = say(settings.get("prompt", ""))
    if before is None or before.get("prompt") != settings.get("prompt"):
        return prompt
    changed = [f"{label} {value}" for label, value, _ in differences(settings, before, specs)]
    return ", ".join(changed) or prompt
