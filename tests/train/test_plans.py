from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from torch.nn import functional as F

from c2lst import nn, train
from c2lst.train._plans import LAGS, apart, moments, power_spectrum, variogram

ALONE = {"desc": "test", "accelerator": "cpu", "precision": "32-true", "progress": False}
SCHEDULER = FlowMatchEulerDiscreteScheduler()


class Restored(torch.nn.Module):
    """A tokenizer whose restored patches are a known change of the originals."""

    def __init__(self, change):
        super().__init__()
        self.change = change

    def encode(self, x):
        self.x = x
        return type("Out", (), {"latent": torch.zeros(len(x), 1, 2, 2)})

    def decode(self, z):
        return type("Out", (), {"sample": self.change(self.x)})


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


def test_a_trapezoid_is_flat_and_falls_on_a_line_over_its_last_fifth():
    plan = train.Plan(steps=100, batch_size=4, lr=2.0, seed=0, schedule="trapezoid")
    rates = []
    for plan.step in range(101):
        rates.append(plan.rate())
    np.testing.assert_allclose(rates[:5], 2.0 * np.arange(1, 6) / 5)
    assert rates[5:81] == [2.0] * 76
    np.testing.assert_allclose(rates[80:], 2.0 * np.linspace(1, 0, 21), atol=1e-12)
    with pytest.raises(ValueError, match="schedule='linear' is not known.*cosine.*trapezoid"):
        train.Plan(steps=100, batch_size=4, lr=2.0, seed=0, schedule="linear")


def test_few_of_many_rows_do_not_repeat_and_lie_everywhere():
    plan, n = train.Plan(steps=1, batch_size=4000, lr=1.0, seed=0), 2**22
    rows = plan.rows(n, torch.Generator().manual_seed(0))
    assert len(np.unique(rows)) == 4000
    assert abs(rows.mean() / n - 0.5) < 0.02
    assert rows.max() < n
    np.testing.assert_array_equal(rows, plan.rows(n, torch.Generator().manual_seed(0)))


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


def test_others_of_the_same_group_alone():
    plan = modulation_plan(held_out_groups=np.array(["b", "a", "b"]))
    for k in range(4):
        assert plan._others(3, k, within=True).tolist() == [2, 1, 0]
        assert sorted(plan._others(3, k, within=False).tolist()) == [0, 1, 2]
        assert not (plan._others(3, k, within=False) == torch.arange(3)).any()
    loss = plan.held_out_loss(shuffle=True, within=True)
    assert loss.isfinite().tolist() == [True, False, True]  # alone in its group: nothing to compare
    torch.testing.assert_close(loss[[0, 2]], plan.held_out_loss()[[0, 2]])  # untrained: genes say nothing yet
    plan.held_out_groups = np.array(["b"] * 3)
    for k in range(4):
        assert torch.equal(plan._others(3, k, within=True), plan._others(3, k, within=False))


def test_before_training_genes_change_no_held_out_loss():
    plan = modulation_plan().eval()
    assert plan.validate() == plan.validate(shuffle=True) == plan.validate(dropped=True)


def test_with_all_genes_dropped_only_the_part_without_genes_learns():
    plan = train.fit(modulation_plan(dropout=1.0), **ALONE)
    assert plan.modulation.base.abs().sum() > 0
    assert plan.modulation.out.weight.abs().sum() == 0


def test_genes_of_unpaired_tissue_are_learned_from_and_where_they_are_told():
    pool = torch.randn(5, 8, 2, 4, 4, generator=torch.Generator().manual_seed(9))
    genes = torch.rand(5, 5, generator=torch.Generator().manual_seed(3))
    with_genes, without = modulation_plan(pool=pool, pool_genes=genes), modulation_plan(pool=pool)
    sizes = []
    for plan in (with_genes, without):
        plan.objective.loss = lambda model, z, noise, u, _was=plan.objective.loss: (
            sizes.append(len(z)) or _was(model, z, noise, u)
        )
        plan.loss(torch.Generator().manual_seed(0))
    assert sizes == [2 + 4, 4 + 1]  # half as many spots as unpaired patches; a quarter as many patches as spots
    fitted = train.fit(with_genes, **ALONE)
    other = train.fit(modulation_plan(pool=pool, pool_genes=genes.flip(0)), **ALONE)
    assert not torch.equal(fitted.modulation.out.weight, other.modulation.out.weight)


