from __future__ import annotations

import numpy as np
import pytest

from c2lst.metrics import c2st


def test_alike_and_apart():
    x, y = np.random.default_rng(0).normal(size=(2, 400, 5))
    assert c2st(x, y) == pytest.approx(0.5, abs=0.06)
    assert c2st(x, y + 20) == 1


def test_known_overlap():
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(4000, 1)), rng.normal(size=(4000, 1)) + 2
    assert c2st(x, y) == pytest.approx(0.8413, abs=0.015)  # Phi(1), Bayes' rule


def test_unequal_numbers_stay_at_one_half():
    x = np.random.default_rng(2).normal(size=(900, 4))
    assert c2st(x[:800], x[800:]) == pytest.approx(0.5, abs=0.08)


def test_held_out_with_more_features_than_rows():
    x, y = np.random.default_rng(3).normal(size=(2, 60, 200))
    assert c2st(x, y) < 0.7  # fitted rows could be told apart perfectly


def test_seed():
    x, y = np.random.default_rng(4).normal(size=(2, 50, 3))
    assert c2st(x, y, seed=3) == c2st(x, y, seed=3)


def test_errors():
    with pytest.raises(ValueError, match="at least 5"):
        c2st(np.zeros((4, 2)), np.zeros((9, 2)))
