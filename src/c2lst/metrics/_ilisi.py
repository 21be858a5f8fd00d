from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from c2lst._checks import check_positive
from c2lst._logging import batches

from ._arrays import rows

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


def ilisi(x: ArrayLike, labels: ArrayLike, *, perplexity: float = 30) -> float:
    """Mean inverse Simpson index of labels among neighbours (iLISI, Korsunsky et al. 2019).

    The neighbours of a row are its `3 * perplexity` nearest other rows, weighted by `exp(-beta * distance)` with
    `beta` set so that the weights have the given perplexity.

    Parameters
    ----------
    x
        `(n, d)` features, real and synthetic rows together.
    labels
        `(n,)` origin of each row, any number of values.
    perplexity
        Effective number of neighbours; at most a third of the other rows is used.

    Returns
    -------
    Mean over rows, from 1 (neighbours are all of one origin) to the number of labels (perfectly mixed, for labels of
    equal frequency).

    Raises
    ------
    ValueError
        If `labels` do not match `x` or rows are too few.

    Examples
    --------
    >>> import numpy as np
    >>> import c2lst as c2l
    >>> x = np.random.default_rng(0).normal(size=(400, 4))
    >>> origin = np.repeat(["real", "synthetic"], 200)
    >>> bool(c2l.metrics.ilisi(x, origin) > 1.8)
    True
    >>> round(c2l.metrics.ilisi(x + 100 * (origin == "real")[:, None], origin), 3)
    1.0
    """
    from sklearn.neighbors import NearestNeighbors

    check_positive("perplexity", perplexity)
    x = rows(x, "x", at_least=4)
    labels = np.asarray(labels)
    if labels.shape != (len(x),):
        raise ValueError(f"labels must have one entry per row of x, shape ({len(x)},), not {labels.shape}.")
    codes = np.unique(labels, return_inverse=True)[1]
    perplexity = min(perplexity, (len(x) - 1) / 3)
    n_neighbors = max(1, int(3 * perplexity))
    # of distances to itself a row has none: kneighbors() without argument leaves the row out
    distance, index = NearestNeighbors(n_neighbors=n_neighbors).fit(x).kneighbors()
    scores = np.empty(len(x))
    for at in batches(len(x), 4096):
        weight = _weights(distance[at], perplexity)
        near = codes[index[at]]
        share = np.stack([(weight * (near == c)).sum(axis=1) for c in range(codes.max() + 1)])
        scores[at] = 1 / (share**2).sum(axis=0)
    return float(scores.mean())


def _weights(distance: NDArray[np.float64], perplexity: float, steps: int = 60) -> NDArray[np.float64]:
    """Return rows of `exp(-beta * distance)` that sum to 1 and have entropy `log(perplexity)`, by bisection."""
    d = distance - distance[:, :1]
    scale = d.mean(axis=1, keepdims=True)
    d = np.divide(d, scale, out=np.zeros_like(d), where=scale > 0)
    low, high = np.full((len(d), 1), -20.0), np.full((len(d), 1), 20.0)  # of log(beta)
    for _ in range(steps):
        middle = (low + high) / 2
        w = np.exp(-np.exp(middle) * d)
        w /= w.sum(axis=1, keepdims=True)
        entropy = -(w * np.log(np.maximum(w, 1e-300))).sum(axis=1, keepdims=True)
        wide = entropy > np.log(perplexity)
        low, high = np.where(wide, middle, low), np.where(wide, high, middle)
    return w
