from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from anndata import AnnData
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from c2lst._expression import counts, expression, panel


def table(x):
    made = AnnData(x)
    made.var_names = [f"g{i}" for i in range(x.shape[1])]
    return made


@given(arrays(np.int32, (5, 4), elements=st.integers(0, 500)))
def test_expression_is_log1p_of_counts_per_10000_over_all_genes(x):
    size = x.sum(1, keepdims=True)
    wanted = np.log1p(np.divide(x * 1e4, size, out=np.zeros(x.shape), where=size > 0))
    for form in (x, sp.csr_matrix(x)):
        got = expression(table(form), ["g2", "g0"])
        np.testing.assert_allclose(got, wanted[:, [2, 0]], rtol=1e-5)


@pytest.mark.parametrize(("bad", "word"), [(0.5, "fractional"), (-1.0, "negative"), (np.nan, "NaN")])
def test_what_is_no_count_is_refused_and_the_layer_named(bad, word):
    x = np.ones((3, 2))
    x[1, 1] = bad
    made = table(x)
    made.layers["counts"] = np.ones((3, 2))
    with pytest.raises(ValueError, match=word):
        counts(made)
    assert counts(made, "counts").sum() == 6
    with pytest.raises(KeyError, match="raw.*counts"):
        counts(made, "raw")


def test_a_panel_must_be_marked():
    made = table(np.ones((2, 3)))
    with pytest.raises(KeyError, match="select_genes"):
        panel(made)
    made.var["c2lst_genes"] = [True, False, True]
    assert panel(made) == ["g0", "g2"]
    made.var["c2lst_genes"] = False
    with pytest.raises(ValueError, match="no gene"):
        panel(made)


def test_counts_beside_normalised_rows_are_not_taken_for_normalised(synthetic, toy):
    import anndata as ad

    from c2lst._expression import expression, is_normalised

    genes = list(synthetic.var_names)
    assert expression(synthetic, genes).shape == (12, 20)
    both = ad.concat([toy["table"], synthetic], uns_merge="unique")
    assert is_normalised(both)
    with pytest.raises(ValueError, match="of 32 of 44 spots holds whole numbers"):
        expression(both, genes)


def test_a_lazy_sparse_table_is_read():
    import dask.array as da
    import scipy.sparse as sp

    x = sp.csr_matrix(np.arange(12, dtype=np.float32).reshape(4, 3))
    table, lazy = AnnData(x), AnnData(x)
    lazy.X = da.from_array(x, chunks=(2, 3))
    np.testing.assert_array_equal(expression(lazy, ["0", "2"]), expression(table, ["0", "2"]))


def test_a_dense_table_on_disk_is_read(tmp_path):
    import anndata as ad

    table = AnnData(np.arange(12, dtype=np.float32).reshape(4, 3))
    table.write_h5ad(tmp_path / "t.h5ad")
    backed = ad.read_h5ad(tmp_path / "t.h5ad", backed="r")
    np.testing.assert_array_equal(expression(backed, ["0", "2"]), expression(table, ["0", "2"]))
    backed.file.close()
