"""Does a central model transfer? Adapting from it, from a random one, and training from scratch, in the same time.

    python benchmarks/central/transfer.py --central starter --data her2st --out benchmarks/results/central

A tenth of the spots of three sections is what each arm sees; with `--pool` also the tissue of these sections without
its genes, under genes that a ridge on the features of the arm's own start predicts (`c2lst.tl.adapt(pool=)`). The arms:

`unadapted`
    The central model as it is, no genes, no training.
`starter`
    `c2lst.tl.adapt` from the central model. Its seconds are the budget of every other arm.
`lora`
    The same with `modulation="lora"` (needs peft), as many steps.
`mlp`, `scvi`
    The same with another gene encoder, as many steps.
`fine-tuned`
    Every weight of the denoiser is trained together with the modulation, from the central model.
`random`
    `c2lst.tl.adapt` from a denoiser of the same architecture at the random initialisation of diffusers. Unlike the
    initialisation that training starts from, its output layer and adaptive norms are not zero: frozen at zero, it
    could say nothing, whatever the genes.
`random+readout`
    The same, and its output layer is trained together with the modulation: more freedom than `starter` has.
`scratch`
    Denoiser, modulation and gene encoder trained together from the initialisation that `c2lst.tl.pretrain` starts from.
`scratch+tokenizer`
    As `scratch`, with a tokenizer of its own for a third of the budget. Its losses are in another latent space and are
    not given.

All but the last use the central model's tokenizer, so that their losses compare. All arms hold the same share of
their spots out and keep the step that is best there. Validation loss: denoising error on the spots not sampled, same
noise and times for all arms. KID: samples from profiles of the sampled spots against a section never seen. Round trip:
patches from the profiles of that section's spots, read by a ridge on EfficientNet-Lite0 that was fitted on all real
spots of the three sections. Runs that stand in the table are not repeated.

Memory is how much the process grew at its peak while an arm was fitted (Linux; no number elsewhere).

Where the central model has a guide, the arms that leave its denoiser as it is draw with it (`unadapted`, `starter`, `lora`,
`mlp`, `scvi`); the others have a denoiser to which it does not belong.

The budget is wall time, as a user waits for it, on a machine that does nothing else. `--clock cpu` takes the time of
the process instead: on one thread the same, and nearly blind to what else runs (what that does to the caches it sees).
"""

from __future__ import annotations

import argparse
import copy
import ctypes
import gc
import inspect
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from _results import markdown, number, provenance
from _tissue import MIN_TISSUE, Features, stratified

import c2lst as c2l
from c2lst import nn
from c2lst._expression import expression
from c2lst._random import derive, generator
from c2lst.models import CentralModel, LocalModel
from c2lst.tl._adapt import DEFAULTS, _sized, gene_values, predicted
from c2lst.tl._inputs import Spots, common_panel, spots
from c2lst.tl._tissue import Tissue, turns
from c2lst.train import ModulationPlan, Pool, TokenizerPlan, fit

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray

LITE0, SAMPLED = "efficientnet-lite0", "c2lst_sampled"
ARMS = (
    "unadapted",
    "starter",
    "lora",
    "mlp",
    "scvi",
    "fine-tuned",
    "random",
    "random+readout",
    "scratch",
    "scratch+tokenizer",
)
TOKENIZER_SHARE = 1 / 3
REPEATS = 4  # of noise and times in a validation loss
OUTPUTS = ("proj_out", "proj_out_2", "conv_out")  # what diffusers calls the last layer
SCRATCH_LR, TUNE_LR = 6e-4, 1e-4  # the default of tl.pretrain; what is usual for weights that know something
TIME_SHIFT = inspect.signature(c2l.tl.adapt).parameters["time_shift"].default


class Task(NamedTuple):
    """Tables of the sections to learn from and of the one to test on, and disjoint patches of both."""

    train: list[AnnData]
    test: AnnData
    train_patches: dict[str, NDArray[np.uint8]]
    test_patches: NDArray[np.uint8]


