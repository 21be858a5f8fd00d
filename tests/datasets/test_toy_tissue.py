import anndata as ad
import dask.array as da
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import spatialdata
from scipy.stats import spearmanr
from skimage.color import rgb2hed
from skimage.filters import threshold_otsu
from spatialdata.models import Image2DModel, PointsModel, ShapesModel, TableModel
from spatialdata.transformations import Identity, get_transformation

import c2lst as c2l
from c2lst._expression import expression


@pytest.fixture(scope="module")
def section():
    return c2l.datasets.toy_tissue(200, seed=3, nuclei=True)


@pytest.fixture(scope="module")
def small():
    return c2l.datasets.toy_tissue(25, seed=5)


def pixels(sdata, level=0):
    return np.asarray(sdata["image"][f"scale{level}"]["image"].data)


def fields(image, centres, half):
    return np.stack([image[round(y) - half : round(y) + half, round(x) - half : round(x) + half] for x, y in centres])


def program(table, name):
    return expression(table, table.var_names[table.var["program"] == name]).mean(axis=1)


# --- what it is ---------------------------------------------------------------------------------------------------
def test_elements_are_valid_and_share_one_coordinate_system(section):
    Image2DModel().validate(section["image"])
    ShapesModel.validate(section["spots"])
    PointsModel.validate(section["nuclei"])
    TableModel().validate(section["table"])
    for name in ("image", "spots", "nuclei"):
        assert get_transformation(section[name], get_all=True) == {"global": Identity()}


def test_image_is_chunked_uint8_in_three_levels_of_rounded_means(section):
    data = [section["image"][f"scale{k}"]["image"].data for k in range(3)]
    assert len(section["image"].children) == 3
    for d in data:
        assert isinstance(d, da.Array) and d.dtype == np.uint8 and max(d.chunksize) <= 512
    fine, mid, coarse = (np.asarray(d, dtype=float) for d in data)
    for a, b in ((fine, mid), (mid, coarse)):
        c, h, w = b.shape
        assert a.shape == (3, 2 * h, 2 * w)
        mean = a.reshape(c, h, 2, w, 2).mean(axis=(2, 4))
        assert np.array_equal(np.floor(mean + 0.5), b)


@pytest.mark.parametrize("n", [1, 2, 7, 25, 50])
def test_n_spots_is_exact_and_spots_lie_inside_the_image(n):
    sdata = c2l.datasets.toy_tissue(n, n_genes=20, mpp=4.0)
    xy = sdata["table"].obsm["spatial"] * 4.0
    _, h, w = pixels(sdata).shape
    assert sdata["table"].n_obs == len(sdata["spots"]) == n
    # a field of view of 224 um fits around every spot
    assert xy.min() >= 112 and (xy[:, 0] <= 4 * w - 112).all() and (xy[:, 1] <= 4 * h - 112).all()


@pytest.mark.parametrize("mpp", [1.0, 2.5])
def test_spots_are_55_um_wide_and_100_um_apart_on_a_hexagonal_array(mpp):
    sdata = c2l.datasets.toy_tissue(40, mpp=mpp)
    table, circles = sdata["table"], sdata["spots"]
    xy = table.obsm["spatial"]
    assert np.allclose(circles["radius"], 27.5 / mpp)
    assert np.allclose(np.stack([circles.geometry.x, circles.geometry.y], axis=1), xy)
    d = np.linalg.norm(xy[:, None] - xy, axis=2) * mpp
    np.fill_diagonal(d, np.inf)
    assert np.allclose(d.min(axis=1), 100.0)
    row, col = table.obs["array_row"], table.obs["array_col"]
    assert ((row + col) % 2 == 0).all() and min(row.min(), col.min()) >= 0
    assert np.allclose(np.polyfit(col, xy[:, 0], 1)[0], 50.0 / mpp)
    assert np.allclose(np.polyfit(row, xy[:, 1], 1)[0], 50.0 * np.sqrt(3) / mpp)


def test_scale_and_name_are_stored_where_they_are_looked_for(small):
    table = small["table"]
    assert small.attrs == {"c2lst_section": "toy0", "c2lst_source_mpp": 1.0}
    assert table.uns["c2lst_section"] == "toy0"
    assert table.uns["c2lst"]["source_mpp"] == 1.0
    assert table.obs_names.is_unique and table.obs_names.str.match(r"toy0_\d+x\d+$").all()


