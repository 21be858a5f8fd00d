"""Checkpoints that name their class or their tensors in another way than diffusers does today."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

PIXCELL = "PixCellTransformer2DModel"
# of diffusers before 0.28, which told them apart by their norm
OLD_TRANSFORMER = "Transformer2DModel"
BY_NORM = {"ada_norm_zero": "DiTTransformer2DModel", "ada_norm_single": "PixArtTransformer2DModel"}
CONDITION = ("null_condition", "condition_position")

_OLD_ATTENTION = re.compile(r"(\.attentions\.\d+\.)(query|key|value|proj_attn)\.")
_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def adopt_config(config: dict[str, Any], source: Path) -> tuple[str, dict[str, Any]]:
    """Return the class of diffusers that a config asks for, and the settings that class takes."""
    name = config["_class_name"]
    if name == PIXCELL:
        return "PixArtTransformer2DModel", {k: v for k, v in config.items() if k != "caption_num_tokens"}
    if name == OLD_TRANSFORMER:
        norm = config.get("norm_type")
        if norm not in BY_NORM:
            raise ValueError(f"{source} is a {name} with norm_type={norm!r}; known are {sorted(BY_NORM)}.")
        old = ("double_self_attention", "num_vector_embeds", "only_cross_attention", "use_linear_projection")
        kept = {k: v for k, v in config.items() if k not in old}
        if norm == "ada_norm_zero":  # what a DiT never has
            none = ("caption_channels", "cross_attention_dim", "interpolation_scale", "attention_type")
            kept = {k: v for k, v in kept.items() if k not in none}
        return BY_NORM[norm], kept
    return name, config


def adopt_tensors(tensors: dict[str, Tensor], config: dict[str, Any], source: Path) -> dict[str, Tensor]:
    """Return the tensors under the names of diffusers today; `config` is the checkpoint's own.

    What a model is told beside the time comes under the names of :data:`CONDITION`.
    """
    tensors = {_OLD_ATTENTION.sub(lambda m: f"{m[1]}{_ATTENTION[m[2]]}.", k): v for k, v in tensors.items()}
    return _pixcell(tensors, config, source) if config["_class_name"] == PIXCELL else tensors


def _pixcell(tensors: dict[str, Tensor], config: dict[str, Any], source: Path) -> dict[str, Tensor]:
    """Read the checkpoint of PixCell (Yellapragada et al. 2025).

    Its transformer is that of PixArt with an image embedding in the place of the caption. Two tensors are its own: the
    learned embedding of no condition, beside the projection of the embeddings; and, where there are several embeddings
    a patch, what tells them apart by their place in it.
    """
    import torch

    tokens, width = int(config.get("caption_num_tokens", 1)), int(config["caption_channels"])
    found = dict(tensors)
    null = found.pop("caption_projection.uncond_embedding", None)
    if null is None:
        raise ValueError(f"The weights in {source} lack 'caption_projection.uncond_embedding' of a {PIXCELL}.")
    if tuple(null.shape) != (tokens, width):
        raise ValueError(
            f"The weights in {source} have 'caption_projection.uncond_embedding' of shape {tuple(null.shape)}; its "
            f"config says ({tokens}, {width})."
        )
    out = {"null_condition": null}
    place = found.pop("y_pos_embed.y_pos_embed", None)
    if tokens > 1:
        if place is None:
            place = torch.from_numpy(condition_positions(tokens, width, config["sample_size"] // config["patch_size"]))
        place = place.reshape(-1, place.shape[-1])
        if tuple(place.shape) != (tokens, width):
            raise ValueError(
                f"The weights in {source} have 'y_pos_embed.y_pos_embed' for {tuple(place.shape)}; its config says "
                f"({tokens}, {width})."
            )
        out["condition_position"] = place
    elif place is not None:
        raise ValueError(f"The weights in {source} have positions of embeddings, but its config says one embedding.")
    return found | out


def condition_positions(tokens: int, width: int, base: int) -> np.ndarray:
    """Return sinusoidal positions of a square grid of embeddings, `(tokens, width)`, as PixCell defines them.

    Columns first, then rows; each the sine and the cosine at frequencies 10000^(-2k/(width/2)) (Vaswani et al. 2017).
    The grid spans `base` token sides of the image at half scale, with an offset of `base // tokens`.
    """
    side = math.isqrt(tokens)
    if side**2 != tokens or width % 4:
        raise ValueError(f"{tokens} embeddings of {width} values have no square grid of sinusoidal positions.")
    at = np.arange(side) / (side / base) / 2 + base // tokens
    angle = at[:, None] / 10000 ** (np.arange(width // 4) / (width / 4))
    line = np.concatenate([np.sin(angle), np.cos(angle)], axis=1)
    rows, columns = np.divmod(np.arange(tokens), side)
    return np.concatenate([line[columns], line[rows]], axis=1).astype(np.float32)
