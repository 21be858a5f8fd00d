from __future__ import annotations

import pytest
import torch

from c2lst import nn


@pytest.fixture(scope="module")
def images():
    return torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1


def tokenizer(channels=2):
    torch.manual_seed(0)
    return nn.make_tokenizer(kind="dc", latent_channels=channels, channels=(8, 16), layers=(0, 1)).eval()


def unet(channels=2):
    torch.manual_seed(0)
    model = nn.make_denoiser(kind="unet", latent_channels=channels, latent_px=8, channels=(32, 64), layers=1)
    torch.nn.init.normal_(model.conv_out.weight, std=0.1)
    torch.nn.init.normal_(model.conv_out.bias)
    return model.eval()


@pytest.mark.parametrize("n", [4, 8, 16])
def test_first_latents_and_the_patch_stay(images, n):
    before = tokenizer()
    after = nn.grow_tokenizer(before, n).eval()
    with torch.no_grad():
        z, more = nn.raw_latents(before, images), nn.raw_latents(after, images)
        assert more.shape[1] == n
        torch.testing.assert_close(more[:, :2], z, atol=1e-5, rtol=1e-5)
        # whatever the new ones hold
        more[:, 2:] = torch.randn(more[:, 2:].shape)
        torch.testing.assert_close(after.decode(more).sample, before.decode(z).sample, atol=1e-5, rtol=1e-5)
    assert more[:, 2:].std() > 0 and before.config.latent_channels == 2


def test_new_latents_see_the_patch(images):
    with torch.no_grad():
        z = nn.raw_latents(nn.grow_tokenizer(tokenizer(), 4).eval(), images)[:, 2:]
    assert (z.std(dim=0) > 0).all()


def test_the_scale_is_left_to_be_measured(images):
    scaled = tokenizer()
    with torch.no_grad():
        nn.set_latent_scale(scaled, nn.raw_latents(scaled, images))
    assert "latents_mean" not in nn.grow_tokenizer(scaled, 4).config


def test_a_grown_denoiser_draws_the_first_latents_as_before():
    before = unet()
    after = nn.grow_denoiser(before, 4).eval()
    z, t = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(1)), torch.tensor([10.0, 500.0, 900.0])
    with torch.no_grad():
        found = nn.denoise(after, z, t)
        torch.testing.assert_close(found[:, :2], nn.denoise(before, z[:, :2], t))
    assert (found[:, 2:] == 0).all()
    assert (after.config.in_channels, after.config.out_channels, before.config.in_channels) == (4, 4, 2)
    # it is built from its own settings
    type(after).from_config(after.config).load_state_dict(after.state_dict())
    # and all of it can learn
    nn.denoise(after, z, t).square().sum().backward()
    assert all(p.requires_grad for p in after.parameters())


@pytest.mark.parametrize("n", [2, 1, 3])
def test_a_number_that_does_not_suit(n):
    with pytest.raises(ValueError, match=f"latent_channels={n} must be more than the 2"):
        nn.grow_tokenizer(tokenizer(), n)


def test_other_networks_are_refused():
    kl = nn.make_tokenizer(latent_channels=2, channels=(8, 8))
    with pytest.raises(ValueError, match="kind 'dc', not to a AutoencoderKL"):
        nn.grow_tokenizer(kl, 4)
    dit = nn.make_denoiser(latent_channels=2, latent_px=4, width=16, depth=1, heads=2)
    with pytest.raises(ValueError, match="UNet2DModel, not to a PixArt"):
        nn.grow_denoiser(dit, 4)
