"""Gene-conditioned modulation of a frozen denoiser, nothing at the start.

The genes enter as additions to the scale, shift and gate of the adaptive norms (FiLM, Perez et al. 2018; adaLN, Peebles
& Xie 2023). What is added is zero at step 0, so that the local model is the central model to the bit.
"""

from __future__ import annotations

import copy
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import nn

from ._denoiser import sites

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor


class Modulation(nn.Module):
    """Base: turns a condition `(n, d)` into one addition a site, `(n, width)`. A row of NaN has its genes dropped."""

    def __init__(self, condition_dim: int, widths: list[int]):
        super().__init__()
        self.condition_dim, self.widths = int(condition_dim), [int(w) for w in widths]

    @property
    def config(self) -> dict:
        """What rebuilds the module."""
        return {"condition_dim": self.condition_dim, "widths": self.widths}

    def forward(self, condition: Tensor) -> list[Tensor]:
        """Return the additions, in the order of :func:`c2lst.nn.sites`."""
        raise TypeError(f"{type(self).__name__} must define forward.")

    def bind(self, model: nn.Module) -> nn.Module:
        """Return the denoiser that is modulated: `model` itself, unless more than additions are needed."""
        return model


class FiLM(Modulation):
    """Scale, shift and gate from the genes, through a bottleneck of `rank`, and a part without genes.

    The part without genes learns stain and tissue of the institution; it is what a patch without genes sees.
    """

    def __init__(self, condition_dim: int, widths: list[int], rank: int = 24):
        super().__init__(condition_dim, widths)
        self.rank = int(rank)
        self.inner = nn.Sequential(
            nn.Linear(condition_dim, 2 * self.rank), nn.SiLU(), nn.Linear(2 * self.rank, self.rank)
        )
        self.direct = nn.Linear(condition_dim, self.rank, bias=False)
        self.out = nn.Linear(self.rank, sum(self.widths), bias=False)
        self.base = nn.Parameter(torch.zeros(sum(self.widths)))
        nn.init.zeros_(self.out.weight)

    @property
    def config(self) -> dict:
        """What rebuilds the module."""
        return {**super().config, "rank": self.rank}

    def forward(self, condition: Tensor) -> list[Tensor]:
        """Return the additions, in the order of :func:`c2lst.nn.sites`."""
        here = torch.isfinite(condition).all(dim=1, keepdim=True)
        c = torch.where(here, condition, torch.zeros_like(condition))
        delta = self.base + here * self.out(self.inner(c) + self.direct(c))
        return list(delta.split(self.widths, dim=1))


class LoRA(FiLM):
    """Low-rank updates of the attention's projections (Hu et al. 2021, through peft) beside the gene modulation."""

    def __init__(self, condition_dim: int, widths: list[int], rank: int = 16, lora_rank: int = 2):
        super().__init__(condition_dim, widths, rank)
        self.lora_rank = int(lora_rank)
        self.adapters = nn.ParameterDict()

    @property
    def config(self) -> dict:
        """What rebuilds the module."""
        return {**super().config, "lora_rank": self.lora_rank}

    def bind(self, model: nn.Module) -> nn.Module:
        """Return a copy of `model` with the low-rank updates in it; `model` is left as it was."""
        try:
            from peft import LoraConfig, inject_adapter_in_model
        except ImportError as error:
            raise ImportError('modulation="lora" needs peft: pip install "c2lst[lora]".') from error
        config = LoraConfig(r=self.lora_rank, lora_alpha=self.lora_rank, target_modules=["to_q", "to_k", "to_v"])
        bound = inject_adapter_in_model(config, copy.deepcopy(model))
        fitted = self.adapters  # bound before: the new copy takes over what was fitted
        self.adapters = nn.ParameterDict(
            {name.replace(".", "/"): p for name, p in bound.named_parameters() if "lora_" in name}
        )
        with torch.no_grad():
            for name, value in fitted.items():
                self.adapters[name].copy_(value)
        if not self.adapters:
            raise TypeError(f"{type(model).__name__} has no attention projections for modulation='lora'; use 'film'.")
        return bound


MODULATIONS: dict[str, type[Modulation]] = {"film": FiLM, "lora": LoRA}


@contextmanager
def attached(modulation: Modulation, model: nn.Module, condition: Tensor) -> Iterator[None]:
    """Within the block, `model` is modulated by `condition` `(n, d)`; afterwards it is as it was."""
    handles = []
    try:
        for site, delta in zip(sites(model), modulation(condition), strict=True):
            if site.mode == "timestep":
                handles.append(site.module.register_forward_pre_hook(_onto_timestep(delta), with_kwargs=True))
            else:
                handles.append(site.module.register_forward_hook(_onto_output(delta)))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _onto_timestep(delta: Tensor):
    def hook(_module, args, kwargs):
        return args, {**kwargs, "timestep": kwargs["timestep"] + delta.to(kwargs["timestep"].dtype)}

    return hook


def _onto_output(delta: Tensor):
    def hook(_module, _args, output):
        return output + delta.to(output.dtype)

    return hook
