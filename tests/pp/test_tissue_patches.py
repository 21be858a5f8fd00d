from __future__ import annotations

import dask.array as da
import numpy as np
import pandas as pd
import pytest
from spatialdata import SpatialData
from spatialdata.models import Image2DModel

from c2lst import pp
from c2lst.pp._slide import slides
from c2lst.pp._tissue import free_of
from c2lst.pp._tissue_patches import _grid, _random, excluded

HOW = {"mpp": 2.0, "patch_px": 16}


def stained(background, size=600, seed=0, scale_factors=None):
    """A disc of speckled tissue left of the middle, a smooth halo of stain right of it; 1 um per pixel."""
    rng = np.random.default_rng(seed)
    y, x = np.indices((size, size))
    image = np.full((size, size, 3), background, dtype=float)
    halo = np.exp(-(((x - 0.78 * size) ** 2 + (y - 0.5 * size) ** 2) / (0.12 * size) ** 2))[..., None]
    image = image * (1 - 0.12 * halo * [0.1, 1, 0.5])
    disc = (x - 0.35 * size) ** 2 + (y - 0.5 * size) ** 2 < (0.25 * size) ** 2
    speckle = np.kron(rng.random((size // 4, size // 4)), np.ones((4, 4)))[..., None]
    tissue = np.where(speckle < 0.35, [90, 60, 140], [205, 150, 190])
    image[disc] = tissue[disc]
    image = np.clip(image + rng.normal(0, 2, image.shape), 0, 255).astype(np.uint8)
    element = Image2DModel.parse(
        image.transpose(2, 0, 1), dims=("c", "y", "x"), c_coords=list("rgb"), scale_factors=scale_factors
    )
    sdata = SpatialData(images={"he": element})
    sdata.attrs["c2lst_source_mpp"] = {"he": 1.0}
    return sdata, disc


def slide(sdata, **kwargs):
    how = {"source_mpp": None, "image_key": None, "coordinate_system": None, "table_key": "table", **HOW, **kwargs}
    return slides(sdata, **how)[0]


@pytest.mark.parametrize("background", [(245, 243, 242), (215, 205, 222), (235, 220, 235)])
@pytest.mark.parametrize("scale_factors", [None, [2, 2]])
def test_tissue_is_found_on_white_and_on_lilac(background, scale_factors):
    sdata, disc = stained(background, scale_factors=scale_factors)
    tissue = slide(sdata).tissue()
    k = round(tissue.fy)
    wanted = disc[: len(disc) // k * k, : len(disc) // k * k].reshape(len(disc) // k, k, -1, k).mean((1, 3)) > 0.5
    got = tissue.mask[: len(wanted), : len(wanted)]
    assert (got & wanted).sum() / (got | wanted).sum() > 0.85


def test_a_picture_full_of_tissue_is_tissue_everywhere_and_glass_nowhere():
    rng = np.random.default_rng(0)
    for low, high, share in ((60, 170, 1.0), (238, 246, 0.0)):
        pixels = np.kron(rng.integers(low, high, (3, 50, 50)), np.ones((1, 6, 6))).astype(np.uint8)
        sdata = SpatialData(images={"he": Image2DModel.parse(pixels, dims=("c", "y", "x"), c_coords=list("rgb"))})
        assert slide(sdata, source_mpp=1.0).tissue().mask.mean() == share


def test_random_places_lie_in_the_tissue():
    sdata, _ = stained((245, 243, 242))
    got = pp.tissue_patches(sdata, 40, **HOW)
    assert got.shape == (40, 16, 16, 3)
    assert got.dtype == np.uint8
    assert (got.reshape(40, -1, 3).mean((1, 2)) < 225).all()
    np.testing.assert_array_equal(got, pp.tissue_patches(sdata, 40, **HOW))
    assert (got != pp.tissue_patches(sdata, 40, **HOW, seed=1)).any()


def test_min_tissue_is_kept():
    sdata, _ = stained((245, 243, 242))
    s = slide(sdata)
    for min_tissue in (0.3, 1.0):
        corners = _random(s, np.empty((0, 2), int), min_tissue, 200, 0, 0)
        assert s.tissue().share(s.cutter, corners).min() >= min_tissue - 1e-6


def test_the_grid_is_disjoint_and_inside():
    sdata, _ = stained((245, 243, 242))
    s = slide(sdata)
    corners = _grid(s, np.empty((0, 2), int), 0.6)
    assert len(corners) == len(pp.tissue_patches(sdata, **HOW)) > 20
    assert (corners >= 0).all()
    assert (corners + 32 <= 600).all()
    apart = np.abs(corners[:, None] - corners[None]).max(-1)
    assert apart[~np.eye(len(corners), dtype=bool)].min() >= 32


@pytest.mark.parametrize("n", [None, 60])
def test_excluded_fields_of_view_are_kept_out(painted, n):
    noise = np.random.default_rng(0).integers(40, 190, (3, 416, 416), dtype=np.uint8)
    sdata, _ = painted(rows=6, cols=6, image=noise)
    table = sdata["table"]
    table.obs["held_out"] = pd.Categorical((np.arange(36) % 6 < 3).tolist())
    # every pixel of a held-out field of view is marked, and may turn up nowhere
    marked = noise.copy()
    fields = excluded(slide(sdata, mpp=1.0), "held_out")
    assert len(fields) == 18
    for y, x in fields:
        marked[:, y : y + 32, x : x + 32] = 255
    sdata["s_image"].data = da.from_array(marked)
    got = pp.tissue_patches(sdata, n, mpp=0.5, patch_px=32, exclude="held_out", min_tissue=0)
    assert len(got) > 5
    assert got.max() < 255
    assert pp.tissue_patches(sdata, 300, mpp=0.5, patch_px=32, min_tissue=0).max() == 255


@pytest.mark.parametrize("n", [None, 60])
def test_small_windows_keep_clear_of_wider_patches(painted, n):
    noise = np.random.default_rng(0).integers(40, 190, (3, 416, 416), dtype=np.uint8)
    sdata, _ = painted(rows=6, cols=6, image=noise)
    sdata["table"].obs["held_out"] = np.arange(36) == 14
    pp.extract_patches(sdata, mpp=1.0, patch_px=64)  # 128 px wide; the windows below are 16
    x, y = sdata["table"].obsm["spatial"][14].astype(int)
    noise[:, y - 64 : y + 64, x - 64 : x + 64] = 255
    sdata["s_image"].data = da.from_array(noise)
    got = pp.tissue_patches(sdata, n, mpp=0.5, patch_px=16, exclude="held_out", min_tissue=0)
    assert len(got) > 50
    assert got.max() < 255


@pytest.mark.parametrize("n", [None, 30])
@pytest.mark.parametrize("scale_factors", [None, [2, 2]])
def test_held_out_pixels_change_nothing(painted, n, scale_factors):
    rng = np.random.default_rng(0)
    image = np.full((3, 419, 421), 245, dtype=np.uint8)
    image[:, 60:360, 30:330] = np.kron(rng.integers(60, 200, (3, 75, 75)), np.ones((1, 4, 4)))
    how = {"mpp": 1.0, "patch_px": 12, "exclude": "held_out"}
    got = []
    for canary in (False, True):
        pixels = image.copy()
        if canary:  # the field of view of every held-out spot, at full resolution
            for row in range(6):
                y, x = 48 + 64 * row, 48
                pixels[:, max(0, y - 12) : y + 12, x - 12 : x + 12] = rng.integers(0, 256, (3, 24, 24))
        sdata, _ = painted(rows=6, cols=6, image=pixels, scale_factors=scale_factors)
        sdata["table"].obs["held_out"] = np.arange(36) % 6 == 0
        got.append(pp.tissue_patches(sdata, n, **how))
    np.testing.assert_array_equal(*got)
    assert len(got[0]) > 10


def test_free_of_means_no_shared_pixel():
    sdata, _ = stained((245, 243, 242))
    cutter = slide(sdata).cutter  # windows of 32 px
    got = free_of(cutter, np.array([[0, 0], [31, 31], [32, 0], [0, 32], [31, 0]]), np.array([[0, 0]]))
    assert got.tolist() == [False, False, True, True, False]


def test_sections_are_concatenated_in_order():
    a, _ = stained((245, 243, 242), seed=1)
    b, _ = stained((215, 205, 222), seed=2)
    got = pp.tissue_patches([a, b], 7, **HOW)
    assert len(got) == 7
    np.testing.assert_array_equal(got[:4], pp.tissue_patches(a, 4, **HOW))
    both = pp.tissue_patches([a, b], **HOW)
    np.testing.assert_array_equal(both, np.concatenate([pp.tissue_patches(s, **HOW) for s in (a, b)]))


def test_bad_input(painted):
    sdata, _ = painted()
    image_only = SpatialData(images={"he": sdata["s_image"]})
    with pytest.raises(ValueError, match="how many microns"):
        pp.tissue_patches(image_only, 3, **HOW)
    with pytest.raises(ValueError, match="finer"):
        pp.tissue_patches(sdata, 3, mpp=0.1, patch_px=8)
    with pytest.raises(ValueError, match="smaller than one field of view"):
        pp.tissue_patches(sdata, 3, mpp=1.0, patch_px=400)
    with pytest.raises(KeyError, match="array_row"):
        pp.tissue_patches(sdata, 3, **HOW, exclude="nope")
    sdata["table"].obs["part"] = pd.Categorical(["train"] * 6 + ["test"] * 6)
    with pytest.raises(TypeError, match="not boolean.*!= 'train'"):
        pp.tissue_patches(sdata, 3, **HOW, exclude="part")
    with pytest.raises(ValueError, match="no table"):
        pp.tissue_patches(image_only, 3, **HOW, source_mpp=1.0, exclude="part")
    with pytest.raises(TypeError, match="SpatialData"):
        pp.tissue_patches(sdata["table"], 3, **HOW)
    sdata["table"].obs["all"] = True
    with pytest.raises(ValueError, match="keeps clear of the 12 spots"):
        pp.tissue_patches(sdata, 3, mpp=0.5, patch_px=100, min_tissue=0, exclude="all")
    with pytest.raises(ValueError, match="min_tissue"):
        pp.tissue_patches(sdata, 3, **HOW, min_tissue=1.5)


def test_the_scale_told_to_extract_patches_is_known_here(painted):
    sdata, _ = painted(source_mpp=None)
    pp.extract_patches(sdata, mpp=1.0, patch_px=16, source_mpp=0.25)
    assert slide(sdata).cutter.source_mpp == 0.25


def test_nothing_is_written(painted, fingerprint):
    sdata, _ = painted()
    before = fingerprint(sdata["table"])
    pp.tissue_patches(sdata, 3, mpp=0.5, patch_px=16, min_tissue=0)
    assert fingerprint(sdata["table"]) == before


@pytest.mark.her2st
@pytest.mark.parametrize(("section", "low", "high"), [("B4", 600, 800), ("C3", 420, 520)])
def test_real_tissue_on_lilac(her2st_dir, section, low, high):
    from c2lst import datasets

    sdata = datasets.her2st(section, path=her2st_dir)
    how = {"mpp": 2.0, "patch_px": 64}
    tissue = slide(sdata, **how).tissue()
    spots = (sdata["table"].obsm["spatial"] / [tissue.fx, tissue.fy]).astype(int)
    assert tissue.mask[spots[:, 1], spots[:, 0]].mean() > 0.95  # spots were placed on tissue by eye
    assert tissue.mask[-30:].mean() == tissue.mask[:, -30:].mean() == 0  # where there is glass
    assert low < len(pp.tissue_patches(sdata, **how)) < high


def test_a_table_of_labels_is_no_hindrance():
    import c2lst as c2l

    sdata = c2l.datasets.toy_tissue(20)
    table = sdata["table"]
    region = table.uns["spatialdata_attrs"]["region_key"]
    table.obs[region] = pd.Categorical(["cells"] * table.n_obs)
    table.uns["spatialdata_attrs"]["region"] = "cells"
    assert pp.tissue_patches(sdata, 3, mpp=2.0, source_mpp=1.0).shape == (3, 64, 64, 3)


def test_another_name_of_the_table_is_told_where_the_scale_lacks(painted):
    sdata, _ = painted(source_mpp=None)
    sdata["square_008um"] = sdata.tables.pop("table")
    with pytest.raises(ValueError, match=r"none called 'table'; there are \['square_008um'\]: pass table_key="):
        pp.tissue_patches(sdata, None, mpp=2.0, patch_px=16)
