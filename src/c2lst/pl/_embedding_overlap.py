from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from c2lst._keys import Key

from ._figure import GREY, REAL, SYNTHETIC, check_table, figure_text, ink, many_axes, result, shortened

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure
    from numpy.typing import NDArray

# name, and the values that mean "nothing alike" and "alike"; None: open, read against the largest figure
MEASURES = {
    "frechet": ("Fréchet distance", None, 0.0),
    "kid": ("KID", None, 0.0),
    "density": ("density", 0.0, 1.0),
    "coverage": ("coverage", 0.0, 1.0),
    "c2st": ("C2ST accuracy", 1.0, 0.5),
    "ilisi": ("iLISI", 1.0, 2.0),
}


def embedding_overlap(
    synthetic: AnnData, *, key: str = Key.uns.OVERLAP, fig: Figure | SubFigure | None = None
) -> NDArray[np.object_]:
    """Draw real and synthetic patches in one embedding, and each figure of overlap beside its floor.

    Left, the joint UMAP, if it was computed. Right, one line a measure, from "nothing alike" to "alike": the synthetic
    patches, the floor (real against real, at the same number of patches) and, for the measures with a fixed range, the
    same measure in the mean and standard deviation of RGB, which stain alone can satisfy. Open-ended distances run to
    1.25 times the largest of their values. The numbers themselves are written beside the lines; the bar of
    KID is its standard deviation over subsets.

    Parameters
    ----------
    synthetic
        What :func:`c2lst.tl.embedding_overlap` wrote to.
    key
        Where in `uns`.
    fig
        Figure to draw in; `None` makes one.

    Returns
    -------
    Two axes, UMAP and measures.

    Raises
    ------
    KeyError
        If `uns[key]` is not there.

    Examples
    --------
    >>> import numpy as np, anndata as ad
    >>> import c2lst as c2l
    >>> figures = {"frechet": 4.0, "kid": 0.02, "density": 0.8, "coverage": 0.7, "c2st": 0.6, "ilisi": 1.8}
    >>> synthetic = ad.AnnData(np.zeros((5, 2)))
    >>> synthetic.uns["embedding_overlap"] = figures | {
    ...     "floor": {k: v / 2 for k, v in figures.items()}, "baseline": figures, "encoder": "central",
    ...     "umap_real": np.zeros((5, 2)), "umap_synthetic": np.ones((5, 2)),
    ... }
    >>> len(c2l.pl.embedding_overlap(synthetic))
    2
    """
    check_table(synthetic, "synthetic")
    found = result(
        synthetic,
        key,
        call="embedding_overlap(real, synthetic)",
        owner="`synthetic`",
        needs=("encoder", "floor"),
    )
    left, right = many_axes(fig, 1, 2, (10.5, 4.2), width_ratios=[1, 0.8])[0]
    _umap(left, found)
    _measures(right, found)
    return np.array([left, right], dtype=object)


def _umap(ax: Axes, found: dict[str, Any]) -> None:
    if "umap_real" not in found:
        ax.set_axis_off()
        ax.text(0.5, 0.5, "computed with umap=False", ha="center", color=GREY, transform=ax.transAxes)
        return
    real, made = np.asarray(found["umap_real"]), np.asarray(found["umap_synthetic"])
    # the two kinds are drawn half and half, so that neither lies on top of the other
    for part in range(2):
        for xy, colour, name in ((real, REAL, "real"), (made, SYNTHETIC, "synthetic")):
            xy = xy[part::2]
            label = f"{name} (n = {len(real) if name == 'real' else len(made)})" if part == 0 else None
            ax.scatter(xy[:, 0], xy[:, 1], s=9, color=colour, alpha=0.6, linewidths=0, label=label, rasterized=True)
    ax.set_xlabel("UMAP 1")
    ax.set_ylabel("UMAP 2")
    ax.set_xticks([])
    ax.set_yticks([])
    ax.set_title(f"patches in the encoder {shortened(found['encoder'], 32)!r}", fontsize=10)
    ax.legend(frameon=False, fontsize=8, markerscale=2, loc="upper left", bbox_to_anchor=(0, -0.06), ncols=2)


def _measures(ax: Axes, found: dict[str, Any]) -> None:
    floor, baseline = dict(found["floor"]), dict(found.get("baseline") or {})
    shown = [name for name in MEASURES if name in found]
    columns = ((14, "synthetic", SYNTHETIC), (68, "floor", ink()), (108, "RGB", GREY))  # points right of the axes

    def beside(text: str, y: float, points: int, **how: Any) -> None:
        place = ax.get_yaxis_transform()
        ax.annotate(text, (1, y), xycoords=place, xytext=(points, 0), textcoords="offset points", fontsize=8, **how)

    for y, name in enumerate(shown):
        label, worst, best = MEASURES[name]
        value, ground = float(found[name]), float(floor.get(name, np.nan))
        open_ended = worst is None
        if open_ended:
            worst = 1.25 * np.nanmax([abs(value), abs(ground), 1e-12])
        ax.plot([0, 1], [y, y], color="#D9D9D9", linewidth=1.5, zorder=0, solid_capstyle="round")
        ax.annotate(figure_text(worst), (0, y), xytext=(0, -13), textcoords="offset points", fontsize=6, color=GREY)
        ax.annotate(
            figure_text(best), (1, y), xytext=(0, -13), textcoords="offset points", fontsize=6, color=GREY, ha="right"
        )
        other = np.nan if open_ended else float(baseline.get(name, np.nan))
        first = y == 0
        ax.scatter(_place(value, worst, best), y, s=55, color=SYNTHETIC, zorder=3, label="synthetic" if first else None)
        ax.scatter(
            _place(ground, worst, best),
            y,
            s=80,
            facecolors="none",
            edgecolors=ink(),
            linewidths=1.4,
            zorder=4,
            label="real vs real (floor)" if first else None,
        )
        ax.scatter(
            _place(other, worst, best),
            y,
            s=45,
            marker="^",
            facecolors="none",
            edgecolors=GREY,
            zorder=2,
            label="RGB mean and sd only" if first else None,
        )
        if f"{name}_sd" in found:
            ends = [_place(value + side * float(found[f"{name}_sd"]), worst, best) for side in (-1, 1)]
            ax.plot(ends, [y, y], color=SYNTHETIC, linewidth=1.5, zorder=3)
        numbers = (figure_text(value), figure_text(ground), figure_text(baseline.get(name)))
        for (at, _, colour), number, named in zip(columns, numbers, (name, name, None), strict=True):
            beside(number, y, at, color=colour, va="center", gid=named)
    for at, text, colour in columns:
        beside(text, -0.75, at, color=colour, weight="bold")
    ax.set_yticks(range(len(shown)), [MEASURES[name][0] for name in shown])
    ax.set_ylim(len(shown) - 0.4, -0.6)
    ax.set_xlim(-0.04, 1.04)
    ax.set_xticks([0, 1], ["nothing alike", "alike"])
    for tick, side in zip(ax.get_xticklabels(), ("left", "right"), strict=True):
        tick.set_ha(side)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    ax.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(-0.05, -0.1), ncols=3, columnspacing=1)


def _place(value: float, worst: float, best: float) -> float:
    """Where `value` lies between `worst` (0) and `best` (1), kept on the line."""
    return float(np.clip((value - worst) / (best - worst), 0, 1))
