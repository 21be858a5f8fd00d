"""The main job end to end: few spots, a local model, synthetic spots, predictors, and a report a person can read."""

from __future__ import annotations

import platform
import time
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import c2lst as c2l

from ._keys import Key
from ._logging import logger

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from spatialdata import SpatialData

    from .models import CentralModel

FRACTION, MPP, PATCH_PX, N_TOP = 0.1, 2.0, 64, 50
ARMS = (
    "real",
    "classical",
    "mixup",
    "pseudo",
    "pseudo-central",
    "synthetic",
    "shuffled",
    "shuffled-within",
    "unconditional",
)
PACKAGES = ("c2lst", "torch", "diffusers", "lightning", "anndata", "spatialdata", "scanpy", "squidpy", "numpy")
WORDS = {
    "real": "the few real spots alone",
    "classical": "turned, flipped and re-stained copies of them",
    "mixup": "mixtures of neighbours in expression",
    "pseudo": "unpaired tissue with predicted labels",
    "pseudo-central": "the same, labels from the central model's features",
    "synthetic": "synthetic spots (ours)",
    "shuffled": "synthetic patches, genes shuffled",
    "shuffled-within": "the same, shuffled among alike profiles",
    "unconditional": "patches generated without genes",
}


@dataclass
class Job:
    """What the demo runs on."""

    train: dict[str, SpatialData]
    test: dict[str, SpatialData]
    central: CentralModel
    about: str
    caveat: str
    n_synthetic: int
    adapt: dict[str, Any] = field(default_factory=dict)
    predictors: tuple[str, ...] = ("ridge", "ridge-whitened")  # "cnn" takes several times as long as all of these


def toy(seed: int) -> Job:
    """Three simulated sections to train on, another to test on."""
    made = c2l.datasets.toy_tissue(120, sections=4, seed=seed)
    named = {s.attrs[Key.SECTION]: s for s in made}
    names = list(named)
    return Job(
        train={n: named[n] for n in names[:3]},
        test={names[3]: named[names[3]]},
        central=c2l.models.CentralModel.from_pretrained("toy"),
        about="Simulated H&E with known truth (c2lst.datasets.toy_tissue): four sections of one simulated organ, each "
        "with a stain of its own.",
        caveat="This is simulated tissue. It shows that the machinery works, not that it helps on yours.",
        n_synthetic=220,  # no more than there are patches of unpaired tissue
    )


def her2st(seed: int, path: Path | None) -> Job:
    """C2, C3 and C4 to train on, C5 to test on; the starter, of the tissue of the first three."""
    train = {name: c2l.datasets.her2st(name, path=path) for name in ("C2", "C3", "C4")}
    test = {"C5": c2l.datasets.her2st("C5", path=path)}
    return Job(
        train=train,
        test=test,
        central=c2l.models.CentralModel.from_pretrained("starter"),
        about="HER2-positive breast cancer, legacy Spatial Transcriptomics (Andersson et al. 2021, CC BY 4.0): "
        "sections C2, C3 and C4 to train on, C5 to test on.",
        caveat="C2 to C5 are serial sections of ONE tumour: what is shown here is a claim about that tumour.",
        n_synthetic=400,
    )