def task(tissue: str, data: Path | None, central: CentralModel, n_toy: int) -> Task:
    """Read the sections and cut the patches."""
    if tissue == "her2st":
        found = {s: c2l.datasets.her2st(s, path=data) for s in ("C2", "C3", "C4", "C5")}
    else:
        found = {f"toy{k}": s for k, s in enumerate(c2l.datasets.toy_tissue(n_toy, sections=4, seed=0))}
    scale = {"mpp": central.mpp, "patch_px": central.patch_px}
    c2l.pp.extract_patches(list(found.values()), **scale)
    *train, test = found
    grid = {s: c2l.pp.tissue_patches(found[s], None, min_tissue=MIN_TISSUE, **scale) for s in found}
    return Task([found[s]["table"] for s in train], found[test]["table"], {s: grid[s] for s in train}, grid[test])


class Few(NamedTuple):
    """What an arm is trained on: spots, their patches and profiles of the panel, and which rows it holds out."""

    spots: list[Spots]
    patches: NDArray[np.uint8]
    values: NDArray[np.float32]
    genes: list[str]
    used: NDArray[np.int64]
    held: NDArray[np.int64]


def few(tables: list[AnnData], seed: int, validation: float = 0.15) -> Few:
    """Read the sampled spots, split as `tl.adapt` does."""
    seen, genes = spots(tables, subset=SAMPLED), common_panel(tables)
    values = np.concatenate([expression(s.table[s.rows], genes) for s in seen]).astype(np.float32)
    order = generator(seed, 23).permutation(len(values))
    cut = round(validation * len(values)) if len(values) >= 12 else 0
    return Few(seen, np.concatenate([s.patches for s in seen]), values, genes, order[cut:], order[:cut])


def random_denoiser(central: CentralModel, seed: int, *, zero: bool) -> torch.nn.Module:
    """Return the central model's denoiser at random weights; with `zero`, as it is before training."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, 81))
        made = type(central.denoiser).from_config(central.denoiser.config)
    if zero and hasattr(made, "adaln_single"):  # as in c2lst.nn.make_denoiser
        for block in made.transformer_blocks:
            torch.nn.init.zeros_(block.scale_shift_table)
        for layer in (made.adaln_single.linear, made.proj_out):
            torch.nn.init.zeros_(layer.weight)
            torch.nn.init.zeros_(layer.bias)
    elif zero and hasattr(made, "conv_out"):
        torch.nn.init.zeros_(made.conv_out.weight)
        torch.nn.init.zeros_(made.conv_out.bias)
    return made


def with_parts(central: CentralModel, denoiser: torch.nn.Module, tokenizer: torch.nn.Module | None = None):
    """Return a central model of other weights."""
    tok = copy.deepcopy(central.tokenizer if tokenizer is None else tokenizer)
    return CentralModel(
        tok, denoiser, central.scheduler, mpp=central.mpp, patch_px=central.patch_px, name="random", card={}
    )


class FreePlan(ModulationPlan):
    """Modulation together with weights of the denoiser itself, which follow at another rate."""

    def __init__(self, denoiser: torch.nn.Module, *args: Any, free: torch.nn.Module, free_lr: float, **kwargs: Any):
        super().__init__(denoiser, *args, **kwargs)
        self.free = free.requires_grad_(True)  # a submodule: kept with the best state
        self.factor = free_lr / self.lr

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW, the weights of the denoiser in a group of their own."""
        own = {id(p) for p in self.free.parameters()}
        groups = [
            {"params": [p for p in self.trained() if id(p) not in own], "factor": 1.0},
            {"params": list(self.free.parameters()), "factor": self.factor},
        ]
        return torch.optim.AdamW(groups, lr=self.lr, weight_decay=self.weight_decay, betas=(0.9, 0.99))

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        """As of any plan; the rate of each group is a share of it."""
        loss = super().training_step(batch, batch_idx)
        for group in self.optimizers().param_groups:
            group["lr"] *= group["factor"]
        return loss


CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


class Peak:
    """Most memory the process held within the block, over what it held before, in MB; NaN where that is not to be had."""

    def __enter__(self) -> Peak:
        self.mb = np.nan
        gc.collect()
        try:
            ctypes.CDLL("libc.so.6").malloc_trim(0)  # what was freed before is no longer held
            Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
            self.before = self._read("VmRSS")
        except (OSError, KeyError, AttributeError):
            self.before = np.nan
        return self

    def __exit__(self, *_: object) -> None:
        if np.isfinite(self.before):
            self.mb = self._read("VmHWM") - self.before

    @staticmethod
    def _read(key: str) -> float:
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(dict(line.split(":", 1) for line in lines)[key].split()[0]) / 1024


