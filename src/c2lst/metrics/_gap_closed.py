from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from c2lst._checks import check_fraction, check_positive, listing
from c2lst._random import generator

from ._blocks import INTERVAL, Blocks

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from numpy.typing import NDArray

NEEDED = ("section", "fraction", "arm", "predictor", "seed")
SMALLEST_GAP = 0.05  # of PCC; below it the ratio is noise over noise
LOWER_IS_BETTER = ("mse",)


def gap_closed(
    df: pd.DataFrame,
    *,
    reference_fraction: float = 1.0,
    metric: str = "pcc",
    blocks: dict[str, Any] | Sequence[dict[str, Any]] | None = None,
    n_boot: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """How much of the gap between few and all real spots an arm closes.

    `(arm at f - real at f) / (real at 1 - real at f)`, within one section and predictor, paired by seed, with
    bootstrap 95 % intervals over seeds and spatial blocks of the section. In one bootstrap sample every arm and
    fraction has the same seeds and the same blocks (the product of the two resamplings: Owen 2007). Read it with its
    number of seeds: in simulated sections of 196 spots in 12 blocks (`benchmarks/interval_coverage.py`), intervals over
    three seeds that differ held the truth in 77 to 83 % of cases. Over ten they held it in 92 to 95 % where spots are
    independent, in 87 to 92 % where neighbours are alike, and in 71 to 84 % where spots are alike over more than the width
    of a block.

    Parameters
    ----------
    df
        Tidy table of :func:`c2lst.tl.learning_curve`, one row a run: `section`, `fraction`, `arm`, `predictor`,
        `seed` and the metric; where there is a column `encoder`, its values are kept apart too.
    reference_fraction
        Fraction of the full-data reference, where the arm `real` is taken.
    metric
        Column to compare. For `"mse"` lower is better and signs are turned, so that positive always means better.
    blocks
        Sums over spatial blocks; `None` takes `df.attrs["blocks"]`. For tables put together, a list of theirs. `[]`
        resamples seeds alone, as is done where there are none, and for another metric than `"pcc"`.
    n_boot
        Bootstrap samples.
    seed
        Seed of the bootstrap.

    Returns
    -------
    One row per section, predictor, fraction below the reference, and arm other than `real`:

    `gap`, `gap_low`, `gap_high`
        Real at the reference minus real at `f`, and its interval.
    `gap_closed`, `low`, `high`
        The ratio and its interval. NaN where the gap's own interval reaches 0, where the gap is under 0.05 (for
        `metric="pcc"`), and with fewer than two seeds: then the difference speaks.
    `difference`, `difference_low`, `difference_high`
        Arm minus real at `f`, paired by seed, and its interval.
    `n_seeds`
        Seeds that the arm and `real` at `f` have in common; only these enter. The reference is paired with them where
        it has all of them, and resampled on its own otherwise.
    `n_blocks`, `interval`
        Blocks of the section, 0 where they do not enter, and what was resampled: `"seeds x blocks"`, `"seeds"`,
        `"blocks"` (one seed) or `"none"`.

    Raises
    ------
    TypeError, KeyError, ValueError
        If `df` is no such table: columns are missing, a run comes twice, `real` never ran at the reference, or the sums
        over blocks do not give its scores.

    Examples
    --------
    >>> import pandas as pd
    >>> import c2lst as c2l
    >>> runs = [("real", 0.1, 0.10), ("synthetic", 0.1, 0.15), ("real", 1.0, 0.30)]
    >>> df = pd.DataFrame(
    ...     [
    ...         {"section": "C5", "predictor": "ridge", "arm": arm, "fraction": f, "seed": s, "pcc": pcc + s / 100}
    ...         for arm, f, pcc in runs
    ...         for s in range(5)
    ...     ]
    ... )
    >>> c2l.metrics.gap_closed(df)[["arm", "gap", "gap_closed", "difference", "interval"]].round(2)
             arm  gap  gap_closed  difference interval
    0  synthetic  0.2        0.25        0.05    seeds
    """
    import pandas as pd

    check_fraction("reference_fraction", reference_fraction)
    df, by, resampling = prepared(df, metric, blocks, n_boot, seed)
    at_reference = np.isclose(df["fraction"].astype(float), reference_fraction)
    if not (at_reference & (df["arm"] == "real").to_numpy()).any():
        raise ValueError(
            f"No run has arm 'real' at fraction {reference_fraction} with a value of {metric!r}; df has fractions "
            f"{listing(sorted(df['fraction'].unique()))} and arms {listing(df['arm'].unique())}. Include fraction "
            f"{reference_fraction} in `c2lst.tl.learning_curve(fractions=...)`, or pass reference_fraction=."
        )
    smallest = SMALLEST_GAP if metric == "pcc" else 0.0
    out = []
    for group, part in df.groupby(by, dropna=False, sort=True, observed=True):
        is_real = part["arm"] == "real"
        is_reference = np.isclose(part["fraction"].astype(float), reference_fraction)
        reference = part[is_real & is_reference]
        below = part[~is_reference & (part["fraction"] < reference_fraction)]
        for fraction, runs in below.groupby("fraction", sort=True):
            real = runs[runs["arm"] == "real"]
            for arm in runs["arm"].unique():
                if arm == "real":
                    continue
                row: dict[str, Any] = dict(zip(by, group, strict=True))
                row |= {"fraction": fraction, "arm": arm}
                row |= _compare(runs[runs["arm"] == arm], real, reference, smallest, resampling)
                out.append(row)
    columns = [*by, "fraction", "arm", *_COLUMNS]
    return pd.DataFrame(out, columns=columns)


_COLUMNS = (
    *("gap", "gap_low", "gap_high", "gap_closed", "low", "high"),
    *("difference", "difference_low", "difference_high", "n_seeds", "n_blocks", "interval"),
)


def prepared(
    df: pd.DataFrame, metric: str, blocks: Any, n_boot: int, seed: int
) -> tuple[pd.DataFrame, list[str], Blocks]:
    """Check the table; return its runs that have a `value` (more is better), what keeps runs apart, and the blocks."""
    _check(df, metric, n_boot)
    stored = df.attrs.get("blocks") if blocks is None else blocks
    value = df[metric].astype(float).to_numpy() * (-1 if metric in LOWER_IS_BETTER else 1)
    df = df.copy(deep=False)
    df.attrs = {}  # pandas copies them with every slice
    df["value"] = value
    by = ["section", "predictor"] + (["encoder"] if "encoder" in df else [])
    # the sums over blocks give correlations and nothing else
    resampling = Blocks(stored if metric == "pcc" else None, n_boot=n_boot, seed=seed)
    return df[df["value"].notna()], by, resampling


def resample(
    parts: Sequence[pd.DataFrame], seeds: Sequence[int], resampling: Blocks, *stream: int
) -> tuple[list[NDArray[np.float64]], int]:
    """Resample runs of one section over seeds and blocks, together.

    `parts` are the runs of an arm each, with all of `seeds`. Returns the mean of each part in each sample, and the
    number of blocks that entered. Another `stream` draws other seeds, of the same blocks.
    """
    parts = [p.set_index("seed", drop=False).loc[list(seeds)] for p in parts]
    draw = generator(resampling.seed, 5, *stream).integers(len(seeds), size=(resampling.n_boot, len(seeds)))
    scores = [resampling.resampled(p) for p in parts]
    n_blocks = resampling.n_blocks(parts[0]["section"].iloc[0])
    if any(s is None for s in scores):  # some have no blocks: then none
        scores = [np.broadcast_to(p["value"].to_numpy(), draw.shape) for p in parts]
        n_blocks = 0
    return [np.take_along_axis(s, draw, axis=1).mean(axis=1) for s in scores], n_blocks


def resampled_what(n_seeds: int, n_blocks: int) -> str:
    """Say what an interval is over."""
    return " x ".join([*(["seeds"] if n_seeds > 1 else []), *(["blocks"] if n_blocks > 1 else [])]) or "none"


def _compare(
    ours: pd.DataFrame, real: pd.DataFrame, reference: pd.DataFrame, smallest: float, resampling: Blocks
) -> dict[str, Any]:
    row: dict[str, Any] = dict.fromkeys(_COLUMNS, np.nan)
    seeds = sorted(set(ours["seed"]) & set(real["seed"]))
    row |= {"n_seeds": len(seeds), "n_blocks": 0, "interval": "none"}
    if not seeds:
        return row
    a, r = (p.set_index("seed")["value"].loc[seeds].to_numpy() for p in (ours, real))
    paired = set(seeds) <= set(reference["seed"])
    if paired:
        reference = reference[reference["seed"].isin(seeds)]
    row["difference"] = (a - r).mean()
    row["gap"] = reference["value"].mean() - r.mean() if len(reference) else np.nan
    parts = [ours, real] + ([reference] if paired else [])
    (a, r, *full), n_blocks = resample(parts, seeds, resampling)
    if len(reference) and not paired:
        # seeds of its own, and the blocks of the others where all of them have blocks
        own = sorted(set(reference["seed"]))
        full, there = resample([reference], own, resampling, 1)
        if n_blocks != there:
            alone = Blocks(None, n_boot=resampling.n_boot, seed=resampling.seed)
            (a, r), n_blocks = resample([ours, real], seeds, alone)
            full, _ = resample([reference], own, alone, 1)
    row |= {"n_blocks": n_blocks, "interval": resampled_what(len(seeds), n_blocks)}
    if row["interval"] == "none":
        return row
    row["difference_low"], row["difference_high"] = np.nanquantile(a - r, INTERVAL)
    if not full:
        return row
    gap = full[0] - r
    row["gap_low"], row["gap_high"] = np.nanquantile(gap, INTERVAL)
    if len(seeds) > 1 and row["gap_low"] > 0 and row["gap"] >= smallest:
        row["gap_closed"] = row["difference"] / row["gap"]
        known = np.isfinite(gap)
        ratio = _ratio((a - r)[known], gap[known])
        row["low"], row["high"] = np.quantile(ratio, INTERVAL, method="inverted_cdf")
    return row


def _ratio(difference: NDArray[np.float64], gap: NDArray[np.float64]) -> NDArray[np.float64]:
    # the few samples without a gap are put at the end of the scale, not dropped: dropping them narrows the interval
    far = np.where(difference >= 0, np.inf, -np.inf)
    return np.divide(difference, gap, out=far, where=gap > 0)


def _check(df: pd.DataFrame, metric: str, n_boot: int) -> None:
    import pandas as pd

    if not isinstance(df, pd.DataFrame):
        raise TypeError(f"df must be the DataFrame that `c2lst.tl.learning_curve` returns, not a {type(df).__name__}.")
    check_positive("n_boot", n_boot, integer=True)
    missing = [c for c in (*NEEDED, metric) if c not in df]
    if missing:
        raise KeyError(
            f"df lacks the columns {listing(missing)}; it has {listing(df.columns)}. Pass the table of "
            "`c2lst.tl.learning_curve`, and metric= one of its columns."
        )
    for column in ("fraction", metric):
        if not pd.api.types.is_numeric_dtype(df[column]):
            raise TypeError(f"df[{column!r}] must be numbers, not {df[column].dtype}.")
    gaps = [c for c in NEEDED if df[c].isna().any()]
    if gaps:
        raise ValueError(f"df has missing values in {listing(gaps)}.")
    keys = [*NEEDED] + (["encoder"] if "encoder" in df else [])
    twice = df.duplicated(keys)
    if twice.any():
        first = df.loc[twice, keys].iloc[0].to_dict()
        raise ValueError(f"df has {int(twice.sum())} runs that come twice, e.g. {first}; keep one row per run.")