def test_counts_are_sparse_integers(section):
    x = section["table"].X
    assert sp.isspmatrix_csr(x) and x.dtype == np.int32 and x.min() >= 0
    assert not set(section["table"].layers) - {None}  # anndata 0.13 counts X among the layers
    assert 1500 < np.median(np.asarray(x.sum(axis=1))) < 9000


def test_spots_lie_on_tissue():
    for seed in range(3):
        sdata = c2l.datasets.toy_tissue(60, seed=seed, mpp=2.0)
        table = sdata["table"]
        image = pixels(sdata).transpose(1, 2, 0)
        glass = np.median(image[:20], axis=(0, 1)).min()
        dark = fields(image, table.obsm["spatial"], 13).min(axis=3).mean(axis=(1, 2))
        bare = table.obsm["compartments"][["fat", "lumen"]].sum(axis=1).to_numpy()
        assert (dark[bare < 0.3] < glass - 25).all()


def test_write_and_read_back(small, tmp_path):
    small.write(tmp_path / "small.zarr")
    back = spatialdata.read_zarr(tmp_path / "small.zarr")
    assert back.attrs["c2lst_source_mpp"] == 1.0
    assert np.array_equal(pixels(back), pixels(small))
    pd.testing.assert_frame_equal(back["table"].obsm["factors"], small["table"].obsm["factors"])
    small["table"].write_h5ad(tmp_path / "small.h5ad")
    again = ad.read_h5ad(tmp_path / "small.h5ad")
    assert (again.X != small["table"].X).nnz == 0
    assert again.uns["c2lst"]["source_mpp"] == 1.0


# --- seeds --------------------------------------------------------------------------------------------------------
def test_same_seed_same_bytes(small):
    again = c2l.datasets.toy_tissue(25, seed=5)
    assert np.array_equal(pixels(again), pixels(small))
    assert (again["table"].X != small["table"].X).nnz == 0
    pd.testing.assert_frame_equal(again["table"].obs, small["table"].obs)


def test_sections_differ_but_share_genes_and_the_first_is_the_lone_one(small):
    made = c2l.datasets.toy_tissue(25, sections=2, seed=5, name="mouse")
    assert [s.attrs["c2lst_section"] for s in made] == ["mouse0", "mouse1"]
    assert np.array_equal(pixels(made[0]), pixels(small))
    assert not np.array_equal(made[0]["table"].obsm["factors"], made[1]["table"].obsm["factors"])
    for other in (made[1], c2l.datasets.toy_tissue(25, seed=6)):
        pd.testing.assert_frame_equal(other["table"].var, small["table"].var)
    assert len(set(made[0]["table"].obs_names) & set(made[1]["table"].obs_names)) == 0


def test_fewer_genes_are_the_first_of_each_program():
    many, few = (c2l.datasets.toy_tissue(5, n_genes=n, mpp=4.0)["table"].var for n in (200, 60))
    assert set(few.index) <= set(many.index) and len(few) == 60
    loadings = [c for c in many if c.startswith("loading_")]
    pd.testing.assert_frame_equal(few[loadings], many.loc[few.index, loadings])
    assert c2l.datasets.toy_tissue(5, n_genes=1, mpp=4.0)["table"].n_vars == 1


def test_backed_gives_the_same_pixels_and_counts(tmp_path):
    kept = c2l.datasets.toy_tissue(30, seed=2, sections=2, n_genes=10, mpp=0.7)
    read = c2l.datasets.toy_tissue(30, seed=2, sections=2, n_genes=10, mpp=0.7, backed=tmp_path / "toy", progress=False)
    assert sorted(p.name for p in (tmp_path / "toy").iterdir()) == ["toy0.zarr", "toy1.zarr"]
    for a, b in zip(kept, read, strict=True):
        assert pixels(a).shape[1] > 1024  # several blocks
        assert b.is_backed() and b["image"]["scale0"]["image"].data.chunksize == (3, 512, 512)
        for level in range(3):
            assert np.array_equal(pixels(a, level), pixels(b, level))
        assert (a["table"].X != b["table"].X).nnz == 0
        assert b.attrs == a.attrs
        pd.testing.assert_frame_equal(a["table"].obs, b["table"].obs, check_dtype=False)


def test_a_broken_backed_run_leaves_nothing(tmp_path, monkeypatch):
    from c2lst.datasets import _toy_draw

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(_toy_draw.Painter, "block", stop)
    with pytest.raises(KeyboardInterrupt):
        c2l.datasets.toy_tissue(5, backed=tmp_path / "toy.zarr", progress=False)
    assert list(tmp_path.iterdir()) == []