def warm_up(here: Task, central: CentralModel) -> None:
    """Adapt for two steps: what is loaded and compiled once shall not count against the first arm."""
    c2l.tl.adapt(here.train, central, subset=SAMPLED, steps=2, seed=0, progress=False)


def steps_for(seconds: float, make, desc: str, clock) -> int:
    """Return how many steps fit into `seconds`, by the difference of two short trials."""
    took = []
    for steps in (3, 3, 13):  # the first warms up
        begun = clock()
        fit(make(steps), desc=f"{desc} trial", progress=False)
        took.append(clock() - begun)
    return max(2, int(seconds / max((took[2] - took[1]) / 10, 1e-4)))


def trained_freely(
    arm: str, tables: list[AnnData], central: CentralModel, *, pool: NDArray[np.uint8] | None, seconds: float, seed: int, clock
) -> tuple[LocalModel, int, float]:  # fmt: skip
    """Train an arm that moves weights of the denoiser, for `seconds`; return it, its steps and its seconds.

    The trials that find the number of steps are not counted.
    """
    begun, trials = clock(), 0.0
    seen, tokenizer = few(tables, seed), None
    if arm == "scratch+tokenizer":
        tokenizer, lost = own_tokenizer(central, seen, seconds * TOKENIZER_SHARE, seed, clock)
        trials += lost
    if arm == "fine-tuned":
        start = with_parts(central, copy.deepcopy(central.denoiser))
    else:
        start = with_parts(central, random_denoiser(central, seed, zero=arm != "random+readout"), tokenizer)
    latents, genes, unpaired, told = turns(start, seen.patches), torch.from_numpy(seen.values), None, None
    if pool is not None:
        drawn, pca = Tissue(pool).drawn(seed), nn.GENE_ENCODERS["pca"]
        unpaired = drawn.turns(start)
        told = torch.from_numpy(predicted(start, seen.spots, seen.patches, seen.used, drawn, seen.genes, None, pca))
    adapt_lr = DEFAULTS[pool is not None][1]
    widths = [s.width for s in nn.sites(start.denoiser)]

    def make(steps: int, looks: int = 12) -> FreePlan:
        encoder = nn.GENE_ENCODERS["pca"].fit(seen.values, seed=derive(seed, 21))
        denoiser = copy.deepcopy(start.denoiser)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive(seed, 22))
            film = nn.MODULATIONS["film"](encoder.dim, widths, **_sized("film", central, encoder, widths))
        if arm == "random+readout":
            name = next((o for o in OUTPUTS if hasattr(denoiser, o)), None)
            if name is None:
                raise TypeError(f"{type(denoiser).__name__} has none of {OUTPUTS} to train as its output layer.")
            free, rate = getattr(denoiser, name), adapt_lr
        else:
            free, rate = denoiser, TUNE_LR if arm == "fine-tuned" else SCRATCH_LR
        return FreePlan(
            denoiser, start.scheduler, film, encoder, latents[seen.used], genes[seen.used], pool=unpaired, pool_genes=told,
            held_out=(latents[seen.held], genes[seen.held]) if len(seen.held) else None,
            check_every=max(1, steps // looks), steps=steps, batch_size=min(32, 4 * len(genes)), lr=adapt_lr,
            seed=derive(seed, 25), weight_decay=0.05, free=free, free_lr=rate,
            time_shift=1.0 if arm.startswith("scratch") else TIME_SHIFT,  # what knows no tissue must learn all of it
        )  # fmt: skip

    at = clock()
    left = seconds - (at - begun - trials)
    # one look at the held-out spots in each trial, and none in the difference of two
    steps = steps_for(left, lambda n: make(n, looks=1), arm, clock)
    trials += clock() - at
    plan = make(steps)
    fit(plan, desc=arm, progress=False)
    if plan.best is not None:
        plan.load_state_dict(plan.best[1])
    taken = clock() - begun - trials
    local = LocalModel(
        with_parts(central, plan.frozen, tokenizer), plan.encoder, plan.modulation, seen.genes, modulation_kind="film"
    )
    return local, plan.step, taken


def own_tokenizer(central: CentralModel, seen: Few, seconds: float, seed: int, clock) -> tuple[torch.nn.Module, float]:
    """Train a tokenizer of the same architecture on the few spots' patches; return it and the seconds of trials."""

    def make(steps: int) -> TokenizerPlan:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive(seed, 82))
            made = type(central.tokenizer).from_config(central.tokenizer.config)
        made.register_to_config(latents_mean=None, latents_std=None)
        return TokenizerPlan(
            made, Pool([seen.patches[seen.used]]), steps=steps, batch_size=32, lr=1.5e-3, seed=derive(seed, 83)
        )

    begun = clock()
    steps = steps_for(seconds, make, "tokenizer", clock)
    lost = clock() - begun
    plan = make(steps)
    fit(plan, desc="tokenizer", progress=False)
    made = plan.tokenizer.requires_grad_(False).eval()
    with torch.inference_mode():
        nn.set_latent_scale(made, nn.encode(made, nn.to_tensor(seen.patches[seen.used])))
    return made, lost


