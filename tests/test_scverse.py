"""One walk through everything that users of scanpy, squidpy and spatialdata do with what c2lst returns."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import spatialdata

import c2lst as c2l

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def walked(toy, local, copied, predictor_rgb):
    """A section, synthetic spots, tiles and swept spots, with every result written on them."""
    sdata = copied(toy)
    table = sdata["table"]
    synth = c2l.tl.augment(sdata, local, n_obs=16, sampler_steps=2, progress=False)
    table.uns["c2lst"]["central"] = local.central.reference
    c2l.tl.embed(sdata)
    c2l.tl.embed(synth)
    c2l.tl.predict(sdata, predictor_rgb)
    c2l.tl.score(sdata)
    c2l.tl.spatial_coherence(sdata)
    c2l.tl.embedding_overlap(sdata, synth, umap=False)
    c2l.tl.composition(sdata, synth)
    c2l.tl.round_trip(synth, predictor_rgb, real=sdata)
    c2l.tl.memorization(sdata, synth)
    tiles = c2l.pp.tile(sdata, mpp=2.0, patch_px=64)
    c2l.tl.predict(tiles, predictor_rgb)
    base = np.asarray(synth.X).mean(0)
    swept = c2l.tl.gene_sweep(local, local.genes[0], values=[0, 3], base=base, n=2, sampler_steps=2, progress=False)
    return sdata, synth, tiles, swept


@pytest.fixture(autouse=True)
def _close():
    yield
    import matplotlib.pyplot as plt

    plt.close("all")


def alike(a, b, path=""):
    """Raise unless two entries of `uns` say the same, after a file has turned lists to arrays."""
    if isinstance(a, dict):
        assert set(a) == set(b), path
        for key in a:
            alike(a[key], b[key], f"{path}/{key}")
    elif isinstance(a, str):
        assert a == str(b), path
    else:
        a, b = np.asarray(a), np.asarray(b)
        if a.dtype.kind in "fiub":
            np.testing.assert_array_equal(a, b, err_msg=path)
        else:
            assert [str(v) for v in a.ravel()] == [str(v) for v in b.ravel()], path  # strings of whatever dtype


def equal(a: ad.AnnData, b: ad.AnnData) -> None:
    assert list(a.obs_names) == list(b.obs_names) and list(a.var_names) == list(b.var_names)
    if a.n_vars:
        x, y = (t.X.toarray() if hasattr(t.X, "toarray") else t.X for t in (a, b))
        np.testing.assert_array_equal(x, y)
    assert set(a.obsm) == set(b.obsm) and set(a.obs) == set(b.obs) and set(a.var) == set(b.var)
    for key in a.obsm:
        if isinstance(a.obsm[key], pd.DataFrame):
            pd.testing.assert_frame_equal(a.obsm[key], b.obsm[key], check_names=False)
        else:
            np.testing.assert_array_equal(a.obsm[key], b.obsm[key])
    for key in a.obs:
        assert a.obs[key].astype(str).tolist() == b.obs[key].astype(str).tolist(), key
    alike(dict(a.uns), dict(b.uns))


def test_scanpy_on_real_and_synthetic(walked):
    import scanpy as sc

    sdata, synth, _, _ = walked
    real = sdata["table"][:, synth.var_names].copy()
    both = ad.concat({"real": real, "synthetic": synth}, label="origin", merge="same")
    assert both.shape == (48, 20) and both.obsm["patches"].shape == (48, 64, 64, 3)
    assert both.obs_names.is_unique and both.var["c2lst_genes"].all()
    sc.pp.neighbors(both, use_rep="X_c2lst", n_neighbors=10)
    sc.tl.umap(both)
    ax = sc.pl.umap(both, color="origin", show=False)
    assert both.obsm["X_umap"].shape == (48, 2) and ax is not None
    sc.pp.pca(synth.copy(), n_comps=5)


def test_squidpy_on_a_section(walked):
    import squidpy as sq

    table = walked[0]["table"].copy()
    sq.gr.spatial_neighbors(table, coord_type="generic", n_neighs=6)
    sq.gr.spatial_autocorr(table, mode="moran", genes=list(table.var_names[:4]), n_jobs=1, show_progress_bar=False)
    assert table.uns["moranI"].shape[0] == 4
    sq.pl.spatial_scatter(table, color="c2lst_trust", shape=None)


def test_whole_slide_without_genes(walked):
    import scanpy as sc
    import squidpy as sq

    _, _, tiles, _ = walked
    assert tiles.n_vars == 0 and tiles.obsm["c2lst_predicted"].shape == (tiles.n_obs, 20)
    gene = tiles.obsm["c2lst_predicted"].columns[0]
    tiles = tiles.copy()
    tiles.obs[gene] = tiles.obsm["c2lst_predicted"][gene]
    sq.pl.spatial_scatter(tiles, color=gene, shape="square")
    sq.pl.spatial_scatter(tiles, color="c2lst_trust", shape=None)
    assert sc.pl.embedding(tiles, basis="spatial", color=gene, show=False) is not None
    # predictions as a table of their own, for everything that reads X
    predicted = sc.AnnData(tiles.obsm["c2lst_predicted"], obsm={"spatial": tiles.obsm["spatial"]})
    sq.gr.spatial_neighbors(predicted, coord_type="generic", n_neighs=6)
    sq.gr.spatial_autocorr(predicted, mode="moran", n_jobs=1, show_progress_bar=False)
    assert predicted.uns["moranI"]["I"].notna().any()


@pytest.mark.parametrize("what", ["table", "synthetic", "tiles", "swept"])
@pytest.mark.parametrize("kind", ["h5ad", "zarr"])
def test_files(walked, what, kind, tmp_path):
    sdata, synth, tiles, swept = walked
    table = {"table": sdata["table"], "synthetic": synth, "tiles": tiles, "swept": swept}[what].copy()
    path = tmp_path / f"x.{kind}"
    (table.write_h5ad if kind == "h5ad" else table.write_zarr)(path)
    back = (ad.read_h5ad if kind == "h5ad" else ad.read_zarr)(path)
    equal(table, back)
    # what came back is as good as what went out
    if what == "synthetic":
        assert {"embedding_overlap", "composition", "round_trip", "memorization"} <= set(back.uns)
        c2l.pl.embedding_overlap(back), c2l.pl.composition(back), c2l.pl.round_trip(back), c2l.pl.memorization(back)
        c2l.tl.composition(sdata, back)
        c2l.tl.fit_predictor(sdata, synthetic=back, encoder="rgb")
    elif what == "table":
        assert back.uns["c2lst"]["score"]["n_genes"] == 20
        c2l.pl.spatial_coherence(back)
        c2l.tl.fit_predictor(back, encoder="rgb")
    elif what == "tiles":
        c2l.tl.embed(back, encoder="rgb")
    else:
        c2l.pl.gene_sweep(back)


def test_spatialdata_store(walked, copied, tmp_path):
    sdata = copied(walked[0])
    sdata.write(tmp_path / "s.zarr")
    back = spatialdata.read_zarr(tmp_path / "s.zarr")
    equal(sdata["table"], back["table"])
    assert back.attrs["c2lst_section"] == "toy0"
    c2l.pp.extract_patches(back, mpp=2.0, patch_px=64, key_added="again")
    np.testing.assert_array_equal(back["table"].obsm["again"], sdata["table"].obsm["patches"])


def test_synthetic_spots_as_spatialdata(walked, tmp_path):
    _, synth, _, _ = walked
    mosaic = c2l.io.to_spatialdata(synth)
    mosaic.write(tmp_path / "m.zarr")
    back = spatialdata.read_zarr(tmp_path / "m.zarr")
    table = back["table"]
    assert list(table.obs_names) == list(synth.obs_names)
    del table.obsm["patches"]
    c2l.pp.extract_patches(back, mpp=2.0, patch_px=64)
    np.testing.assert_array_equal(table.obsm["patches"], synth.obsm["patches"])
    alike({k: v for k, v in synth.uns.items() if k != "c2lst"}, {k: table.uns[k] for k in synth.uns if k != "c2lst"})
    assert (table.obs["c2lst_parent"].astype(str) == synth.obs["c2lst_parent"].astype(str)).all()
