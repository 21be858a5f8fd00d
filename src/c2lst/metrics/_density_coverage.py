from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from c2lst._checks import check_positive

from ._arrays import squared_distances, two

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


def density_coverage(real: ArrayLike, synthetic: ArrayLike, *, k: int = 5) -> tuple[float, float]:
    """Density and coverage (Naeem et al. 2020): how synthetic rows lie among the neighbourhoods of real ones.

    The neighbourhood of a real row is the ball that reaches its `k`-th nearest other real row. Density is the number
    of neighbourhoods a synthetic row lies in, over `k`, averaged; it may exceed 1. Coverage is the share of real
    neighbourhoods with a synthetic row inside. Two samples of one distribution give about 1 and, for equal numbers
    of rows, about `1 - 2**-k`.

    Parameters
    ----------
    real
        `(n, d)` features in one named encoder.
    synthetic
        `(m, d)` features in the same encoder.
    k
        Neighbours that set the radius.

    Returns
    -------
    Density and coverage.

    Raises
    ------
    ValueError
        If the features differ in number or `real` has no `k` other rows.

    Examples
    --------
    >>> import numpy as np
    >>> import c2lst as c2l
    >>> x, y = np.random.default_rng(0).normal(size=(2, 500, 4))
    >>> density, coverage = c2l.metrics.density_coverage(x, y)
    >>> bool(0.9 < density < 1.1), bool(0.9 < coverage < 1)
    (True, True)
    """
    check_positive("k", k, integer=True)
    r, s = two(real, synthetic, ("real", "synthetic"), at_least=1)
    if len(r) <= k:
        raise ValueError(f"real has {len(r)} rows; k={k} neighbours need at least {k + 1}.")
    radius = np.empty(len(r))
    for at, d in squared_distances(r, r):
        d[np.arange(len(d)), np.arange(at.start, at.stop)] = np.inf
        radius[at] = np.partition(d, k - 1, axis=1)[:, k - 1]
    inside, covered = 0, np.empty(len(r), dtype=bool)
    for at, d in squared_distances(r, s):
        # open balls (Naeem et al.): a copy of the k-th neighbour lies on the edge; of rows that come k times nothing is left
        edge = radius[at, None]
        hit = np.where(edge > 0, d < edge * (1 - 1e-9), d <= 0)
        inside += int(hit.sum())
        covered[at] = hit.any(axis=1)
    return inside / (k * len(s)), float(covered.mean())
