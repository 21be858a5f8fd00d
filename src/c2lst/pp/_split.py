from __future__ import annotations

from typing import TYPE_CHECKING, Any
from zlib import crc32

import numpy as np
import pandas as pd

from c2lst._checks import check_choice, check_fraction, check_positive, listing
from c2lst._docs import doc
from c2lst._keys import Key
from c2lst._logging import logger
from c2lst._notes import record
from c2lst._patches import patch_meta
from c2lst._random import generator
from c2lst._resolve import Section, sections

from ._copying import duplicate
from ._positions import positions_um

if TYPE_CHECKING:
    from numpy.typing import NDArray

PARTS = ("train", "test", "gap")


@doc
def split(
    data: Any,
    *,
    by: str = "block",
    key: str | None = None,
    test_size: float = 0.2,
    gap_um: float | None = None,
    seed: int = 0,
    key_added: str = Key.obs.SPLIT,
    patch_key: str = Key.obsm.PATCHES,
    source_mpp: float | None = None,
    table_key: str = "table",
    library_key: str | None = None,
    copy: bool = False,
) -> Any:
    """Set spots aside for testing such that no patch for training shares a pixel with a patch for testing.

    A random split of spots inside a slide is not offered: neighbouring patches overlap, and neighbouring spots are
    alike.

    Parameters
    ----------
    {data}
    by
        `"block"`: in each section, the spots nearest to a random one (a square block) are test, and what is closer
        than `gap_um` to any of them is gap. `"section"`: whole sections are test.
    key
        With `by="section"`: column of `obs` whose values are kept together (a patient with several sections).
    test_size
        Share of the spots of each section, or of the sections (or of the values of `key`).
    gap_um
        Smallest distance of a training spot to a test spot, the larger of those along x and y, in um. `None` is the
        field of view of the patches and one pixel of them, by which two windows may be moved towards each other.
    {seed}
    key_added
        Column of `obs`.
    patch_key
        Patches whose field of view is meant.
    source_mpp
        Microns per pixel of the image at full resolution; `None` is what the patches, else the object or its array say.
    {table_key}
    library_key
        Column of `obs` that tells the sections of a concatenated AnnData apart.
    {copy}

    Returns
    -------
    `None`, or the copy. Sets `obs[key_added]`, categorical `"train"`, `"test"`, `"gap"`. Spots without a place are gap.

    Raises
    ------
    ValueError
        If neither `gap_um` nor patches are there, nothing is left to train on, or there is one section only.
    KeyError
        If `obs` has no column `key`.

    Examples
    --------
    >>> import c2lst as c2l
    >>> sdata = c2l.datasets.toy_tissue(n_spots=64)
    >>> c2l.pp.split(sdata, gap_um=150)
    >>> int((sdata["table"].obs["c2lst_split"] == "test").sum())
    13
    """
    check_choice("by", by, ("block", "section"))
    check_fraction("test_size", test_size)
    if gap_um is not None:
        check_positive("gap_um", gap_um, zero=True)
    if copy:
        data = duplicate(data)
    found = sections(data, table_key=table_key, library_key=library_key)
    if by == "block":
        if key is not None:
            raise ValueError(f"key={key!r} is for by='section'; blocks are cut in every section.")
        parts = [
            _block(s, test_size, _gap(s, gap_um, patch_key), seed, patch_key=patch_key, source_mpp=source_mpp)
            for s in found
        ]
    else:
        parts = _whole(found, key, test_size, seed)
    params = {"by": by, "key": key, "test_size": test_size, "gap_um": gap_um, "seed": seed, "key_added": key_added}
    for section, part in zip(found, parts, strict=True):
        values = pd.Categorical(part, categories=PARTS)
        section.write_obs(key_added, values)
        section.table.obs[key_added] = values
        record(section.table, "split", **params)
        logger.info("%s: %s.", section.name, ", ".join(f"{(part == p).sum()} {p}" for p in PARTS))
    if found[0].parent is not None:
        whole = found[0].parent
        whole.obs[key_added] = pd.Categorical(whole.obs[key_added].astype(str), categories=PARTS)
        record(whole, "split", **params)
    return data if copy else None


def _gap(section: Section, gap_um: float | None, patch_key: str) -> float:
    if gap_um is not None:
        return float(gap_um)
    try:
        meta = patch_meta(section.table, patch_key)
    except KeyError as error:
        raise ValueError(
            f"Section {section.name!r} has no patches {patch_key!r} whose field of view could set the gap; call "
            "`c2lst.pp.extract_patches(sdata, mpp=...)` first, or pass gap_um=."
        ) from error
    return float(meta["field_um"]) + float(meta["mpp"])


def _block(section: Section, test_size: float, gap: float, seed: int, **how: Any) -> NDArray[np.str_]:
    from scipy.spatial import cKDTree

    part = np.full(section.table.n_obs, "gap", dtype="<U5")
    found = positions_um(section, **how)
    for i, (rows, xy, _) in enumerate(found):
        placed = np.isfinite(xy).all(axis=1)
        rows, xy = rows[placed], xy[placed]
        if len(rows) < 2:
            raise ValueError(f"Section {section.name!r} has {len(rows)} spots with a place; a block needs at least 2.")
        n_test = min(max(1, round(test_size * len(rows))), len(rows) - 1)
        middle = xy[generator(seed, 31, crc32(section.name.encode()), i).integers(len(rows))]
        test = np.argsort(np.abs(xy - middle).max(axis=1), kind="stable")[:n_test]
        far = cKDTree(xy[test]).query(xy, p=np.inf)[0] >= gap
        far[test] = False
        part[rows[far]] = "train"
        part[rows[test]] = "test"
    for image in {image for *_, image in found}:  # regions that share an image share its pixels
        rows = np.concatenate([rows for rows, _, where in found if where == image])
        xy = np.concatenate([xy for _, xy, where in found if where == image])
        test, train = part[rows] == "test", part[rows] == "train"
        near = cKDTree(xy[test]).query(xy[train], p=np.inf)[0] < gap
        part[rows[train][near]] = "gap"
    if not (part == "train").any():
        raise ValueError(
            f"Section {section.name!r}: a test block of {test_size:.0%} and a gap of {gap:g} um leave no spot to train "
            "on; lower test_size= or gap_um=, or leave out whole sections with by='section'."
        )
    return part


def _whole(found: list[Section], key: str | None, test_size: float, seed: int) -> list[NDArray[np.str_]]:
    if key is None:
        groups = [np.full(s.table.n_obs, s.name, dtype=object) for s in found]
    else:
        for s in found:
            if key not in s.table.obs:
                raise KeyError(f"obs of {s.name!r} has no column {key!r}; it has {listing(s.table.obs.columns)}.")
            if s.table.obs[key].isna().any():
                raise ValueError(f"obs[{key!r}] of {s.name!r} has missing values; every spot must belong somewhere.")
        groups = [s.table.obs[key].astype(str).to_numpy(dtype=object) for s in found]
    names = sorted(set(np.concatenate(groups)))
    if len(names) < 2:
        raise ValueError(
            f"by='section' needs two sections or more (or two values of key=), there is {listing(names)}; pass a list, "
            "name the sections of a concatenated AnnData with library_key=, or use by='block'."
        )
    n_test = min(max(1, round(test_size * len(names))), len(names) - 1)
    test = {names[i] for i in generator(seed, 32).permutation(len(names))[:n_test]}
    logger.info("test: %s; train: %s.", sorted(test), sorted(set(names) - test))
    return [np.where([g in test for g in group], "test", "train").astype("<U5") for group in groups]
