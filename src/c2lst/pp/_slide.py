"""A slide as `tissue_patches` and `tile` see it: an image of known scale, with or without a table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from c2lst._checks import listing
from c2lst._keys import Key
from c2lst._resolve import sections

from . import _lattice
from ._geometry import _transformations, check_system, find_image, place, regions
from ._image import levels, pick_level
from ._scale import find_source_mpp
from ._tissue import find_tissue
from ._windows import Cutter

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray

    from ._tissue import Tissue


@dataclass
class Slide:
    """Image, recipe and tissue of one section; `xy` are the spots in pixels of level 0, NaN where unknown."""

    name: str
    table: AnnData | None
    image_key: str
    coordinate_system: str | None
    cutter: Cutter
    pyramid: list[Any]
    xy: NDArray[np.float64] | None

    def size(self) -> NDArray[np.int64]:
        """Return height and width of a window in pixels of the level."""
        return np.array([self.cutter.axis(self.cutter.level.fy)[2], self.cutter.axis(self.cutter.level.fx)[2]])

    def field(self) -> NDArray[np.float64]:
        """Return height and width, in pixels of the level, of the widest field that the spots' patches have, or a window."""
        known = ((self.table.uns.get(Key.UNS) or {}).get("patches") or {}) if self.table is not None else {}
        um = max((float(p["field_um"]) for p in known.values() if "field_um" in p), default=0.0)
        level = self.cutter.level
        field = um / self.cutter.source_mpp / np.array([level.fy, level.fx])
        return np.where(field > self.size() + 1, field, self.size())

    def tissue(self, unseen: NDArray[np.int64] | None = None) -> Tissue:
        """Find the tissue, at a resolution that fits the field of view; spots with windows at corners `unseen` have no say."""
        if unseen is not None:
            factor, more = np.array([self.cutter.level.fy, self.cutter.level.fx]), (self.field() - self.size()) / 2
            unseen = np.hstack([(unseen - more) * factor, (unseen + self.size() + more) * factor])
        return find_tissue(self.pyramid, self.cutter.source_mpp, self.cutter.mpp * self.cutter.patch_px, unseen)

    def room(self) -> NDArray[np.int64]:
        """Return the largest corner (y, x) at which a window still lies in the image."""
        level = self.cutter.level
        size = self.size()
        room = np.array(level.shape) - size
        if (room < 0).any():
            raise ValueError(
                f"The image {self.image_key!r} of {self.name} is {level.shape[1]} x {level.shape[0]} px at level "
                f"{level.index}, smaller than one field of view ({size[1]} x {size[0]} px); ask for a smaller "
                "patch_px= or mpp=."
            )
        return room


def slides(
    data: Any,
    *,
    mpp: float,
    patch_px: int,
    source_mpp: float | None,
    image_key: str | None,
    coordinate_system: str | None,
    table_key: str,
) -> list[Slide]:
    """Resolve `data` into slides; a SpatialData needs no table here, only an image."""
    if isinstance(data, dict):
        items = list(data.items())
    elif isinstance(data, list | tuple):
        items = [(None, item) for item in data]
    else:
        items = [(None, data)]
    if not items:
        raise ValueError("`data` holds no section; pass a SpatialData or a list of them.")
    out = []
    for i, (name, sdata) in enumerate(items):
        if type(sdata).__name__ != "SpatialData":
            raise TypeError(f"A SpatialData with an image is needed, not {type(sdata).__name__}.")
        table, spots, key = None, None, image_key
        check_system(sdata, coordinate_system)
        if table_key in sdata.tables:
            table = sections(sdata, table_key=table_key)[0].table
            attrs = table.uns.get("spatialdata_attrs") or {}
            annotated = (
                set(table.obs[attrs["region_key"]].astype(str)) if attrs.get("region_key") in table.obs else set()
            )
            if annotated and annotated <= set(sdata.shapes):  # of labels or points there are no places to know
                spots = regions(table, sdata)
        system, scale, xy, region = coordinate_system, None, None, None
        if spots is not None and len(spots) == 1 and sdata.images:
            region, rows, at = spots[0]
            where = place(sdata, region, image_key, coordinate_system)
            key, system, scale = where.image_key, where.coordinate_system, where.scale
            xy = np.full((table.n_obs, 2), np.nan)
            xy[rows] = where.pixels(at)
        elif spots is not None and len(spots) > 1:
            raise ValueError(
                f"The table {table_key!r} annotates several regions: {[s[0] for s in spots]}; pass a list with one "
                "SpatialData a region (`sdata.filter_by_coordinate_system`, or `sdata.subset`)."
            )
        key = find_image(sdata, key, None if system is None else {system}, "this call")
        if system is None:
            system = sorted(_transformations(sdata.images[key]))[0]
        pyramid = levels(sdata, key)
        try:
            source = find_source_mpp(
                source_mpp,
                sdata,
                table,
                key,
                region=region,
                shape_scale=scale,
                at=None if xy is None else _lattice.indices(table),
                xy=xy,
            )
        except ValueError as error:
            if table is None and len(sdata.tables):
                raise ValueError(
                    f"{error} A table may tell, but there is none called {table_key!r}; there are {listing(sdata.tables)}: "
                    "pass table_key=."
                ) from error
            raise
        cutter = Cutter(pick_level(pyramid, mpp, source, key), patch_px, float(mpp), source)
        named = name or (table.uns.get(Key.SECTION) if table is not None else None) or sdata.attrs.get(Key.SECTION)
        out.append(Slide(str(named or region or f"section{i}"), table, key, system, cutter, pyramid, xy))
    return out
