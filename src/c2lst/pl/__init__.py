"""Plots: read what `tl` wrote and draw it (matplotlib). They return axes, change nothing and show nothing."""

from __future__ import annotations

from ._composition import composition
from ._embedding_overlap import embedding_overlap
from ._gene_sweep import gene_sweep
from ._learning_curve import learning_curve
from ._memorization import memorization
from ._patches import patches
from ._round_trip import round_trip
from ._spatial_coherence import spatial_coherence
from ._training import training

__all__ = [
    "composition",
    "embedding_overlap",
    "gene_sweep",
    "learning_curve",
    "memorization",
    "patches",
    "round_trip",
    "spatial_coherence",
    "training",
]
