from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import c2lst as c2l


@pytest.fixture(scope="module")
def judge(coloured):
    return c2l.tl.fit_predictor([coloured(36, seed=i, name=n) for i, n in enumerate("abc")], encoder="rgb")


def test_a_table_of_the_panel(coloured, judge, snapshot, changed):
    table = coloured(49, seed=7, name="x")
    before = snapshot(table)
    c2l.tl.predict(table, judge)
    frame = table.obsm["c2lst_predicted"]
    assert isinstance(frame, pd.DataFrame) and list(frame.columns) == judge.genes
    assert list(frame.index) == list(table.obs_names) and (frame.dtypes == np.float32).all()
    np.testing.assert_array_equal(frame, judge.from_patches(table.obsm["patches"]))
    assert table.obs["c2lst_trust"].dtype == bool and table.obs["c2lst_trust"].mean() > 0.95
    here = changed(before, table)
    assert {k for k in here if not k.startswith("uns/c2lst/params/predict/")} == {
        "obsm/c2lst_predicted", "obs/c2lst_trust", "uns/c2lst/schema_version", "uns/c2lst/c2lst_version",
    }  # fmt: skip
    # it predicts
    from c2lst._expression import expression

    assert c2l.metrics.pearson(frame.to_numpy(), expression(table, judge.genes)).mean() > 0.5


def test_what_is_unlike_tissue_is_not_trusted(coloured, judge, caplog):
    table = coloured(36, seed=7)
    rng = np.random.default_rng(0)
    table.obsm["patches"][:4] = 255  # glass
    table.obsm["patches"][4:8] = rng.integers(0, 256, (4, 16, 16, 3))  # noise
    table.obsm["patches"][8] = 0  # pen
    c2l.tl.predict(table, judge, key_added="mine")
    trust = table.obs["c2lst_trust"].to_numpy()
    assert not trust[:9].any() and trust[9:].mean() > 0.9
    assert "9 of 36 patches of a are unlike" in caplog.text
    assert "mine" in table.obsm and "c2lst_predicted" not in table.obsm


def test_trust_with_the_features_of_the_central_model(table):
    central = c2l.models.CentralModel.from_pretrained("toy")
    if central.card.get("steps", 0) < 100:
        pytest.skip("placeholder weights")
    predictor = c2l.tl.fit_predictor(table, central=central, progress=False)
    table.obsm["patches"][:3] = 255
    table.obsm["patches"][3:6] = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3))
    c2l.tl.predict(table, predictor, progress=False)
    trust = table.obs["c2lst_trust"].to_numpy()
    assert not trust[:6].any() and trust[6:].mean() > 0.9


def test_cnn_has_a_trust_flag_too(coloured):
    table = coloured(36)
    predictor = c2l.tl.fit_predictor(table, kind="cnn", steps=2, progress=False)
    table.obsm["patches"][0] = 255
    c2l.tl.predict(table, predictor)
    assert not table.obs["c2lst_trust"].iloc[0] and table.obs["c2lst_trust"].iloc[1:].mean() > 0.9


def test_spots_without_a_patch_get_nothing(coloured, judge):
    table = coloured(36, seed=7)
    table.obs["c2lst_valid"] = np.arange(36) >= 2
    c2l.tl.predict(table, judge)
    frame = table.obsm["c2lst_predicted"]
    assert frame.iloc[:2].isna().all(axis=None) and frame.iloc[2:].notna().all(axis=None)
    assert not table.obs["c2lst_trust"].iloc[:2].any()


def test_concatenated_sections(coloured, judge):
    pair = {n: coloured(36, seed=i, name=n) for i, n in ((7, "x"), (8, "y"))}
    whole = ad.concat(pair, label="section", merge="same", uns_merge="first")[::-1].copy()
    c2l.tl.predict(whole, judge, library_key="section")
    c2l.tl.predict(pair, judge)
    for t in pair.values():
        np.testing.assert_array_equal(whole.obsm["c2lst_predicted"].loc[t.obs_names], t.obsm["c2lst_predicted"])
        assert (whole.obs["c2lst_trust"].astype(bool)[t.obs_names] == t.obs["c2lst_trust"]).all()
    assert isinstance(whole.obsm["c2lst_predicted"], pd.DataFrame)
    assert whole.uns["c2lst"]["params"]["predict"]["kind"] == "ridge"


def test_batches_and_stores_do_not_matter(coloured, judge, tmp_path):
    table = coloured(36, seed=7)
    c2l.tl.predict(table, judge, batch_size=5)
    a = table.obsm["c2lst_predicted"].copy()
    c2l.io.write_patches(tmp_path / "p.zarr", table.obsm.pop("patches"), obs_names=list(table.obs_names), mpp=2.0)
    table.uns["c2lst"]["patches"]["patches"]["store"] = str(tmp_path / "p.zarr")
    c2l.tl.predict(table, judge)
    np.testing.assert_allclose(a, table.obsm["c2lst_predicted"], atol=1e-5)


def test_tissue_that_was_not_sequenced(toy, predictor_rgb):
    tiles = c2l.pp.tile(toy, mpp=2.0, patch_px=64)
    assert tiles.n_vars == 0
    c2l.tl.predict(tiles, predictor_rgb)
    assert tiles.obsm["c2lst_predicted"].shape == (tiles.n_obs, 20)
    assert tiles.obs["c2lst_trust"].mean() > 0.5


def test_bad_input(coloured, judge, snapshot, changed):
    table = coloured(36, seed=7, name="x")
    fewer = table[:, 1:].copy()
    before = snapshot(fewer)
    with pytest.raises(KeyError, match="'x' lacks 1 of 9 genes.*'G0'.*check_genes=False"):
        c2l.tl.predict(fewer, judge)
    assert not changed(before, fewer)
    c2l.tl.predict(fewer, judge, check_genes=False)
    assert fewer.obsm["c2lst_predicted"].shape == (36, 9)
    # one bad section: nothing is written to the good one
    bad = coloured(36, seed=8, name="y")
    bad.uns["c2lst"]["patches"]["patches"]["mpp"] = 1.0
    before = snapshot(table)
    with pytest.raises(ValueError, match="1 um/px, the predictor takes 16 px at 2 um/px"):
        c2l.tl.predict([table, bad], judge)
    assert not changed(before, table)
    with pytest.raises(KeyError, match="extract_patches"):
        c2l.tl.predict(table, judge, patch_key="other")
