from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


def moran_agreement(predicted_i: ArrayLike, measured_i: ArrayLike) -> dict[str, float]:
    """How well the spatial coherence of predicted genes agrees with that of measured ones.

    Parameters
    ----------
    predicted_i
        `(n_genes,)` Moran's I of predicted genes, see :func:`morans_i`.
    measured_i
        `(n_genes,)` Moran's I of the same genes as measured, on the same graph.

    Returns
    -------
    `corr`: Pearson correlation over genes; NaN with fewer than three genes or without spread.
    `bias`: mean of predicted minus measured. Above 0 the prediction is smoother than the tissue, which any smoothing
    does: read it beside the bias of real-only training. Genes that are NaN on either side are left out.

    Raises
    ------
    ValueError
        If the numbers of genes differ.

    Examples
    --------
    >>> import c2lst as c2l
    >>> agreement = c2l.metrics.moran_agreement([0.5, 0.4, 0.3, float("nan")], [0.3, 0.2, 0.1, 0.9])
    >>> round(agreement["corr"], 2), round(agreement["bias"], 2)
    (1.0, 0.2)
    """
    p, m = np.asarray(predicted_i, dtype=np.float64), np.asarray(measured_i, dtype=np.float64)
    if p.ndim != 1 or p.shape != m.shape:
        raise ValueError(f"predicted_i and measured_i must both be (n_genes,), not {p.shape} and {m.shape}.")
    both = np.isfinite(p) & np.isfinite(m)
    p, m = p[both], m[both]
    spread = len(p) > 2 and np.ptp(p) > 0 and np.ptp(m) > 0
    corr = np.corrcoef(p, m)[0, 1] if spread else np.nan
    return {"corr": float(corr), "bias": float((p - m).mean()) if len(p) else float("nan")}
