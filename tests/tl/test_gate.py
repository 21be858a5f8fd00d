from __future__ import annotations

import logging

import anndata as ad
import numpy as np
import pytest

import c2lst as c2l
from c2lst._expression import expression
from c2lst.tl._gate import agreement, best, check_judge


@pytest.fixture
def train(coloured):
    return coloured(64, seed=0, name="a")


@pytest.fixture
def judge(train):
    return c2l.tl.fit_predictor(train, encoder="rgb")


@pytest.fixture
def pairs(coloured, as_synthetic, train):
    """Forty honest pairs of the section the judge saw, then forty whose patch is that of another."""
    table = coloured(64, seed=0, name="a")[:40].copy()
    made = as_synthetic(table)
    wrong = made.copy()
    wrong.obsm["patches"] = wrong.obsm["patches"][np.random.default_rng(0).permutation(40)]
    wrong.obs_names = [f"wrong_{i}" for i in range(40)]
    both = ad.concat([made, wrong], uns_merge="same")
    both.uns["c2lst"] = dict(made.uns["c2lst"])
    genes = list(both.var_names)
    both.var["c2lst_mean"] = expression(train, genes).mean(0)
    both.uns["c2lst"]["local"] = {"sections": ["a"], "n_spots": 64, "subset": "all spots"}
    return both


def test_wrong_pairs_are_dropped(pairs, judge, snapshot, changed):
    before = snapshot(pairs)
    kept = c2l.tl.gate(pairs, judge, keep=0.5)
    wrong = pairs.obs_names.str.startswith("wrong")
    assert kept.n_obs == 40 and kept.obs_names.str.startswith("wrong").mean() < 0.2
    assert pairs.obs["c2lst_agreement"][~wrong].median() > 0.8 > 0.5 > abs(pairs.obs["c2lst_agreement"][wrong].median())
    assert pairs.obs["c2lst_rank"][~wrong].mean() > 0.85 and abs(pairs.obs["c2lst_rank"][wrong].mean() - 0.5) < 0.15
    # nothing is dropped in silence: every spot stays in what was given, with what was said of it
    assert pairs.n_obs == 80 and pairs.obs["c2lst_kept"].sum() == 40
    assert list(kept.obs_names) == list(pairs.obs_names[pairs.obs["c2lst_kept"]])
    said = pairs.uns["gate"]
    assert (said["n"], said["n_kept"], said["share_dropped"]) == (80, 40, 0.5)
    assert said["share_dropped_by_section"] == {"a": 0.5} and said["genes"] == 9 and said["centre"] == "real spots"
    assert (
        said["threshold"]
        == kept.obs["c2lst_agreement"].min()
        >= pairs.obs["c2lst_agreement"][~pairs.obs["c2lst_kept"]].max()
    )
    assert abs(said["agreement_chance"]) < 0.15 < said["agreement"] < said["agreement_kept"]
    assert said["judge"] == {"kind": "ridge", "encoder": "rgb", "sections": ["a"], "n_spots": 64, "subset": "all spots"}
    assert said["checked"] == ["sections", "number of spots", "subset"]
    assert kept.uns["gate"] == said and kept.uns["c2lst"]["params"]["gate"]["keep"] == 0.5
    written = {"obs/c2lst_agreement", "obs/c2lst_rank", "obs/c2lst_kept"}
    new = {k for k in changed(before, pairs) if not k.startswith(("uns/gate", "uns/c2lst/params/gate"))}
    assert new - {"uns/c2lst/c2lst_version", "uns/c2lst/schema_version"} == written


def test_threshold_and_keep_all(pairs, judge, tmp_path):
    at_half = c2l.tl.gate(pairs, judge, threshold=0.5)
    assert (at_half.obs["c2lst_agreement"] >= 0.5).all() and (
        pairs.obs["c2lst_agreement"] >= 0.5
    ).sum() == at_half.n_obs
    whole = c2l.tl.gate(pairs, judge, keep=1.0)
    assert whole.n_obs == 80 and whole.uns["gate"]["share_dropped"] == 0
    at_half.write_h5ad(tmp_path / "kept.h5ad")
    back = ad.read_h5ad(tmp_path / "kept.h5ad")
    assert back.uns["gate"]["n"] == 80 and check_judge(judge.card, back.uns["c2lst"]["local"])
    # what is kept joins the real spots like any synthetic table
    assert (
        c2l.tl.fit_predictor(_train_of(pairs, judge), synthetic=at_half, encoder="rgb").card["n_synthetic"]
        == at_half.n_obs
    )


def _train_of(pairs, judge):
    table = ad.AnnData(np.rint(np.expm1(pairs.X)), obs=pairs.obs[[]], var=pairs.var[[]])
    table.obsm["patches"], table.uns["c2lst"] = pairs.obsm["patches"], {"patches": pairs.uns["c2lst"]["patches"]}
    table.var["c2lst_genes"] = True
    return table


