from __future__ import annotations

import numpy as np
import pytest
from scipy.linalg import sqrtm

from c2lst.metrics import frechet_distance


@pytest.fixture
def features():
    rng = np.random.default_rng(0)
    return rng.normal(size=(300, 6)) @ rng.normal(size=(6, 6)), rng.normal(size=(200, 6)) @ rng.normal(size=(6, 6)) + 2


def test_equals_textbook_formula(features):
    x, y = features
    a, b = np.cov(x.T), np.cov(y.T)
    shift = x.mean(0) - y.mean(0)
    expected = shift @ shift + np.trace(a + b - 2 * sqrtm(a @ b).real)
    assert frechet_distance(x, y) == pytest.approx(expected, rel=1e-10)
    assert frechet_distance(y, x) == pytest.approx(expected, rel=1e-10)


def test_commuting_covariances():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(400, 3))
    x = np.linalg.qr(x - x.mean(0))[0] * np.sqrt(399)  # covariance is the identity to rounding
    assert frechet_distance(x, 3 * x) == pytest.approx(3 * (3 - 1) ** 2, rel=1e-10)


def test_itself_is_zero_with_fewer_rows_than_features():
    x = np.random.default_rng(2).normal(size=(20, 100))
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(x, x + 1) == pytest.approx(100, rel=1e-9)


def test_rank_deficient_equals_regularised_limit():
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(8, 12)), rng.normal(size=(9, 12))
    eye = 1e-12 * np.eye(12)
    a, b = np.cov(x.T) + eye, np.cov(y.T) + eye
    values, vectors = np.linalg.eigh(a)
    root = vectors * np.sqrt(np.maximum(values, 0)) @ vectors.T
    cross = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ b @ root), 0)).sum()
    shift = x.mean(0) - y.mean(0)
    expected = shift @ shift + np.trace(a) + np.trace(b) - 2 * cross
    assert frechet_distance(x, y) == pytest.approx(expected, rel=1e-5)


def test_rotation_leaves_it(features):
    x, y = features
    q = np.linalg.qr(np.random.default_rng(4).normal(size=(6, 6)))[0]
    assert frechet_distance(x @ q, y @ q) == pytest.approx(frechet_distance(x, y))


def test_errors(features):
    with pytest.raises(ValueError, match="6 features and y has 5"):
        frechet_distance(features[0], features[1][:, :5])
    with pytest.raises(ValueError, match="at least 2"):
        frechet_distance(features[0][:1], features[1])
