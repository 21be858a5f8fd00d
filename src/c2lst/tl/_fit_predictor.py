from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np

from c2lst._checks import check_choice, check_patches, check_positive, listing
from c2lst._docs import doc
from c2lst._expression import check_genes, expression
from c2lst._keys import Key
from c2lst._patches import get_patches
from c2lst._random import derive

from ._inputs import central_for, check_scale, common_panel, scale_of, section_names, spots, synthetic_table

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray

    from c2lst.models import CentralModel, Predictor

CNN_STEPS = 400


@doc
def fit_predictor(
    data: Any,
    *,
    synthetic: AnnData | None = None,
    kind: str = "ridge",
    pool: NDArray[np.uint8] | None = None,
    encoder: str = "central",
    central: CentralModel | str | None = None,
    subset: str | None = None,
    layer: str | None = None,
    weight: float | None = None,
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
        What :func:`c2lst.tl.augment` returns; its panel must be that of `data`.
    kind
        `"ridge"`: ridge regression on principal components of an encoder's features, as the HEST benchmark does.
        `"ridge-whitened"`: on features whitened by unpaired patches (`pool`). `"cnn"`: a small convolutional network,
        end to end (He et al. 2020).
    pool
        Unpaired patches, uint8 `(n, H, W, 3)`, for `"ridge-whitened"`.
    {encoder}
    central
        Whose features `"central"` means; `None` takes the model noted in `uns["c2lst"]["central"]`, else the starter.
    {subset}
    {layer}
    weight
        Weight of all synthetic spots together, in units of that of all real ones; `None` is 10, and 1 for a ridge on
        features of the central model, which is good without them.
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
    out, or of spatial blocks left out where there is one section; synthetic spots leave together with the section of
    their parent. `data` are not changed.

    Raises
    ------
    KeyError
        Patches or panel are missing, or the synthetic spots carry another panel.
    ValueError
        Scales do not agree, a pool is missing, or there are fewer than 4 spots.

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
    from c2lst.models._ridge import fit_ridge, fit_trust, folds

    begun = time.monotonic()
    check_choice("kind", kind, KINDS)
    get_encoder(encoder)
    weight = usual_weight(kind, encoder) if weight is None else weight
    check_positive("weight", weight)
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
    if synthetic is not None:
        synthetic_table(synthetic)
        if set(synthetic.var_names) != set(genes):
            odd = sorted(set(synthetic.var_names) ^ set(genes))
            raise KeyError(
                f"The synthetic spots carry another panel than var[{genes_key!r}] of the data: {listing(odd)} are in "
                "one of them only. Fit with the panel the local model was adapted with."
            )
        check_scale(synthetic, mpp, patch_px, "the predictor")

    patches = [s.patches for s in seen]
    target = np.concatenate([expression(s.table[s.rows], genes, layer) for s in seen])
    groups = section_names(seen)
    at = np.concatenate([_positions(s) for s in seen]) if all("spatial" in t.obsm for t in tables) else None
    n_real = len(target)
    fold = folds(groups, at)
    keys = [(s.section.name, str(name)) for s in seen for name in s.names]
    fold_of = dict(zip(keys, fold, strict=True))
    weights, n_synthetic = np.ones(n_real), 0
    if synthetic is not None:
        patches.append(np.asarray(get_patches(synthetic)[:]))
        n_synthetic = synthetic.n_obs
        target = np.concatenate([target, expression(synthetic, genes)])
        weights = np.concatenate([weights, np.full(n_synthetic, weight * n_real / n_synthetic)])
        parents = zip(synthetic.obs[Key.SECTION].astype(str), synthetic.obs[Key.obs.PARENT].astype(str), strict=True)
        fold = np.concatenate([fold, [fold_of.get(p, -1) for p in parents]])
    real = np.arange(len(target)) < n_real

    chosen: dict[str, Any] = {}
    features = None
    if kind == "cnn":
        network, arrays = fit_cnn(patches, target, weights, real, steps=steps, seed=derive(seed, 41), progress=progress)
        features = embed_patches(np.concatenate(patches[: len(seen)]), "rgb", None)
        encoder, model = "rgb", None  # what the trust flag looks with
        chosen["steps"] = int(steps)
    else:
        network = None
        features = embed_patches(np.concatenate(patches), encoder, model, show=progress)
        whitening = None if kind == "ridge" else embed_patches(pool, encoder, model, show=False)
        arrays, chosen = fit_ridge(features, target, weights, real, fold, pool=whitening)
    arrays |= fit_trust(features[:n_real])
    card = {
        "sections": [s.section.name for s in seen],
        "n_spots": int(n_real),
        "n_synthetic": int(n_synthetic),
        "synthetic_weight": float(weight) if n_synthetic else 0.0,
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


def _positions(spots_: Any) -> NDArray:
    return np.asarray(spots_.table.obsm["spatial"])[spots_.rows][:, :2]


def usual_weight(kind: str, encoder: str) -> float:
    """Return the weight of extra samples where none is asked for.

    10 won inside training sections, of 1, 4 and 10, for ridges on features of a general encoder. For ridges on those of the
    central model no weight has been chosen by validation; from few spots they are good without synthetic ones: 1.
    """
    from c2lst.models import get_encoder

    return 1.0 if kind != "cnn" and get_encoder(encoder).needs_central else 10.0
