from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from c2lst._checks import listing
from c2lst._random import generator

from ._figure import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILLION, many_axes, tidy

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure
    from numpy.typing import NDArray

ARMS = {  # colour, marker, line; controls that should fail are dashed
    "real": (BLACK, "o", "-"),
    "classical": (BLUE, "s", "-"),
    "mixup": (SKY, "D", "-"),
    "pseudo": (GREEN, "^", "-"),
    "synthetic": (VERMILLION, "o", "-"),
    "shuffled": (ORANGE, "v", "--"),
    "shuffled-within": (PURPLE, "<", "--"),
    "unconditional": (GREY, "x", "--"),
}
METRICS = {
    "pcc": "mean Pearson correlation over genes",
    "mse": "mean squared error",
    "moran_corr": "correlation of Moran's I over genes",
    "moran_bias": "Moran's I, predicted minus measured",
    "seconds": "seconds a run",
}
NEEDS = ("section", "fraction", "arm", "predictor", "seed")


def learning_curve(
    df: pd.DataFrame, *, metric: str = "pcc", fig: Figure | SubFigure | None = None
) -> NDArray[np.object_]:
    """Draw accuracy against the fraction of sequenced spots, one line an arm.

    Points are means over seeds, bars the 95 % bootstrap interval of that mean over seeds (2,000 resamples; none for a
    single seed). It tells how far the draw and the initialisation move the mean; what an arm gains is read from paired
    differences, see :func:`c2lst.metrics.gap_closed`. The dotted line is `real` with all spots.

    Parameters
    ----------
    df
        What :func:`c2lst.tl.learning_curve` returned.
    metric
        Column to draw.
    fig
        Figure to draw in; `None` makes one.

    Returns
    -------
    Axes `(sections, predictors)`; predictors with several encoders have a column for each.

    Raises
    ------
    KeyError
        If `df` lacks a column.
    ValueError
        If `df` holds no run with a value.

    Examples
    --------
    >>> import pandas as pd
    >>> import c2lst as c2l
    >>> df = pd.DataFrame({
    ...     "section": "C5", "predictor": "ridge", "arm": ["real", "synthetic", "real"], "fraction": [0.1, 0.1, 1.0],
    ...     "seed": 0, "pcc": [0.1, 0.15, 0.3],
    ... })
    >>> c2l.pl.learning_curve(df)[0, 0].get_title()
    'C5, ridge'
    """
    missing = [name for name in (*NEEDS, metric) if name not in df]
    if missing:
        raise KeyError(
            f"df has no column {listing(missing)}; it has {listing(df.columns)}. "
            "Pass what `c2lst.tl.learning_curve(train, test)` returned."
        )
    df = df[np.isfinite(df[metric].to_numpy(dtype=float))]
    if df.empty:
        raise ValueError(f"df has no run with a value of {metric!r}.")
    recipe = df["predictor"].astype(str)
    if "encoder" in df and (df.groupby(recipe)["encoder"].nunique() > 1).any():
        recipe = recipe + ", " + df["encoder"].astype(str)
    sections, recipes = list(df["section"].astype(str).unique()), list(recipe.unique())
    size = (4.0 * len(recipes) + 1.6, 3.3 * len(sections))
    axes = many_axes(fig, len(sections), len(recipes), size, sharex=True, sharey="row")
    known = list(df["arm"].astype(str).unique())
    arms = [a for a in ARMS if a in known] + sorted(a for a in known if a not in ARMS)
    handles = {}
    for i, section in enumerate(sections):
        for j, name in enumerate(recipes):
            ax = axes[i, j]
            handles |= _panel(ax, df[(df["section"].astype(str) == section) & (recipe == name)], metric, arms)
            ax.set_title(f"{section}, {name}", fontsize=9)
            if i == len(sections) - 1:
                ax.set_xlabel("training spots (%)")
        axes[i, 0].set_ylabel(METRICS.get(metric, metric))
    last = axes[0, -1]
    last.legend(handles.values(), handles, frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1.02, 1))
    return axes


def _panel(ax: Axes, df: pd.DataFrame, metric: str, arms: list[str]) -> dict[str, object]:
    handles = {}
    for k, arm in enumerate(arms):
        runs = df[df["arm"].astype(str) == arm]
        if runs.empty:
            continue
        colour, marker, line = ARMS.get(arm, (BLACK, "P", ":"))
        x, mean, low, high = [], [], [], []
        for fraction, group in runs.groupby("fraction"):
            # one value a seed, so that runs repeated under a seed do not count twice
            values = group.groupby("seed")[metric].mean().to_numpy(dtype=float)
            a, b = _interval(values)
            x.append(100 * fraction * 1.012 ** (k - (len(arms) - 1) / 2))  # a little apart, so that bars can be read
            mean.append(values.mean())
            low.append(values.mean() - a)
            high.append(b - values.mean())
        handles[arm] = ax.errorbar(
            x,
            mean,
            yerr=np.maximum([low, high], 0),
            color=colour,
            marker=marker,
            linestyle=line,
            markersize=4,
            linewidth=1.4,
            elinewidth=1,
            capsize=2,
            label=arm,
            zorder=3 if arm in ("real", "synthetic") else 2,
        )
    full = df[(df["arm"].astype(str) == "real") & (df["fraction"] == 1)]
    if len(full):
        ax.axhline(full[metric].mean(), color=BLACK, linestyle=":", linewidth=1)
    ax.set_xscale("log")
    ticks = sorted(100 * df["fraction"].unique())
    ax.set_xticks(ticks, [f"{t:g}" for t in ticks])
    ax.minorticks_off()
    tidy(ax)
    return handles


def _interval(values: NDArray[np.float64], resamples: int = 2000) -> tuple[float, float]:
    """Bootstrap the mean, 95 %."""
    if len(values) < 2:
        return float(values.mean()), float(values.mean())
    draw = generator(0, 41).integers(len(values), size=(resamples, len(values)))
    low, high = np.quantile(values[draw].mean(axis=1), [0.025, 0.975])
    return float(low), float(high)
