from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from c2lst._checks import check_positive, listing
from c2lst._docs import doc
from c2lst._expression import LOG1P
from c2lst._keys import Key
from c2lst._notes import notes, record
from c2lst._patches import made_meta
from c2lst._random import derive

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData
    from numpy.typing import NDArray

    from c2lst.models import LocalModel


@doc
def gene_sweep(
    local: LocalModel,
    gene_or_profile: str | Sequence[str] | Any,
    *,
    values: Sequence[float],
    base: Any,
    n: int = 8,
    guidance: float = 2.0,
    sampler_steps: int = 16,
    batch_size: int = 64,
    seed: int = 0,
    progress: bool | None = None,
) -> AnnData:
    """Move one gene, or a program of genes, and draw the same patches again: the noise stays, the genes change.

    Parameters
    ----------
    local
        What :func:`c2lst.tl.adapt` returns.
    gene_or_profile
        A gene, or a list of genes, that is *set* to each of `values`; or a direction (a :class:`pandas.Series` or dict
        of genes, or an array `(n_genes,)`), of which `values` times are *added* to `base`.
    values
        log1p CP10k for genes; multiples for a direction.
    base
        Profile to start from, log1p CP10k: `(n_genes,)`, or `(n, n_genes)` with a row a replicate, in the order of
        `local.genes`; or a Series.
    n
        Replicates, each with noise of its own, where `base` is one profile.
    {seed}
    {progress}

    Returns
    -------
    A new AnnData with `n * len(values)` rows: `X` the profile, `obsm["patches"]`, `obs["c2lst_value"]`,
    `obs["c2lst_replicate"]`.

    Raises
    ------
    KeyError
        A gene is not in the local model's panel.
    ValueError
        Shapes do not fit, or the gene encoder takes counts.

    Examples
    --------
    >>> import c2lst as c2l
    >>> sdata = c2l.datasets.toy_tissue(40)
    >>> c2l.pp.extract_patches(sdata, mpp=2.0, patch_px=64)
    >>> c2l.pp.select_genes(sdata, n_top=20)
    >>> local = c2l.tl.adapt(sdata, "toy", steps=2, progress=False)
    >>> base = [1.0] * len(local.genes)
    >>> sweep = c2l.tl.gene_sweep(local, local.genes[0], values=[0, 3], base=base, n=2, sampler_steps=2)
    >>> sweep.shape
    (4, 20)
    """
    import pandas as pd
    from anndata import AnnData

    check_positive("n", n, integer=True)
    if local.gene_encoder.uses_counts:
        raise ValueError('gene_sweep moves log1p CP10k; the gene encoder "scvi" takes counts. Adapt with "pca".')
    genes = local.genes

    def vector(given: Any, what: str) -> NDArray[np.float64]:
        if isinstance(given, dict | pd.Series):
            given = pd.Series(given, dtype=float)
            missing = [g for g in given.index if g not in genes]
            if missing:
                raise KeyError(f"{what} names genes the local model does not know: {listing(missing)}.")
            return given.reindex(genes).fillna(0.0).to_numpy()
        given = np.asarray(given, dtype=float)
        if given.shape[-1:] != (len(genes),):
            raise ValueError(f"{what} must have {len(genes)} genes (local.genes), not shape {given.shape}.")
        return given

    start = vector(base, "base")
    if isinstance(base, pd.Series | dict) and set(pd.Series(base).index) != set(genes):
        raise KeyError(f"base lacks genes of the panel: {listing(set(genes) - set(pd.Series(base).index))}.")
    start = np.repeat(start[None], n, axis=0) if start.ndim == 1 else start
    steps = np.asarray(list(values), dtype=float)
    if not len(steps):
        raise ValueError("values is empty; give at least one.")
    profiles = np.repeat(start[None], len(steps), axis=0)  # (values, replicates, genes)
    named = [gene_or_profile] if isinstance(gene_or_profile, str) else gene_or_profile
    if isinstance(named, list | tuple) and all(isinstance(g, str) for g in named):
        missing = [g for g in named if g not in genes]
        if missing:
            raise KeyError(f"The local model does not know {listing(missing)}; its panel is {listing(genes)}.")
        for g in named:
            profiles[:, :, genes.index(g)] = steps[:, None]
        moved = list(named)
    else:
        profiles += steps[:, None, None] * vector(named, "gene_or_profile")
        moved = ["a direction"]
    profiles = np.clip(profiles, 0, None).astype(np.float32)
    replicate = np.tile(np.arange(profiles.shape[1]), len(steps))
    flat = profiles.reshape(-1, len(genes))
    out = AnnData(flat)
    out.var_names = genes
    out.obs_names = [f"sweep_{i}" for i in range(len(flat))]
    out.obs["c2lst_value"] = np.repeat(steps, profiles.shape[1])
    out.obs["c2lst_replicate"] = replicate
    keep = notes(out)
    keep["central"], keep["expression"] = local.central.reference, LOG1P
    keep["patches"] = made_meta(local.mpp, local.patch_px)
    record(out, "gene_sweep", genes=moved, values=list(steps), guidance=guidance, seed=seed)
    out.obsm[Key.obsm.PATCHES] = local.sample(
        flat, index=replicate, seed=derive(seed, 81), guidance=guidance, steps=sampler_steps, batch_size=batch_size,
        progress=progress,
    )  # fmt: skip
    return out
