from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from spatialdata import read_zarr

from c2lst import io, pp
from c2lst._patches import patch_meta


@pytest.fixture
def synthetic():
    rng = np.random.default_rng(0)
    obs = pd.DataFrame({"c2lst_parent": list("abcdefg")}, index=[f"synthetic_{i}" for i in range(7)])
    table = ad.AnnData(rng.random((7, 3), dtype=np.float32), obs=obs, var=pd.DataFrame(index=["A", "B", "C"]))
    table.obsm["patches"] = rng.integers(0, 256, (7, 16, 16, 3), dtype=np.uint8)
    table.uns["c2lst"] = {"patches": {"patches": {"mpp": 2.0, "patch_px": 16}}, "expression": "log1p CP10k"}
    return table


def test_the_same_pixels_come_back(synthetic):
    sdata = io.to_spatialdata(synthetic)
    pp.extract_patches(sdata, mpp=2.0, patch_px=16, key_added="again")
    np.testing.assert_array_equal(sdata["table"].obsm["again"], synthetic.obsm["patches"])
    assert sdata["table"].obs["c2lst_valid"].all()
    assert patch_meta(sdata["table"], "again")["source_mpp"] == 2.0
    pp.extract_patches(sdata, mpp=4.0, patch_px=8, key_added="half")
    wanted = synthetic.obsm["patches"].reshape(7, 8, 2, 8, 2, 3).mean((2, 4))
    assert np.abs(sdata["table"].obsm["half"] - wanted).max() <= 0.51


def test_through_a_file_and_one_patch_a_chunk(synthetic, tmp_path):
    sdata = io.to_spatialdata(synthetic, name="fake")
    assert set(sdata.coordinate_systems) == {"fake"}
    assert sdata["fake_image"].data.chunks == ((3,), (16, 16, 16), (16, 16, 16))
    sdata.write(tmp_path / "s.zarr")
    back = read_zarr(tmp_path / "s.zarr")
    pp.extract_patches(back, mpp=2.0, patch_px=16, key_added="again")
    np.testing.assert_array_equal(back["table"].obsm["again"], synthetic.obsm["patches"])
    assert back["table"].obs["c2lst_parent"].tolist() == list("abcdefg")


def test_patches_from_a_store(synthetic, tmp_path):
    patches = synthetic.obsm.pop("patches")
    io.write_patches(tmp_path / "p", patches, mpp=2.0, obs_names=synthetic.obs_names)
    synthetic.uns["c2lst"]["patches"]["patches"]["store"] = str(tmp_path / "p")
    sdata = io.to_spatialdata(synthetic)
    pp.extract_patches(sdata, mpp=2.0, patch_px=16)
    np.testing.assert_array_equal(sdata["table"].obsm["patches"], patches)


def test_parents_region_is_left_behind_and_the_input_untouched(synthetic):
    synthetic.obs["region"] = pd.Categorical(["tissue"] * 7)
    synthetic.uns["spatialdata_attrs"] = {"region": "tissue", "region_key": "region", "instance_key": "id"}
    keys = set(synthetic.obs), repr(synthetic.uns)
    sdata = io.to_spatialdata(synthetic)
    assert sdata["table"].uns["spatialdata_attrs"]["region"] == "synthetic_spots"
    assert (set(synthetic.obs), repr(synthetic.uns)) == keys


def test_bad_input(synthetic):
    table = synthetic.copy()
    del table.uns["c2lst"]
    with pytest.raises(KeyError, match="knows no patches"):
        io.to_spatialdata(table)
    assert io.to_spatialdata(table, mpp=1.0).attrs["c2lst_source_mpp"] == {"synthetic_image": 1.0}
    with pytest.raises(ValueError, match="no spots"):
        io.to_spatialdata(synthetic[:0])
    synthetic.obsm["patches"] = synthetic.obsm["patches"][:, :8]
    with pytest.raises(ValueError, match="square"):
        io.to_spatialdata(synthetic)
    del synthetic.obsm["patches"]
    with pytest.raises(KeyError, match="has no patches"):
        io.to_spatialdata(synthetic)