def test_the_step_that_is_kept_is_that_of_the_largest_gain_from_own_genes():
    pool, genes = torch.randn(5, 2, 4, 4, generator=torch.Generator().manual_seed(9)), torch.rand(5, 5)
    own = {1: 1.0, 2: 1.2, 3: 1.4}
    other = {1: 1.0, 2: 1.5, 3: 1.6}
    for told, kept in ((genes, 2), (None, 1)):
        plan = modulation_plan(pool=pool, pool_genes=told)
        plan.validate = lambda shuffle=False, plan=plan: (other if shuffle else own)[plan.step]
        for plan.step in own:
            plan.after_step()
        assert plan.best[2] == kept
        assert plan.validation == list(own.items())


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


def test_a_denoiser_may_lean_on_noise():
    latents = torch.randn(8, 2, 4, 4, generator=torch.Generator().manual_seed(1))
    kwargs = {"steps": 1, "batch_size": 8, "lr": 1e-2, "seed": 0}
    plain = train.DenoiserPlan(tiny(), SCHEDULER, latents, **kwargs)
    plan = train.DenoiserPlan(tiny(), SCHEDULER, latents, time_shift=3.0, **kwargs)
    draws = plan.draws()
    z = latents[plan.rows(8, draws)]
    noise, u = torch.randn(z.shape, generator=draws), torch.sigmoid(torch.randn(8, generator=draws))
    aim = plan.objective.loss(plan.denoiser, z, noise, 3 * u / (1 + 2 * u)).mean()
    torch.testing.assert_close(plan.loss(plan.draws()), aim)
    assert plain.loss(plain.draws()).item() != pytest.approx(aim.item())
    assert plan.settings()["time_shift"] == 3.0 and "time_shift" not in plain.settings()
    even = train.DenoiserPlan(tiny(), SCHEDULER, latents, time_even=0.5, **kwargs)
    assert even.loss(even.draws()).item() != pytest.approx(plain.loss(plain.draws()).item())
    assert even.settings()["time_even"] == 0.5 and "time_even" not in plain.settings()


def test_a_perfect_autoencoder_pays_for_its_latents_alone():
    class Perfect(torch.nn.Module):
        def encode(self, x):
            self.x = x
            dist = type("Dist", (), {"mode": staticmethod(lambda: torch.full((len(x), 1, 2, 2), 3.0))})
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


def test_the_tokenizer_is_looked_at_on_held_out_patches_in_decibels():
    class Grey(torch.nn.Module):
        config = {}

        def encode(self, x):
            return type("Out", (), {"latents": x})

        def decode(self, z):
            return type("Out", (), {"sample": z + 0.2})

    held = np.full((70, 8, 8, 3), 100, dtype=np.uint8)
    plan = train.TokenizerPlan(
        Grey(), train.Pool([held]), held_out=held, check_every=2, steps=3, batch_size=4, lr=1e-3, seed=0
    )
    for _ in range(3):
        plan.count()
    # an error of 0.2 of a range of 2 is 20 dB
    assert [step for step, _ in plan.validation] == [2, 3]
    assert [v for _, v in plan.validation] == pytest.approx([20.0, 20.0], abs=1e-4)


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


