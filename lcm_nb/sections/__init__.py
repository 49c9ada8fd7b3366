"""The sections of the guide, one file each: a module with a ``SECTION`` is one.

A new section is its file here, its row in :mod:`lcm_nb.models.plans`, and its notebook.
"""

from collections.abc import Mapping
from importlib import import_module
from pkgutil import iter_modules
from types import MappingProxyType

from ..files import shown
from .section import Section


def _found() -> dict[str, Section]:
    modules = [import_module(f".{module.name}", __name__) for module in iter_modules(__path__)]
    sections = sorted((m.SECTION for m in modules if hasattr(m, "SECTION")), key=lambda section: section.notebook)
    return {section.name: section for section in sections}


BY_NAME: Mapping[str, Section] = MappingProxyType(_found())
SECTIONS: tuple[str, ...] = tuple(BY_NAME)


def section_for(name: str) -> Section:
    """Return the section of a name.

    Raises
    ------
    ValueError
        If there is none; the message lists those that there are.
    """
    if not isinstance(name, str) or name not in BY_NAME:
        raise ValueError(f"There is no section {shown(name)}; choose one of: {', '.join(SECTIONS)}.")
    return BY_NAME[name]
