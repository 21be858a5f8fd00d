"""Preparing sections: patches of known size, the gene panel, honest splits."""

from __future__ import annotations

from ._extract_patches import extract_patches
from ._infer_mpp import infer_mpp
from ._select_genes import select_genes
from ._split import split
from ._subsample import subsample
from ._tile import tile
from ._tissue_patches import tissue_patches

__all__ = ["extract_patches", "infer_mpp", "select_genes", "split", "subsample", "tile", "tissue_patches"]
