"""A ControlNet that follows canny edges, for the Stable Diffusion family."""

from pathlib import Path

from .controls import build_controlnet, run_control
from .loop import Settings


def run(settings: Settings) -> Path:
    """Train on ``work/sd`` and save to ``work/controlnet-canny``."""
    return run_control(settings, "controlnet-canny", "sd", build_controlnet)
