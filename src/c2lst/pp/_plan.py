"""What is to be cut for one section, worked out and checked before any pixel is read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

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


def make_plan(
    section: Section,
    mpp: float,
    patch_px: int,
    image_key: str | None,
    coordinate_system: str | None,
    source_mpp: float | None,
) -> list[Plan]:
    out, outside, nowhere = [], 0, 0
    at = _lattice.indices(section.table)
    for region, rows, xy in regions(section.table, section.sdata):
        where = place(section.sdata, region, image_key, coordinate_system)
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
            raise ValueError(
                f"No spot of {region!r} lies in the image {where.image_key!r}: spots run over x {low[0]:.0f} to "
                f"{high[0]:.0f}, y {low[1]:.0f} to {high[1]:.0f}, the image over {width} x {height} px (through the "
                f"coordinate system {where.coordinate_system!r}). Mend the transformation, or name another image_key= "
                "or coordinate_system=."
            )
        nowhere += int((~known).sum())
        outside += int((known & ~inside).sum())
        out.append(Plan(cutter, rows[inside], corners[inside], where.image_key, where.coordinate_system))
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
        }
    )


def plan_batches(plan: list[Plan], skip: int, **how: Any) -> Iterator[tuple[NDArray[np.int64], NDArray[np.uint8]]]:
    for part in plan:
        order = reading_order(part.cutter, part.corners)
        left = np.sort(order[min(skip, len(order)) :])  # the rest keeps its order among itself
        skip = max(0, skip - len(order))
        for which, patches in cut(part.cutter, part.corners[left], **how):
            yield part.rows[left[which]], patches
