"""Expression as c2lst means it: log1p of counts per 10,000, library size over all genes of the section."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp

from ._checks import listing
from ._keys import Key

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData
    from numpy.typing import NDArray

LOG1P = "log1p CP10k"  # uns["c2lst"]["expression"] of a table whose X is normalised already


def is_normalised(table: AnnData) -> bool:
    """Say whether c2lst itself wrote X as log1p CP10k (synthetic spots)."""
    return (table.uns.get(Key.UNS) or {}).get("expression") == LOG1P


def counts(table: AnnData, layer: str | None = None):
    """Return the count matrix `(n_obs, n_vars)`, sparse or dense; raise unless it holds whole numbers >= 0."""
    named = [k for k in table.layers if k is not None]  # anndata 0.13 counts X among the layers
    if layer is not None and layer not in named:
        raise KeyError(f"The table has no layer {layer!r}; it has {listing(named)}, and X (layer=None).")
    x = table.X if layer is None else table.layers[layer]
    where = "X" if layer is None else f"layers[{layer!r}]"
    if x is None:
        raise ValueError(f"{where} of the table is empty; pass layer=, one of {listing(named)}.")
    if hasattr(x, "compute"):  # dask; of sparse chunks numpy would make an array of objects
        x = x.compute()
    if not sp.issparse(x) and hasattr(x, "to_memory"):  # backed tables
        x = x.to_memory()
    elif not sp.issparse(x) and not isinstance(x, np.ndarray):
        x = np.asarray(x)
    values = x.data if sp.issparse(x) else np.asarray(x)
    if not np.isfinite(values).all():
        raise ValueError(f"{where} has NaN or infinite values; expression must be counts.")
    if values.size and values.min() < 0:
        raise ValueError(f"{where} has negative values; expression must be counts. Pass layer= the layer of counts.")
    if not np.array_equal(values, np.rint(values)):
        raise ValueError(
            f"{where} has fractional values (normalised already?); pass layer= the layer that holds counts, one of "
            f"{listing(named)}."
        )
    return x


def library_size(table: AnnData, layer: str | None = None) -> NDArray[np.float64]:
    """Return counts per spot over all genes, `(n_obs,)`."""
    return np.asarray(counts(table, layer).sum(axis=1), dtype=np.float64).ravel()


def check_genes(table: AnnData, genes: Sequence[str], what: str = "The table") -> NDArray[np.int64]:
    """Return the columns of `genes`; raise `KeyError` that names the missing ones."""
    at = table.var_names.get_indexer(list(genes))
    if (at < 0).any():
        missing = [g for g, i in zip(genes, at, strict=True) if i < 0]
        raise KeyError(f"{what} lacks {len(missing)} of {len(genes)} genes of the panel: {listing(missing)}.")
    return at


def expression(table: AnnData, genes: Sequence[str], layer: str | None = None) -> NDArray[np.float32]:
    """Return log1p of counts per 10,000 for `genes`, `(n_obs, n_genes)`.

    A spot without any count gets zeros. A table that c2lst wrote as log1p CP10k is taken as it is.
    """
    at = check_genes(table, genes)
    if layer is None and is_normalised(table):
        x = table.X[:, at]
        x = np.asarray(x.todense() if sp.issparse(x) else x, dtype=np.float32)
        whole = (x == np.rint(x)).all(axis=1) & (x > 0).any(axis=1)
        if whole.any():
            raise ValueError(
                f"uns['{Key.UNS}']['expression'] says {LOG1P!r}, but X of {whole.sum()} of {len(x)} spots holds whole numbers: "
                "counts. Were real and synthetic spots concatenated? Pass them separately."
            )
        return x
    x = counts(table, layer)[:, at]
    x = np.asarray(x.todense() if sp.issparse(x) else x, dtype=np.float64)
    size = library_size(table, layer)[:, None]
    return np.log1p(np.divide(x * 1e4, size, out=np.zeros_like(x), where=size > 0)).astype(np.float32)


def panel(table: AnnData, key: str = Key.var.GENES) -> list[str]:
    """Return the genes marked in `var[key]`; raise `KeyError` naming the call that marks them."""
    if key not in table.var:
        raise KeyError(
            f"var has no column {key!r}; it has {listing(table.var.columns)}. Call `c2lst.pp.select_genes(data)` first "
            "(`anndata.concat` drops such columns without merge='same')."
        )
    genes = list(table.var_names[table.var[key].to_numpy(dtype=bool)])
    if not genes:
        raise ValueError(f"var[{key!r}] marks no gene. Call `c2lst.pp.select_genes(data)` again.")
    return genes
