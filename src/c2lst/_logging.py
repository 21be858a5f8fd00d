"""The logger of the package and its one progress bar."""

from __future__ import annotations

import logging
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

T = TypeVar("T")
logger = logging.getLogger("c2lst")


def progress(
    items: Iterable[T] | None = None, *, total: int | None = None, desc: str = "", show: bool | None = None, unit="it"
):
    """Return a progress bar (`tqdm.auto`, readable in a terminal and in a notebook).

    `show=None` follows `c2lst.settings.progress`.
    """
    from tqdm.auto import tqdm

    from ._settings import settings

    return tqdm(
        items, total=total, desc=desc, unit=unit, disable=not (settings.progress if show is None else show), leave=True
    )


@contextmanager
def quiet(*names: str, level: int = logging.ERROR) -> Iterator[None]:
    """Within the block, these loggers of other packages speak from `level` on, and warnings are held back."""
    loggers = [logging.getLogger(name) for name in names]
    levels = [one.level for one in loggers]
    for one in loggers:
        one.setLevel(level)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for one, before in zip(loggers, levels, strict=True):
            one.setLevel(before)


LIGHTNING = ("lightning", "lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero")


def batches(n: int, size: int) -> Iterator[slice]:
    """Cut `range(n)` into slices of at most `size`."""
    for start in range(0, n, size):
        yield slice(start, min(start + size, n))
