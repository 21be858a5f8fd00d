from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler

from c2lst.models._ridge import (
    ALPHAS,
    NEVER,
    choose_alpha,
    fit_ridge,
    fit_trust,
    folds,
    ridge_path,
    scaling,
    standardiser,
    trust_distances,
    whitener,
)


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 6)) * [1, 2, 3, 4, 5, 0] + 1
    y = x @ rng.normal(size=(6, 3)) + rng.normal(size=(40, 3))
    return x, y


def test_weighted_ridge_is_that_of_sklearn(data):
    x, y = data
    weight = np.random.default_rng(1).random(40) + 0.1
    for alpha, (coef, intercept) in zip((0.5, 20.0), ridge_path(x, y, weight, (0.5, 20.0)), strict=True):
        theirs = Ridge(alpha).fit(x, y, sample_weight=weight / weight.mean())
        np.testing.assert_allclose(coef.T, theirs.coef_, rtol=1e-6, atol=1e-9)
        np.testing.assert_allclose(intercept, theirs.intercept_, rtol=1e-6)


def test_a_weight_of_two_is_the_row_twice(data):
    x, y = data
    weight = np.ones(40)
    weight[:10] = 2
    ((a, b),) = ridge_path(x, y, weight, (5.0,))
    twice = np.concatenate([x, x[:10]]), np.concatenate([y, y[:10]])
    # weights are scaled to a mean of 1, and the penalty with them
    ((c, d),) = ridge_path(*twice, np.ones(50), (5.0 * 50 / 40,))
    np.testing.assert_allclose(a, c, rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(b, d, rtol=1e-6)


def test_standardiser_is_a_rotation_of_z_scores():
    # of features of one variance; a constant one is left out
    x = StandardScaler().fit_transform(np.random.default_rng(0).normal(size=(40, 5))) * 3 + 1
    mean, rotation = standardiser(np.c_[x, np.ones(40)], np.ones(40))
    ours = (np.c_[x, np.ones(40)] - mean) @ rotation
    z = (x - 1) / 3
    np.testing.assert_allclose(ours @ ours.T, z @ z.T, atol=1e-3)


def test_a_feature_that_the_rows_hardly_have_is_not_blown_up():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 5)) * [1, 2, 1, 2, 1e-3]
    for mean, rotation in (standardiser(x, np.ones(60)), whitener(x, shrinkage=1.0)):
        z = (x - mean) @ rotation
        # all but the last keep roughly their weight, and the whole has the variance of z-scores
        np.testing.assert_allclose(z.var(0).sum(), 5, rtol=1e-3)
        alive = x.copy()
        alive[:, 4] = rng.normal(size=60)  # a section where the filter fires
        moved = np.abs((alive - mean) @ rotation - z).max()
        assert moved < 15  # three standard deviations of a common feature, not thousands


@given(scale=st.floats(1e-3, 1e3), seed=st.integers(0, 99))
def test_scaling_of_all_features_together_changes_nothing(scale, seed):
    variance = np.random.default_rng(seed).gamma(1, size=8)
    np.testing.assert_allclose(scaling(variance * scale**2) * scale, scaling(variance), rtol=1e-6)
    assert ((scaling(variance) ** 2 * variance).sum() - 8) < 1e-6


def test_whitener_gives_unit_variance_on_its_pool_up_to_shrinkage(data):
    x, _ = data
    mean, rotation = whitener(x, shrinkage=0.0)
    out = (x - mean) @ rotation
    np.testing.assert_allclose(np.cov(out.T, bias=True), np.eye(out.shape[1]) * 5 / out.shape[1], atol=1e-3)
    shrunk = (x - mean) @ whitener(x, shrinkage=0.5)[1]
    assert shrunk.std(0).max() > shrunk.std(0).min() * 1.05


def test_folds_are_sections_or_blocks():
    assert len(set(folds(np.array(["a", "a", "b", "c"]), None))) == 3
    grid = np.stack(np.meshgrid(np.arange(6), np.arange(6)), -1).reshape(-1, 2)
    fold = folds(np.repeat("a", 36), grid)
    assert set(fold) == {0, 1, 2, 3}
    # blocks hold together: most neighbours share a fold
    near = np.abs(grid[:, None] - grid[None]).sum(-1) == 1
    assert (fold[:, None] == fold[None])[near].mean() > 0.6
    np.testing.assert_array_equal(folds(np.repeat("a", 3), grid[:3]), [0, 1, 2])
    lost = grid.astype(float)
    lost[[4, 9]] = np.nan  # without a place: a fold of their own
    fold = folds(np.repeat("a", 36), lost)
    assert fold[4] == fold[9]
    assert (fold == fold[4]).sum() == 2
    assert len(set(fold)) == 5


