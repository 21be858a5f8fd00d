from __future__ import annotations

import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler, UNet2DModel

from c2lst import nn

KINDS = sorted(nn.MODULATIONS)


def made(kind, model, dim=5):
    torch.manual_seed(3)
    out = nn.MODULATIONS[kind](dim, [s.width for s in nn.sites(model)], rank=2)
    return out, out.bind(model)


def hooks(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def bind_or_skip(kind, model):
    if kind == "lora":
        pytest.importorskip("peft")
    return made(kind, model)


@pytest.mark.parametrize("kind", KINDS)
def test_at_step_0_it_is_the_plain_denoiser_to_the_bit(kind, denoiser, latents, times):
    modulation, bound = bind_or_skip(kind, denoiser)
    plain = nn.denoise(denoiser, latents, times)
    assert plain.shape == latents.shape
    assert plain.abs().sum() > 0
    for condition in (torch.randn(3, 5), torch.full((3, 5), torch.nan)):
        with torch.no_grad(), nn.attached(modulation, bound, condition):
            assert torch.equal(nn.denoise(bound, latents, times), plain)


@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize("kind", KINDS)
def test_at_step_0_samples_are_the_central_models_to_the_bit(kind, guidance, denoiser, latents):
    modulation, bound = bind_or_skip(kind, denoiser)
    scheduler = FlowMatchEulerDiscreteScheduler()
    plain = nn.sample(denoiser, scheduler, latents, steps=2)
    ours = nn.sample(
        bound, scheduler, latents, steps=2, modulation=modulation, condition=torch.randn(3, 5), guidance=guidance
    )
    assert torch.equal(plain, ours)


def moved(modulation):
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for p in modulation.parameters():
            p.add_(0.3 * torch.randn(p.shape, generator=generator))
    return modulation.requires_grad_(False)


@pytest.mark.parametrize("kind", KINDS)
def test_trained_genes_matter_row_by_row_and_hooks_are_gone_afterwards(kind, denoiser, latents, times):
    modulation, bound = bind_or_skip(kind, denoiser)
    moved(modulation)
    before, plain = hooks(bound), nn.denoise(bound, latents, times)
    condition = torch.randn(3, 5, generator=torch.Generator().manual_seed(5))
    other = condition.clone()
    other[1] += 1
    with nn.attached(modulation, bound, condition):
        assert hooks(bound) == before + len(nn.sites(bound))
        a = nn.denoise(bound, latents, times)
    with nn.attached(modulation, bound, other):
        b = nn.denoise(bound, latents, times)
    assert hooks(bound) == before
    assert torch.equal(nn.denoise(bound, latents, times), plain)
    assert not torch.allclose(a, plain)
    changed = (a - b).abs().amax(dim=(1, 2, 3)) > 1e-6
    assert changed.tolist() == [False, True, False]


def test_hooks_are_gone_after_an_error(denoiser, latents):
    modulation, bound = made("film", denoiser)
    before = hooks(bound)
    with pytest.raises(RuntimeError, match="power cut"), nn.attached(modulation, bound, torch.randn(3, 5)):
        raise RuntimeError("power cut")
    assert hooks(bound) == before
    modulation.widths = modulation.widths[:-1]  # of another model
    with pytest.raises((ValueError, RuntimeError)), nn.attached(modulation, bound, torch.randn(3, 5)):
        pass
    assert hooks(bound) == before


def test_a_row_of_nan_sees_the_part_without_genes_alone():
    film = moved(nn.FiLM(5, [3, 4], rank=2))
    condition = torch.randn(3, 5)
    condition[1] = torch.nan
    first, second = film(condition)
    assert (first.shape, second.shape) == ((3, 3), (3, 4))
    assert torch.equal(torch.cat([first, second], dim=1)[1], film.base)
    assert torch.isfinite(first).all()


def test_film_by_hand():
    film = moved(nn.FiLM(2, [3], rank=2))
    c = torch.randn(4, 2)
    inner = torch.nn.functional.silu(c @ film.inner[0].weight.T + film.inner[0].bias)
    inner = inner @ film.inner[2].weight.T + film.inner[2].bias
    expected = film.base + (inner + c @ film.direct.weight.T) @ film.out.weight.T
    torch.testing.assert_close(film(c)[0], expected)


@pytest.mark.parametrize("kind", KINDS)
def test_config_rebuilds_the_module(kind):
    modulation = nn.MODULATIONS[kind](5, [3, 4], rank=2)
    again = nn.MODULATIONS[kind](**modulation.config)
    assert again.config == modulation.config
    again.load_state_dict(modulation.state_dict())


def test_lora_binds_a_copy_and_only_its_updates_learn(denoiser):
    pytest.importorskip("peft")
    names = list(denoiser.state_dict())
    modulation, bound = made("lora", denoiser)
    assert bound is not denoiser
    assert list(denoiser.state_dict()) == names
    assert len(modulation.adapters) > 0
    learns = {n for n, p in bound.named_parameters() if p.requires_grad}
    assert learns
    assert all("lora_" in n for n in learns)
    assert {id(p) for p in modulation.adapters.values()} == {id(p) for n, p in bound.named_parameters() if n in learns}


def test_lora_needs_attention():
    pytest.importorskip("peft")
    torch.manual_seed(0)
    plain = UNet2DModel(
        sample_size=4, in_channels=4, out_channels=4, layers_per_block=1, block_out_channels=(8,), norm_num_groups=4,
        down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",), add_attention=False,
    )  # fmt: skip
    with pytest.raises((TypeError, ValueError), match="lora|Target modules"):
        made("lora", plain)


def test_guidance_by_hand(denoiser, latents):
    modulation, bound = made("film", denoiser)
    moved(modulation)
    condition, nothing = torch.randn(3, 5), torch.full((3, 5), torch.nan)
    scheduler = DDIMScheduler(num_train_timesteps=100, clip_sample=False)
    solver = DDIMScheduler.from_config(scheduler.config)
    solver.set_timesteps(1)
    t = solver.timesteps[0]

    def told(c):
        with nn.attached(modulation, bound, c):
            return nn.denoise(bound, latents, t.expand(3))

    v = told(nothing) + 2.5 * (told(condition) - told(nothing))
    expected = solver.step(v, t, latents).prev_sample
    kwargs = {"steps": 1, "modulation": modulation, "condition": condition}
    torch.testing.assert_close(nn.sample(bound, scheduler, latents, guidance=2.5, **kwargs), expected)
    free = nn.sample(bound, scheduler, latents, steps=1, modulation=modulation, condition=nothing)
    torch.testing.assert_close(nn.sample(bound, scheduler, latents, guidance=0.0, **kwargs), free)
