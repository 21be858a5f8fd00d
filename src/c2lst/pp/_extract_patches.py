from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np

from c2lst._checks import check_choice, check_positive, listing
from c2lst._docs import doc
from c2lst._keys import Key
from c2lst._logging import progress
from c2lst._notes import notes, record
from c2lst._patches import valid_mask
from c2lst._resolve import Section, sections

from ._copying import duplicate
from ._plan import Plan, make_plan, plan_batches, plan_meta, spatial_mpp
from ._windows import PADS, WHITE, cut, reading_order

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray


@doc
def extract_patches(
    sdata: Any,
    *,
    mpp: float,
    patch_px: int = 64,
    table_key: str = "table",
    image_key: str | dict[str, str] | None = None,
    coordinate_system: str | None = None,
    source_mpp: float | None = None,
    pad: str = "reflect",
    max_ram_gb: float = 4.0,
    store: str | Path | None = None,
    key_added: str = Key.obsm.PATCHES,
    copy: bool = False,
) -> Any:
    """Cut the H&E around every spot, at a known physical size: uint8 `(n_obs, H, W, 3)` in the order of the table.

    Shapes are brought into the image through their coordinate system; windows are cut at whole pixels from the
    coarsest pyramid level that needs no upsampling, and resized by area. Rows find their shapes by instance id.

    Parameters
    ----------
    sdata
        A :class:`~spatialdata.SpatialData` with an image in RGB, or a list or dict of them.
    mpp
        Microns per pixel of the patches.
    patch_px
        Side of a patch in pixels; the field of view is `mpp * patch_px` um.
    {table_key}
    image_key
        Image to cut from; needed where several lie in the coordinate system of the shapes. `{region: image}` where the
        regions of one table have images of their own.
    coordinate_system
        Where shapes and image meet; needed where they meet in several that disagree.
    source_mpp
        Microns per pixel of this image at its first level (of a "hires" image its own, not that of the scan it was made from).
        A warning says where the pitch of the array contradicts. `None` takes what is stored on the object
        (`uns["c2lst"]["source_mpp"]`, `attrs["c2lst_source_mpp"]`, what an earlier call was told, `microns_per_pixel` of
        Visium HD), then the pitch of the array, see :func:`c2lst.pp.infer_mpp`.
    pad
        What lies beyond the edge of the image: `"reflect"`, `"edge"`, or `"white"` (`"constant"`).
    max_ram_gb
        Memory for pixels of the image; every dask chunk is read once, as many at a time as fit.
    store
        Directory of a zarr store the patches go into instead of `obsm`, chunk by chunk; a call that was interrupted
        goes on there. Several sections get a store each in it, under their names.
    key_added
        Key in `obsm`.
    {copy}

    Returns
    -------
    `None`, or the copy. Sets the following fields of the table:

    `obsm[key_added]`
        uint8 `(n_obs, H, W, 3)`, unless `store` is given.
    `obs["c2lst_valid"]`
        False where a row has no shape or position, or more than half of its field of view is outside the image; its
        patch is white. This is of the last call; where a table has patches under several keys, the tools read
        `obs["c2lst_valid_<key>"]`.
    `uns["c2lst"]["patches"][key_added]`
        `mpp`, `source_mpp`, `patch_px`, `field_um`, `image_key`, `coordinate_system`, `level`, `store`; a list where
        the regions of one table differ, in the order of `regions`.
    `obsm["spatial"]`
        x, y in pixels of the image, if the table has no such entry.
    `uns["c2lst"]["spatial_mpp"]`
        um per unit of `obsm["spatial"]`, where that has one scale; it may be in pixels of another resolution than the image.

    Raises
    ------
    ValueError
        If the scale is unknown or finer than the image, shapes are rotated or stretched against the image, several
        images fit, or none; all before anything is written.
    TypeError
        If the image is not uint8. An alpha channel is dropped only where it is opaque everywhere.

    Examples
    --------
    >>> import c2lst as c2l
    >>> sdata = c2l.datasets.toy_tissue(n_spots=16)
    >>> c2l.pp.extract_patches(sdata, mpp=4.0, patch_px=16)
    >>> sdata["table"].obsm["patches"].shape
    (16, 16, 16, 3)
    """
    check_positive("mpp", mpp)
    check_positive("patch_px", patch_px, integer=True)
    check_positive("max_ram_gb", max_ram_gb)
    check_choice("pad", pad, PADS)
    if copy:
        sdata = duplicate(sdata)
    found = sections(sdata, table_key=table_key)
    without = [s.name for s in found if s.sdata is None]
    if without:
        raise TypeError(
            f"Section {listing(without)} is an AnnData, which has no image to cut from; pass the SpatialData "
            f"(`spatialdata_io` reads one), or write obsm[{key_added!r}] and uns['c2lst'] = {{'patches': {{{key_added!r}: "
            "{'mpp': ..., 'patch_px': ...}}} yourself."
        )
    plans = [make_plan(s, mpp, int(patch_px), image_key, coordinate_system, source_mpp) for s in found]
    paths = [None if store is None else _store_path(store, s, len(found)) for s in found]
    params = {"mpp": mpp, "patch_px": patch_px, "pad": pad, "table_key": table_key}
    done = []
    for section, plan, path in zip(found, plans, paths, strict=True):
        valid = np.zeros(section.table.n_obs, dtype=bool)
        for part in plan:
            valid[part.rows] = True
        patches = _collect(section, plan, path, pad=pad, max_ram_gb=max_ram_gb, params=params)
        done.append((section, plan, path, valid, patches))
    for section, plan, path, valid, patches in done:
        _write(section, plan, path, valid, patches, key_added, params)
    return sdata if copy else None


