from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np

from c2lst._checks import check_choice, check_fraction, check_patches, check_positive
from c2lst._docs import doc
from c2lst._expression import check_genes, counts, expression, library_size
from c2lst._keys import Key
from c2lst._logging import logger
from c2lst._notes import notes, record
from c2lst._random import derive, generator

from ._inputs import Spots, check_scale, common_panel, section_names, spots
from ._teacher import central_teacher, stretched
from ._tissue import Tissue, turns

if TYPE_CHECKING:
    from pathlib import Path

    from anndata import AnnData
    from numpy.typing import NDArray

    from c2lst.models import CentralModel, LocalModel
    from c2lst.nn import GeneEncoder
    from c2lst.train import ModulationPlan

DEFAULTS = {True: (300, 3e-3), False: (200, 1e-3)}  # steps and lr, with predicted genes and without


@doc
def adapt(
    data: Any,
    central: CentralModel | str | Path = "starter",
    *,
    modulation: str = "film",
    gene_encoder: str = "pca",
    pool: NDArray[np.uint8] | None = None,
    pool_genes: str = "predicted",
    subset: str | None = None,
    layer: str | None = None,
    table_key: str = "table",
    patch_key: str = "patches",
    genes_key: str = "c2lst_genes",
    library_key: str | None = None,
    steps: int | None = None,
    batch_size: int = 32,
    lr: float | None = None,
    gene_dropout: float = 0.1,
    time_shift: float = 3.0,
    validation: float = 0.15,
    accelerator: str = "auto",
    devices: int | str = 1,
    strategy: str = "auto",
    seed: int = 0,
    key_added: str = "c2lst",
    progress: bool | None = None,
) -> LocalModel:
    """Adapt a central model to the genes of a few paired spots.

    A light modulation of the frozen denoiser's adaptive norms is fitted by the denoising loss; at step 0 it is nothing.
    Genes are dropped at random, so that sampling can be guided (Ho & Salimans 2022). Some of the spots are held out to
    choose the step that is kept, and to say whether the model listens: its loss with the true genes is compared to its
    loss with the genes of other spots of the same section.

    Few spots say little of how genes change a patch; unpaired tissue (`pool`) of the same slides says more. A ridge on the
    central model's features, fitted on the spots that are not held out, predicts the genes of its patches, and the modulation
    learns from those pairs as well.

    Parameters
    ----------
    {data}
        Needs patches (:func:`c2lst.pp.extract_patches`) of the central model's scale and a panel
        (:func:`c2lst.pp.select_genes`).
    central
        A central model, its registered name or its directory.
    modulation
        `"film"`, or `"lora"` (needs peft).
    gene_encoder
        `"pca"` (few spots), `"mlp"`, or `"scvi"` (20 spots or more).
    pool
        Unpaired H&E of the institution, uint8 `(n, H, W, 3)` at the same scale; of more than 2,000 patches as many are drawn.
        Tissue of test spots is tissue too: leave it out (:func:`c2lst.pp.tissue_patches` of the training sections).
    pool_genes
        `"predicted"`: two patches of the pool go with each spot in a step, under genes that a ridge predicts, spread as far
        as measured ones. `"dropped"`: one goes with four spots, without genes, so that stain and tissue are learned from it.
    {subset}
    {layer}
    {table_key}
    patch_key, genes_key
        Where the patches and the panel are.
    library_key
        Column of `obs` that names the sections of a concatenated AnnData.
    steps, lr
        Training steps and learning rate; `None` is 300 steps at 3e-3 under predicted genes, 200 at 1e-3 otherwise.
    batch_size
        Patches a step; under predicted genes as many of the pool, and half as many spots.
    gene_dropout
        Share of spots whose genes are dropped in a step.
    time_shift
        Factor on the odds of a noisy time over a clean one, in training and on held-out spots (Esser et al. 2024); 1 is that of
        pretraining. What kind of tissue a patch becomes is decided while there is much noise, and there the genes count.
    validation
        Share of the spots, less than 1, that is held out to choose the step and to see whether the model listens; with
        fewer than 12 spots none is. The gene encoder is fitted on all of them.
    {engine}
    {seed}
    key_added
        Key of `uns` under which what was fitted is noted.
    {progress}

    Returns
    -------
    The local model. Sets the following fields:

    `uns["c2lst"]["central"]` : dict
        Name and content hash of the central model.
    `uns[key_added]["local"]` : dict
        What the model saw.

    Raises
    ------
    KeyError
        Patches, panel, subset or layer are missing.
    ValueError
        Scales do not agree, expression is no counts, or there are fewer than 2 spots.

    Examples
    --------
    >>> import c2lst as c2l
    >>> sdata = c2l.datasets.toy_tissue(40)
    >>> c2l.pp.extract_patches(sdata, mpp=2.0, patch_px=64)
    >>> c2l.pp.select_genes(sdata, n_top=20)
    >>> local = c2l.tl.adapt(sdata, "toy", steps=2, progress=False)
    >>> len(local.genes)
    20
    """
    import torch

    from c2lst.models import LocalModel, central_model
    from c2lst.nn import GENE_ENCODERS, MODULATIONS, sites
    from c2lst.train import Bar, ModulationPlan, fit

    begun = time.monotonic()
    check_choice("modulation", modulation, list(MODULATIONS))
    check_choice("gene_encoder", gene_encoder, list(GENE_ENCODERS))
    check_choice("pool_genes", pool_genes, ["predicted", "dropped"])
    told = pool is not None and pool_genes == "predicted"
    steps = DEFAULTS[told][0] if steps is None else steps
    lr = DEFAULTS[told][1] if lr is None else lr
    check_positive("steps", steps, integer=True)
    check_positive("batch_size", batch_size, integer=True)
    check_positive("lr", lr)
    check_positive("time_shift", time_shift)
    check_fraction("gene_dropout", gene_dropout, zero=True)
    check_fraction("validation", validation, zero=True)
    model = central_model(central)
    seen = spots(
        data, subset=subset, table_key=table_key, patch_key=patch_key, library_key=library_key, at_least=2, what="adapt"
    )
    tables = [s.table for s in seen]
    n = sum(len(s.rows) for s in seen)
    n_held = round(validation * n) if n >= 12 else 0
    if n - n_held < 2:
        raise ValueError(
            f"validation={validation:g} holds out {n_held} of {n} spots, which leaves nothing to adapt to."
        )
    for table in tables:
        check_scale(table, model.mpp, model.patch_px, f"the central model {model.name!r}", patch_key)
    genes = common_panel(tables, genes_key)
    tissue = pool if isinstance(pool, Tissue) else None  # of a benchmark, whose draws share it
    if pool is not None and tissue is None:
        check_patches(pool, "pool")
        if tuple(pool.shape[1:3]) != (model.patch_px, model.patch_px):
            raise ValueError(
                f"pool has patches of {pool.shape[1]} x {pool.shape[2]} px, the central model takes {model.patch_px}; "
                f"call c2lst.pp.tissue_patches(sdata, mpp={model.mpp:g}, patch_px={model.patch_px})."
            )
        tissue = Tissue(pool)
    encoder_class = GENE_ENCODERS[gene_encoder]
    values = np.concatenate([gene_values(s.table[s.rows], genes, layer, encoder_class) for s in seen])

    encoder = encoder_class.fit(values, seed=derive(seed, 21))
    widths = [s.width for s in sites(model.denoiser)]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, 22))
        film = MODULATIONS[modulation](encoder.dim, widths, **_sized(modulation, model, encoder, widths))
        denoiser = film.bind(model.denoiser)
    patches = np.concatenate([s.patches for s in seen])
    latents = turns(model, patches)
    genes_tensor = torch.from_numpy(np.asarray(values, dtype=np.float32))
    order = generator(seed, 23).permutation(n)
    held, used = order[:n_held], order[n_held:]
    few = few_genes = None
    bar = Bar(steps + 8 * told, progress)
    if tissue is not None:
        unpaired = tissue.drawn(seed)
        few = unpaired.turns(model, bar) if told else model.encode(unpaired.patches)
    if told:
        few_genes = torch.from_numpy(predicted(model, seen, patches, used, unpaired, genes, layer, encoder_class))
    plan = ModulationPlan(
        denoiser,
        model.scheduler,
        film,
        encoder,
        latents[used],
        genes_tensor[used],
        pool=few,
        pool_genes=few_genes,
        dropout=gene_dropout,
        time_shift=time_shift,
        held_out=(latents[held], genes_tensor[held]) if n_held else None,
        held_out_groups=section_names(seen)[held],
        check_every=max(1, steps // 12),
        steps=steps,
        batch_size=min(batch_size, 4 * n),
        lr=lr,
        seed=derive(seed, 25),
        weight_decay=0.05,
    )
    try:
        fit(plan, desc="adapt", accelerator=accelerator, devices=devices, strategy=strategy, bar=bar)
    finally:
        plan.release()
        bar.close()
    card: dict[str, Any] = {
        "sections": [s.section.name for s in seen],
        "n_spots": int(n),
        "n_held_out": int(n_held),
        "n_pool": 0 if few is None else len(few),
        "pool_genes": pool_genes if few is not None else "none",
        "subset": subset or "all spots",
        "n_genes": len(genes),
        "mpp": model.mpp,
        "patch_px": model.patch_px,
        "steps": int(steps),
        "lr": float(lr),
        "time_shift": float(time_shift),
        "seed": int(seed),
    }
    if n_held:
        card |= _listening(plan, n_held, told)
    card["share_of_central"] = round(
        sum(p.numel() for m in (film, encoder) for p in m.parameters()) / model.n_parameters, 4
    )
    card["hours"] = round((time.monotonic() - begun) / 3600, 4)
    card["curves"] = {"loss": _thin(plan.losses), "validation": [list(v) for v in plan.validation]}
    local = LocalModel(model, encoder, film, genes, modulation_kind=modulation, card=card)
    for s in seen:
        table = s.table if s.section.parent is None else s.section.parent
        notes(table)["central"] = model.reference
        record(
            table, "adapt", central=model.name, modulation=modulation, gene_encoder=gene_encoder, subset=subset,
            layer=layer, patch_key=patch_key, genes_key=genes_key, steps=steps, batch_size=batch_size, lr=lr, time_shift=time_shift, seed=seed,
            pool=0 if tissue is None else len(tissue), pool_genes=card["pool_genes"],
        )  # fmt: skip
        said = {k: v for k, v in card.items() if k not in ("curves", "hours")}
        table.uns[key_added] = {**dict(table.uns.get(key_added, {})), "local": said}
    return local


def _listening(plan: ModulationPlan, n_held: int, told: bool) -> dict[str, Any]:
    """Take the step that is kept; return what held-out spots say of it, and say so where that is no good."""
    plan.load_state_dict(plan.best[1])
    repeats = min(64, max(16, 1024 // n_held))
    own = plan.held_out_loss(repeats=repeats)
    none = plan.held_out_loss(dropped=True, repeats=repeats)
    # of the same section: genes that say no more than whose stain it is are not listened to
    other = plan.held_out_loss(shuffle=True, repeats=repeats, within=True)
    if other.isfinite().sum() < 3:
        other = plan.held_out_loss(shuffle=True, repeats=repeats)
    gain = (other - own)[other.isfinite()]
    error = float(gain.std() / len(gain) ** 0.5) if len(gain) > 1 else 0.0
    own, none, gain = (float(v.mean()) for v in (own, none, gain))
    other = own + gain
    listens = bool(gain > 1.645 * error)  # one-sided, at 5 %; lenient at that: the step was chosen on these very spots
    if not listens:
        logger.warning(
            "The local model does not demonstrably listen to its genes: on %d held-out spots the loss is %.4f with the "
            "true genes, %.4f with those of other spots of the same section (the difference has a standard error of "
            "%.4f). Do not trust its synthetic spots; more spots, more steps or another panel may help.",
            n_held,
            own,
            other,
            error,
        )
    elif own >= none and told:
        logger.info(
            "The local model listens to its genes, and trusts them more than measured genes deserve (held-out loss "
            "%.4f with the true ones, %.4f with none): its patches say more of their genes than tissue does.",
            own,
            none,
        )
    elif own >= none:
        logger.warning(
            "On held-out spots the local model does better without genes (loss %.4f) than with the true ones "
            "(%.4f): what it learned of them is overfitted to few spots. Fewer steps, a lower lr or more spots may "
            "help.",
            none,
            own,
        )
    return {
        "kept_step": int(plan.best[2]),
        "loss_held_out": round(own, 5),
        "loss_genes_shuffled": round(other, 5),
        "loss_genes_dropped": round(none, 5),
        "gain_from_genes": round(gain, 5),
        "gain_standard_error": round(error, 5),
        "listens": listens,
    }


def gene_values(
    table: AnnData, genes: list[str], layer: str | None, encoder: type[GeneEncoder] | GeneEncoder
) -> NDArray[np.float32]:
    """Return what a gene encoder takes: log1p CP10k, or counts."""
    if not encoder.uses_counts:
        return expression(table, genes, layer)
    if layer is None and "counts" in table.layers and Key.obs.PARENT in table.obs:
        layer = "counts"
    x = counts(table, layer)[:, check_genes(table, genes)]
    return np.asarray(x.todense() if hasattr(x, "todense") else x, dtype=np.float32)


def predicted(
    model: CentralModel, seen: list[Spots], patches: NDArray[np.uint8], used: NDArray[np.int64], pool: Tissue,
    genes: list[str], layer: str | None, encoder: type[GeneEncoder],
) -> NDArray[np.float32]:  # fmt: skip
    """Return what a gene encoder takes, for each patch of the pool: genes predicted from the spots that are `used`."""
    from c2lst.models._ridge import folds

    log = np.concatenate([expression(s.table[s.rows], genes, layer) for s in seen])[used]
    groups = section_names(seen)[used]
    at = [np.asarray(s.table.obsm[Key.obsm.SPATIAL])[s.rows] for s in seen if Key.obsm.SPATIAL in s.table.obsm]
    positions = np.concatenate(at)[used] if len(at) == len(seen) else None
    teacher = central_teacher(patches[used], log, folds(groups, positions), model)
    told = stretched(teacher(pool), log)
    if not encoder.uses_counts:
        return told
    size = np.concatenate([library_size(s.table[s.rows], layer) for s in seen])[used]
    return (np.expm1(np.clip(told, 0, None)) * np.median(size) / 1e4).astype(np.float32)


def _sized(kind: str, model: CentralModel, encoder: GeneEncoder, widths: list[int]) -> dict[str, int]:
    """Choose the rank so that what is added stays under 5 % of the central model's parameters."""
    budget = 0.05 * model.n_parameters - sum(p.numel() for p in encoder.parameters())
    if kind == "lora":
        budget *= 0.6
    rank = int((budget - sum(widths)) // (sum(widths) + 3 * encoder.dim + 100))
    return {"rank": max(2, min(64, rank))}


def _thin(values: list[float], keep: int = 200) -> list[float]:
    parts = np.array_split(np.asarray(values, dtype=float), min(keep, max(1, len(values))))
    return [round(float(p.mean()), 5) for p in parts if len(p)]
