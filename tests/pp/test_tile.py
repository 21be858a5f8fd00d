from __future__ import annotations

import anndata as ad
import dask.array as da
import matplotlib.pyplot as plt
import numpy as np
import pytest
from spatialdata import SpatialData

from c2lst import pp
from c2lst._patches import patch_meta


@pytest.fixture
def slide(painted):
    """An image alone, tissue everywhere, 0.5 um per pixel, 224 x 288 px."""
    noise = np.random.default_rng(0).integers(40, 190, (3, 224, 288), dtype=np.uint8)
    sdata, _ = painted(image=noise)
    return SpatialData(images={"he": sdata["s_image"]}, attrs={"c2lst_source_mpp": {"he": 0.5}}), noise


def test_tiles_carry_their_pixels_and_places(slide):
    sdata, image = slide
    tiles = pp.tile(sdata, mpp=0.5, patch_px=32)
    assert tiles.shape == (7 * 9, 0)
    for i in (0, 10, 62):
        x, y = tiles.obsm["spatial"][i].astype(int)
        field = image[:, y - 16 : y + 16, x - 16 : x + 16].transpose(1, 2, 0)
        np.testing.assert_array_equal(tiles.obsm["patches"][i], field)
        assert (x - 16, y - 16) == (tiles.obs["array_col"].iloc[i] * 32, tiles.obs["array_row"].iloc[i] * 32)
    assert patch_meta(tiles)["field_um"] == 16
    assert tiles.uns["c2lst_section"] == "section0"


def test_overlap(slide):
    tiles = pp.tile(slide[0], mpp=0.5, patch_px=32, overlap=0.5)
    assert np.diff(np.unique(tiles.obsm["spatial"][:, 0])).tolist() == [16.0] * 16


def test_scale_found_in_the_tiles_is_that_of_the_image(slide):
    """array_row/array_col and obsm["spatial"] agree: one step is one field of view."""
    tiles = pp.tile(slide[0], mpp=1.0, patch_px=16)
    assert pp.infer_mpp(tiles, pitch_um=16.0) == pytest.approx(0.5)


def test_scanpy_squidpy_and_files(slide, tmp_path):
    import scanpy as sc
    import squidpy as sq

    tiles = pp.tile(slide[0], mpp=0.5, patch_px=32)
    sq.pl.spatial_scatter(tiles, color="c2lst_tissue", shape=None)
    sq.pl.spatial_scatter(tiles, color="c2lst_tissue", shape="square")
    sc.pl.embedding(tiles, basis="spatial", color="c2lst_tissue", show=False)
    plt.close("all")
    sq.gr.spatial_neighbors(tiles, n_neighs=4)
    tiles.write_h5ad(tmp_path / "t.h5ad")
    assert ad.read_h5ad(tmp_path / "t.h5ad").obsm["patches"].shape == (63, 32, 32, 3)


def test_bad_input(slide):
    sdata, _ = slide
    with pytest.raises(ValueError, match="below 1"):
        pp.tile(sdata, mpp=0.5, overlap=1.0)
    with pytest.raises(TypeError, match="one SpatialData"):
        pp.tile([sdata], mpp=0.5)
    with pytest.raises(KeyError, match="'he'"):
        pp.tile(sdata, mpp=0.5, image_key="nope")
    white = np.full((3, 224, 288), 250, np.uint8)
    sdata["he"].data = da.from_array(white)
    with pytest.raises(ValueError, match="No tile"):
        pp.tile(sdata, mpp=0.5, patch_px=32)
