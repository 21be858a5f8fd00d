from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ._arrays import constant, matched

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


def pearson(predicted: ArrayLike, measured: ArrayLike) -> NDArray[np.float64]:
    """Pearson correlation per gene over the spots of one section.

    Parameters
    ----------
    predicted
        `(n_spots, n_genes)`, log1p of counts per 10,000.
    measured
        The same spots and genes.

    Returns
    -------
    `(n_genes,)`. A constant prediction scores 0; a gene that is constant in the section cannot be scored and is NaN.
    Constant means: no spread beyond the rounding of the array's own type.

    Raises
    ------
    ValueError
        If shapes differ or values are not finite.

    Examples
    --------
    >>> import c2lst as c2l
    >>> measured = [[0.0, 1.0, 5.0], [1.0, 2.0, 5.0], [2.0, 3.0, 5.0]]
    >>> predicted = [[0.0, 1.0, 0.0], [2.0, 1.0, 1.0], [4.0, 1.0, 2.0]]
    >>> c2l.metrics.pearson(predicted, measured).round(2)
    array([ 1.,  0., nan])
    """
    p, m = matched(predicted, measured)
    flat_p, flat_m = constant(p, predicted), constant(m, measured)
    p = p - p.mean(axis=0)
    m = m - m.mean(axis=0)
    norm = np.linalg.norm(p, axis=0) * np.linalg.norm(m, axis=0)
    r = np.divide(np.einsum("ij,ij->j", p, m), norm, out=np.zeros(p.shape[1]), where=norm > 0)
    r[flat_p] = 0
    r[flat_m] = np.nan
    return np.clip(r, -1, 1)