def _store_path(store: str | Path, section: Section, n: int) -> str:
    # absolute: it must still be found after a change of the working directory
    path = os.path.abspath(os.fspath(store))
    return path if n == 1 else os.path.join(path, section.name)


def _collect(section: Section, plan: list[Plan], path: str | None, *, params: dict, **how: Any):
    n, px = section.table.n_obs, plan[0].cutter.patch_px
    white = np.full((px, px, 3), WHITE, dtype=np.uint8)
    total = sum(len(part.rows) for part in plan)
    with progress(total=total, desc=f"patches of {section.name}", unit="patch") as bar:
        if path is None:
            out = np.empty((n, px, px, 3), dtype=np.uint8)
            out[:] = white
            for rows, patches in plan_batches(plan, 0, **how):
                out[rows] = patches
                bar.update(len(rows))
            return out
        from c2lst.io._writer import PatchWriter

        # rows of the store in the order of reading, so that it can be written and resumed chunk by chunk
        order = np.concatenate([part.rows[reading_order(part.cutter, part.corners)] for part in plan])
        rest = np.setdiff1d(np.arange(n), order)
        names = section.table.obs_names[np.concatenate([order, rest])]
        where = [[int(c) for c in corner] for corner in np.concatenate([p.corners for p in plan])]
        meta = {**plan_meta(plan, None), "pad": params["pad"], "section": section.name, "places": _digest(where)}
        writer = PatchWriter(path, list(names), (px, px, 3), meta)
        if writer.done:
            _check_same_image(plan, path, how)
        bar.update(min(writer.done, total))
        for rows, patches in plan_batches(plan, writer.done, **how):
            writer.append(patches)
            bar.update(len(rows))
        blank = 0 if writer.complete else n - max(total, writer.done + writer.held)
        for start in range(0, blank, 256):
            writer.append(np.repeat(white[None], min(256, blank - start), axis=0))
        writer.close()
    return None


def _check_same_image(plan: list[Plan], path: str, how: dict[str, Any]) -> None:
    """Cut the first patch of a store again: places and scale may agree although the image was exchanged."""
    import zarr

    part = plan[0]
    first = reading_order(part.cutter, part.corners)[:1]
    _, again = next(cut(part.cutter, part.corners[first], **how))
    there = np.asarray(zarr.open_group(path, mode="r")["patches"][0])
    if np.abs(there.astype(int) - again[0]).max() > 1:
        raise ValueError(
            f"The patch store {path!r} was written from another image than {part.image_key!r} is now. Give another "
            "store=, or remove that directory."
        )


def _digest(places: list[list[int]]) -> str:
    from hashlib import sha256

    return sha256(repr(places).encode()).hexdigest()


def _write(
    section: Section,
    plan: list[Plan],
    path: str | None,
    valid: NDArray[np.bool_],
    patches: NDArray[np.uint8] | None,
    key: str,
    params: dict[str, Any],
) -> None:
    table = section.table
    if patches is not None:
        table.obsm[key] = patches
    elif key in table.obsm:
        del table.obsm[key]  # the store holds them now; two answers to one question would be one too many
    here = notes(table)
    # what other patches say of the spots stays theirs
    for other in set(here.get("patches", {})) - {key}:
        if f"{Key.obs.VALID}_{other}" not in table.obs:
            section.write_obs(f"{Key.obs.VALID}_{other}", valid_mask(table, other))
    section.write_obs(Key.obs.VALID, valid)
    if key != Key.obsm.PATCHES or f"{Key.obs.VALID}_{key}" in table.obs:
        section.write_obs(f"{Key.obs.VALID}_{key}", valid)
    if Key.obsm.SPATIAL not in table.obsm:
        places = np.full((table.n_obs, 2), np.nan)
        for part in plan:
            places[part.of_region] = part.xy
        table.obsm[Key.obsm.SPATIAL] = places
    here["patches"] = {**here.get("patches", {}), key: plan_meta(plan, path)}
    here.pop("spatial_mpp", None)
    here.update(spatial_mpp(plan))
    record(table, "extract_patches", **params, key_added=key, store=path)
