from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import pearsonr

from c2lst.metrics import mse, pearson


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_equals_scipy(dtype):
    rng = np.random.default_rng(0)
    measured = rng.normal(size=(30, 5)).astype(dtype)
    predicted = (measured + rng.normal(size=(30, 5)) + 100).astype(dtype)
    expected = [pearsonr(predicted[:, g].astype(float), measured[:, g].astype(float)).statistic for g in range(5)]
    np.testing.assert_allclose(pearson(predicted, measured), expected, atol=1e-10)


def test_constant_prediction_scores_zero_and_constant_gene_is_nan():
    measured = np.array([[0.0, 1.0, 7.0], [1.0, 2.0, 7.0], [4.0, 3.0, 7.0]])
    predicted = np.array([[2.0, 1.0, 1.0], [2.0, 2.0, 2.0], [2.0, 4.0, 3.0]])
    r = pearson(predicted, measured)
    assert r[0] == 0
    assert 0.9 < r[1] < 1
    assert np.isnan(r[2])


def test_rounding_noise_of_single_precision_is_constant():
    measured = np.random.default_rng(0).normal(size=(50, 1))
    predicted = np.full((50, 1), 1.7, dtype=np.float32)
    predicted[::2] = np.nextafter(predicted[::2], np.float32(2))
    assert pearson(predicted, measured)[0] == 0


def test_small_but_real_spread_is_scored():
    measured = np.random.default_rng(0).normal(size=(50, 1))
    assert pearson(1 + 1e-6 * measured, measured)[0] == pytest.approx(1)


def test_mse():
    rng = np.random.default_rng(0)
    p, m = rng.normal(size=(2, 20, 3))
    np.testing.assert_allclose(mse(p, m), [np.mean((p[:, g] - m[:, g]) ** 2) for g in range(3)])


@pytest.mark.parametrize("function", [pearson, mse])
def test_errors(function):
    x = np.zeros((4, 2))
    with pytest.raises(ValueError, match=r"\(4, 2\).*\(4, 3\)"):
        function(x, np.zeros((4, 3)))
    bad = x.copy()
    bad[1, 1] = np.nan
    with pytest.raises(ValueError, match="predicted has NaN or infinite values in 1 of 4 rows"):
        function(bad, x)
    with pytest.raises(ValueError, match="one row per observation"):
        function(np.zeros(4), np.zeros(4))
