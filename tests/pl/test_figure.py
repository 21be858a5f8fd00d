from __future__ import annotations

import subprocess
import sys
from copy import deepcopy

import numpy as np
import pytest

import c2lst as c2l


def test_importing_the_plots_imports_no_matplotlib():
    code = "import sys, c2lst.pl; print('matplotlib' in sys.modules, 'torch' in sys.modules)"
    got = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert got.stdout.split() == ["False", "False"]


@pytest.mark.parametrize("name", ["embedding_overlap", "composition", "round_trip", "memorization"])
def test_a_missing_result_names_key_content_and_call(synthetic, name):
    del synthetic.uns[name]
    with pytest.raises(KeyError, match=f"(?s){name}.*'c2lst'.*c2lst.tl.{name}"):
        getattr(c2l.pl, name)(synthetic)


@pytest.mark.parametrize("name", ["embedding_overlap", "composition", "round_trip", "memorization", "gene_sweep"])
def test_anything_but_a_table_is_refused(name):
    with pytest.raises(TypeError, match="must be an AnnData, not list"):
        getattr(c2l.pl, name)([])


@pytest.mark.parametrize("name", ["embedding_overlap", "composition", "round_trip", "memorization"])
def test_plots_change_nothing(synthetic, name):
    uns, obs = deepcopy(dict(synthetic.uns)), synthetic.obs.copy()
    getattr(c2l.pl, name)(synthetic)
    np.testing.assert_equal(dict(synthetic.uns), uns)
    assert synthetic.obs.equals(obs)


@pytest.mark.parametrize("name", ["embedding_overlap", "composition"])
def test_many_panels_go_into_the_figure_given(synthetic, name):
    import matplotlib.pyplot as plt

    fig = plt.figure()
    axes = getattr(c2l.pl, name)(synthetic, fig=fig)
    assert all(ax.figure is fig for ax in axes)
    assert plt.get_fignums() == [fig.number]


@pytest.mark.parametrize("name", ["round_trip", "memorization"])
def test_one_panel_goes_into_the_axes_given(synthetic, name):
    import matplotlib.pyplot as plt

    _, ax = plt.subplots()
    assert getattr(c2l.pl, name)(synthetic, ax=ax) is ax


def test_a_given_figure_holds_all_of_its_axes(synthetic):
    import matplotlib.pyplot as plt

    fig = plt.figure(figsize=(10, 4))
    c2l.pl.embedding_overlap(synthetic, fig=fig)
    fig.canvas.draw()
    for ax in fig.axes:
        box = ax.get_tightbbox().transformed(fig.transFigure.inverted())
        assert box.x0 > -0.01 and box.y0 > -0.01 and box.x1 < 1.01 and box.y1 < 1.01
    own = plt.figure(layout="tight")
    engine = own.get_layout_engine()
    c2l.pl.embedding_overlap(synthetic, fig=own)
    assert own.get_layout_engine() is engine
    plt.close("all")


def test_text_keeps_its_size_under_other_styles():
    import matplotlib.pyplot as plt

    from c2lst.pl._figure import many_axes

    with plt.rc_context({"font.size": 14, "axes.labelsize": 14}):
        ax = many_axes(None, 1, 2, (4, 2))[0, 0]
        ax.set_xlabel("x")
        assert ax.xaxis.label.get_size() == 9


def test_a_part_of_a_figure_is_laid_out_too():
    import matplotlib.pyplot as plt

    from c2lst.pl._figure import many_axes

    fig = plt.figure()
    many_axes(fig.subfigures(1, 2)[0], 1, 1, (2, 2))
    assert fig.get_layout_engine() is not None
