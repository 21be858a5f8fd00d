from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import squidpy as sq

import c2lst as c2l
from c2lst._expression import expression


@pytest.fixture
def told(coloured):
    """A section whose 'prediction' is the measurement, smoothed over neighbours."""
    table = coloured(64, name="x")
    genes = [f"G{i}" for i in range(9)]
    measured = expression(table, genes)
    light = ad.AnnData(measured.copy(), var=pd.DataFrame(index=genes), obsm={"spatial": table.obsm["spatial"]})
    sq.gr.spatial_neighbors(light, coord_type="generic", n_neighs=6)
    links = light.obsp["spatial_connectivities"]
    smooth = (measured + links @ measured / 6) / 2
    table.obsm["c2lst_predicted"] = pd.DataFrame(smooth, index=table.obs_names, columns=genes)
    return table, light


def test_equals_squidpy_on_the_same_graph(told, snapshot, changed):
    table, light = told
    before = snapshot(table)
    c2l.tl.spatial_coherence(table)
    found = table.uns["spatial_coherence"]
    ours = dict(zip(found["genes"], found["measured"], strict=True))
    theirs_p = light.copy()
    theirs_p.X = table.obsm["c2lst_predicted"].to_numpy()
    for which, adata in (("measured", light), ("predicted", theirs_p)):
        ours = dict(zip(found["genes"], found[which], strict=True))
        # six neighbours each: every row of the graph sums to 6, so normalising its rows changes nothing
        for normalised in (True, False):
            sq.gr.spatial_autocorr(
                adata, mode="moran", transformation=normalised, n_perms=None, n_jobs=1, show_progress_bar=False
            )
            reference = adata.uns["moranI"]["I"]
            np.testing.assert_allclose([ours[g] for g in reference.index], reference, rtol=1e-4, atol=1e-5)
    assert {k.split("/")[1] for k in changed(before, table)} == {"spatial_coherence"}


def test_smoothing_inflates_and_the_bias_says_so(told):
    table, _ = told
    c2l.tl.spatial_coherence(table)
    smooth = table.uns["spatial_coherence"]
    assert smooth["bias"] == pytest.approx(np.mean(smooth["predicted"] - smooth["measured"])) and smooth["bias"] > 0.02
    assert smooth["corr"] == pytest.approx(np.corrcoef(smooth["predicted"], smooth["measured"])[0, 1])
    frame = table.obsm["c2lst_predicted"]
    table.obsm["itself"] = pd.DataFrame(expression(table, list(frame)), index=frame.index, columns=frame.columns)
    c2l.tl.spatial_coherence(table, predicted_key="itself", key_added="mine")
    same = table.uns["mine"]
    assert same["corr"] == pytest.approx(1) and same["bias"] == pytest.approx(0, abs=1e-6)
    noise = np.random.default_rng(0).normal(size=frame.shape)
    table.obsm["noise"] = pd.DataFrame(noise, index=frame.index, columns=frame.columns)
    c2l.tl.spatial_coherence(table, predicted_key="noise")
    assert table.uns["spatial_coherence"]["bias"] < -0.2


def test_sections_and_bad_input(told, coloured, snapshot, changed):
    table, _ = told
    bare = coloured(49, name="y")
    before = snapshot(table)
    with pytest.raises(KeyError, match="'y' has no 'c2lst_predicted'"):
        c2l.tl.spatial_coherence([table, bare])
    assert not changed(before, table)
    bare.obsm["c2lst_predicted"] = pd.DataFrame({"G0": np.arange(49.0)}, index=bare.obs_names)
    c2l.tl.spatial_coherence([table, bare])
    assert bare.uns["spatial_coherence"]["genes"] == ["G0"] and np.isnan(bare.uns["spatial_coherence"]["corr"])


@pytest.fixture
def regions(told, coloured):
    """Two sections with predictions, and both in one table as its regions."""
    a = told[0]
    b = coloured(64, name="y", seed=1)
    values = expression(b, [f"G{i}" for i in range(9)])
    b.obsm["c2lst_predicted"] = pd.DataFrame(values, index=b.obs_names, columns=[f"G{i}" for i in range(9)])
    both = ad.concat({"x": a, "y": b}, label="region", uns_merge="same", merge="same", index_unique="-")
    both.obsm["c2lst_predicted"] = pd.DataFrame(
        np.concatenate([t.obsm["c2lst_predicted"] for t in (a, b)]),
        index=both.obs_names,
        columns=[f"G{i}" for i in range(9)],
    )
    both.uns["spatialdata_attrs"] = {"region": ["x", "y"], "region_key": "region", "instance_key": "spot"}
    return a, b, both


def test_regions_of_one_table_are_sections(regions):
    a, b, both = regions
    for call in (c2l.tl.spatial_coherence, c2l.tl.score):
        with pytest.raises(ValueError, match="holds 2 regions, .*'x', 'y'.* pass library_key='region'"):
            call(both)
    c2l.tl.spatial_coherence([a, b])
    c2l.tl.spatial_coherence(both, library_key="region")
    for name, one in (("x", a), ("y", b)):
        np.testing.assert_allclose(
            both.uns["spatial_coherence"][name]["measured"], one.uns["spatial_coherence"]["measured"]
        )
    axes = c2l.pl.spatial_coherence(both, library_key="region")
    assert [ax.get_title().split(":")[0] for ax in axes] == ["x", "y"]
    with pytest.raises(KeyError, match="library_key='region'"):
        c2l.pl.spatial_coherence(both, library_key="region", key="other")


def test_spots_without_a_place_are_counted(told):
    table = told[0]
    table.obsm["spatial"][3] = np.nan
    with pytest.raises(ValueError, match="not finite for 1 of the 64 spots"):
        c2l.tl.spatial_coherence(table)
