from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from c2lst._checks import listing
from c2lst._docs import doc
from c2lst._keys import Key
from c2lst._logging import logger
from c2lst._notes import record
from c2lst._patches import get_patches, valid_mask
from c2lst._resolve import sections

from ._inputs import check_scale

if TYPE_CHECKING:
    from c2lst.models import Predictor


@doc
def predict(
    data: Any,
    predictor: Predictor,
    *,
    key_added: str = "c2lst_predicted",
    table_key: str = "table",
    patch_key: str = "patches",
    library_key: str | None = None,
    check_genes: bool = True,
    batch_size: int = 128,
    progress: bool | None = None,
) -> None:
    """Predict expression from patches.

    Parameters
    ----------
    {data}
        Sections with patches, sequenced or not (:func:`c2lst.pp.tile`).
    predictor
        What :func:`c2lst.tl.fit_predictor` returns.
    key_added
        Key of `obsm`.
    {table_key}
    patch_key
        Where the patches are.
    library_key
        Column of `obs` that names the sections of a concatenated AnnData.
    check_genes
        Raise where a sequenced table lacks genes of the panel; `False` predicts them all the same.
    {progress}

    Returns
    -------
    `None`. Sets the following fields:

    `obsm["c2lst_predicted"]` : :class:`pandas.DataFrame` `(n_obs, n_genes)`
        log1p of counts per 10,000; NaN for spots without a valid patch.
    `obs["c2lst_trust"]` : bool
        `False` where the patch is unlike the training tissue (Mahalanobis distance in the encoder's features).

    Raises
    ------
    KeyError
        Patches are missing, or genes of the panel are.
    ValueError
        The patches have another scale than the predictor's.

    Examples
    --------
    >>> import c2lst as c2l
    >>> train, test = c2l.datasets.toy_tissue(40, sections=2)
    >>> c2l.pp.extract_patches([train, test], mpp=2.0, patch_px=64)
    >>> c2l.pp.select_genes([train, test], n_top=20)
    >>> predictor = c2l.tl.fit_predictor(train, encoder="rgb")
    >>> c2l.tl.predict(test, predictor)
    >>> test["table"].obsm["c2lst_predicted"].shape
    (40, 20)
    """
    import pandas as pd

    found = sections(data, table_key=table_key, library_key=library_key)
    loaded = []
    for section in found:
        table = section.table
        loaded.append(get_patches(table, patch_key))
        check_scale(table, predictor.mpp, predictor.patch_px, "the predictor", patch_key)
        missing = [g for g in predictor.genes if g not in table.var_names]
        if check_genes and table.n_vars and missing:
            raise KeyError(
                f"The table of section {section.name!r} lacks {len(missing)} of {len(predictor.genes)} genes of the "
                f"predictor's panel: {listing(missing)}. Pass check_genes=False to predict them all the same."
            )
    for section, patches in zip(found, loaded, strict=True):
        table = section.table
        rows = np.flatnonzero(valid_mask(table, patch_key))
        values = np.full((table.n_obs, len(predictor.genes)), np.nan, dtype=np.float32)
        trust = np.zeros(table.n_obs, dtype=bool)
        if len(rows):
            seen = patches[rows]
            features = predictor.features(seen, batch_size=batch_size, progress=progress)
            values[rows] = predictor.from_patches(seen, features=features, batch_size=batch_size)
            trust[rows] = predictor.distance(features) <= 1
        section.write_obsm(key_added, pd.DataFrame(values, index=table.obs_names, columns=predictor.genes))
        section.write_obs(Key.obs.TRUST, trust)
        if len(rows) and (~trust[rows]).mean() > 0.1:
            logger.warning(
                "%d of %d patches of %s are unlike the tissue the predictor was trained on (obs[%r] is False).",
                (~trust[rows]).sum(), len(rows), section.name, Key.obs.TRUST,
            )  # fmt: skip
        record(
            section.parent if section.parent is not None else table, "predict", kind=predictor.kind,
            encoder=predictor.encoder, key_added=key_added, patch_key=patch_key,
        )  # fmt: skip
