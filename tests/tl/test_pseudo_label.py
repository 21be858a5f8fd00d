from __future__ import annotations

import anndata as ad
import numpy as np
import pytest

import c2lst as c2l

RGB = {"encoder": "rgb", "progress": False}


@pytest.fixture
def sections(coloured):
    return [coloured(36, seed=i, name=n) for i, n in enumerate("ab")]


@pytest.fixture
def pool(coloured):
    return coloured(50, seed=7, name="p").obsm["patches"]


@pytest.fixture
def teacher(sections):
    return c2l.tl.fit_predictor(sections, **RGB)


def test_labels_are_what_the_predictor_says(pool, teacher):
    before = pool.copy()
    labelled = c2l.tl.pseudo_label(pool, teacher)
    assert np.array_equal(labelled.obsm["patches"], before) and np.array_equal(pool, before)
    assert list(labelled.var_names) == teacher.genes and labelled.var["c2lst_genes"].all()
    np.testing.assert_array_equal(labelled.X, teacher.from_patches(pool))
    assert set(labelled.obs["c2lst_origin"]) == {"pseudo"} and "c2lst_parent" not in labelled.obs
    assert np.array_equal(labelled.obs["c2lst_trust"], teacher.distance(teacher.features(pool)) <= 1)
    said = labelled.uns["c2lst"]
    assert said["teacher"]["sections"] == ["a", "b"] and said["teacher"]["encoder"] == "rgb"
    assert said["expression"] == "log1p CP10k" and said["patches"]["patches"]["mpp"] == teacher.mpp


def test_no_gene_of_the_tissue_is_read(coloured, teacher):
    slide = coloured(30, seed=3, name="slide")
    labelled = c2l.tl.pseudo_label(slide, teacher)
    bare = ad.AnnData(np.zeros((30, 0), dtype=np.float32), obs=slide.obs[[]].copy(), obsm=dict(slide.obsm))
    bare.uns = {k: slide.uns[k] for k in ("c2lst", "c2lst_section")}
    again = c2l.tl.pseudo_label([bare], teacher)
    assert np.array_equal(labelled.X, again.X)
    assert set(again.obs["c2lst_section"]) == {"slide"}
    assert np.array_equal(again.obsm["spatial"], slide.obsm["spatial"])


def test_invalid_patches_and_those_outside_a_subset_are_left_out(coloured, teacher):
    slide = coloured(30, seed=3, name="slide")
    slide.obs["c2lst_valid"] = np.arange(30) != 4
    slide.obs["mine"] = np.arange(30) < 10
    labelled = c2l.tl.pseudo_label(slide, teacher, subset="mine")
    assert list(labelled.obs_names) == [f"pseudo_{slide.obs_names[i]}" for i in range(10) if i != 4]


def test_a_student_learns_from_labelled_tissue(coloured, sections, pool, teacher):
    """Where real labels are noise, the labels of a good teacher must be what the student says."""
    labelled = c2l.tl.pseudo_label(pool, teacher)
    noise = [s.copy() for s in sections]
    for s in noise:
        s.X = s.X[np.random.default_rng(0).permutation(s.n_obs)]
    test = coloured(36, seed=11, name="t")
    given = {"kind": "ridge", **RGB}
    alone = c2l.tl.fit_predictor(noise, **given).from_patches(test.obsm["patches"])
    taught = c2l.tl.fit_predictor(noise, synthetic=labelled, weight=100, **given)
    want = teacher.from_patches(test.obsm["patches"])
    said = taught.from_patches(test.obsm["patches"])
    assert c2l.metrics.pearson(said, want).mean() > 0.95 > 0.5 > c2l.metrics.pearson(alone, want).mean()
    assert (taught.card["n_pseudo"], taught.card["n_synthetic"]) == (50, 0)


def test_beside_synthetic_spots_each_with_its_weight(sections, pool, teacher, as_synthetic):
    labelled, synth = c2l.tl.pseudo_label(pool, teacher), as_synthetic(sections[0])
    both = c2l.tl.fit_predictor(sections, synthetic=[synth, labelled], weight=[3, 7], **RGB)
    assert (both.card["n_synthetic"], both.card["n_pseudo"], both.card["synthetic_weight"]) == (36, 50, 10)
    # rows of one weight: order and cut into tables do not matter
    whole = c2l.tl.fit_predictor(sections, synthetic=labelled, weight=4.0, **RGB)
    halves = [labelled[:25].copy(), labelled[25:].copy()]
    cut = c2l.tl.fit_predictor(sections, synthetic=halves, weight=[2.0, 2.0], **RGB)
    np.testing.assert_allclose(cut.arrays["coef"], whole.arrays["coef"], rtol=1e-3, atol=1e-5)
    usual = c2l.tl.fit_predictor(sections, synthetic=[synth, labelled], **RGB)
    assert usual.card["synthetic_weight"] == 20


def test_pseudo_labels_are_not_taken_for_synthetic_spots(sections, pool, teacher):
    labelled = c2l.tl.pseudo_label(pool, teacher)
    for call in (
        lambda: c2l.tl.round_trip(labelled, teacher),
        lambda: c2l.tl.gate(labelled, teacher, keep=0.5),
        lambda: c2l.tl.embedding_overlap(sections[0], labelled, encoder="rgb"),
    ):
        with pytest.raises(ValueError, match="real patches with predicted genes"):
            call()


def test_who_learned_from_pseudo_labels_is_no_judge(sections, pool, teacher, as_synthetic):
    student = c2l.tl.fit_predictor(sections, synthetic=c2l.tl.pseudo_label(pool, teacher), **RGB)
    synth = as_synthetic(sections)
    with pytest.raises(ValueError, match="pseudo-labelled ones, and cannot judge"):
        c2l.tl.round_trip(synth, student)
    with pytest.raises(ValueError, match="pseudo-labelled ones, and cannot judge"):
        c2l.tl.gate(synth, student, keep=0.5)


def test_written_and_read(pool, teacher, tmp_path):
    labelled = c2l.tl.pseudo_label(pool, teacher)
    labelled.write_h5ad(tmp_path / "a.h5ad")
    back = ad.read_h5ad(tmp_path / "a.h5ad")
    assert np.array_equal(back.X, labelled.X) and set(back.obs["c2lst_origin"]) == {"pseudo"}


def test_bad_input(sections, pool, teacher, coloured):
    labelled = c2l.tl.pseudo_label(pool, teacher)
    with pytest.raises(ValueError, match=r"8 x 8 px, the predictor takes"):
        c2l.tl.pseudo_label(np.zeros((3, 8, 8, 3), dtype=np.uint8), teacher)
    with pytest.raises(TypeError, match="uint8"):
        c2l.tl.pseudo_label(pool.astype(float), teacher)
    slide = coloured(30, seed=3, name="slide")
    slide.uns["c2lst"]["patches"]["patches"]["mpp"] = 9.0
    with pytest.raises(ValueError, match=r"at 9 um/px, the predictor takes"):
        c2l.tl.pseudo_label(slide, teacher)
    with pytest.raises(KeyError, match="another panel"):
        c2l.tl.fit_predictor(sections, synthetic=labelled[:, :5].copy(), **RGB)
    with pytest.raises(ValueError, match="2 numbers for 1 tables"):
        c2l.tl.fit_predictor(sections, synthetic=labelled, weight=[1, 2], **RGB)
    with pytest.raises(ValueError, match="weight"):
        c2l.tl.fit_predictor(sections, synthetic=[labelled, labelled], weight=[1, -1], **RGB)
