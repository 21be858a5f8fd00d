from __future__ import annotations

from typing import TYPE_CHECKING

from ._arrays import matched

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray


def mse(predicted: ArrayLike, measured: ArrayLike) -> NDArray[np.float64]:
    """Mean squared error per gene over the spots of one section.

    Parameters
    ----------
    predicted
        `(n_spots, n_genes)`, log1p of counts per 10,000.
    measured
        The same spots and genes.

    Returns
    -------
    `(n_genes,)`, in squared units of the values.

    Raises
    ------
    ValueError
        If shapes differ or values are not finite.

    Examples
    --------
    >>> import c2lst as c2l
    >>> c2l.metrics.mse([[0.0, 1.0], [0.0, 3.0]], [[0.0, 1.0], [2.0, 3.0]])
    array([2., 0.])
    """
    p, m = matched(predicted, measured)
    return ((p - m) ** 2).mean(axis=0)
