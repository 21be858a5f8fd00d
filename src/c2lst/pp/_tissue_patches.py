from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from c2lst._checks import check_fraction, check_positive, listing
from c2lst._docs import doc
from c2lst._logging import logger
from c2lst._random import generator

from ._slide import Slide, slides
from ._tissue import free_of
from ._windows import cut

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAX_PLACES = 1_000_000  # places that are looked at in one section
OFFSETS = 4  # shifts of the disjoint grid that are tried along each axis


@doc
def tissue_patches(
    sdata: Any,
    n: int | None = None,
    *,
    mpp: float,
    patch_px: int = 64,
    source_mpp: float | None = None,
    image_key: str | None = None,
    coordinate_system: str | None = None,
    min_tissue: float = 0.6,
    exclude: str | None = None,
    seed: int = 0,
    table_key: str = "table",
    max_ram_gb: float = 4.0,
) -> NDArray[np.uint8]:
    """Cut unpaired H&E from the tissue, sequenced or not: uint8 `(n, H, W, 3)`.

    Tissue is what is dense or textured, by Otsu's threshold on optical density at about 12 um per pixel; no table is
    needed. Several sections are concatenated in their order.

    Parameters
    ----------
    sdata
        A :class:`~spatialdata.SpatialData` with an image, or a list or dict of them.
    n
        Patches at random places, which may overlap; several sections share them evenly. `None` gives a disjoint grid.
    mpp
        Microns per pixel of the patches.
    patch_px
        Side of a patch in pixels.
    source_mpp
        Microns per pixel of the image at full resolution; `None` as in :func:`c2lst.pp.extract_patches`.
    image_key, coordinate_system
        As in :func:`c2lst.pp.extract_patches`.
    min_tissue
        Share of a window that must be tissue.
    exclude
        Boolean column of `obs`: no patch shares a pixel with the field of view of a spot where it is `True`, and what
        is seen there has no say in what is taken for tissue.
    {seed}
    {table_key}
    max_ram_gb
        Memory for pixels of the image.

    Raises
    ------
    ValueError
        If no place fits, or the scale is unknown or finer than the image.
    KeyError
        If there is no such column, image or coordinate system.

    Examples
    --------
    >>> import c2lst as c2l
    >>> sdata = c2l.datasets.toy_tissue(n_spots=16)
    >>> c2l.pp.tissue_patches(sdata, 5, mpp=4.0, patch_px=16).shape
    (5, 16, 16, 3)
    """
    found = windows(
        sdata,
        n,
        mpp=mpp,
        patch_px=patch_px,
        source_mpp=source_mpp,
        image_key=image_key,
        coordinate_system=coordinate_system,
        min_tissue=min_tissue,
        exclude=exclude,
        seed=seed,
        table_key=table_key,
    )
    return np.concatenate([pixels(slide, corners, max_ram_gb=max_ram_gb) for slide, corners in found])


def windows(
    sdata: Any,
    n: int | None = None,
    *,
    mpp: float,
    patch_px: int = 64,
    source_mpp: float | None = None,
    image_key: str | None = None,
    coordinate_system: str | None = None,
    min_tissue: float = 0.6,
    exclude: str | None = None,
    seed: int = 0,
    table_key: str = "table",
) -> list[tuple[Slide, NDArray[np.int64]]]:
    """Choose the windows of :func:`tissue_patches`: slides, and the corners `(n, 2)` y, x of their windows."""
    check_positive("mpp", mpp)
    check_positive("patch_px", patch_px, integer=True)
    check_fraction("min_tissue", min_tissue, zero=True)
    if n is not None:
        check_positive("n", n, integer=True)
    found = slides(
        sdata,
        mpp=mpp,
        patch_px=int(patch_px),
        source_mpp=source_mpp,
        image_key=image_key,
        coordinate_system=coordinate_system,
        table_key=table_key,
    )
    taken = [excluded(slide, exclude) for slide in found]
    out = []
    for i, (slide, spots) in enumerate(zip(found, taken, strict=True)):
        share = None if n is None else n // len(found) + (i < n % len(found))
        if share == 0:
            continue
        if share is None:
            corners = _grid(slide, spots, min_tissue)
        else:
            corners = _random(slide, spots, min_tissue, share, seed, i)
        if not len(corners):
            raise ValueError(
                f"No field of view of {mpp * patch_px:g} um fits in {slide.name}: none has {min_tissue:.0%} tissue"
                + (f" and keeps clear of the {len(spots)} spots of obs[{exclude!r}]" if exclude else "")
                + ". Lower min_tissue= or patch_px=, or look at the image."
            )
        out.append((slide, corners))
    return out


