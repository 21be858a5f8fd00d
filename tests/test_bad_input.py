"""What bad input gets: the right exception, the object, the key, what exists, the mending call; nothing is changed."""

from __future__ import annotations

import hashlib
import logging
from types import SimpleNamespace

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from spatialdata.models import Image2DModel, ShapesModel
from spatialdata.transformations import Affine, Identity, Scale, get_transformation, set_transformation

import c2lst as c2l

FIELD = {"mpp": 2.0, "patch_px": 64}
EXTRACT = r"c2lst\.pp\.extract_patches\(sdata, mpp="


def digest(values) -> str:
    values = values.toarray() if hasattr(values, "toarray") else np.asarray(values)
    raw = values.tobytes() if values.dtype != object else repr(values.tolist()).encode()
    return f"{values.dtype} {values.shape} {hashlib.sha256(np.ascontiguousarray(raw)).hexdigest()}"


def of_table(table: ad.AnnData) -> dict[str, str]:
    out = {"X": digest(table.X), "names": repr((list(table.obs_names), list(table.var_names)))}
    for slot in ("obs", "var"):
        frame = getattr(table, slot)
        out[slot] = repr([(c, str(frame[c].dtype), frame[c].tolist()) for c in frame])
    for slot in ("obsm", "layers"):
        out |= {f"{slot}/{k}": digest(v) for k, v in getattr(table, slot).items()}
    out["uns"] = repr(dict(table.uns))
    return out


def state(thing) -> dict[str, str]:
    """Everything an object holds, as something that can be compared."""
    if isinstance(thing, ad.AnnData):
        return of_table(thing)
    out = {"attrs": repr(thing.attrs), "elements": repr(sorted(name for _, name, _ in thing.gen_elements()))}
    for name, table in thing.tables.items():
        out |= {f"{name}/{k}": v for k, v in of_table(table).items()}
    for name, shapes in thing.shapes.items():
        xy = np.column_stack([shapes.geometry.centroid.x, shapes.geometry.centroid.y])
        out[f"{name}/at"] = digest(xy) + repr((list(shapes.index), get_transformation(shapes, get_all=True)))
    for name, image in thing.images.items():
        level = image["scale0"]["image"] if hasattr(image, "children") else image
        out[f"{name}/pixels"] = digest(level.data.compute()) + repr(get_transformation(image, get_all=True))
    return out


def pixels(s) -> np.ndarray:
    image = s["image"]
    return np.asarray(image["scale0"]["image"] if hasattr(image, "children") else image)


def new_image(s, values, **kwargs):
    values = np.asarray(values)
    transformations = get_transformation(s["image"], get_all=True)
    del s.images["image"]
    s["image"] = Image2DModel.parse(values, dims=("c", "y", "x"), transformations=transformations, **kwargs)


def onto_image(s, transformation):
    set_transformation(s.shapes["spots"], {"global": transformation}, set_all=True)


def extract(s, **kwargs):
    return lambda: c2l.pp.extract_patches(s, **{**FIELD, **kwargs})


# each case spoils its copy of the toy section and returns the call that must refuse it -------------------------------


def no_image(s, w):
    del s.images["image"]
    return extract(s)


def two_images(s, w):
    s["other"] = s["image"].copy()
    return extract(s)


def unknown_image(s, w):
    return extract(s, image_key="hires")


def no_shared_system(s, w):
    set_transformation(s.shapes["spots"], {"elsewhere": Identity()}, set_all=True)
    return extract(s)


def rotated(s, w):
    c, n = np.cos(0.1), np.sin(0.1)
    onto_image(s, Affine([[c, -n, 0], [n, c, 0], [0, 0, 1]], input_axes=("x", "y"), output_axes=("x", "y")))
    return extract(s)


def anisotropic(s, w):
    onto_image(s, Scale([1.02, 1.0], axes=("x", "y")))
    return extract(s)


def finer_than_the_image(s, w):
    return extract(s, mpp=0.01)


def unknown_scale(s, w):
    s.attrs.pop("c2lst_source_mpp", None)
    s["table"].uns.pop("c2lst", None)
    s["table"].obs = s["table"].obs.drop(columns=["array_row", "array_col", "x", "y"], errors="ignore")
    return extract(s)


