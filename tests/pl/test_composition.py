from __future__ import annotations

import numpy as np

import c2lst as c2l


def test_one_panel_a_measure_one_point_a_pair(synthetic):
    axes = c2l.pl.composition(synthetic)
    assert len(axes) == 2
    found = synthetic.uns["composition"]
    points = axes[0].collections[0].get_offsets()
    np.testing.assert_allclose(points[:, 0], found["parent"]["haematoxylin_area"])
    np.testing.assert_allclose(points[:, 1], found["synthetic"]["haematoxylin_area"])
    assert "Spearman 0.912" in axes[0].get_title()
    assert "Spearman n/a" in axes[1].get_title()
    assert "per mm²" in axes[1].get_title()


def test_the_line_is_the_identity(synthetic):
    ax = c2l.pl.composition(synthetic)[1]  # a pair of it is NaN
    x, y = ax.lines[0].get_data()
    np.testing.assert_array_equal(x, y)
    assert ax.get_xlim() == ax.get_ylim()
