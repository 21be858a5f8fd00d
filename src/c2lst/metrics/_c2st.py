from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from c2lst._random import derive

from ._arrays import two

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


def c2st(x: ArrayLike, y: ArrayLike, *, seed: int = 0) -> float:
    """Classifier two-sample test (Lopez-Paz & Oquab 2017): can a linear classifier tell `x` from `y`?

    Five-fold cross-validated logistic regression on standardised features; the scaling is fitted inside the fold.
    Both sets weigh the same whatever their numbers of rows.

    Parameters
    ----------
    x
        `(n, d)` features in one named encoder.
    y
        `(m, d)` features in the same encoder.
    seed
        Seed of the folds.

    Returns
    -------
    Balanced accuracy on held-out rows: 0.5 = cannot tell, 1 = always.

    Raises
    ------
    ValueError
        If the features differ in number, or a set has fewer than five rows.

    Examples
    --------
    >>> import numpy as np
    >>> import c2lst as c2l
    >>> x, y = np.random.default_rng(0).normal(size=(2, 200, 4))
    >>> bool(c2l.metrics.c2st(x, y) < 0.6), c2l.metrics.c2st(x, y + 10)
    (True, 1.0)
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import balanced_accuracy_score
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    a, b = two(x, y, ("x", "y"), at_least=5)
    features = np.concatenate([a, b])
    origin = np.repeat([0, 1], [len(a), len(b)])
    model = make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced", max_iter=1000))
    folds = StratifiedKFold(5, shuffle=True, random_state=derive(seed, 2))
    return float(balanced_accuracy_score(origin, cross_val_predict(model, features, origin, cv=folds)))
