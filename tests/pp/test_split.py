from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from c2lst import pp


def scattered(n, seed, spread, mpp=2.0, patch_px=16, source=0.5):
    """Spots anywhere on a slide, with the notes that `extract_patches` leaves."""
    rng = np.random.default_rng(seed)
    table = ad.AnnData(np.ones((n, 1), np.float32), obs=pd.DataFrame(index=[f"s{i}" for i in range(n)]))
    table.obsm["spatial"] = rng.random((n, 2)) * spread
    meta = {"mpp": mpp, "source_mpp": source, "patch_px": patch_px, "field_um": mpp * patch_px, "image_key": "he"}
    table.uns["c2lst"] = {"patches": {"patches": meta}}
    return table


def windows(table, mpp=2.0, patch_px=16, source=0.5):
    side = mpp * patch_px / source
    return np.floor(table.obsm["spatial"] - side / 2 + 0.5), side


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(20, 200),
    seed=st.integers(0, 1000),
    spread=st.floats(600, 3000),
    test_size=st.floats(0.05, 0.5),
)
def test_no_training_field_of_view_meets_a_test_one(n, seed, spread, test_size):
    table = scattered(n, seed, spread)
    try:
        pp.split(table, test_size=test_size, seed=seed)
    except ValueError as error:  # too dense for a gap: said, and nothing written
        assert "no spot to train" in str(error)
        assert "c2lst_split" not in table.obs
        return
    part = table.obs["c2lst_split"].to_numpy()
    corners, side = windows(table)
    apart = np.abs(corners[part == "train"][:, None] - corners[part == "test"][None]).max(-1)
    assert apart.min() >= side
    assert (part == "test").sum() == max(1, round(test_size * n))


def test_real_windows_share_no_pixel(painted):
    sdata, _ = painted(rows=6, cols=6)
    pp.extract_patches(sdata, mpp=1.0, patch_px=40)  # 80 px wide at a pitch of 64 px: neighbours overlap
    pp.split(sdata, test_size=0.1, seed=3)
    table = sdata["table"]
    counts = table.obs["c2lst_split"].value_counts()
    assert list(table.obs["c2lst_split"].cat.categories) == ["train", "test", "gap"]
    assert counts["test"] == 4
    assert counts["gap"] > 0
    part, xy = table.obs["c2lst_split"].to_numpy(), table.obsm["spatial"]
    apart = np.abs(xy[part == "train"][:, None] - xy[part == "test"][None]).max(-1)
    assert apart.min() >= 80
    assert np.abs(xy[part == "gap"][:, None] - xy[part == "test"][None]).max(-1).min(1).max() < 82


def test_the_block_is_one_block(genes):
    table = genes(n=144)
    pp.split(table, gap_um=0, source_mpp=2.0, test_size=0.25)
    xy = table.obsm["spatial"][table.obs["c2lst_split"] == "test"]
    assert (np.ptp(xy, axis=0) <= 100 * 9).all()
    assert (table.obs["c2lst_split"] != "gap").all()


def test_gap_is_in_um(genes):
    table = genes(n=144)  # 2 um per pixel, 200 um from spot to spot
    for gap, rings in ((199, 0), (201, 1), (401, 2)):
        pp.split(table, gap_um=gap, test_size=0.01)
        part, at = table.obs["c2lst_split"].to_numpy(), table.obs[["array_row", "array_col"]].to_numpy()
        far = np.abs(at - at[part == "test"]).max(1)
        assert ((part == "gap") == ((far <= rings) & (far > 0))).all()


def test_places_through_coordinate_systems_agree(painted):
    parts = []
    for layout in ("identity", "scale", "translation", "visium"):
        sdata, _ = painted(layout=layout, rows=6, cols=6)
        pp.extract_patches(sdata, mpp=1.0, patch_px=40, source_mpp=0.5)
        pp.split(sdata)
        parts.append(sdata["table"].obs["c2lst_split"].tolist())
    assert parts[0] == parts[1] == parts[2] == parts[3]


def test_whole_sections_and_patients(genes):
    tables = {n: genes(name=n, seed=i) for i, n in enumerate("abcde")}
    pp.split(tables, by="section", test_size=0.4)
    parts = {n: set(t.obs["c2lst_split"]) for n, t in tables.items()}
    assert all(len(p) == 1 for p in parts.values())
    assert sum(p == {"test"} for p in parts.values()) == 2
    for n, t in tables.items():
        t.obs["patient"] = "P1" if n in "abc" else "P2"
    pp.split(tables, by="section", key="patient", test_size=0.4, seed=1)
    first = {n: t.obs["c2lst_split"].iloc[0] for n, t in tables.items()}
    assert len({first[n] for n in "abc"}) == len({first[n] for n in "de"}) == 1
    assert first["a"] != first["d"]


def test_concatenated_sections(genes):
    both = ad.concat({"a": genes(seed=1), "b": genes(seed=2)}, label="lib", index_unique="-")
    pp.split(both, by="section", library_key="lib")
    assert set(both.obs.groupby("lib", observed=True)["c2lst_split"].nunique()) == {1}
    pp.split(both, library_key="lib", gap_um=100)
    assert both.obs["c2lst_split"].dtype == "category"
    assert (both.obs.groupby("lib", observed=True)["c2lst_split"].apply(lambda c: (c == "test").sum()) == 20).all()


