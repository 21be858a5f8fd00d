from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from c2lst._checks import listing

from ._blocks import INTERVAL
from ._gap_closed import prepared, resample, resampled_what

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

COLUMNS = ("difference", "low", "high", "share_above_0", "seeds_above_0", "n_seeds", "n_blocks", "interval")


def paired_difference(
    df: pd.DataFrame,
    *,
    arm: str = "synthetic",
    metric: str = "pcc",
    blocks: dict[str, Any] | Sequence[dict[str, Any]] | None = None,
    n_boot: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """An arm minus each other arm at the same fraction, with bootstrap 95 % intervals.

    Paired: a difference is taken within a seed, and in one bootstrap sample both arms have the same seeds and the same
    spatial blocks of the test section, as in :func:`c2lst.metrics.gap_closed`. That `"synthetic"` beats `"real"` says
    little while it does not beat its controls too.

    Parameters
    ----------
    df
        Tidy table of :func:`c2lst.tl.learning_curve`.
    arm
        The arm that is compared to all others.
    metric
        Column to compare; for `"mse"` signs are turned, so that positive always means that `arm` is better.
    blocks
        As in :func:`c2lst.metrics.gap_closed`.
    n_boot
        Bootstrap samples.
    seed
        Seed of the bootstrap.

    Returns
    -------
    One row per section, predictor (and encoder), fraction and other arm, named in `control`:

    `difference`, `low`, `high`
        Mean over the seeds that both have, and its interval.
    `share_above_0`, `seeds_above_0`
        Share of the bootstrap samples in which `arm` is better, and number of the seeds.
    `n_seeds`, `n_blocks`, `interval`
        What was resampled; with `"none"` there is no interval.

    Raises
    ------
    TypeError, KeyError, ValueError
        If `df` is no such table, has no such arm, or the sums over blocks do not give its scores.

    Examples
    --------
    >>> import pandas as pd
    >>> import c2lst as c2l
    >>> df = pd.DataFrame(
    ...     [
    ...         {"section": "C5", "predictor": "ridge", "arm": arm, "fraction": 0.1, "seed": s, "pcc": pcc + s / 100}
    ...         for arm, pcc in [("real", 0.10), ("synthetic", 0.15), ("shuffled", 0.08)]
    ...         for s in range(5)
    ...     ]
    ... )
    >>> c2l.metrics.paired_difference(df)[["arm", "control", "difference", "seeds_above_0"]].round(2)
             arm   control  difference  seeds_above_0
    0  synthetic      real        0.05              5
    1  synthetic  shuffled        0.07              5
    """
    import pandas as pd

    df, by, resampling = prepared(df, metric, blocks, n_boot, seed)
    if arm not in set(df["arm"]):
        raise ValueError(
            f"No run of df has arm {arm!r} and a value of {metric!r}; it has {listing(df['arm'].unique())}."
        )
    out = []
    for group, runs in df.groupby([*by, "fraction"], dropna=False, sort=True, observed=True):
        ours = runs[runs["arm"] == arm]
        for control in runs["arm"].unique():
            if control == arm or not len(ours):
                continue
            other = runs[runs["arm"] == control]
            seeds = sorted(set(ours["seed"]) & set(other["seed"]))
            row: dict[str, Any] = dict(zip([*by, "fraction"], group, strict=True))
            row |= {"arm": arm, "control": control, **dict.fromkeys(COLUMNS, np.nan)}
            row |= {"seeds_above_0": 0, "n_seeds": len(seeds), "n_blocks": 0, "interval": "none"}
            if seeds:
                a, b = (p.set_index("seed")["value"].loc[seeds].to_numpy() for p in (ours, other))
                row |= {"difference": (a - b).mean(), "seeds_above_0": int((a > b).sum())}
                (a, b), row["n_blocks"] = resample([ours, other], seeds, resampling)
                row["interval"] = resampled_what(len(seeds), row["n_blocks"])
            if row["interval"] != "none":
                row["low"], row["high"] = np.nanquantile(a - b, INTERVAL)
                row["share_above_0"] = float((a > b).mean())
            out.append(row)
    return pd.DataFrame(out, columns=[*by, "fraction", "arm", "control", *COLUMNS])