def run(data: str, *, path: Path | None, out: Path, seed: int, draws: int) -> Path:
    """Run the job and write the report."""
    begun = time.monotonic()
    job = toy(seed) if data == "toy" else her2st(seed, path)
    loading = (time.monotonic() - begun) / 60
    sections = {**job.train, **job.test}
    c2l.pp.extract_patches(sections, mpp=MPP, patch_px=PATCH_PX)
    pool = c2l.pp.tissue_patches(job.train, None, mpp=MPP, patch_px=PATCH_PX)

    # one draw to look at
    c2l.pp.subsample(job.train, FRACTION, seed=seed)
    c2l.pp.select_genes(job.train, n_top=N_TOP, subset=Key.obs.SAMPLED)
    shared = {"subset": Key.obs.SAMPLED, "seed": seed}
    local = c2l.tl.adapt(job.train, job.central, pool=pool, **shared, **job.adapt)
    synth = c2l.tl.augment(job.train, local, n_obs=job.n_synthetic, **shared)
    c2l.tl.embedding_overlap(job.train, synth, seed=seed)
    c2l.tl.composition(job.train, synth)
    c2l.tl.memorization(job.train, synth, subset=Key.obs.SAMPLED, holdout=job.test)
    judge = c2l.tl.fit_predictor(job.train, kind="cnn", seed=seed, progress=False)
    c2l.tl.round_trip(synth, judge, real=job.test, seed=seed)
    (name, test), *_ = job.test.items()
    predictors = {
        "few": c2l.tl.fit_predictor(job.train, **shared, progress=False),
        "synthetic": c2l.tl.fit_predictor(job.train, synthetic=synth, **shared, progress=False),
        "all": c2l.tl.fit_predictor(job.train, seed=seed, progress=False),
    }
    for key, predictor in predictors.items():
        c2l.tl.predict(test, predictor, key_added=f"predicted_{key}", progress=False)
        c2l.tl.spatial_coherence(test, predicted_key=f"predicted_{key}", key_added=f"coherence_{key}")

    # several draws to count on
    runs = c2l.tl.learning_curve(
        job.train, job.test, central=job.central, fractions=(FRACTION, 1.0), arms=ARMS, predictors=job.predictors,
        pool=pool, seeds=range(seed, seed + draws), n_top=N_TOP, n_synthetic=job.n_synthetic, adapt_kwargs=job.adapt,
    )  # fmt: skip
    minutes = (time.monotonic() - begun) / 60
    blocks = _blocks(job, local, synth, test["table"], name, judge, predictors, runs, loading, minutes, seed, draws)
    return c2l.io.report(
        out,
        blocks,
        title="Do synthetic spots help?",
        subtitle=f"c2lst demo, {data} tissue, {FRACTION:.0%} of the spots",
    )


