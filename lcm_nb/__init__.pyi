from . import schedule
from .models.checkpoints import checkpoints
from .models.device import info
from .models.examples import example_image
from .pictures import canny
from .result import Result, Step
from .sections import SECTIONS
from .studio import Studio, load, reproduce
from .web import web_panel

__all__ = [
    "SECTIONS",
    "Result",
    "Step",
    "Studio",
    "canny",
    "checkpoints",
    "example_image",
    "info",
    "load",
    "reproduce",
    "schedule",
    "web_panel",
]
__version__: str