@torch.no_grad()
def held_out_loss(local: LocalModel, latents: torch.Tensor, values: NDArray, *, genes: str = "true") -> float:
    """Return the denoising error at fixed noise and times; `genes` are "true", of "other" spots, or "none"."""
    objective = nn.Objective(local.central.scheduler)
    draws = torch.Generator().manual_seed(derive(0, 84))
    condition = local.condition(None if genes == "none" else values, len(latents))
    n, total = len(latents), 0.0
    for k in range(REPEATS):
        noise = torch.randn(latents.shape, generator=draws)
        u = ((torch.randperm(n, generator=draws) + 0.5) / n + k / REPEATS) % 1.0
        c = condition.roll(1 + k % (n - 1), 0) if genes == "other" else condition
        for at in torch.arange(n).split(128):
            with nn.attached(local.modulation, local.denoiser, c[at]):
                total += float(objective.loss(local.denoiser, latents[at], noise[at], u[at]).sum())
    return total / (n * REPEATS)


def untouched(tables: list[AnnData], central: CentralModel, seed: int) -> LocalModel:
    """Return a local model whose modulation is still nothing."""
    seen = few(tables, seed)
    encoder = nn.GENE_ENCODERS["pca"].fit(seen.values, seed=derive(seed, 21))
    film = nn.MODULATIONS["film"](encoder.dim, [s.width for s in nn.sites(central.denoiser)])
    return LocalModel(central, encoder, film, seen.genes, modulation_kind="film")


