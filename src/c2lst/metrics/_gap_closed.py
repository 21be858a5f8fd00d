from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from c2lst._checks import check_fraction, check_positive, listing
from c2lst._random import generator

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

NEEDED = ("section", "fraction", "arm", "predictor", "seed")
SMALLEST_GAP = 0.05  # of PCC; below it the ratio is noise over noise
LOWER_IS_BETTER = ("mse",)
INTERVAL = (0.025, 0.975)


def gap_closed(
    df: pd.DataFrame, *, reference_fraction: float = 1.0, metric: str = "pcc", n_boot: int = 2000, seed: int = 0
) -> pd.DataFrame:
    """How much of the gap between few and all real spots an arm closes.

    `(arm at f - real at f) / (real at 1 - real at f)`, within one section and predictor, paired by seed, with
    bootstrap 95 % intervals over seeds.

    Parameters
    ----------
    df
        Tidy table of :func:`c2lst.tl.learning_curve`, one row a run: `section`, `fraction`, `arm`, `predictor`,
        `seed` and the metric; where there is a column `encoder`, its values are kept apart too.
    reference_fraction
        Fraction of the full-data reference, where the arm `real` is taken.
    metric
        Column to compare. For `"mse"` lower is better and signs are turned, so that positive always means better.
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

    Raises
    ------
    TypeError, KeyError, ValueError
        If `df` is no such table: columns are missing, a run comes twice, or `real` never ran at the reference.

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
    >>> c2l.metrics.gap_closed(df)[["arm", "gap", "gap_closed", "difference"]].round(2)
             arm  gap  gap_closed  difference
    0  synthetic  0.2        0.25        0.05
    """
    import pandas as pd

    _check(df, reference_fraction, metric, n_boot)
    by = ["section", "predictor"] + (["encoder"] if "encoder" in df else [])
    df = df.assign(value=df[metric].astype(float) * (-1 if metric in LOWER_IS_BETTER else 1))
    df = df[df["value"].notna()]  # nothing could be scored in such a run
    at_reference = np.isclose(df["fraction"].astype(float), reference_fraction)
    if not (at_reference & (df["arm"] == "real").to_numpy()).any():
        raise ValueError(
            f"No run has arm 'real' at fraction {reference_fraction} with a value of {metric!r}; df has fractions "
            f"{listing(sorted(df['fraction'].unique()))} and arms {listing(df['arm'].unique())}. Include fraction "
            f"{reference_fraction} in `c2lst.tl.learning_curve(fractions=...)`, or pass reference_fraction=."
        )
    out = []
    for group, part in df.groupby(by, dropna=False, sort=True, observed=True):
        is_real = part["arm"] == "real"
        is_reference = np.isclose(part["fraction"].astype(float), reference_fraction)
        reference = part[is_real & is_reference].set_index("seed")["value"]
        below = part[~is_reference & (part["fraction"] < reference_fraction)]
        for fraction, runs in below.groupby("fraction", sort=True):
            real = runs[runs["arm"] == "real"].set_index("seed")["value"]
            for arm in runs["arm"].unique():
                if arm == "real":
                    continue
                ours = runs[runs["arm"] == arm].set_index("seed")["value"]
                row: dict[str, Any] = dict(zip(by, group, strict=True))
                row |= {"fraction": fraction, "arm": arm}
                row |= _compare(ours, real, reference, SMALLEST_GAP if metric == "pcc" else 0.0, n_boot, seed)
                out.append(row)
    columns = [*by, "fraction", "arm", *_COLUMNS]
    return pd.DataFrame(out, columns=columns)


_COLUMNS = (
    *("gap", "gap_low", "gap_high", "gap_closed", "low", "high"),
    *("difference", "difference_low", "difference_high", "n_seeds"),
)


def _compare(
    ours: pd.Series, real: pd.Series, reference: pd.Series, smallest: float, n_boot: int, seed: int
) -> dict[str, Any]:
    row: dict[str, Any] = dict.fromkeys(_COLUMNS, np.nan)
    seeds = sorted(set(ours.index) & set(real.index))
    row["n_seeds"] = len(seeds)
    if not seeds:
        return row
    a, r = ours.loc[seeds].to_numpy(), real.loc[seeds].to_numpy()
    paired = set(seeds) <= set(reference.index)
    full = reference.loc[seeds].to_numpy() if paired else reference.to_numpy()
    row["difference"] = (a - r).mean()
    row["gap"] = full.mean() - r.mean() if len(full) else np.nan
    if len(seeds) < 2:
        return row
    rng = generator(seed, 5)
    draw = rng.integers(len(seeds), size=(n_boot, len(seeds)))
    difference = (a - r)[draw].mean(axis=1)
    row["difference_low"], row["difference_high"] = np.quantile(difference, INTERVAL)
    if not len(full):
        return row
    draw_full = draw if paired else rng.integers(len(full), size=(n_boot, len(full)))
    gap = full[draw_full].mean(axis=1) - r[draw].mean(axis=1)
    row["gap_low"], row["gap_high"] = np.quantile(gap, INTERVAL)
    if row["gap_low"] > 0 and row["gap"] >= smallest:
        row["gap_closed"] = row["difference"] / row["gap"]
        row["low"], row["high"] = np.quantile(_ratio(difference, gap), INTERVAL, method="inverted_cdf")
    return row


def _ratio(difference: NDArray[np.float64], gap: NDArray[np.float64]) -> NDArray[np.float64]:
    # the few samples without a gap are put at the end of the scale, not dropped: dropping them narrows the interval
    far = np.where(difference >= 0, np.inf, -np.inf)
    return np.divide(difference, gap, out=far, where=gap > 0)


def _check(df: pd.DataFrame, reference_fraction: float, metric: str, n_boot: int) -> None:
    import pandas as pd

    if not isinstance(df, pd.DataFrame):
        raise TypeError(f"df must be the DataFrame that `c2lst.tl.learning_curve` returns, not a {type(df).__name__}.")
    check_fraction("reference_fraction", reference_fraction)
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
