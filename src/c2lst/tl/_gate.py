from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from c2lst._checks import check_fraction, listing
from c2lst._expression import expression
from c2lst._keys import Key
from c2lst._logging import batches, logger
from c2lst._notes import record
from c2lst._patches import get_patches

from ._inputs import check_scale, synthetic_table

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray

    from c2lst.models import Predictor

GENES = 3  # at least, for a correlation over genes


def gate(
    synthetic: AnnData,
    predictor: Predictor,
    *,
    keep: float | None = None,
    threshold: float | None = None,
    batch_size: int = 128,
    key_added: str = "gate",
) -> AnnData:
    """Drop synthetic spots whose patch does not say what its genes say.

    The judge predicts expression from each patch. A spot's *agreement* is the correlation over genes of that
    prediction with the profile the patch was drawn for, after the mean of each gene over the real spots was subtracted
    from both: what all spots share does not count. A judge from the same few spots as the local model is a weak one,
    and what passes is biased to what it can see: read :func:`c2lst.tl.round_trip` with a judge that did not gate.

    Parameters
    ----------
    synthetic
        What :func:`c2lst.tl.augment` returns; every spot is judged, and what is said of it is written there.
    predictor
        The judge, fitted on spots that the local model was adapted to, and on no synthetic one.
    keep
        Share of the spots that is kept, those that agree best. The number that remains is known before, so that arms of
        a comparison can have as many.
    threshold
        Smallest agreement that is kept, -1 to 1. Give one of the two.
    batch_size
        Patches judged at once; bounds the memory.
    key_added
        Key of `uns`.

    Returns
    -------
    A new AnnData of the spots that are kept. Sets the following fields, in `synthetic` and in what is returned:

    `obs["c2lst_agreement"]` : float
        The correlation; 0 where the prediction or the profile says nothing (it is that mean).
    `obs["c2lst_rank"]` : float
        Share of the other spots' profiles that agree less with the patch than its own; 0.5 is chance.
    `obs["c2lst_kept"]` : bool
        Whether the spot is kept.
    `uns["gate"]` : dict
        `n`, `n_kept`, `share_dropped`, the same by section of the parent in `share_dropped_by_section`, `threshold`
        (smallest agreement that was kept), `agreement`, `agreement_kept` and `agreement_chance` (means over all spots,
        over those kept, and over all wrong pairs), `rank` (mean over all), `genes` (their number), `centre` (where the
        means are from), `judge` (what it saw) and `checked` (what of that could be compared to the local model's record).

    Raises
    ------
    KeyError
        The panels share fewer than three genes.
    ValueError
        The judge saw synthetic spots, sections or spots that the local model did not, scales do not agree, or not one of
        `keep` and `threshold` is given.

    Examples
    --------
    >>> import c2lst as c2l
    >>> sdata = c2l.datasets.toy_tissue(40)
    >>> c2l.pp.extract_patches(sdata, mpp=2.0, patch_px=64)
    >>> c2l.pp.select_genes(sdata, n_top=20)
    >>> local = c2l.tl.adapt(sdata, "toy", steps=2, progress=False)
    >>> synth = c2l.tl.augment(sdata, local, n_obs=8, sampler_steps=2, progress=False)
    >>> judge = c2l.tl.fit_predictor(sdata, encoder="rgb")
    >>> kept = c2l.tl.gate(synth, judge, keep=0.75)
    >>> kept.n_obs, synth.uns["gate"]["share_dropped"]
    (6, 0.25)
    """
    synthetic_table(synthetic)
    if (keep is None) == (threshold is None):
        raise ValueError(f"Give one of keep= (a share) and threshold= (an agreement), not {keep=} and {threshold=}.")
    if keep is not None:
        check_fraction("keep", keep)
    elif not -1 <= threshold <= 1:
        raise ValueError(f"threshold= is a correlation, -1 to 1, not {threshold!r}.")
    said = (synthetic.uns.get(Key.UNS) or {}).get("local") or {}
    checked = check_judge(predictor.card, said)
    check_scale(synthetic, predictor.mpp, predictor.patch_px, "the predictor")
    genes = [g for g in predictor.genes if g in synthetic.var_names]
    if len(genes) < GENES:
        raise KeyError(
            f"The predictor's genes {listing(predictor.genes)} and the panel of the synthetic spots "
            f"{listing(synthetic.var_names)} share {len(genes)}; a correlation over genes needs {GENES}."
        )
    if not checked:
        logger.warning(
            "Nothing says which spots the judge or the local model saw: that it saw no others is not checked."
        )
    patches = get_patches(synthetic)
    at = [predictor.genes.index(g) for g in genes]
    predicted = np.concatenate(
        [predictor.from_patches(patches[s], batch_size=batch_size) for s in batches(synthetic.n_obs, 8 * batch_size)]
    )[:, at]
    profiles = expression(synthetic, genes)
    known = Key.var.MEAN in synthetic.var
    centre = synthetic.var[Key.var.MEAN].loc[genes].to_numpy() if known else profiles.mean(0)
    own, rank, chance = agreement(predicted, profiles, centre)
    kept = best(own, round(keep * len(own)) or 1) if keep is not None else own >= threshold
    if not kept.any():
        raise ValueError(
            f"No synthetic spot agrees with its genes by threshold={threshold:g}; the best of {len(own)} does by "
            f"{own.max():.3f}. Lower threshold=, or pass keep=."
        )
    synthetic.obs[Key.obs.AGREEMENT] = own
    synthetic.obs[Key.obs.RANK] = rank
    synthetic.obs[Key.obs.KEPT] = kept
    groups = synthetic.obs[Key.SECTION].astype(str).to_numpy()
    synthetic.uns[key_added] = {
        **summary(own, rank, chance, kept),
        "share_dropped_by_section": {str(g): float((~kept[groups == g]).mean()) for g in np.unique(groups)},
        "genes": len(genes),
        "centre": "real spots" if known else "profiles",
        "judge": {
            "kind": predictor.kind,
            "encoder": predictor.encoder,
            **{k: predictor.card[k] for k in ("sections", "n_spots", "subset") if k in predictor.card},
        },
        "checked": checked,
    }
    record(synthetic, "gate", keep=keep, threshold=threshold, kind=predictor.kind, encoder=predictor.encoder)
    logger.info("%d of %d synthetic spots are kept.", kept.sum(), len(kept))
    return synthetic[kept].copy()