def test_genes_do_not_matter_and_seeds_do(genes):
    a, b = genes(seed=1), genes(seed=2)
    pp.split(a, gap_um=100)
    pp.split(b, gap_um=100)
    assert a.obs["c2lst_split"].tolist() == b.obs["c2lst_split"].tolist()
    seen = set()
    for seed in range(6):
        pp.split(a, gap_um=100, seed=seed)
        seen.add(tuple(a.obs["c2lst_split"]))
    assert len(seen) > 3


def test_spots_without_a_place_are_gap(genes):
    table = genes()
    table.obsm["spatial"][5] = np.nan
    pp.split(table, gap_um=100)
    assert table.obs["c2lst_split"].iloc[5] == "gap"


@pytest.mark.parametrize(
    ("kwargs", "error", "match"),
    [
        ({}, ValueError, r"extract_patches.*gap_um="),
        ({"by": "spot"}, ValueError, "'block', 'section'"),
        ({"by": "section"}, ValueError, "two sections.*by='block'"),
        ({"by": "section", "key": "nope"}, KeyError, "array_row"),
        ({"key": "array_row", "gap_um": 1}, ValueError, "by='section'"),
        ({"gap_um": 1e5}, ValueError, "no spot to train"),
        ({"gap_um": 1, "test_size": 1.2}, ValueError, "test_size"),
        ({"gap_um": -1}, ValueError, "gap_um"),
    ],
)
def test_bad_input(genes, fingerprint, kwargs, error, match):
    table = genes()
    before = fingerprint(table)
    with pytest.raises(error, match=match):
        pp.split(table, **kwargs)
    assert fingerprint(table) == before


def test_unknown_scale_is_refused(genes):
    table = genes()
    table.obs = table.obs[[]]
    with pytest.raises(ValueError, match="how many microns"):
        pp.split(table, gap_um=100)
    del table.obsm["spatial"]
    with pytest.raises(KeyError, match="obsm\\['spatial'\\]"):
        pp.split(table, gap_um=100)


def test_only_what_is_announced_changes(genes, fingerprint):
    table = genes()
    before = fingerprint(table)
    got = pp.split(table, gap_um=100, copy=True)
    assert fingerprint(table) == before
    after = fingerprint(got)
    assert {k for k in after if after[k] != before.get(k)} == {"obs/c2lst_split", "uns/c2lst"}


@pytest.mark.parametrize("library_key", [None, "slide"])
def test_without_the_image_the_gap_is_as_wide(library_key):
    """Places in pixels of full resolution, patches cut from an image of a quarter of it: a table alone must know."""
    import dask.array as da
    from spatialdata import SpatialData
    from spatialdata.models import Image2DModel
    from spatialdata.transformations import Scale

    import c2lst as c2l

    whole = c2l.datasets.toy_tissue(120)
    (name,) = whole.images
    pixels = np.asarray(next(iter(whole[name]["scale0"].values())))
    h, w = (n // 4 * 4 for n in pixels.shape[1:])
    small = pixels[:, :h, :w].reshape(3, h // 4, 4, w // 4, 4).mean(axis=(2, 4)).astype(np.uint8)
    image = Image2DModel.parse(
        da.from_array(small), dims=("c", "y", "x"), transformations={"global": Scale([4, 4], axes=("x", "y"))}
    )
    (shapes,) = whole.shapes
    table = whole["table"]
    table.uns.pop("c2lst")
    sdata = SpatialData(images={name: image}, shapes={shapes: whole[shapes]}, tables={"table": table})
    pp.extract_patches(sdata, mpp=4.0, patch_px=64)
    assert sdata["table"].uns["c2lst"]["patches"]["patches"]["source_mpp"] == pytest.approx(4, rel=0.01)
    alone = sdata["table"].copy()
    alone.uns.pop("spatialdata_attrs")
    alone.obs["slide"] = "a"
    pp.split(sdata, test_size=0.1)
    pp.split(alone, test_size=0.1, library_key=library_key)
    um = alone.obsm["spatial"] * alone.uns["c2lst"]["spatial_mpp"]
    for part in (sdata["table"].obs["c2lst_split"].to_numpy(), alone.obs["c2lst_split"].to_numpy()):
        apart = np.abs(um[part == "train"][:, None] - um[part == "test"][None]).max(-1)
        assert apart.min() >= 4.0 * 64


def test_regions_that_share_an_image_keep_the_gap_between_them(painted):
    from spatialdata.models import ShapesModel, TableModel

    sdata, _ = painted(rows=8, cols=8)
    table, shapes = sdata["table"].copy(), sdata.shapes["s_spots"]
    odd = np.arange(64) % 2 == 1
    table.obs["region"] = pd.Categorical(np.where(odd, "odd", "even"))
    for name, rows in (("odd", odd), ("even", ~odd)):
        sdata[name] = ShapesModel.parse(shapes[rows].copy())
    sdata["table"] = TableModel.parse(
        table, region=["even", "odd"], region_key="region", instance_key="spot_id", overwrite_metadata=True
    )
    pp.extract_patches(sdata, mpp=1.0, patch_px=40)
    pp.split(sdata, test_size=0.1, seed=3)
    part, xy = sdata["table"].obs["c2lst_split"].to_numpy(), sdata["table"].obsm["spatial"]
    apart = np.abs(xy[part == "train"][:, None] - xy[part == "test"][None]).max(-1)
    assert (part == "test").sum() == 6
    assert apart.min() >= 82  # px of .5 um: a field of view of 40 um and a pixel of it