def _blocks(
    job: Job,
    local: Any,
    synth: AnnData,
    test: AnnData,
    name: str,
    judge: Any,
    predictors: dict[str, Any],
    runs: pd.DataFrame,
    loading: float,
    minutes: float,
    seed: int,
    draws: int,
) -> list[Any]:
    B = c2l.io.Block
    card = local.card
    overlap, trip = synth.uns["embedding_overlap"], synth.uns["round_trip"]
    closed = c2l.metrics.gap_closed(runs)
    mean = runs.groupby(["predictor", "fraction", "arm"])["pcc"].mean()
    few, ours, full = (
        mean["ridge", FRACTION, "real"],
        mean["ridge", FRACTION, "synthetic"],
        mean["ridge", 1.0, "real"],
    )
    row = closed[(closed.arm == "synthetic") & (closed.predictor == "ridge")].iloc[0]
    share = f"{row.gap_closed:.2f}" if np.isfinite(row.gap_closed) else "not defined"
    central = job.central
    n_all = sum(s["table"].n_obs for s in job.train.values())
    listens = (
        f"held-out loss {card.get('loss_held_out')} with a spot's own genes, {card.get('loss_genes_shuffled')} with those "
        f"of another, {card.get('loss_genes_dropped')} without genes"
    )
    if not card.get("listens"):
        listens = (
            f"It does **not** demonstrably listen to its genes ({listens}): read everything below with that in mind."
        )
    elif card["loss_held_out"] >= card["loss_genes_dropped"] and card.get("pool_genes") == "predicted":
        listens = f"It **listens** to its genes, more than measured ones deserve ({listens}): its patches exaggerate."
    elif card["loss_held_out"] >= card["loss_genes_dropped"]:
        listens = f"It tells a spot's genes from another's, but does **better without any** ({listens}): overfitted to few spots."
    else:
        listens = f"It **listens** to its genes: {listens}."
    interval = f"95 % interval [{row.low:.2f}, {row.high:.2f}]"
    if not np.isfinite(row.gap_closed):
        interval = f"the gap, {row.gap:.3f} [{row.gap_low:.3f}, {row.gap_high:.3f}], is too small or uncertain"
        if row.n_seeds < 2:
            interval = "a share of the gap needs two draws or more"
    copies = synth.uns["memorization"]["share"]
    took = f", {loading:.1f} of them to load the data"
    return [
        B.text(
            f"{job.about} A central model of histology that knows no genes was turned into a local model with the "
            f"genes of **{card['n_spots']} of {n_all} spots**; it drew {synth.n_obs} synthetic spots; predictors of "
            f"expression from H&E were trained with and without them and tested on section **{name}**, which nothing "
            f"that was trained has seen.\n\n{job.caveat}"
        ),
        B.key_figures(
            [
                (f"{few:.3f}", f"few spots ({FRACTION:.0%})", "correlation, mean over genes; ridge"),
                (f"{ours:.3f}", "few spots and synthetic ones", f"difference {row.difference:+.3f} "
                 f"[{row.difference_low:+.3f}, {row.difference_high:+.3f}]"),
                (f"{full:.3f}", "all spots", "what one would like to reach"),
                (share, "of the gap closed", interval),
            ]
        ),
        B.heading("What was adapted on what"),
        B.text(
            f"**Central model** `{central.name}` ({central.n_parameters / 1e6:.1f} M parameters, {central.patch_px} px "
            f"at {central.mpp:g} um/px, so {central.patch_px * central.mpp:g} um): trained on "
            f"{central.card.get('data', 'not said')}; licence: {central.card.get('licence', 'not said')}. It is "
            f"frozen.\n\n**Local model**: {local.n_parameters / 1e3:.0f} k parameters beside it "
            f"({card['share_of_central']:.1%}), fitted on {card['n_spots']} spots of {', '.join(card['sections'])} "
            f"with {card['n_genes']} genes, {card['n_held_out']} of these spots held out to choose the step; "
            f"{card['n_pool']} unpaired patches taught it tissue and, under predicted genes, what to listen for. {listens}"
        ),
        B.figure(_figure(c2l.pl.training(local)), "Denoising loss while adapting."),
        B.heading("Real and synthetic patches of the same spots"),
        B.text(
            "Above a real patch, below what the local model drew for a profile between that spot's genes and those of "
            "a neighbour in expression. They should show the same kind of tissue, not the same cells."
        ),
        B.figure(_figure(c2l.pl.patches(job.train, n=8, synthetic=synth, seed=seed)), "Spots it was adapted on."),
        B.heading("Do synthetic patches lie where real ones do?"),
        B.text(
            f"In the features of the encoder `{overlap['encoder']}`: a classifier tells synthetic from real with "
            f"accuracy {overlap['c2st']:.2f} (0.5: it cannot; real against real {overlap['floor']['c2st']:.2f}); coverage "
            f"{overlap['coverage']:.2f} (real against real {overlap['floor']['coverage']:.2f})."
        ),
        B.figure(_figure(c2l.pl.embedding_overlap(synth)), "Joint map; each measure beside real against real."),
        B.figure(_figure(c2l.pl.composition(synth)), "What patches are made of: synthetic spots against their parents."),
        B.figure(
            _figure(c2l.pl.memorization(synth)),
            f"Copies? {copies:.1%} of the synthetic patches lie as near to a training patch as the nearest 1 % of unseen "
            f"real patches do; {synth.uns['memorization']['expected']:.1%} by chance.",
        ),
        B.heading("Do the patches say what their genes say?"),
        B.text(
            "A judge (a CNN trained on all real training spots, not on the generator's features) reads the genes back "
            f"from synthetic patches: mean correlation **{trip['mean_pcc']:.3f}**; {trip['shuffled_mean_pcc']:.3f} with "
            f"the genes shuffled; {trip['real_mean_pcc']:.3f} on real patches of the unseen section {name}."
        ),
        B.figure(_figure(c2l.pl.round_trip(synth)), "Round trip, gene by gene."),
        B.heading("Maps"),
        B.figure(_maps(test, _gene(test)), f"Section {name}, not seen in training: log1p of counts per 10,000."),
        B.table(
            _moran(test),
            "Mean Moran's I of measured and predicted genes on one graph, their correlation over genes, and the mean of "
            "predicted minus measured. Predictions are smoother than counts: read the bias "
            "beside that of all spots.",
        ),
        B.heading("Does it help, and is it the genes?"),
        B.text(
            f"{draws} draw{'s' if draws > 1 else ''} of {FRACTION:.0%} of the spots, every arm with the same number of extra samples, steps and "
            "seeds. If shuffled genes helped as much as true ones, the gain would not be the genes'. "
            "Gap closed = (arm - few) / (all - few), left out where the gap is under .05 or its interval reaches 0."
        ),
        B.figure(_figure(c2l.pl.learning_curve(runs)), "Mean correlation over genes on the unseen section."),
        B.table(_arms(runs, closed), "Mean PCC over genes and its sd over draws; differences to the few real spots alone are paired by draw; correlation of "
            "Moran's I over genes."),
        B.heading("Parameters, versions, seed"),
        B.text(f"Seed {seed}; {minutes:.1f} minutes in all{took if loading > 1 else ''}."),
        B.details("Local model", {k: v for k, v in card.items() if k != "curves"}),
        B.details("Central model", {k: v for k, v in central.card.items() if k != "curves"} | central.reference),
        B.details("Synthetic spots", synth.uns[Key.UNS]["params"]),
        B.details("Predictors", {k: p.card for k, p in predictors.items()} | {"judge": judge.card}),
        B.details("Learning curve", {**runs.attrs["settings"]}),
        B.details("Versions", _versions()),
    ]  # fmt: skip


