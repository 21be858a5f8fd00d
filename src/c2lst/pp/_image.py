"""Levels of an image pyramid, checked and with factors measured from their shapes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from c2lst._checks import listing
from c2lst._logging import logger

if TYPE_CHECKING:
    from spatialdata import SpatialData

TOLERANCE = 1e-3  # a level this little too coarse is taken as it is
RAGGED = 0.01  # levels whose factors along x and y differ more are passed over


@dataclass(frozen=True)
class Level:
    """One level: dask array `(3, y, x)` of uint8 and its size in pixels of level 0 (`fy`, `fx`)."""

    index: int
    data: Any
    fy: float
    fx: float

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width in pixels of this level."""
        return self.data.shape[1:]


def levels(sdata: SpatialData, image_key: str) -> list[Level]:
    """Return the levels of an image, finest first; refuse what is not RGB in uint8, with the call that converts it."""
    element = sdata.images[image_key]
    if hasattr(element, "dtype"):
        arrays = [element]
    else:
        names = sorted((n for n in element.children if n.startswith("scale")), key=lambda n: int(n[5:]))
        arrays = [next(iter(element[name].ds.data_vars.values())) for name in names]
    first = arrays[0]
    if tuple(first.dims) != ("c", "y", "x"):
        raise ValueError(f"The image {image_key!r} has dimensions {first.dims}; patches need ('c', 'y', 'x').")
    _check_dtype(first, image_key)
    channels = _channels(arrays, image_key)
    out = []
    for i, array in enumerate(arrays):
        data = _dask(array)
        if channels != list(range(data.shape[0])):
            data = data[channels]
        out.append(Level(i, data, first.shape[1] / data.shape[1], first.shape[2] / data.shape[2]))
    return out


def _dask(array: Any) -> Any:
    import dask.array as da

    return array.data if hasattr(array.data, "dask") else da.from_array(np.asarray(array.data))


def _check_dtype(array: Any, image_key: str) -> None:
    if array.dtype == np.uint8:
        return
    if np.issubdtype(array.dtype, np.floating):
        how = "if it runs from 0 to 1, `(image * 255).round().astype('uint8')`"
    elif array.dtype == np.uint16:
        how = "if it uses all 16 bits, `(image // 257).astype('uint8')`; look at its maximum first"
    else:
        how = "`image.astype('uint8')` after bringing it to 0..255"
    raise TypeError(
        f"The image {image_key!r} is {array.dtype}, patches are uint8 RGB. Convert it knowingly and parse it anew "
        f"under another name with `spatialdata.models.Image2DModel.parse`: {how}."
    )


def _channels(arrays: list[Any], image_key: str) -> list[int]:
    names = [str(c).lower() for c in arrays[0].coords["c"].values] if "c" in arrays[0].coords else []
    n = arrays[0].shape[0]
    fix = "`spatialdata.models.Image2DModel.parse(image.sel(c=[...three of them...]), c_coords=['r', 'g', 'b'])`"
    if n == 3:
        for colours in (["r", "g", "b"], ["red", "green", "blue"]):
            if set(names) == set(colours):
                return [names.index(c) for c in colours]
        if any(not re.search(r"\d", name) for name in names):
            logger.warning(
                "The channels of the image %r are called %s; they are taken for red, green and blue, in this order. If they "
                "are stains, this is no H&E. Name them 'r', 'g', 'b' if they are right.",
                image_key, listing(names),
            )  # fmt: skip
        return [0, 1, 2]
    if n == 4 and set(names) == set("rgba"):
        alpha = int(_dask(arrays[-1])[names.index("a")].min().compute())
        if alpha == 255:  # opaque everywhere: nothing is lost with it
            return [names.index(c) for c in "rgb"]
        raise ValueError(
            f"The image {image_key!r} is RGBA and not opaque (alpha goes down to {alpha}); what lies behind it is not "
            f"known. Blend it onto white yourself, then {fix}."
        )
    if n == 1:
        raise ValueError(
            f"The image {image_key!r} is grey (1 channel), patches are RGB; if that is meant, repeat the channel: "
            "`spatialdata.models.Image2DModel.parse(numpy.repeat(image.values, 3, axis=0), dims=('c', 'y', 'x'))`."
        )
    raise ValueError(f"The image {image_key!r} has {n} channels {listing(names)}, patches are RGB. Choose: {fix}.")


def pick_level(found: list[Level], mpp: float, source_mpp: float, image_key: str) -> Level:
    """Return the coarsest level that still needs no upsampling to `mpp`."""
    if mpp < source_mpp * (1 - TOLERANCE):
        raise ValueError(
            f"mpp={mpp:g} um/px is finer than the image {image_key!r} ({source_mpp:.4g} um/px); upsampling makes up "
            f"pixels. Ask for mpp={np.ceil(source_mpp * 1000) / 1000:g} or more, or name a finer image with image_key=."
        )
    fit = [
        level
        for level in found
        if source_mpp * max(level.fy, level.fx) * (1 - TOLERANCE) <= mpp and abs(level.fy / level.fx - 1) <= RAGGED
    ]
    return max(fit, key=lambda level: level.fy) if fit else found[0]