def test_tissue_is_the_same_at_another_resolution():
    fine, coarse = (c2l.datasets.toy_tissue(6, seed=1, mpp=mpp) for mpp in (1.0, 2.0))
    assert np.array_equal(fine["table"].obsm["factors"], coarse["table"].obsm["factors"])
    assert (fine["table"].X != coarse["table"].X).nnz == 0
    a, b = pixels(fine, 1).astype(float), pixels(coarse).astype(float)
    _, h, w = (min(s) for s in zip(a.shape, b.shape, strict=True))
    a, b = a[:, :h, :w], b[:, :h, :w]
    assert np.corrcoef(a.ravel(), b.ravel())[0, 1] > 0.95
    assert abs(a.mean() - b.mean()) < 2


# --- ground truth -------------------------------------------------------------------------------------------------
def test_true_nuclei_follow_the_factors(section):
    table = section["table"]
    factors, n = table.obsm["factors"], table.obs["n_nuclei"]
    expected = 3000 * np.exp(0.7 * factors["nuclear_density"]) * np.pi * 27.5**2 / 1e6
    assert abs(n.sum() / expected.sum() - 1) < 0.03
    assert spearmanr(n, factors["nuclear_density"])[0] > 0.9
    points = section["nuclei"].compute()
    xy = table.obsm["spatial"]
    near = [np.hypot(points["x"] - x, points["y"] - y) <= 27.5 for x, y in xy]
    assert np.array_equal([m.sum() for m in near], n)
    some = np.flatnonzero(n >= 8)
    area = [np.log(points["area_um2"][near[i]]).mean() / 2 for i in some]
    assert spearmanr(area, factors["nuclear_size"].iloc[some])[0] > 0.85
    shape = [points["eccentricity"][near[i]].mean() for i in some]
    assert spearmanr(shape, factors["nuclear_elongation"].iloc[some])[0] > 0.8
    stain = [np.log(points["haematoxylin_od"][near[i]]).mean() for i in some]
    assert spearmanr(stain, factors["nuclear_stain"].iloc[some])[0] > 0.4


def test_fractions_sum_to_one_and_are_the_last_factors(section):
    fractions = section["table"].obsm["compartments"]
    assert np.allclose(fractions.sum(axis=1), 1)
    pd.testing.assert_frame_equal(section["table"].obsm["factors"][fractions.columns], fractions)


def test_nuclei_are_dark_and_fat_is_pale(section):
    image = pixels(section).transpose(1, 2, 0).astype(float)
    points = section["nuclei"].compute()
    x, y = points["x"].astype(int), points["y"].astype(int)
    assert (image[y, x, 0] < 200).mean() > 0.97  # red is what haematoxylin takes away
    table = section["table"]
    grey = fields(image, table.obsm["spatial"], 14).mean(axis=(1, 2, 3))
    fat = table.obsm["compartments"]["fat"]
    assert grey[fat > 0.9].mean() > grey[fat < 0.1].mean() + 30


@pytest.mark.parametrize("seed", [0, 3, 5])
def test_haematoxylin_area_follows_the_density_program(seed):
    sdata = c2l.datasets.toy_tissue(200, seed=seed)
    table = sdata["table"]
    h = rgb2hed(pixels(sdata, 1).transpose(1, 2, 0))[..., 0]
    area = fields(h > threshold_otsu(h), table.obsm["spatial"] / 2, 32).mean(axis=(1, 2))
    assert spearmanr(area, program(table, "DENS"))[0] > 0.7


def test_programs_follow_their_factors_and_noise_follows_none(section):
    table = section["table"]
    factors = table.obsm["factors"]
    pairs = {"DENS": "nuclear_density", "SIZE": "nuclear_size", "ELON": "nuclear_elongation", "CHRO": "nuclear_stain"}
    pairs |= {"TUMR": "tumour", "STRM": "stroma", "LYMP": "lymphoid", "FATT": "fat", "LUMN": "lumen"}
    for name, factor in pairs.items():
        # a straight line in the factors: programs share what the counts sum to
        value = program(table, name)
        rest = factors.drop(columns=[factor, "stroma"], errors="ignore")
        design = np.column_stack([np.ones(len(rest)), rest])
        own = factors[factor] - design @ np.linalg.lstsq(design, factors[factor], rcond=None)[0]
        left = value - design @ np.linalg.lstsq(design, value, rcond=None)[0]
        if own.std() > 0.02:  # fractions sum to 1: one of the five says nothing beyond the rest
            assert np.corrcoef(own, left)[0, 1] > 0.3, name
    noise = expression(table, table.var_names[table.var["program"] == "NOISE"])
    r = np.corrcoef(np.column_stack([noise, factors]).T)[: noise.shape[1], noise.shape[1] :]
    assert np.abs(r).mean() < 0.09  # 200 spots: 0.056 by chance
    assert np.isclose((table.var["program"] == "NOISE").mean(), 0.25)