def _figure(axes: Any) -> Any:
    return (axes.ravel()[0] if isinstance(axes, np.ndarray) else axes).figure


def _gene(table: AnnData) -> str:
    """The gene with the most spatial order in the measurement: not chosen by how well anything predicts it."""
    found = table.uns["coherence_all"]
    return str(np.asarray(found["genes"])[int(np.nanargmax(found["measured"]))])


def _maps(table: AnnData, gene: str) -> Any:
    import matplotlib.pyplot as plt

    from ._expression import expression

    at = np.asarray(table.obsm[Key.obsm.SPATIAL])
    shown = {
        "measured": expression(table, [gene])[:, 0],
        f"predicted, {FRACTION:.0%} of the spots": table.obsm["predicted_few"][gene].to_numpy(),
        "predicted, with synthetic spots": table.obsm["predicted_synthetic"][gene].to_numpy(),
        "predicted, all spots": table.obsm["predicted_all"][gene].to_numpy(),
    }
    fig, axes = plt.subplots(1, 4, figsize=(15, 3.9), layout="constrained")
    for ax, (title, values) in zip(axes, shown.items(), strict=True):
        dots = ax.scatter(at[:, 0], at[:, 1], c=values, s=32, cmap="viridis")
        ax.set(title=f"{gene}, {title}", aspect="equal", xticks=[], yticks=[])
        ax.title.set_fontsize(9)
        ax.invert_yaxis()
        fig.colorbar(dots, ax=ax, shrink=0.7)
    return fig


def _moran(table: AnnData) -> pd.DataFrame:
    import pandas as pd

    rows = {"few": f"{FRACTION:.0%} of the spots", "synthetic": "with synthetic spots", "all": "all spots"}
    return pd.DataFrame(
        {
            label: {
                "measured": float(np.nanmean(table.uns[f"coherence_{key}"]["measured"])),
                "predicted": float(np.nanmean(table.uns[f"coherence_{key}"]["predicted"])),
                "correlation over genes": table.uns[f"coherence_{key}"]["corr"],
                "bias": table.uns[f"coherence_{key}"]["bias"],
            }
            for key, label in rows.items()
        }
    ).T.rename_axis("predictor trained on")


def _arms(runs: pd.DataFrame, closed: pd.DataFrame) -> pd.DataFrame:
    import pandas as pd

    rows = []
    order = [a for a in WORDS if a in set(runs.arm)]
    for predictor in dict.fromkeys(runs.predictor):
        for fraction, arm in [(FRACTION, a) for a in order] + [(1.0, "real")]:
            here = runs[(runs.predictor == predictor) & (runs.fraction == fraction) & (runs.arm == arm)]
            if here.empty:
                continue
            found = closed[(closed.predictor == predictor) & (closed.arm == arm) & (closed.fraction == fraction)]
            row = {
                "recipe": predictor,
                "trained on": "all real spots" if fraction == 1 else WORDS[arm],
                "PCC": here.pcc.mean(),
                "sd": here.pcc.std() if len(here) > 1 else np.nan,
                "Moran corr.": here.moran_corr.mean(),
            }
            if len(found):
                f = found.iloc[0]
                row["minus few"] = f"{f.difference:+.3f} [{f.difference_low:+.3f}, {f.difference_high:+.3f}]"
                row["gap closed"] = (
                    f"{f.gap_closed:.2f} [{f.low:.2f}, {f.high:.2f}]"
                    if np.isfinite(f.gap_closed)
                    else "gap too small"
                    if f.n_seeds > 1
                    else "one draw"
                )
            rows.append(row)
    return pd.DataFrame(rows).fillna({"minus few": "", "gap closed": ""})


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "machine": platform.machine()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            logger.debug("%s is not installed as a distribution", name)
    return found