def test_the_decoder_alone_learns_on_and_latents_stay():
    torch.manual_seed(0)
    patches = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), dtype=np.uint8)
    tokenizer = nn.make_tokenizer(kind="dc", latent_channels=2, channels=(8, 8), layers=(0, 1))
    before = nn.raw_latents(tokenizer, nn.to_tensor(patches)).detach()
    plan = train.TokenizerPlan(
        tokenizer, train.Pool([patches // 8 + 200]), steps=5, batch_size=4, lr=5e-3, seed=0, decoder_only=True
    )
    train.fit(plan, **ALONE)
    assert plan.losses[-1] < plan.losses[0]
    assert torch.equal(nn.raw_latents(tokenizer, nn.to_tensor(patches)), before)
    assert plan.settings()["decoder_only"]


def test_the_decoder_that_ships_is_an_average_of_those_on_the_way():
    torch.manual_seed(0)
    patches = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), dtype=np.uint8)
    tokenizer = nn.make_tokenizer(kind="dc", latent_channels=2, channels=(8, 8), layers=(0, 1))
    before = {k: v.clone() for k, v in tokenizer.state_dict().items()}
    seen = []

    class Watched(train.TokenizerPlan):
        def after_step(self):
            super().after_step()
            seen.append({k: v.detach().clone() for k, v in self.tokenizer.state_dict().items()})

    how = {"steps": 4, "batch_size": 4, "lr": 5e-3, "seed": 0, "decoder_only": True, "adversarial": 0.5}
    plan = Watched(tokenizer, train.Pool([patches]), ema=0.15, held_out=patches, **how)
    train.fit(plan, **ALONE)
    # (1 + step) / (10 + step) is above .15 from the first step on
    for name, got in plan.average.state_dict().items():
        want = before[name]
        for state in seen:
            want = 0.15 * want + 0.85 * state[name]
        torch.testing.assert_close(got, want)
    ends = [list(m.decoder.parameters())[-1] for m in (plan.average, plan.tokenizer)]
    assert not torch.equal(*ends)
    # held-out patches are restored by the average; it takes no gradient and is told apart
    x, error = nn.to_tensor(patches), []
    for one in (plan.average, plan.tokenizer):
        y = nn.decode(one, nn.encode(one, x)).detach().clamp(-1, 1)
        error.append(float((-10 * (y - x).div(2).square().mean(dim=(1, 2, 3)).log10()).mean()))
    assert plan.validate() == pytest.approx(error[0], abs=1e-4) and error[0] != pytest.approx(error[1], abs=1e-4)
    assert not any(p.requires_grad for p in plan.average.parameters())
    assert plan.settings()["ema"] == 0.15
    # learning does not depend on it
    plain = train.TokenizerPlan(
        nn.make_tokenizer(kind="dc", latent_channels=2, channels=(8, 8), layers=(0, 1)), train.Pool([patches]), **how
    )
    plain.tokenizer.load_state_dict(before)
    train.fit(plain, **ALONE)
    assert plain.losses == plan.losses and plain.average is None and "ema" not in plain.settings()


def test_a_power_spectrum_finds_a_frequency_and_is_flat_for_white_noise():
    columns = torch.arange(32) / 32
    wave = torch.sin(2 * np.pi * 8 * columns).expand(2, 3, 32, 32)  # a quarter of a cycle a pixel
    for x, place in ((wave, (0, 4)), (wave.transpose(2, 3), (4, 0))):
        found = power_spectrum(x)
        assert found.shape == (8, 8, 3, 3)
        # three channels alike: they share all they have
        torch.testing.assert_close(found, found[..., :1, :1].expand_as(found))
        assert divmod(int(found[..., 0, 0].argmax()), 8) == place
        far = found[..., 0, 0].clone()
        far[max(0, place[0] - 1) : place[0] + 2, max(0, place[1] - 1) : place[1] + 2] = 0
        assert float(far.max()) < 1e-4 * float(found.max())
    checks = ((-1.0) ** (torch.arange(32)[:, None] + torch.arange(32))).expand(1, 1, 32, 32)
    assert int(power_spectrum(checks).argmax()) == 63  # the corner of the spectrum
    noise = power_spectrum(torch.randn(256, 2, 32, 48, generator=torch.Generator().manual_seed(0)))
    own, shared = noise.diagonal(dim1=2, dim2=3).flatten()[1:], noise[..., 0, 1]
    assert float(own.min()) > 0.7 * float(own.max()) and float(shared.abs().max()) < 0.2 * float(own.max())
    torch.testing.assert_close(power_spectrum(2 * wave), 4 * power_spectrum(wave))


