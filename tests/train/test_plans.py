from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from c2lst import nn, train

ALONE = {"desc": "test", "accelerator": "cpu", "precision": "32-true", "progress": False}
SCHEDULER = FlowMatchEulerDiscreteScheduler()


def tiny():
    torch.manual_seed(0)
    model = nn.make_denoiser(latent_channels=2, latent_px=4, width=16, depth=2, heads=2)
    torch.nn.init.normal_(model.proj_out.weight, std=0.05)
    return model.eval()


def modulation_plan(*, pool=None, encoder=None, steps=3, **kwargs):
    torch.manual_seed(1)
    model = tiny().requires_grad_(False)
    genes = np.random.default_rng(0).random((10, 5)).astype(np.float32)
    encoder = nn.PCAGeneEncoder.fit(genes) if encoder is None else encoder.fit(genes, dim=4)
    film = nn.FiLM(encoder.dim, [s.width for s in nn.sites(model)], rank=2)
    latents = torch.randn(10, 8, 2, 4, 4, generator=torch.Generator().manual_seed(1))
    return train.ModulationPlan(
        model, SCHEDULER, film, encoder, latents[:7], torch.from_numpy(genes[:7]), pool=pool,
        held_out=(latents[7:], torch.from_numpy(genes[7:])), check_every=1, steps=steps, batch_size=4, lr=1e-2, seed=0,
        **kwargs,
    )  # fmt: skip


def test_rate_warms_up_and_falls_to_a_tenth():
    plan = train.Plan(steps=100, batch_size=4, lr=2.0, seed=0)
    rates = []
    for plan.step in range(101):
        rates.append(plan.rate())
    np.testing.assert_allclose(rates[:5], 2.0 * np.arange(1, 6) / 5)
    assert rates[5] == pytest.approx(2.0)
    assert rates[100] == pytest.approx(0.2)
    middle = 5 + 95 // 2
    assert rates[middle] == pytest.approx(2 * (0.1 + 0.45 * (1 + math.cos(math.pi * 47 / 95))))
    assert (np.diff(rates[5:]) < 0).all()


@pytest.mark.parametrize(("n", "size"), [(10, 4), (10, 10), (3, 8)])
def test_rows_repeat_only_when_they_must(n, size):
    plan = train.Plan(steps=1, batch_size=size, lr=1.0, seed=0)
    rows = plan.rows(n, torch.Generator().manual_seed(0))
    assert len(rows) == size
    counts = np.bincount(rows, minlength=n)
    assert counts.max() - counts.min() <= 1


def test_draws_follow_from_seed_and_step():
    def first(seed, step):
        plan = train.Plan(steps=9, batch_size=1, lr=1.0, seed=seed)
        plan.step = step
        return torch.rand(3, generator=plan.draws()).tolist()

    assert first(0, 1) == first(0, 1)
    assert first(0, 1) != first(0, 2)
    assert first(0, 1) != first(1, 1)


def test_a_plan_must_say_its_loss():
    with pytest.raises(TypeError, match="Plan must define loss"):
        train.Plan(steps=1, batch_size=1, lr=1.0, seed=0).loss(torch.Generator())


def test_modulation_moves_and_the_frozen_model_does_not():
    plan = modulation_plan(pool=torch.randn(5, 2, 4, 4, generator=torch.Generator().manual_seed(9)))
    frozen = {k: v.clone() for k, v in plan.frozen.state_dict().items()}
    assert not any(k.startswith("frozen") for k in plan.state_dict())
    assert torch.equal(plan.modulation.out.weight, torch.zeros_like(plan.modulation.out.weight))
    train.fit(plan, **ALONE)
    assert plan.modulation.out.weight.abs().sum() > 0
    assert plan.modulation.base.abs().sum() > 0
    for key, value in plan.frozen.state_dict().items():
        assert torch.equal(value, frozen[key]), key
    assert not any(p.requires_grad for p in plan.frozen.parameters())


