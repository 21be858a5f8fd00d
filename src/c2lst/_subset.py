"""Which spots a fit may see."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ._checks import listing

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray
    from pandas import Series

    from ._resolve import Section


def subset_masks(found: list[Section], subset: str | None) -> list[NDArray[np.bool_]]:
    """Return `subset_mask` of every section; a section may lie outside as a whole, not all of them."""
    masks = [subset_mask(section.table, subset, empty=True) for section in found]
    if not any(mask.any() for mask in masks):
        subset_mask(found[0].table, subset)  # raises, with what the column holds
    return masks


def subset_mask(table: AnnData, subset: str | None, *, empty: bool = False) -> NDArray[np.bool_]:
    """Return which spots are meant: a boolean column, or the value "train" of a categorical one."""
    if subset is None:
        return np.ones(table.n_obs, dtype=bool)
    if not isinstance(subset, str):
        raise TypeError(f"subset must name a column of obs, not be a {type(subset).__name__}.")
    if subset not in table.obs:
        raise KeyError(
            f"obs has no column {subset!r} (subset=); it has {listing(table.obs.columns)}. "
            "`c2lst.pp.split` and `c2lst.pp.subsample` write one."
        )
    column = table.obs[subset]
    if column.isna().any():
        raise ValueError(f"obs[{subset!r}] has missing values; a subset must say yes or no for every spot.")
    mask = boolean(column)
    if mask is None:
        mask = column.astype(str).to_numpy() == "train"
    if not mask.any() and not empty:
        raise ValueError(f"obs[{subset!r}] selects no spot; its values are {listing(column.unique())}.")
    return mask


def boolean(column: Series) -> NDArray[np.bool_] | None:
    """Return a boolean column of `obs`, also one that went through a file or a concatenation; `None` for any other."""
    if column.isna().any():
        return None
    if column.dtype == bool:
        return column.to_numpy()
    words = column.astype(str)
    return (words == "True").to_numpy() if set(words.unique()) <= {"True", "False"} else None
