"""Tools: compute and store."""

from ._adapt import adapt
from ._augment import augment
from ._composition import composition
from ._embed import embed
from ._embedding_overlap import embedding_overlap
from ._fit_predictor import fit_predictor
from ._gate import gate
from ._gene_sweep import gene_sweep
from ._learning_curve import learning_curve
from ._memorization import memorization
from ._predict import predict
from ._pretrain import pretrain
from ._pseudo_label import pseudo_label
from ._round_trip import round_trip
from ._score import score
from ._spatial_coherence import spatial_coherence

__all__ = [
    "adapt",
    "augment",
    "composition",
    "embed",
    "embedding_overlap",
    "fit_predictor",
    "gate",
    "gene_sweep",
    "learning_curve",
    "memorization",
    "predict",
    "pretrain",
    "pseudo_label",
    "round_trip",
    "score",
    "spatial_coherence",
]
