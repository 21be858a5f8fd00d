"""The denoiser: a transformer with adaptive normalisation of diffusers, and one way to call any of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from diffusers import (
    DiTTransformer2DModel,
    PixArtTransformer2DModel,
    UNet2DConditionModel,
    UNet2DModel,
)
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.resnet import ResnetBlock2D

if TYPE_CHECKING:
    from torch import Tensor, nn


def make_denoiser(
    *,
    latent_channels: int = 12,
    latent_px: int = 8,
    width: int = 256,
    depth: int = 8,
    heads: int = 4,
    token_px: int = 1,
) -> PixArtTransformer2DModel:
    """Build an unconditional PixArt-type transformer (one shared adaLN), zero at its output."""
    if width % heads:
        raise ValueError(f"width={width} must be a multiple of heads={heads}.")
    model = PixArtTransformer2DModel(
        num_attention_heads=heads,
        attention_head_dim=width // heads,
        in_channels=latent_channels,
        out_channels=latent_channels,
        num_layers=depth,
        cross_attention_dim=None,
        sample_size=latent_px,
        patch_size=token_px,
        caption_channels=None,
        use_additional_conditions=False,
    )
    # adaLN-zero (Peebles & Xie 2023): every block starts as the identity
    for block in model.transformer_blocks:
        torch.nn.init.zeros_(block.scale_shift_table)
    torch.nn.init.zeros_(model.adaln_single.linear.weight)
    torch.nn.init.zeros_(model.adaln_single.linear.bias)
    torch.nn.init.zeros_(model.proj_out.weight)
    torch.nn.init.zeros_(model.proj_out.bias)
    return model


def denoise(model: nn.Module, z: Tensor, t: Tensor) -> Tensor:
    """Call a denoiser without any condition of its own: latents `(n, C, h, w)`, times `(n,)` -> `(n, C, h, w)`."""
    config = getattr(model, "config", None)
    if isinstance(model, DiTTransformer2DModel):
        null = torch.full((len(z),), int(config.num_embeds_ada_norm), dtype=torch.long, device=z.device)
        out = model(z, timestep=t, class_labels=null).sample
    elif isinstance(model, PixArtTransformer2DModel):
        kwargs = {}
        if config.caption_channels is not None:
            kwargs["encoder_hidden_states"] = z.new_zeros(len(z), 1, config.caption_channels)
        elif config.cross_attention_dim is not None:
            kwargs["encoder_hidden_states"] = z.new_zeros(len(z), 1, config.cross_attention_dim)
        if model.use_additional_conditions:
            px = float(z.shape[-1])
            kwargs["added_cond_kwargs"] = {
                "resolution": z.new_full((len(z), 2), px),
                "aspect_ratio": z.new_ones(len(z), 1),
            }
        out = model(z, timestep=t, **kwargs).sample
    elif isinstance(model, UNet2DConditionModel):
        out = model(z, t, encoder_hidden_states=z.new_zeros(len(z), 1, config.cross_attention_dim)).sample
    elif isinstance(model, UNet2DModel):
        kwargs = {}
        if model.class_embedding is not None:
            kwargs["class_labels"] = torch.zeros(len(z), dtype=torch.long, device=z.device)
        out = model(z, t, **kwargs).sample
    else:
        raise TypeError(f"{type(model).__name__} is no denoiser c2lst knows how to call.")
    return out[:, : z.shape[1]]  # models that also learn a variance return twice the channels


@dataclass(frozen=True)
class Site:
    """A place where a denoiser adapts to its time step, and where genes may therefore enter.

    `mode` says how: "timestep" adds to the `timestep` argument of a block (PixArt, one shared adaLN), "output" adds
    to what a linear layer returns (adaLN-zero of DiT; the time projection of a UNet's residual block).
    """

    module: nn.Module
    width: int
    mode: str
    block: nn.Module


def sites(model: nn.Module) -> list[Site]:
    """List the adaptive norms of a denoiser, in order of depth."""
    found = []
    for module in model.modules():
        if isinstance(module, BasicTransformerBlock) and module.norm_type == "ada_norm_single":
            found.append(Site(module, module.scale_shift_table.numel(), "timestep", module))
        elif isinstance(module, BasicTransformerBlock) and module.norm_type == "ada_norm_zero":
            found.append(Site(module.norm1.linear, module.norm1.linear.out_features, "output", module))
        elif isinstance(module, ResnetBlock2D) and module.time_emb_proj is not None:
            found.append(Site(module.time_emb_proj, module.time_emb_proj.out_features, "output", module))
    if not found:
        raise TypeError(f"{type(model).__name__} has no adaptive norm for genes to enter.")
    return found


@torch.inference_mode()
def features(model: nn.Module, z: Tensor, t: float) -> Tensor:
    """Return what the blocks at half and at three quarters of the depth hold, averaged over the patch: `(n, d)`.

    Nothing is drawn: the clean latents are shown at the time step `t`.
    """
    blocks = [s.block for s in sites(model)]
    chosen = [blocks[len(blocks) // 2], blocks[(3 * len(blocks)) // 4]]
    held: list[Tensor] = []

    def keep(_module, _args, output):
        h = output[0] if isinstance(output, tuple) else output
        dims = (2, 3) if h.ndim == 4 else (1,)
        held.extend([h.float().mean(dims), h.float().std(dims)])

    handles = [block.register_forward_hook(keep) for block in chosen]
    try:
        denoise(model, z, torch.full((len(z),), float(t), device=z.device))
    finally:
        for handle in handles:
            handle.remove()
    return torch.cat(held, dim=1)
