"""Text that many docstrings share, written once."""

from __future__ import annotations

from inspect import cleandoc
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

F = TypeVar("F", bound="Callable")

SHARED = {
    "data": """\
data
    One section or several: a :class:`~spatialdata.SpatialData`, an :class:`~anndata.AnnData`, a list of them, or a
    `{name: section}` dict.""",
    "table_key": """\
table_key
    Name of the table in a SpatialData.""",
    "subset": """\
subset
    Column of `obs`: what is fitted sees only the spots where it is `True` (or `"train"`, for a categorical one such as
    :func:`c2lst.pp.split` writes). `None` takes all spots.""",
    "layer": """\
layer
    Layer that holds counts; `None` is `X`.""",
    "encoder": """\
encoder
    Name of an image encoder, see :func:`c2lst.models.list_encoders`.""",
    "seed": """\
seed
    Seed of everything random in this call. Same seed, same bytes.""",
    "progress": """\
progress
    Show a progress bar; `None` follows `c2lst.settings.progress`.""",
    "engine": """\
accelerator, devices, strategy
    Passed to :class:`lightning.pytorch.Trainer`.""",
    "copy": """\
copy
    Work on a copy and return it; otherwise `data` is changed in place and `None` is returned.""",
}


def doc(function: F) -> F:
    """Fill `{data}`, `{subset}` ... on lines of their own in a docstring with the shared text."""
    lines = []
    for line in cleandoc(function.__doc__ or "").splitlines():
        name = line.strip()
        if name.startswith("{") and name.endswith("}") and name[1:-1] in SHARED:
            indent = line[: len(line) - len(line.lstrip())]
            lines += [indent + part for part in SHARED[name[1:-1]].splitlines()]
        else:
            lines.append(line)
    function.__doc__ = "\n".join(lines)
    return function
