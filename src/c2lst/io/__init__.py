"""Patch stores, mosaics of synthetic spots as SpatialData, reports."""

from __future__ import annotations

from importlib import import_module

from ._patches import PatchStore, read_patches, write_patches

__all__ = ["Block", "PatchStore", "read_patches", "report", "to_spatialdata", "write_patches"]

_LAZY = {"Block": "._report", "report": "._report", "to_spatialdata": "._mosaic"}


def __getattr__(name: str):
    # entered when first used: a report needs matplotlib, a mosaic needs spatialdata
    if name in _LAZY:
        return getattr(import_module(_LAZY[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
