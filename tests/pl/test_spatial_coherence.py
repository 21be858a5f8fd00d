from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pytest

import c2lst as c2l
from c2lst._expression import expression


def test_one_section_is_one_axes(section):
    _, ax = plt.subplots()
    assert c2l.pl.spatial_coherence(section, ax=ax) is ax
    points = ax.collections[0].get_offsets()
    np.testing.assert_allclose(points[:, 0], section.uns["spatial_coherence"]["measured"])
    np.testing.assert_allclose(points[:, 1], section.uns["spatial_coherence"]["predicted"])
    assert ax.get_title() == "S1: 5 genes\nr = 0.97, predicted minus measured +0.200"


def test_several_sections_are_several_axes(section):
    axes = c2l.pl.spatial_coherence({"a": section, "b": section.copy()})
    assert [ax.get_title().split(":")[0] for ax in axes] == ["a", "b"]
    with pytest.raises(ValueError, match="fig="):
        c2l.pl.spatial_coherence({"a": section, "b": section.copy()}, ax=plt.subplots()[1])


def test_a_gene_is_drawn_measured_and_predicted(section):
    before = section.X.copy()
    axes = c2l.pl.spatial_coherence(section, gene="A")
    assert axes.shape == (1, 2)
    measured, predicted = (ax.collections[0] for ax in axes[0])
    np.testing.assert_allclose(measured.get_offsets(), section.obsm["spatial"])
    np.testing.assert_allclose(measured.get_array(), expression(section, ["A"])[:, 0])
    np.testing.assert_allclose(predicted.get_array(), section.obsm["c2lst_predicted"]["A"])
    assert axes[0, 0].yaxis_inverted()
    np.testing.assert_array_equal(section.X, before)


def test_what_is_missing_is_named(section):
    with pytest.raises(KeyError, match="no gene 'E'; it has \\['A', 'B'\\]"):
        c2l.pl.spatial_coherence(section, gene="E")
    del section.obsm["c2lst_predicted"]
    with pytest.raises(KeyError, match="c2lst.tl.predict"):
        c2l.pl.spatial_coherence(section, gene="A")
    del section.uns["spatial_coherence"]
    with pytest.raises(KeyError, match="section 'S1'.*c2lst.tl.spatial_coherence"):
        c2l.pl.spatial_coherence(section)
    del section.obsm["spatial"]
    with pytest.raises(KeyError, match="positions"):
        c2l.pl.spatial_coherence(section, gene="A")


def test_maps_of_a_section_lie_alike_where_predictions_lack(section):
    section.obsm["c2lst_predicted"].iloc[:7] = np.nan
    measured, predicted = c2l.pl.spatial_coherence(section, gene="A")[0]
    assert measured.get_xlim() == predicted.get_xlim()
    assert measured.get_ylim() == predicted.get_ylim()
    known, missing = predicted.collections
    assert len(known.get_offsets()) == section.n_obs - 7
    np.testing.assert_allclose(missing.get_offsets(), section.obsm["spatial"][:7])
    assert missing.get_label() == "no value"


def test_genes_without_a_value_are_not_counted(section):
    found = section.uns["spatial_coherence"]
    found["measured"] = np.where(np.arange(5) == 2, np.nan, found["measured"])
    assert "S1: 4 of 5 genes" in c2l.pl.spatial_coherence(section).get_title()
    found["bias"] = np.nan
    assert "predicted minus measured n/a" in c2l.pl.spatial_coherence(section).get_title()
