from __future__ import annotations

import pytest

import c2lst as c2l


def test_two_histograms_and_a_line(synthetic):
    ax = c2l.pl.memorization(synthetic)
    real, made = (sum(patch.get_height() for patch in bars) for bars in ax.containers)
    assert (real, made) == pytest.approx((1, 1))
    assert list(ax.lines[0].get_xdata()) == [3.0, 3.0]
    assert "8.3 % of synthetic" in ax.get_title()
    assert "in pixels: 0.0 %" in ax.get_title()
    assert "'central'" in ax.get_xlabel()
