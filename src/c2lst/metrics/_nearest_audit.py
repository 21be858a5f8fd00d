from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from c2lst._checks import check_fraction

from ._arrays import nearest, two

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


def nearest_audit(
    synthetic: ArrayLike, train: ArrayLike, holdout: ArrayLike | None = None, *, quantile: float = 0.01
) -> dict[str, Any]:
    """Memorisation audit: are synthetic rows nearer to the training rows than other real rows are?

    Parameters
    ----------
    synthetic
        `(m, ...)` features in one encoder, or pixels; what follows the first axis is flattened.
    train
        `(n, ...)` what the generator was trained on.
    holdout
        Real rows it was not trained on. `None` takes the training rows themselves, each against the others.
    quantile
        Share of real rows that counts as unusually near.

    Returns
    -------
    `synthetic_distance`
        `(m,)` Euclidean distance of each synthetic row to its nearest training row.
    `real_distance`
        The same for the held-out (or left-out) real rows.
    `nearest`
        `(m,)` index into `train` of that nearest row.
    `threshold`
        The `quantile` of `real_distance`.
    `share`
        Share of synthetic rows at or below `threshold`.
    `expected`
        What `share` is in the mean for fresh rows of the held-out distribution: `quantile` only where held-out rows are many,
        `1 / (n + 1)` at least.
    `copies`
        Number of synthetic rows equal to a training row.

    Raises
    ------
    ValueError
        If features differ in number or rows are too few.

    Examples
    --------
    >>> import numpy as np
    >>> import c2lst as c2l
    >>> train, fresh = np.random.default_rng(0).normal(size=(2, 300, 8))
    >>> bool(c2l.metrics.nearest_audit(fresh, train)["share"] < 0.05)
    True
    >>> c2l.metrics.nearest_audit(train[:50], train)["share"]
    1.0
    """
    check_fraction("quantile", quantile)
    s, t = two(synthetic, train, ("synthetic", "train"), at_least=1)
    if holdout is None:
        if len(t) < 2:
            raise ValueError("train has one row and no other to compare it with; pass holdout=.")
        _, real = nearest(t, t, leave_one_out=True)
    else:
        h, _ = two(holdout, train, ("holdout", "train"), at_least=1)
        _, real = nearest(h, t)
    index, distance = nearest(s, t)
    threshold = float(np.quantile(real, quantile))
    return {
        "synthetic_distance": distance,
        "real_distance": real,
        "nearest": index,
        "threshold": threshold,
        "share": float((distance <= threshold).mean()),
        # the threshold lies at the order statistic 1 + (n - 1) quantile of n
        "expected": (1 + (len(real) - 1) * quantile) / (len(real) + 1),
        "copies": int((distance == 0).sum()),
    }
