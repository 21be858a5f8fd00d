from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import Ridge

import c2lst as c2l
from c2lst._expression import expression
from c2lst.models._ridge import ALPHAS, TIE

RGB = {"encoder": "rgb", "progress": False}


@pytest.fixture
def sections(coloured):
    return [coloured(36, seed=i, name=n) for i, n in enumerate("abc")]


def components(predictor, tables):
    features = np.concatenate([c2l.metrics.rgb_stats(t.obsm["patches"]) for t in tables]).astype(np.float32)
    return ((features - predictor.arrays["mean"]) @ predictor.arrays["rotation"]).astype(np.float64)


def targets(predictor, tables):
    return np.concatenate([expression(t, predictor.genes) for t in tables]).astype(np.float64)


def curve_by_hand(z, y, weight, real, fold):
    """Mean over left-out folds of the mean PCC over genes, for each penalty."""
    scores = []
    for name in np.unique(fold[real]):
        train, test = fold != name, (fold == name) & real
        w = weight[train] / weight[train].mean()
        scores.append(
            [
                c2l.metrics.pearson(
                    Ridge(alpha=a).fit(z[train], y[train], sample_weight=w).predict(z[test]), y[test]
                ).mean()
                for a in ALPHAS
            ]
        )
    return np.mean(scores, axis=0)