@pytest.mark.parametrize("shape", [(8, 12), (3, 5), (64, 64)])
def test_a_power_spectrum_has_as_many_bins_as_a_patch_allows(shape):
    found = power_spectrum(torch.randn(4, 3, *shape, generator=torch.Generator().manual_seed(0)))
    assert found.shape == (min(8, shape[0] // 2), min(8, shape[1] // 2), 3, 3) and bool(found.isfinite().all())


def test_covariances_are_apart_by_the_logarithm_of_their_ratio_in_any_basis():
    one = torch.tensor([[[1.0]], [[2.0]]])
    assert float(apart(one, one)) == pytest.approx(0, abs=1e-6)
    assert float(apart(1.1 * one, one)) == pytest.approx(np.log(1.1) ** 2, rel=1e-2)
    assert float(apart(one, 1.1 * one)) == pytest.approx(float(apart(1.1 * one, one)), rel=1e-3)
    draws = torch.Generator().manual_seed(0)
    a, b, basis = (torch.randn(5, 3, 3, generator=draws, dtype=torch.float64) for _ in range(3))
    a, b = a @ a.mT + torch.eye(3), b @ b.mT + torch.eye(3)
    turned = float(apart(basis @ a @ basis.mT, basis @ b @ basis.mT))
    assert turned == pytest.approx(float(apart(a, b)), rel=1e-3) and turned > 0.1
    # a hue a hundredth as strong as the grey, doubled, counts as the grey doubled does
    grey, hue = torch.diag(torch.tensor([2.0, 0.01])), torch.diag(torch.tensor([1.0, 0.02]))
    base = torch.diag(torch.tensor([1.0, 0.01]))
    assert float(apart(grey, base)) == pytest.approx(float(apart(hue, base)), rel=1e-3)
    # where the aim has no hue at all, or fewer places than channels, the gradient stays in bounds
    few = torch.randn(4, 64, 1, 2, generator=draws)
    for aim in (100 * torch.ones(3, 3), torch.zeros(3, 3), moments(few)):
        ours = torch.eye(len(aim)).requires_grad_(True)
        apart(ours, aim).backward()
        assert bool(ours.grad.isfinite().all()) and float(ours.grad.abs().max()) < 10


def test_moments_are_over_places_and_images():
    x = torch.arange(24, dtype=torch.float32).view(2, 3, 2, 2)
    rows = torch.cat([i.flatten(1).T for i in x])
    torch.testing.assert_close(moments(x), rows.T @ rows / 8)


def test_what_a_decoder_leaves_out_of_the_spectrum_weighs():
    # every patch restored at half its contrast: a quarter of the power at every frequency, so d = 1/4 + 4 - 2
    patches = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), dtype=np.uint8)
    kwargs = {"kl": 0.0, "noise": 0.0, "steps": 1, "batch_size": 4, "lr": 1e-3, "seed": 0}

    def more(change):
        plain, told = (
            train.TokenizerPlan(Restored(change), train.Pool([patches]), spectrum=s, **kwargs) for s in (0.0, 0.3)
        )
        assert told.settings()["spectrum"] == 0.3 and "spectrum" not in plain.settings()
        return float(told.loss(told.draws())) - float(plain.loss(plain.draws()))

    assert more(lambda x: x / 2) == pytest.approx(0.3 * 4 * np.log(1 + 2.25 / 4), rel=1e-3)
    # the power of each channel as it was, but none of it shared with the others
    assert more(lambda x: torch.stack([x[:, 0], x[:, 1].roll(7, 1), x[:, 2].roll(7, 2)], dim=1)) > 0.05


