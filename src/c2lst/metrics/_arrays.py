"""What every metric asks of its arrays, and distances between rows in bounded memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from c2lst._logging import batches

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

BLOCK = 2**24  # entries of one block of distances: 128 MB


def rows(x: Any, name: str, *, at_least: int = 2) -> NDArray[np.float64]:
    """Return `x` as finite float64 `(n, d)`; what follows the first axis is flattened."""
    x = np.asarray(x)
    if x.ndim < 2:
        raise ValueError(f"{name} must have one row per observation, shape (n, d), not {x.shape}.")
    if len(x) < at_least:
        raise ValueError(f"{name} has {len(x)} rows; this measure needs at least {at_least}.")
    x = x.reshape(len(x), -1).astype(np.float64)
    if not np.isfinite(x).all():
        bad = int((~np.isfinite(x)).any(axis=1).sum())
        raise ValueError(f"{name} has NaN or infinite values in {bad} of {len(x)} rows; leave those rows out first.")
    return x


def two(
    x: Any, y: Any, names: tuple[str, str], *, at_least: int = 2
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return two arrays as :func:`rows` does, checked to have the same number of columns."""
    a, b = rows(x, names[0], at_least=at_least), rows(y, names[1], at_least=at_least)
    if a.shape[1] != b.shape[1]:
        raise ValueError(
            f"{names[0]} has {a.shape[1]} features and {names[1]} has {b.shape[1]}; compare features of one encoder."
        )
    return a, b


def matched(predicted: Any, measured: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return two `(n_spots, n_genes)` arrays of one shape."""
    a, b = rows(predicted, "predicted", at_least=1), rows(measured, "measured", at_least=1)
    if np.shape(predicted) != np.shape(measured):
        raise ValueError(
            f"predicted has shape {np.shape(predicted)} and measured {np.shape(measured)}; both must be "
            "(n_spots, n_genes) with the same spots and genes in the same order."
        )
    return a, b


def constant(x: NDArray[np.float64], given: Any) -> NDArray[np.bool_]:
    """Return which columns have no spread beyond the rounding of the type of `given`, the array before conversion."""
    # the same number computed twice in single precision differs in its last bits: that is no signal
    dtype = np.asarray(given).dtype
    eps = np.finfo(dtype if np.issubdtype(dtype, np.floating) else np.float64).eps
    return np.ptp(x, axis=0) <= 8 * eps * np.abs(x).max(axis=0)


def squared_distances(x: NDArray[np.float64], y: NDArray[np.float64]) -> Iterator[tuple[slice, NDArray[np.float64]]]:
    """Yield `(rows of x, squared Euclidean distances to all of y)`, block by block."""
    centre = y.mean(axis=0)  # far from the origin the expansion below would cancel
    x, y = x - centre, y - centre
    norms = np.einsum("ij,ij->i", y, y)
    for at in batches(len(x), max(1, BLOCK // len(y))):
        part = x[at]
        d = np.einsum("ij,ij->i", part, part)[:, None] + norms - 2 * part @ y.T
        yield at, np.maximum(d, 0, out=d)


def nearest(
    x: NDArray[np.float64], y: NDArray[np.float64], *, leave_one_out: bool = False
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the nearest row of `y` to each row of `x`, and its distance (0 for a copy, not rounding error).

    With `leave_one_out`, `x` is `y` and a row is not its own neighbour.
    """
    index = np.empty(len(x), dtype=np.int64)
    for at, d in squared_distances(x, y):
        if leave_one_out:
            d[np.arange(len(d)), np.arange(at.start, at.stop)] = np.inf
        index[at] = d.argmin(axis=1)
    exact = np.empty(len(x))
    for at in batches(len(x), max(1, BLOCK // x.shape[1])):
        exact[at] = np.linalg.norm(x[at] - y[index[at]], axis=1)
    return index, exact
