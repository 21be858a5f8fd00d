from __future__ import annotations

import logging

import anndata as ad
import dask.array as da
import numpy as np
import pytest
from spatialdata import SpatialData, read_zarr
from spatialdata.models import Image2DModel, ShapesModel
from spatialdata.transformations import Affine, Identity, Scale, Translation, set_transformation

from c2lst import pp
from c2lst._patches import get_patches, patch_meta
from c2lst.io import read_patches
from c2lst.io._writer import PatchWriter
from c2lst.pp._windows import cut

FIELD = {"mpp": 1.0, "patch_px": 16}  # 16 um: exactly the painted square at 0.5 um per pixel


def centre_colours(table):
    px = table.obsm["patches"].shape[1]
    return table.obsm["patches"][:, px // 4 : -px // 4, px // 4 : -px // 4]


@pytest.mark.parametrize("layout", ["identity", "scale", "translation", "visium"])
def test_every_spot_finds_its_colour(painted, layout):
    sdata, colours = painted(layout=layout)
    pp.extract_patches(sdata, **FIELD)
    patches = sdata["table"].obsm["patches"]
    assert patches.shape == (12, 16, 16, 3)
    assert patches.dtype == np.uint8
    # to the last pixel: the windows lie on the squares, not beside them
    np.testing.assert_array_equal(patches, np.broadcast_to(colours[:, None, None], patches.shape))
    assert sdata["table"].obs["c2lst_valid"].all()


@pytest.mark.parametrize("dx", [0.0, 0.49, -0.5])
def test_subpixel_centres_move_the_window_by_at_most_half_a_pixel(painted, dx):
    sdata, colours = painted()
    shapes = sdata.shapes["s_spots"]
    shapes["geometry"] = shapes.geometry.translate(dx, 0)
    pp.extract_patches(sdata, mpp=0.5, patch_px=30)
    patches = sdata["table"].obsm["patches"]
    np.testing.assert_array_equal(patches, np.broadcast_to(colours[:, None, None], patches.shape))


@pytest.mark.parametrize(("mpp", "level"), [(0.5, 0), (0.99, 0), (1.0, 1), (1.9, 1), (2.0, 2), (4.0, 2)])
def test_every_pyramid_level(painted, mpp, level):
    sdata, colours = painted(scale_factors=[2, 2])
    pp.extract_patches(sdata, mpp=mpp, patch_px=8 if mpp < 2 else 4)
    got = centre_colours(sdata["table"]).astype(int)
    assert np.abs(got - colours[:, None, None]).max() <= 1
    assert patch_meta(sdata["table"])["level"] == level


@pytest.mark.parametrize("backwards", [True, False])
def test_shuffled_tables_and_shapes_align_by_id(painted, backwards):
    sdata, colours = painted()
    order = np.random.default_rng(1).permutation(12)
    table = sdata["table"][order].copy()
    shapes = sdata.shapes["s_spots"]
    shapes = shapes.iloc[::-1] if backwards else shapes.sample(frac=1, random_state=0)
    mixed = SpatialData(images=dict(sdata.images), shapes={"s_spots": shapes}, tables={"table": table})
    pp.extract_patches(mixed, **FIELD, source_mpp=0.5)
    np.testing.assert_array_equal(mixed["table"].obsm["patches"][:, 8, 8], colours[order])


def test_rows_without_place_are_kept_white_and_flagged(painted, caplog):
    sdata, colours = painted()
    shapes = sdata.shapes["s_spots"].drop(index=[103])
    far = shapes.geometry.copy()
    far.loc[105] = far.loc[105].__class__(-500, 20)
    far.loc[107] = far.loc[107].__class__(np.nan, np.nan)
    shapes["geometry"] = far
    holed = SpatialData(images=dict(sdata.images), shapes={"s_spots": shapes}, tables={"table": sdata["table"].copy()})
    with caplog.at_level(logging.WARNING, "c2lst"):
        pp.extract_patches(holed, **FIELD, source_mpp=0.5)
    table = holed["table"]
    assert list(np.flatnonzero(~table.obs["c2lst_valid"])) == [3, 5, 7]
    assert (table.obsm["patches"][[3, 5, 7]] == 255).all()
    assert (table.obsm["patches"][[0, 4, 11], 8, 8] == colours[[0, 4, 11]]).all()
    assert "3 of 12 spots" in caplog.text
    assert "2 have no shape or position, 1 lie" in caplog.text


@pytest.mark.parametrize("pad", ["reflect", "edge", "white", "constant"])
def test_padding_at_the_edge(painted, pad):
    sdata, _ = painted()
    set_transformation(sdata.shapes["s_spots"], Translation([-40, 0], axes=("x", "y")), "cs")
    pp.extract_patches(sdata, mpp=0.5, patch_px=32, pad=pad)  # first centres at x = 8: 24 of 32 columns inside
    patch, image = sdata["table"].obsm["patches"][0], np.asarray(sdata["s_image"]).transpose(1, 2, 0)
    inside = image[32:64, :24]
    np.testing.assert_array_equal(patch[:, 8:], inside)
    beyond = {"reflect": inside[:, 1:9][:, ::-1], "edge": np.repeat(inside[:, :1], 8, 1)}.get(
        pad, np.full((32, 8, 3), 255)
    )
    np.testing.assert_array_equal(patch[:, :8], beyond)
    assert sdata["table"].obs["c2lst_valid"].all()


def test_half_outside_is_the_limit(painted):
    sdata, _ = painted()
    set_transformation(sdata.shapes["s_spots"], Translation([-49, 0], axes=("x", "y")), "cs")
    pp.extract_patches(sdata, mpp=0.5, patch_px=32)
    assert list(np.flatnonzero(~sdata["table"].obs["c2lst_valid"])) == [0, 4, 8]


def test_resize_is_the_mean_over_the_area(painted):
    sdata, _ = painted(image=np.random.default_rng(0).integers(0, 256, (3, 224, 288), dtype=np.uint8))
    image = np.asarray(sdata["s_image"]).transpose(1, 2, 0).astype(float)
    pp.extract_patches(sdata, mpp=2.0, patch_px=8)  # 4 x 4 pixels into one
    window = image[32:64, 32:64]
    wanted = window.reshape(8, 4, 8, 4, 3).mean(axis=(1, 3))
    assert np.abs(sdata["table"].obsm["patches"][0] - wanted).max() <= 0.5 + 1e-3
    pp.extract_patches(sdata, mpp=0.7, patch_px=20)  # 28 pixels into 20: every pixel by the area it covers
    edges = 34 + np.arange(21) * 1.4
    fine = np.repeat(np.repeat(image[32:64, 32:64], 10, 0), 10, 1)  # tenths of pixels, exact here
    at = np.rint((edges - 32) * 10).astype(int)
    wanted = [[fine[a:b, c:d].mean((0, 1)) for c, d in zip(at, at[1:])] for a, b in zip(at, at[1:])]  # noqa: B905
    assert np.abs(sdata["table"].obsm["patches"][0] - np.array(wanted)).max() <= 0.51


def test_a_checkerboard_does_not_alias(painted):
    board = np.broadcast_to(np.indices((224, 288)).sum(0) % 2 * 255, (3, 224, 288)).astype(np.uint8)
    sdata, _ = painted(image=board)
    pp.extract_patches(sdata, mpp=3.3, patch_px=8)
    assert np.ptp(sdata["table"].obsm["patches"].astype(int)) < 30


def counted(sdata, chunk):
    """Replace the image by one that counts how often each chunk is computed."""
    reads = []
    whole = np.asarray(sdata["s_image"])

    def read(block_info=None):
        (_, (y0, y1), (x0, x1)) = block_info[None]["array-location"]
        reads.append((y0, x0))
        return whole[:, y0:y1, x0:x1]

    def cuts(n):
        return tuple([chunk] * (n // chunk) + ([n % chunk] if n % chunk else []))

    lazy = da.map_blocks(
        read,
        chunks=((3,), cuts(whole.shape[1]), cuts(whole.shape[2])),
        dtype=np.uint8,
        meta=np.empty((0, 0, 0), np.uint8),
    )
    reads.clear()
    image = Image2DModel.parse(lazy, dims=("c", "y", "x"), c_coords=list("rgb"), transformations={"cs": Identity()})
    reads.clear()
    new = SpatialData(images={"s_image": image}, shapes=dict(sdata.shapes), tables={"table": sdata["table"].copy()})
    return new, reads


@pytest.mark.parametrize("max_ram_gb", [4.0, 1e-5, 1e-9])
def test_each_chunk_is_read_once_whatever_the_memory(painted, max_ram_gb):
    sdata, colours = painted()
    lazy, reads = counted(sdata, 50)
    pp.extract_patches(lazy, **FIELD, source_mpp=0.5, max_ram_gb=max_ram_gb)
    np.testing.assert_array_equal(lazy["table"].obsm["patches"][:, 3, 12], colours)
    assert len(reads) == len(set(reads)) > 4


def test_store_holds_the_same_patches(painted, tmp_path):
    sdata, _ = painted(chunks=50)
    pp.extract_patches(sdata, **FIELD)
    wanted = sdata["table"].obsm["patches"]
    sdata.shapes["s_spots"].loc[103, "geometry"] = sdata.shapes["s_spots"].geometry.loc[103].__class__(-900, 0)
    pp.extract_patches(sdata, **FIELD, store=tmp_path / "p.zarr")
    table = sdata["table"]
    assert "patches" not in table.obsm
    assert patch_meta(table)["store"] == str(tmp_path / "p.zarr")
    got = get_patches(table)
    assert got.shape == (12, 16, 16, 3)
    keep = np.arange(12) != 3
    np.testing.assert_array_equal(np.asarray(got)[keep], wanted[keep])
    assert (got[3] == 255).all()
    np.testing.assert_array_equal(get_patches(table[[7, 2]])[:], wanted[[7, 2]])  # by name, not by position
    # once more: it is complete, nothing is written again
    pp.extract_patches(sdata, **FIELD, store=tmp_path / "p.zarr")


def test_an_interrupted_store_goes_on_and_is_never_half_valid(painted, tmp_path, monkeypatch, fingerprint):
    sdata, colours = painted(chunks=50)
    before = fingerprint(sdata["table"])
    monkeypatch.setattr("c2lst.io._writer.CHUNK_BYTES", 2 * 16 * 16 * 3)
    flush, calls = PatchWriter._flush, []

    def dies(self, rows):
        calls.append(len(rows))
        if len(calls) == 2:
            raise RuntimeError("power cut")
        flush(self, rows)

    # batches of 3 windows, chunks of 2 rows
    monkeypatch.setattr("c2lst.pp._plan.cut", lambda *a, **k: cut(*a, **{**k, "batch": 3}))

    with monkeypatch.context() as patch:
        patch.setattr(PatchWriter, "_flush", dies)
        with pytest.raises(RuntimeError, match="power cut"):
            pp.extract_patches(sdata, **FIELD, store=tmp_path / "p.zarr")
    assert fingerprint(sdata["table"]) == before
    with pytest.raises(ValueError, match="half written: 2 of 12"):
        read_patches(tmp_path / "p.zarr")
    with pytest.raises(ValueError, match="patch_px=16 there, 8 here"):
        pp.extract_patches(sdata, mpp=2.0, patch_px=8, store=tmp_path / "p.zarr")
    calls.clear()
    monkeypatch.setattr(PatchWriter, "_flush", lambda self, rows: (calls.append(len(rows)), flush(self, rows)))
    pp.extract_patches(sdata, **FIELD, store=tmp_path / "p.zarr")
    assert sum(calls) == 10  # the first two were there
    np.testing.assert_array_equal(get_patches(sdata["table"])[:][:, 8, 8], colours)


def test_a_store_of_another_image_is_refused(painted, tmp_path):
    sdata, _ = painted()
    pp.extract_patches(sdata, **FIELD, store=tmp_path / "p.zarr")
    other, _ = painted(image=255 - np.asarray(sdata["s_image"]))
    with pytest.raises(ValueError, match="another image"):
        pp.extract_patches(other, **FIELD, store=tmp_path / "p.zarr")
    assert "c2lst_valid" not in other["table"].obs


def test_lists_dicts_and_copies(painted, tmp_path):
    a, colours = painted(name="a")
    b, _ = painted(name="b", rows=2)
    got = pp.extract_patches([a, b], **FIELD, copy=True)
    assert isinstance(got, list)
    assert "patches" not in a["table"].obsm
    assert got[1]["table"].obsm["patches"].shape[0] == 8
    np.testing.assert_array_equal(got[0]["table"].obsm["patches"][:, 8, 8], colours)
    pp.extract_patches({"x": a, "y": b}, **FIELD, store=tmp_path / "all")
    assert sorted(p.name for p in (tmp_path / "all").iterdir()) == ["x", "y"]
    assert get_patches(b["table"]).shape[0] == 8


def test_only_what_is_announced_changes(painted, fingerprint):
    sdata, _ = painted()
    before, image = fingerprint(sdata["table"]), np.asarray(sdata["s_image"]).copy()
    pp.extract_patches(sdata, **FIELD)
    after = fingerprint(sdata["table"])
    assert {k for k in after if after[k] != before.get(k)} == {"obs/c2lst_valid", "obsm/patches", "uns/c2lst"}
    np.testing.assert_array_equal(np.asarray(sdata["s_image"]), image)
    assert patch_meta(sdata["table"]) == {
        "mpp": 1.0,
        "source_mpp": 0.5,
        "patch_px": 16,
        "field_um": 16.0,
        "image_key": "s_image",
        "coordinate_system": "cs",
        "level": 0,
        "store": None,
    }


def test_result_survives_a_file(painted, tmp_path):
    sdata, _ = painted()
    pp.extract_patches(sdata, **FIELD)
    sdata["table"].write_h5ad(tmp_path / "t.h5ad")
    back = ad.read_h5ad(tmp_path / "t.h5ad")
    assert patch_meta(back) == patch_meta(sdata["table"])
    sdata.write(tmp_path / "s.zarr")
    back = read_zarr(tmp_path / "s.zarr")
    np.testing.assert_array_equal(back["table"].obsm["patches"], sdata["table"].obsm["patches"])
    again = pp.extract_patches(back, **FIELD, copy=True)
    np.testing.assert_array_equal(again["table"].obsm["patches"], sdata["table"].obsm["patches"])


def test_an_opaque_alpha_channel_is_dropped(painted):
    sdata, colours = painted()
    rgb = np.asarray(sdata["s_image"])
    rgba, _ = painted(image=np.concatenate([rgb, np.full_like(rgb[:1], 255)]))
    pp.extract_patches(rgba, **FIELD)
    np.testing.assert_array_equal(rgba["table"].obsm["patches"][:, 8, 8], colours)


# what bad input gets -------------------------------------------------------------------------------------------------


def turned(degrees):
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return Affine([[c, -s, 0], [s, c, 0], [0, 0, 1]], input_axes=("x", "y"), output_axes=("x", "y"))


def rotate(s):
    set_transformation(s.shapes["s_spots"], turned(5), "cs")


def mirror(s):
    set_transformation(s.shapes["s_spots"], Scale([-1, 1], axes=("x", "y")), "cs")


def stretch(s):
    set_transformation(s.shapes["s_spots"], Scale([1.01, 1.0], axes=("x", "y")), "cs")


def part(s):
    set_transformation(s.shapes["s_spots"], {"elsewhere": Identity()}, set_all=True)


def disagree(s):
    set_transformation(s.shapes["s_spots"], Scale([2, 2], axes=("x", "y")), "other")
    set_transformation(s["s_image"], Identity(), "other")


def second(s):
    s["s_image_2"] = s["s_image"].copy()


def away(s):
    set_transformation(s.shapes["s_spots"], Scale([1000, 1000], axes=("x", "y")), "cs")


def replace_image(s, pixels, **kwargs):
    del s.images["s_image"]
    s["s_image"] = Image2DModel.parse(pixels, dims=("c", "y", "x"), transformations={"cs": Identity()}, **kwargs)


def float_image(s):
    replace_image(s, np.asarray(s["s_image"]) / 255)


def uint16_image(s):
    replace_image(s, np.asarray(s["s_image"]).astype(np.uint16) * 257)


def grey(s):
    replace_image(s, np.asarray(s["s_image"])[:1])


def glassy(s):
    rgb = np.asarray(s["s_image"])
    replace_image(s, np.concatenate([rgb, rgb[:1]]), c_coords=list("rgba"))


def stains(s):
    rgb = np.asarray(s["s_image"])
    replace_image(s, np.concatenate([rgb, rgb[:2]]))


def strings(s):
    shapes = s.shapes["s_spots"]
    shapes.index = shapes.index.astype(str)


def unannotated(s):
    del s["table"].uns["spatialdata_attrs"]


def unscaled(s):
    del s.attrs["c2lst_source_mpp"]
    del s["table"].obs["array_row"]


def no_image(s):
    del s.images["s_image"]


def doubled(s):
    s.shapes["s_spots"].index = [100] * 12


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("spoil", "kwargs", "error", "match"),
    [
        (rotate, {}, ValueError, r"rotated.*5\.00 degrees.*spatialdata\.transform"),
        (mirror, {}, ValueError, "mirrored"),
        (stretch, {}, ValueError, r"x \(1\.01\) and y \(1\)"),
        (part, {}, ValueError, r"No image shares a coordinate system.*elsewhere.*set_transformation"),
        (part, {"image_key": "s_image"}, ValueError, "share no coordinate system"),
        (disagree, {}, ValueError, "coordinate_system="),
        (second, {}, ValueError, r"'s_image', 's_image_2'.*image_key="),
        (away, {}, ValueError, r"No spot of 's_spots' lies in the image.*288 x 224"),
        (float_image, {}, TypeError, r"float64.*255"),
        (uint16_image, {}, TypeError, r"uint16.*257"),
        (grey, {}, ValueError, r"grey.*repeat"),
        (glassy, {}, ValueError, "RGBA and not opaque"),
        (stains, {}, ValueError, "5 channels"),
        (strings, {}, ValueError, r"spot_id.*int64"),
        (doubled, {}, ValueError, "twice"),
        (unannotated, {}, ValueError, r"TableModel\.parse"),
        (unscaled, {}, ValueError, r"how many microns.*source_mpp="),
        (no_image, {}, ValueError, "no image"),
        (None, {"image_key": "nope"}, KeyError, "s_image"),
        (None, {"coordinate_system": "nope"}, KeyError, "'cs'"),
        (None, {"mpp": 0.25}, ValueError, r"mpp=0\.25 .*finer.*0\.5 um/px.*mpp=0\.5 or more"),
        (None, {"table_key": "nope"}, KeyError, "'table'"),
        (None, {"mpp": -1}, ValueError, "mpp"),
        (None, {"mpp": "2"}, TypeError, "mpp"),
        (None, {"patch_px": 16.5}, TypeError, "patch_px"),
        (None, {"pad": "mirror"}, ValueError, "reflect"),
        (None, {"source_mpp": 0}, ValueError, "source_mpp"),
    ],
)
def test_bad_input_is_named_and_nothing_is_written(painted, fingerprint, spoil, kwargs, error, match):
    sdata, _ = painted()
    if spoil is not None:
        spoil(sdata)
    before = fingerprint(sdata["table"])
    with pytest.raises(error, match=f"(?s){match}"):
        pp.extract_patches(sdata, **{**FIELD, **kwargs})
    assert fingerprint(sdata["table"]) == before


def test_one_bad_section_leaves_all_as_they_were(painted, fingerprint):
    a, _ = painted(name="a")
    b, _ = painted(name="s")
    rotate(b)
    before = fingerprint(a["table"])
    with pytest.raises(ValueError, match="rotated"):
        pp.extract_patches([a, b], **FIELD)
    assert fingerprint(a["table"]) == before


def test_an_anndata_has_no_image(painted):
    sdata, _ = painted()
    with pytest.raises(TypeError, match="pass the SpatialData"):
        pp.extract_patches(sdata["table"], **FIELD)


def test_a_named_image_is_taken_and_a_scalar_scale_is_not_guessed_onto_it(painted, caplog):
    sdata, _ = painted()
    sdata["half"] = Image2DModel.parse(
        np.asarray(sdata["s_image"])[:, ::2, ::2],
        dims=("c", "y", "x"),
        c_coords=list("rgb"),
        transformations={"cs": Scale([2, 2], axes=("x", "y"))},
    )
    for key in ("array_row", "array_col"):
        del sdata["table"].obs[key]
    with pytest.raises(ValueError, match="how many microns"), caplog.at_level(logging.WARNING, "c2lst"):
        pp.extract_patches(sdata, **FIELD, image_key="half")
    assert "does not say which of the images" in caplog.text
    sdata.attrs["c2lst_source_mpp"] = {"half": 1.0, "s_image": 0.5}
    pp.extract_patches(sdata, **FIELD, image_key="half")
    assert patch_meta(sdata["table"])["source_mpp"] == 1.0


def test_microns_per_pixel_of_spaceranger_are_those_of_the_full_resolution(painted):
    sdata, _ = painted(layout="visium", source_mpp=None)
    sdata["table"].uns["spatial"] = {"lib": {"scalefactors": {"microns_per_pixel": 0.125}}}
    pp.extract_patches(sdata, **FIELD)
    assert patch_meta(sdata["table"])["source_mpp"] == pytest.approx(0.5)


def test_two_regions_in_one_table(painted):
    import spatialdata
    from spatialdata.models import TableModel

    a, colours = painted(name="a")
    b, more = painted(name="b", rows=2)
    table = ad.concat([a["table"], b["table"]])
    table.obs["region"] = table.obs["region"].astype("category")
    table = TableModel.parse(table, region=["a_spots", "b_spots"], region_key="region", instance_key="spot_id")
    set_transformation(b["b_image"], {"cs_b": Identity()}, set_all=True)
    set_transformation(b.shapes["b_spots"], {"cs_b": Identity()}, set_all=True)
    both = spatialdata.SpatialData(
        images={**a.images, **b.images}, shapes={**a.shapes, **b.shapes}, tables={"table": table}
    )
    pp.extract_patches(both, **FIELD, source_mpp=0.5)
    np.testing.assert_array_equal(both["table"].obsm["patches"][:, 8, 8], np.concatenate([colours, more]))
    assert patch_meta(both["table"])["image_key"] == ["a_image", "b_image"]


def test_polygons_are_cut_around_their_centroid(painted):
    sdata, colours = painted()
    circles = sdata.shapes["s_spots"]
    boxes = circles.copy().drop(columns="radius")
    boxes["geometry"] = circles.geometry.buffer(10, cap_style="square")
    new = SpatialData(
        images=dict(sdata.images),
        shapes={"s_spots": ShapesModel.parse(boxes)},
        tables={"table": sdata["table"].copy()},
    )
    pp.extract_patches(new, **FIELD, source_mpp=0.5)
    np.testing.assert_array_equal(new["table"].obsm["patches"][:, 8, 8], colours)


@pytest.mark.filterwarnings("ignore")
def test_a_spaceranger_folder(tmp_path):
    spatialdata_io = pytest.importorskip("spatialdata_io")
    from c2lst import datasets

    folder = datasets.toy_spaceranger(tmp_path / "outs", n_spots=36)
    sdata = spatialdata_io.visium(folder, dataset_id="v", fullres_image_file="tissue_fullres_image.tif")
    with pytest.raises(ValueError, match="'v_full_image', 'v_hires_image', 'v_lowres_image'.*image_key="):
        pp.extract_patches(sdata, mpp=4.0, patch_px=16)
    for key in ("full", "hires", "lowres"):
        image = f"v_{key}_image"
        pp.extract_patches(sdata, mpp=4.01, patch_px=16, image_key=image, key_added=key)
        meta = patch_meta(sdata["table"], key)
        wanted = {"full": 1.0, "hires": 2.0, "lowres": 4.0}[key]
        assert meta["source_mpp"] == pytest.approx(wanted, rel=2e-3)  # from the pitch, not from 65 um spots
    full, hires = (sdata["table"].obsm[k].astype(float) for k in ("full", "hires"))
    assert np.corrcoef(full.ravel(), hires.ravel())[0, 1] > 0.95


@pytest.mark.her2st
def test_real_section(her2st_dir):
    from c2lst import datasets

    sdata = datasets.her2st("C2", path=her2st_dir)
    pp.extract_patches(sdata, mpp=2.0)
    table = sdata["table"]
    assert table.obsm["patches"].shape == (187, 64, 64, 3)
    assert table.obs["c2lst_valid"].all()
    assert patch_meta(table)["source_mpp"] == pytest.approx(0.688, rel=0.005)
    assert patch_meta(table)["level"] == 1
    # the window around a spot, from the image itself
    x, y = table.obsm["spatial"][50]
    image = np.asarray(sdata["image"]["scale0"]["image"])[:, int(y) - 90 : int(y) + 90, int(x) - 90 : int(x) + 90]
    assert np.abs(image.mean((1, 2)) - table.obsm["patches"][50].mean((0, 1))).max() < 3


def test_each_key_has_its_own_valid_spots(toy, copied):
    import c2lst as c2l

    def shifted():
        sdata = c2l.datasets.toy_tissue(40)
        (shapes,) = sdata.shapes
        sdata[shapes]["geometry"] = sdata[shapes].geometry.translate(-130, -130)
        return sdata

    for keys in (("wide", "patches"), ("patches", "wide")):
        sdata = shifted()
        for key in keys:
            pp.extract_patches(sdata, mpp={"wide": 8.0, "patches": 2.0}[key], patch_px=64, key_added=key)
        pp.select_genes(sdata, n_top=5)
        seen = {k: c2l.tl.fit_predictor(sdata, encoder="rgb", patch_key=k).card["n_spots"] for k in keys}
        assert seen == {"wide": 39, "patches": 40}


def test_a_field_of_view_larger_than_the_image_is_called_that():
    import c2lst as c2l

    with pytest.raises(ValueError, match="field of view of 1280 um .* lower mpp= or patch_px="):
        pp.extract_patches(c2l.datasets.toy_tissue(20), mpp=20.0)


def test_what_an_earlier_call_was_told_is_doubted_aloud(caplog):
    import c2lst as c2l

    sdata = c2l.datasets.toy_tissue(40)
    sdata["table"].uns["c2lst"].pop("source_mpp")
    sdata.attrs.pop("c2lst_source_mpp")
    pp.extract_patches(sdata, mpp=2.0, source_mpp=0.5)
    assert "earlier call" not in caplog.text
    pp.extract_patches(sdata, mpp=2.0)
    assert "0.5000 um per pixel, as an earlier call was told" in caplog.text
    assert "pass source_mpp=1.0000" in caplog.text
    caplog.clear()
    pp.extract_patches(sdata, mpp=2.0, source_mpp=1.0)
    pp.extract_patches(sdata, mpp=2.0)
    assert "earlier call" not in caplog.text


@pytest.fixture
def two_regions(painted):
    """One table of two regions, each in an image of its own; `system` is where the second lies."""
    import spatialdata

    def build(system="cs"):
        a, colours = painted(name="a", source_mpp=None)
        b, more = painted(name="b", rows=2, source_mpp=None)
        for element in (b["b_image"], b.shapes["b_spots"]):
            set_transformation(element, {system: Identity()}, set_all=True)
        both = spatialdata.concatenate([a, b], concatenate_tables=True)
        both.attrs["c2lst_source_mpp"] = {"a_image": 0.5, "b_image": 0.5}
        return both, colours, more

    return build


def test_regions_that_share_a_coordinate_system_name_an_image_each(two_regions):
    both, colours, more = two_regions()
    with pytest.raises(ValueError, match="one for each region: image_key={'a_spots': '...', 'b_spots': '...'}"):
        pp.extract_patches(both, **FIELD)
    with pytest.raises(KeyError, match=r"annotates the regions \['a_spots', 'b_spots'\]"):
        pp.extract_patches(both, **FIELD, image_key={"a_spots": "a_image"})
    pp.extract_patches(both, **FIELD, image_key={"a_spots": "a_image", "b_spots": "b_image"})
    np.testing.assert_array_equal(both["table"].obsm["patches"][:, 8, 8], np.concatenate([colours, more]))


@pytest.mark.parametrize("how", ["subset", "reversed"])
def test_what_is_noted_of_regions_outlives_a_subset(two_regions, how):
    both, *_ = two_regions("cs_b")
    pp.extract_patches(both, **FIELD)
    assert patch_meta(both["table"])["regions"] == ["a_spots", "b_spots"]
    if how == "subset":
        both = both.filter_by_coordinate_system("cs_b")
    else:
        both["table"] = both["table"][::-1].copy()
    pp.split(both)
    part = both["table"].obs["c2lst_split"]
    assert (part == "train").any()
    assert (part == "test").sum() == sum(round(0.2 * n) for n in both["table"].obs["region"].value_counts() if n)


@pytest.mark.parametrize("who", ["source_mpp= says", "attrs", "uns"])
def test_a_scale_that_the_pitch_contradicts_is_doubted_aloud(who, caplog):
    import c2lst as c2l

    sdata, told = c2l.datasets.toy_tissue(40), {}
    sdata["table"].uns["c2lst"].pop("source_mpp")
    sdata.attrs.pop("c2lst_source_mpp")
    if who == "attrs":
        sdata.attrs["c2lst_source_mpp"], who = 0.5, "as c2lst_source_mpp says"
    elif who == "uns":
        sdata["table"].uns["c2lst"]["source_mpp"], who = 0.5, "as uns['c2lst']['source_mpp'] says"
    else:
        told = {"source_mpp": 0.5}
    pp.extract_patches(sdata, mpp=2.0, **told)
    assert f"0.5000 um per pixel, {'as ' if told else ''}{who}; were its hexagonal array one of 100 um" in caplog.text
    assert "pass source_mpp=1.0000" in caplog.text
    caplog.clear()
    pp.split(sdata)  # the patches' own scale is not doubted again
    assert "array" not in caplog.text


def test_a_table_without_places_gets_those_of_its_shapes(painted, caplog):
    sdata, _ = painted()
    places = sdata["table"].obsm.pop("spatial")
    sdata["table"].obs["spot_id"] = np.where(np.arange(12) == 2, 999, np.arange(12) + 100)  # a row without its shape
    pp.extract_patches(sdata, **FIELD)
    got = sdata["table"].obsm["spatial"]
    assert np.isnan(got[2]).all()
    np.testing.assert_array_equal(np.delete(got, 2, 0), np.delete(places, 2, 0))
    assert sdata["table"].uns["c2lst"]["spatial_mpp"] == 0.5


def test_channels_go_by_their_names(painted, caplog):
    from spatialdata.models import Image2DModel

    sdata, colours = painted()
    pixels = sdata["s_image"].data.compute()
    for names, order in ((["blue", "green", "red"], [2, 1, 0]), (["DAPI", "CD45", "PanCK"], [0, 1, 2])):
        sdata["s_image"] = Image2DModel.parse(
            pixels[order], dims=("c", "y", "x"), c_coords=names, transformations={"cs": Identity()}
        )
        caplog.clear()
        pp.extract_patches(sdata, **FIELD)
        np.testing.assert_array_equal(sdata["table"].obsm["patches"][:, 8, 8], colours)
        assert ("taken for red, green and blue" in caplog.text) == (names[0] == "DAPI")


def test_a_table_of_labels_says_how_to_make_circles_of_them(painted):
    import pandas as pd
    import spatialdata
    from spatialdata.models import Labels2DModel, TableModel

    sdata, colours = painted()
    labels = np.zeros(sdata["s_image"].shape[1:], dtype=np.int64)
    for i, (x, y) in enumerate(sdata["table"].obsm["spatial"].astype(int)):
        labels[y - 8 : y + 8, x - 8 : x + 8] = i + 100
    sdata["cells"] = Labels2DModel.parse(labels, dims=("y", "x"))
    set_transformation(sdata["s_image"], Identity(), "global")
    table = sdata["table"].copy()
    table.obs["region"] = pd.Categorical(["cells"] * table.n_obs)
    sdata["table"] = TableModel.parse(
        table, region="cells", region_key="region", instance_key="spot_id", overwrite_metadata=True
    )
    with pytest.raises(KeyError) as caught:
        pp.extract_patches(sdata, **FIELD)
    said = caught.value.args[0]
    code = said.split("Make circles of them: ")[1].rstrip(".")
    run = {"sdata": sdata, "spatialdata": spatialdata, "pandas": pd, "table_key": "table", "n_obs": table.n_obs}
    for line in code.replace("`, `", "\n").strip("`").splitlines():
        exec(line, run)
    pp.extract_patches(sdata, **FIELD)
    np.testing.assert_array_equal(sdata["table"].obsm["patches"][:, 8, 8], colours)


def test_a_concatenation_that_lost_the_scale_is_told_how_to_keep_it(painted):
    a, _ = painted(name="a")
    b, _ = painted(name="b")
    pp.extract_patches([a, b], **FIELD)
    with pytest.raises(KeyError, match="uns_merge='same', merge='same'"):
        patch_meta(ad.concat([a["table"], b["table"]]))
    kept = ad.concat([a["table"], b["table"]], uns_merge="same", merge="same")
    assert patch_meta(kept)["mpp"] == FIELD["mpp"]
