from __future__ import annotations

import anndata as ad
import numpy as np
import pytest

import c2lst as c2l


@pytest.fixture
def pair(coloured, as_synthetic):
    """A hundred real spots, and fifty more of the same tissue that pass for synthetic."""
    whole = coloured(150)
    rows = np.random.default_rng(0).permutation(150)
    return whole[np.sort(rows[:100])].copy(), as_synthetic(whole[np.sort(rows[100:])].copy())


def test_alike_is_near_the_floor(pair, snapshot, changed):
    real, synth = pair
    states = snapshot(real), snapshot(synth)
    c2l.tl.embedding_overlap(real, synth, encoder="rgb", umap=False)
    found = synth.uns["embedding_overlap"]
    floor = found["floor"]
    assert abs(found["c2st"] - 0.5) < 0.2 and abs(floor["c2st"] - 0.5) < 0.2
    assert found["ilisi"] > 1.6 and abs(found["ilisi"] - floor["ilisi"]) < 0.3
    assert found["coverage"] > 0.8 and abs(found["coverage"] - floor["coverage"]) < 0.2
    assert abs(found["kid"]) < 3 * max(found["kid_sd"], floor["kid_sd"]) + 0.05
    assert found["frechet"] < 3 * floor["frechet"]
    # the baseline is the same encoder here
    assert found["baseline"]["frechet"] == pytest.approx(found["frechet"])
    assert not changed(states[0], real)
    assert {k.split("/")[1] for k in changed(states[1], synth)} == {"embedding_overlap"}
    assert found["n_real"] == 100 and found["n_synthetic"] == 50


def test_noise_is_far_off(pair):
    real, synth = pair
    shape = synth.obsm["patches"].shape
    synth.obsm["patches"] = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    c2l.tl.embedding_overlap(real, synth, encoder="rgb", umap=False, key_added="mine")
    found = synth.uns["mine"]
    assert found["c2st"] > 0.95 and found["ilisi"] < 1.1 and found["coverage"] < 0.1
    assert found["frechet"] > 5 * found["floor"]["frechet"] and found["kid"] > found["floor"]["kid"]


def test_another_stain_is_seen(pair):
    real, synth = pair
    synth.obsm["patches"] = np.clip(synth.obsm["patches"].astype(int) + [40, 0, -40], 0, 255).astype(np.uint8)
    c2l.tl.embedding_overlap(real, synth, encoder="rgb", umap=False)
    found = synth.uns["embedding_overlap"]
    assert found["frechet"] > 2 * found["floor"]["frechet"] and found["kid"] > found["floor"]["kid"]


def test_joint_map_and_file(pair, tmp_path):
    real, synth = pair
    c2l.tl.embedding_overlap(real, synth, encoder="rgb")
    found = synth.uns["embedding_overlap"]
    assert found["umap_real"].shape == (100, 2) and found["umap_synthetic"].shape == (50, 2)
    again = synth.copy()
    c2l.tl.embedding_overlap(real, again, encoder="rgb")
    np.testing.assert_array_equal(again.uns["embedding_overlap"]["umap_real"], found["umap_real"])
    assert again.uns["embedding_overlap"]["frechet"] == found["frechet"]
    synth.write_h5ad(tmp_path / "s.h5ad")
    back = ad.read_h5ad(tmp_path / "s.h5ad").uns["embedding_overlap"]
    assert back["floor"]["c2st"] == found["floor"]["c2st"] and back["encoder"] == "rgb"
    assert c2l.pl.embedding_overlap(ad.read_h5ad(tmp_path / "s.h5ad")) is not None


def test_bad_input(pair):
    real, synth = pair
    with pytest.raises(ValueError, match="too few for embedding_overlap"):
        c2l.tl.embedding_overlap(real[:10].copy(), synth, encoder="rgb")
    with pytest.raises(ValueError, match="9 synthetic spots are too few"):
        c2l.tl.embedding_overlap(real, synth[:9].copy(), encoder="rgb")
    with pytest.raises(KeyError, match="c2lst_parent.*augment"):
        c2l.tl.embedding_overlap(real, real, encoder="rgb")
    with pytest.raises(TypeError, match="not list"):
        c2l.tl.embedding_overlap(real, [synth], encoder="rgb")


def test_the_number_of_threads_stays(pair):
    import torch

    real, synth = pair
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        c2l.tl.embedding_overlap(real, synth, encoder="rgb")
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)
