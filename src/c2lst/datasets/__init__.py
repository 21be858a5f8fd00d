"""Sections to work on: simulated tissue (offline) and real ones."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ._her2st import her2st
    from ._toy_spaceranger import toy_spaceranger
    from ._toy_tissue import toy_tissue

__all__ = ["her2st", "toy_spaceranger", "toy_tissue"]

_FILES = {name: f"._{name}" for name in __all__}


def __getattr__(name: str):
    if name in _FILES:
        return getattr(import_module(_FILES[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