def test_counts_follow_the_rates_of_the_docstring(section):
    table = section["table"]
    var, factors = table.var, table.obsm["factors"]
    loadings = var[[f"loading_{f}" for f in factors]].to_numpy()
    rate = np.exp(var["baseline"].to_numpy() + factors.to_numpy() @ loadings.T)
    signal = (var["program"] != "NOISE").to_numpy()
    share = np.where(signal, 0.75 * rate / rate[:, signal].sum(axis=1, keepdims=True), rate)
    assert np.allclose(share.sum(axis=1), 1)
    x = table.X.toarray()
    # the depth of a spot is not known: compare shares of the counts
    mean = share * x.sum(axis=1, keepdims=True)
    assert np.allclose(x.sum(axis=0) / mean.sum(axis=0), 1, atol=0.2)
    theta = var["dispersion"].to_numpy()
    excess = ((x - mean) ** 2 / (mean + mean**2 / theta)).mean()
    assert 0.85 < excess < 1.15


def features(image, centres):
    """Colour and texture of 64 px patches at 2 um/px."""
    p = fields(image, centres / 2, 32).astype(float)
    grey = p.mean(axis=3)
    gy, gx = np.gradient(grey, axis=(1, 2))
    coarse = grey.reshape(len(p), 16, 4, 16, 4).mean(axis=(2, 4))
    h = rgb2hed(p / 255)[..., 0]
    columns = [p.mean(axis=(1, 2)), p.std(axis=(1, 2)), np.percentile(grey, [5, 25, 50, 75, 95], axis=(1, 2)).T]
    rest = [np.hypot(gx, gy).mean(axis=(1, 2)), np.abs(gx).mean(axis=(1, 2)), coarse.std(axis=(1, 2))]
    rest += [h.mean(axis=(1, 2)), h.std(axis=(1, 2)), (h > 0.05).mean(axis=(1, 2)), (grey > 225).mean(axis=(1, 2))]
    return np.column_stack([*columns, *rest])


def test_expression_is_learnable_from_patches_and_more_so_from_more_spots():
    from sklearn.linear_model import RidgeCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    *train, test = c2l.datasets.toy_tissue(150, sections=3, seed=11)
    x = [features(pixels(s, 1).transpose(1, 2, 0), s["table"].obsm["spatial"]) for s in (*train, test)]
    y = [expression(s["table"], s["table"].var_names) for s in (*train, test)]
    xs, ys = np.concatenate(x[:-1]), np.concatenate(y[:-1])

    def score(rows):
        model = make_pipeline(StandardScaler(), RidgeCV(np.logspace(0, 4, 9))).fit(xs[rows], ys[rows])
        a, b = (v - v.mean(axis=0) for v in (model.predict(x[-1]), y[-1]))
        return (a * b).sum(axis=0) / np.sqrt((a**2).sum(axis=0) * (b**2).sum(axis=0) + 1e-12)

    rng = np.random.default_rng(0)
    many = score(np.arange(len(xs)))
    few = np.mean([score(rng.choice(len(xs), 30, replace=False)) for _ in range(4)], axis=0)
    best = np.argsort(-many)[:50]
    noise = (test["table"].var["program"] == "NOISE").to_numpy()
    assert 0.5 < many[best].mean() < 0.8
    assert few[best].mean() < many[best].mean() - 0.06
    assert abs(many[noise].mean()) < 0.05


# --- bad input ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("kwargs", "error", "words"),
    [
        ({"n_spots": 0}, ValueError, "n_spots"),
        ({"n_spots": 2.5}, TypeError, "n_spots"),
        ({"sections": 0}, ValueError, "sections"),
        ({"seed": -1}, ValueError, "seed"),
        ({"mpp": 0.0}, ValueError, "mpp"),
        ({"n_genes": 0}, ValueError, "n_genes"),
    ],
)
def test_bad_arguments_are_named(kwargs, error, words):
    with pytest.raises(error, match=words):
        c2l.datasets.toy_tissue(**kwargs)


def test_an_existing_store_is_not_overwritten(tmp_path):
    (tmp_path / "toy.zarr").mkdir()
    with pytest.raises(ValueError, match="exists already"):
        c2l.datasets.toy_tissue(5, backed=tmp_path / "toy.zarr")
