"""Training on Lightning: one plan per objective, one call that fits it, one progress bar."""

from ._data import Latents, Pool, augment_batch
from ._fit import Bar, fit, has_bfloat16, read_note
from ._plans import CNNPlan, DenoiserPlan, ModulationPlan, Plan, TokenizerPlan

__all__ = [
    "Bar",
    "CNNPlan",
    "DenoiserPlan",
    "Latents",
    "ModulationPlan",
    "Plan",
    "Pool",
    "TokenizerPlan",
    "augment_batch",
    "fit",
    "has_bfloat16",
    "read_note",
]
