from __future__ import annotations

import logging

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from c2lst import pp


def array(kind="square", side=12, pitch_px=80.0, jitter=0.0, angle=0.0, keep=None, columns=("array_row", "array_col")):
    rng = np.random.default_rng(0)
    row, col = np.divmod(np.arange(side * side), side)
    if kind == "hexagonal":
        col = 2 * col + row % 2
        xy = np.column_stack([col * pitch_px / 2, row * pitch_px * np.sqrt(3) / 2])
    else:
        xy = np.column_stack([col, row]) * pitch_px
    turn = np.radians(angle)
    xy = xy @ np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]]) + [500, 900]
    xy = xy + rng.normal(0, jitter, xy.shape) if jitter else xy
    obs = pd.DataFrame({columns[0]: row, columns[1]: col}, index=[f"s{i}" for i in range(len(row))])
    table = ad.AnnData(np.ones((len(row), 1), np.float32), obs=obs, obsm={"spatial": xy})
    return table if keep is None else table[rng.permutation(len(row))[:keep]].copy()


@pytest.mark.parametrize(("kind", "um"), [("square", 200), ("hexagonal", 100)])
@pytest.mark.parametrize("angle", [0, 3, 90])
def test_exact_lattices(kind, um, angle):
    assert pp.infer_mpp(array(kind, angle=angle)) == pytest.approx(um / 80, rel=1e-9)


def test_legacy_x_and_y(caplog):
    assert pp.infer_mpp(array(columns=("y", "x"))) == pytest.approx(2.5)


@pytest.mark.parametrize("kind", ["square", "hexagonal"])
def test_jitter_and_missing_spots_do_not_shift_the_fit(kind):
    wanted = {"square": 2.5, "hexagonal": 1.25}[kind]
    assert pp.infer_mpp(array(kind, jitter=5, keep=70)) == pytest.approx(wanted, rel=0.01)


def test_pitch_um_overrides():
    assert pp.infer_mpp(array(), pitch_um=8) == pytest.approx(0.1)


def test_image_pixels_and_not_shape_units_are_meant(painted):
    for layout in ("identity", "scale", "translation", "visium"):
        sdata, _ = painted(layout=layout, source_mpp=None)
        assert pp.infer_mpp(sdata) == pytest.approx(200 / 64), layout


def test_radius_is_never_used(painted):
    sdata, _ = painted(source_mpp=None)
    sdata.shapes["s_spots"]["radius"] = 3.0
    assert pp.infer_mpp(sdata) == pytest.approx(200 / 64)


def test_visium_hd_bins_are_read_from_the_name_of_the_region(painted):
    sdata, _ = painted(source_mpp=None, name="x_square_008um")
    assert pp.infer_mpp(sdata) == pytest.approx(8 / 64)


def test_without_indices_neighbours_only_with_a_pitch_and_a_warning(caplog):
    table = array()
    table.obs = table.obs[[]]
    with pytest.raises(ValueError, match="no array indices.*pitch_um="):
        pp.infer_mpp(table)
    with caplog.at_level(logging.WARNING, "c2lst"):
        assert pp.infer_mpp(table, pitch_um=200) == pytest.approx(2.5)
    assert "distance of neighbours" in caplog.text


def test_a_long_square_array_is_not_legacy_st():
    with pytest.raises(ValueError, match="100 positions is no legacy ST.*pitch_um="):
        pp.infer_mpp(array(side=100))


def test_positions_that_do_not_follow_the_indices_are_refused():
    table = array()
    table.obsm["spatial"] = np.random.default_rng(1).permutation(table.obsm["spatial"])
    with pytest.raises(ValueError, match="do not follow their array indices"):
        pp.infer_mpp(table)
    table = array()
    table.obsm["spatial"] = table.obsm["spatial"] * [1, 1.3]
    with pytest.raises(ValueError, match="do not follow"):
        pp.infer_mpp(table)


def test_pixels_called_x_and_y_are_no_indices():
    table = array()
    table.obs = pd.DataFrame(table.obsm["spatial"], columns=["x", "y"], index=table.obs_names)
    with pytest.raises(ValueError, match="no array indices"):
        pp.infer_mpp(table)


def test_spots_on_one_line_are_refused():
    table = array()
    with pytest.raises(ValueError, match="one line"):
        pp.infer_mpp(table[table.obs["array_row"] == 0].copy())


def test_unknown_names(painted):
    sdata, _ = painted()
    with pytest.raises(KeyError, match="s_spots"):
        pp.infer_mpp(sdata, shapes_key="nope")
    with pytest.raises(KeyError, match="obsm has no 'spatial'"):
        table = array()
        del table.obsm["spatial"]
        pp.infer_mpp(table)


@pytest.mark.her2st
@pytest.mark.parametrize("section", ["B4", "C2", "C3", "C4", "C5"])
def test_real_sections_have_one_scale(her2st_dir, section):
    spots = pd.read_csv(her2st_dir / f"{section}_selection.tsv", sep="\t")
    obs = spots[["x", "y"]].set_index("s" + spots.index.astype(str))
    table = ad.AnnData(np.ones((len(obs), 1), np.float32), obs=obs)
    table.obsm["spatial"] = spots[["pixel_x", "pixel_y"]].to_numpy(float)
    assert pp.infer_mpp(table) == pytest.approx(0.688, rel=0.005)


def test_a_square_array_too_long_for_legacy_st_is_not_taken_for_one():
    assert pp.infer_mpp(array(side=36)) == pytest.approx(200 / 80)
    with pytest.raises(ValueError, match="A square array of 40 positions is no legacy ST"):
        pp.infer_mpp(array(side=40))  # of a microfluidic grid, say, whose pitch is anything
    assert pp.infer_mpp(array(side=40), pitch_um=20) == pytest.approx(20 / 80)
