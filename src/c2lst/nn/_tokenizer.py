"""H&E in, few-channel latents out: a convolutional autoencoder of diffusers."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np
import torch
from diffusers import AutoencoderDC, AutoencoderKL

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor


def make_tokenizer(
    *,
    kind: str = "kl",
    latent_channels: int = 12,
    channels: tuple[int, ...] = (24, 48, 96, 96),
    layers: tuple[int, ...] | int = 1,
    patch_px: int = 64,
    norm_groups: int = 8,
) -> AutoencoderKL | AutoencoderDC:
    """Build an autoencoder that halves the patch `len(channels) - 1` times.

    `kind="kl"` is the autoencoder of latent diffusion (Rombach et al. 2022). `kind="dc"` moves pixels into channels
    beside every halving (Chen et al. 2025, deep compression): it learns several times faster on few steps. `layers` are
    the residual blocks of each level; with 0 at the first, nothing is computed at full resolution.
    """
    if kind == "kl":
        if not isinstance(layers, int):
            raise TypeError(f"layers={layers!r}: a tokenizer of kind 'kl' has one number of blocks for all levels.")
        return AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * len(channels),
            up_block_types=("UpDecoderBlock2D",) * len(channels),
            block_out_channels=tuple(channels),
            layers_per_block=layers,
            latent_channels=latent_channels,
            norm_num_groups=norm_groups,
            sample_size=patch_px,
            scaling_factor=1.0,
            mid_block_add_attention=False,
            force_upcast=False,
        )
    if kind != "dc":
        raise ValueError(f"kind={kind!r} of a tokenizer is not known; there are 'kl' and 'dc'.")
    blocks = (layers,) * len(channels) if isinstance(layers, int) else tuple(layers)
    if len(blocks) != len(channels):
        raise ValueError(f"layers={layers!r} must have one entry for each of channels={channels!r}.")
    # its shortcuts move groups of channels: the groups must come out even
    uneven = [pair for pair in itertools.pairwise(channels) if 4 * pair[0] % pair[1]]
    if uneven or channels[-1] % latent_channels:
        raise ValueError(
            f"channels={tuple(channels)} do not suit a tokenizer of kind 'dc' with {latent_channels} latent channels: each "
            "level must divide four times the one before, and the latent channels must divide the last."
        )
    return AutoencoderDC(
        latent_channels=latent_channels,
        encoder_block_types="ResBlock",
        decoder_block_types="ResBlock",
        encoder_block_out_channels=tuple(channels),
        decoder_block_out_channels=tuple(channels),
        encoder_layers_per_block=blocks,
        decoder_layers_per_block=blocks,
        encoder_qkv_multiscales=((),) * len(channels),
        decoder_qkv_multiscales=((),) * len(channels),
        upsample_block_type="interpolate",
        downsample_block_type="pixel_unshuffle",
        scaling_factor=1.0,
    )


def to_tensor(patches: NDArray[np.uint8]) -> Tensor:
    """Turn uint8 `(n, H, W, 3)` into float `(n, 3, H, W)` in -1..1."""
    x = torch.from_numpy(np.ascontiguousarray(patches)).permute(0, 3, 1, 2)
    return x.float().div_(127.5).sub_(1.0)


def to_uint8(images: Tensor) -> NDArray[np.uint8]:
    """Turn float `(n, 3, H, W)` in -1..1 into uint8 `(n, H, W, 3)`."""
    x = images.float().clamp(-1, 1).add(1).mul(127.5).round()
    return x.permute(0, 2, 3, 1).to(torch.uint8).contiguous().cpu().numpy()


def _scale(tokenizer: torch.nn.Module, like: Tensor) -> tuple[Tensor | float, Tensor | float]:
    config = tokenizer.config
    mean, std = config.get("latents_mean"), config.get("latents_std")
    if mean is not None and std is not None:
        shape = (1, -1, 1, 1)
        return (like.new_tensor(list(mean)).view(shape), like.new_tensor(list(std)).view(shape))
    return config.get("shift_factor") or 0.0, 1.0 / (config.get("scaling_factor") or 1.0)


def raw_latents(tokenizer: torch.nn.Module, images: Tensor) -> Tensor:
    """Turn images `(n, 3, H, W)` into latents as the tokenizer scales them; the mode where it has a distribution."""
    out = tokenizer.encode(images)
    if hasattr(out, "latent_dist"):
        return out.latent_dist.mode()
    return out.latent if hasattr(out, "latent") else out.latents


def encode(tokenizer: torch.nn.Module, images: Tensor) -> Tensor:
    """Turn images `(n, 3, H, W)` into latents of about unit variance, `(n, C, h, w)`; nothing is drawn."""
    z = raw_latents(tokenizer, images)
    mean, std = _scale(tokenizer, z)
    return (z - mean) / std


def decode(tokenizer: torch.nn.Module, latents: Tensor) -> Tensor:
    """Turn latents `(n, C, h, w)` into images `(n, 3, H, W)`."""
    mean, std = _scale(tokenizer, latents)
    return tokenizer.decode(latents * std + mean).sample


@torch.no_grad()
def set_latent_scale(tokenizer: torch.nn.Module, latents: Tensor) -> None:
    """Write the mean and standard deviation of raw `latents` per channel into the tokenizer's config."""
    mean = latents.mean(dim=(0, 2, 3)).double()
    std = latents.std(dim=(0, 2, 3)).double().clamp_min(1e-4)
    tokenizer.register_to_config(
        latents_mean=[round(v, 6) for v in mean.tolist()], latents_std=[round(v, 6) for v in std.tolist()]
    )
