from __future__ import annotations

import numpy as np
import pytest

import c2lst as c2l


@pytest.fixture
def parts(coloured, as_synthetic):
    whole = coloured(240, noise=10.0)
    rows = np.random.default_rng(0).permutation(240)
    cut = [whole[np.sort(rows[a:b])].copy() for a, b in ((0, 80), (80, 160), (160, 240))]
    return cut[0], cut[1], as_synthetic(cut[2])


@pytest.mark.parametrize("with_holdout", [True, False])
def test_copies_are_found(parts, as_synthetic, with_holdout, snapshot, changed):
    train, holdout, _ = parts
    copies = as_synthetic(train[:30].copy())
    states = snapshot(train), snapshot(copies)
    c2l.tl.memorization(train, copies, holdout=holdout if with_holdout else None, encoder="rgb")
    found = copies.uns["memorization"]
    assert found["share"] == 1 and found["pixel_share"] == 1
    np.testing.assert_allclose(found["nearest_synthetic"], 0, atol=1e-3)
    assert found["nearest_synthetic"].shape == (30,) and found["nearest_real"].shape == (80,)
    assert not changed(states[0], train)
    assert {k.split("/")[1] for k in changed(states[1], copies)} == {"memorization"}


@pytest.mark.parametrize("with_holdout", [True, False])
def test_fresh_ones_are_not(parts, with_holdout):
    train, holdout, fresh = parts
    c2l.tl.memorization(train, fresh, holdout=holdout if with_holdout else None, encoder="rgb", key_added="mine")
    found = fresh.uns["mine"]
    assert (
        found["share"] < 0.1 and found["pixel_share"] < 0.1 and found["expected"] == pytest.approx((1 + 79 * 0.01) / 81)
    )
    assert found["threshold"] == pytest.approx(np.quantile(found["nearest_real"], 0.01))
    assert (found["nearest_synthetic"] <= found["threshold"]).mean() == found["share"]


def test_half_copies_are_counted(parts, as_synthetic):
    train, holdout, fresh = parts
    patches = np.concatenate([train.obsm["patches"][:40], fresh.obsm["patches"][:40]])
    mixed = as_synthetic(train, patches=patches)
    c2l.tl.memorization(train, mixed, holdout=holdout, encoder="rgb")
    assert 0.5 <= mixed.uns["memorization"]["share"] < 0.6


def test_subset_is_what_was_trained_on(parts, as_synthetic):
    train, holdout, _ = parts
    train.obs["few"] = np.arange(80) < 40
    unseen = as_synthetic(train[40:].copy())
    c2l.tl.memorization(train, unseen, subset="few", holdout=holdout, encoder="rgb")
    assert unseen.uns["memorization"]["pixel_share"] < 0.2
    with pytest.raises(ValueError, match="too few for memorization"):
        c2l.tl.memorization(train[:2].copy(), unseen, encoder="rgb")


def test_what_was_trained_on_is_not_held_out(parts, as_synthetic):
    train, holdout, _ = parts
    copies = as_synthetic(train[:30].copy())
    with pytest.raises(ValueError, match="nothing was held out"):
        c2l.tl.memorization(train, copies, holdout=train, encoder="rgb")
    # one table, of which a part was sampled: the natural call
    import anndata as ad

    whole = ad.concat([train, holdout], merge="same", uns_merge="same")
    whole.obs["sampled"] = np.arange(160) < 80
    c2l.tl.memorization(whole, copies, holdout=whole, subset="sampled", encoder="rgb")
    mixed = copies.uns["memorization"]
    c2l.tl.memorization(train, copies, holdout=holdout, encoder="rgb")
    assert mixed["share"] == 1 and mixed["threshold"] == copies.uns["memorization"]["threshold"]


def test_unnamed_sections_with_equal_barcodes_are_two(parts, as_synthetic):
    train, holdout, fresh = parts
    for table in (train, holdout):
        table.obs_names = [f"AAAC{i}-1" for i in range(table.n_obs)]
    copies = as_synthetic(train[:30].copy())
    c2l.tl.memorization({"a": train}, copies, holdout={"b": holdout}, encoder="rgb")
    threshold = copies.uns["memorization"]["threshold"]
    for table in (train, holdout):
        table.uns.pop("c2lst_section")
    c2l.tl.memorization(train, copies, holdout=holdout, encoder="rgb")
    assert copies.uns["memorization"]["threshold"] == threshold
    with pytest.raises(ValueError, match="nothing was held out"):
        c2l.tl.memorization(train, copies, holdout=train, encoder="rgb")
