from __future__ import annotations

import numpy as np
import pytest

import c2lst as c2l


@pytest.fixture
def stained(toy, as_synthetic):
    """Real toy spots in another order, passing for synthetic ones."""
    table = toy["table"].copy()
    rows = np.random.default_rng(0).permutation(table.n_obs)
    return table, as_synthetic(table[rows].copy())


def test_pairs_are_those_of_the_parents(stained, snapshot, changed):
    table, synth = stained
    states = snapshot(table), snapshot(synth)
    c2l.tl.composition(table, synth)
    found = synth.uns["composition"]
    assert found["measures"] == ["haematoxylin_area", "haematoxylin_od", "haematoxylin_texture", "eosin_od"]
    for m in found["measures"]:
        np.testing.assert_array_equal(found["synthetic"][m], found["parent"][m])
        assert found["correlation"][m] == pytest.approx(1) and found["wasserstein"][m] == 0
    threshold = found["params"]["threshold"]
    assert 0.05 < threshold < 0.65  # simulated stain is paler than the tissue the default is for
    area = c2l.metrics.haematoxylin_area(synth.obsm["patches"], threshold=threshold)
    np.testing.assert_allclose(found["synthetic"]["haematoxylin_area"], area)
    assert not changed(states[0], table)
    assert {k.split("/")[1] for k in changed(states[1], synth)} == {"composition"}


def test_patches_of_others_do_not_correlate(stained):
    table, synth = stained
    synth.obsm["patches"] = synth.obsm["patches"][np.random.default_rng(1).permutation(synth.n_obs)]
    c2l.tl.composition(table, synth)
    found = synth.uns["composition"]
    assert abs(found["correlation"]["haematoxylin_area"]) < 0.5
    assert found["wasserstein"]["haematoxylin_area"] == pytest.approx(0, abs=1e-9)  # one distribution all the same
    synth.obsm["patches"] = np.full_like(synth.obsm["patches"], 240)
    c2l.tl.composition(table, synth)
    found = synth.uns["composition"]
    assert np.isnan(found["correlation"]["haematoxylin_area"]) and found["wasserstein"]["haematoxylin_area"] > 0.3


def test_sections_with_equal_names_of_spots(coloured, as_synthetic):
    pair = [coloured(36, seed=i, name=n) for i, n in enumerate("ab")]
    for t in pair:
        t.obs_names = [f"{i}x1" for i in range(36)]
    synth = as_synthetic(pair)
    synth.obs_names = [f"s{i}" for i in range(72)]
    c2l.tl.composition(pair, synth)
    found = synth.uns["composition"]
    np.testing.assert_array_equal(found["synthetic"]["eosin_od"], found["parent"]["eosin_od"])


def test_nuclei_where_they_are_resolved():
    sdata = c2l.datasets.toy_tissue(8, mpp=0.5)
    c2l.pp.extract_patches(sdata, mpp=0.5, patch_px=160)
    table = sdata["table"]
    synth = table[:, :3].copy()
    synth.obs["c2lst_parent"], synth.obs["c2lst_section"] = table.obs_names, "toy0"
    c2l.tl.composition(sdata, synth)
    found = synth.uns["composition"]
    assert {"nuclei_per_mm2", "nucleus_area_um2", "nucleus_eccentricity"} <= set(found["measures"])
    assert 0 < found["parent"]["nuclei_per_mm2"].max() < 15000
    np.testing.assert_array_equal(found["synthetic"]["nucleus_area_um2"], found["parent"]["nucleus_area_um2"])


def test_bad_input(stained, coloured):
    table, synth = stained
    with pytest.raises(KeyError, match="5 parents are not among the valid real spots"):
        c2l.tl.composition(table[5:].copy(), synth)
    with pytest.raises(ValueError, match="the comparison takes"):
        c2l.tl.composition(coloured(9, name="toy0"), synth)
    with pytest.raises(KeyError, match="c2lst_parent"):
        c2l.tl.composition(table, table)


def test_parents_of_a_concatenated_table_are_found(stained):
    table, synth = stained
    c2l.tl.composition(table, synth)
    alone = synth.uns["composition"]["parent"]["haematoxylin_area"]
    table.obs["slide"] = table.uns["c2lst_section"]
    c2l.tl.composition(table, synth, library_key="slide")
    np.testing.assert_array_equal(synth.uns["composition"]["parent"]["haematoxylin_area"], alone)
