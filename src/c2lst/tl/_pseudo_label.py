from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from c2lst._checks import check_patches
from c2lst._docs import doc
from c2lst._expression import LOG1P
from c2lst._keys import Key
from c2lst._notes import jsonable, notes, record
from c2lst._patches import made_meta

from ._inputs import check_scale, section_names, spots

if TYPE_CHECKING:
    from anndata import AnnData

    from c2lst.models import Predictor


@doc
def pseudo_label(
    tissue: Any,
    predictor: Predictor,
    *,
    subset: str | None = None,
    table_key: str = "table",
    patch_key: str = "patches",
    library_key: str | None = None,
    batch_size: int = 128,
    progress: bool | None = None,
) -> AnnData:
    """Label tissue that was not sequenced with what a predictor says of it, so that another predictor can learn from it.

    Real patches with predicted genes (Lee 2013), the counterpart of synthetic spots, which are drawn patches with given
    genes; :func:`c2lst.tl.fit_predictor` takes both. A predictor on features of the central model is a good teacher
    of predictors on other features. No label is a measurement: never score a predictor on them.

    Parameters
    ----------
    tissue
        Unpaired patches, uint8 `(n, H, W, 3)`, of the predictor's scale (:func:`c2lst.pp.tissue_patches`); or tables with
        patches, of which no gene is read (:func:`c2lst.pp.tile`), as `AnnData`, `SpatialData`, a list or a dict of them.
    predictor
        What :func:`c2lst.tl.fit_predictor` returns.
    {subset}
    {table_key}
    patch_key
        Where the patches of tables are.
    library_key
        Column of `obs` that names the sections of a concatenated AnnData.
    {progress}

    Returns
    -------
    A new AnnData `(n, n_genes)`, the genes those of the predictor:

    `X`
        Predicted log1p of counts per 10,000; may be slightly below zero.
    `obsm["patches"]`
        uint8 `(n, H, W, 3)`.
    `obs["c2lst_origin"]`
        `"pseudo"`. There is no `c2lst_parent`: no spot stands behind a row.
    `obs["c2lst_trust"]`
        `False` where a patch is unlike the tissue the predictor was trained on.
    `obs["c2lst_section"]`, `obsm["spatial"]`
        Of tables, where they have them.
    `uns["c2lst"]["teacher"]`
        What the predictor is and saw.

    Raises
    ------
    KeyError, TypeError
        Patches are missing, or not patches.
    ValueError
        The patches have another scale or size than the predictor's.

    Examples
    --------
    >>> import c2lst as c2l
    >>> sdata = c2l.datasets.toy_tissue(40)
    >>> c2l.pp.extract_patches(sdata, mpp=2.0, patch_px=64)
    >>> c2l.pp.select_genes(sdata, n_top=20)
    >>> teacher = c2l.tl.fit_predictor(sdata, encoder="central", central="toy")
    >>> pool = c2l.pp.tissue_patches(sdata, 100, mpp=2.0, patch_px=64)
    >>> labelled = c2l.tl.pseudo_label(pool, teacher)
    >>> labelled.shape, labelled.obs["c2lst_origin"].unique().tolist()
    ((100, 20), ['pseudo'])
    >>> c2l.tl.fit_predictor(sdata, synthetic=labelled, encoder="rgb").card["n_pseudo"]
    100
    """
    import pandas as pd
    from anndata import AnnData

    obs, where = {}, None
    if hasattr(tissue, "dtype"):  # an array, and not a table
        patches = np.asarray(check_patches(tissue, "tissue")[:])
        if tuple(patches.shape[1:3]) != (predictor.patch_px, predictor.patch_px):
            raise ValueError(
                f"tissue has patches of {patches.shape[1]} x {patches.shape[2]} px, the predictor takes "
                f"{predictor.patch_px}; call c2lst.pp.tissue_patches(sdata, mpp={predictor.mpp:g}, "
                f"patch_px={predictor.patch_px})."
            )
        names = [f"pseudo_{i}" for i in range(len(patches))]
    else:
        seen = spots(
            tissue, subset=subset, table_key=table_key, patch_key=patch_key, library_key=library_key, at_least=1,
            what="pseudo_label",
        )  # fmt: skip
        for s in seen:
            check_scale(s.table, predictor.mpp, predictor.patch_px, "the predictor", patch_key)
        patches = np.concatenate([s.patches for s in seen])
        obs[Key.SECTION] = section_names(seen)
        names = [f"pseudo_{n}" for s in seen for n in s.names]
        if all(Key.obsm.SPATIAL in s.table.obsm for s in seen):
            where = np.concatenate([np.asarray(s.table.obsm[Key.obsm.SPATIAL])[s.rows][:, :2] for s in seen])
    features = predictor.features(patches, batch_size=batch_size, progress=progress)
    said = predictor.from_patches(patches, features=features, batch_size=batch_size)
    obs |= {Key.obs.ORIGIN: "pseudo", Key.obs.TRUST: predictor.distance(features) <= 1}
    labelled = AnnData(
        said.astype(np.float32), obs=pd.DataFrame(obs, index=names), var=pd.DataFrame(index=predictor.genes)
    )
    labelled.obs_names_make_unique()
    for key in {Key.obs.ORIGIN, Key.SECTION} & set(labelled.obs):
        labelled.obs[key] = labelled.obs[key].astype("category")
    labelled.var[Key.var.GENES] = True
    labelled.obsm[Key.obsm.PATCHES] = patches
    if where is not None:
        labelled.obsm[Key.obsm.SPATIAL] = where
    keep = notes(labelled)
    keep["expression"] = LOG1P
    if predictor.central is not None:
        keep["central"] = predictor.central.reference
    keep["teacher"] = jsonable({"kind": predictor.kind, "encoder": predictor.encoder, **predictor.card})
    keep["patches"] = made_meta(predictor.mpp, predictor.patch_px)
    record(labelled, "pseudo_label", kind=predictor.kind, encoder=predictor.encoder, subset=subset)
    return labelled