def one(
    arm: str, here: Task, central: CentralModel, *, seed: int, steps: int, seconds: float, judge, kid, clock, sampler_steps: int,
    n: int, pool: NDArray[np.uint8] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Run one arm and return its figures."""
    tables, begun = here.train, clock()
    with Peak() as peak:
        if arm == "unadapted":
            local, taken, n_steps = untouched(tables, central, seed), 0.0, 0
        elif arm in ("starter", "lora", "mlp", "scvi", "random"):
            start = with_parts(central, random_denoiser(central, seed, zero=False)) if arm == "random" else central
            local = c2l.tl.adapt(
                tables, start, modulation="lora" if arm == "lora" else "film",
                gene_encoder=arm if arm in ("mlp", "scvi") else "pca", pool=pool, subset=SAMPLED, steps=steps, seed=seed,
                progress=False,
            )  # fmt: skip
            taken, n_steps = clock() - begun, steps
        else:
            local, n_steps, taken = trained_freely(
                arm, tables, central, pool=pool, seconds=seconds, seed=seed, clock=clock
            )
    held = spots([t[~t.obs[SAMPLED].to_numpy()].copy() for t in tables])
    values = [gene_values(s.table[s.rows], local.genes, None, local.gene_encoder) for s in held]
    values = np.concatenate(values).astype(np.float32)
    row: dict[str, Any] = {"arm": arm, "seed": seed, "steps": n_steps, "seconds": taken, "n_held_out": len(values)}
    row |= {"memory_mb": peak.mb, "n_pool": 0 if pool is None else len(pool)}
    if arm != "scratch+tokenizer":
        latents = central.encode(np.concatenate([s.patches for s in held]))
        for genes, name in (("true", "loss"), ("other", "loss_other_genes"), ("none", "loss_no_genes")):
            row[name] = held_out_loss(local, latents, values, genes=genes)
    how = {"sampler_steps": sampler_steps, "seed": seed, "progress": False}
    made = c2l.tl.augment(tables, local, n_obs=n, subset=SAMPLED, **how)
    row["kid"], row["kid_sd"] = kid(made.obsm["patches"])
    n_test = min(here.test.n_obs, n)
    read = c2l.tl.augment(here.test, local, n_obs=n_test, strategy="resample", n_components=None, **how)
    c2l.tl.round_trip(read, judge, real=here.test)
    back = read.uns["round_trip"]
    row |= {
        "round_trip": back["mean_pcc"], "round_trip_other_genes": back["shuffled_mean_pcc"],
        "round_trip_real": back["real_mean_pcc"], "round_trip_share": back["share"],
        "n_synthetic": n, "n_round_trip": n_test,
    }  # fmt: skip
    return row


SETTINGS = [
    "hash",
    "tissue",
    "pool",
    "profiles",
    "fraction",
    "adapt_steps",
    "n_asked",
    "sampler_steps",
    "clock",
]  # never averaged over
FIGURES = (("loss", -1), ("kid", -1), ("round_trip", 1), ("round_trip_share", 1))


def text(table: pd.DataFrame) -> str:
    """Write the tables that a person reads: means over seeds, and whom the starter beats in how many of them."""
    out = ["# Does the central model transfer?\n"]
    for (central, model, tissue, *_), part in table.groupby(["central", *SETTINGS], sort=False):
        first = part.iloc[0]
        pool = ", with unpaired tissue" if first["pool"] else ""
        out.append(f"## {central} ({model}) on {tissue}{pool}, profiles: {first['profiles']}\n")
        out.append(
            f"{first['n_spots']} spots of three sections, {first['n_held_out']} held out; {first['n_synthetic']} samples "
            f"against {first['n_reference']} patches of a section never seen; mean (sd) over "
            f"{part['seed'].nunique()} seeds. KID of real patches of the three sections: {number(first['kid_real'])}; "
            f"round trip of that section's real patches: {number(part['round_trip_real'].mean())}. "
            f"Seconds are {first['clock']} time. "
            f"Commit {', '.join(dict.fromkeys(part['commit']))}; {first['versions']}; {first['machine']}.\n"
        )
        columns = ["loss", "loss_other_genes", "loss_no_genes", "kid", "round_trip", "round_trip_share"]
        rows = []
        for arm in ARMS:
            own = part[part["arm"] == arm]
            if not len(own):
                continue
            cells = [_mean_sd(own[c], digits=5 if c.startswith("loss") else 3) for c in [*columns, "seconds"]]
            rows.append([arm, *cells, f"{own['steps'].mean():.0f}", f"{own['memory_mb'].mean():.0f}"])
        out.append(markdown(["arm", *columns, "seconds", "steps", "MB"], rows))
        starter = part[part["arm"] == "starter"].set_index("seed")
        rows = []
        for arm in ARMS:
            own = part[part["arm"] == arm].set_index("seed")
            both = own.index.intersection(starter.index)
            if arm == "starter" or not len(both):
                continue
            cells = []
            for metric, sign in FIGURES:
                gain = sign * (starter.loc[both, metric] - own.loc[both, metric]).dropna()
                cells.append(f"{(gain > 0).sum()} of {len(gain)} ({number(gain.mean())})" if len(gain) else "")
            rows.append([arm, *cells])
        out.append("Seeds in which `starter` is better than (and by how much, in the mean):\n")
        out.append(markdown(["arm", *(m for m, _ in FIGURES)], rows))
    return "\n".join(out)


def _mean_sd(values: pd.Series, digits: int) -> str:
    values = values.dropna()
    if not len(values):
        return ""
    sd = f" ({values.std(ddof=1):.2g})" if len(values) > 1 else ""
    return f"{values.mean():.{digits}g}{sd}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--central", default="starter", help="registered name or directory of a central model")
    parser.add_argument("--data", type=Path, help="directory of her2st; left out, the sections are downloaded")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/central"))
    parser.add_argument("--tissue", nargs="+", default=["her2st", "toy"], choices=["her2st", "toy"])
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=ARMS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument(
        "--steps", type=int, help="of adapting (left out: its default); its time is the budget of the others"
    )
    parser.add_argument("--pool", action="store_true", help="with unpaired tissue of the three sections")
    parser.add_argument("--fraction", type=float, default=0.1)
    parser.add_argument("--n", type=int, default=400, help="samples for KID")
    parser.add_argument("--clock", default="wall", choices=list(CLOCKS))
    parser.add_argument("--sampler-steps", type=int, default=16)
    parser.add_argument("--cache", type=Path, default=c2l.settings.cache_dir / "benchmarks", help="of real features")
    parser.add_argument("--quick", action="store_true", help="does it run? One seed, 10 steps, 24 samples")
    args = parser.parse_args()
    if args.quick:
        args.seeds, args.steps, args.n, args.sampler_steps = [0], 10, 24, 2
    args.steps = args.steps or DEFAULTS[args.pool][0]
    arms = ["starter", *(a for a in ARMS if a in args.arms and a != "starter")]
    central = CentralModel.from_pretrained(args.central)
    features, made_with = Features(args.cache), provenance()
    args.out.mkdir(parents=True, exist_ok=True)
    file = args.out / "transfer.csv"
    table = pd.read_csv(file, dtype={"hash": str}) if file.is_file() else pd.DataFrame()
    if len(table) and "pool" not in table:  # of before there was a choice
        table.insert(table.columns.get_loc("tissue") + 1, "pool", False)
    if (
        len(table) and "profiles" not in table
    ):  # round trips of before were drawn for, and held against, three components
        table.insert(table.columns.get_loc("pool") + 1, "profiles", "3 components")
    name = Path(args.central).name
    for tissue in args.tissue:
        here = task(tissue, args.data, central, 40 if args.quick else 200)
        pool = np.concatenate(list(here.train_patches.values())) if args.pool else None
        n = min(args.n, len(here.test_patches), sum(map(len, here.train_patches.values())))
        pick = np.sort(generator(0, 53).permutation(len(here.test_patches))[:n])
        reference = features(here.test_patches[pick], LITE0)
        near = features(stratified(here.train_patches, n, 0)[0], LITE0)
        kid_real = c2l.metrics.kid(reference, near, n_subsets=100)[0]

        def kid(patches: NDArray[np.uint8], reference: NDArray = reference) -> tuple[float, float]:
            return c2l.metrics.kid(reference, features(patches, LITE0, keep=False), n_subsets=100)

        for seed in args.seeds:
            c2l.pp.subsample(here.train, args.fraction, seed=seed)
            c2l.pp.select_genes(here.train, n_top=50, subset=SAMPLED)
            judge, budget = None, np.nan
            if seed == args.seeds[0]:
                warm_up(here, central)
            for arm in arms:
                key = {
                    "hash": central.hash[:12], "tissue": tissue, "pool": args.pool, "profiles": "measured", "arm": arm, "seed": seed,
                    "fraction": args.fraction, "adapt_steps": args.steps, "n_asked": args.n,
                    "sampler_steps": args.sampler_steps, "clock": args.clock,
                }  # fmt: skip
                if len(table) and (done := (table[list(key)] == pd.Series(key)).all(axis=1)).any():
                    budget = float(table.loc[done, "seconds"].iloc[0]) if arm == "starter" else budget
                    continue
                if judge is None:
                    judge = c2l.tl.fit_predictor(here.train, kind="ridge", encoder=LITE0, progress=False)
                row = one(
                    arm, here, central, seed=seed, steps=args.steps, seconds=budget, judge=judge, kid=kid, clock=CLOCKS[args.clock],
                    sampler_steps=args.sampler_steps, n=args.n, pool=pool,
                )  # fmt: skip
                budget = row["seconds"] if arm == "starter" else budget
                n_spots = sum(int(t.obs[SAMPLED].sum()) for t in here.train)
                common = {"central": name, **key, "budget": budget, "n_spots": n_spots, "n_reference": n}
                row = {**common, "kid_real": kid_real, **row, **made_with}
                table = pd.concat([table, pd.DataFrame([row])], ignore_index=True)
                table.to_csv(file, index=False, float_format="%.6g")  # after each run: another call goes on from here
                print({k: v for k, v in row.items() if k not in made_with}, flush=True)
    file.with_suffix(".md").write_text(text(table))
    print(file.with_suffix(".md").read_text())


if __name__ == "__main__":
    main()