def all_spots_outside(s, w):
    onto_image(s, Scale([1000, 1000], axes=("x", "y")))
    return extract(s)


def glassy_rgba(s, w):
    rgb = pixels(s)
    new_image(s, np.concatenate([rgb, rgb[:1]]), c_coords=list("rgba"))
    return extract(s)


def uint16_image(s, w):
    new_image(s, pixels(s).astype(np.uint16) * 257)
    return extract(s)


def float_image(s, w):
    new_image(s, pixels(s) / 255)
    return extract(s)


def grey_image(s, w):
    new_image(s, pixels(s)[:1])
    return extract(s)


def unknown_table(s, w):
    return extract(s, table_key="spots")


def table_without_image(s, w):
    return extract(s["table"])


def empty_table(s, w):
    nothing = s["table"][:0].copy()
    return lambda: c2l.pp.select_genes(nothing)


def one_spot(s, w):
    one = s["table"][:1].copy()
    return lambda: c2l.tl.adapt(one, "toy", steps=1)


def too_few_for_a_predictor(s, w):
    three = s["table"][:3].copy()
    return lambda: c2l.tl.fit_predictor(three, encoder="rgb")


def duplicate_genes(s, w):
    names = s["table"].var_names.tolist()
    s["table"].var_names = [names[1], *names[1:]]
    return lambda: c2l.pp.select_genes(s)


def duplicate_spots(s, w):
    table = s["table"].copy()
    table.obs_names = [table.obs_names[1], *table.obs_names[1:]]
    return lambda: c2l.tl.fit_predictor(table, encoder="rgb")


def counts(name, change):
    def case(s, w):
        x = s["table"].X
        x = x.toarray() if hasattr(x, "toarray") else np.array(x)
        s["table"].X = change(x.astype(np.float32))
        s["table"].layers["raw"] = x
        return lambda: c2l.tl.adapt(s, "toy", steps=1)

    case.__name__ = name
    return case


def unknown_layer(s, w):
    return lambda: c2l.tl.fit_predictor(s, encoder="rgb", layer="raw")


def no_panel(s, w):
    del s["table"].var["c2lst_genes"]
    return lambda: c2l.tl.adapt(s, "toy", steps=1)


def no_patches(s, w):
    return lambda: c2l.tl.adapt(s, "toy", steps=1, patch_key="patches_20x")


def no_subset(s, w):
    return lambda: c2l.tl.adapt(s, "toy", steps=1, subset="c2lst_split")


def an_empty_subset(s, w):
    s["table"].obs["none"] = False
    return lambda: c2l.tl.augment(s, w.local, n_obs=2, subset="none")


def unknown_modulation(s, w):
    return lambda: c2l.tl.adapt(s, "toy", modulation="hyper")


def unknown_gene_encoder(s, w):
    return lambda: c2l.tl.adapt(s, "toy", gene_encoder="vae")


def unknown_central(s, w):
    return lambda: c2l.tl.adapt(s, "uni")


def scvi_of_few(s, w):
    few = s["table"][:15].copy()
    return lambda: c2l.tl.adapt(few, "toy", gene_encoder="scvi", steps=1)


def another_scale_than_the_central_model(s, w):
    s["table"].uns["c2lst"]["patches"]["patches"]["mpp"] = 1.0
    return lambda: c2l.tl.adapt(s, "toy", steps=1)


def pool_of_another_size(s, w):
    return lambda: c2l.tl.adapt(s, "toy", steps=1, pool=np.zeros((2, 32, 32, 3), np.uint8))


def float_pool(s, w):
    return lambda: c2l.tl.adapt(s, "toy", steps=1, pool=np.zeros((2, 64, 64, 3)))


def unknown_strategy(s, w):
    return lambda: c2l.tl.augment(s, w.local, strategy="smote")


def no_observations(s, w):
    return lambda: c2l.tl.augment(s, w.local, n_obs=0)


def negative_guidance(s, w):
    return lambda: c2l.tl.augment(s, w.local, n_obs=2, guidance=-0.5)


def panel_missing_at_augment(s, w):
    table = s["table"][:, [g for g in s["table"].var_names if g != w.local.genes[0]]].copy()
    return lambda: c2l.tl.augment(table, w.local, n_obs=2)


