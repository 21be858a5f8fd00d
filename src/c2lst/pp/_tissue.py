"""Where tissue lies in an H&E image, and the places a window may take."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ._image import Level
    from ._windows import Cutter

MASK_UM = 12.0  # um per pixel of the mask, or a quarter of the field of view where that is finer
SMOOTH_UM, CLOSE_UM, OPEN_UM, RIM_UM = 18.0, 36.0, 24.0, 36.0
HOLE_UM2 = 10_000.0  # smaller holes belong to the tissue, islands of less than that are dirt
MIN_ROUGH = 0.1  # share of an island of tissue that is textured
BRIGHT_OD = 0.3  # mean optical density (natural log) above which nothing is glass
FLAT_OD = 0.08  # an image whose densities differ less is of one kind


@dataclass(frozen=True)
class Tissue:
    """A mask of tissue, the picture it was found in, and the size of their pixels in pixels of level 0."""

    mask: NDArray[np.bool_]
    picture: NDArray[np.uint8]
    fy: float
    fx: float

    def share(self, cutter: Cutter, corners: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the share of tissue in each window with these corners (y, x, pixels of the cutter's level)."""
        from scipy.ndimage import map_coordinates

        total = np.pad(np.cumsum(np.cumsum(self.mask, axis=0, dtype=np.float64), axis=1), ((1, 0), (1, 0)))
        level = cutter.level
        ky, kx = level.fy / self.fy, level.fx / self.fx
        y0, x0 = corners[:, 0] * ky, corners[:, 1] * kx
        y1, x1 = y0 + cutter.axis(level.fy)[2] * ky, x0 + cutter.axis(level.fx)[2] * kx

        def upto(y, x):  # between its nodes the integral image of a mask is bilinear
            return map_coordinates(total, [y, x], order=1, mode="nearest")

        inside = upto(y1, x1) - upto(y0, x1) - upto(y1, x0) + upto(y0, x0)
        return inside / ((y1 - y0) * (x1 - x0))


def find_tissue(
    pyramid: list[Level], source_mpp: float, field_um: float, unseen: NDArray[np.float64] | None = None
) -> Tissue:
    """Tell tissue from glass: dense, or textured.

    Density alone takes the smooth halo of run-out eosin for tissue, or pale stroma for glass; texture alone misses flat
    dense tissue. Each gets Otsu's threshold on its square root, and the union is closed, opened and freed of dirt. An
    image without bright background is tissue everywhere.

    `unseen` are boxes `(n, 4)` y0, x0, y1, x1 (pixels of level 0) whose pixels have no say in any of this: what lies
    nearest to them is put in their place first.
    """
    import dask.array as da
    from scipy import ndimage as ndi
    from skimage.filters import threshold_otsu
    from skimage.morphology import remove_small_holes, remove_small_objects

    target = min(MASK_UM, field_um / 4) / source_mpp
    level = max((x for x in pyramid if max(x.fy, x.fx) <= target or x.index == 0), key=lambda x: x.fy)
    k = max(1, min(int(target / max(level.fy, level.fx)), *level.shape))
    small = da.coarsen(np.mean, level.data.astype(np.float32), {1: k, 2: k}, trim_excess=True).compute()
    if unseen is not None and len(unseen):
        small = _without(small, unseen / [level.fy * k, level.fx * k, level.fy * k, level.fx * k])
    density = -np.log((small + 1) / 256).mean(axis=0)
    um = source_mpp * k * (level.fy + level.fx) / 2
    sigma = max(SMOOTH_UM / um, 0.7)
    smooth = ndi.gaussian_filter(density, sigma)
    texture = np.sqrt(np.maximum(ndi.gaussian_filter(density**2, sigma) - smooth**2, 0))
    picture = np.rint(small).astype(np.uint8).transpose(1, 2, 0)

    def tissue(mask):
        return Tissue(mask, picture, level.fy * k, level.fx * k)

    whole = np.ones(density.shape, dtype=bool)
    low, high = np.percentile(smooth, [1, 99])
    if high - low < FLAT_OD:
        return tissue(whole if np.median(smooth) > BRIGHT_OD else ~whole)
    dense, rough = np.sqrt(np.maximum(smooth, 0)), np.sqrt(texture)
    dense, rough = dense > threshold_otsu(dense), rough > 0.9 * threshold_otsu(rough)
    mask = dense | rough
    # glass is bright and smooth; where the less dense class is neither, it is tissue too
    if mask.all() or np.median(smooth[~mask]) > BRIGHT_OD:
        return tissue(whole)
    edge = max(1, round(CLOSE_UM / um))
    mask = ndi.binary_closing(np.pad(mask, 2 * edge, mode="edge"), iterations=edge)
    # the edge of tissue is rough on its outer side too
    mask = (ndi.distance_transform_edt(mask) > RIM_UM / um) | np.pad(dense, 2 * edge, mode="edge")
    mask = ndi.binary_opening(mask, iterations=max(1, round(OPEN_UM / um)))[2 * edge : -2 * edge, 2 * edge : -2 * edge]
    area = int(HOLE_UM2 / um**2)
    mask = remove_small_objects(remove_small_holes(mask, max_size=area), max_size=area)
    islands, n = ndi.label(mask)
    # a blurred speck on the glass is dense and smooth
    real = np.flatnonzero(ndi.mean(rough, islands, np.arange(1, n + 1)) >= MIN_ROUGH) + 1
    mask = np.isin(islands, real)
    return tissue(mask)


def _without(small: NDArray[np.float32], boxes: NDArray[np.float64]) -> NDArray[np.float32]:
    from scipy.ndimage import distance_transform_edt

    hidden = np.zeros(small.shape[1:], dtype=bool)
    for y0, x0, y1, x1 in boxes:  # a pixel more on each side: factors of ragged levels are not exact
        hidden[max(0, int(y0) - 1) : int(np.ceil(y1)) + 1, max(0, int(x0) - 1) : int(np.ceil(x1)) + 1] = True
    if hidden.all():
        return np.full_like(small, 255)
    near = distance_transform_edt(hidden, return_distances=False, return_indices=True)
    return small[:, near[0], near[1]]


def free_of(
    cutter: Cutter, corners: NDArray[np.int64], taken: NDArray[np.int64], field: NDArray[np.float64] | None = None
) -> NDArray[np.bool_]:
    """Return which windows share no pixel with any of the windows at the corners `taken`.

    `field` is the height and width around the centres of those that is kept clear, if it is more than a window. On a
    coarser level they keep a pixel apart, for its pixels may lie up to one off where the sizes of levels are odd.
    """
    if not len(taken) or not len(corners):
        return np.ones(len(corners), dtype=bool)
    from scipy.spatial import cKDTree

    size = np.array([cutter.axis(cutter.level.fy)[2], cutter.axis(cutter.level.fx)[2]], dtype=float)
    if field is not None:  # of another size, cut apart: each may lie a pixel off its centre
        size += np.where(field > size, (field - size) / 2 + 1, 0)
    size += float(cutter.level.index > 0)
    distance, _ = cKDTree(taken / size).query(corners / size, k=1, p=np.inf)
    return distance >= 1 - 1e-9
