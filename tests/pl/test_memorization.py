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


def test_without_a_holdout_the_real_ones_are_not_called_held_out(synthetic):
    synthetic.uns["memorization"]["params"]["holdout"] = False
    labels = [t.get_text() for t in c2l.pl.memorization(synthetic).get_legend().get_texts()]
    assert "real (n = 30)" in labels