def unknown_kind(s, w):
    return lambda: c2l.tl.fit_predictor(s, kind="forest")


def unknown_encoder(s, w):
    return lambda: c2l.tl.fit_predictor(s, encoder="uni")


def whitened_without_pool(s, w):
    return lambda: c2l.tl.fit_predictor(s, kind="ridge-whitened", encoder="rgb")


def synthetic_of_another_panel(s, w):
    other = w.synthetic[:, 1:].copy()
    return lambda: c2l.tl.fit_predictor(s, encoder="rgb", synthetic=other)


def real_as_synthetic(s, w):
    return lambda: c2l.tl.fit_predictor(s, encoder="rgb", synthetic=s["table"])


def a_list_as_synthetic(s, w):
    return lambda: c2l.tl.embedding_overlap(s, [w.synthetic])


def panel_missing_at_predict(s, w):
    table = s["table"][:, [g for g in s["table"].var_names if g != w.predictor.genes[0]]].copy()
    return lambda: c2l.tl.predict(table, w.predictor)


def another_scale_than_the_predictor(s, w):
    s["table"].uns["c2lst"]["patches"]["patches"]["patch_px"] = 32
    return lambda: c2l.tl.predict(s, w.predictor)


def unmeasured_prediction(s, w):
    return lambda: c2l.tl.score(s)


def one_section_on_both_sides(s, w):
    return lambda: c2l.tl.learning_curve(s, s, encoder="rgb", arms=("real",), predictors=("ridge",))


def unknown_arm(s, w):
    return lambda: c2l.tl.learning_curve(s, s, arms=("real", "magic"))


def not_a_section(s, w):
    return lambda: c2l.tl.adapt("C2.h5ad", "toy")


def float_patches(s, w):
    s["table"].obsm["patches"] = s["table"].obsm["patches"].astype(np.float32) / 255
    return lambda: c2l.tl.adapt(s, "toy", steps=1)


def unknown_gene_in_a_sweep(s, w):
    return lambda: c2l.tl.gene_sweep(w.local, "ERBB9", values=[0], base=[1.0] * 20)


def no_split_without_gap(s, w):
    del s["table"].uns["c2lst"]
    return lambda: c2l.pp.split(s)


def a_share_of_two(s, w):
    return lambda: c2l.pp.subsample(s, 2.0)


def truncated_weights(s, w):
    path = c2l.models.CentralModel.from_pretrained("toy").save_pretrained(w.tmp_path / "m")
    weights = path / "vae" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    return lambda: c2l.tl.adapt(s, path, steps=1)


def a_pickle_as_a_model(s, w):
    path = w.tmp_path / "model.pt"
    path.write_bytes(b"\x80\x04.")
    return lambda: c2l.tl.adapt(s, path, steps=1)


def panel_mismatch_at_load(s, w):
    path = w.local.save(w.tmp_path / "local")
    text = (path / "local.json").read_text()
    (path / "local.json").write_text(text.replace(f' "{w.local.genes[0]}",\n', ""))
    return lambda: c2l.models.LocalModel.load(path)


def an_existing_target(s, w):
    path = w.local.save(w.tmp_path / "local")
    return lambda: w.local.save(path)


