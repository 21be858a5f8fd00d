"""Ridge regression on features, its penalty chosen by correlation on real spots of sections left out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

ALPHAS = tuple(10.0 ** np.arange(0, 6.5, 0.5))  # 1e0 to 1e6, fixed: the penalty decides the result
N_COMPONENTS = 256
# chosen on her2st C2-C4, one section left out at a time, with real spots alone (benchmarks/results/augmentation)
FLOOR = 0.1
SHRINKAGE = 0.9
TIE = 1e-3  # penalties whose mean PCC differs by no more are level
NEVER = -2  # fold of a row that has no say in the choice of a penalty
RECIPE = 3  # another number where fits change, so that kept runs of before are not mixed with those of after


def scaling(variance: NDArray) -> NDArray:
    """Return what each feature is multiplied by: one over its standard deviation, with a floor.

    A feature that the rows hardly have (a filter that fires on one patch in a hundred) is not blown up: a tenth of the
    mean variance is added to each. Without it a test section in which such a feature is alive decides every
    prediction. The total variance is that of standardised features, so that one grid of penalties serves.
    """
    floor = FLOOR * variance.mean()
    if not floor > 0:
        return np.zeros_like(variance)
    inverse = 1 / np.sqrt(variance + floor)
    return inverse * np.sqrt((variance > 1e-12 * variance.max()).sum() / (variance * inverse**2).sum())


def standardiser(features: NDArray, weight: NDArray) -> tuple[NDArray, NDArray]:
    """Return (mean, rotation): features to standardised principal components of the training rows, 256 at most."""
    w = weight / weight.sum()
    mean = w @ features
    centred = features - mean
    inverse = scaling(w @ centred**2)
    _, s, vt = np.linalg.svd(centred * inverse * np.sqrt(w)[:, None], full_matrices=False)
    keep = min(N_COMPONENTS, int((s > 1e-5 * s[0]).sum()) if len(s) and s[0] > 0 else 0)
    rotation = inverse[:, None] * vt[: max(1, keep)].T
    return mean.astype(np.float32), rotation.astype(np.float32)


def whitener(pool: NDArray, shrinkage: float = SHRINKAGE) -> tuple[NDArray, NDArray]:
    """Return (mean, rotation): features to whitened principal components of the unpaired pool, 256 at most.

    `shrinkage` moves each variance towards their mean (Ledoit & Wolf 2004, at a fixed weight), so that directions
    the pool hardly has are not blown up.
    """
    mean = pool.mean(0)
    variance = pool.var(0)
    inverse = scaling(variance)
    _, s, vt = np.linalg.svd((pool - mean) * inverse, full_matrices=False)
    keep = max(1, min(N_COMPONENTS, int((s > 1e-5 * s[0]).sum()), len(pool) - 1))
    along = s[:keep] ** 2 / len(pool)
    along = (1 - shrinkage) * along + shrinkage * along.mean()
    # as many units of variance as the standardised components have, so that one grid of penalties serves both
    rotation = (
        inverse[:, None] * vt[:keep].T / np.sqrt(along) * np.sqrt((variance > 1e-12 * variance.max()).sum() / keep)
    )
    return mean.astype(np.float32), rotation.astype(np.float32)


def ridge_path(
    x: NDArray, y: NDArray, weight: NDArray, alphas: tuple[float, ...] = ALPHAS
) -> list[tuple[NDArray, NDArray]]:
    """Return (coef, intercept) for each penalty; weighted least squares, the intercept not penalised."""
    w = weight / weight.mean()
    mx, my = w @ x / w.sum(), w @ y / w.sum()
    root = np.sqrt(w)[:, None]
    u, s, vt = np.linalg.svd((x - mx) * root, full_matrices=False)
    uty = u.T @ ((y - my) * root)
    out = []
    for alpha in alphas:
        coef = vt.T @ ((s / (s**2 + alpha))[:, None] * uty)
        out.append((coef, my - mx @ coef))
    return out


def folds(groups: NDArray, positions: NDArray | None, n_folds: int = 4) -> NDArray[np.int64]:
    """Return the fold of each real spot: its section, or a spatial block where there is one section alone.

    Spots without a place are a block of their own.
    """
    names, fold = np.unique(groups, return_inverse=True)
    if len(names) > 1 or positions is None or len(groups) < 2 * n_folds:
        if len(names) == 1:
            fold = np.arange(len(groups)) % min(n_folds, len(groups))
        return fold
    from scipy.cluster.vq import kmeans2

    placed = np.isfinite(positions).all(axis=1)
    if placed.sum() < 2 * n_folds:
        return np.arange(len(groups)) % n_folds
    at = positions[placed].astype(float)
    start = at[np.linspace(0, len(at) - 1, n_folds).round().astype(int)]
    fold = np.full(len(groups), n_folds)
    fold[placed] = kmeans2(at, start, minit="matrix", iter=20)[1]
    return np.unique(fold, return_inverse=True)[1]


def choose_alpha(
    x: NDArray,
    y: NDArray,
    weight: NDArray,
    real: NDArray[np.bool_],
    fold: NDArray[np.int64],
    alphas: tuple[float, ...] = ALPHAS,
    without: dict[int, NDArray] | None = None,
    second: NDArray[np.int64] | None = None,
) -> tuple[float, list[float]]:
    """Return the penalty with the best mean PCC per gene on real spots of folds left out, and the whole curve.

    `fold` has an entry a row; synthetic rows carry the fold of their parent and leave with it (-1 stays, `NEVER` is left out
    of every fit here). `without` gives the labels of all rows as they are when a fold has no say in them: labels that a
    predictor wrote know the spots it was fitted on. `second` is the fold of the spot that was mixed in: a row leaves with either.
    """
    from c2lst.metrics import pearson

    if len(alphas) == 1:
        return float(alphas[0]), []
    names = np.unique(fold[real])
    scores = np.zeros((len(names), len(alphas)))
    used = 0
    for i, name in enumerate(names):
        out = fold == name
        test = out & real
        train = ~out & (fold != NEVER)
        if second is not None:
            train &= (second != name) & (second != NEVER)
        known = y if without is None else without[int(name)]
        if test.sum() < 3 or (train & real).sum() < 2:
            continue
        used += 1
        for j, (coef, intercept) in enumerate(ridge_path(x[train], known[train], weight[train], alphas)):
            scores[i, j] = np.nanmean(np.nan_to_num(pearson(x[test] @ coef + intercept, y[test])))
    if not used:
        return 1e3, []
    curve = scores.sum(0) / used
    # a correlation does not see how far predictions are shrunk: of penalties that are level, the smallest
    return float(alphas[int(np.argmax(curve >= curve.max() - TIE))]), [round(float(v), 4) for v in curve]


def fit_ridge(
    features: NDArray,
    target: NDArray,
    weight: NDArray,
    real: NDArray[np.bool_],
    fold: NDArray[np.int64],
    *,
    pool: NDArray | None = None,
    alphas: tuple[float, ...] = ALPHAS,
    without: dict[int, NDArray] | None = None,
    second: NDArray[np.int64] | None = None,
) -> tuple[dict[str, NDArray], dict]:
    """Fit the recipe; `pool` (features of unpaired patches) whitens. Returns the arrays and what was chosen.

    A gene whose target is NaN for some rows (synthetic ones that do not carry it) is fitted on the others.
    """
    mean, rotation = standardiser(features, weight) if pool is None else whitener(pool)
    x = ((features - mean) @ rotation).astype(np.float64)
    known = np.isfinite(target)
    whole = known.all(0)
    coef = np.zeros((x.shape[1], target.shape[1]))
    intercept = np.zeros(target.shape[1])
    chosen = {}
    for part, rows in ((whole, np.ones(len(x), dtype=bool)), (~whole, known.all(1) | real)):
        if not part.any():
            continue
        y = target[rows][:, part].astype(np.float64)
        held = None if without is None else {k: v[rows][:, part].astype(np.float64) for k, v in without.items()}
        mixed = None if second is None else second[rows]
        alpha, curve = choose_alpha(x[rows], y, weight[rows], real[rows], fold[rows], alphas, held, mixed)
        (fitted,) = ridge_path(x[rows], y, weight[rows], (alpha,))
        coef[:, part], intercept[part] = fitted
        chosen.setdefault("alpha", alpha)
        chosen.setdefault("alpha_curve", curve)
    arrays = {
        "mean": mean,
        "rotation": rotation,
        "coef": coef.astype(np.float32),
        "intercept": intercept.astype(np.float32),
    }
    return arrays, chosen


def ridge_predict(arrays: dict[str, NDArray], features: NDArray) -> NDArray[np.float32]:
    """Apply what :func:`fit_ridge` returns to features `(n, d)`."""
    z = (features - arrays["mean"]) @ arrays["rotation"]
    return (z @ arrays["coef"] + arrays["intercept"]).astype(np.float32)


def fit_trust(features: NDArray) -> dict[str, NDArray]:
    """Return what :meth:`c2lst.models.Predictor.distance` needs: mean, main directions and limits of the training tissue.

    Two distances are limited: within the main directions of the training patches (Mahalanobis), and off them.
    """
    n = len(features)
    mean, scale = features.mean(0), features.std(0)
    inverse = np.where(scale > 1e-6, 1 / np.maximum(scale, 1e-6), 0)
    z = (features - mean) * inverse
    _, s, vt = np.linalg.svd(z, full_matrices=False)
    keep = max(1, min(20, n // 5, int((s > 1e-6).sum())))
    arrays = {
        "trust_mean": mean,
        "trust_inverse": inverse,
        "trust_basis": vt[:keep].T,
        "trust_sd": np.maximum(s[:keep] / np.sqrt(n), 1e-6),
    }
    arrays = {k: np.ascontiguousarray(v, dtype=np.float32) for k, v in arrays.items()}
    # few spots say little of their own extremes: the limits are the 99th percentile and half of it again; what lies off
    # directions fitted to these very patches is smaller on them than on others: twice
    within, off = trust_distances(features, arrays)
    limits = [1.5 * np.quantile(within, 0.99), 2 * np.quantile(off, 0.99)]
    return arrays | {"trust_limit": np.maximum(limits, 1e-6).astype(np.float32)}


def trust_distances(features: NDArray, arrays: dict[str, NDArray]) -> tuple[NDArray, NDArray]:
    """Return the distance of features to the training tissue within its main directions, and off them: `(n,)` each."""
    z = (features - arrays["trust_mean"]) * arrays["trust_inverse"]
    along = z @ arrays["trust_basis"]
    off = z - along @ arrays["trust_basis"].T
    return np.sqrt(((along / arrays["trust_sd"]) ** 2).mean(1)), np.sqrt((off**2).mean(1))