def test_by_hand():
    centre = np.array([1.0, 1.0, 1.0])
    profiles = centre + np.array([[1.0, 0, -1], [-1, 0, 1], [0, 1, -1], [0, 0, 0]])
    predicted = centre + 3 + np.array([[0.2, 0, -0.2], [0.1, 0, -0.1], [0, 0, 0], [1, 2, 3]])
    own, rank, chance = agreement(predicted, profiles, centre)
    # the scale and the offset of a prediction do not count; what says nothing agrees by 0
    np.testing.assert_allclose(own, [1, -1, 0, 0], atol=1e-12)
    # the second patch says what the first profile says: all others agree more with it than its own
    np.testing.assert_allclose(rank, [1, 0, 0.5, rank[3]])
    with np.errstate(invalid="ignore"):  # the third patch says nothing
        full = np.corrcoef(np.vstack([predicted, profiles[:3]]) - centre)
    want = [full[0, 5], full[0, 6], full[1, 4], full[1, 6], full[3, 4], full[3, 5], full[3, 6]]
    assert chance == pytest.approx(sum(want) / 12)
    assert best(np.array([0.3, 0.5, 0.3, 0.1]), 2).tolist() == [True, True, False, False]
    own, rank, chance = agreement(predicted[:1], profiles[:1], centre)
    assert own[0] == pytest.approx(1) and np.isnan(rank[0]) and np.isnan(chance)


def test_what_all_spots_share_does_not_count(pairs, judge):
    rng = np.random.default_rng(0)
    predicted, profiles = rng.normal(size=(2, 30, 8))
    shared = 5 * np.arange(8)  # genes differ far more among themselves than between spots
    bare, moved = (agreement(predicted + s, profiles + s, s) for s in (np.zeros(8), shared))
    for a, b in zip(bare, moved, strict=True):
        np.testing.assert_allclose(a, b)
    assert abs(bare[2]) < 0.1 and np.corrcoef(predicted[0] + shared, profiles[0] + shared)[0, 1] > 0.9
    c2l.tl.gate(pairs, judge, keep=1.0)
    before = pairs.obs["c2lst_agreement"].copy()
    del pairs.var["c2lst_mean"]  # a table that does not say it: the mean of the profiles stands in
    c2l.tl.gate(pairs, judge, keep=1.0)
    assert pairs.uns["gate"]["centre"] == "profiles"
    assert np.corrcoef(before, pairs.obs["c2lst_agreement"])[0, 1] > 0.95


@pytest.mark.parametrize(
    ("judge", "local", "match"),
    [
        ({"n_synthetic": 5}, {}, "fitted with synthetic spots"),
        ({"sections": ["a", "t"]}, {"sections": ["a", "b"]}, r"saw the sections \['t'\], the local model did not.*fit_predictor"),
        ({"n_spots": 50}, {"n_spots": 5, "subset": "c2lst_sampled"}, "saw 50 spots, the local model 5.*c2lst_sampled"),
    ],
)  # fmt: skip
def test_a_judge_that_knows_more_is_refused(judge, local, match):
    with pytest.raises(ValueError, match=match):
        check_judge(judge, local)


def test_a_judge_of_all_spots_is_refused_for_a_local_model_of_some(pairs, judge, snapshot, changed):
    pairs.uns["c2lst"]["local"] = {"sections": ["a"], "n_spots": 8, "subset": "c2lst_sampled"}
    before = snapshot(pairs)
    with pytest.raises(ValueError, match="saw 64 spots, the local model 8"):
        c2l.tl.gate(pairs, judge, keep=0.5)
    assert not changed(before, pairs)


def test_augment_says_what_the_local_model_saw(synthetic, predictor_rgb, toy):
    synthetic = synthetic.copy()
    assert synthetic.uns["c2lst"]["local"] == {"sections": ["toy0"], "n_spots": 32, "subset": "all spots"}
    genes = list(synthetic.var_names)
    np.testing.assert_allclose(synthetic.var["c2lst_mean"], expression(toy["table"], genes).mean(0), rtol=1e-5)
    kept = c2l.tl.gate(synthetic, predictor_rgb, keep=0.75)
    assert kept.n_obs == 9 and kept.uns["gate"]["checked"] == ["sections", "number of spots", "subset"]


def test_what_cannot_be_known_is_said(pairs, judge, caplog):
    del pairs.uns["c2lst"]["local"]
    with caplog.at_level(logging.WARNING, "c2lst"):
        c2l.tl.gate(pairs, judge, keep=0.5)
    assert "not checked" in caplog.text and pairs.uns["gate"]["checked"] == []


def test_bad_input(pairs, judge, train):
    for given in ({}, {"keep": 0.5, "threshold": 0.1}):
        with pytest.raises(ValueError, match="Give one of keep="):
            c2l.tl.gate(pairs, judge, **given)
    with pytest.raises(ValueError, match="keep is a share"):
        c2l.tl.gate(pairs, judge, keep=2)
    with pytest.raises(ValueError, match="threshold= is a correlation"):
        c2l.tl.gate(pairs, judge, threshold=3)
    with pytest.raises(ValueError, match="No synthetic spot agrees.*Lower threshold="):
        c2l.tl.gate(pairs[pairs.obs_names.str.startswith("wrong")].copy(), judge, threshold=1.0)
    with pytest.raises(KeyError, match=r"synthetic\.obs has no column 'c2lst_parent'"):
        c2l.tl.gate(train, judge, keep=0.5)
    few = c2l.tl.fit_predictor(train, encoder="rgb")
    few.genes = ["G0", "G1", *(f"X{i}" for i in range(7))]
    with pytest.raises(KeyError, match="share 2; a correlation over genes needs 3"):
        c2l.tl.gate(pairs, few, keep=0.5)
