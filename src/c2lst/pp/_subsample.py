from __future__ import annotations

from typing import Any
from zlib import crc32

import numpy as np

from c2lst._checks import check_fraction
from c2lst._docs import doc
from c2lst._keys import Key
from c2lst._logging import logger
from c2lst._notes import record
from c2lst._random import derive, nested_sample
from c2lst._resolve import sections
from c2lst._subset import subset_masks

from ._copying import duplicate


@doc
def subsample(
    data: Any,
    fraction: float,
    *,
    seed: int = 0,
    subset: str | None = None,
    key_added: str = Key.obs.SAMPLED,
    table_key: str = "table",
    library_key: str | None = None,
    copy: bool = False,
) -> Any:
    """Draw a share of the spots at random, as if only they had been sequenced.

    Each section gives its share, at least one spot. Draws are nested: with one seed, a larger fraction contains a
    smaller one. The draw of a section depends on its name, not on the other sections.

    Parameters
    ----------
    {data}
    fraction
        Share of the spots, above 0 to 1.
    {seed}
    {subset}
    key_added
        Column of `obs`.
    {table_key}
    library_key
        Column of `obs` that tells the sections of a concatenated AnnData apart.
    {copy}

    Returns
    -------
    `None`, or the copy. Sets `obs[key_added]` (bool), False outside `subset`.

    Examples
    --------
    >>> import c2lst as c2l
    >>> sdata = c2l.datasets.toy_tissue(n_spots=40)
    >>> c2l.pp.subsample(sdata, 0.1)
    >>> int(sdata["table"].obs["c2lst_sampled"].sum())
    4
    """
    check_fraction("fraction", fraction)
    if copy:
        data = duplicate(data)
    found = sections(data, table_key=table_key, library_key=library_key)
    masks = subset_masks(found, subset)
    for section, mask in zip(found, masks, strict=True):
        drawn = np.zeros(section.table.n_obs, dtype=bool)
        stream = derive(seed, 41, crc32(section.name.encode()))
        drawn[np.flatnonzero(mask)] = nested_sample(stream, int(mask.sum()), fraction)
        section.write_obs(key_added, drawn)
        record(section.table, "subsample", fraction=fraction, seed=seed, subset=subset, key_added=key_added)
        logger.info("%s: %d of %d spots drawn.", section.name, int(drawn.sum()), int(mask.sum()))
    if found[0].parent is not None:
        record(found[0].parent, "subsample", fraction=fraction, seed=seed, subset=subset, key_added=key_added)
    return data if copy else None
