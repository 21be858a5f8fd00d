"""c2lst: gene-conditioned histology generation that makes a few sequenced spots go further."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from ._settings import settings

if TYPE_CHECKING:
    from . import datasets, io, metrics, models, pl, pp, tl

__version__ = "0.1.0"
__all__ = ["datasets", "io", "metrics", "models", "pl", "pp", "settings", "tl"]

_ROOMS = ("datasets", "io", "metrics", "models", "pl", "pp", "tl")


def __getattr__(name: str):
    # rooms are imported when first entered: `import c2lst` loads neither torch nor anndata
    if name in _ROOMS:
        return import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
