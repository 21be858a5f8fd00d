from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import AutoencoderTiny
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from c2lst import nn


@settings(max_examples=40, deadline=None)
@given(
    hnp.arrays(np.uint8, st.tuples(st.integers(0, 3), st.integers(1, 5), st.integers(1, 5), st.just(3)), elements=st.integers(0, 255))
)  # fmt: skip
def test_to_uint8_undoes_to_tensor(patches):
    x = nn.to_tensor(patches)
    assert x.shape == (len(patches), 3, *patches.shape[1:3])
    assert x.dtype == torch.float32
    if x.numel():
        assert -1 <= x.min() <= x.max() <= 1
    back = nn.to_uint8(x)
    assert back.dtype == np.uint8
    np.testing.assert_array_equal(back, patches)


def test_every_grey_level_and_what_lies_beyond():
    levels = np.arange(256, dtype=np.uint8).repeat(3).reshape(1, 16, 16, 3)
    np.testing.assert_array_equal(nn.to_uint8(nn.to_tensor(levels)), levels)
    assert nn.to_tensor(levels).min() == -1
    assert nn.to_tensor(levels).max() == 1
    np.testing.assert_array_equal(nn.to_uint8(torch.tensor([-5.0, 0.0, 5.0]).view(1, 3, 1, 1)).ravel(), [0, 128, 255])


def test_turned_views_are_taken():
    patches = np.random.default_rng(0).integers(0, 256, (2, 4, 4, 3), dtype=np.uint8)
    np.testing.assert_array_equal(nn.to_uint8(nn.to_tensor(np.rot90(patches, 1, (1, 2))[:, :, ::-1])),
                                  np.rot90(patches, 1, (1, 2))[:, :, ::-1])  # fmt: skip


@pytest.fixture
def tokenizer():
    torch.manual_seed(0)
    return nn.make_tokenizer(latent_channels=3, channels=(8, 8, 8), patch_px=16, norm_groups=4).eval()


@torch.no_grad()
def test_shapes_and_what_a_new_tokenizer_does(tokenizer):
    x = torch.rand(2, 3, 16, 16) * 2 - 1
    z = nn.encode(tokenizer, x)
    assert z.shape == (2, 3, 4, 4)
    assert nn.decode(tokenizer, z).shape == x.shape
    assert torch.equal(nn.encode(tokenizer, x), z)  # the mode: nothing is drawn


@torch.no_grad()
def test_latent_scale_makes_unit_variance_and_decode_undoes_it(tokenizer):
    x = torch.rand(8, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    raw = nn.encode(tokenizer, x)
    plain = nn.decode(tokenizer, raw)
    nn.set_latent_scale(tokenizer, raw)
    z = nn.encode(tokenizer, x)
    torch.testing.assert_close(z.mean(dim=(0, 2, 3)), torch.zeros(3), rtol=0, atol=1e-3)
    torch.testing.assert_close(z.std(dim=(0, 2, 3)), torch.ones(3), rtol=1e-2, atol=0)
    torch.testing.assert_close(nn.decode(tokenizer, z), plain, rtol=1e-3, atol=1e-3)
    assert len(tokenizer.config.latents_mean) == len(tokenizer.config.latents_std) == 3


@torch.no_grad()
def test_scaling_factor_and_shift_of_other_pipelines(tokenizer):
    x = torch.rand(2, 3, 16, 16) * 2 - 1
    raw = nn.encode(tokenizer, x)
    plain = nn.decode(tokenizer, raw)
    tokenizer.register_to_config(scaling_factor=0.18215, shift_factor=0.1)
    z = nn.encode(tokenizer, x)
    torch.testing.assert_close(z, (raw - 0.1) * 0.18215)
    torch.testing.assert_close(nn.decode(tokenizer, z), plain, rtol=1e-3, atol=1e-4)


@torch.no_grad()
def test_tiny_autoencoders_are_taken_too():
    torch.manual_seed(0)
    tiny = AutoencoderTiny(
        encoder_block_out_channels=(8, 8), decoder_block_out_channels=(8, 8), num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1), latent_channels=2,
    ).eval()  # fmt: skip
    x = torch.rand(2, 3, 8, 8) * 2 - 1
    z = nn.encode(tiny, x)
    assert z.shape == (2, 2, 4, 4)
    assert nn.decode(tiny, z).shape == x.shape


def test_the_residual_tokenizer_halves_and_restores():
    tokenizer = nn.make_tokenizer(kind="dc", latent_channels=4, channels=(8, 8, 16), layers=(0, 1, 1)).eval()
    x = torch.rand(2, 3, 32, 32) * 2 - 1
    z = nn.encode(tokenizer, x)
    assert z.shape == (2, 4, 8, 8)
    assert nn.decode(tokenizer, z).shape == x.shape
    nn.set_latent_scale(tokenizer, nn.raw_latents(tokenizer, x))
    z = nn.encode(tokenizer, x)
    torch.testing.assert_close(z.mean(dim=(0, 2, 3)), torch.zeros(4), atol=1e-4, rtol=0)
    torch.testing.assert_close(z.std(dim=(0, 2, 3)), torch.ones(4), atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"kind": "vq"}, "'kl' and 'dc'"),
        ({"kind": "kl", "layers": (1, 1)}, "one number of blocks"),
        ({"kind": "dc", "layers": (1,)}, "one entry for each"),
        ({"kind": "dc", "channels": (8, 12, 16)}, "do not suit"),
        ({"kind": "dc", "channels": (8, 16), "latent_channels": 3}, "do not suit"),
    ],
)
def test_a_tokenizer_that_cannot_be_built_says_why(settings, says):
    with pytest.raises((ValueError, TypeError), match=says):
        nn.make_tokenizer(**{"latent_channels": 4, "channels": (8, 16), **settings})
