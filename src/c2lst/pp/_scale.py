"""Microns per pixel of an image at full resolution: told, stored on the object, or from the pitch of the array."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np

from c2lst._checks import check_positive
from c2lst._keys import Key
from c2lst._logging import logger

from . import _lattice

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray
    from spatialdata import SpatialData

ATTR = "c2lst_source_mpp"
FIX = (
    "pass source_mpp= (um per pixel of the image at full resolution), store it as "
    f"sdata.attrs[{ATTR!r}] = {{image: um per pixel}}, or give `c2lst.pp.infer_mpp` the pitch of the array"
)


def find_source_mpp(
    given: float | None,
    sdata: SpatialData,
    table: AnnData | None,
    image_key: str,
    *,
    region: str | None = None,
    shape_scale: float | None = None,
    at: NDArray[np.float64] | None = None,
    xy: NDArray[np.float64] | None = None,
    check: bool = True,
) -> float:
    """Return microns per pixel (level 0) of an image; raise `ValueError` where nothing tells.

    `shape_scale` is pixels of the image per unit of the shapes, `at` array indices and `xy` positions in the image. What
    was told is compared with the pitch of the array, and a warning says where they differ, unless `check` is off.
    """
    if given is not None:
        check_positive("source_mpp", given)
        value, told = float(given), "as source_mpp= says"
    else:
        value, told = _stored(sdata, table, image_key)
    if value is None and shape_scale is not None:
        per_pixel = _microns_per_pixel(sdata, table)
        # SpaceRanger means pixels of the full-resolution image, and the shapes are drawn in them
        value = None if per_pixel is None else per_pixel / shape_scale
    if value is None and at is not None and xy is not None:
        value, kind, pitch = _by_pitch(at, xy, region)
        logger.info("%s: %s array, pitch %.2f px: %.4f um per pixel.", image_key, kind, pitch, value)
    if told and check and at is not None and xy is not None:
        check_positive("the stored source mpp", value)
        try:
            usual, kind, pitch = _by_pitch(at, xy, region)
        except ValueError:  # no array whose pitch is known
            usual, kind, pitch = value, "", 1.0
        if abs(value / usual - 1) > 0.02:
            logger.warning(
                "%s: %.4f um per pixel, %s; were its %s array one of %g um, it would be %.4f. It must be that of this very "
                "image, not of a larger one it was made from. If the pitch is right, pass source_mpp=%.4f.",
                image_key, value, told, kind, usual * pitch, usual, usual,
            )  # fmt: skip
    if value is None:
        raise ValueError(f"Nothing says how many microns a pixel of the image {image_key!r} is; {FIX}.")
    check_positive("the stored source mpp", value)
    return float(value)


def _by_pitch(at: NDArray[np.float64], xy: NDArray[np.float64], region: str | None) -> tuple[float, str, float]:
    """Return um per pixel by the pitch of the array, the lattice, and the pitch in pixels."""
    pitch, kind = _lattice.fit_pitch(at, xy)
    return _lattice.default_pitch(kind, at, bin_width(region)) / pitch, kind, pitch


def _stored(sdata: SpatialData, table: AnnData | None, image_key: str) -> tuple[float | None, str]:
    """Return what is stored, and who says it."""
    mine = (table.uns.get(Key.UNS) or {}) if table is not None else {}
    for where, value in ((f"uns['{Key.UNS}']['source_mpp']", mine.get("source_mpp")), (ATTR, sdata.attrs.get(ATTR))):
        if isinstance(value, dict):
            value = value.get(image_key)
        elif value is not None and not isinstance(value, str) and len(sdata.images) > 1:
            logger.warning(
                "%s = %s does not say which of the images %s it is of, so it is not used; store {image: um per pixel}.",
                where,
                value,
                list(sdata.images),
            )
            value = None
        if value is not None and not isinstance(value, str):
            return float(value), f"as {where} says"
    # what an earlier call was told about this very image
    earlier = {
        float(p["source_mpp"])
        for p in (mine.get("patches") or {}).values()
        if np.ndim(p.get("source_mpp", [])) == 0 and str(p.get("image_key")) == image_key
    }
    return (earlier.pop(), "as an earlier call was told") if len(earlier) == 1 else (None, "")


def _microns_per_pixel(sdata: SpatialData, table: AnnData | None) -> float | None:
    for where in (table.uns.get("spatial") if table is not None else None, dict(sdata.attrs)):
        found = set(_search(where, "microns_per_pixel"))
        if len(found) == 1:
            return found.pop()
    return None


def _search(tree: Any, key: str) -> list[float]:
    if not isinstance(tree, dict):
        return []
    out = [float(tree[key])] if isinstance(tree.get(key), int | float | np.number) else []
    return out + [v for branch in tree.values() for v in _search(branch, key)]


def bin_width(region: str | None) -> float | None:
    """Return the bin width in um that a Visium HD region says in its name (`..._square_008um`)."""
    found = re.search(r"square_(\d{3})um", region or "")
    return float(found.group(1)) if found else None
