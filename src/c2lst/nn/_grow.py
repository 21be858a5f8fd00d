"""More latent channels for a model that is trained: what it knows stays, and room for detail is added."""

from __future__ import annotations

import copy

import torch
from diffusers import AutoencoderDC, UNet2DModel
from torch import Tensor, nn


@torch.no_grad()
def grow_tokenizer(tokenizer: AutoencoderDC, latent_channels: int) -> AutoencoderDC:
    """Return a copy with more latent channels, of which the first are those of `tokenizer`, to rounding.

    It decodes as `tokenizer` does until the decoder has learnt what the new channels mean. They begin as random views of
    what the encoder holds before its last layer. The shortcuts of a `"dc"` autoencoder (means of groups of channels in
    the encoder, repeats in the decoder) group otherwise when there are more latents; the last and the first convolution
    make up for it. The scale of the latents is left out: it is to be measured. Raises `ValueError` for another kind of
    tokenizer, or a number of channels that is no more than there are or does not divide the width.
    """
    if not isinstance(tokenizer, AutoencoderDC):
        raise ValueError(
            f"Latent channels can be added to a tokenizer of kind 'dc', not to a {type(tokenizer).__name__}."
        )
    config = tokenizer.config
    before, width = config.latent_channels, config.encoder_block_out_channels[-1]
    if latent_channels <= before or width % latent_channels or config.decoder_block_out_channels[-1] % latent_channels:
        raise ValueError(
            f"latent_channels={latent_channels} must be more than the {before} there are and divide the width {width}."
        )
    kept = {k: v for k, v in config.items() if not k.startswith(("_", "latents_"))}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(latent_channels)
        grown = AutoencoderDC.from_config({**kept, "latent_channels": latent_channels})
    old, new = {k: v.float() for k, v in tokenizer.state_dict().items()}, grown.state_dict()
    for name, value in new.items():
        if old[name].shape == value.shape:
            value.copy_(old[name])
    out, was = new["encoder.conv_out.weight"], old["encoder.conv_out.weight"]
    centre = out.shape[-1] // 2
    out[:before] = was
    out[:before, :, centre, centre] += _groups(before, width) - _groups(latent_channels, width)[:before]
    out[before:] *= was.std() / out[before:].std()
    new["encoder.conv_out.bias"].zero_()[:before] = old["encoder.conv_out.bias"]
    first = new["decoder.conv_in.weight"].zero_()
    first[:, :before] = old["decoder.conv_in.weight"]
    width = first.shape[0]
    first[:, :before, centre, centre] += _repeats(before, width)
    first[:, :, centre, centre] -= _repeats(latent_channels, width)
    grown.load_state_dict(new)
    return grown


def _groups(n: int, width: int) -> Tensor:
    """Matrix `(n, width)` of the encoder's last shortcut: each latent is the mean of a group of channels."""
    return _repeats(n, width).T / (width // n)


def _repeats(n: int, width: int) -> Tensor:
    """Matrix `(width, n)` of the decoder's first shortcut: each latent is repeated."""
    return torch.eye(n).repeat_interleave(width // n, dim=0)


@torch.no_grad()
def grow_denoiser(denoiser: UNet2DModel, latent_channels: int) -> UNet2DModel:
    """Return a copy for more latent channels: the first are drawn as `denoiser` does, the new ones are not seen yet.

    Raises `ValueError` for another kind of denoiser.
    """
    if not isinstance(denoiser, UNet2DModel):
        raise ValueError(f"Latent channels can be added to a UNet2DModel, not to a {type(denoiser).__name__}.")
    grown = copy.deepcopy(denoiser).float()
    grown.register_to_config(in_channels=latent_channels, out_channels=latent_channels)
    grown.conv_in = _padded(grown.conv_in, latent_channels, grown.conv_in.out_channels)
    grown.conv_out = _padded(grown.conv_out, grown.conv_out.in_channels, latent_channels)
    return grown.requires_grad_(True)


def _padded(conv: nn.Conv2d, n_in: int, n_out: int) -> nn.Conv2d:
    """Return a convolution with more inputs or outputs, zero where they are new."""
    new = nn.Conv2d(n_in, n_out, conv.kernel_size, padding=conv.padding)
    new.weight.zero_()[: conv.out_channels, : conv.in_channels] = conv.weight
    new.bias.zero_()[: conv.out_channels] = conv.bias
    return new
