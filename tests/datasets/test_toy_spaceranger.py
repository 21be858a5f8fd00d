import json

import numpy as np
import pandas as pd
import pytest

import c2lst as c2l

spatialdata_io = pytest.importorskip("spatialdata_io", reason="reading SpaceRanger folders needs the extra `readers`")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return c2l.datasets.toy_spaceranger(tmp_path_factory.mktemp("sr") / "outs", n_spots=60, seed=4)


@pytest.fixture(scope="module")
def truth():
    return c2l.datasets.toy_tissue(60, seed=4)


@pytest.fixture(scope="module")
def read(folder):
    return spatialdata_io.visium(folder, dataset_id="toy0", fullres_image_file="tissue_fullres_image.tif")


def test_counts_come_back(read, truth):
    a, b = read["table"], truth["table"]
    assert list(a.var_names) == list(b.var_names)
    assert np.array_equal(a.X.toarray(), b.X.toarray())
    assert a.obs_names.is_unique and a.obs_names.str.match("[ACGT]{16}-1$").all()


def test_positions_come_back_within_half_a_pixel(read, truth):
    a, b = read["table"], truth["table"]
    assert np.abs(a.obsm["spatial"] - b.obsm["spatial"]).max() <= 0.5
    assert np.array_equal(a.obs[["array_row", "array_col"]], b.obs[["array_row", "array_col"]])
    assert (a.obs["in_tissue"] == 1).all()
    xy = np.stack([read["toy0"].geometry.x, read["toy0"].geometry.y], axis=1)
    assert np.array_equal(xy, a.obsm["spatial"])


def test_images_come_back(read, truth):
    full = np.asarray(read["toy0_full_image"]["scale0"]["image"].data)
    assert np.array_equal(full, np.asarray(truth["image"]["scale0"]["image"].data))
    for level, name in ((1, "hires"), (2, "lowres")):
        image = np.asarray(read[f"toy0_{name}_image"].data)
        assert np.array_equal(image, np.asarray(truth["image"][f"scale{level}"]["image"].data))


@pytest.mark.parametrize("mpp", [1.0, 2.2])
def test_pixel_size_is_in_the_pitch_and_the_theoretical_spot(folder, tmp_path, mpp):
    if mpp != 1.0:
        folder = c2l.datasets.toy_spaceranger(tmp_path / "outs", n_spots=60, seed=4, n_genes=5, mpp=mpp)
    scales = json.loads((folder / "spatial" / "scalefactors_json.json").read_text())
    assert scales["spot_diameter_fullres"] == pytest.approx(65 / mpp)
    spots = pd.read_csv(folder / "spatial" / "tissue_positions.csv", index_col=0)
    on = spots[spots["in_tissue"] == 1]
    assert len(on) == 60 < len(spots)
    assert np.polyfit(on["array_col"], on["pxl_col_in_fullres"], 1)[0] == pytest.approx(50 / mpp, rel=2e-3)
    assert np.polyfit(on["array_row"], on["pxl_row_in_fullres"], 1)[0] == pytest.approx(86.6 / mpp, rel=2e-3)


def test_a_folder_in_use_is_refused(tmp_path):
    (tmp_path / "a.txt").write_text("mine")
    with pytest.raises(ValueError, match="not an empty folder"):
        c2l.datasets.toy_spaceranger(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]
