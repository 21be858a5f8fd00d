"""H&E in, few-channel latents out: a convolutional autoencoder of diffusers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from diffusers import AutoencoderKL

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor


def make_tokenizer(
    *,
    latent_channels: int = 12,
    channels: tuple[int, ...] = (24, 48, 96, 96),
    patch_px: int = 64,
    norm_groups: int = 8,
) -> AutoencoderKL:
    """Build a KL autoencoder that halves the patch `len(channels) - 1` times."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * len(channels),
        up_block_types=("UpDecoderBlock2D",) * len(channels),
        block_out_channels=tuple(channels),
        layers_per_block=1,
        latent_channels=latent_channels,
        norm_num_groups=norm_groups,
        sample_size=patch_px,
        scaling_factor=1.0,
        mid_block_add_attention=False,
        force_upcast=False,
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


def encode(tokenizer: torch.nn.Module, images: Tensor) -> Tensor:
    """Turn images `(n, 3, H, W)` into latents of about unit variance, `(n, C, h, w)`; the mode, nothing is drawn."""
    out = tokenizer.encode(images)
    z = out.latent_dist.mode() if hasattr(out, "latent_dist") else out.latents
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
