"""Where the spots of a section lie, in um."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from c2lst._checks import check_positive, listing
from c2lst._keys import Key
from c2lst._patches import patch_meta

from . import _lattice
from ._geometry import place, regions
from ._scale import FIX, bin_width, find_source_mpp

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from c2lst._resolve import Section


def positions_um(
    section: Section, *, patch_key: str = Key.obsm.PATCHES, source_mpp: float | None = None
) -> list[tuple[NDArray[np.int64], NDArray[np.float64], str]]:
    """Return rows, x and y in um, and the image, for each region of a section; NaN where a spot has no place.

    With an image, the places are those the patches were cut at; without one, `obsm["spatial"]`, times what a unit of it
    was when the patches were cut: it may be in pixels of another resolution than the image.
    """
    table = section.table
    meta = {}
    if patch_key in ((table.uns.get(Key.UNS) or {}).get("patches") or {}):
        meta = patch_meta(table, patch_key)
    at = _lattice.indices(table)
    if section.sdata is None or not section.sdata.images or not table.uns.get("spatialdata_attrs"):
        if "spatial" not in table.obsm:
            raise KeyError(
                f"Section {section.name!r} has no obsm['spatial'] (x, y in pixels), so its spots have no place; obsm "
                f"has {listing(table.obsm)}."
            )
        xy = np.asarray(table.obsm["spatial"], dtype=float)[:, :2]
        return [(np.arange(table.n_obs), xy * _scale_of(table, xy, at, meta, source_mpp), "")]
    found = regions(table, section.sdata)
    out = []
    for region, rows, xy in found:
        cut = meta.get("regions") or [name for name, *_ in found]
        i = cut.index(region) if region in cut else None  # rows may have been left out or reordered since
        image_key, system, told = (meta.get(k) for k in ("image_key", "coordinate_system", "source_mpp"))
        image_key, system, told = (
            v if not isinstance(v, list) else v[i] if i is not None and i < len(v) else None
            for v in (image_key, system, told)
        )
        where = place(section.sdata, region, image_key, system)
        xy = where.pixels(xy)
        scale = find_source_mpp(
            source_mpp if source_mpp is not None else told,
            section.sdata,
            table,
            where.image_key,
            region=region,
            shape_scale=where.scale,
            at=None if at is None else at[rows],
            xy=xy,
            check=source_mpp is not None or told is None,  # what the patches were cut at was compared then
        )
        out.append((rows, xy * scale, where.image_key))
    return out


def _scale_of(table, xy, at, meta, source_mpp) -> float:
    mine = table.uns.get(Key.UNS) or {}
    for value in (source_mpp, mine.get("spatial_mpp"), meta.get("source_mpp"), mine.get("source_mpp")):
        if value is not None and np.ndim(value) == 0 and not isinstance(value, str | dict):
            check_positive("source_mpp", float(value))
            return float(value)
    if at is None:
        raise ValueError(f"Nothing says how many microns a pixel of obsm['spatial'] is; {FIX}.")
    pitch, kind = _lattice.fit_pitch(at, xy)
    return _lattice.default_pitch(kind, at, bin_width(None)) / pitch
