from __future__ import annotations

import pytest
import torch

from c2lst import nn


def test_a_new_denoiser_says_zero_and_its_blocks_are_the_identity():
    torch.manual_seed(0)
    model = nn.make_denoiser(latent_channels=3, latent_px=4, width=16, depth=2, heads=2).eval()
    z = torch.randn(2, 3, 4, 4)
    out = nn.denoise(model, z, torch.tensor([1.0, 500.0]))
    assert out.shape == z.shape
    assert torch.equal(out, torch.zeros_like(z))
    seen = []
    block = model.transformer_blocks[0]
    handle = block.register_forward_hook(lambda _m, args, output: seen.append((args[0], output)))
    nn.denoise(model, z, torch.tensor([1.0, 500.0]))
    handle.remove()
    assert torch.equal(*seen[0])


def test_width_must_be_a_multiple_of_heads():
    with pytest.raises(ValueError, match="width=10 .*heads=4"):
        nn.make_denoiser(width=10, heads=4)


def test_denoise_keeps_the_shape_and_each_row_to_itself(denoiser, latents, times):
    out = nn.denoise(denoiser, latents, times)
    assert out.shape == latents.shape
    for i in range(3):
        alone = nn.denoise(denoiser, latents[i : i + 1], times[i : i + 1])
        torch.testing.assert_close(alone[0], out[i], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(nn.denoise(denoiser, latents, times.flip(0)), out)


def test_sites_are_places_the_modulation_can_write_to(denoiser):
    found = nn.sites(denoiser)
    assert len(found) >= 2
    assert {s.mode for s in found} in ({"timestep"}, {"output"})
    assert all(s.width > 0 for s in found)


def test_features_draw_nothing(denoiser, latents):
    a, b = nn.features(denoiser, latents, 100.0), nn.features(denoiser, latents, 100.0)
    assert torch.equal(a, b)
    assert a.shape[0] == 3
    assert torch.isfinite(a).all()
    torch.testing.assert_close(nn.features(denoiser, latents[1:2], 100.0)[0], a[1], rtol=1e-4, atol=1e-5)
    assert not any(m._forward_hooks for m in denoiser.modules())


def test_what_is_no_denoiser_is_named():
    with pytest.raises(TypeError, match="Linear is no denoiser"):
        nn.denoise(torch.nn.Linear(2, 2), torch.zeros(1, 2), torch.zeros(1))
    with pytest.raises(TypeError, match="Linear has no adaptive norm"):
        nn.sites(torch.nn.Linear(2, 2))