def test_a_variogram_is_that_of_white_noise_and_finds_a_grid():
    x = torch.randn(256, 2, 32, 32, generator=torch.Generator().manual_seed(0))
    found = variogram(x, 4)
    # two independent pixels of unit variance differ by 2 in the mean square, at every lag and every place
    assert found.shape == (8, 4 * 4 + 4, 2, 2)
    torch.testing.assert_close(found, 2 * torch.eye(2).expand_as(found), atol=0.15, rtol=0)
    # every second row at half its contrast: pairs within such a row differ by a quarter, pairs across rows by 1 + 1/4
    x[:, :, 1::2] *= 0.5
    found = variogram(x, 4).diagonal(dim1=2, dim2=3).mean(dim=-1)
    rows = dict(zip(LAGS, found[:, :16].unflatten(1, (4, 4)).mean(dim=2), strict=True))
    top, bottom = (dict(zip(LAGS, found[:, k], strict=True)) for k in (16, 17))
    for lag in ((0, 1), (0, 2), (2, 0), (2, 2), (2, -2)):
        torch.testing.assert_close(rows[lag], torch.tensor([2.0, 0.5, 2.0, 0.5]), atol=0.1, rtol=0)
        assert (top[lag].item(), bottom[lag].item()) == pytest.approx((2.0, 0.5), abs=0.1)
    for lag in ((1, 0), (1, 1), (1, -1)):
        torch.testing.assert_close(rows[lag], torch.full((4,), 1.25), atol=0.1, rtol=0)


def test_a_variogram_finds_a_frame():
    x = torch.randn(256, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    x[..., 0] *= 0.5
    found = dict(zip(LAGS, variogram(x, 4)[..., 0, 0], strict=True))
    # upper, lower, left, right; the left column is half as strong
    torch.testing.assert_close(found[1, 0][16:], torch.tensor([2.0, 2.0, 0.5, 2.0]), atol=0.1, rtol=0)
    torch.testing.assert_close(found[0, 1][16:], torch.tensor([2.0, 2.0, 1.25, 2.0]), atol=0.1, rtol=0)


@pytest.mark.parametrize("side", [8, 16, 18, 24])
def test_a_variogram_of_a_small_patch_looks_at_whole_cells(side):
    # a slope: pairs differ by how far one lies to the right of the other
    x = torch.arange(side, dtype=torch.float32).expand(1, 3, side, side)
    aim = torch.tensor([float(right) ** 2 for _, right in LAGS])
    torch.testing.assert_close(variogram(x, 4), aim.view(-1, 1, 1, 1).expand(8, 20, 3, 3))


def test_a_grid_weighs():
    patches = np.random.default_rng(0).integers(0, 256, (256, 16, 16, 3), dtype=np.uint8)
    kwargs = {"kl": 0.0, "noise": 0.0, "steps": 1, "batch_size": 256, "lr": 1e-3, "seed": 0}

    def more(change):
        plain, told = (
            train.TokenizerPlan(Restored(change), train.Pool([patches]), grid=g, **kwargs) for g in (0.0, 0.5)
        )
        assert told.settings()["grid"] == 0.5 and "grid" not in plain.settings()
        return float(told.loss(told.draws())) - float(plain.loss(plain.draws()))

    # places are not quite alike in patches of noise; that stays when all contrast is halved, beside log 4
    floor = more(lambda x: x)
    assert more(lambda x: x / 2) == pytest.approx(floor + 0.5 * 4 * np.log(1 + 2.25 / 4), rel=0.2)
    rows = torch.tensor([1.0, 0.3]).repeat(8)[:, None]
    assert more(lambda x: x * rows) > floor + 0.1


def test_density_weighs_a_pale_nucleus_by_its_optical_density():
    # one grey patch restored as another: L1 and half the squared error in -1..1, and the difference of densities
    patches = np.full((2, 8, 8, 3), 51, dtype=np.uint8)  # a fifth of the light: -0.6
    kwargs = {"kl": 0.0, "noise": 0.0, "steps": 1, "batch_size": 2, "lr": 1e-3, "seed": 0}
    plain = train.TokenizerPlan(Restored(lambda x: x + 0.4), train.Pool([patches]), **kwargs)
    dense = train.TokenizerPlan(Restored(lambda x: x + 0.4), train.Pool([patches]), density=2.0, **kwargs)
    generator = plain.draws()
    state = generator.get_state()
    x = float(plain.loss(generator))
    generator.set_state(state)
    # densities before the jitter of stains: ln 5 and ln 2.5
    assert float(dense.loss(generator)) - x == pytest.approx(2 * np.log(2), rel=0.15)


def test_a_critic_learns_beside_the_decoder_and_the_encoder_does_not():
    torch.manual_seed(0)
    patches = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), dtype=np.uint8)
    tokenizer = nn.make_tokenizer(kind="dc", latent_channels=2, channels=(8, 8), layers=(0, 1))
    plan = train.TokenizerPlan(
        tokenizer, train.Pool([patches]), steps=6, batch_size=4, lr=2e-3, seed=0, decoder_only=True, adversarial=0.5
    )
    before = {k: v.clone() for k, v in plan.state_dict().items()}
    train.fit(plan, **ALONE)
    moved = {k for k, v in plan.state_dict().items() if not torch.equal(v, before[k])}
    assert any(k.startswith("critic") for k in moved) and any(k.startswith("tokenizer.decoder") for k in moved)
    assert not any(k.startswith("tokenizer.encoder") for k in moved)


