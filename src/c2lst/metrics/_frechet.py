from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ._arrays import two

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


def frechet_distance(x: ArrayLike, y: ArrayLike) -> float:
    r"""Frechet distance of two Gaussians fitted to two sets of features.

    :math:`|\mu_x - \mu_y|^2 + \mathrm{tr}(\Sigma_x + \Sigma_y - 2 (\Sigma_x \Sigma_y)^{1/2})` (Dowson & Landau 1982;
    Heusel et al. 2017), with the unbiased covariances. The trace of the square root is the sum of singular values of
    :math:`A B^T` with :math:`\Sigma_x = A^T A`, :math:`\Sigma_y = B^T B`: no square root of a singular matrix is
    taken, so fewer rows than features are no numerical trouble. They bias the value upwards all the same: read it
    beside a real-vs-real distance at the same number of rows.

    Parameters
    ----------
    x
        `(n, d)` features in one named encoder.
    y
        `(m, d)` features in the same encoder.

    Returns
    -------
    Distance in squared units of the features, at least 0.

    Raises
    ------
    ValueError
        If the features differ in number, or there are fewer than two rows.

    Examples
    --------
    >>> import numpy as np
    >>> import c2lst as c2l
    >>> x = np.random.default_rng(0).normal(size=(100, 4))
    >>> round(c2l.metrics.frechet_distance(x, x + 1), 6)
    4.0
    """
    a, b = two(x, y, ("x", "y"))
    shift = a.mean(axis=0) - b.mean(axis=0)
    a, b = _root(a), _root(b)
    cross = np.linalg.svd(a @ b.T, compute_uv=False).sum()
    return float(max(0.0, shift @ shift + (a**2).sum() + (b**2).sum() - 2 * cross))


def _root(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return A with at most d rows and A^T A the covariance of `x`."""
    a = (x - x.mean(axis=0)) / np.sqrt(len(x) - 1)
    return np.linalg.qr(a, mode="r") if len(a) > a.shape[1] else a
