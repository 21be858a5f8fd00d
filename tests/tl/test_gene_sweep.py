from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

import c2lst as c2l

QUICK = {"sampler_steps": 2, "progress": False}


@pytest.fixture
def base(toy, local):
    from c2lst._expression import expression

    return expression(toy["table"], local.genes).mean(0)


def test_the_noise_stays_and_the_gene_moves(local, base):
    gene = local.genes[4]
    swept = c2l.tl.gene_sweep(local, gene, values=[0, 4, 0], base=base, n=3, **QUICK)
    assert swept.shape == (9, 20) and list(swept.var_names) == local.genes
    patches = swept.obsm["patches"].reshape(3, 3, 64, 64, 3).astype(int)
    assert np.abs(patches[0] - patches[2]).max() <= 1  # the same value, the same patch
    assert np.abs(patches[0, 0] - patches[0, 1]).max() > 1  # replicates have noise of their own
    x = np.asarray(swept.X).reshape(3, 3, 20)
    assert (x[:, :, 4] == np.array([0, 4, 0])[:, None]).all()
    np.testing.assert_allclose(np.delete(x, 4, axis=2), np.broadcast_to(np.delete(base, 4), (3, 3, 19)), rtol=1e-6)
    assert swept.obs["c2lst_value"].tolist() == [0, 0, 0, 4, 4, 4, 0, 0, 0]
    assert swept.obs["c2lst_replicate"].tolist() == [0, 1, 2] * 3


def test_twice_and_by_other_batches(local, base):
    a, b = (
        c2l.tl.gene_sweep(local, local.genes[0], values=[1, 2], base=base, n=2, batch_size=s, **QUICK) for s in (64, 3)
    )
    assert np.abs(a.obsm["patches"].astype(int) - b.obsm["patches"].astype(int)).max() <= 1
    c = c2l.tl.gene_sweep(local, local.genes[0], values=[1, 2], base=base, n=2, seed=1, **QUICK)
    assert not np.array_equal(a.obsm["patches"], c.obsm["patches"])


def test_direction_is_added(local, base):
    gene, other = local.genes[0], local.genes[7]
    swept = c2l.tl.gene_sweep(local, {gene: 1.0, other: -50.0}, values=[-1, 0, 2], base=base, n=1, **QUICK)
    x = np.asarray(swept.X)
    np.testing.assert_allclose(x[:, 0], np.clip(base[0] + np.array([-1, 0, 2]), 0, None), rtol=1e-5)
    np.testing.assert_allclose(x[:, 7], [base[7] + 50, base[7], 0], rtol=1e-5)  # log1p CP10k is never negative
    series = c2l.tl.gene_sweep(local, pd.Series({gene: 1.0, other: -50.0}), values=[-1, 0, 2], base=base, n=1, **QUICK)
    np.testing.assert_array_equal(series.X, x)
    array = np.zeros(20)
    array[[0, 7]] = 1, -50
    np.testing.assert_array_equal(c2l.tl.gene_sweep(local, array, values=[-1, 0, 2], base=base, n=1, **QUICK).X, x)


def test_program_and_profiles_of_ones_own(local, base):
    own = np.stack([base, base + 1])
    swept = c2l.tl.gene_sweep(local, local.genes[:3], values=[2], base=own, **QUICK)
    assert swept.n_obs == 2  # a row a replicate
    np.testing.assert_array_equal(np.asarray(swept.X)[:, :3], 2)
    np.testing.assert_allclose(np.asarray(swept.X)[:, 3:], own[:, 3:], rtol=1e-6)
    named = c2l.tl.gene_sweep(
        local, local.genes[:3], values=[2], base=pd.Series(base, index=local.genes)[::-1], n=1, **QUICK
    )
    np.testing.assert_allclose(np.asarray(named.X)[0, 3:], base[3:], rtol=1e-6)
    said = named.uns["c2lst"]
    assert said["params"]["gene_sweep"]["genes"] == local.genes[:3] and said["expression"] == "log1p CP10k"
    json.dumps(said)
    assert c2l.pl.gene_sweep(swept) is not None


def test_bad_input(local, base):
    with pytest.raises(KeyError, match="does not know.*'XYZ'"):
        c2l.tl.gene_sweep(local, "XYZ", values=[1], base=base)
    with pytest.raises(KeyError, match="names genes the local model does not know.*'XYZ'"):
        c2l.tl.gene_sweep(local, {"XYZ": 1.0}, values=[1], base=base)
    with pytest.raises(ValueError, match="base must have 20 genes"):
        c2l.tl.gene_sweep(local, local.genes[0], values=[1], base=base[:5])
    with pytest.raises(KeyError, match="base lacks genes"):
        c2l.tl.gene_sweep(local, local.genes[0], values=[1], base=pd.Series(base[:5], index=local.genes[:5]))
    with pytest.raises(ValueError, match="values is empty"):
        c2l.tl.gene_sweep(local, local.genes[0], values=[], base=base)
    with pytest.raises(ValueError, match="n"):
        c2l.tl.gene_sweep(local, local.genes[0], values=[1], base=base, n=0)
