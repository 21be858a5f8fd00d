from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from c2lst._keys import Key

from ._figure import GREY, REAL, SYNTHETIC, check_table, figure_text, one_axes, result, tidy

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes

NAMED = 60  # above this many genes their names cannot be read


def round_trip(synthetic: AnnData, *, key: str = Key.uns.ROUND_TRIP, ax: Axes | None = None) -> Axes:
    """Draw how well a predictor reads each gene back from the synthetic patches, beside its controls.

    One column a gene, sorted: Pearson correlation of the conditioning profile with what a predictor reads in the
    synthetic patch; the same with the genes shuffled among the patches (chance); and, where held-out real patches were
    given, what the predictor reads in those (the ceiling). Lines are means over genes.

    Parameters
    ----------
    synthetic
        What :func:`c2lst.tl.round_trip` wrote to.
    key
        Where in `uns`.
    ax
        Axes to draw in; `None` makes a figure.

    Returns
    -------
    The axes.

    Raises
    ------
    KeyError
        If `uns[key]` is not there.

    Examples
    --------
    >>> import numpy as np, anndata as ad
    >>> import c2lst as c2l
    >>> synthetic = ad.AnnData(np.zeros((3, 2)))
    >>> synthetic.uns["round_trip"] = {
    ...     "genes": ["A", "B"], "pcc": np.array([0.2, 0.5]), "shuffled_pcc": np.array([0.0, 0.1]),
    ...     "mean_pcc": 0.35, "shuffled_mean_pcc": 0.05,
    ... }
    >>> [label.get_text() for label in c2l.pl.round_trip(synthetic).get_xticklabels()]
    ['B', 'A']
    """
    check_table(synthetic, "synthetic")
    found = result(
        synthetic,
        key,
        call="round_trip(synthetic, predictor)",
        owner="`synthetic`",
        needs=("genes", "pcc", "shuffled_pcc", "mean_pcc"),
    )
    genes, pcc = np.array([str(g) for g in found["genes"]]), np.asarray(found["pcc"], dtype=float)  # zarr: StringDType
    order = np.argsort(-np.nan_to_num(pcc, nan=-np.inf), kind="stable")
    own = ax is None
    longest = max((len(g) for g in genes), default=0) if len(genes) <= NAMED else 0
    height = 3.8 + 0.075 * max(0, longest - 12)  # names stand upright below
    ax = one_axes(ax, (float(np.clip(3.8 + 0.16 * len(genes), 6, 12)), height))
    series = [("shuffled_pcc", "shuffled_mean_pcc", "genes shuffled", GREY, "x")]
    if found.get("real_pcc") is not None:
        series.append(("real_pcc", "real_mean_pcc", "real patches", REAL, "D"))
    series.append(("pcc", "mean_pcc", "synthetic patches", SYNTHETIC, "o"))
    ax.axhline(0, color=GREY, linewidth=0.5)
    x = np.arange(len(genes))
    for name, mean, label, colour, marker in series:
        values = np.asarray(found[name], dtype=float)
        average = float(found[mean]) if found.get(mean) is not None else float(np.nanmean(values))
        ax.axhline(average, color=colour, linewidth=1, linestyle="--", alpha=0.8)
        ax.scatter(
            x,
            values[order],
            s=22,
            color=colour,
            marker=marker,
            label=f"{label} (mean {figure_text(average)})",
            alpha=0.9,
        )
    ax.set_ylabel("Pearson correlation per gene")
    ax.set_xlim(-0.8, len(genes) - 0.2)
    if len(genes) <= NAMED:
        ax.set_xticks(x, genes[order], rotation=90, fontsize=7)
    else:
        ax.set_xticks([])
        ax.set_xlabel(f"{len(genes)} genes, sorted")
    share = found.get("share")
    known = share is not None and not isinstance(share, str) and np.isfinite(share)
    ax.set_title("Round trip genes → patch → genes" + (f": {100 * share:.0f} % of real" if known else ""), fontsize=10)
    # beside the axes there is room in a figure of our own only
    ax.legend(
        frameon=False, fontsize=8, **({"loc": "upper left", "bbox_to_anchor": (1.0, 1.0)} if own else {"loc": "best"})
    )
    tidy(ax)
    return ax
