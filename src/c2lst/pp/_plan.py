"""What is to be cut for one section, worked out and checked before any pixel is read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from c2lst._checks import listing
from c2lst._keys import Key
from c2lst._logging import logger
from c2lst._notes import jsonable

from . import _lattice
from ._geometry import place, regions
from ._image import levels, pick_level
from ._scale import find_source_mpp
from ._windows import Cutter, cut, reading_order

if TYPE_CHECKING:
    from collections.abc import Iterator

    from anndata import AnnData
    from numpy.typing import NDArray

    from c2lst._resolve import Section

MIN_INSIDE = 0.5  # share of a field of view that must lie in the image


@dataclass
class Plan:
    """What is cut for one region of a table: rows, windows and recipe."""

    cutter: Cutter
    rows: NDArray[np.int64]
    corners: NDArray[np.int64]
    image_key: str
    coordinate_system: str
    spatial_mpp: float | None  # um per unit of obsm["spatial"], where that is proportional to places in the image
    region: str
    of_region: NDArray[np.int64]  # all rows of the region, and where they lie in the image (pixels of level 0)
    xy: NDArray[np.float64]


def make_plan(
    section: Section,
    mpp: float,
    patch_px: int,
    image_key: str | dict[str, str] | None,
    coordinate_system: str | None,
    source_mpp: float | None,
) -> list[Plan]:
    out, outside, nowhere = [], 0, 0
    at = _lattice.indices(section.table)
    found = regions(section.table, section.sdata)
    images = _images(image_key, [name for name, *_ in found])
    for region, rows, xy in found:
        where = place(section.sdata, region, images[region], coordinate_system, regions=list(images))
        pyramid = levels(section.sdata, where.image_key)
        xy = where.pixels(xy)
        scale = find_source_mpp(
            source_mpp,
            section.sdata,
            section.table,
            where.image_key,
            region=region,
            shape_scale=where.scale,
            at=None if at is None else at[rows],
            xy=xy,
        )
        cutter = Cutter(pick_level(pyramid, mpp, scale, where.image_key), patch_px, float(mpp), scale)
        known = np.isfinite(xy).all(axis=1)
        corners = np.zeros((len(rows), 2), dtype=np.int64)
        corners[known] = cutter.corners(xy[known])
        inside = known & (cutter.inside(corners) >= MIN_INSIDE)
        if not inside.any():
            height, width = pyramid[0].shape
            low, high = np.nanmin(xy, axis=0), np.nanmax(xy, axis=0)
            within = (xy[known] >= 0).all(axis=1) & (xy[known] <= [width, height]).all(axis=1)
            if within.any():
                raise ValueError(
                    f"A field of view of {mpp * patch_px:g} um ({mpp * patch_px / scale:.0f} px) is more than half outside the image "
                    f"{where.image_key!r} ({width} x {height} px, {scale:g} um/px) at every spot; lower mpp= or patch_px=."
                )
            raise ValueError(
                f"No spot of {region!r} lies in the image {where.image_key!r}: spots run over x {low[0]:.0f} to "
                f"{high[0]:.0f}, y {low[1]:.0f} to {high[1]:.0f}, the image over {width} x {height} px (through the "
                f"coordinate system {where.coordinate_system!r}). Mend the transformation, or name another image_key= "
                "or coordinate_system=."
            )
        nowhere += int((~known).sum())
        outside += int((known & ~inside).sum())
        # where nothing says where spots lie, their places in the image are written
        bare = Key.obsm.SPATIAL not in section.table.obsm
        spatial = scale if bare else _spatial_mpp(section.table, rows, xy * scale)
        out.append(
            Plan(
                cutter,
                rows[inside],
                corners[inside],
                where.image_key,
                where.coordinate_system,
                spatial,
                region,
                rows,
                xy,
            )
        )
    logger.info(
        "%s: %d patches of %d px at %g um/px, a field of view of %g um, from level %s of %s (%s um/px).",
        section.name,
        sum(len(p.rows) for p in out),
        patch_px,
        mpp,
        mpp * patch_px,
        _one([p.cutter.level.index for p in out]),
        _one([p.image_key for p in out]),
        _one([round(p.cutter.source_mpp, 4) for p in out]),
    )
    if nowhere or outside:
        logger.warning(
            "%s: %d of %d spots get obs['%s'] = False: %d have no shape or position, %d lie mostly outside the image.",
            section.name,
            nowhere + outside,
            section.table.n_obs,
            Key.obs.VALID,
            nowhere,
            outside,
        )
    return out


def _images(image_key: str | dict[str, str] | None, names: list[str]) -> dict[str, str | None]:
    """Return the image that is named for each region."""
    if not isinstance(image_key, dict):
        return dict.fromkeys(names, image_key)
    if set(image_key) != set(names):
        raise KeyError(
            f"image_key= names images for {listing(image_key)}, the table annotates the regions {listing(names)}; name one for each."
        )
    return {name: image_key[name] for name in names}


def _spatial_mpp(table: AnnData, rows: NDArray[np.int64], um: NDArray[np.float64]) -> float | None:
    """Return um per unit of `obsm["spatial"]`; `None` where it is not the same places but for a shift and a scale."""
    if Key.obsm.SPATIAL not in table.obsm:
        return None
    xy = np.asarray(table.obsm[Key.obsm.SPATIAL], dtype=float)[rows, :2]
    known = np.isfinite(xy).all(axis=1) & np.isfinite(um).all(axis=1)
    if known.sum() < 2:
        return None
    xy, um = xy[known] - xy[known].mean(axis=0), um[known] - um[known].mean(axis=0)
    square = float((xy**2).sum())
    scale = float((xy * um).sum()) / square if square > 0 else 0.0
    off = np.abs(um - scale * xy).max()
    return scale if scale > 0 and off <= 0.01 * np.abs(um).max() else None


def _one(values: list[Any]) -> Any:
    return values[0] if len(set(values)) == 1 else list(values)


def plan_meta(plan: list[Plan], path: str | None) -> dict[str, Any]:
    cutter = plan[0].cutter
    return jsonable(
        {
            "mpp": cutter.mpp,
            "source_mpp": _one([p.cutter.source_mpp for p in plan]),
            "patch_px": cutter.patch_px,
            "field_um": cutter.mpp * cutter.patch_px,
            "image_key": _one([p.image_key for p in plan]),
            "coordinate_system": _one([p.coordinate_system for p in plan]),
            "level": _one([p.cutter.level.index for p in plan]),
            "store": path,
            # by which a list above is read: rows may be left out or reordered later
            **({"regions": [p.region for p in plan]} if len(plan) > 1 else {}),
        }
    )


def spatial_mpp(plan: list[Plan]) -> dict[str, float]:
    """Return `{"spatial_mpp": um per unit of obsm["spatial"]}`, empty where it has no one scale."""
    found = [p.spatial_mpp for p in plan]
    if any(f is None for f in found) or max(found) > 1.001 * min(found):
        return {}
    return {"spatial_mpp": float(found[0])}


def plan_batches(plan: list[Plan], skip: int, **how: Any) -> Iterator[tuple[NDArray[np.int64], NDArray[np.uint8]]]:
    for part in plan:
        order = reading_order(part.cutter, part.corners)
        left = np.sort(order[min(skip, len(order)) :])  # the rest keeps its order among itself
        skip = max(0, skip - len(order))
        for which, patches in cut(part.cutter, part.corners[left], **how):
            yield part.rows[left[which]], patches
