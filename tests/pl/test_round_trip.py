from __future__ import annotations

import numpy as np

import c2lst as c2l


def series(ax):
    return {c.get_label().split(" (")[0]: c.get_offsets() for c in ax.collections}


def test_genes_are_sorted_together(synthetic):
    ax = c2l.pl.round_trip(synthetic)
    assert [t.get_text() for t in ax.get_xticklabels()] == ["B", "C", "E", "A", "D"]
    drawn = series(ax)
    assert list(drawn) == ["genes shuffled", "real patches", "synthetic patches"]
    np.testing.assert_allclose(drawn["synthetic patches"][:4, 1], [0.5, 0.3, 0.2, 0.1])
    np.testing.assert_allclose(drawn["real patches"][:, 1], [0.6, 0.4, 0.3, 0.2, 0.1])
    assert "86 % of real" in ax.get_title()


def test_without_real_patches_there_is_no_ceiling(synthetic):
    found = synthetic.uns["round_trip"]
    del found["real_pcc"], found["real_mean_pcc"]
    found["share"] = np.nan
    ax = c2l.pl.round_trip(synthetic)
    assert list(series(ax)) == ["genes shuffled", "synthetic patches"]
    assert "of real" not in ax.get_title()


def test_many_genes_lose_their_names(synthetic):
    many = synthetic.uns["round_trip"] = dict(synthetic.uns["round_trip"])
    many.update(genes=[f"g{i}" for i in range(90)], **{k: np.zeros(90) for k in ("pcc", "shuffled_pcc", "real_pcc")})
    ax = c2l.pl.round_trip(synthetic)
    assert ax.get_xlabel() == "90 genes, sorted"
    assert len(ax.collections[-1].get_offsets()) == 90


def test_a_legend_stays_inside_axes_that_were_given(synthetic):
    import matplotlib.pyplot as plt

    fig, (ax, _) = plt.subplots(1, 2, figsize=(10, 4))
    box = c2l.pl.round_trip(synthetic, ax=ax).get_legend()
    fig.canvas.draw()
    assert box.get_window_extent().x1 <= ax.get_window_extent().x1 + 1
