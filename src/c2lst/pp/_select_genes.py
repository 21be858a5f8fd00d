from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

from c2lst._checks import check_fraction, check_positive, listing
from c2lst._docs import doc
from c2lst._expression import check_genes, counts, is_normalised
from c2lst._keys import Key
from c2lst._logging import logger
from c2lst._notes import record
from c2lst._resolve import sections
from c2lst._subset import subset_masks

from ._copying import duplicate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData
    from numpy.typing import NDArray


@doc
def select_genes(
    data: Any,
    n_top: int = 50,
    *,
    genes: Sequence[str] | None = None,
    min_fraction: float = 0.3,
    subset: str | None = None,
    layer: str | None = None,
    key_added: str = Key.var.GENES,
    table_key: str = "table",
    library_key: str | None = None,
    copy: bool = False,
) -> Any:
    """Mark the gene panel: the most variable genes (log1p of counts per 10,000) among those seen often enough.

    Variance and share are taken over the spots of all sections together, within `subset` alone; nothing depends on
    any other spot. Genes are those that all sections have.

    Parameters
    ----------
    {data}
    n_top
        Size of the panel. Fewer are marked, with a warning, where fewer qualify.
    genes
        Mark these instead.
    min_fraction
        Share of the spots that must have at least one count of a gene.
    {subset}
    {layer}
    key_added
        Column of `var`.
    {table_key}
    library_key
        Column of `obs` that tells the sections of a concatenated AnnData apart.
    {copy}

    Returns
    -------
    `None`, or the copy. Sets `var[key_added]` (bool), the same genes in every section.

    Raises
    ------
    KeyError
        If a section lacks one of `genes`.
    ValueError
        If no gene qualifies, the sections share none, or expression is not counts.

    Examples
    --------
    >>> import c2lst as c2l
    >>> sdata = c2l.datasets.toy_tissue(n_spots=36)
    >>> c2l.pp.select_genes(sdata, n_top=5)
    >>> int(sdata["table"].var["c2lst_genes"].sum())
    5
    """
    if copy:
        data = duplicate(data)
    found = sections(data, table_key=table_key, library_key=library_key)
    if genes is not None:
        panel = _named(found, genes)
    else:
        check_positive("n_top", n_top, integer=True)
        check_fraction("min_fraction", min_fraction, zero=True)
        panel = _variable(found, subset_masks(found, subset), int(n_top), min_fraction, layer)
    tables = [s.table for s in found] + ([found[0].parent] if found[0].parent is not None else [])
    for table in tables:
        table.var[key_added] = table.var_names.isin(panel)
        record(
            table,
            "select_genes",
            n_top=n_top if genes is None else len(panel),
            genes=panel,
            chosen="variance" if genes is None else "named",
            min_fraction=min_fraction,
            subset=subset,
            layer=layer,
            sections=[s.name for s in found],
        )
    return data if copy else None


def _named(found: list[Any], genes: Sequence[str]) -> list[str]:
    if isinstance(genes, str):
        raise TypeError(f"genes must be a list of names, not the string {genes!r}.")
    panel = [str(gene) for gene in genes]
    if not panel:
        raise ValueError("genes= is empty; name at least one gene, or leave it out to choose by variance.")
    if len(set(panel)) < len(panel):
        raise ValueError(f"genes= names a gene twice: {listing(sorted({g for g in panel if panel.count(g) > 1}))}.")
    for section in found:
        check_genes(section.table, panel, f"Section {section.name!r}")
    return panel


def _variable(
    found: list[Any], masks: list[NDArray[np.bool_]], n_top: int, min_fraction: float, layer: str | None
) -> list[str]:
    shared = set.intersection(*(set(s.table.var_names) for s in found))
    names = [gene for gene in found[0].table.var_names if gene in shared]
    if not names:
        raise ValueError(
            f"The sections {listing(s.name for s in found)} have no gene in common; are their var_names of one kind?"
        )
    n, seen, total, squares = 0, 0.0, 0.0, 0.0
    for section, mask in zip(found, masks, strict=True):
        if not mask.any():
            continue
        x = _log1p_cp10k(section.table, mask, layer)[:, section.table.var_names.get_indexer(names)]
        n += x.shape[0]
        seen = seen + np.asarray((x > 0).sum(axis=0)).ravel()
        total = total + np.asarray(x.sum(axis=0)).ravel()
        squares = squares + np.asarray(x.multiply(x).sum(axis=0)).ravel()
    variance = (squares - total**2 / n) / max(n - 1, 1)
    often = seen >= min_fraction * n - 1e-9
    able = np.flatnonzero(often & (variance > 1e-12))
    if not len(able):
        raise ValueError(
            f"No gene qualifies: of {len(names)} shared genes {int(often.sum())} are seen in {min_fraction:.0%} of the "
            f"{n} spots, and none of those varies. Lower min_fraction=, use more spots, or name the panel with genes=."
        )
    if len(able) < n_top:
        logger.warning(
            "n_top=%d, but only %d genes are seen in %.0f %% of the %d spots and vary; all of them are marked.",
            n_top,
            len(able),
            100 * min_fraction,
            n,
        )
    best = able[np.argsort(-variance[able], kind="stable")[:n_top]]
    return [names[i] for i in np.sort(best)]


def _log1p_cp10k(table: AnnData, mask: NDArray[np.bool_], layer: str | None) -> sp.csr_matrix:
    """All genes of the spots in `mask`, sparse: a whole section may not fit as a dense array."""
    if layer is None and is_normalised(table):
        return sp.csr_matrix(table.X[mask], dtype=np.float64)
    # only the spots meant are looked at: nothing held out can raise, or count
    x = sp.csr_matrix(counts(table[mask], layer), dtype=np.float64)
    size = np.asarray(x.sum(axis=1)).ravel()
    x = sp.diags(np.divide(1e4, size, out=np.zeros_like(size), where=size > 0)) @ x
    return sp.csr_matrix(x).log1p()
