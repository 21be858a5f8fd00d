from __future__ import annotations

import pytest
import torch
from diffusers import DiTTransformer2DModel, PixArtTransformer2DModel, UNet2DConditionModel, UNet2DModel

from c2lst import nn

LATENT = (4, 4, 4)


def _pixart():
    return nn.make_denoiser(latent_channels=4, latent_px=4, width=16, depth=2, heads=2)


def _captioned():
    return PixArtTransformer2DModel(
        num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=8, num_layers=2, cross_attention_dim=24,
        sample_size=4, patch_size=1, caption_channels=6, use_additional_conditions=True,
    )  # fmt: skip


def _dit():
    return DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=8, num_layers=2, sample_size=4,
        patch_size=2, num_embeds_ada_norm=10,
    )  # fmt: skip


def _unet():
    return UNet2DModel(
        sample_size=4, in_channels=4, out_channels=4, layers_per_block=1, block_out_channels=(8, 8), norm_num_groups=4,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=4,
    )  # fmt: skip


def _unet_condition():
    return UNet2DConditionModel(
        sample_size=4, in_channels=4, out_channels=4, layers_per_block=1, block_out_channels=(8, 8), norm_num_groups=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=8, attention_head_dim=4,
    )  # fmt: skip


DENOISERS = {
    "pixart": _pixart, "pixart with captions": _captioned, "dit": _dit, "unet": _unet, "unet condition": _unet_condition
}  # fmt: skip


@pytest.fixture(scope="session", params=DENOISERS.values(), ids=DENOISERS)
def denoiser(request):
    """A tiny frozen denoiser of each kind, every weight away from zero; latents are (4, 4, 4)."""
    torch.manual_seed(0)
    model = request.param().eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(1)
    for p in model.parameters():
        p.add_(0.1 * torch.randn(p.shape, generator=generator))
    return model


@pytest.fixture
def latents():
    return torch.randn(3, *LATENT, generator=torch.Generator().manual_seed(2))


@pytest.fixture
def times():
    return torch.tensor([10.0, 500.0, 900.0])
