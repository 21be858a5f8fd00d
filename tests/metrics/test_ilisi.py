from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.spatial.distance import cdist

from c2lst.metrics import ilisi


def plain_ilisi(x, labels, perplexity):
    """Row by row, with a root finder for the bandwidth."""
    d = cdist(x, x)
    out = []
    for i in range(len(x)):
        near = np.argsort(d[i])[1 : 3 * perplexity + 1]

        def weights(log_beta, near=near, i=i):
            w = np.exp(-np.exp(log_beta) * (d[i, near] - d[i, near].min()))
            return w / w.sum()

        def off(log_beta, weights=weights):
            w = weights(log_beta)
            return -(w * np.log(np.maximum(w, 1e-300))).sum() - np.log(perplexity)

        w = weights(brentq(off, -10, 10))
        out.append(1 / sum(w[labels[near] == c].sum() ** 2 for c in set(labels)))
    return np.mean(out)


def test_equals_plain_implementation():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(120, 3))
    labels = np.where(x[:, 0] + rng.normal(size=120) > 0, "a", "b")
    assert ilisi(x, labels, perplexity=8) == pytest.approx(plain_ilisi(x, labels, 8), rel=1e-6)


def test_limits():
    rng = np.random.default_rng(1)
    x, labels = rng.normal(size=(600, 2)), np.repeat([0, 1], 300)
    assert ilisi(x, labels) == pytest.approx(2, abs=0.15)
    assert ilisi(x + 1000 * labels[:, None], labels) == pytest.approx(1)
    assert ilisi(x, np.zeros(600)) == pytest.approx(1)
    assert 2.6 < ilisi(x, np.arange(600) % 3) <= 3


def test_scale_does_not_matter():
    rng = np.random.default_rng(2)
    x, labels = rng.normal(size=(200, 2)), rng.integers(2, size=200)
    assert ilisi(1e4 * x, labels) == pytest.approx(ilisi(x, labels))


def test_few_rows_and_duplicates():
    assert 1 <= ilisi(np.zeros((8, 2)), [0, 1] * 4) <= 2


def test_errors():
    with pytest.raises(ValueError, match=r"shape \(10,\), not \(9,\)"):
        ilisi(np.zeros((10, 2)), np.zeros(9))
