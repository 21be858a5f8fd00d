from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np

from c2lst._checks import check_choice, check_patches, check_positive, listing
from c2lst._docs import doc
from c2lst._expression import check_genes, expression
from c2lst._logging import logger
from c2lst._patches import get_patches
from c2lst._random import derive

from ._inputs import (
    central_for,
    check_scale,
    common_panel,
    everyone,
    is_pseudo,
    parent_keys,
    partner_keys,
    scale_of,
    section_names,
    set_aside,
    spots,
    synthetic_table,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData
    from numpy.typing import NDArray

    from c2lst.models import CentralModel, Predictor

CNN_STEPS = 400


@doc
def fit_predictor(
    data: Any,
    *,
    synthetic: AnnData | Sequence[AnnData] | None = None,
    kind: str = "ridge",
    pool: NDArray[np.uint8] | None = None,
    encoder: str = "central",
    central: CentralModel | str | None = None,
    subset: str | None = None,
    layer: str | None = None,
    weight: float | Sequence[float] | None = None,
    table_key: str = "table",
    patch_key: str = "patches",
    genes_key: str = "c2lst_genes",
    library_key: str | None = None,
    steps: int = CNN_STEPS,
    seed: int = 0,
    progress: bool | None = None,
) -> Predictor:
    """Fit a predictor of gene expression from H&E patches, on real spots and, if given, synthetic ones.

    Parameters
    ----------
    {data}
        Real spots with patches and a panel.
    synthetic
        What :func:`c2lst.tl.augment` returns, or :func:`c2lst.tl.pseudo_label`, or several of them; their panel must be
        that of `data`.
    kind
        `"ridge"`: ridge regression on principal components of an encoder's features, as the HEST benchmark does; features
        are scaled to a common variance, but those that the spots hardly have are not blown up.
        `"ridge-whitened"`: on features whitened by unpaired patches (`pool`), with strong shrinkage. `"cnn"`: a small convolutional network,
        end to end (He et al. 2020).
    pool
        Unpaired patches, uint8 `(n, H, W, 3)`, for `"ridge-whitened"`.
    {encoder}
    central
        Whose features `"central"` means; `None` takes the model noted in `uns["c2lst"]["central"]`, else the starter.
    {subset}
    {layer}
    weight
        Weight of all synthetic spots together, in units of that of all real ones, for each table of them; `None` is 10, and
        1 for a ridge on features of the central model, which is good without them.
    {table_key}
    patch_key, genes_key
        Where the patches and the panel are.
    library_key
        Column of `obs` that names the sections of a concatenated AnnData.
    steps
        Training steps of the CNN, the same with and without synthetic spots.
    {seed}
    {progress}

    Returns
    -------
    The predictor. The penalty of a ridge is the one (1e0 to 1e6) with the best mean PCC on real spots of sections left
    out, or of spatial blocks left out where there is one section, the smallest of those within .001 of the best;
    synthetic spots leave together with the section of their parent, or of the spot mixed into it. Pseudo-labelled ones, which have
    no parent, stay: where their teacher was fitted on these very spots, `card["alpha_curve"]` is higher than on spots that
    nothing has seen. `data` are not changed.

    Raises
    ------
    KeyError
        Patches or panel are missing, or the synthetic spots carry another panel.
    ValueError
        Scales do not agree, a pool is missing, there are fewer than 4 spots, or synthetic spots are children of spots outside
        `subset`.

    Examples
    --------
    >>> import c2lst as c2l
    >>> sdata = c2l.datasets.toy_tissue(40)
    >>> c2l.pp.extract_patches(sdata, mpp=2.0, patch_px=64)
    >>> c2l.pp.select_genes(sdata, n_top=20)
    >>> c2l.tl.fit_predictor(sdata, encoder="rgb").genes == sdata["table"].var_names[
    ...     sdata["table"].var["c2lst_genes"]
    ... ].tolist()
    True
    """
    from c2lst.models import Predictor, get_encoder
    from c2lst.models._cnn import fit_cnn
    from c2lst.models._encoders import embed_patches
    from c2lst.models._predictor import KINDS
    from c2lst.models._ridge import NEVER, fit_ridge, fit_trust, folds

    begun = time.monotonic()
    check_choice("kind", kind, KINDS)
    get_encoder(encoder)
    added = [] if synthetic is None else [synthetic] if not isinstance(synthetic, list | tuple) else list(synthetic)
    weights = _weights(weight, len(added), usual_weight(kind, encoder))
    check_positive("steps", steps, integer=True)
    seen = spots(
        data, subset=subset, table_key=table_key, patch_key=patch_key, library_key=library_key, at_least=4,
        what="fit_predictor",
    )  # fmt: skip
    tables = [s.table for s in seen]
    genes = common_panel(tables, genes_key)
    mpp, patch_px = scale_of(tables[0], patch_key)
    for table in tables[1:]:
        check_scale(table, mpp, patch_px, "the first section", patch_key)
    model = central_for(tables, central, encoder=encoder)
    if model is not None and kind != "cnn":
        check_scale(tables[0], model.mpp, model.patch_px, f"the central model {model.name!r}", patch_key)
    if kind == "ridge-whitened":
        if pool is None:
            raise ValueError("kind='ridge-whitened' needs pool=, e.g. c2lst.pp.tissue_patches(sdata, 1000, mpp=...).")
        check_patches(pool, "pool")
    aside: set[tuple[str, str]] = set()
    known: set[tuple[str, str]] | None = None
    for table in added:
        pseudo = is_pseudo(table)
        if not pseudo:
            synthetic_table(table)
        if set(table.var_names) != set(genes):
            odd = sorted(set(table.var_names) ^ set(genes))
            raise KeyError(
                f"The {'pseudo-labelled' if pseudo else 'synthetic'} spots carry another panel than var[{genes_key!r}] of "
                f"the data: {listing(odd)} are in one of them only. Fit with the panel of "
                f"{'the predictor that labelled them' if pseudo else 'the local model that drew them'}."
            )
        if not table.n_obs:
            raise ValueError("A table of synthetic spots is empty; leave it out.")
        check_scale(table, mpp, patch_px, "the predictor")
        if not pseudo:
            known = everyone(data, table_key, library_key) if known is None else known
            unknown = [p for p in parent_keys(table) if p not in known]
            if unknown:
                logger.warning(
                    "%d of %d synthetic spots have parents that are not among the data: theirs are of the sections %s, the data are %s. "
                    "Whether these were set aside cannot be told. If they are the same sections under other names, pass {name: section}.",
                    len(unknown), table.n_obs, listing(sorted({section for section, _ in unknown})),
                    listing(sorted({section for section, _ in known})),
                )  # fmt: skip
        if not pseudo and subset is not None:
            aside = aside or set_aside(data, subset, table_key, library_key)
            both = zip(parent_keys(table), partner_keys(table), strict=True)
            n_leaked = sum(p in aside or q in aside for p, q in both)
            if n_leaked:
                raise ValueError(
                    f"{n_leaked} of {table.n_obs} synthetic spots are children of spots outside subset={subset!r}, whose expression "
                    f"would be trained on; draw them with `c2lst.tl.augment(data, local, subset={subset!r})`."
                )

    patches = [s.patches for s in seen]
    target = np.concatenate([expression(s.table[s.rows], genes, layer) for s in seen])
    groups = section_names(seen)
    at = np.concatenate([_positions(s) for s in seen]) if all("spatial" in t.obsm for t in tables) else None
    n_real = len(target)
    fold = folds(groups, at)
    keys = [(s.section.name, str(name)) for s in seen for name in s.names]
    fold_of = dict(zip(keys, fold, strict=True))
    # of a parent in a section that is not known by this name: where a spot is called so, it may be that
    by_name: dict[str, int] = {}
    for (_, name), k in fold_of.items():
        by_name[name] = int(k) if by_name.get(name, k) == k else NEVER
    row_weight, second = np.ones(n_real), fold
    n_added = {"n_synthetic": 0, "n_pseudo": 0}
    for table, share in zip(added, weights, strict=True):
        patches.append(np.asarray(get_patches(table)[:]))
        n_added["n_pseudo" if is_pseudo(table) else "n_synthetic"] += table.n_obs
        target = np.concatenate([target, expression(table, genes)])
        row_weight = np.concatenate([row_weight, np.full(table.n_obs, share * n_real / table.n_obs)])
        own = mixed = np.full(table.n_obs, -1)
        if not is_pseudo(table):
            own, mixed = (
                np.array([fold_of.get(p, by_name.get(p[1], -1)) for p in of(table)])
                for of in (parent_keys, partner_keys)
            )
        fold, second = np.concatenate([fold, own]), np.concatenate([second, mixed])
    real = np.arange(len(target)) < n_real

    chosen: dict[str, Any] = {}
    features = None
    if kind == "cnn":
        network, arrays = fit_cnn(
            patches, target, row_weight, real, steps=steps, seed=derive(seed, 41), progress=progress
        )
        features = embed_patches(np.concatenate(patches[: len(seen)]), "rgb", None)
        encoder, model = "rgb", None  # what the trust flag looks with
        chosen["steps"] = int(steps)
    else:
        network = None
        features = embed_patches(np.concatenate(patches), encoder, model, show=progress)
        whitening = None if kind == "ridge" else embed_patches(pool, encoder, model, show=False)
        arrays, chosen = fit_ridge(features, target, row_weight, real, fold, pool=whitening, second=second)
    arrays |= fit_trust(features[:n_real])
    card = {
        "sections": [s.section.name for s in seen],
        "n_spots": int(n_real),
        **{k: int(v) for k, v in n_added.items()},
        "synthetic_weight": float(sum(weights)),
        "subset": subset or "all spots",
        "n_genes": len(genes),
        "mpp": mpp,
        "seed": int(seed),
        **chosen,
        "hours": round((time.monotonic() - begun) / 3600, 4),
    }
    for table in tables:
        check_genes(table, genes)
    return Predictor(
        kind, genes, arrays, encoder=encoder, central=model, network=network, mpp=mpp, patch_px=patch_px, card=card
    )


def _weights(weight: float | Sequence[float] | None, n: int, usual: float) -> list[float]:
    """Return the weight of each of `n` tables."""
    several = isinstance(weight, list | tuple)
    out = list(weight) if several else [usual if weight is None else weight] * n
    for value in out if several or weight is None else [weight]:
        check_positive("weight", value)
    if len(out) != n:
        raise ValueError(f"weight has {len(out)} numbers for {n} tables of synthetic spots.")
    return out


def _positions(spots_: Any) -> NDArray:
    return np.asarray(spots_.table.obsm["spatial"])[spots_.rows][:, :2]


def usual_weight(kind: str, encoder: str) -> float:
    """Return the weight of extra samples where none is asked for.

    10 won inside training sections, of 1, 4 and 10, for ridges on features of a general encoder. For ridges on those of the
    central model no weight has been chosen by validation; from few spots they are good without synthetic ones: 1.
    """
    from c2lst.models import get_encoder

    return 1.0 if kind != "cnn" and get_encoder(encoder).needs_central else 10.0
