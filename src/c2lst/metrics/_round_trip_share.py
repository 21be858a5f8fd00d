from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


def round_trip_share(synthetic_pcc: ArrayLike, real_pcc: ArrayLike) -> float:
    """Mean PCC on synthetic patches as a share of what the same judge reaches on real patches.

    Parameters
    ----------
    synthetic_pcc
        `(n_genes,)` of :func:`pearson`: genes read back from synthetic patches against the profiles that made them.
    real_pcc
        `(n_genes,)`: the same judge on held-out real patches of those spots.

    Returns
    -------
    Ratio of the means over genes that both could score; NaN where the judge's mean on real patches is not above 0.

    Raises
    ------
    ValueError
        If the numbers of genes differ.

    Examples
    --------
    >>> import c2lst as c2l
    >>> c2l.metrics.round_trip_share([0.2, 0.4, 0.9], [0.4, 0.8, float("nan")])
    0.5
    """
    s, r = np.asarray(synthetic_pcc, dtype=np.float64), np.asarray(real_pcc, dtype=np.float64)
    if s.ndim != 1 or s.shape != r.shape:
        raise ValueError(f"synthetic_pcc and real_pcc must both be (n_genes,), not {s.shape} and {r.shape}.")
    both = np.isfinite(s) & np.isfinite(r)
    if not both.any() or not r[both].mean() > 0:
        return float("nan")
    return float(s[both].mean() / r[both].mean())
