from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from c2lst import pp


def drawn(table, fraction, **kwargs):
    pp.subsample(table, fraction, **kwargs)
    return table.obs["c2lst_sampled"].to_numpy(copy=True)


@settings(max_examples=40, deadline=None)
@given(low=st.floats(0.001, 1), high=st.floats(0.001, 1), seed=st.integers(0, 100))
def test_draws_are_nested(genes, low, high, seed):
    table = genes(n=37)
    low, high = sorted((low, high))
    few, many = drawn(table, low, seed=seed), drawn(table, high, seed=seed)
    assert (few <= many).all()
    assert few.sum() == max(1, round(low * 37))


def test_stratified_by_section_within_the_subset(genes):
    tables = [genes(n=n, name=name, seed=n) for n, name in ((100, "a"), (40, "b"), (60, "c"))]
    for t in tables:
        t.obs["c2lst_split"] = np.where(np.arange(t.n_obs) < t.n_obs // 2, "train", "test")
    tables[2].obs["c2lst_split"] = "test"
    pp.subsample(tables, 0.1, subset="c2lst_split")
    assert [int(t.obs["c2lst_sampled"].sum()) for t in tables] == [5, 2, 0]
    assert not any((t.obs["c2lst_sampled"] & (t.obs["c2lst_split"] == "test")).any() for t in tables)
    pp.subsample(tables, 0.001, subset="c2lst_split")
    assert [int(t.obs["c2lst_sampled"].sum()) for t in tables] == [1, 1, 0]


def test_a_draw_depends_on_name_and_seed_alone(genes):
    a, b = genes(name="a"), genes(name="b")
    pp.subsample([a, b], 0.2)
    together = a.obs["c2lst_sampled"].tolist()
    assert together != b.obs["c2lst_sampled"].tolist()
    other = genes(name="a", seed=5)  # other genes
    pp.subsample(other, 0.2)
    assert other.obs["c2lst_sampled"].tolist() == together
    assert drawn(a, 0.2, seed=1).tolist() != together


def test_bad_input_and_announced_keys(genes, fingerprint):
    table = genes()
    before = fingerprint(table)
    for fraction, error in ((0, ValueError), (1.1, ValueError), ("half", TypeError)):
        with pytest.raises(error, match="fraction"):
            pp.subsample(table, fraction)
    with pytest.raises(KeyError, match="array_row"):
        pp.subsample(table, 0.5, subset="nope")
    table.obs["none"] = False
    with pytest.raises(ValueError, match="selects no spot"):
        pp.subsample(table, 0.5, subset="none")
    del table.obs["none"]
    assert fingerprint(table) == before
    got = pp.subsample(table, 0.5, copy=True)
    assert fingerprint(table) == before
    after = fingerprint(got)
    assert {k for k in after if after[k] != before.get(k)} == {"obs/c2lst_sampled", "uns/c2lst"}
    assert got.obs["c2lst_sampled"].dtype == bool
