"""Weights of a denoiser moved away from those of a worse one."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import nn


@torch.no_grad()
def extrapolate(denoiser: nn.Module, other: nn.Module, weight: float) -> nn.Module:
    """Return a copy of `denoiser` whose weights are `denoiser + weight * (denoiser - other)`.

    Where `other` began as `denoiser` and then learnt from samples of `denoiser`, it is worse in the direction in which those
    samples leave the data; the way back, gone on along, leads towards the data (negative extrapolation from self-training,
    Alemohammad et al. 2025, arXiv 2510.03597). 0 is `denoiser` itself. Raises `ValueError` for networks of another shape.
    """
    ours, theirs = denoiser.state_dict(), other.state_dict()
    if {k: v.shape for k, v in ours.items()} != {k: v.shape for k, v in theirs.items()}:
        raise ValueError("The two denoisers are of different shapes: there is no line through their weights.")
    moved = copy.deepcopy(denoiser)
    for name, value in moved.state_dict().items():
        if value.is_floating_point():
            value.add_(ours[name] - theirs[name].to(value), alpha=weight)
    return moved
