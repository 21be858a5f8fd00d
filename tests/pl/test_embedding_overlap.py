from __future__ import annotations

import numpy as np

import c2lst as c2l


def test_every_patch_is_a_point(synthetic):
    umap, _ = c2l.pl.embedding_overlap(synthetic)
    found = synthetic.uns["embedding_overlap"]
    drawn = np.concatenate([c.get_offsets() for c in umap.collections])
    expected = np.concatenate([found["umap_real"], found["umap_synthetic"]])
    assert sorted(map(tuple, drawn.tolist())) == sorted(map(tuple, expected.astype(float).tolist()))
    assert [t.get_text() for t in umap.get_legend().get_texts()] == ["real (n = 30)", "synthetic (n = 12)"]


def test_figures_stand_beside_their_floor(synthetic):
    _, ax = c2l.pl.embedding_overlap(synthetic)
    written = {}
    for text in ax.texts:
        if text.get_gid():
            written.setdefault(text.get_gid(), []).append(text.get_text())
    assert written["frechet"] == ["8", "4"]
    assert written["kid"] == ["0.02", "-0.001"]
    assert written["c2st"] == ["0.6", "0.5"]


def test_places_run_from_nothing_alike_to_alike(synthetic):
    _, ax = c2l.pl.embedding_overlap(synthetic)
    place = {c.get_label(): c.get_offsets() for c in ax.collections if not c.get_label().startswith("_")}
    assert list(place) == ["synthetic", "real vs real (floor)", "RGB mean and sd only"]
    points = np.concatenate([c.get_offsets() for c in ax.collections])
    assert points.shape == (18, 2)
    c2st = sorted(float(x) for x, y in points if y == 4 and np.isfinite(x))
    np.testing.assert_allclose(c2st, [0.8, 0.8, 1.0])  # 0.6 and 0.6 of 0.5 .. 1, the floor 0.5
    frechet = sorted(float(x) for x, y in points if y == 0 and np.isfinite(x))
    np.testing.assert_allclose(frechet, [0.2, 0.6])  # 8 and 4 of 10; the RGB distance has another unit


def test_without_a_umap_the_figures_are_drawn(synthetic):
    del synthetic.uns["embedding_overlap"]["umap_real"], synthetic.uns["embedding_overlap"]["umap_synthetic"]
    left, right = c2l.pl.embedding_overlap(synthetic)
    assert [t.get_text() for t in left.texts] == ["computed with umap=False"]
    assert len(right.collections) == 18