def test_what_the_critic_says_weighs_as_much_as_it_is_told_to():
    patches = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), dtype=np.uint8)
    tokenizer = nn.make_tokenizer(kind="dc", latent_channels=2, channels=(8, 8), layers=(0, 1))
    plan = train.TokenizerPlan(
        tokenizer, train.Pool([patches]), steps=5, batch_size=4, lr=1e-3, seed=0, adversarial=0.5
    )
    plan.step = 5
    x = nn.to_tensor(patches)
    y = torch.rand(x.shape, generator=torch.Generator().manual_seed(0)).requires_grad_()
    errors = (y - x).square().mean()
    said = plan.criticised(errors, y, x, plan.draws())
    ratio = torch.autograd.grad(said, y, retain_graph=True)[0].norm() / torch.autograd.grad(errors, y)[0].norm()
    assert float(ratio) == pytest.approx(0.5, rel=1e-4)


def test_samples_are_judged_as_much_as_restored_patches_and_the_critic_learns_from_them():
    torch.manual_seed(0)
    patches = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), dtype=np.uint8)
    tokenizer = nn.make_tokenizer(kind="dc", latent_channels=2, channels=(8, 8), layers=(0, 1))
    drawn = torch.randn(6, 2, 8, 8)
    shared = {"steps": 5, "batch_size": 4, "lr": 1e-3, "seed": 0, "adversarial": 0.5, "decoder_only": True}
    plan = train.TokenizerPlan(tokenizer, train.Pool([patches]), drawn=drawn, **shared)
    plan.step = 5
    x = nn.to_tensor(patches)[:, :, :8, :8]
    y = torch.rand(x.shape, generator=torch.Generator().manual_seed(0)).requires_grad_()
    seen, made = [], plan.made
    plan.made = lambda *args: seen.append(made(*args)) or seen[-1]
    errors = (y - x).square().mean()
    said = plan.criticised(errors, y, x, plan.draws())
    # as large as the restored ones, at another place
    assert seen[0][0] == 0 and seen[0][1].shape == y.shape
    ours = torch.autograd.grad(errors, y, retain_graph=True)[0].norm()
    for at in (y, seen[0][1]):
        pull = torch.autograd.grad(said, at, retain_graph=True)[0].norm()
        assert float(pull / ours) == pytest.approx(0.5, rel=1e-4)
    told = [p.grad.clone() for p in plan.critic.parameters() if said.backward(retain_graph=True) is None]
    alone = train.TokenizerPlan(tokenizer, train.Pool([patches]), **shared)
    alone.step = 5
    alone.criticised((y - x).square().mean(), y, x, alone.draws()).backward()
    assert any(not torch.allclose(a, p.grad) for a, p in zip(told, alone.critic.parameters(), strict=True))
    assert plan.settings()["drawn"] == 6 and "drawn" not in alone.settings()


