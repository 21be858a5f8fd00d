from __future__ import annotations

import numpy as np
import pytest

import c2lst as c2l


@pytest.fixture
def swept(section):
    swept = section[:6].copy()
    swept.obs["c2lst_value"] = [2.0, 0.0, 1.0, 0.0, 1.0, 2.0]
    swept.obs["c2lst_replicate"] = [0, 0, 0, 1, 1, 1]
    swept.uns["c2lst"]["params"] = {"gene_sweep": {"genes": ["ERBB2"]}}
    return swept


def test_rows_are_noises_columns_are_values(swept):
    axes = c2l.pl.gene_sweep(swept)
    assert axes.shape == (2, 3)
    assert [ax.get_title() for ax in axes[0]] == ["0", "1", "2"]
    for ax, i in zip(axes.ravel(), (1, 2, 0, 3, 4, 5), strict=True):
        np.testing.assert_array_equal(ax.images[0].get_array(), swept.obsm["patches"][i])
    assert axes[0, 0].figure.get_suptitle().startswith("ERBB2")


def test_several_genes_and_directions_are_named(swept):
    params = swept.uns["c2lst"]["params"]["gene_sweep"]
    params["genes"] = list("ABCDE")
    assert c2l.pl.gene_sweep(swept)[0, 0].figure.get_suptitle().startswith("A, B, C and 2 more")
    params["genes"] = ["a direction"]
    assert "direction" in c2l.pl.gene_sweep(swept)[0, 0].figure.get_suptitle()


def test_rows_can_be_limited(swept):
    assert c2l.pl.gene_sweep(swept, rows=1).shape == (1, 3)


def test_another_table_is_refused(section):
    with pytest.raises(KeyError, match="c2lst_value.*c2lst.tl.gene_sweep"):
        c2l.pl.gene_sweep(section)
