from __future__ import annotations

import numpy as np
import pytest

import c2lst as c2l


def images(axes):
    return [ax.images[0].get_array() for ax in axes.ravel() if ax.images]


def test_draws_the_patches_named_in_order(section):
    axes = c2l.pl.patches(section, obs_names=["s3", "s1"])
    assert axes.shape == (1, 2)
    assert [ax.get_title() for ax in axes[0]] == ["s3", "s1"]
    for image, i in zip(images(axes), (3, 1), strict=True):
        np.testing.assert_array_equal(image, section.obsm["patches"][i])


def test_the_scale_bar_has_the_length_it_says(section):
    ax = c2l.pl.patches(section, 4)[0, 0]
    (bar,) = [line for line in ax.lines if line.get_gid() == "scale"]
    (label,) = [text for text in ax.texts if text.get_gid() == "scale"]
    assert label.get_text() == "20 µm"  # the field of view is 64 um
    assert np.ptp(bar.get_xdata()) == pytest.approx(20 / 2.0)


def test_no_scale_bar_without_a_scale(section):
    del section.uns["c2lst"]["patches"]
    assert not any(ax.lines for ax in c2l.pl.patches(section, 4).ravel())


def test_invalid_spots_are_left_out_and_seeds_draw(section):
    section.obs["c2lst_valid"] = np.arange(20) < 6
    axes = c2l.pl.patches(section, 16)
    assert [ax.get_title() for ax in axes.ravel() if ax.images] == [f"s{i}" for i in range(6)]
    section.obs["c2lst_valid"] = True
    drawn = [tuple(ax.get_title() for ax in c2l.pl.patches(section, 5, seed=s).ravel()) for s in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_children_lie_under_their_parents(section, synthetic):
    axes = c2l.pl.patches(section, 6, synthetic=synthetic, columns=3)
    assert axes.shape == (4, 3)
    assert [axes[i, 0].get_ylabel() for i in range(4)] == ["real", "synthetic"] * 2
    for top, below in ((axes[0], axes[1]), (axes[2], axes[3])):
        for ax, child in zip(top, below, strict=True):
            i = int(ax.get_title()[1:])
            np.testing.assert_array_equal(ax.images[0].get_array(), section.obsm["patches"][i])
            np.testing.assert_array_equal(child.images[0].get_array(), synthetic.obsm["patches"][i])


def test_children_are_told_apart_by_section(section, synthetic):
    other = section.copy()
    other.uns["c2lst_section"] = "S2"
    synthetic.obs["c2lst_section"] = ["S1"] * 6 + ["S2"] * 6
    axes = c2l.pl.patches([section, other], 12, synthetic=synthetic, columns=12)
    drawn = [ax.images[0].get_array() for ax in axes[1]]
    np.testing.assert_array_equal(np.stack(drawn), synthetic.obsm["patches"])


def test_a_concatenated_table_is_split_by_its_column(section, synthetic):
    import anndata as ad

    other = section.copy()
    other.obsm["patches"] = 255 - section.obsm["patches"]
    both = ad.concat({"S1": section, "S2": other}, label="slide", index_unique="-", uns_merge="same")
    synthetic.obs["c2lst_section"] = ["S2"] * 6 + ["S1"] * 6
    synthetic.obs["c2lst_parent"] = [f"s{i}-{s}" for s in ("S2", "S1") for i in range(6)]
    axes = c2l.pl.patches(both, 12, synthetic=synthetic, library_key="slide", columns=12)
    real, made = (np.stack([ax.images[0].get_array() for ax in row]) for row in axes)
    np.testing.assert_array_equal(real, np.concatenate([t.obsm["patches"][:6] for t in (section, other)]))
    np.testing.assert_array_equal(made, synthetic.obsm["patches"][[*range(6, 12), *range(6)]])


def test_bad_input_is_named(section, synthetic):
    with pytest.raises(KeyError, match="called \\['nobody'\\]"):
        c2l.pl.patches(section, obs_names=["nobody"])
    with pytest.raises(ValueError, match="no child of \\['s9'\\]"):
        c2l.pl.patches(section, obs_names=["s9"], synthetic=synthetic)
    with pytest.raises(ValueError, match="a parent of `synthetic`"):
        c2l.pl.patches(synthetic, synthetic=synthetic)
    with pytest.raises(KeyError, match="c2lst.tl.augment"):
        c2l.pl.patches(section, synthetic=section)
    del section.obsm["patches"], section.uns["c2lst"]
    with pytest.raises(KeyError, match="c2lst.pp.extract_patches"):
        c2l.pl.patches(section)


def test_children_of_other_slides_with_the_same_barcodes_are_no_ones(section, synthetic):
    other = section.copy()
    other.obsm["patches"] = 255 - section.obsm["patches"]
    for table in (section, other):
        del table.uns["c2lst_section"]
    synthetic.obs["c2lst_section"] = ["section0"] * 6 + ["section1"] * 6
    synthetic.obs["c2lst_parent"] = [f"s{i}" for i in range(6)] * 2
    for data in (other, [other, section]):  # their place in a list says nothing, and their spots' names say no more
        with pytest.raises(ValueError, match="have the same names.*pass {name: section}"):
            c2l.pl.patches(data, 6, synthetic=synthetic)
    named = {"section1": other, "section0": section}
    axes = c2l.pl.patches(named, 12, synthetic=synthetic, columns=12)
    drawn = [ax.images[0].get_array() for ax in axes[1]]
    np.testing.assert_array_equal(np.stack(drawn), synthetic.obsm["patches"][[*range(6, 12), *range(6)]])


def test_long_names_are_shortened_in_the_middle(section):
    section.obs_names = [f"patient07_s_016um_{i:05d}_00308-1" for i in range(20)]
    assert c2l.pl.patches(section, 1)[0, 0].get_title().startswith("patient07…")
