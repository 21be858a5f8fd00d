from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from c2lst._checks import listing
from c2lst._docs import doc
from c2lst._keys import Key
from c2lst._notes import jsonable
from c2lst._patches import get_patches, patch_meta

from ._inputs import check_scale, spots, synthetic_table

if TYPE_CHECKING:
    from anndata import AnnData


@doc
def composition(
    real: Any,
    synthetic: AnnData,
    *,
    table_key: str = "table",
    patch_key: str = "patches",
    library_key: str | None = None,
    threshold: float | None = None,
    key_added: str = "composition",
) -> None:
    """Compare what synthetic patches are made of with their parents, pair by pair.

    At 1 um/px or finer nuclei are segmented; at coarser scales, where a nucleus has a few pixels, haematoxylin area,
    density and texture and eosin density are measured instead, see :func:`c2lst.metrics.composition`.

    Parameters
    ----------
    real
        Real spots with patches, among them every parent; as `data` elsewhere.
    synthetic
        What :func:`c2lst.tl.augment` returns; the result is written there.
    {table_key}
    patch_key
        Where the patches are.
    library_key
        Column of `obs` that names the sections of a concatenated AnnData.
    threshold
        Haematoxylin density above which a pixel is a nucleus, for parents and synthetic spots alike; `None` takes Otsu's
        threshold of all parents (Otsu 1979): stains differ in strength.
    key_added
        Key of `uns`.

    Returns
    -------
    `None`. Sets `synthetic.uns["composition"]`, a dict:

    `measures`
        Names of the measures.
    `synthetic`, `parent`
        `{measure: (m,) array}` of each synthetic spot and of its parent.
    `correlation`, `wasserstein`
        `{measure: number}`: Spearman correlation over pairs; Wasserstein distance of the two distributions in units of
        the parents' standard deviation.

    Raises
    ------
    KeyError
        Parents are not among the real spots.

    Examples
    --------
    >>> import c2lst as c2l
    >>> sdata = c2l.datasets.toy_tissue(40)
    >>> c2l.pp.extract_patches(sdata, mpp=2.0, patch_px=64)
    >>> c2l.pp.select_genes(sdata, n_top=20)
    >>> local = c2l.tl.adapt(sdata, "toy", steps=2, progress=False)
    >>> synth = c2l.tl.augment(sdata, local, n_obs=8, sampler_steps=2, progress=False)
    >>> c2l.tl.composition(sdata, synth)
    >>> [str(m) for m in synth.uns["composition"]["measures"]]
    ['haematoxylin_area', 'haematoxylin_od', 'haematoxylin_texture', 'eosin_od']
    """
    from scipy.stats import spearmanr, wasserstein_distance
    from skimage.filters import threshold_otsu

    from c2lst import metrics

    synthetic_table(synthetic)
    seen = spots(real, table_key=table_key, patch_key=patch_key, library_key=library_key)
    meta = patch_meta(synthetic)
    for s in seen:
        check_scale(s.table, meta["mpp"], int(meta["patch_px"]), "the comparison", patch_key)
    where = {(s.section.name, str(n)): (i, j) for i, s in enumerate(seen) for j, n in enumerate(s.names)}
    keys = list(zip(synthetic.obs[Key.SECTION].astype(str), synthetic.obs[Key.obs.PARENT].astype(str), strict=True))
    missing = sorted({k for k in keys if k not in where})
    if missing:
        raise KeyError(
            f"{len(missing)} parents are not among the valid real spots: {listing(missing)}; the sections given are "
            f"{listing(s.section.name for s in seen)}. Pass the data that c2lst.tl.augment was called with."
        )
    wanted = sorted(set(keys))
    real_patches = np.stack([seen[where[k][0]].patches[where[k][1]] for k in wanted])
    if threshold is None:
        density = metrics.haematoxylin(real_patches)
        # of one grey: nothing to part
        threshold = float(threshold_otsu(density)) if np.ptp(density) > 0 else float(max(density.max(), 1e-3))
    given = {"mpp": float(meta["mpp"]), "threshold": max(float(threshold), 1e-3)}
    parents = metrics.composition(real_patches, **given)
    row = {k: i for i, k in enumerate(wanted)}
    parents = parents.iloc[[row[k] for k in keys]]
    ours = metrics.composition(np.asarray(get_patches(synthetic)[:]), **given)
    measures = list(ours.columns)
    out: dict[str, Any] = {"measures": measures, "synthetic": {}, "parent": {}, "correlation": {}, "wasserstein": {}}
    for m in measures:
        a, b = ours[m].to_numpy(dtype=float), parents[m].to_numpy(dtype=float)
        both = np.isfinite(a) & np.isfinite(b)
        out["synthetic"][m], out["parent"][m] = a, b
        varied = both.sum() > 2 and np.ptp(a[both]) > 0 and np.ptp(b[both]) > 0
        out["correlation"][m] = float(spearmanr(a[both], b[both]).statistic) if varied else float("nan")
        sd = b[both].std() if both.any() else 0.0
        out["wasserstein"][m] = float(wasserstein_distance(a[both], b[both]) / sd) if sd > 0 else float("nan")
    out["params"] = jsonable({**given, "patch_key": patch_key})
    synthetic.uns[key_added] = out