def test_ridge_is_that_of_scikit_learn(sections):
    predictor = c2l.tl.fit_predictor(sections, **RGB)
    assert predictor.genes == [f"G{i}" for i in range(9)]
    z, y = components(predictor, sections), targets(predictor, sections)
    reference = Ridge(alpha=predictor.card["alpha"]).fit(z, y)
    np.testing.assert_allclose(predictor.arrays["coef"], reference.coef_.T, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(
        predictor.from_patches(sections[0].obsm["patches"]), reference.predict(z[:36]), atol=1e-4
    )
    # the components: standardised principal components
    np.testing.assert_allclose(np.cov(z.T) - np.diag(np.diag(np.cov(z.T))), 0, atol=1e-4)


def test_penalty_is_chosen_by_correlation_on_sections_left_out(sections):
    predictor = c2l.tl.fit_predictor(sections, **RGB)
    z, y = components(predictor, sections), targets(predictor, sections)
    curve = curve_by_hand(z, y, np.ones(len(z)), np.ones(len(z), bool), np.repeat([0, 1, 2], 36))
    np.testing.assert_allclose(predictor.card["alpha_curve"], curve, atol=2e-4)
    # all penalties are level here, where the largest would predict constants: the smallest of them
    assert predictor.card["alpha"] == ALPHAS[int(np.argmax(curve >= curve.max() - TIE))]
    spread = predictor.from_patches(sections[0].obsm["patches"]).std(0) / y[:36].std(0)
    assert np.median(spread) > 0.5
    assert ALPHAS[0] == 1 and ALPHAS[-1] == pytest.approx(1e6)


def test_penalty_of_one_section_by_blocks_of_space(coloured):
    table = coloured(64)
    predictor = c2l.tl.fit_predictor(table, **RGB)
    assert predictor.card["alpha"] in ALPHAS and len(predictor.card["alpha_curve"]) == len(ALPHAS)
    from c2lst.models._ridge import folds

    fold = folds(np.repeat("a", 64), table.obsm["spatial"])
    assert len(set(fold)) == 4
    centres = np.stack([table.obsm["spatial"][fold == f].mean(0) for f in range(4)])
    nearest = ((table.obsm["spatial"][:, None] - centres) ** 2).sum(-1).argmin(1)
    assert (nearest == fold).mean() > 0.9  # blocks, not a random draw


def test_synthetic_spots_are_weighted_and_leave_with_their_parent(sections, as_synthetic):
    rng = np.random.default_rng(0)
    noisy = [t.copy() for t in sections[:2]]
    for t in noisy:
        t.obsm["patches"] = np.clip(t.obsm["patches"] + rng.normal(0, 30, (36, 1, 1, 3)), 0, 255).astype(np.uint8)
    synth = as_synthetic(noisy)
    predictor = c2l.tl.fit_predictor(sections, synthetic=synth, weight=0.5, **RGB)
    assert predictor.card["n_synthetic"] == 72 and predictor.card["n_spots"] == 108
    everything = [*sections, *noisy]
    z, y = components(predictor, everything), targets(predictor, everything)
    weight = np.concatenate([np.ones(108), np.full(72, 0.5 * 108 / 72)])
    fold = np.concatenate([np.repeat([0, 1, 2], 36), np.repeat([0, 1], 36)])
    real = np.arange(180) < 108
    curve = curve_by_hand(z, y, weight, real, fold)
    np.testing.assert_allclose(predictor.card["alpha_curve"], curve, atol=2e-4)
    reference = Ridge(alpha=predictor.card["alpha"]).fit(z, y, sample_weight=weight / weight.mean())
    np.testing.assert_allclose(predictor.arrays["coef"], reference.coef_.T, rtol=1e-3, atol=1e-4)


def test_copies_of_the_real_spots_change_nothing(sections, as_synthetic):
    plain = c2l.tl.fit_predictor(sections, **RGB)
    for weight in (0.3, 1.0):
        doubled = c2l.tl.fit_predictor(sections, synthetic=as_synthetic(sections), weight=weight, **RGB)
        assert doubled.card["alpha_curve"][:3] == pytest.approx(plain.card["alpha_curve"][:3], abs=0.02)
        a, b = (p.from_patches(sections[0].obsm["patches"]) for p in (plain, doubled))
        assert np.corrcoef(a.ravel(), b.ravel())[0, 1] > 0.999
        assert np.array_equal(plain.arrays["trust_mean"], doubled.arrays["trust_mean"])  # trust knows real spots alone


def test_synthetic_spots_weigh_more_but_beside_central_features(sections, as_synthetic):
    from c2lst.tl._fit_predictor import usual_weight

    given = {"synthetic": as_synthetic(sections)}
    assert c2l.tl.fit_predictor(sections, **given, **RGB).card["synthetic_weight"] == 10
    assert c2l.tl.fit_predictor(sections, **given, **RGB, weight=2).card["synthetic_weight"] == 2
    assert c2l.tl.fit_predictor(sections, **RGB).card["synthetic_weight"] == 0
    kinds = ("ridge", "ridge-whitened", "cnn")
    assert [usual_weight(kind, "central") for kind in kinds] == [1, 1, 10]
    assert {usual_weight(kind, "rgb") for kind in kinds} == {10}


def test_whitened_by_the_pool_alone(sections, coloured, same):
    pool = coloured(80, seed=9).obsm["patches"]
    predictor = c2l.tl.fit_predictor(sections, kind="ridge-whitened", pool=pool, **RGB)
    features = c2l.metrics.rgb_stats(pool).astype(np.float32)
    z = (features - predictor.arrays["mean"]) @ predictor.arrays["rotation"]
    covariance = np.cov(z.T)
    np.testing.assert_allclose(covariance, np.diag(np.diag(covariance)), atol=0.02)
    brighter = [t.copy() for t in sections]
    for t in brighter:
        t.obsm["patches"] = t.obsm["patches"] // 2
    other = c2l.tl.fit_predictor(brighter, kind="ridge-whitened", pool=pool, **RGB)
    for key in ("mean", "rotation"):
        assert np.array_equal(other.arrays[key], predictor.arrays[key])
    assert not same(other.arrays, predictor.arrays)
    with pytest.raises(ValueError, match="needs pool=.*tissue_patches"):
        c2l.tl.fit_predictor(sections, kind="ridge-whitened", **RGB)


def test_cnn_twice_is_the_same_and_learns(coloured):
    table = coloured(48, px=16)
    settings = {"kind": "cnn", "steps": 5, "progress": False}
    first, second = (c2l.tl.fit_predictor(table, **settings) for _ in range(2))
    patches = table.obsm["patches"]
    np.testing.assert_array_equal(first.from_patches(patches), second.from_patches(patches))
    other = c2l.tl.fit_predictor(table, seed=1, **settings)
    assert not np.array_equal(first.from_patches(patches), other.from_patches(patches))
    more = c2l.tl.fit_predictor(table, **settings | {"steps": 60})
    pcc = c2l.metrics.pearson(more.from_patches(patches), expression(table, more.genes))
    assert pcc.mean() > 0.5
    assert more.card["steps"] == 60 and more.encoder == "rgb"


def test_subset_is_all_it_sees(sections, same):
    for t in sections:
        t.obs["few"] = np.arange(t.n_obs) % 3 == 0
    a = c2l.tl.fit_predictor(sections, subset="few", **RGB)
    b = c2l.tl.fit_predictor([t[t.obs["few"]].copy() for t in sections], **RGB)
    assert same(a.arrays, b.arrays) and a.card["alpha"] == b.card["alpha"]
    assert a.card["n_spots"] == 36 and a.card["subset"] == "few"


def test_layer_and_valid(sections, same):
    a = c2l.tl.fit_predictor(sections, **RGB)
    for t in sections:
        t.layers["raw"] = t.X.copy()
        t.X = t.X / 3
    assert same(a.arrays, c2l.tl.fit_predictor(sections, layer="raw", **RGB).arrays)
    sections[0].obs["c2lst_valid"] = np.arange(36) > 9
    assert c2l.tl.fit_predictor(sections, layer="raw", **RGB).card["n_spots"] == 98


def test_data_are_left_as_they_were(sections, as_synthetic, snapshot, changed):
    synth = as_synthetic(sections[0])
    tables = [*sections, synth]
    before = [snapshot(t) for t in tables]
    c2l.tl.fit_predictor(sections, synthetic=synth, **RGB)
    c2l.tl.fit_predictor(sections, kind="cnn", steps=1, progress=False)
    assert [changed(b, t) for b, t in zip(before, tables, strict=True)] == [set()] * 4


def test_central_features_of_the_noted_model(table, local, synthetic):
    table.uns["c2lst"]["central"] = local.central.reference
    predictor = c2l.tl.fit_predictor(table, synthetic=synthetic, progress=False)
    assert predictor.central.hash == local.central.hash and predictor.encoder == "central"
    assert predictor.card["n_synthetic"] == 12
    assert np.isfinite(predictor.from_patches(table.obsm["patches"])).all()


def test_bad_input(sections, as_synthetic):
    with pytest.raises(ValueError, match="kind='x'"):
        c2l.tl.fit_predictor(sections, kind="x")
    with pytest.raises(KeyError, match="encoder='x' is not registered"):
        c2l.tl.fit_predictor(sections, encoder="x")
    with pytest.raises(KeyError, match="another panel.*'G8'"):
        c2l.tl.fit_predictor(sections, synthetic=as_synthetic(sections, genes=[f"G{i}" for i in range(8)]), **RGB)
    with pytest.raises(TypeError, match="AnnData that c2lst.tl.augment returns"):
        c2l.tl.fit_predictor(sections, synthetic=np.zeros(3), **RGB)
    with pytest.raises(KeyError, match="c2lst_parent"):
        c2l.tl.fit_predictor(sections, synthetic=sections[0], **RGB)
    with pytest.raises(ValueError, match="too few for fit_predictor"):
        c2l.tl.fit_predictor(sections[0][:3].copy(), **RGB)
    with pytest.raises(ValueError, match="weight"):
        c2l.tl.fit_predictor(sections, weight=0, **RGB)
    sections[1].uns["c2lst"]["patches"]["patches"]["mpp"] = 1.0
    with pytest.raises(ValueError, match="1 um/px, the first section takes"):
        c2l.tl.fit_predictor(sections, **RGB)
    with pytest.raises(ValueError, match="central model 'toy' takes 64 px"):
        c2l.tl.fit_predictor(sections[0], central="toy")


def test_children_of_spots_set_aside_are_refused(sections, as_synthetic):
    for table in sections:
        table.obs["mine"] = np.arange(36) < 24
    children = as_synthetic(sections[0].copy())
    with pytest.raises(ValueError, match=r"12 of 36 synthetic spots are children of spots outside subset='mine'"):
        c2l.tl.fit_predictor(sections, synthetic=children, subset="mine", **RGB)
    fitted = c2l.tl.fit_predictor(sections, synthetic=children[:24].copy(), subset="mine", **RGB)
    assert fitted.card["n_synthetic"] == 24
    # a whole section may be set aside, and children of sections that are not given are nobody's
    sections[0].obs["mine"] = False
    with pytest.raises(ValueError, match="36 of 36"):
        c2l.tl.fit_predictor(sections, synthetic=children, subset="mine", **RGB)
    assert c2l.tl.fit_predictor(sections[1:], synthetic=children, subset="mine", **RGB).card["n_synthetic"] == 36


def test_parents_under_another_name_are_missed_aloud(sections, as_synthetic, caplog):
    children = as_synthetic(sections[0].copy())
    c2l.tl.fit_predictor(sections, synthetic=children, **RGB)
    assert "parents that are not among the data" not in caplog.text
    named = {f"other{i}": table for i, table in enumerate(sections)}
    c2l.tl.fit_predictor(named, synthetic=children, **RGB)
    assert "36 of 36 synthetic spots have parents that are not among the data" in caplog.text
    assert "pass {name: section}" in caplog.text


def test_regions_of_one_table_are_taken_for_one_section_aloud(sections, caplog):
    import anndata as ad

    both = ad.concat(
        {"a": sections[0], "b": sections[1]}, label="region", uns_merge="same", merge="same", index_unique="-"
    )
    both.uns["spatialdata_attrs"] = {"region": ["a", "b"], "region_key": "region", "instance_key": "spot"}
    c2l.tl.fit_predictor(both, **RGB)
    assert (
        "fit_predictor takes the 2 regions ['a', 'b'] of one table for one section; pass library_key='region'"
        in caplog.text
    )
    caplog.clear()
    assert c2l.tl.fit_predictor(both, library_key="region", **RGB).card["sections"] == ["a", "b"]
    assert "regions" not in caplog.text


@pytest.mark.parametrize(
    "values",
    [
        lambda: pd.Categorical(["False"] * 12 + ["True"] * 24),
        lambda: np.array([False] * 12 + [True] * 24, dtype=object),
        lambda: pd.array([False] * 12 + [True] * 24, dtype="boolean"),
    ],
)
def test_spots_that_are_not_valid_in_any_spelling(coloured, values):
    table = coloured(36)
    table.obs["c2lst_valid"] = values()
    assert c2l.tl.fit_predictor(table, **RGB).card["n_spots"] == 24


@pytest.mark.parametrize("gap", [np.nan, None, pd.NA])
def test_validity_that_is_missing_is_refused(coloured, gap):
    table = coloured(36)
    table.obs["c2lst_valid"] = np.array([gap] * 12 + [True] * 24, dtype=object)
    with pytest.raises(ValueError, match=r"obs\['c2lst_valid'\] must say True or False"):
        c2l.tl.fit_predictor(table, **RGB)


def test_a_central_model_that_the_data_overrule_is_named(toy, copied, caplog):
    sdata, other = copied(toy), copied(toy)
    toy_model = c2l.models.CentralModel.from_pretrained("toy")
    double = dataclasses.replace(toy_model, name="double", mpp=2.01)
    sdata["table"].uns.setdefault("c2lst", {})["central"] = toy_model.reference
    c2l.tl.fit_predictor(sdata, encoder="central", central=toy_model, progress=False)
    assert "is used instead" not in caplog.text
    assert double.hash != toy_model.hash
    fitted = c2l.tl.fit_predictor(sdata, encoder="central", central=double, progress=False)
    assert fitted.central.name == "toy" and "is used instead of central='double'" in caplog.text
    # two sections that refer to two models: the argument says which
    c2l.models.central_model(double)
    other["table"].uns.setdefault("c2lst", {})["central"] = double.reference
    both = {"a": sdata, "b": other}
    with pytest.raises(ValueError, match="pass central= one of them"):
        c2l.tl.fit_predictor(both, encoder="central", progress=False)
    assert c2l.tl.fit_predictor(both, encoder="central", central=double, progress=False).central.name == "double"
