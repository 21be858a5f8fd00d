from __future__ import annotations

import numpy as np
import pytest

import c2lst as c2l


def lines(ax):
    return {bars.get_label(): bars.lines[0] for bars in ax.containers}


def test_one_axes_a_section_and_recipe(runs):
    axes = c2l.pl.learning_curve(runs)
    assert [[ax.get_title() for ax in row] for row in axes] == [["C5, ridge", "C5, cnn"], ["B4, ridge", "B4, cnn"]]


def test_points_are_means_over_seeds(runs):
    drawn = lines(c2l.pl.learning_curve(runs)[0, 0])
    assert list(drawn) == ["real", "synthetic", "shuffled"]
    np.testing.assert_allclose(drawn["real"].get_ydata(orig=False), [0.11, 0.31])
    np.testing.assert_allclose(drawn["synthetic"].get_ydata(orig=False), [0.16])
    np.testing.assert_allclose(drawn["real"].get_xdata(orig=False), [10, 100], rtol=0.05)


def test_intervals_hold_the_mean_and_stay_within_the_seeds(runs):
    bars = c2l.pl.learning_curve(runs)[0, 0].containers[0].lines[2][0].get_segments()
    low, high = bars[0][:, 1]
    assert 0.0999 < low < 0.11 < high < 0.1201


def test_one_seed_has_no_interval(runs):
    bars = c2l.pl.learning_curve(runs[runs["seed"] == 0])[0, 0].containers[0].lines[2][0].get_segments()
    assert np.ptp(bars[0][:, 1]) == 0


def test_encoders_get_columns_of_their_own(runs):
    other = runs[runs["predictor"] == "ridge"].assign(encoder="efficientnet-lite0")
    import pandas as pd

    axes = c2l.pl.learning_curve(pd.concat([runs, other]))
    assert [ax.get_title() for ax in axes[0]] == [
        "C5, ridge, central",
        "C5, cnn, central",
        "C5, ridge, efficientnet-lite0",
    ]


def test_missing_columns_and_values_are_named(runs):
    with pytest.raises(KeyError, match="'mse'.*c2lst.tl.learning_curve"):
        c2l.pl.learning_curve(runs, metric="mse")
    with pytest.raises(ValueError, match="no run with a value of 'pcc'"):
        c2l.pl.learning_curve(runs.assign(pcc=np.nan))


def test_bars_are_over_blocks_where_they_are_known(runs):
    from c2lst.metrics._blocks import measured_sums, run_key, run_sums

    rng = np.random.default_rng(0)
    y, block = rng.normal(size=(60, 4)), np.repeat(np.arange(6), 10)
    runs = runs[(runs["section"] == "C5") & (runs["predictor"] == "ridge")].copy()
    stored, pcc = {}, []
    for row in runs.itertuples(index=False):
        x = y + rng.normal(size=y.shape)
        pcc.append(np.nanmean(c2l.metrics.pearson(x, y)))
        stored[run_key(row[:6])] = run_sums(x, y, block)
    runs["pcc"] = pcc
    assert "seeds" == legend(c2l.pl.learning_curve(runs))
    alone = bars(c2l.pl.learning_curve(runs))
    runs.attrs["blocks"] = {"sections": {"C5": measured_sums(y, block)}, "runs": stored}
    assert "seeds x blocks" == legend(c2l.pl.learning_curve(runs))
    assert (bars(c2l.pl.learning_curve(runs)) > alone).mean() > 0.9
    np.testing.assert_array_equal(bars(c2l.pl.learning_curve(runs, blocks=[])), alone)
    assert "seeds" == legend(c2l.pl.learning_curve(runs.assign(mse=0.1), metric="mse"))


def legend(axes):
    return axes[0, -1].get_legend().get_title().get_text().removeprefix("bars: 95 %, over ")


def bars(axes):
    return np.array([np.ptp(s[:, 1]) for c in axes[0, 0].containers for s in c.lines[2][0].get_segments()])


def test_panels_share_ticks_and_empty_ones_say_so(runs):
    import pandas as pd

    more = runs[runs["fraction"] == 0.1].assign(predictor="ridge-whitened", section="other")
    axes = c2l.pl.learning_curve(pd.concat([runs, more]))
    wanted = [f"{100 * f:g}" for f in sorted(runs["fraction"].unique())]
    for ax in axes[-1]:
        assert [t.get_text() for t in ax.get_xticklabels()] == wanted
    assert any(t.get_text() == "no runs" for ax in axes.ravel() for t in ax.texts)


def test_black_is_white_where_the_style_is_dark(runs):
    import matplotlib.pyplot as plt

    with plt.style.context("dark_background"):
        ax = c2l.pl.learning_curve(runs)[0, 0]
        assert all(line.get_color() != "#000000" for line in ax.lines)
        assert any(line.get_color() == "#ffffff" for line in ax.lines)