def test_best_state_is_that_of_the_lowest_held_out_loss():
    plan = train.fit(modulation_plan(steps=4), **ALONE)
    assert [step for step, _ in plan.validation] == [1, 2, 3, 4]
    value, state, step = plan.best
    assert value == min(v for _, v in plan.validation)
    assert dict(plan.validation)[step] == value
    plan.load_state_dict(state)
    assert plan.validate() == pytest.approx(value, rel=1e-6)
    assert plan.validate() == plan.validate()


def test_before_training_genes_change_no_held_out_loss():
    plan = modulation_plan().eval()
    assert plan.validate() == plan.validate(shuffle=True) == plan.validate(dropped=True)


def test_with_all_genes_dropped_only_the_part_without_genes_learns():
    plan = train.fit(modulation_plan(dropout=1.0), **ALONE)
    assert plan.modulation.base.abs().sum() > 0
    assert plan.modulation.out.weight.abs().sum() == 0


def test_an_mlp_learns_with_the_modulation():
    plan = modulation_plan(encoder=nn.MLPGeneEncoder, steps=3)
    before = [p.clone() for p in plan.encoder.parameters()]
    train.fit(plan, **ALONE)
    assert any(not torch.equal(a, b) for a, b in zip(before, plan.encoder.parameters(), strict=True))


def test_average_follows_the_denoiser():
    latents = torch.randn(8, 2, 4, 4, generator=torch.Generator().manual_seed(1))
    plan = train.DenoiserPlan(tiny(), SCHEDULER, latents, steps=1, batch_size=4, lr=1e-2, seed=0, weight_decay=0.0)
    start = plan.average.proj_out.weight.clone()
    train.fit(plan, **ALONE)
    moved = plan.denoiser.proj_out.weight.detach()
    # decay of the first step: (1 + 1) / (10 + 1)
    torch.testing.assert_close(plan.average.proj_out.weight, start + (1 - 2 / 11) * (moved - start))


def test_a_perfect_autoencoder_pays_for_its_latents_alone():
    class Perfect(torch.nn.Module):
        def encode(self, x):
            self.x = x
            dist = type("Dist", (), {"mean": torch.full((len(x), 1, 2, 2), 3.0)})
            return type("Out", (), {"latent_dist": dist})

        def decode(self, z):
            return type("Out", (), {"sample": self.x})

    patches = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), dtype=np.uint8)
    plan = train.TokenizerPlan(Perfect(), train.Pool([patches]), kl=0.5, steps=1, batch_size=4, lr=1e-3, seed=0)
    assert float(plan.loss(plan.draws())) == pytest.approx(0.5 * 9)


def test_the_tokenizer_learns():
    torch.manual_seed(0)
    patches = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), dtype=np.uint8)
    tokenizer = nn.make_tokenizer(latent_channels=2, channels=(8, 8), patch_px=8, norm_groups=4)
    plan = train.TokenizerPlan(tokenizer, train.Pool([patches // 8 + 200]), steps=5, batch_size=4, lr=5e-3, seed=0)
    train.fit(plan, **ALONE)
    assert plan.losses[-1] < plan.losses[0]


def test_cnn_draws_by_weight_and_takes_no_unknown_gene():
    images = np.zeros((3, 8, 8, 3), dtype=np.uint8)
    target = torch.tensor([[1.0, torch.nan], [5.0, 5.0], [torch.nan, 2.0]])
    network = torch.nn.Module()
    network.forward = lambda x: torch.zeros(len(x), 2)

    def loss(weight):
        plan = train.CNNPlan(
            network, train.Pool([images]), target, torch.tensor(weight), steps=1, batch_size=16, lr=1e-3, seed=0
        )
        return float(plan.loss(plan.draws()))

    assert loss([1.0, 0.0, 0.0]) == pytest.approx(1.0)
    assert loss([0.0, 1.0, 0.0]) == pytest.approx(25.0)
    assert loss([0.0, 0.0, 1.0]) == pytest.approx(4.0)