def test_penalty_is_chosen_on_real_rows_alone(data):
    x, y = data
    fold = np.arange(40) % 4
    real = np.ones(40, dtype=bool)
    alpha, curve = choose_alpha(x, y, np.ones(40), real, fold)
    assert alpha in ALPHAS
    assert len(curve) == len(ALPHAS)
    # synthetic rows of the same fold leave with it: garbage there is never scored
    garbage = np.concatenate([x, x]), np.concatenate([y, -y])
    half = np.arange(80) < 40
    # (weights have a mean of 1: with as many rows that weigh nothing, twice the penalty is the same penalty)
    twice = tuple(2 * a for a in ALPHAS)
    both = choose_alpha(*garbage, np.where(half, 1, 1e-9), half, np.tile(fold, 2), twice)
    np.testing.assert_allclose(both[1], curve, atol=2e-4)
    # of one weight, and not of the folds that are scored, they do harm
    harm = choose_alpha(*garbage, np.ones(80), half, np.concatenate([fold, np.full(40, -1)]))
    assert max(harm[1]) < 0.9 * max(curve)


def test_a_strong_signal_takes_a_small_penalty_and_noise_a_large_one():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(28, 20))
    fold, real, weight = np.arange(28) % 4, np.ones(28, bool), np.ones(28)
    clear = choose_alpha(x, x[:, :3], weight, real, fold)[0]
    noisy = choose_alpha(x, x @ np.ones((20, 5)) + 4 * rng.normal(size=(28, 5)), weight, real, fold)[0]
    assert clear == 1.0
    assert noisy > clear


def test_genes_unknown_to_some_rows_are_fitted_on_the_others(data):
    x, y = data
    x = x.astype(np.float32)
    target = y.astype(np.float32).copy()
    target[30:, 2] = np.nan
    real = np.arange(40) < 30
    arrays, chosen = fit_ridge(x, target, np.ones(40), real, np.arange(40) % 4)
    assert np.isfinite(arrays["coef"]).all()
    assert chosen["alpha"] in ALPHAS
    alone, _ = fit_ridge(x, target[:, :2], np.ones(40), real, np.arange(40) % 4)
    np.testing.assert_allclose(arrays["coef"][:, :2], alone["coef"], rtol=1e-5, atol=1e-6)


def test_trust_flags_what_lies_far_away():
    x = np.random.default_rng(3).normal(size=(60, 30)).astype(np.float32)
    trust = fit_trust(x)

    def distance(features):
        return np.stack(
            [d / limit for d, limit in zip(trust_distances(features, trust), trust["trust_limit"], strict=True)]
        )

    assert (distance(x).max(0) <= 1).mean() > 0.97
    assert (distance(x + 100).max(0) > 1).all()
    # off the main directions: within them nothing is unusual
    basis = trust["trust_basis"]
    odd = np.random.default_rng(0).normal(size=(1, x.shape[1])).astype(np.float32)
    odd = 50 * (odd - odd @ basis @ basis.T) / np.maximum(trust["trust_inverse"], 1e-6)
    within, off = distance(x[:1] + odd)
    assert within[0] < 1.5 and off[0] > 1


def test_mixed_rows_leave_with_either_parent():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(60, 300)), rng.normal(size=(60, 5))  # labels of noise
    group = np.repeat([0, 1, 2], 20)
    parent, partner = rng.integers(60, size=(2, 400))
    share = rng.uniform(0, 0.5, (400, 1))
    both = [np.concatenate([v, (1 - share) * v[parent] + share * v[partner]]) for v in (x, y)]
    weight, real = np.r_[np.ones(60), np.full(400, 1.5)], np.arange(460) < 60
    fold, second = np.r_[group, group[parent]], np.r_[group, group[partner]]
    _, leaked = choose_alpha(*both, weight, real, fold)
    _, honest = choose_alpha(*both, weight, real, fold, second=second)
    assert max(leaked) > max(honest) + 0.2
    assert abs(honest[-1]) < 0.3
    # what never has a say is in no fit
    never = np.where(np.arange(460) < 60, fold, NEVER)
    assert choose_alpha(*both, weight, real, never)[1] == choose_alpha(x, y, weight[:60], real[:60], group)[1]