CASES = [
    (no_image, ValueError, "no image to cut patches from; add one"),
    (two_images, ValueError, r"Several images.*'image'.*'other'.*image_key="),
    (unknown_image, KeyError, r"no image 'hires'; it has \['image'\]"),
    (no_shared_system, ValueError, r"No image shares a coordinate system.*'elsewhere'.*'global'.*set_transformation"),
    (rotated, ValueError, r"'spots' are rotated.*'image' \(angle 5\.73 degrees.*spatialdata\.transform"),
    (anisotropic, ValueError, r"along x \(1\.02\) and y \(1\).*'image'"),
    (finer_than_the_image, ValueError, r"mpp=0\.01 um/px is finer than the image 'image'.*or more"),
    (unknown_scale, ValueError, r"how many microns a pixel of the image 'image' is; pass source_mpp=.*infer_mpp"),
    (all_spots_outside, ValueError, "No spot of 'spots' lies in the image 'image'.*820 x 840"),
    (glassy_rgba, ValueError, r"'image' is RGBA and not opaque.*parse"),
    (uint16_image, TypeError, r"'image' is uint16.*257"),
    (float_image, TypeError, r"'image' is float64.*255"),
    (grey_image, ValueError, r"'image' is grey.*repeat"),
    (unknown_table, KeyError, r"no table 'spots'; it has \['table'\].*table_key="),
    (table_without_image, TypeError, r"AnnData, which has no image.*pass the SpatialData"),
    (empty_table, ValueError, r"The table has no spots \(n_obs = 0\)"),
    (one_spot, ValueError, "1 spots .*too few for adapt, which needs at least 2"),
    (too_few_for_a_predictor, ValueError, "3 spots .*too few for fit_predictor, which needs at least 4"),
    (duplicate_genes, ValueError, r"Genes come twice in var_names.*var_names_make_unique"),
    (duplicate_spots, ValueError, "obs_names .*not unique.*obs_names_make_unique"),
    (counts("normalised_counts", np.log1p), ValueError, r"X has fractional values.*layer=.*'raw'"),
    (counts("negative_counts", lambda x: -x), ValueError, "X has negative values.*layer="),
    (counts("counts_of_nan", lambda x: np.where(x == x.max(), np.nan, x)), ValueError, "X has NaN or infinite"),
    (unknown_layer, KeyError, "no layer 'raw'; it has.*and X"),
    (no_panel, KeyError, r"var has no column 'c2lst_genes'; it has.*c2lst\.pp\.select_genes\(data\)"),
    (no_patches, KeyError, rf"no patches 'patches_20x'.*'patches'.*{EXTRACT}"),
    (no_subset, KeyError, r"obs has no column 'c2lst_split' \(subset=\); it has.*c2lst\.pp\.split"),
    (an_empty_subset, ValueError, r"obs\['none'\] selects no spot; its values are \['False'\]"),
    (unknown_modulation, ValueError, r"modulation='hyper'.*\['film', 'lora'\]"),
    (unknown_gene_encoder, ValueError, r"gene_encoder='vae'.*\['pca', 'mlp', 'scvi'\]"),
    (unknown_central, KeyError, r"No central model 'uni'.*'toy'.*register_central"),
    (scvi_of_few, ValueError, "at least 20 spots, here are 15.*'pca'"),
    (another_scale_than_the_central_model, ValueError, rf"64 px at 1 um/px, the central model 'toy'.*{EXTRACT}2"),
    (pool_of_another_size, ValueError, r"pool has patches of 32 x 32.*tissue_patches\(sdata, mpp=2, patch_px=64\)"),
    (float_pool, TypeError, "pool must be uint8.*not float64"),
    (unknown_strategy, ValueError, r"strategy='smote'.*\['resample', 'interpolate', 'scvi'\]"),
    (no_observations, ValueError, "n_obs must be above 0, not 0"),
    (negative_guidance, ValueError, r"guidance must be at least 0, not -0\.5"),
    (panel_missing_at_augment, KeyError, r"section 'toy0' lacks 1 of 20 genes of the panel: \["),
    (unknown_kind, ValueError, r"kind='forest'.*\['ridge', 'ridge-whitened', 'cnn'\]"),
    (unknown_encoder, KeyError, r"encoder='uni' is not registered.*'central'.*register_encoder"),
    (whitened_without_pool, ValueError, r"needs pool=.*c2lst\.pp\.tissue_patches"),
    (synthetic_of_another_panel, KeyError, r"another panel than var\['c2lst_genes'\].*in one of them only"),
    (real_as_synthetic, KeyError, r"synthetic\.obs has no column 'c2lst_parent'; it has.*c2lst\.tl\.augment"),
    (a_list_as_synthetic, TypeError, r"synthetic must be the AnnData that c2lst\.tl\.augment returns, not list"),
    (panel_missing_at_predict, KeyError, r"section 'toy0' lacks 1 of 20 genes.*check_genes=False"),
    (another_scale_than_the_predictor, ValueError, rf"32 px at 2 um/px, the predictor takes 64 px.*{EXTRACT}2"),
    (unmeasured_prediction, KeyError, r"'toy0' has no 'c2lst_predicted'; it has.*c2lst\.tl\.predict"),
    (one_section_on_both_sides, ValueError, r"\['toy0'\] are both in train and in test: that is leakage"),
    (unknown_arm, ValueError, "arms='magic'.*'real'"),
    (not_a_section, TypeError, "SpatialData or an AnnData.*not str"),
    (float_patches, TypeError, r"obsm\['patches'\] must be uint8.*not float32"),
    (unknown_gene_in_a_sweep, KeyError, "does not know.*'ERBB9'.*panel is"),
    (no_split_without_gap, ValueError, r"'toy0' has no patches 'patches'.*extract_patches.*gap_um="),
    (a_share_of_two, ValueError, r"fraction .*at most 1, not 2\.0"),
    (truncated_weights, ValueError, r"vae.*safetensors is not a whole safetensors file"),
    (a_pickle_as_a_model, ValueError, r"model\.pt is a pickle, which runs code when opened"),
    (panel_mismatch_at_load, ValueError, "names 19 genes .*takes 20: the panel does not match"),
    (an_existing_target, ValueError, "exists already; choose another path or pass overwrite=True"),
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("case", "error", "match"), CASES, ids=[c[0].__name__ for c in CASES])
def test_it_is_refused_by_name_and_nothing_changes(
    toy, copied, local, synthetic, predictor_rgb, tmp_path, monkeypatch, case, error, match
):
    import c2lst.train

    def trained(*_args, **_kwargs):
        pytest.fail("training had begun before the input was checked")

    s = copied(toy)
    w = SimpleNamespace(local=local, synthetic=synthetic.copy(), predictor=predictor_rgb, tmp_path=tmp_path)
    call = case(s, w)
    monkeypatch.setattr(c2lst.train, "fit", trained)
    monkeypatch.setattr(type(local), "sample", trained)
    before = state(s), state(w.synthetic)
    with pytest.raises(error, match=f"(?s){match}") as raised:
        call()
    assert (state(s), state(w.synthetic)) == before
    assert not isinstance(raised.value, AssertionError)
    assert len(str(raised.value)) < 1200


