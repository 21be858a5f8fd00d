from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from c2lst._checks import check_patches
from c2lst._keys import Key
from c2lst._notes import notes
from c2lst._patches import get_patches, patch_meta

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray
    from spatialdata import SpatialData

REGION, INSTANCE = "c2lst_region", "c2lst_instance"


def to_spatialdata(
    synthetic: AnnData, *, name: str = "synthetic", patch_key: str = Key.obsm.PATCHES, mpp: float | None = None
) -> SpatialData:
    """Lay spots out as a mosaic: an image of their patches, circles at the centres of the tiles, the table on them.

    The image has one patch a chunk and is lazy; neighbours in it are no neighbours in tissue. With the same `mpp` and
    `patch_px`, :func:`c2lst.pp.extract_patches` gives the patches back bit for bit.

    Parameters
    ----------
    synthetic
        Table with square patches, such as :func:`c2lst.tl.augment` returns.
    name
        The image is called `{name}_image`, the circles `{name}_spots`, the coordinate system `name`.
    patch_key
        Key of the patches.
    mpp
        Microns per pixel of the patches; `None` is what `uns["c2lst"]["patches"]` says.

    Returns
    -------
    A :class:`~spatialdata.SpatialData`. Its table is a copy with `obs["c2lst_region"]`, `obs["c2lst_instance"]`, and
    microns per pixel in `uns["c2lst"]["source_mpp"]` and `attrs["c2lst_source_mpp"]`.

    Raises
    ------
    KeyError
        If there are no patches, or their scale is not known.
    ValueError
        If they are not square.

    Examples
    --------
    >>> import numpy as np, anndata as ad, c2lst as c2l
    >>> spots = ad.AnnData(np.ones((3, 2), np.float32), obsm={"patches": np.zeros((3, 8, 8, 3), np.uint8)})
    >>> sdata = c2l.io.to_spatialdata(spots, mpp=2.0)
    >>> sdata["synthetic_image"].shape  # 2 x 2 tiles
    (3, 16, 16)
    """
    import dask.array as da
    from spatialdata import SpatialData
    from spatialdata.models import Image2DModel, ShapesModel, TableModel
    from spatialdata.transformations import Identity

    patches = check_patches(get_patches(synthetic, patch_key))
    n, px = patches.shape[:2]
    if n == 0:
        raise ValueError("The table has no spots (n_obs = 0); there is nothing to lay out.")
    if patches.shape[2] != px:
        raise ValueError(f"Patches must be square, not {patches.shape[1]} x {patches.shape[2]} px.")
    if mpp is None:
        mpp = patch_meta(synthetic, patch_key)["mpp"]
    columns = int(np.ceil(np.sqrt(n)))
    rows = -(-n // columns)
    image = da.map_blocks(
        _tile, chunks=((3,), (px,) * rows, (px,) * columns), dtype=np.uint8, source=_Source(patches, columns)
    )
    row, column = np.divmod(np.arange(n), columns)
    to = {name: Identity()}
    table = synthetic.copy()
    table.uns.pop("spatialdata_attrs", None)  # that of the parents
    notes(table)["source_mpp"] = float(mpp)
    table.uns[Key.SECTION] = name
    table.obs[REGION], table.obs[INSTANCE] = f"{name}_spots", np.arange(n)
    table.obs[REGION] = table.obs[REGION].astype("category")
    sdata = SpatialData(
        images={
            f"{name}_image": Image2DModel.parse(
                image, dims=("c", "y", "x"), c_coords=["r", "g", "b"], transformations=dict(to)
            )
        },
        shapes={
            f"{name}_spots": ShapesModel.parse(
                np.column_stack([column + 0.5, row + 0.5]) * px,
                geometry=0,
                radius=px / 2,
                index=np.arange(n),
                transformations=dict(to),
            )
        },
        tables={"table": TableModel.parse(table, region=f"{name}_spots", region_key=REGION, instance_key=INSTANCE)},
    )
    sdata.attrs["c2lst_source_mpp"] = {f"{name}_image": float(mpp)}
    sdata.attrs[Key.SECTION] = name
    return sdata


class _Source:
    """The patches behind a mosaic; wrapped, so that dask neither copies nor splits them."""

    def __init__(self, patches: Any, columns: int) -> None:
        self.patches, self.columns = patches, columns


def _tile(source: _Source, block_id: tuple[int, int, int] | None = None) -> NDArray[np.uint8]:
    px = source.patches.shape[1]
    i = 0 if block_id is None else block_id[1] * source.columns + block_id[2]
    if i >= len(source.patches):
        return np.full((3, px, px), 255, dtype=np.uint8)
    return np.ascontiguousarray(np.asarray(source.patches[i]).transpose(2, 0, 1))
