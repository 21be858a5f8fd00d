from __future__ import annotations

import sys

import numpy as np
import pytest
from sklearn.metrics.pairwise import polynomial_kernel

from c2lst.metrics import kid


def test_equals_a_plain_sum_over_pairs():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(12, 5)), rng.normal(size=(12, 5)) + 0.5
    n = len(x)
    kxx, kyy, kxy = (polynomial_kernel(a, b, degree=3, gamma=1 / 5, coef0=1) for a, b in ((x, x), (y, y), (x, y)))
    expected = 0.0
    for i in range(n):
        for j in range(n):
            expected += (kxx[i, j] + kyy[i, j]) * (i != j) / (n * (n - 1)) - 2 * kxy[i, j] / n**2
    mean, sd = kid(x, y, n_subsets=3, subset_size=n)  # every subset is the whole
    assert mean == pytest.approx(expected)
    assert sd == pytest.approx(0, abs=1e-12)


def test_unbiased():
    rng = np.random.default_rng(0)
    values = [kid(*rng.normal(size=(2, 30, 3)), n_subsets=1, subset_size=30)[0] for _ in range(400)]
    assert abs(np.mean(values)) < 3 * np.std(values) / 20
    assert min(values) < 0


def test_seed_and_shift():
    x, y = np.random.default_rng(0).normal(size=(2, 60, 4))
    assert kid(x, y) == kid(x, y)
    assert kid(x, y) != kid(x, y, seed=1)
    assert kid(x, y + 1)[0] > 10 * abs(kid(x, y)[0])


def test_one_kernel_or_one_per_subset(monkeypatch):
    x, y = np.random.default_rng(0).normal(size=(2, 60, 4))
    whole = kid(x, y + 1)
    monkeypatch.setattr(sys.modules["c2lst.metrics._kid"], "BLOCK", 1)
    assert kid(x, y + 1) == pytest.approx(whole)


def test_errors():
    x = np.zeros((10, 2))
    with pytest.raises(ValueError, match="subset_size=11 must be between 2 and 10"):
        kid(x, x, subset_size=11)
    with pytest.raises(TypeError, match="n_subsets"):
        kid(x, x, n_subsets=2.5)
