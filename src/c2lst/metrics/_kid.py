from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from c2lst._checks import check_positive
from c2lst._random import generator

from ._arrays import BLOCK, two

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


def kid(
    x: ArrayLike, y: ArrayLike, *, n_subsets: int = 50, subset_size: int | None = None, seed: int = 0
) -> tuple[float, float]:
    r"""Kernel distance: unbiased squared maximum mean discrepancy with a cubic polynomial kernel.

    :math:`k(a, b) = (a \cdot b / d + 1)^3` (Binkowski et al. 2018), averaged over random subsets. Being unbiased it
    can be below 0 for two samples of one distribution.

    Parameters
    ----------
    x
        `(n, d)` features in one named encoder.
    y
        `(m, d)` features in the same encoder.
    n_subsets
        Number of subsets.
    subset_size
        Rows in a subset, drawn without replacement from `x` and from `y`. `None` is half of the smaller set, at most
        1,000, so that the spread over subsets says something.
    seed
        Seed of the subsets.

    Returns
    -------
    Mean and standard deviation over the subsets.

    Raises
    ------
    ValueError
        If the features differ in number, or a subset is larger than a set.

    Examples
    --------
    >>> import numpy as np
    >>> import c2lst as c2l
    >>> x, y = np.random.default_rng(0).normal(size=(2, 200, 8))
    >>> alike, _ = c2l.metrics.kid(x, y)
    >>> moved, _ = c2l.metrics.kid(x, y + 1)
    >>> bool(abs(alike) < 0.05 < 1 < moved)
    True
    """
    a, b = two(x, y, ("x", "y"))
    check_positive("n_subsets", n_subsets, integer=True)
    most = min(len(a), len(b))
    size = min(1000, max(2, most // 2)) if subset_size is None else subset_size
    check_positive("subset_size", size, integer=True)
    if not 2 <= size <= most:
        raise ValueError(f"subset_size={size} must be between 2 and {most}, the rows of the smaller set.")
    rng = generator(seed, 1)
    whole = _kernel(np.concatenate([a, b]), np.concatenate([a, b])) if (len(a) + len(b)) ** 2 <= 2 * BLOCK else None
    values = np.empty(n_subsets)
    for i in range(n_subsets):
        p, q = rng.choice(len(a), size, replace=False), rng.choice(len(b), size, replace=False)
        if whole is None:
            values[i] = _mmd2(_kernel(a[p], a[p]), _kernel(b[q], b[q]), _kernel(a[p], b[q]))
        else:  # many subsets of few rows: each pair is computed once
            q = q + len(a)
            values[i] = _mmd2(whole[np.ix_(p, p)], whole[np.ix_(q, q)], whole[np.ix_(p, q)])
    return float(values.mean()), float(values.std(ddof=1)) if n_subsets > 1 else 0.0


def _kernel(u: NDArray[np.float64], v: NDArray[np.float64]) -> NDArray[np.float64]:
    return (u @ v.T / u.shape[1] + 1) ** 3


def _mmd2(aa: NDArray[np.float64], bb: NDArray[np.float64], ab: NDArray[np.float64]) -> float:
    n = len(aa)
    within = (aa.sum() - np.trace(aa) + bb.sum() - np.trace(bb)) / (n * (n - 1))
    return float(within - 2 * ab.mean())
