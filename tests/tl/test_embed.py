from __future__ import annotations

import numpy as np
import pytest

import c2lst as c2l


def test_rgb_is_the_baseline(table, snapshot, changed):
    before = snapshot(table)
    assert c2l.tl.embed(table, encoder="rgb") is None
    np.testing.assert_allclose(table.obsm["X_c2lst"], c2l.metrics.rgb_stats(table.obsm["patches"]), rtol=1e-6)
    assert table.obsm["X_c2lst"].dtype == np.float32
    here = changed(before, table)
    assert {k for k in here if not k.startswith("uns/c2lst/params/embed/")} == {"obsm/X_c2lst"}


def test_central_whatever_the_batch(two):
    first, second = two
    c2l.tl.embed(two, central="toy", batch_size=7)
    once = first.obsm["X_c2lst"].copy()
    assert once.shape[0] == 20 and np.isfinite(once).all() and once.std(0).max() > 0
    c2l.tl.embed(first, central="toy", key_added="mine")
    np.testing.assert_allclose(first.obsm["mine"], once, atol=2e-4 * np.abs(once).max())
    assert second.obsm["X_c2lst"].shape == once.shape
    # row by row: the order of the spots is theirs
    turned = first[::-1].copy()
    c2l.tl.embed(turned, central="toy", batch_size=7)
    np.testing.assert_allclose(turned.obsm["X_c2lst"][::-1], once, atol=2e-4 * np.abs(once).max())


def test_noted_model_wins_and_must_be_one(two, local):
    first, second = two
    first.uns["c2lst"]["central"] = local.central.reference
    c2l.tl.embed(first, central="starter")
    second.uns["c2lst"]["central"] = {"name": "nowhere", "hash": "0" * 64}
    with pytest.raises(KeyError, match="'nowhere'.*not to be found"):
        c2l.tl.embed(second)
    with pytest.raises(ValueError, match="different central models"):
        c2l.tl.embed(two)


def test_copy(toy, copied):
    sdata = copied(toy)
    made = c2l.tl.embed(sdata, encoder="rgb", copy=True)
    assert "X_c2lst" in made["table"].obsm and "X_c2lst" not in sdata["table"].obsm


def test_registered_encoder_and_bad_input(table, snapshot, changed):
    c2l.models.register_encoder("test-mean", lambda central: lambda p: p.mean(axis=(1, 2)), licence="none", dim=3)
    c2l.tl.embed(table, encoder="test-mean")
    np.testing.assert_allclose(table.obsm["X_c2lst"], table.obsm["patches"].mean(axis=(1, 2)), rtol=1e-5)
    before = snapshot(table)
    with pytest.raises(KeyError, match="'nothing' is not registered.*register_encoder"):
        c2l.tl.embed(table, encoder="nothing")
    with pytest.raises(KeyError, match="no patches 'other'"):
        c2l.tl.embed(table, patch_key="other")
    assert not changed(before, table)
    table.uns["c2lst"]["patches"]["patches"]["mpp"] = 1.0
    with pytest.raises(ValueError, match="1 um/px.*extract_patches"):
        c2l.tl.embed(table, central="toy")