def test_spots_outside_and_without_a_place_are_kept_and_flagged(toy, copied, caplog):
    s = copied(toy)
    shapes = s.shapes["spots"]
    xy = np.column_stack([shapes.geometry.x, shapes.geometry.y])
    index, radius = shapes.index.to_numpy(), float(shapes.radius.iloc[0])
    xy[3] = [1e5, 1e5]  # outside; the fifth has no shape at all
    keep = np.arange(len(xy)) != 5
    transformations = get_transformation(shapes, get_all=True)
    del s.shapes["spots"]
    s.shapes["spots"] = ShapesModel.parse(
        xy[keep], geometry=0, radius=radius, index=index[keep], transformations=transformations
    )
    ids = s["table"].obs[s["table"].uns["spatialdata_attrs"]["instance_key"]].to_numpy()
    with caplog.at_level(logging.WARNING, "c2lst"):
        c2l.pp.extract_patches(s, **FIELD)
    table = s["table"]
    assert table.obs_names[~table.obs["c2lst_valid"]].tolist() == table.obs_names[np.isin(ids, index[[3, 5]])].tolist()
    assert (
        "2 of 32 spots get obs['c2lst_valid'] = False: 1 have no shape or position, 1 lie mostly outside" in caplog.text
    )
    predictor = c2l.tl.fit_predictor(s, encoder="rgb")
    assert predictor.card["n_spots"] == 30
    c2l.tl.predict(s, predictor)
    predicted = table.obsm["c2lst_predicted"]
    assert isinstance(predicted, pd.DataFrame)
    np.testing.assert_array_equal(predicted.isna().all(axis=1), ~table.obs["c2lst_valid"])


def test_coordinates_of_nan_are_kept_and_flagged(toy, copied):
    s = copied(toy)
    from shapely import Point

    geometry = s.shapes["spots"].geometry.copy()
    geometry.iloc[2] = Point(float("nan"), float("nan"))
    s.shapes["spots"]["geometry"] = geometry
    c2l.pp.extract_patches(s, **FIELD)
    assert (~s["table"].obs["c2lst_valid"]).sum() == 1


def test_there_are_many():
    assert len(CASES) >= 25
    assert all(issubclass(error, ValueError | KeyError | TypeError) for _, error, _ in CASES)
