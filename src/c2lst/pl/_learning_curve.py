from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from c2lst._checks import listing
from c2lst._random import generator
from c2lst.metrics._blocks import INTERVAL, Blocks

from ._figure import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILLION, ink, many_axes, tidy

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure
    from numpy.typing import NDArray

ARMS = {  # colour, marker, line; controls that should fail are dashed
    "real": (BLACK, "o", "-"),
    "classical": (BLUE, "s", "-"),
    "mixup": (SKY, "D", "-"),
    "pseudo": (GREEN, "^", "-"),
    "pseudo-central": (GREEN, "P", "-."),
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
    df: pd.DataFrame,
    *,
    metric: str = "pcc",
    blocks: dict[str, Any] | Sequence[dict[str, Any]] | None = None,
    fig: Figure | SubFigure | None = None,
) -> NDArray[np.object_]:
    """Draw accuracy against the fraction of sequenced spots, one line an arm.

    Points are means over seeds, bars the 95 % bootstrap interval of that mean (2,000 resamples): over seeds and spatial
    blocks of the section where they are known and the metric is `"pcc"`, else over seeds alone. The title of the legend
    says which. Blocks move all arms together, so bars that overlap do not say that an arm gains nothing: that is read from
    paired differences, see :func:`c2lst.metrics.paired_difference`. The dotted line is `real` with all spots.

    Parameters
    ----------
    df
        What :func:`c2lst.tl.learning_curve` returned.
    metric
        Column to draw.
    blocks
        As in :func:`c2lst.metrics.gap_closed`.
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
    stored = df.attrs.get("blocks") if blocks is None else blocks
    resampling = Blocks(stored if metric == "pcc" else None, n_boot=2000, seed=0)
    df = df.copy(deep=False)
    df.attrs = {}  # pandas copies them with every slice
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
    handles, over = {}, set()
    for i, section in enumerate(sections):
        for j, name in enumerate(recipes):
            ax = axes[i, j]
            part = df[(df["section"].astype(str) == section) & (recipe == name)]
            drawn, what = _panel(ax, part, metric, arms, resampling)
            handles |= drawn
            over |= what
            ax.set_title(f"{section}, {name}", fontsize=9)
            if i == len(sections) - 1:
                ax.set_xlabel("training spots (%)")
        axes[i, 0].set_ylabel(METRICS.get(metric, metric))
    ticks = sorted(100 * df["fraction"].unique())
    for ax in axes.ravel():  # they share the axis, and with it the ticks
        ax.set_xscale("log")
        ax.set_xticks(ticks, [f"{t:g}" for t in ticks])
        ax.minorticks_off()
    last = axes[0, -1]
    said = f"bars: 95 %, over {' or '.join(sorted(over, key=len, reverse=True))}" if over else None
    last.legend(
        handles.values(), handles, frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1.02, 1), title=said,
        title_fontsize=7,
    )  # fmt: skip
    return axes


def _panel(
    ax: Axes, df: pd.DataFrame, metric: str, arms: list[str], resampling: Blocks
) -> tuple[dict[str, object], set[str]]:
    handles, over = {}, set()
    for k, arm in enumerate(arms):
        runs = df[df["arm"].astype(str) == arm]
        if runs.empty:
            continue
        colour, marker, line = ARMS.get(arm, (BLACK, "P", ":"))
        colour = ink() if colour == BLACK else colour
        x, mean, low, high = [], [], [], []
        for fraction, group in runs.groupby("fraction"):
            values, a, b, what = _interval(group, metric, resampling)
            over |= {what} - {"none"}
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
        ax.axhline(full[metric].mean(), color=ink(), linestyle=":", linewidth=1)
    if df.empty:
        ax.text(0.5, 0.5, "no runs", ha="center", va="center", color=GREY, fontsize=8, transform=ax.transAxes)
    tidy(ax)
    return handles, over


def _interval(runs: pd.DataFrame, metric: str, resampling: Blocks) -> tuple[NDArray[np.float64], float, float, str]:
    """Return a value a seed, the bootstrap 95 % interval of their mean, and what it is over."""
    # one value a seed, so that runs repeated under a seed do not count twice
    values = runs.groupby("seed")[metric].mean().to_numpy(dtype=float)
    n = len(values)
    scores = resampling.resampled(runs) if len(runs) == n else None
    what = " x ".join([*(["seeds"] if n > 1 else []), *(["blocks"] if scores is not None else [])]) or "none"
    if what == "none":
        return values, float(values.mean()), float(values.mean()), what
    if scores is None:
        scores = np.broadcast_to(values, (resampling.n_boot, n))
    draw = generator(0, 41).integers(n, size=(resampling.n_boot, n))
    low, high = np.nanquantile(np.take_along_axis(scores, draw, axis=1).mean(axis=1), INTERVAL)
    return values, float(low), float(high), what
