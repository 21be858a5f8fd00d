"""Do the intervals hold the truth as often as they say? Simulated sections, where the truth is known.

    python benchmarks/interval_coverage.py --out benchmarks/results

A section is 14 x 14 spots in 12 blocks with 20 genes: a signal and a noise of equal power, both correlated over `length`
spots (exponentially; 0 is not at all). Two arms see the signal with errors that they share in part, and those errors are
correlated as well. A draw of spots (`seeds`) moves how well both see it, by `sd` together and by `sd` each. Every simulation
makes new tissue and new draws, so the truth is the mean over simulations. Printed and written: how often the intervals of
`c2lst.metrics.paired_difference` and of `c2lst.metrics.gap_closed`, which say 95 %, hold it, and the width of the former
as a share of what it should be.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path

import numpy as np
import pandas as pd

from c2lst.metrics import gap_closed, paired_difference, pearson
from c2lst.metrics._blocks import measured_sums, run_key, run_sums, spatial_blocks

SIDE, GENES, BLOCKS = 14, 20, 12
LENGTHS, SEEDS, SPREADS = (0.0, 1.0, 2.5, 5.0), (3, 10), (0.1, 0.02)
POSITIONS = np.stack(np.meshgrid(np.arange(SIDE), np.arange(SIDE)), axis=-1).reshape(-1, 2).astype(float)


def fields(rng: np.random.Generator, length: float, n: int) -> list[np.ndarray]:
    """Draw `n` fields `(spots, genes)` of unit variance, correlated over `length`."""
    apart = np.linalg.norm(POSITIONS[:, None] - POSITIONS[None], axis=-1)
    cov = np.exp(-apart / length) if length else np.eye(len(apart))
    root = np.linalg.cholesky(cov + 1e-6 * np.eye(len(cov)))
    return [root @ rng.standard_normal((len(root), GENES)) for _ in range(n)]


def section(rng: np.random.Generator, length: float, n_seeds: int, spread: float) -> pd.DataFrame:
    """Simulate what a learning curve would return: two arms at a tenth, one at all spots."""
    blocks = spatial_blocks(POSITIONS, BLOCKS)
    signal, noise, common, own = fields(rng, length, 4)
    y = signal + noise
    rows, sums = [], {}

    def run(arm: str, fraction: float, seed: int, x: np.ndarray) -> None:
        name = {"section": "s", "fraction": fraction, "arm": arm, "predictor": "ridge", "encoder": "none", "seed": seed}
        rows.append({**name, "pcc": float(np.mean(pearson(x, y)))})
        sums[run_key(tuple(name.values()))] = run_sums(x, y, blocks)

    for seed in range(n_seeds):
        both = spread * rng.standard_normal()
        for arm, sees, errors in (("real", 0.5, common), ("synthetic", 0.6, 0.7 * common + 0.7 * own)):
            sees = sees + both + spread * rng.standard_normal()
            run(arm, 0.1, seed, sees * signal + 0.7 * errors + 0.3 * rng.standard_normal(y.shape))
        run("real", 1.0, seed, 0.9 * signal + 0.5 * common)
    df = pd.DataFrame(rows)
    df.attrs["blocks"] = {"sections": {"s": measured_sums(y, blocks)}, "runs": sums}
    return df


def coverage(length: float, n_seeds: int, spread: float, repeats: int, n_boot: int) -> dict[str, float]:
    """Simulate one situation many times."""
    rng = np.random.default_rng([int(10 * length), n_seeds, int(1000 * spread)])
    found = []
    for _ in range(repeats):
        df = section(rng, length, n_seeds, spread)
        d = paired_difference(df, n_boot=n_boot).query("fraction < 1").iloc[0]
        g = gap_closed(df, n_boot=n_boot).iloc[0]
        found.append((d.difference, d.low, d.high, g.gap_closed, g.low, g.high, g.gap))
    difference, low, high, share, share_low, share_high, gap = np.array(found, dtype=float).T
    truth, ratio = difference.mean(), difference.mean() / gap.mean()
    said = np.isfinite(share)
    return {
        "length": length,
        "seeds": n_seeds,
        "sd": spread,
        "difference": truth,
        "holds_difference": np.mean((low <= truth) & (truth <= high)),
        "width": (high - low).mean() / (2 * 1.96 * difference.std(ddof=1)),
        "gap_closed": ratio,
        "holds_gap_closed": np.mean((share_low <= ratio) & (ratio <= share_high), where=said) if said.any() else np.nan,
        "repeats": repeats,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="directory that receives interval_coverage.csv")
    parser.add_argument("--repeats", type=int, default=300)
    parser.add_argument("--n-boot", type=int, default=400)
    args = parser.parse_args()
    rows = []
    for situation in itertools.product(LENGTHS, SEEDS, SPREADS):
        rows.append(coverage(*situation, args.repeats, args.n_boot))
        print({k: round(float(v), 3) for k, v in rows[-1].items()}, flush=True)
    if args.out is not None:
        args.out.mkdir(parents=True, exist_ok=True)
        pd.DataFrame(rows).round(4).to_csv(args.out / "interval_coverage.csv", index=False)


if __name__ == "__main__":
    main()
