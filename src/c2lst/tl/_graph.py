"""The fixed neighbourhood graph on which Moran's I is taken."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np

from c2lst._checks import listing
from c2lst._logging import quiet

if TYPE_CHECKING:
    import scipy.sparse as sp
    from anndata import AnnData
    from numpy.typing import NDArray

N_NEIGHBOURS = 6


def graph(table: AnnData, rows: NDArray[np.int64]) -> sp.csr_matrix:
    """Return the six nearest neighbours of each spot (squidpy), of `rows` alone; the table is not changed."""
    from anndata import AnnData

    if "spatial" not in table.obsm:
        raise KeyError(f"obsm has no 'spatial' (positions of the spots); it has {listing(table.obsm)}.")
    at = np.asarray(table.obsm["spatial"], dtype=float)[rows][:, :2]
    lost = ~np.isfinite(at).all(axis=1)
    if lost.any():
        raise ValueError(
            f"obsm['spatial'] is not finite for {lost.sum()} of the {len(at)} spots that are meant; give them a place, or leave "
            "them out."
        )
    if len(at) <= N_NEIGHBOURS:
        raise ValueError(f"{len(at)} spots are too few for Moran's I; it needs more than {N_NEIGHBOURS}.")
    light = AnnData(np.zeros((len(at), 1), dtype=np.float32), obsm={"spatial": at})
    with quiet("spatialdata._logging", level=logging.WARNING):  # squidpy tells of each graph it builds
        import squidpy as sq

        sq.gr.spatial_neighbors(light, coord_type="generic", n_neighs=N_NEIGHBOURS)
    return light.obsp["spatial_connectivities"]
