from __future__ import annotations

import numpy as np
import pytest

import c2lst as c2l
from c2lst._expression import expression


@pytest.fixture(scope="module")
def judge(coloured):
    return c2l.tl.fit_predictor([coloured(49, seed=i, name=n) for i, n in enumerate("cd")], encoder="rgb")


@pytest.fixture
def held(coloured):
    return [coloured(64, seed=i, name=n) for i, n in ((5, "a"), (6, "b"))]


def test_real_patches_reach_the_ceiling(held, judge, as_synthetic, snapshot, changed):
    synth = as_synthetic(held)
    states = [snapshot(t) for t in [*held, synth]]
    c2l.tl.round_trip(synth, judge, real=held)
    found = synth.uns["round_trip"]
    assert found["share"] == pytest.approx(1, abs=1e-6) and found["mean_pcc"] == pytest.approx(found["real_mean_pcc"])
    assert found["mean_pcc"] > 0.5 and abs(found["shuffled_mean_pcc"]) < 0.15
    assert found["genes"] == judge.genes
    # per gene, within sections, then over sections
    by_hand = np.mean(
        [c2l.metrics.pearson(judge.from_patches(t.obsm["patches"]), expression(t, judge.genes)) for t in held], axis=0
    )
    np.testing.assert_allclose(found["pcc"], by_hand, atol=1e-6)
    assert not changed(states[0], held[0]) and not changed(states[1], held[1])
    assert {k.split("/")[1] for k in changed(states[2], synth)} == {"round_trip"}


def test_patches_of_other_spots_say_nothing(held, judge, as_synthetic):
    rng = np.random.default_rng(0)
    synth = as_synthetic(held, patches=np.concatenate([t.obsm["patches"][rng.permutation(64)] for t in held]))
    c2l.tl.round_trip(synth, judge, real=held, key_added="mine")
    assert abs(synth.uns["mine"]["share"]) < 0.25
    assert "round_trip" not in synth.uns


def test_stain_alone_says_nothing(held, judge, as_synthetic):
    """A section's mean colour agrees with its mean profile, its spots do not: pooled it would correlate."""
    flat = [np.full_like(t.obsm["patches"], level) for t, level in zip(held, (90, 160), strict=True)]
    synth = as_synthetic(held, patches=np.concatenate(flat))
    c2l.tl.round_trip(synth, judge)
    np.testing.assert_array_equal(synth.uns["round_trip"]["pcc"], 0)


def test_without_real_patches_there_is_no_share(held, judge, as_synthetic):
    synth = as_synthetic(held)
    c2l.tl.round_trip(synth, judge)
    assert "share" not in synth.uns["round_trip"]
    first = synth.uns["round_trip"]["shuffled_pcc"]
    c2l.tl.round_trip(synth, judge)
    np.testing.assert_array_equal(synth.uns["round_trip"]["shuffled_pcc"], first)


def test_bad_input(held, judge, as_synthetic):
    synth = as_synthetic(held)
    party = c2l.tl.fit_predictor(held, synthetic=synth, encoder="rgb")
    with pytest.raises(ValueError, match="cannot judge them.*real spots alone"):
        c2l.tl.round_trip(synth, party)
    with pytest.raises(KeyError, match="None of the predictor's genes"):
        c2l.tl.round_trip(as_synthetic(held, genes=["G10", "G11"]), judge)
    with pytest.raises(KeyError, match="c2lst_parent"):
        c2l.tl.round_trip(held[0], judge)
    synth.uns["c2lst"] = {**synth.uns["c2lst"], "patches": {"patches": {"mpp": 1.0, "patch_px": 16, "store": "none"}}}
    with pytest.raises(ValueError, match="the predictor takes"):
        c2l.tl.round_trip(synth, judge)


def test_real_spots_are_held_against_profiles_of_the_same_kind(held, judge, as_synthetic, caplog):
    from c2lst.tl._augment import _denoised

    synth = as_synthetic(
        held
    )  # real patches that pass for synthetic ones: whatever their profiles, they reach the ceiling
    measured = np.asarray(synth.X)
    synth.X = _denoised(measured, measured, 2)
    c2l.tl.round_trip(synth, judge, real=held)
    assert abs(synth.uns["round_trip"]["share"] - 1) > 0.05  # nothing says that they were kept to components
    synth.uns["c2lst"]["params"] = {"augment": {"n_components": 2, "strategy": "resample"}}
    c2l.tl.round_trip(synth, judge, real=held)
    assert synth.uns["round_trip"]["share"] == pytest.approx(1, abs=0.02)
    synth.var_names = ["other", *synth.var_names[1:]]
    c2l.tl.round_trip(synth, judge, real=held)
    assert "share` is too high" in caplog.text
