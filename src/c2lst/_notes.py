"""What c2lst writes down about its own calls: `uns["c2lst"]`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from ._keys import SCHEMA_VERSION, Key

if TYPE_CHECKING:
    from anndata import AnnData


def notes(table: AnnData) -> dict[str, Any]:
    """Return `uns["c2lst"]`, made if it is not there."""
    from c2lst import __version__

    # a copy of the outer dict: a table that shares `uns` with another must not write into both
    table.uns[Key.UNS] = dict(table.uns.get(Key.UNS, {}))
    table.uns[Key.UNS].update(schema_version=SCHEMA_VERSION, c2lst_version=__version__)
    return table.uns[Key.UNS]


def record(table: AnnData, function: str, **params: Any) -> None:
    """Write the parameters of a call to `uns["c2lst"]["params"][function]`."""
    here = notes(table)
    here["params"] = {**here.get("params", {}), function: jsonable(params)}


def jsonable(value: Any) -> Any:
    """Turn `value` into what JSON, h5ad and zarr can hold (tuples to lists, numpy to Python, None to "none")."""
    if isinstance(value, dict):
        return {str(k): jsonable(v) for k, v in value.items()}
    if isinstance(value, list | tuple | set | range):
        return [jsonable(v) for v in value]
    if isinstance(value, np.generic):
        return value.item()
    if value is None:
        return "none"
    if isinstance(value, str | int | float | bool):
        return value
    return json.dumps(value, default=str)
