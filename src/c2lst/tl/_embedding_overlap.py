from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from c2lst._docs import doc
from c2lst._notes import jsonable
from c2lst._patches import get_patches
from c2lst._random import derive, generator

from ._inputs import central_for, check_scale, spots, synthetic_table

if TYPE_CHECKING:
    from collections.abc import Callable

    from anndata import AnnData
    from numpy.typing import NDArray

    from c2lst.models import CentralModel

MAX_DIM = 32


@doc
def embedding_overlap(
    real: Any,
    synthetic: AnnData,
    *,
    encoder: str = "central",
    central: CentralModel | str | None = None,
    subset: str | None = None,
    table_key: str = "table",
    patch_key: str = "patches",
    umap: bool = True,
    seed: int = 0,
    key_added: str = "embedding_overlap",
) -> None:
    """Measure how far synthetic patches lie among real ones, in the features of a named encoder.

    Features are standardised and reduced to at most 32 principal components of the real patches. Every figure compares
    `m` synthetic patches to one half of the real ones, and stands beside its floor, which compares the other half to
    it; `m` is the size of a half, so that all sample sizes agree. A second set of figures takes the mean and the
    standard deviation of each colour as the encoder: what stain alone would give.

    Parameters
    ----------
    real
        Real spots with patches; as `data` elsewhere.
    synthetic
        What :func:`c2lst.tl.augment` returns; the result is written there.
    {encoder}
    central
        Whose features `"central"` means; `None` takes the model noted in `uns["c2lst"]["central"]`, else the starter.
    {subset}
    {table_key}
    patch_key
        Where the patches are.
    umap
        Compute joint UMAP coordinates.
    {seed}
    key_added
        Key of `uns`.

    Returns
    -------
    `None`. Sets `synthetic.uns["embedding_overlap"]`, a dict:

    `frechet`, `kid`, `kid_sd`, `density`, `coverage`, `c2st`, `ilisi`
        Frechet distance, kernel distance, density and coverage (Naeem et al. 2020), two-sample classifier accuracy
        (Lopez-Paz & Oquab 2017), inverse Simpson index of the origin (Korsunsky et al. 2019).
    `floor`, `baseline`
        The same of real against real; and in the RGB encoder.
    `umap_real`, `umap_synthetic`
        Joint coordinates, `(n, 2)` and `(m, 2)`.

    Raises
    ------
    ValueError
        There are fewer than 20 real or 10 synthetic patches, or scales do not agree.

    Examples
    --------
    >>> import c2lst as c2l
    >>> sdata = c2l.datasets.toy_tissue(40)
    >>> c2l.pp.extract_patches(sdata, mpp=2.0, patch_px=64)
    >>> c2l.pp.select_genes(sdata, n_top=20)
    >>> local = c2l.tl.adapt(sdata, "toy", steps=2, progress=False)
    >>> synth = c2l.tl.augment(sdata, local, n_obs=20, sampler_steps=2, progress=False)
    >>> c2l.tl.embedding_overlap(sdata, synth, umap=False)
    >>> sorted(synth.uns["embedding_overlap"]["floor"])
    ['c2st', 'coverage', 'density', 'frechet', 'ilisi', 'kid', 'kid_sd']
    """
    from c2lst.models._encoders import embed_patches

    synthetic_table(synthetic)
    seen = spots(real, subset=subset, table_key=table_key, patch_key=patch_key, at_least=20, what="embedding_overlap")
    if synthetic.n_obs < 10:
        raise ValueError(f"{synthetic.n_obs} synthetic spots are too few; make at least 10 with c2lst.tl.augment.")
    model = central_for([synthetic, *(s.table for s in seen)], central, encoder=encoder)
    if model is not None:
        for table, key in [(synthetic, "patches"), *((s.table, patch_key) for s in seen)]:
            check_scale(table, model.mpp, model.patch_px, f"the central model {model.name!r}", key)
    a = np.concatenate([s.patches for s in seen])
    b = np.asarray(get_patches(synthetic)[:])
    out: dict[str, Any] = {"encoder": encoder, "n_real": len(a), "n_synthetic": len(b)}
    x, y = (embed_patches(p, encoder, model) for p in (a, b))
    order, x, y = _reduced(x, y, seed)
    figures, floor = _figures(order, x, y, seed)
    out |= figures
    out["floor"] = floor
    out["baseline"] = _figures(*_reduced(*(embed_patches(p, "rgb", None) for p in (a, b)), seed), seed)[0]
    if umap:
        out["umap_real"], out["umap_synthetic"] = joint_umap(x, y, seed)
    out["params"] = jsonable({"encoder": encoder, "subset": subset, "patch_key": patch_key, "seed": seed})
    synthetic.uns[key_added] = out


def reducer(rows: NDArray, dim: int) -> Callable[[NDArray], NDArray]:
    """Return what projects features onto the main components of `rows`, `dim` of them at most.

    Features are scaled with a floor, as for the ridges: one that fires on few of the rows would decide every distance.
    """
    from sklearn.decomposition import PCA

    from c2lst.models._ridge import scaling

    mean, inverse = rows.mean(0), scaling(rows.var(0))
    pca = PCA(max(2, min(MAX_DIM, dim, *rows.shape)), svd_solver="full").fit((rows - mean) * inverse)
    return lambda x: pca.transform((x - mean) * inverse)


def _reduced(x: NDArray, y: NDArray, seed: int) -> tuple[NDArray[np.int64], NDArray, NDArray]:
    """Return the order of the real rows, and both reduced by the first half: what it is compared with is projected alike."""
    order = generator(seed, 61).permutation(len(x))
    # a covariance of d dimensions wants several times as many rows
    reduce = reducer(x[order[: len(x) // 2]], min(len(x) // 2, len(y)) // 5)
    return order, reduce(x), reduce(y)


def _figures(order: NDArray[np.int64], x: NDArray, y: NDArray, seed: int) -> tuple[dict[str, float], dict[str, float]]:
    from c2lst.metrics import c2st, density_coverage, frechet_distance, ilisi, kid

    m, middle = min(len(x) // 2, len(y)), len(x) // 2
    half, other = x[order[:m]], x[order[middle : middle + m]]
    few = y[generator(seed, 62).permutation(len(y))[:m]]
    unit = float(np.sqrt(half.var(0).mean())) or 1.0  # the kernel of KID is of features of unit variance

    def compare(synthetic: NDArray) -> dict[str, float]:
        distance, sd = kid(half / unit, synthetic / unit, seed=derive(seed, 63))
        density, coverage = density_coverage(half, synthetic)
        both = np.concatenate([half, synthetic])
        return {
            "frechet": float(frechet_distance(half, synthetic)),
            "kid": float(distance),
            "kid_sd": float(sd),
            "density": float(density),
            "coverage": float(coverage),
            "c2st": float(c2st(half, synthetic, seed=derive(seed, 64))),
            "ilisi": float(ilisi(both, np.repeat([0, 1], m), perplexity=min(30, max(2, m // 4)))),
        }

    return compare(few), compare(other)


def joint_umap(x: NDArray, y: NDArray, seed: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return UMAP coordinates of both in one map (McInnes et al. 2018)."""
    import warnings

    import torch
    from umap import UMAP

    threads = torch.get_num_threads()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            both = UMAP(
                n_neighbors=min(15, len(x) + len(y) - 1), random_state=derive(seed, 65), init="pca", n_jobs=1
            ).fit_transform(np.concatenate([x, y]))
    finally:
        torch.set_num_threads(threads)  # numba under UMAP shares OpenMP with torch, and sets its number of threads
    both = both.astype(np.float32)
    return both[: len(x)], both[len(x) :]
