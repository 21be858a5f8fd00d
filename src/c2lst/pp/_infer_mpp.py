from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from c2lst._checks import check_positive, listing
from c2lst._resolve import sections

from . import _lattice
from ._geometry import place, regions
from ._scale import FIX, bin_width

if TYPE_CHECKING:
    from anndata import AnnData
    from spatialdata import SpatialData


def infer_mpp(
    sdata: SpatialData | AnnData,
    *,
    shapes_key: str | None = None,
    coordinate_system: str | None = None,
    pitch_um: float | None = None,
    image_key: str | None = None,
    table_key: str = "table",
) -> float:
    """Return microns per pixel of the image at full resolution, from the pitch of the array.

    Positions in the image are fitted on the array indices (`array_row`/`array_col`, or `x`/`y`) by least squares; the
    pitch is 100 um on a hexagonal array (Visium), the bin where a region is named so (Visium HD), 200 um on a small
    square one (legacy ST), or `pitch_um`. The radius of the spots is never used: what SpaceRanger writes is that of a
    theoretical spot.

    Parameters
    ----------
    sdata
        Section with an image, or an AnnData with `obsm["spatial"]` in pixels.
    shapes_key
        Region of the table to measure; needed where it annotates several.
    coordinate_system
        Where shapes and image meet; needed where they meet in several that disagree.
    pitch_um
        Distance of neighbours, centre to centre, in um. Without array indices it is compared to the median distance
        of neighbours, with a warning.
    image_key
        Image that is meant, where there are several.
    table_key
        Name of the table in a SpatialData.

    Raises
    ------
    ValueError
        If there are no array indices and no `pitch_um`, positions do not follow the indices, or the lattice does not
        tell the platform.

    Examples
    --------
    >>> import numpy as np, pandas as pd, anndata as ad, c2lst as c2l
    >>> row, col = np.divmod(np.arange(12), 4)
    >>> obs = pd.DataFrame({"x": col, "y": row}, index=[f"{c}x{r}" for r, c in zip(row, col)])
    >>> table = ad.AnnData(np.ones((12, 1)), obs=obs, obsm={"spatial": np.c_[col, row] * 400.0})
    >>> round(c2l.pp.infer_mpp(table), 6)  # legacy ST: 200 um are 400 px
    0.5
    """
    if pitch_um is not None:
        check_positive("pitch_um", pitch_um)
    section = sections(sdata, table_key=table_key)[0]
    table, region = section.table, None
    if section.sdata is None:
        if "spatial" not in table.obsm:
            raise KeyError(f"obsm has no 'spatial' to measure the pitch in; it has {listing(table.obsm)}.")
        rows, xy = np.arange(table.n_obs), np.asarray(table.obsm["spatial"], dtype=float)[:, :2]
    else:
        found = {name: (rows, xy) for name, rows, xy in regions(table, section.sdata)}
        if shapes_key is None and len(found) > 1:
            raise ValueError(f"The table annotates several regions: {listing(found)}; name one with shapes_key=.")
        region = shapes_key or next(iter(found))
        if region not in found:
            raise KeyError(f"The table annotates no shapes {region!r}; it annotates {listing(found)}.")
        rows, xy = found[region]
        xy = place(section.sdata, region, image_key, coordinate_system).pixels(xy)
    at = _lattice.indices(table)
    if at is not None:
        pitch, kind = _lattice.fit_pitch(at[rows], xy)
        um = pitch_um if pitch_um is not None else _lattice.default_pitch(kind, at[rows], bin_width(region))
        return float(um / pitch)
    if pitch_um is None:
        raise ValueError(
            f"obs has no array indices (array_row/array_col, or x/y; it has {listing(table.obs.columns)}), so the "
            f"pitch is not known; {FIX} (pitch_um=)."
        )
    return float(pitch_um / _lattice.neighbour_distance(xy))
