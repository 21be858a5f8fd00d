from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from c2lst import nn


@pytest.fixture(scope="module")
def values():
    rng = np.random.default_rng(0)
    programs = rng.normal(size=(30, 3)) * [3, 2, 1]
    return np.log1p(np.exp(programs @ rng.normal(size=(3, 8)) + 0.3 * rng.normal(size=(30, 8)))).astype(np.float32)


@pytest.fixture(scope="module")
def counts():
    rng = np.random.default_rng(0)
    return rng.poisson(rng.gamma(2, 2, (24, 1)) * rng.gamma(2, 1, (24, 6))).astype(np.float32)


def test_pca_is_that_of_sklearn_up_to_sign_and_scale(values):
    encoder = nn.PCAGeneEncoder.fit(values, max_dim=4)
    ours = encoder(torch.from_numpy(values)).numpy()
    z = np.clip((values - values.mean(0)) / values.std(0), -5, 5)
    theirs = PCA(4, svd_solver="full").fit_transform(z)
    assert ours.shape == theirs.shape == (30, 4)
    correlation = [abs(np.corrcoef(a, b)[0, 1]) for a, b in zip(ours.T, theirs.T, strict=True)]
    np.testing.assert_allclose(correlation, 1, atol=1e-4)
    # unit variance, but for components below half the first, which are damped
    sd = theirs.std(0, ddof=1)
    np.testing.assert_allclose(ours.std(0, ddof=1), np.minimum(1, sd / (0.5 * sd[0])), rtol=1e-3)


def test_pca_of_few_spots_has_few_components(values):
    assert nn.PCAGeneEncoder.fit(values[:7]).dim == 3
    assert nn.PCAGeneEncoder.fit(values).dim == 8
    assert nn.PCAGeneEncoder.fit(values[:2]).dim == 1


def test_pca_knows_no_seed_and_takes_constant_genes(values):
    flat = values.copy()
    flat[:, 2] = 0
    a, b = nn.PCAGeneEncoder.fit(flat, seed=0), nn.PCAGeneEncoder.fit(flat, seed=1)
    assert torch.equal(a.components, b.components)
    assert torch.isfinite(a(torch.from_numpy(flat))).all()
    assert torch.isfinite(nn.PCAGeneEncoder.fit(np.ones_like(values))(torch.ones(2, 8))).all()


def test_standardised_genes_are_clipped_at_five(values):
    encoder = nn.PCAGeneEncoder.fit(values)
    far = encoder.standardise(torch.full((1, 8), 1e6))
    assert torch.equal(far, torch.full((1, 8), 5.0))


def test_mlp_depends_on_its_seed_alone(values):
    x = torch.from_numpy(values)
    torch.manual_seed(0)
    a = nn.MLPGeneEncoder.fit(values, seed=3, dim=4).eval()
    before = torch.random.get_rng_state()
    b = nn.MLPGeneEncoder.fit(values, seed=3, dim=4).eval()
    assert torch.equal(torch.random.get_rng_state(), before)
    c = nn.MLPGeneEncoder.fit(values, seed=4, dim=4).eval()
    assert torch.equal(a(x), b(x))
    assert not torch.allclose(a(x), c(x))
    assert a(x).shape == (30, 4)
    np.testing.assert_allclose(a.mean, values.mean(0), rtol=1e-5)
    np.testing.assert_allclose(a.scale, values.std(0), rtol=1e-5)


@pytest.mark.parametrize("kind", ["pca", "mlp"])
def test_config_and_state_rebuild_the_encoder(kind, values):
    encoder = nn.GENE_ENCODERS[kind].fit(values).eval()
    again = nn.GENE_ENCODERS[kind](**encoder.config).eval()
    again.load_state_dict(encoder.state_dict())
    assert again.kind == kind
    assert not again.uses_counts
    assert torch.equal(again(torch.from_numpy(values)), encoder(torch.from_numpy(values)))


def test_scvi_is_deterministic_and_leaves_the_callers_random_states(counts):
    import scvi  # noqa: F401  (its import may draw)

    torch_before, numpy_before = torch.random.get_rng_state(), np.random.get_state()[1].copy()
    a = nn.SCVIGeneEncoder.fit(counts, seed=1, dim=2, epochs=2)
    assert torch.equal(torch.random.get_rng_state(), torch_before)
    np.testing.assert_array_equal(np.random.get_state()[1], numpy_before)
    b = nn.SCVIGeneEncoder.fit(counts, seed=1, dim=2, epochs=2)
    x = torch.from_numpy(counts)
    z = a(x)
    assert torch.equal(z, b(x))
    assert z.shape == (24, 2)
    torch.testing.assert_close(z.mean(0), torch.zeros(2), rtol=0, atol=1e-4)
    torch.testing.assert_close(z.std(0), torch.ones(2), rtol=1e-3, atol=0)
    assert a.uses_counts
    # frozen, and it stays so
    assert not any(p.requires_grad for p in a.parameters())
    assert not a.train().training
    # draws are counts, a generator a row
    drawn = a.draw(x[:4], seed=5)
    assert torch.equal(drawn, a.draw(x[:4], seed=5))
    assert torch.equal(drawn[:2], a.draw(x[:2], seed=5))
    assert not torch.equal(drawn, a.draw(x[:4], seed=6))
    assert torch.equal(drawn, drawn.round())
    assert drawn.min() >= 0
    # and it is rebuilt from its tensors
    again = nn.SCVIGeneEncoder(**a.config)
    again.load_state_dict(a.state_dict())
    assert torch.equal(again(x), z)


def test_scvi_asks_for_spots(counts):
    with pytest.raises(ValueError, match="at least 20 spots, here are 19.*gene_encoder='pca'"):
        nn.SCVIGeneEncoder.fit(counts[:19])


def test_the_base_says_what_is_missing():
    with pytest.raises(TypeError, match="must define fit"):
        nn.GeneEncoder.fit(np.ones((3, 2)))
    with pytest.raises(TypeError, match="must define forward"):
        nn.GeneEncoder(2, 2)(torch.ones(1, 2))
