from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING, Any

import numpy as np

from c2lst._checks import PRECISIONS, check_choice, check_positive
from c2lst._docs import doc
from c2lst._expression import LOG1P, check_genes, counts, expression, library_size
from c2lst._keys import Key
from c2lst._logging import logger
from c2lst._notes import jsonable, notes, record
from c2lst._patches import made_meta, rows_done, valid_mask
from c2lst._random import derive, generator
from c2lst._resolve import sections
from c2lst._settings import settings as package
from c2lst._subset import subset_masks

if TYPE_CHECKING:
    from pathlib import Path

    from anndata import AnnData
    from numpy.typing import NDArray

    from c2lst.models import LocalModel

STRATEGIES = ("resample", "interpolate", "scvi")
BLOCK = 512  # patches that are drawn before they are written
N_COMPONENTS = 3  # won by validation (benchmarks/results/augmentation/adaptation.md)


@doc
def augment(
    data: Any,
    local: LocalModel,
    *,
    n_obs: int | None = None,
    strategy: str = "interpolate",
    n_components: int | None = N_COMPONENTS,
    condition_noise: float = 0.0,
    guidance: float = 2.5,
    sampler_steps: int = 16,
    subset: str | None = None,
    layer: str | None = None,
    table_key: str = "table",
    library_key: str | None = None,
    batch_size: int = 64,
    precision: str = "32-true",
    store: str | Path | None = None,
    devices: int = 1,
    seed: int = 0,
    progress: bool | None = None,
) -> AnnData:
    """Make synthetic spots: gene profiles like those of the data, and a patch the local model draws for each.

    Parameters
    ----------
    {data}
        The spots whose profiles are the start; patches are not read.
    local
        What :func:`c2lst.tl.adapt` returns.
    n_obs
        How many; `None` is ten for each spot, 2,000 at most.
    strategy
        `"resample"`: the real profiles. `"interpolate"`: between a spot and one of its five neighbours in expression,
        nearer to the spot, which is the parent. `"scvi"`: counts drawn from the posterior predictive of
        :class:`scvi.model.SCVI` (Lopez et al. 2018) at each parent.
    n_components
        Keep profiles to as many principal components of the spots' profiles before a patch is drawn; `None` draws for
        them as they are. Several patches share a parent, so the noise of its counts is in all of their labels, and with
        a few dozen spots a predictor learns it: three components won there. What is left out cannot be learnt either;
        take more with more spots. `"scvi"` models the noise and does not read this.
    condition_noise
        Sd of Gaussian noise on the profiles, in units of each gene's sd over the spots; a patch is drawn for the noisy
        profile, which is its row of `X`. Not for `"scvi"`, which is noise already.
    guidance
        Of Ho & Salimans (2022): 1 is none, more exaggerates what the genes ask for.
    sampler_steps
        Steps of the central model's solver.
    {subset}
    {layer}
    {table_key}
    library_key
        Column of `obs` that names the sections of a concatenated AnnData.
    batch_size
        Patches drawn at once; bounds the memory.
    precision
        `"32-true"`, or `"bf16-mixed"`, which is faster where the processor has bfloat16 (and several times slower, with a
        warning, where it has not); grey levels then differ a little, and so between processors.
    store
        Directory of a zarr store that takes the patches, for more of them than memory holds. A call that was interrupted
        goes on there; a store of other patches is refused.
    devices
        Processes that share the work; the same patches come out.
    {seed}
    {progress}

    Returns
    -------
    A new AnnData `(n_obs, n_genes)`: `X` is the profile that conditioned each patch (log1p CP10k), with the fields

    `obsm["patches"]` : uint8 `(n_obs, H, W, 3)`
        Unless they are in `store`.
    `obs["c2lst_origin"]`, `obs["c2lst_parent"]`, `obs["c2lst_section"]`, `obs["c2lst_seed"]`
        "synthetic", obs_name and section of the parent, and the seed.
    `obs["c2lst_partner"]`, `obs["c2lst_partner_section"]`
        With `"interpolate"`: of the spot whose expression is mixed in.
    `var["c2lst_mean"]`
        Mean of each gene over the spots that were the start.
    `layers["counts"]`
        For `"scvi"` alone.

    Raises
    ------
    KeyError
        Genes of the local model's panel are missing, or the subset is.
    ValueError
        Expression is no counts, or an argument is out of range.

    Examples
    --------
    >>> import c2lst as c2l
    >>> sdata = c2l.datasets.toy_tissue(40)
    >>> c2l.pp.extract_patches(sdata, mpp=2.0, patch_px=64)
    >>> c2l.pp.select_genes(sdata, n_top=20)
    >>> local = c2l.tl.adapt(sdata, "toy", steps=2, progress=False)
    >>> synth = c2l.tl.augment(sdata, local, n_obs=4, sampler_steps=2, progress=False)
    >>> synth.shape, synth.obsm["patches"].shape
    ((4, 20), (4, 64, 64, 3))
    """
    from anndata import AnnData

    if store is not None:
        store = os.path.abspath(os.fspath(store))  # to be found after a change of the working directory
    check_choice("strategy", strategy, STRATEGIES)
    check_positive("condition_noise", condition_noise, zero=True)
    if n_components is not None:
        check_positive("n_components", n_components, integer=True)
    if condition_noise and strategy == "scvi":
        raise ValueError("condition_noise= is for strategy='resample' and 'interpolate'; draws of 'scvi' are counts.")
    check_positive("guidance", guidance, zero=True)
    check_positive("sampler_steps", sampler_steps, integer=True)
    check_positive("batch_size", batch_size, integer=True)
    check_choice("precision", precision, PRECISIONS)
    check_positive("devices", devices, integer=True)
    found = []
    here = sections(data, table_key=table_key, library_key=library_key)
    for section, mask in zip(here, subset_masks(here, subset), strict=True):
        check_genes(section.table, local.genes, f"The table of section {section.name!r}")
        rows = np.flatnonzero(mask & valid_mask(section.table))
        if len(rows):
            found.append((section, rows))
    if len(here) > 1 and any(s.positional for s in here):
        logger.warning(
            "Nothing names the sections: parents are noted by place in the list (%s). Pass a dict {name: section}, or set "
            "uns[%r] of the tables, so that they are found in another order too.",
            ", ".join(s.name for s in here if s.positional), Key.SECTION,
        )  # fmt: skip
    if not found:
        raise ValueError(f"No spot with a valid patch is left (subset={subset!r}).")
    log = np.concatenate([expression(s.table[rows], local.genes, layer) for s, rows in found])
    names = np.concatenate([s.table.obs_names.to_numpy()[rows] for s, rows in found])
    where = np.concatenate([np.repeat(s.name, len(rows)) for s, rows in found])
    n = min(2000, 10 * len(names)) if n_obs is None else n_obs
    check_positive("n_obs", n, integer=True)
    uses_counts = local.gene_encoder.uses_counts or strategy == "scvi"
    raw = size = None
    if uses_counts:
        panels = [counts(s.table[rows], layer)[:, check_genes(s.table, local.genes)] for s, rows in found]
        raw = np.concatenate([np.asarray(p.todense() if hasattr(p, "todense") else p) for p in panels])
        size = np.concatenate([library_size(s.table[rows], layer) for s, rows in found])

    parents = parents_of(len(names), n, seed)
    profiles, drawn, partners = _profiles(strategy, log, raw, size, parents, local, seed)
    if n_components is not None and strategy != "scvi":
        profiles = _denoised(profiles, log, n_components)
    if condition_noise:
        jitter = generator(seed, 36).standard_normal(profiles.shape, dtype=np.float32)
        profiles = np.maximum(profiles + condition_noise * log.std(0) * jitter, 0)
    condition = profiles
    if local.gene_encoder.uses_counts:
        pseudo = np.expm1(profiles) * size[parents, None] / 1e4
        condition = pseudo if drawn is None else drawn

    synthetic = AnnData(profiles.astype(np.float32))
    synthetic.var_names = local.genes
    synthetic.obs_names = [f"synthetic_{i}" for i in range(n)]
    synthetic.obs[Key.obs.ORIGIN] = "synthetic"
    synthetic.obs[Key.obs.PARENT] = names[parents]
    synthetic.obs[Key.SECTION] = where[parents]
    synthetic.obs[Key.obs.SEED] = int(seed)
    if partners is not None:
        synthetic.obs[Key.obs.PARTNER] = names[partners]
        synthetic.obs[Key.obs.PARTNER_SECTION] = where[partners]
    named = (Key.obs.ORIGIN, Key.obs.PARENT, Key.SECTION, Key.obs.PARTNER, Key.obs.PARTNER_SECTION)
    for key in [k for k in named if k in synthetic.obs]:
        synthetic.obs[key] = synthetic.obs[key].astype("category")
    synthetic.var[Key.var.GENES] = True
    synthetic.var[Key.var.MEAN] = log.mean(0)
    if drawn is not None:
        synthetic.layers["counts"] = drawn.astype(np.int32)
    keep = notes(synthetic)
    keep["central"], keep["expression"] = local.central.reference, LOG1P
    keep["local"] = jsonable({k: local.card[k] for k in ("sections", "n_spots", "subset") if k in local.card})
    keep["patches"] = made_meta(local.mpp, local.patch_px, store)
    record(
        synthetic, "augment", strategy=strategy, n_components=n_components, condition_noise=condition_noise, guidance=guidance, sampler_steps=sampler_steps, subset=subset,
        layer=layer, n_obs=n, precision=precision, seed=seed, listens=local.card.get("listens"),
    )  # fmt: skip
    settings = {
        "seed": derive(seed, 31), "guidance": guidance, "steps": sampler_steps, "batch_size": batch_size, "precision": precision,
    }  # fmt: skip
    if store is not None:
        from c2lst._logging import batches
        from c2lst._logging import progress as bar
        from c2lst.io import write_patches

        block = batch_size * max(1, BLOCK // batch_size)
        there = rows_done(store)
        meta = {"drawn": _drawn_from(local, condition, settings)}

        def chunks():
            with bar(total=n, desc="generating", show=progress, unit="patch") as shown:
                for s in batches(n, block):
                    if s.stop <= there:  # the writer passes over what it has, or refuses the store
                        yield np.zeros((s.stop - s.start, local.patch_px, local.patch_px, 3), dtype=np.uint8)
                    else:
                        yield local.sample(condition[s], index=np.arange(s.start, s.stop), **settings)
                    shown.update(s.stop - s.start)

        write_patches(store, chunks(), obs_names=list(synthetic.obs_names), mpp=local.mpp, meta=meta, resume=True)
    elif devices > 1:
        synthetic.obsm[Key.obsm.PATCHES] = in_processes(local, condition, devices, settings)
    else:
        synthetic.obsm[Key.obsm.PATCHES] = local.sample(condition, progress=progress, **settings)
    return synthetic


def _drawn_from(local: LocalModel, condition: NDArray, settings: dict[str, Any]) -> str:
    """Tell what is drawn from all else that could be: a digest of model, profiles and settings."""
    digest = hashlib.sha256(f"{local.central.hash} {sorted(settings.items())}".encode())
    digest.update(np.ascontiguousarray(condition, dtype=np.float32).tobytes())
    for module in (local.gene_encoder, local.modulation):
        for key, value in sorted(module.state_dict().items()):
            digest.update(key.encode() + np.ascontiguousarray(value.detach().cpu().numpy()).tobytes())
    return digest.hexdigest()[:16]


def parents_of(n_spots: int, n: int, seed: int) -> NDArray[np.int64]:
    """Draw parents so that every spot is one equally often, up to one."""
    rounds = [generator(seed, 32, k).permutation(n_spots) for k in range(-(-n // n_spots))]
    return np.concatenate(rounds)[:n]


def neighbours(log: NDArray[np.float32], k: int = 5) -> NDArray[np.int64]:
    """Return the `k` nearest spots of each in standardised expression, `(n, k)`; fewer where there are fewer."""
    from sklearn.neighbors import NearestNeighbors

    z = (log - log.mean(0)) / np.maximum(log.std(0), 1e-6)
    k = min(k, len(z) - 1)
    if k < 1:
        return np.arange(len(z))[:, None]
    return NearestNeighbors(n_neighbors=k + 1).fit(z).kneighbors(z, return_distance=False)[:, 1:]


def _profiles(
    strategy: str,
    log: NDArray[np.float32],
    raw: NDArray | None,
    size: NDArray | None,
    parents: NDArray[np.int64],
    local: LocalModel,
    seed: int,
) -> tuple[NDArray[np.float32], NDArray | None, NDArray[np.int64] | None]:
    """Return profiles, counts where they were drawn, and the spots that parents were mixed with."""
    if strategy == "resample":
        return log[parents], None, None
    if strategy == "interpolate":
        partner, share = mixing(log, parents, seed)
        return (1 - share) * log[parents] + share * log[partner], None, partner
    import torch

    from c2lst.nn import SCVIGeneEncoder

    encoder = local.gene_encoder
    if encoder.kind != "scvi":
        encoder = SCVIGeneEncoder.fit(raw, seed=derive(seed, 34))
    drawn = encoder.draw(torch.from_numpy(raw[parents].astype(np.float32)), seed=derive(seed, 35)).numpy()
    rate = drawn * 1e4 / np.maximum(size[parents, None], 1)
    return np.log1p(rate).astype(np.float32), drawn, None


def _denoised(profiles: NDArray[np.float32], log: NDArray[np.float32], n_components: int) -> NDArray[np.float32]:
    """Project profiles on the first principal components of the spots', at least 0."""
    mean = log.mean(0)
    _, _, vt = np.linalg.svd((log - mean).astype(np.float64), full_matrices=False)
    basis = vt[:n_components]
    return np.maximum(mean + (profiles - mean) @ basis.T @ basis, 0).astype(np.float32)


def mixing(
    log: NDArray[np.float32], parents: NDArray[np.int64], seed: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Draw a partner among the parent's expression neighbours and its share, up to a half: `(n,)`, `(n, 1)`."""
    near = neighbours(log)
    # a stream each: what is drawn for a spot does not depend on how many follow it
    which = generator(seed, 33, 0).integers(near.shape[1], size=len(parents))
    share = generator(seed, 33, 1).uniform(0, 0.5, size=(len(parents), 1))
    return near[parents, which], share.astype(np.float32)


def in_processes(local: LocalModel, condition: NDArray, devices: int, settings: dict[str, Any]) -> NDArray[np.uint8]:
    """Share the drawing among processes: whole batches each, so that a batch is what it is in one process."""
    import tempfile
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context
    from pathlib import Path

    size = settings["batch_size"]
    n_batches = -(-len(condition) // size)
    cuts = [min(len(condition), size * round(i * n_batches / devices)) for i in range(devices + 1)]
    with tempfile.TemporaryDirectory() as folder:
        central, own = Path(folder) / "central", Path(folder) / "local"
        local.central.save_pretrained(central)
        local.save_pretrained(own)
        jobs = [
            (str(central), str(own), condition[a:b], np.arange(a, b), settings, i, package.accelerator)
            for i, (a, b) in enumerate(zip(cuts[:-1], cuts[1:], strict=True))
            if b > a
        ]
        with ProcessPoolExecutor(len(jobs), mp_context=get_context("spawn")) as pool:
            return np.concatenate(list(pool.map(_draw_part, jobs)))


def _draw_part(job: tuple) -> NDArray[np.uint8]:
    import torch

    from c2lst.models import CentralModel, LocalModel

    central, own, condition, index, settings, i, package.accelerator = job
    torch.set_num_threads(1)
    if torch.cuda.is_available():
        torch.cuda.set_device(i % torch.cuda.device_count())
    local = LocalModel.from_pretrained(own, central=CentralModel.from_pretrained(central))
    return local.sample(condition, index=index, **settings)
