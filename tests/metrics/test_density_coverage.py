from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from c2lst.metrics import density_coverage


def test_equals_definition():
    rng = np.random.default_rng(0)
    real, synthetic = rng.normal(size=(40, 3)) + 1e3, rng.normal(size=(25, 3)) * 1.5 + 1e3
    k = 3
    radius = np.sort(cdist(real, real), axis=1)[:, k]
    inside = cdist(real, synthetic) <= radius[:, None]
    density, coverage = density_coverage(real, synthetic, k=k)
    assert density == pytest.approx(inside.sum() / (k * 25))
    assert coverage == pytest.approx(inside.any(axis=1).mean())


def test_same_distribution():
    real, synthetic = np.random.default_rng(1).normal(size=(2, 1500, 4))
    density, coverage = density_coverage(real, synthetic, k=5)
    assert density == pytest.approx(1, abs=0.05)
    assert coverage == pytest.approx(1 - 2**-5, abs=0.02)


def test_collapse_is_dense_but_does_not_cover():
    real = np.random.default_rng(2).normal(size=(300, 2))
    density, coverage = density_coverage(real, np.zeros((300, 2)) + 0.001)
    assert density > 1
    assert coverage < 0.2


def test_far_away():
    real = np.random.default_rng(3).normal(size=(50, 2))
    assert density_coverage(real, real + 100) == (0, 0)


def test_errors():
    with pytest.raises(ValueError, match="k=5 neighbours need at least 6"):
        density_coverage(np.zeros((5, 2)), np.zeros((5, 2)))
