"""The denoiser: a transformer with adaptive normalisation of diffusers, and one way to call any of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

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
    kind: str = "dit",
    latent_channels: int = 12,
    latent_px: int = 8,
    width: int = 256,
    depth: int = 8,
    heads: int = 4,
    token_px: int = 1,
    channels: tuple[int, ...] = (64, 128, 192),
    layers: int = 1,
) -> PixArtTransformer2DModel | UNet2DModel:
    """Build an unconditional denoiser, zero at its output.

    `kind="dit"` is a PixArt-type transformer (one shared adaLN) of `width`, `depth`, `heads` and `token_px`; `kind="unet"`
    a UNet of `channels` and `layers` a level, with self-attention below its first. A UNet knows from the start that
    neighbours belong together, and learns texture from fewer samples.
    """
    if kind == "unet":
        return _make_unet(latent_channels, latent_px, tuple(channels), layers)
    if kind != "dit":
        raise ValueError(f"kind={kind!r} of a denoiser is not known; there are 'dit' and 'unet'.")
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


def _make_unet(latent_channels: int, latent_px: int, channels: tuple[int, ...], layers: int) -> UNet2DModel:
    below = len(channels) - 1
    if latent_px % 2**below:
        raise ValueError(f"latents of {latent_px} px cannot be halved {below} times, as channels={channels} would.")
    if any(c % 32 for c in channels):
        raise ValueError(f"channels={channels} of a UNet must be multiples of 32.")
    model = UNet2DModel(
        sample_size=latent_px,
        in_channels=latent_channels,
        out_channels=latent_channels,
        block_out_channels=channels,
        layers_per_block=layers,
        down_block_types=("DownBlock2D",) + ("AttnDownBlock2D",) * below,
        up_block_types=("AttnUpBlock2D",) * below + ("UpBlock2D",),
        norm_num_groups=16,
        attention_head_dim=32,
        resnet_time_scale_shift="scale_shift",  # time, and genes, scale and shift every norm
    )
    torch.nn.init.zeros_(model.conv_out.weight)
    torch.nn.init.zeros_(model.conv_out.bias)
    return model


PX_PER_LATENT = 8  # of the autoencoders PixArt and Stable Diffusion were made with


def denoise(model: nn.Module, z: Tensor, t: Tensor) -> Tensor:
    """Call a denoiser without genes: latents `(n, C, h, w)`, times `(n,)` -> `(n, C, h, w)`.

    What a model was made to be told beside the time (a class, a caption, an image embedding) is its `null_condition`,
    see :func:`set_condition`; without one, the null class of a DiT and zeros for a cross-attention. The size of a patch
    in pixels, which some models are told too, is the side of the latents times `model.px_per_latent`.
    """
    config = getattr(model, "config", None)
    held = getattr(model, "null_condition", None)
    if isinstance(model, DiTTransformer2DModel):
        null = int(config.num_embeds_ada_norm) if held is None else int(held)
        labels = torch.full((len(z),), null, dtype=torch.long, device=z.device)
        out = model(z, timestep=t, class_labels=labels).sample
    elif isinstance(model, PixArtTransformer2DModel):
        kwargs = {}
        if config.cross_attention_dim is not None:
            kwargs["encoder_hidden_states"] = _tokens(model, z)
        if model.use_additional_conditions:
            px = _side(model, z)
            kwargs["added_cond_kwargs"] = {
                "resolution": z.new_tensor([px, px]).expand(len(z), 2),
                "aspect_ratio": z.new_ones(len(z), 1),
            }
        out = model(z, timestep=t, **kwargs).sample
    elif isinstance(model, UNet2DConditionModel):
        kwargs = {}
        if config.addition_embed_type == "text_time":
            # Podell et al. 2023: original size, crop, target size; the pooled caption of nothing is zeros
            px = _side(model, z)
            sizes = z.new_tensor([px, px, 0, 0, px, px])
            pooled = config.projection_class_embeddings_input_dim - len(sizes) * config.addition_time_embed_dim
            kwargs["added_cond_kwargs"] = {
                "text_embeds": z.new_zeros(len(z), pooled),
                "time_ids": sizes.expand(len(z), -1),
            }
        out = model(z, t, encoder_hidden_states=_tokens(model, z), **kwargs).sample
    elif isinstance(model, UNet2DModel):
        labels = None if model.class_embedding is None else held.to(z.device).long().expand(len(z))
        out = model(z, t, class_labels=labels).sample
    else:
        raise TypeError(f"{type(model).__name__} is no denoiser c2lst knows how to call.")
    return out[:, : z.shape[1]]  # models that also learn a variance return twice the channels


def _side(model: nn.Module, z: Tensor) -> float:
    return float(z.shape[-1] * getattr(model, "px_per_latent", PX_PER_LATENT))


def _tokens(model: nn.Module, z: Tensor) -> Tensor:
    """Return what the cross-attention looks at, `(n, tokens, width)`."""
    held, place = getattr(model, "null_condition", None), getattr(model, "condition_position", None)
    tokens = z.new_zeros(1, _condition_width(model)) if held is None else held.to(z)
    if place is not None:
        tokens = tokens + place.to(z)
    return tokens.expand(len(z), *tokens.shape)


def _condition_width(model: nn.Module) -> int:
    width = model.config.get("caption_channels") or model.config.cross_attention_dim
    widths = set(width) if isinstance(width, list | tuple) else {width}
    if len(widths) != 1:
        raise ValueError(f"The {type(model).__name__} has cross-attentions of several widths {sorted(widths)}.")
    return int(widths.pop())


def set_condition(model: nn.Module, condition: Any) -> None:
    """Fix what a denoiser is told beside the time, on every call; kept with its weights.

    A class (an integer) for a DiT or a UNet with classes; embeddings `(tokens, width)` for a cross-attention: of an empty
    caption, or the mean image embedding of the tissue at hand. Raises `ValueError` where it does not fit the model.
    """
    name = type(model).__name__
    if isinstance(model, DiTTransformer2DModel | UNet2DModel):
        n = model.config.get("num_embeds_ada_norm") or model.config.get("num_class_embeds")
        if not n:
            raise ValueError(f"The {name} knows no classes: leave condition out.")
        value = torch.as_tensor(condition)
        n += isinstance(model, DiTTransformer2DModel)  # its last one is that of no class
        if value.ndim or value.is_floating_point() or not 0 <= int(value) < n:
            raise ValueError(
                f"condition of a {name} with {n} classes must be an integer in 0..{n - 1}, not {condition!r}."
            )
        value = value.long()
    else:
        if model.config.cross_attention_dim is None:
            raise ValueError(f"The {name} has no cross-attention: leave condition out.")
        value = torch.as_tensor(condition).detach().to("cpu", torch.float32)
        value = value[None] if value.ndim == 1 else value
        place = getattr(model, "condition_position", None)
        tokens = "tokens" if place is None else len(place)
        if value.ndim != 2 or value.shape[1] != _condition_width(model) or (place is not None and len(value) != tokens):
            raise ValueError(
                f"condition of this {name} must have shape ({tokens}, {_condition_width(model)}), not "
                f"{tuple(value.shape)}."
            )
        if not torch.isfinite(value).all():
            raise ValueError("condition must be finite.")
    model.register_buffer("null_condition", value.clone())


def check_denoiser(model: nn.Module) -> None:
    """Raise `ValueError` with the reason where a denoiser asks for what c2lst cannot give it."""
    name, config = type(model).__name__, model.config
    if isinstance(model, UNet2DConditionModel):
        _condition_width(model)
        for key, known in (
            ("addition_embed_type", (None, "text_time")),
            ("class_embed_type", (None,)),
            ("num_class_embeds", (None,)),
            ("encoder_hid_dim_type", (None,)),
        ):
            if config.get(key) not in known:
                raise ValueError(f"The {name} asks for a condition c2lst cannot give it: {key}={config.get(key)!r}.")
    elif isinstance(model, UNet2DModel) and model.class_embedding is not None:
        if config.class_embed_type is not None:
            raise ValueError(f"The {name} asks for classes of the kind {config.class_embed_type!r}, unknown to c2lst.")
        if getattr(model, "null_condition", None) is None:
            raise ValueError(
                f"The {name} knows {config.num_class_embeds} classes and none of them is said to mean no class; name "
                "one: CentralModel.from_pretrained(..., condition=<integer>)."
            )
    try:
        sites(model)
    except TypeError as error:
        raise ValueError(str(error)) from error


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
    """Return what some blocks hold, its mean and standard deviation over the patch: `(n, d)`.

    Of a UNet it is the last block but one, of a transformer those at half and at three quarters of its depth. Nothing is
    drawn: the clean latents are shown at the time step `t`.
    """
    if hasattr(model, "up_blocks"):
        last = [m for m in model.up_blocks[-1].modules() if isinstance(m, ResnetBlock2D)]
        chosen = last[-2:-1] or last
    else:
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
