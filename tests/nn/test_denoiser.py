from __future__ import annotations

import copy

import pytest
import torch
from diffusers import DiTTransformer2DModel, UNet2DConditionModel, UNet2DModel

from c2lst import nn
from c2lst.nn._denoiser import check_denoiser, set_condition


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


def test_features_of_a_unet_are_those_of_its_last_block_but_one():
    torch.manual_seed(0)
    model = nn.make_denoiser(kind="unet", latent_channels=4, latent_px=8, channels=(32, 64), layers=2).eval()
    z = torch.randn(2, 4, 8, 8)
    seen = []
    handle = model.up_blocks[-1].resnets[-2].register_forward_hook(lambda _m, _args, output: seen.append(output))
    nn.denoise(model, z, torch.full((2,), 300.0))
    handle.remove()
    (h,) = seen
    got = nn.features(model, z, 300.0)
    torch.testing.assert_close(got, torch.cat([h.mean((2, 3)), h.std((2, 3))], dim=1))
    assert got.shape == (2, 64)


def unet_condition(**kwargs):
    return UNet2DConditionModel(
        sample_size=4, in_channels=4, out_channels=4, layers_per_block=1, block_out_channels=(8, 8), norm_num_groups=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=8, attention_head_dim=4, **kwargs,
    )  # fmt: skip


@torch.no_grad()
def test_a_caption_is_zeros_until_one_is_set(latents, times):
    torch.manual_seed(0)
    model = unet_condition().eval()
    zeros = model(latents, times, encoder_hidden_states=torch.zeros(3, 1, 8)).sample
    assert torch.equal(nn.denoise(model, latents, times), zeros)
    caption = torch.randn(2, 8)
    set_condition(model, caption)
    expected = model(latents, times, encoder_hidden_states=caption.expand(3, 2, 8)).sample
    assert torch.equal(nn.denoise(model, latents, times), expected)
    assert torch.equal(copy.deepcopy(model).null_condition, caption)
    assert "null_condition" in model.state_dict()
    for wrong in (torch.randn(2, 7), torch.randn(1, 2, 8), torch.full((2, 8), torch.nan)):
        with pytest.raises(ValueError, match="condition"):
            set_condition(model, wrong)
    set_condition(model, caption[0].numpy())  # one token
    assert model.null_condition.shape == (1, 8)


@torch.no_grad()
def test_classes(latents, times):
    torch.manual_seed(0)
    dit = DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=4, num_layers=1, sample_size=4, patch_size=2,
        num_embeds_ada_norm=10,
    ).eval()  # fmt: skip
    torch.nn.init.normal_(dit.transformer_blocks[0].norm1.linear.weight)
    said = {c: dit(latents, timestep=times, class_labels=torch.full((3,), c)).sample for c in (3, 10)}
    assert torch.equal(nn.denoise(dit, latents, times), said[10])  # the class of no class
    set_condition(dit, 3)
    assert torch.equal(nn.denoise(dit, latents, times), said[3])
    assert not torch.equal(said[3], said[10])
    for wrong in (11, -1, 1.0, [1, 2]):
        with pytest.raises(ValueError, match="must be an integer in 0..10"):
            set_condition(dit, wrong)


def test_a_condition_for_a_model_that_takes_none():
    with pytest.raises(ValueError, match="has no cross-attention: leave condition out"):
        set_condition(nn.make_denoiser(width=16, depth=1, heads=2), torch.zeros(1, 8))
    plain = UNet2DModel(
        sample_size=4, in_channels=4, out_channels=4, layers_per_block=1, block_out_channels=(8,), norm_num_groups=4,
        down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",),
    )  # fmt: skip
    with pytest.raises(ValueError, match="knows no classes: leave condition out"):
        set_condition(plain, 1)
    check_denoiser(plain)


@torch.no_grad()
def test_sizes_are_told_in_pixels(latents, times):
    """As the pipeline of SDXL does for an empty caption: zeros, and original size, crop and target size."""
    torch.manual_seed(0)
    model = unet_condition(
        addition_embed_type="text_time", addition_time_embed_dim=4, projection_class_embeddings_input_dim=6 * 4 + 5
    ).eval()
    check_denoiser(model)
    for factor, px in ((None, 32.0), (2, 8.0)):  # latents of 4 px
        if factor is not None:
            model.px_per_latent = factor
        added = {
            "text_embeds": torch.zeros(3, 5),
            "time_ids": torch.tensor([px, px, 0, 0, px, px]).expand(3, 6),
        }
        zeros = torch.zeros(3, 1, 8)
        expected = model(latents, times, encoder_hidden_states=zeros, added_cond_kwargs=added).sample
        assert torch.equal(nn.denoise(model, latents, times), expected)


def test_what_is_no_denoiser_is_named():
    with pytest.raises(TypeError, match="Linear is no denoiser"):
        nn.denoise(torch.nn.Linear(2, 2), torch.zeros(1, 2), torch.zeros(1))
    with pytest.raises(TypeError, match="Linear has no adaptive norm"):
        nn.sites(torch.nn.Linear(2, 2))


def test_a_unet_is_zero_at_first_and_scales_and_shifts_at_every_site():
    model = nn.make_denoiser(kind="unet", latent_channels=3, latent_px=8, channels=(32, 64)).eval()
    z = torch.randn(2, 3, 8, 8)
    assert torch.equal(nn.denoise(model, z, torch.tensor([10.0, 500.0])), torch.zeros_like(z))
    found = nn.sites(model)
    assert len(found) == 8
    assert {s.width for s in found} == {2 * 32, 2 * 64}


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"kind": "mlp"}, "'dit' and 'unet'"),
        ({"kind": "unet", "channels": (32, 48)}, "multiples of 32"),
        ({"kind": "unet", "channels": (32, 32, 32), "latent_px": 6}, "halved 2 times"),
        ({"width": 10, "heads": 4}, "multiple of heads"),
    ],
)
def test_a_denoiser_that_cannot_be_built_says_why(settings, says):
    with pytest.raises(ValueError, match=says):
        nn.make_denoiser(**settings)
