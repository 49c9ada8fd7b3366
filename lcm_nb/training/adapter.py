"""A T2I-Adapter that follows canny edges, for the SDXL family."""

from pathlib import Path

from .controls import build_adapter, run_control
from .loop import Settings


def run(settings: Settings) -> Path:
    """Train on ``work/base`` and save to ``work/t2i-adapter-canny``."""
    return run_control(settings, "t2i-adapter-canny", "xl", build_adapter)
