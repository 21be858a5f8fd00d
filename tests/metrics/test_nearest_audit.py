from __future__ import annotations

import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from c2lst.metrics import nearest_audit


@pytest.fixture
def real():
    return np.random.default_rng(0).normal(size=(400, 10)) + 1e4  # far from the origin, where distances cancel


def test_equals_sklearn(real):
    train, holdout = real[:300], real[300:]
    synthetic = real[:50] + np.random.default_rng(1).normal(size=(50, 10))
    audit = nearest_audit(synthetic, train, holdout)
    tree = NearestNeighbors(n_neighbors=1, algorithm="kd_tree").fit(train)
    distance, index = tree.kneighbors(synthetic)
    np.testing.assert_allclose(audit["synthetic_distance"], distance[:, 0])
    np.testing.assert_array_equal(audit["nearest"], index[:, 0])
    np.testing.assert_allclose(audit["real_distance"], tree.kneighbors(holdout)[0][:, 0])
    assert audit["threshold"] == pytest.approx(np.quantile(audit["real_distance"], 0.01))


def test_leave_one_out_inside_train(real):
    audit = nearest_audit(real[:10], real)
    expected = NearestNeighbors(n_neighbors=1).fit(real).kneighbors()[0][:, 0]
    np.testing.assert_allclose(audit["real_distance"], expected)


def test_copies_are_found(real):
    train, holdout = real[:300], real[300:]
    audit = nearest_audit(np.concatenate([train[:30], holdout[:70]]), train, holdout)
    assert audit["copies"] == 30
    assert audit["share"] == pytest.approx(0.3, abs=0.02)
    np.testing.assert_array_equal(audit["nearest"][:30], np.arange(30))
    assert (audit["synthetic_distance"][:30] == 0).all()


def test_fresh_rows_score_the_quantile():
    x = np.random.default_rng(2).normal(size=(3, 2000, 4))
    for quantile in (0.01, 0.2):
        assert nearest_audit(*x, quantile=quantile)["share"] == pytest.approx(quantile, abs=0.03)


def test_pixels():
    patches = np.random.default_rng(3).integers(0, 256, (20, 8, 8, 3), dtype=np.uint8)
    audit = nearest_audit(patches[:5], patches)
    assert audit["copies"] == 5
    difference = patches.astype(float).reshape(20, -1)
    expected = np.linalg.norm(difference[0] - difference[1:], axis=1).min()
    assert audit["real_distance"][0] == pytest.approx(expected)


def test_errors(real):
    with pytest.raises(ValueError, match="pass holdout="):
        nearest_audit(real[:3], real[:1])
    with pytest.raises(ValueError, match="quantile is a share"):
        nearest_audit(real[:3], real, quantile=2)