def test_latents_that_are_kept_stay_and_others_learn():
    torch.manual_seed(0)
    patches = np.random.default_rng(0).integers(0, 256, (8, 8, 8, 3), dtype=np.uint8)
    grown = nn.grow_tokenizer(nn.make_tokenizer(kind="dc", latent_channels=2, channels=(8, 8), layers=(0, 1)), 4)
    before = nn.raw_latents(grown, nn.to_tensor(patches)).detach()
    plan = train.TokenizerPlan(grown, train.Pool([patches]), steps=8, batch_size=4, lr=2e-2, seed=0, keep=2)
    train.fit(plan, **ALONE)
    after = nn.raw_latents(grown, nn.to_tensor(patches)).detach()
    assert torch.equal(after[:, :2], before[:, :2]) and not torch.equal(after[:, 2:], before[:, 2:])
    assert plan.losses[-1] < plan.losses[0] and plan.settings()["keep"] == 2


def test_matching_pulls_towards_what_the_critic_sees_in_the_original():
    patches = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), dtype=np.uint8)
    tokenizer = nn.make_tokenizer(kind="dc", latent_channels=2, channels=(8, 8), layers=(0, 1))
    shared = {"steps": 5, "batch_size": 4, "lr": 1e-3, "seed": 0, "adversarial": 1e-6}
    plan = train.TokenizerPlan(tokenizer, train.Pool([patches]), matching=0.5, **shared)
    plan.step = 5
    x = nn.to_tensor(patches)
    y = torch.rand(x.shape, generator=torch.Generator().manual_seed(0)).requires_grad_()

    def errors():
        return (y - x).square().mean()

    pull = torch.autograd.grad(plan.criticised(errors(), y, x, plan.draws()), y)[0]
    assert float(pull.norm() / torch.autograd.grad(errors(), y)[0].norm()) == pytest.approx(0.5, rel=1e-3)

    def apart(y):
        with torch.no_grad():
            pairs = zip(plan.critic(y, features=True)[1], plan.critic(x, features=True)[1], strict=True)
            return float(sum((a - b).abs().mean() for a, b in pairs))

    assert apart(y - 5 * pull) < apart(y)
    # the critic itself learns nothing from it
    plan.criticised(errors(), y, x, plan.draws()).backward()
    told = [p.grad.clone() for p in plan.critic.parameters()]
    plan.zero_grad()
    alone = train.TokenizerPlan(tokenizer, train.Pool([patches]), **shared)
    alone.step = 5
    alone.criticised(errors(), y, x, alone.draws()).backward()
    for a, b in zip(told, [p.grad for p in alone.critic.parameters()], strict=True):
        torch.testing.assert_close(a, b)
    assert plan.settings()["matching"] == 0.5 and "matching" not in alone.settings()
    with pytest.raises(ValueError, match="matching=, texture= and drawn= are judged by a critic"):
        train.TokenizerPlan(tokenizer, train.Pool([patches]), **{**shared, "adversarial": 0.0}, matching=1.0)