def check_judge(judge: dict[str, Any], local: dict[str, Any]) -> list[str]:
    """Raise where the record of a judge says that it saw what the local model did not; return what could be compared."""
    if judge.get("n_synthetic") or judge.get("n_pseudo"):
        raise ValueError(
            "The predictor was fitted with synthetic spots, or pseudo-labelled ones, and cannot judge them; fit one on real spots alone: "
            "c2lst.tl.fit_predictor(data, synthetic=None)."
        )
    checked = []
    mend = (
        "Whoever judges the synthetic spots must not know more than who made them: fit the judge on the same spots, "
        "c2lst.tl.fit_predictor(data, subset=...) with the data= and subset= of c2lst.tl.adapt."
    )
    if "sections" in judge and "sections" in local:
        more = sorted({str(s) for s in judge["sections"]} - {str(s) for s in local["sections"]})
        if more:
            raise ValueError(f"The judge saw the sections {listing(more)}, the local model did not. {mend}")
        checked.append("sections")
    if "n_spots" in judge and "n_spots" in local:
        if int(judge["n_spots"]) > int(local["n_spots"]):
            raise ValueError(
                f"The judge saw {int(judge['n_spots'])} spots, the local model {int(local['n_spots'])} "
                f"(subset={str(local.get('subset', 'not known'))!r}). {mend}"
            )
        checked.append("number of spots")
    if "subset" in judge and judge["subset"] == local.get("subset"):
        checked.append("subset")
    return checked


def agreement(
    predicted: NDArray, profiles: NDArray, centre: NDArray
) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """Return agreement and rank of each spot, and the mean agreement over all wrong pairs."""
    nothing = 1e-5 * (1 + np.abs(centre).max())  # a length that is rounding
    p, q = _unit(predicted - centre, nothing), _unit(profiles - centre, nothing)
    own = np.einsum("ij,ij->i", p, q)
    n, total = len(p), 0.0
    rank = np.full(n, np.nan)
    for s in batches(n, 1024):
        others = p[s] @ q.T
        total += others.sum() - own[s].sum()
        # its own entry is a tie: a half, taken off again; other ties count a half too
        near = np.abs(others - own[s, None]) < 1e-9
        below = ((others < own[s, None]) & ~near).sum(1) + (near.sum(1) - 1) / 2
        if n > 1:
            rank[s] = below / (n - 1)
    return own, rank, float(total / (n * (n - 1))) if n > 1 else float("nan")


def best(own: NDArray[np.float64], n: int) -> NDArray[np.bool_]:
    """Return which `n` agree best; of equal ones the first."""
    kept = np.zeros(len(own), dtype=bool)
    kept[np.argsort(-own, kind="stable")[:n]] = True
    return kept


def summary(
    own: NDArray[np.float64], rank: NDArray[np.float64], chance: float, kept: NDArray[np.bool_]
) -> dict[str, Any]:
    """Return what a gate did, in numbers."""
    return {
        "n": len(kept),
        "n_kept": int(kept.sum()),
        "share_dropped": float((~kept).mean()),
        "threshold": float(own[kept].min()),
        "agreement": float(own.mean()),
        "agreement_kept": float(own[kept].mean()),
        "agreement_chance": chance,
        "rank": float(rank.mean()),
    }


def _unit(x: NDArray, nothing: float) -> NDArray[np.float64]:
    """Centre each row and bring it to length 1; a row without spread becomes 0."""
    x = x.astype(np.float64)
    x -= x.mean(axis=1, keepdims=True)
    norm = np.linalg.norm(x, axis=1, keepdims=True)
    return np.divide(x, norm, out=np.zeros_like(x), where=norm > nothing)
