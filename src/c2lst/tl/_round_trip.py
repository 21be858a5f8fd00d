from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from c2lst._checks import listing
from c2lst._docs import doc
from c2lst._expression import expression
from c2lst._keys import Key
from c2lst._logging import logger
from c2lst._notes import jsonable
from c2lst._patches import get_patches
from c2lst._random import generator

from ._inputs import Spots, check_scale, section_names, spots, synthetic_table

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray

    from c2lst.models import Predictor


@doc
def round_trip(
    synthetic: AnnData,
    predictor: Predictor,
    *,
    real: Any = None,
    subset: str | None = None,
    layer: str | None = None,
    table_key: str = "table",
    patch_key: str = "patches",
    seed: int = 0,
    key_added: str = "round_trip",
) -> None:
    """Genes -> synthetic patch -> predictor -> genes: do the patches say what their genes say?

    Parameters
    ----------
    synthetic
        What :func:`c2lst.tl.augment` returns; the result is written there.
    predictor
        One fitted on real spots alone; best with another encoder than `"central"`, which is the generator's own.
    real
        Held-out real spots with patches: the ceiling. As `data` elsewhere. Where the synthetic profiles were kept to main
        components (`n_components` of :func:`c2lst.tl.augment`), their expression is projected on the same: a profile without
        the noise of counts is read better, and the one would not compare to the other.
    {subset}
    {layer}
    {table_key}
    patch_key
        Where the patches of `real` are.
    {seed}
    key_added
        Key of `uns`.

    Returns
    -------
    `None`. Sets `synthetic.uns["round_trip"]`, a dict:

    `genes`, `pcc`, `mean_pcc`
        Pearson correlation per gene between profile and prediction, within sections, then averaged over sections.
    `shuffled_pcc`, `shuffled_mean_pcc`
        The same with the profiles permuted within sections: what stain and tissue alone would give.
    `real_pcc`, `real_mean_pcc`, `share`
        What the predictor reaches on `real`, and `mean_pcc` as a share of it; with `real` alone.

    Raises
    ------
    KeyError
        No gene of the predictor is in the panel.
    ValueError
        Scales do not agree, or the predictor was fitted with synthetic spots.

    Examples
    --------
    >>> import c2lst as c2l
    >>> sdata = c2l.datasets.toy_tissue(40)
    >>> c2l.pp.extract_patches(sdata, mpp=2.0, patch_px=64)
    >>> c2l.pp.select_genes(sdata, n_top=20)
    >>> predictor = c2l.tl.fit_predictor(sdata, encoder="rgb")
    >>> local = c2l.tl.adapt(sdata, "toy", steps=2, progress=False)
    >>> synth = c2l.tl.augment(sdata, local, n_obs=8, sampler_steps=2, progress=False)
    >>> c2l.tl.round_trip(synth, predictor)
    >>> len(synth.uns["round_trip"]["pcc"])
    20
    """
    from c2lst.metrics import round_trip_share

    synthetic_table(synthetic)
    if predictor.card.get("n_synthetic") or predictor.card.get("n_pseudo"):
        raise ValueError(
            "The predictor was fitted with synthetic spots, or pseudo-labelled ones, and cannot judge them; fit one on real spots alone: "
            "c2lst.tl.fit_predictor(data, synthetic=None)."
        )
    check_scale(synthetic, predictor.mpp, predictor.patch_px, "the predictor")
    genes = [g for g in predictor.genes if g in synthetic.var_names]
    if not genes:
        raise KeyError(
            f"None of the predictor's genes {listing(predictor.genes)} is in the panel of the synthetic spots "
            f"{listing(synthetic.var_names)}."
        )
    at = [predictor.genes.index(g) for g in genes]
    predicted = predictor.from_patches(get_patches(synthetic)[:])[:, at]
    truth = expression(synthetic, genes)
    groups = synthetic.obs[Key.SECTION].astype(str).to_numpy()
    shuffled = truth.copy()
    for i, name in enumerate(np.unique(groups)):
        rows = np.flatnonzero(groups == name)
        shuffled[rows] = truth[generator(seed, 71, i).permutation(rows)]
    pcc, random = per_section(predicted, truth, groups), per_section(predicted, shuffled, groups)
    out: dict[str, Any] = {
        "genes": genes,
        "pcc": pcc,
        "mean_pcc": float(np.nanmean(pcc)),
        "shuffled_pcc": random,
        "shuffled_mean_pcc": float(np.nanmean(random)),
    }
    if real is not None:
        seen = spots(
            real, subset=subset, table_key=table_key, patch_key=patch_key, at_least=3, what="the ceiling of round_trip"
        )
        for s in seen:
            check_scale(s.table, predictor.mpp, predictor.patch_px, "the predictor", patch_key)
        values = _measured(synthetic, seen, genes, layer)
        names = section_names(seen)
        guess = np.concatenate([predictor.from_patches(s.patches) for s in seen])[:, at]
        out["real_pcc"] = per_section(guess, values, names)
        out["real_mean_pcc"] = float(np.nanmean(out["real_pcc"]))
        out["share"] = float(round_trip_share(pcc, out["real_pcc"]))
    out["params"] = jsonable({"kind": predictor.kind, "encoder": predictor.encoder, "subset": subset, "seed": seed})
    synthetic.uns[key_added] = out


def _measured(synthetic: AnnData, seen: list[Spots], genes: list[str], layer: str | None) -> NDArray[np.float32]:
    """Return the expression of real spots, of the kind that the synthetic profiles are."""
    params = (synthetic.uns.get(Key.UNS) or {}).get("params", {}).get("augment", {})
    kept, panel = params.get("n_components", "none"), list(synthetic.var_names)
    if isinstance(kept, str) or params.get("strategy") == "scvi":
        return np.concatenate([expression(s.table[s.rows], genes, layer) for s in seen])
    lacking = [g for g in panel if any(g not in s.table.var_names for s in seen)]
    if lacking:
        logger.warning(
            "The synthetic profiles were kept to %d components, and `real` lacks %s of their panel, so it cannot be: it is held "
            "against its expression as measured, which is read less well, and `share` is too high.",
            kept, listing(lacking),
        )  # fmt: skip
        return np.concatenate([expression(s.table[s.rows], genes, layer) for s in seen])
    values = np.concatenate([expression(s.table[s.rows], panel, layer) for s in seen])
    profiles = np.asarray(synthetic.X, dtype=np.float64)
    mean = profiles.mean(0)
    basis = np.linalg.svd(profiles - mean, full_matrices=False)[2][: int(kept)]
    values = np.maximum(mean + (values - mean) @ basis.T @ basis, 0).astype(np.float32)
    return values[:, [panel.index(g) for g in genes]]


def per_section(predicted: NDArray, measured: NDArray, groups: NDArray) -> NDArray[np.float64]:
    """Return the PCC of each gene over the spots of one section, averaged over sections of three spots or more."""
    import warnings

    from c2lst.metrics import pearson

    found = [
        pearson(predicted[groups == name], measured[groups == name])
        for name in np.unique(groups)
        if (groups == name).sum() >= 3
    ]
    if not found:
        return np.full(predicted.shape[1], np.nan)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return np.nanmean(np.stack(found), axis=0)
