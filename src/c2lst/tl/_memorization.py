from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from c2lst._docs import doc
from c2lst._notes import jsonable
from c2lst._patches import get_patches

from ._embedding_overlap import reducer
from ._inputs import central_for, check_scale, spots, synthetic_table

if TYPE_CHECKING:
    from anndata import AnnData

    from c2lst.models import CentralModel


@doc
def memorization(
    real: Any,
    synthetic: AnnData,
    *,
    holdout: Any = None,
    encoder: str = "central",
    central: CentralModel | str | None = None,
    subset: str | None = None,
    table_key: str = "table",
    patch_key: str = "patches",
    key_added: str = "memorization",
) -> None:
    """Audit whether synthetic patches copy the real ones the model was adapted on.

    The distance of each synthetic patch to its nearest real training patch is compared with that of real patches the
    model has not seen (`holdout`), or with that of each training patch to the others. Below the first percentile of real
    to real, chance gives about 1 % where these are hundreds, more where they are few (`expected`). Without `holdout` the share
    of an honest model lies above it: the features are reduced to what the training patches vary in.

    Parameters
    ----------
    real
        The real spots the model was adapted on; as `data` elsewhere.
    synthetic
        What :func:`c2lst.tl.augment` returns; the result is written there.
    holdout
        Real spots it was not adapted on; those that are among `real` do not count.
    {encoder}
    central
        Whose features `"central"` means; `None` takes the model noted in `uns["c2lst"]["central"]`, else the starter.
    {subset}
    {table_key}
    patch_key
        Where the patches are.
    key_added
        Key of `uns`.

    Returns
    -------
    `None`. Sets `synthetic.uns["memorization"]`, a dict with `nearest_synthetic` `(m,)`, `nearest_real` `(n,)`,
    `threshold`, `share` and `expected` (in the encoder), and `pixel_share` (in pixels at a quarter of the resolution).

    Raises
    ------
    ValueError
        No spot of `holdout` was held out, or there are fewer than 3 real spots.

    Examples
    --------
    >>> import c2lst as c2l
    >>> sdata = c2l.datasets.toy_tissue(40)
    >>> c2l.pp.extract_patches(sdata, mpp=2.0, patch_px=64)
    >>> c2l.pp.select_genes(sdata, n_top=20)
    >>> local = c2l.tl.adapt(sdata, "toy", steps=2, progress=False)
    >>> synth = c2l.tl.augment(sdata, local, n_obs=8, sampler_steps=2, progress=False)
    >>> c2l.tl.memorization(sdata, synth, encoder="rgb")
    >>> synth.uns["memorization"]["nearest_synthetic"].shape
    (8,)
    """
    from c2lst.metrics import nearest_audit
    from c2lst.models._encoders import embed_patches

    synthetic_table(synthetic)
    seen = spots(real, subset=subset, table_key=table_key, patch_key=patch_key, at_least=3, what="memorization")
    others = [] if holdout is None else spots(holdout, table_key=table_key, patch_key=patch_key)
    trained = {k for s in seen for k in s.keys}
    others = [s.without(trained) for s in others]
    others = [s for s in others if len(s.rows)]
    if holdout is not None and not others:
        raise ValueError(
            "Every spot of holdout= is among the real spots that the model was adapted on, so nothing was held out; pass "
            "other sections, or say with subset= what it was adapted on."
        )
    model = central_for([synthetic, *(s.table for s in seen)], central, encoder=encoder)
    if model is not None:
        for s in [*seen, *others]:
            check_scale(s.table, model.mpp, model.patch_px, f"the central model {model.name!r}", patch_key)
    parts = [np.concatenate([s.patches for s in seen]), np.asarray(get_patches(synthetic)[:])]
    if others:
        parts.append(np.concatenate([s.patches for s in others]))
    features = [embed_patches(p, encoder, model) for p in parts]
    reduce = reducer(features[0], len(features[0]) // 10)
    reduced = [reduce(f) for f in features]
    audit = nearest_audit(reduced[1], reduced[0], *reduced[2:])
    small = [_quarter(p) for p in parts]
    pixels = nearest_audit(small[1], small[0], *small[2:])
    synthetic.uns[key_added] = {
        "nearest_synthetic": np.asarray(audit["synthetic_distance"]),
        "nearest_real": np.asarray(audit["real_distance"]),
        "threshold": float(audit["threshold"]),
        "share": float(audit["share"]),
        "expected": float(audit["expected"]),
        "pixel_share": float(pixels["share"]),
        "params": jsonable({"encoder": encoder, "subset": subset, "holdout": holdout is not None}),
    }


def _quarter(patches):
    n, h, w, _ = patches.shape
    h4, w4 = h // 4, w // 4
    cut = patches[:, : h4 * 4, : w4 * 4].astype(np.float32)
    return cut.reshape(n, h4, 4, w4, 4, 3).mean(axis=(2, 4)).reshape(n, -1)