def pixels(slide: Slide, corners: NDArray[np.int64], *, max_ram_gb: float = 4.0) -> NDArray[np.uint8]:
    """Cut the windows of one slide: uint8 `(n, H, W, 3)`."""
    side = slide.cutter.patch_px
    patches = np.empty((len(corners), side, side, 3), dtype=np.uint8)
    for which, batch in cut(slide.cutter, corners, max_ram_gb=max_ram_gb):
        patches[which] = batch
    logger.info("%s: %d patches of unpaired tissue, %g um wide.", slide.name, len(corners), slide.cutter.mpp * side)
    return patches


def excluded(slide: Slide, exclude: str | None) -> NDArray[np.int64]:
    """Return the corners of the windows of the spots that are to be kept clear of."""
    if exclude is None:
        return np.empty((0, 2), dtype=np.int64)
    if slide.table is None or slide.xy is None:
        raise ValueError(f"{slide.name} has no table with places, so exclude={exclude!r} means nothing there.")
    if exclude not in slide.table.obs:
        raise KeyError(f"obs of {slide.name} has no column {exclude!r}; it has {listing(slide.table.obs.columns)}.")
    values = slide.table.obs[exclude]
    if values.isna().any() or not set(map(str, values.unique())) <= {"True", "False"}:
        raise TypeError(
            f"obs[{exclude!r}] of {slide.name} is not boolean (it has {listing(values.unique())}); make it one, e.g. "
            f"`table.obs['held_out'] = table.obs[{exclude!r}] != 'train'`."
        )
    mask = values.astype(str).to_numpy() == "True"
    return slide.cutter.corners(slide.xy[mask & np.isfinite(slide.xy).all(axis=1)])


def _random(
    slide: Slide, spots: NDArray[np.int64], min_tissue: float, n: int, seed: int, stream: int
) -> NDArray[np.int64]:
    rng = generator(seed, 21, stream)
    room, tissue = slide.room(), slide.tissue(spots)
    step = max(1, slide.size().min() // 8, int(np.ceil(np.sqrt(np.prod(room + 1.0) / MAX_PLACES))))

    def fits(at: NDArray[np.int64]) -> NDArray[np.bool_]:
        ok = (tissue.share(slide.cutter, at) >= min_tissue - 1e-9) & (at <= room).all(axis=1)
        ok[ok] = free_of(slide.cutter, at[ok], spots, slide.field())
        return ok

    start = rng.integers(0, np.minimum(step, room + 1))
    places = _lattice_of(start, room, step)
    places = places[fits(places)]
    if not len(places):
        places = _lattice_of(np.zeros(2, dtype=np.int64), room, step)
        places = places[fits(places)]
    if not len(places):
        return places
    # every place once before any comes again; moved within its cell, where that still fits
    rounds = [rng.permutation(len(places)) for _ in range(-(-n // len(places)))]
    at = places[np.concatenate(rounds)[:n]]
    moved = at + rng.integers(0, step, size=at.shape)
    return np.where(fits(moved)[:, None], moved, at)


def _grid(slide: Slide, spots: NDArray[np.int64], min_tissue: float) -> NDArray[np.int64]:
    room, tissue, size = slide.room(), slide.tissue(spots), slide.size()
    best = np.empty((0, 2), dtype=np.int64)
    for ky in range(OFFSETS):
        for kx in range(OFFSETS):
            at = _lattice_of(size * [ky, kx] // OFFSETS, room, size)
            at = at[tissue.share(slide.cutter, at) >= min_tissue - 1e-9]
            at = at[free_of(slide.cutter, at, spots, slide.field())]
            best = at if len(at) > len(best) else best
    return best


def _lattice_of(start: NDArray[np.int64], room: NDArray[np.int64], step: Any) -> NDArray[np.int64]:
    step = np.broadcast_to(step, 2)
    axes = [np.arange(s, r + 1, k) for s, r, k in zip(start, room, step, strict=True)]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2)
