"""Training on Lightning: one plan per objective, one call that fits it, one progress bar."""

from ._data import Pool, augment_batch
from ._fit import fit
from ._plans import CNNPlan, DenoiserPlan, ModulationPlan, Plan, TokenizerPlan

__all__ = [
    "CNNPlan",
    "DenoiserPlan",
    "ModulationPlan",
    "Plan",
    "Pool",
    "TokenizerPlan",
    "augment_batch",
    "fit",
]
