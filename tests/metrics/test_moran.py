from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import scipy.sparse as sp
import squidpy as sq

from c2lst.metrics import moran_agreement, morans_i


@pytest.fixture
def section():
    rng = np.random.default_rng(0)
    row, col = np.divmod(np.arange(144), 12)
    keep = rng.random(144) > 0.15
    xy = np.c_[col, row][keep].astype(float)
    x = np.c_[xy[:, 0] + rng.normal(size=len(xy)), rng.normal(size=len(xy)), np.sin(xy[:, 1]), np.full(len(xy), 3.0)]
    adata = ad.AnnData(x, obs=pd.DataFrame(index=[f"s{i}" for i in range(len(x))]), obsm={"spatial": xy})
    sq.gr.spatial_neighbors(adata, coord_type="grid", n_neighs=4)
    return adata


def test_equals_scanpy(section):
    graph = section.obsp["spatial_connectivities"]
    expected = sc.metrics.morans_i(graph, section.X[:, :3].T)
    np.testing.assert_allclose(morans_i(section.X, graph)[:3], expected, rtol=1e-10)


def test_equals_squidpy_with_row_normalize(section):
    three = section[:, :3].copy()
    sq.gr.spatial_autocorr(three, mode="moran", n_perms=None)
    expected = three.uns["moranI"]["I"].loc[three.var_names].to_numpy()
    got = morans_i(three.X, three.obsp["spatial_connectivities"], row_normalize=True)
    np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_constant_gene_is_nan_and_offset_does_not_matter(section):
    graph = section.obsp["spatial_connectivities"]
    i = morans_i(section.X, graph)
    assert np.isnan(i[3])
    assert np.isfinite(i[:3]).all()
    np.testing.assert_allclose(morans_i(section.X * 5 + 1e3, graph)[:3], i[:3], rtol=1e-8)


def test_expectation_without_autocorrelation(section):
    noise = np.random.default_rng(1).normal(size=(section.n_obs, 4000))
    i = morans_i(noise, section.obsp["spatial_connectivities"])
    assert i.mean() == pytest.approx(-1 / (section.n_obs - 1), abs=4 * i.std() / np.sqrt(4000))


def test_errors(section):
    graph = section.obsp["spatial_connectivities"]
    with pytest.raises(ValueError, match="graph has shape"):
        morans_i(section.X[:-1], graph)
    with pytest.raises(ValueError, match="no edge"):
        morans_i(section.X, sp.csr_matrix(graph.shape))
    with pytest.raises(TypeError, match="sparse"):
        morans_i(section.X, graph.toarray())


def test_agreement():
    measured = np.array([0.1, 0.3, 0.2, np.nan, 0.5])
    predicted = np.array([0.3, 0.5, 0.4, 0.9, np.nan])
    out = moran_agreement(predicted, measured)
    assert out["corr"] == pytest.approx(1)
    assert out["bias"] == pytest.approx(0.2)


def test_agreement_without_spread():
    assert np.isnan(moran_agreement([0.1, 0.2], [0.3, 0.4])["corr"])
    out = moran_agreement([0.2, 0.2, 0.2], [0.1, 0.2, 0.3])
    assert np.isnan(out["corr"])
    assert out["bias"] == pytest.approx(0, abs=1e-12)
    assert np.isnan(moran_agreement([np.nan], [1.0])["bias"])
    with pytest.raises(ValueError, match="n_genes"):
        moran_agreement([0.1], [0.1, 0.2])
