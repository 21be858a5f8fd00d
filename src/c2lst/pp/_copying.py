"""Copies of what a user passes in: tables are copied, images and shapes are shared."""

from __future__ import annotations

from typing import Any

from anndata import AnnData


def duplicate(data: Any) -> Any:
    """Copy `data`, container and tables; elements that c2lst never changes are shared."""
    if isinstance(data, dict):
        return {name: duplicate(item) for name, item in data.items()}
    if isinstance(data, list | tuple):
        return type(data)(duplicate(item) for item in data)
    if isinstance(data, AnnData):
        return data.copy()
    if type(data).__name__ == "SpatialData":
        from copy import deepcopy

        from spatialdata import SpatialData

        new = SpatialData(
            images=dict(data.images),
            labels=dict(data.labels),
            points=dict(data.points),
            shapes=dict(data.shapes),
            tables={name: table.copy() for name, table in data.tables.items()},
        )
        new.attrs = deepcopy(data.attrs)
        return new
    return data  # resolving it raises, with the reason
