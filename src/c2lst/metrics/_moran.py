from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp

from ._arrays import constant, rows

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


def morans_i(values: ArrayLike, graph: sp.spmatrix | sp.sparray, *, row_normalize: bool = False) -> NDArray[np.float64]:
    r"""Moran's I per gene: spatial autocorrelation on a graph of spots.

    :math:`I = \frac{n}{\sum_{ij} w_{ij}} \frac{\sum_{ij} w_{ij} z_i z_j}{\sum_i z_i^2}` with :math:`z` the centred
    values (Moran 1950); equal to :func:`scanpy.metrics.morans_i`.

    Parameters
    ----------
    values
        `(n_spots, n_genes)`.
    graph
        Sparse `(n_spots, n_spots)` weights, e.g. `obsp["spatial_connectivities"]` of
        :func:`squidpy.gr.spatial_neighbors`.
    row_normalize
        Make the weights of every spot sum to 1 first, as :func:`squidpy.gr.spatial_autocorr` does by default.

    Returns
    -------
    `(n_genes,)`; NaN for a constant gene. Without autocorrelation the expectation is `-1 / (n_spots - 1)`.

    Raises
    ------
    ValueError
        If the graph does not fit the values or has no edge.

    Examples
    --------
    >>> import numpy as np, scipy.sparse as sp
    >>> import c2lst as c2l
    >>> ring = sp.csr_matrix(np.roll(np.eye(8), 1, axis=1) + np.roll(np.eye(8), -1, axis=1))
    >>> halves = np.repeat([0.0, 1.0], 4)[:, None]
    >>> checker = np.tile([0.0, 1.0], 4)[:, None]
    >>> c2l.metrics.morans_i(np.hstack([halves, checker]), ring)
    array([ 0.5, -1. ])
    """
    x = rows(values, "values")
    if not sp.issparse(graph):
        raise TypeError(f"graph must be a scipy sparse matrix, not {type(graph).__name__}.")
    if graph.shape != (len(x), len(x)):
        raise ValueError(f"graph has shape {graph.shape}; {len(x)} spots need ({len(x)}, {len(x)}).")
    w = sp.csr_array(graph, dtype=np.float64)
    if row_normalize:
        total = np.asarray(w.sum(axis=1)).ravel()
        w = sp.diags_array(np.divide(1, total, out=np.zeros_like(total), where=total != 0)) @ w
    weight = w.sum()
    if not weight > 0:
        raise ValueError("graph has no edge; build one with `squidpy.gr.spatial_neighbors`.")
    z = x - x.mean(axis=0)
    spread = (z**2).sum(axis=0)
    together = len(x) / weight * (z * (w @ z)).sum(axis=0)
    return np.divide(together, spread, out=np.full(x.shape[1], np.nan), where=~constant(x, values))
