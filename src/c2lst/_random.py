"""Seeds. One generator per observation, so that no result depends on batch size, worker or device count."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray


def generator(seed: int, *stream: int) -> np.random.Generator:
    """Return an independent generator for `seed` and the named `stream` of integers."""
    return np.random.default_rng(np.random.SeedSequence([int(seed), *(int(s) for s in stream)]))


def noise(seed: int, index: Iterable[int], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Standard normal noise, `(len(index), *shape)`; row `i` depends on `seed` and `index[i]` alone."""
    return np.stack([generator(seed, 7, i).standard_normal(shape, dtype=np.float32) for i in index])


def derive(seed: int, *stream: int) -> int:
    """Return a seed of 31 bits for code that takes an integer (torch, scikit-learn)."""
    return int(generator(seed, *stream).integers(2**31 - 1))


def nested_sample(seed: int, n: int, fraction: float) -> NDArray[np.bool_]:
    """Draw `fraction` of `n` at random; a larger fraction of the same seed contains a smaller one.

    At least one is drawn (if there is one).
    """
    order = generator(seed, 11).permutation(n)
    keep = np.zeros(n, dtype=bool)
    keep[order[: max(min(1, n), round(fraction * n))]] = True
    return keep
