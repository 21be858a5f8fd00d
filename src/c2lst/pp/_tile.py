from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from c2lst._checks import check_fraction, check_positive
from c2lst._docs import doc
from c2lst._keys import Key
from c2lst._logging import logger
from c2lst._notes import jsonable, notes, record

from ._slide import slides
from ._windows import cut

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray
    from spatialdata import SpatialData

    from ._tissue import Tissue

THUMBNAIL_PX = 1000


@doc
def tile(
    sdata: SpatialData,
    *,
    mpp: float,
    patch_px: int = 64,
    overlap: float = 0.0,
    min_tissue: float = 0.6,
    source_mpp: float | None = None,
    image_key: str | None = None,
    coordinate_system: str | None = None,
    table_key: str = "table",
    max_ram_gb: float = 4.0,
) -> AnnData:
    """Turn a slide that was not sequenced into a table of places and patches, ready for :func:`c2lst.tl.predict`.

    Parameters
    ----------
    sdata
        A :class:`~spatialdata.SpatialData` with an image; a table is not needed.
    mpp
        Microns per pixel of the patches.
    patch_px
        Side of a patch in pixels.
    overlap
        Share of a side that neighbours have in common, from 0 to below 1.
    min_tissue
        Share of a tile that must be tissue.
    source_mpp
        Microns per pixel of the image at full resolution; `None` as in :func:`c2lst.pp.extract_patches`.
    image_key, coordinate_system
        As in :func:`c2lst.pp.extract_patches`.
    {table_key}
    max_ram_gb
        Memory for pixels of the image.

    Returns
    -------
    A new AnnData with `X` of shape `(n, 0)` and

    `obsm["patches"]`
        uint8 `(n, H, W, 3)`.
    `obsm["spatial"]`
        Centres x, y in pixels of the image at full resolution.
    `obs["array_row"]`, `obs["array_col"]`
        Place in the grid of tiles.
    `obs["c2lst_tissue"]`
        Share of tissue.
    `uns["spatial"]`
        A small picture of the slide and scale factors, for :func:`squidpy.pl.spatial_scatter`.
    `uns["c2lst"]`, `uns["c2lst_section"]`
        Scale of the patches, and the name of the slide.

    Raises
    ------
    ValueError
        If no tile has enough tissue, or the scale is unknown or finer than the image.

    Examples
    --------
    >>> import c2lst as c2l
    >>> tiles = c2l.pp.tile(c2l.datasets.toy_tissue(n_spots=16), mpp=4.0, patch_px=16)
    >>> tiles.obsm["patches"].shape[1:], tiles.n_vars
    ((16, 16, 3), 0)
    """
    import pandas as pd
    from anndata import AnnData

    check_positive("mpp", mpp)
    check_positive("patch_px", patch_px, integer=True)
    check_fraction("overlap", overlap, zero=True)
    check_fraction("min_tissue", min_tissue, zero=True)
    if overlap == 1:
        raise ValueError("overlap=1 would put every tile onto its neighbour; it must be below 1.")
    if isinstance(sdata, list | tuple | dict):
        raise TypeError("tile takes one SpatialData and returns one AnnData; call it once a slide.")
    slide = slides(
        sdata,
        mpp=mpp,
        patch_px=int(patch_px),
        source_mpp=source_mpp,
        image_key=image_key,
        coordinate_system=coordinate_system,
        table_key=table_key,
    )[0]
    cutter, level = slide.cutter, slide.cutter.level
    room = slide.room()
    size = slide.size()
    at = [np.arange(0, r + 1, max(1, round(s * (1 - overlap)))) for r, s in zip(room, size, strict=True)]
    place = np.stack(np.meshgrid(*map(np.arange, map(len, at)), indexing="ij"), axis=-1).reshape(-1, 2)
    corners = np.column_stack([at[0][place[:, 0]], at[1][place[:, 1]]])
    tissue = slide.tissue()
    share = tissue.share(cutter, corners)
    keep = share >= min_tissue - 1e-9
    if not keep.any():
        raise ValueError(
            f"No tile of {mpp * patch_px:g} um in {slide.name} has {min_tissue:.0%} tissue (the best has "
            f"{share.max():.0%}); lower min_tissue=, or look at the image {slide.image_key!r}."
        )
    place, corners, share = place[keep], corners[keep], share[keep]
    patches = np.empty((len(corners), patch_px, patch_px, 3), dtype=np.uint8)
    for which, batch in cut(cutter, corners, max_ram_gb=max_ram_gb):
        patches[which] = batch
    obs = pd.DataFrame(
        {"array_row": place[:, 0], "array_col": place[:, 1], "c2lst_tissue": share, Key.obs.VALID: True},
        index=[f"{slide.name}_{r}x{c}" for r, c in place],
    )
    centres = (corners + size / 2)[:, ::-1] * [level.fx, level.fy]
    table = AnnData(np.zeros((len(obs), 0), dtype=np.float32), obs=obs)
    table.obsm[Key.obsm.PATCHES] = patches
    table.obsm[Key.obsm.SPATIAL] = centres
    table.uns["spatial"] = {slide.name: _picture(tissue, size[1] * level.fx)}
    table.uns[Key.SECTION] = slide.name
    notes(table)["patches"] = {
        Key.obsm.PATCHES: jsonable(
            {
                "mpp": float(mpp),
                "source_mpp": cutter.source_mpp,
                "patch_px": int(patch_px),
                "field_um": float(mpp * patch_px),
                "image_key": slide.image_key,
                "coordinate_system": slide.coordinate_system,
                "level": level.index,
                "store": None,
            }
        )
    }
    record(table, "tile", mpp=mpp, patch_px=patch_px, overlap=overlap, min_tissue=min_tissue)
    logger.info("%s: %d tiles of %g um at %g um/px.", slide.name, len(obs), mpp * patch_px, mpp)
    return table


def _picture(tissue: Tissue, diameter: float) -> dict[str, dict[str, float | NDArray[np.uint8]]]:
    k = -(-max(tissue.mask.shape) // THUMBNAIL_PX)
    return {
        "images": {"hires": np.ascontiguousarray(tissue.picture[k // 2 :: k, k // 2 :: k])},
        "scalefactors": {"tissue_hires_scalef": 1 / (k * tissue.fx), "spot_diameter_fullres": float(diameter)},
    }
