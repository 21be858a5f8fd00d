"""Tissue for pretraining: whatever it comes as, patches to train on and patches of other tissue to look at."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from c2lst._checks import check_fraction, check_patches, check_positive
from c2lst._patches import open_store
from c2lst._random import generator

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from c2lst.train import Pool

MOST_HELD = 1000  # patches that are looked at
RUN = 256  # neighbouring rows of a store that are read together


@dataclass
class Tissue:
    """Patches to train on, patches held out, the side of a patch, and in words what is held out."""

    train: Pool
    held: NDArray[np.uint8]
    patch_px: int
    held_is: str


def gather(
    patches: Any,
    *,
    mpp: float,
    patch_px: int | None,
    n_per_section: int | None,
    validation: Any,
    tissue_kwargs: dict[str, Any] | None,
    seed: int,
) -> Tissue:
    """Resolve arrays, stores and SpatialData, one or many, into training tissue and held-out tissue."""
    from c2lst.train import Pool

    if isinstance(validation, float | int) and not isinstance(validation, bool):
        check_fraction("validation", validation)
        if validation >= 1:
            raise ValueError(f"validation={validation!r} leaves nothing to train on.")
        share, given = float(validation), None
    else:
        share, given = 0.0, validation
    if n_per_section is not None:
        check_positive("n_per_section", n_per_section, integer=True)
    arrays, sections = _parts(patches, mpp, "patches")
    held_arrays, held_sections = ([], []) if given is None else _parts(given, mpp, "validation")
    side = _side([*arrays, *held_arrays], patch_px, bool(sections or held_sections))
    how = {"mpp": mpp, "patch_px": side, "n_per_section": n_per_section, "tissue_kwargs": tissue_kwargs}
    train, held, said = [], [], []
    if arrays:
        pool = Pool(arrays)
        n_held = max(4, round(share * len(pool))) if share else 0
        cut = max(0, len(pool) - n_held)
        train.append(Pool(arrays, np.arange(cut)))
        if n_held:
            held.append(pool.take(_some(cut, len(pool))))
            said.append("the last rows")
    if sections:
        used, apart = _cut(sections, share=share, seed=seed, **how)
        train.append(Pool([used]))
        if share:
            held.append(apart)
            said.append("one end of each section, a field of view away from what is trained on")
    if given is not None:
        if held_arrays:
            pool = Pool(held_arrays)
            held.append(pool.take(_some(0, len(pool))))
        if held_sections:
            held.append(_cut(held_sections, share=0.0, seed=seed + 1, **how)[0])
        said.append("given")
    if len(train) > 1:
        whole = Pool([*train[0].parts, *train[1].parts], np.concatenate([train[0].rows, _after(train)]))
    else:
        whole = train[0]
    seen = np.concatenate(held)
    if len(whole) < 16:
        raise ValueError(
            f"{len(whole)} patches are too few to pretrain on ({len(seen)} are held out); take more from "
            "c2lst.pp.tissue_patches, or a larger n_per_section=."
        )
    return Tissue(whole, seen[np.unique(_some(0, len(seen)))], side, "; ".join(said))


def in_memory(pool: Pool, max_ram_gb: float, seed: int) -> Pool:
    """Read a pool that lies in stores, once; where it is larger than the limit, as many runs of rows as fit."""
    from c2lst.train import Pool

    if pool.in_memory:
        return pool
    fits = max(1, int(max_ram_gb * 1e9 * len(pool) / pool.nbytes))
    rows = np.arange(len(pool))
    if fits < len(pool):
        runs = np.array_split(rows, -(-len(pool) // RUN))
        chosen = np.sort(generator(seed, 3).permutation(len(runs))[: max(1, fits // RUN)])
        rows = np.concatenate([runs[i] for i in chosen])
    out = np.empty((len(rows), *pool.shape[1:]), dtype=np.uint8)
    for start in range(0, len(rows), 4 * RUN):
        out[start : start + 4 * RUN] = pool.take(rows[start : start + 4 * RUN])
    return Pool([out])


def _after(train: list[Pool]) -> NDArray[np.int64]:
    return int(train[0].starts[-1]) + np.arange(len(train[1]))


def _some(start: int, stop: int) -> NDArray[np.int64]:
    return np.linspace(start, stop - 1, min(MOST_HELD, stop - start)).round().astype(np.int64)


def _parts(patches: Any, mpp: float, name: str) -> tuple[list[Any], list[Any]]:
    """Sort what is given into arrays (or stores of them) and SpatialData."""
    # a store as `io.read_patches` returns it is a named tuple, not a list of parts
    if isinstance(patches, dict):
        items = list(patches.values())
    elif isinstance(patches, list | tuple) and not hasattr(patches, "patches"):
        items = list(patches)
    else:
        items = [patches]
    if not items:
        raise ValueError(f"{name} is empty; pass patches, a store of them or a SpatialData.")
    arrays, sections = [], []
    for item in items:
        if type(item).__name__ == "SpatialData":
            sections.append(item)
            continue
        stored = open_store(item) if isinstance(item, str | Path) else item
        meta = stored[2] if isinstance(item, str | Path) else getattr(stored, "meta", None)
        array = stored[0] if isinstance(item, str | Path) else getattr(stored, "patches", stored)
        if meta is not None and abs(float(meta["mpp"]) - mpp) > 1e-6 * mpp:
            raise ValueError(f"A store of {name} is at {meta['mpp']:g} um/px, not at mpp={mpp:g}.")
        arrays.append(check_patches(array, name))
    return arrays, sections


def _side(arrays: list[Any], patch_px: int | None, cuts: bool) -> int:
    sides = {tuple(a.shape[1:3]) for a in arrays}
    if len(sides) > 1 or len({s for side in sides for s in side}) > 1:
        raise ValueError(f"All patches must be square and of one size, not {sorted(sides)}.")
    if patch_px is not None:
        check_positive("patch_px", patch_px, integer=True)
    side = next(iter(sides))[0] if sides else int(patch_px or 64)
    if patch_px is not None and side != patch_px:
        raise ValueError(
            f"The patches have a side of {side} px, not patch_px={patch_px}; patch_px= says what is cut from a "
            f"SpatialData{', which must be of the same size' if cuts else ''}."
        )
    if side % 8:
        raise ValueError(f"The side of a patch must be a multiple of 8 px, not {side}.")
    return int(side)


def _cut(
    sections: list[Any],
    *,
    share: float,
    mpp: float,
    patch_px: int,
    n_per_section: int | None,
    tissue_kwargs: dict[str, Any] | None,
    seed: int,
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Cut windows as `pp.tissue_patches` chooses them; of each section, those at one end are held out."""
    from c2lst.pp._tissue_patches import pixels, windows

    extra = dict(tissue_kwargs or {})
    ram = {"max_ram_gb": extra.pop("max_ram_gb")} if "max_ram_gb" in extra else {}
    n = None if n_per_section is None else n_per_section * len(sections)
    used, held = [], []
    for slide, corners in windows(sections, n, mpp=mpp, patch_px=patch_px, seed=seed, **extra):
        far, near = apart(corners, slide.size(), share) if share else (np.zeros(len(corners), bool), None)
        near = ~far if near is None else near
        if not near.any():
            raise ValueError(
                f"{slide.name} is too small to hold out tissue of its own: {len(corners)} windows of "
                f"{mpp * patch_px:g} um. Pass other tissue as validation=, or a smaller patch_px=."
            )
        cut = pixels(slide, corners[near | far], **ram)
        used.append(cut[near[near | far]])
        held.append(cut[far[near | far]])
    return np.concatenate(used), np.concatenate(held)


def apart(
    corners: NDArray[np.int64], size: NDArray[np.int64], share: float
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Divide windows by a line across the longer axis: which lie beyond it, and which a window's side before it.

    The rest, between the two, belongs to neither.
    """
    axis = int(np.argmax(np.ptp(corners, axis=0)))
    at = corners[:, axis]
    line = np.sort(at)[-max(1, round(share * len(at)))]
    return at >= line, at + 2 * size[axis] <= line
