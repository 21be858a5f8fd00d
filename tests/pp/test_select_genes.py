from __future__ import annotations

import logging

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp

from c2lst import pp


def marked(table, key="c2lst_genes"):
    return list(table.var_names[table.var[key]])


def by_hand(tables, n_top, min_fraction, masks=None):
    masks = masks or [np.ones(t.n_obs, bool) for t in tables]
    x = np.concatenate([t.X[m] for t, m in zip(tables, masks, strict=True)]).astype(float)
    values = np.log1p(x / x.sum(1, keepdims=True) * 1e4)
    variance = np.where((x > 0).mean(0) >= min_fraction, values.var(0, ddof=1), -1)
    return sorted(np.argsort(-variance)[:n_top])


@pytest.mark.parametrize("kind", [np.asarray, sp.csr_matrix, sp.csc_matrix])
def test_most_variable_among_the_seen(genes, kind):
    table = genes()
    wanted = by_hand([table], 7, 0.5)
    table.X = kind(table.X)
    pp.select_genes(table, 7, min_fraction=0.5)
    assert np.flatnonzero(table.var["c2lst_genes"]).tolist() == wanted
    assert table.var["c2lst_genes"].dtype == bool
    assert table.uns["c2lst"]["params"]["select_genes"]["genes"] == marked(table)


def test_sections_share_one_panel_of_common_genes(genes):
    a, b = genes(seed=1, name="a"), genes(n=50, seed=2, name="b", shift=5)
    pp.select_genes([a, b], 6)
    assert marked(a) == marked(b)
    common = [g for g in a.var_names if g in set(b.var_names)]
    assert set(marked(a)) <= set(common)


def test_pooled_over_sections(genes):
    a, b = genes(seed=1, name="a"), genes(n=50, seed=2, name="b")
    pp.select_genes({"x": a, "y": b}, 6)
    assert np.flatnonzero(a.var["c2lst_genes"]).tolist() == by_hand([a, b], 6, 0.3)


def test_nothing_outside_the_subset_counts(genes):
    a, b, c = genes(seed=1, name="a"), genes(seed=2, name="b"), genes(seed=3, name="c")
    for t, n in ((a, 40), (b, 70), (c, 0)):  # c is held out as a whole
        t.obs["c2lst_split"] = np.where(np.arange(t.n_obs) < n, "train", "test")
    pp.select_genes([a, b, c], 8, subset="c2lst_split")
    before = marked(a)
    rng = np.random.default_rng(9)
    for t, n in ((a, 40), (b, 70), (c, 0)):
        t.X[n:] = rng.permuted(t.X[n:], axis=1) * 50 + 0.5  # not even counts
        del t.var["c2lst_genes"]
    pp.select_genes([a, b, c], 8, subset="c2lst_split")
    assert marked(a) == marked(b) == marked(c) == before
    masks = [np.arange(100) < 40, np.arange(100) < 70]
    assert [a.var_names.get_loc(g) for g in before] == by_hand([a, b], 8, 0.3, masks)


def test_named_genes(genes):
    table = genes()
    pp.select_genes(table, genes=["G7", "G2"])
    assert marked(table) == ["G2", "G7"]
    with pytest.raises(KeyError, match="lacks 1 of 2.*'TP53'"):
        pp.select_genes(table, genes=["G1", "TP53"])
    with pytest.raises(ValueError, match="twice.*G1"):
        pp.select_genes(table, genes=["G1", "G1"])
    with pytest.raises(TypeError, match="list of names"):
        pp.select_genes(table, genes="G1")
    with pytest.raises(ValueError, match="empty"):
        pp.select_genes(table, genes=[])
    assert marked(table) == ["G2", "G7"]


def test_fewer_than_asked_warns_and_none_raises(genes, caplog):
    table = genes()
    with caplog.at_level(logging.WARNING, "c2lst"):
        pp.select_genes(table, 500, min_fraction=0.5)
    n = int(((table.X > 0).mean(0) >= 0.5).sum())
    assert f"only {n} genes" in caplog.text
    assert len(marked(table)) == n
    table.X[:] = 1
    with pytest.raises(ValueError, match="none of those varies.*genes="):
        pp.select_genes(table)


def test_layers_copies_and_libraries(genes):
    table = genes()
    table.layers["counts"] = table.X.copy()
    table.X = np.log1p(table.X)
    with pytest.raises(ValueError, match="fractional.*'counts'"):
        pp.select_genes(table)
    assert "c2lst_genes" not in table.var
    got = pp.select_genes(table, 5, layer="counts", copy=True)
    assert "c2lst_genes" not in table.var
    assert len(marked(got)) == 5
    both = ad.concat({"a": genes(seed=1), "b": genes(seed=2)}, label="lib", index_unique="-")
    pp.select_genes(both, 6, library_key="lib")
    alone = [genes(seed=1, name="a"), genes(seed=2, name="b")]
    pp.select_genes(alone, 6)
    assert marked(both) == marked(alone[0])


def test_no_gene_in_common(genes):
    with pytest.raises(ValueError, match="no gene in common"):
        pp.select_genes([genes(name="a"), genes(name="b", shift=100)])


def test_only_what_is_announced_changes(genes, fingerprint):
    table = genes()
    before = fingerprint(table)
    pp.select_genes(table, 5)
    after = fingerprint(table)
    assert {k for k in after if after[k] != before.get(k)} == {"var/c2lst_genes", "uns/c2lst"}
