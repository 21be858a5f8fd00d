from __future__ import annotations

import anndata as ad
import numpy as np
import pytest
import squidpy as sq

import c2lst as c2l
from c2lst._expression import expression


@pytest.fixture
def scored(coloured):
    train, test = (coloured(49, seed=i, name=n) for i, n in enumerate("ab"))
    predictor = c2l.tl.fit_predictor(train, encoder="rgb")
    c2l.tl.predict(test, predictor)
    return test


def test_numbers_are_those_of_the_metrics(scored, snapshot, changed):
    before = snapshot(scored)
    c2l.tl.score(scored)
    genes = list(scored.obsm["c2lst_predicted"].columns)
    predicted, measured = scored.obsm["c2lst_predicted"].to_numpy(dtype=float), expression(scored, genes)
    var = scored.var.loc[genes]
    np.testing.assert_allclose(var["c2lst_pcc"], c2l.metrics.pearson(predicted, measured))
    np.testing.assert_allclose(var["c2lst_mse"], ((predicted - measured) ** 2).mean(0), rtol=1e-6)
    by_hand = [np.corrcoef(predicted[:, j], measured[:, j])[0, 1] for j in range(len(genes))]
    np.testing.assert_allclose(var["c2lst_pcc"], by_hand, rtol=1e-6)
    light = scored.copy()
    sq.gr.spatial_neighbors(light, coord_type="generic", n_neighs=6)
    links = light.obsp["spatial_connectivities"]
    np.testing.assert_allclose(var["c2lst_moran"], c2l.metrics.morans_i(predicted, links))
    np.testing.assert_allclose(var["c2lst_moran_measured"], c2l.metrics.morans_i(measured, links))
    outside = scored.var.index.difference(genes)
    assert scored.var.loc[outside, ["c2lst_pcc", "c2lst_mse", "c2lst_moran"]].isna().all(axis=None)
    said = scored.uns["c2lst"]["score"]
    assert said["pcc"] == pytest.approx(np.mean(by_hand)) and said["n_spots"] == 49 and said["n_constant"] == 0
    here = {k for k in changed(before, scored) if not k.startswith("uns/c2lst/")}
    assert here == {f"var/c2lst_{k}" for k in ("pcc", "mse", "moran", "moran_measured")}


def test_constant_genes_are_reported(scored):
    scored.X[:, 0] = 0
    scored.obsm["c2lst_predicted"]["G1"] = np.float32(1)
    c2l.tl.score(scored)
    assert np.isnan(scored.var.loc["G0", "c2lst_pcc"]) and scored.var.loc["G1", "c2lst_pcc"] == 0
    assert scored.uns["c2lst"]["score"]["n_constant"] == 1
    assert scored.uns["c2lst"]["score"]["pcc"] == pytest.approx(scored.var["c2lst_pcc"].mean())


def test_spots_without_a_prediction_do_not_count(scored):
    cut = scored[5:].copy()
    c2l.tl.score(cut)
    scored.obsm["c2lst_predicted"].iloc[:5] = np.nan
    c2l.tl.score(scored)
    np.testing.assert_allclose(scored.var["c2lst_pcc"], cut.var["c2lst_pcc"])
    assert scored.uns["c2lst"]["score"]["n_spots"] == 44


def test_never_pooled_over_sections(coloured):
    pair = {n: coloured(49, seed=i, name=n) for i, n in enumerate("ab")}
    whole = ad.concat(pair, label="section", merge="same", uns_merge="first")
    predictor = c2l.tl.fit_predictor(pair, encoder="rgb")
    for data, key in ((pair, None), (whole, "section")):
        c2l.tl.predict(data, predictor, library_key=key)
        c2l.tl.score(data, library_key=key)
    for name, t in pair.items():
        np.testing.assert_allclose(whole.var[f"c2lst_pcc_{name}"], t.var["c2lst_pcc"])
        assert whole.uns["c2lst"]["score"][name]["pcc"] == pytest.approx(t.uns["c2lst"]["score"]["pcc"])


def test_key_added_and_bad_input(scored):
    c2l.tl.score(scored, key_added="mine")
    assert "mine_pcc" in scored.var and "c2lst_pcc" not in scored.var
    with pytest.raises(KeyError, match="no 'other'.*tl.predict"):
        c2l.tl.score(scored, predicted_key="other")
    with pytest.raises(KeyError, match="None of the predicted genes"):
        c2l.tl.score(scored[:, 9:].copy())
    scored.obsm["array"] = np.zeros((49, 9))
    with pytest.raises(TypeError, match="DataFrame"):
        c2l.tl.score(scored, predicted_key="array")
    with pytest.raises(ValueError, match="too few for Moran"):
        c2l.tl.score(scored[:6].copy())
    del scored.obsm["spatial"]
    with pytest.raises(KeyError, match="'spatial'"):
        c2l.tl.score(scored)