def test_texture_asks_for_what_the_critic_sees_and_not_where():
    patches = np.random.default_rng(0).integers(0, 256, (32, 32, 32, 3), dtype=np.uint8)
    tokenizer = nn.make_tokenizer(kind="dc", latent_channels=2, channels=(8, 8), layers=(0, 1))
    shared = {"steps": 5, "batch_size": 32, "lr": 1e-3, "seed": 0, "adversarial": 1e-6}
    plan, alone = (train.TokenizerPlan(tokenizer, train.Pool([patches]), texture=t, **shared) for t in (0.5, 0.0))
    plan.step = alone.step = 5
    x = nn.to_tensor(patches)

    def term(y):
        y = y.clone().requires_grad_()
        told = [p.criticised((y - x).abs().mean(), y, x, p.draws()) for p in (plan, alone)]
        for one, loss in zip((plan, alone), told, strict=True):
            one.zero_grad()
            loss.backward(retain_graph=True)
        # the critic itself learns nothing from it
        for a, b in zip(plan.critic.parameters(), alone.critic.parameters(), strict=True):
            torch.testing.assert_close(a.grad, b.grad)
        return float((told[0] - told[1]).detach())

    other = torch.randint(0, 256, x.shape, generator=torch.Generator().manual_seed(0)) / 127.5 - 1
    near, elsewhere, weaker, smooth = (term(y) for y in (0.999 * x, other, x / 2, F.avg_pool2d(x, 3, 1, 1)))
    assert near == pytest.approx(0, abs=1e-3)
    # other noise of the same kind is hardly told apart; weaker and smoother noise is
    assert elsewhere < 0.2 * weaker < 0.2 * smooth
    assert plan.settings()["texture"] == 0.5 and "texture" not in alone.settings()
    with pytest.raises(ValueError, match="they need adversarial= above 0"):
        train.TokenizerPlan(tokenizer, train.Pool([patches]), **{**shared, "adversarial": 0.0}, texture=1.0)


def test_grey_that_is_kept_stays_and_hues_learn():
    torch.manual_seed(0)
    patches = np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3), dtype=np.uint8)
    first = nn.make_tokenizer(kind="dc", latent_channels=2, channels=(8, 8), layers=(0, 1)).eval()
    drawn = torch.randn(8, 2, 8, 8)
    shared = {
        "steps": 30,
        "batch_size": 8,
        "lr": 3e-3,
        "seed": 0,
        "noise": 0.0,
        "adversarial": 0.5,
        "decoder_only": True,
    }
    moved = {}
    for weight in (0.0, 100.0):
        plan = train.TokenizerPlan(
            copy.deepcopy(first), train.Pool([patches]), drawn=drawn, texture=0.1, keep_grey=weight, **shared
        )
        assert not any("before" in k for k in plan.state_dict())
        train.fit(plan, **ALONE)
        with torch.no_grad():
            went = nn.decode(plan.tokenizer.eval(), drawn) - nn.decode(first, drawn)
        grey = went.mean(dim=1, keepdim=True)
        moved[weight] = float(grey.std()), float((went - grey).std())
    (free_grey, free_hue), (grey, hue) = moved[0.0], moved[100.0]
    assert grey < free_grey / 4 and hue > free_hue / 4
    assert plan.settings()["keep_grey"] == 100
    with pytest.raises(ValueError, match="keep_grey= is for latents that stay"):
        train.TokenizerPlan(first, train.Pool([patches]), **{**shared, "decoder_only": False}, keep_grey=1.0)


def test_patches_and_originals_get_the_grey_of_before():
    tokenizer = nn.make_tokenizer(kind="dc", latent_channels=2, channels=(8, 8), layers=(0, 1))
    patches = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
    shared = {"steps": 1, "batch_size": 2, "lr": 1e-3, "seed": 0, "decoder_only": True}
    plan = train.TokenizerPlan(tokenizer, train.Pool([patches]), keep_grey=10.0, **shared)
    before, y, x = torch.rand(3, 2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    _, *new = plan.with_grey_of_before(before, y, x)
    for ours, was in zip(new, (y, x), strict=True):
        torch.testing.assert_close(ours.mean(dim=1), before.mean(dim=1))
        torch.testing.assert_close(ours[:, 0] - ours[:, 1], was[:, 0] - was[:, 1])
    # a tenth lighter all over, and other hues of the same grey
    assert float(plan.with_grey_of_before(before, before + 0.1)[0]) == pytest.approx(10 * 0.1, rel=1e-4)
    assert float(plan.with_grey_of_before(before, before.flip(1))[0]) == pytest.approx(0, abs=1e-4)
