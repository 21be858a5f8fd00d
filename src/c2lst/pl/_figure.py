"""What the plots share: colours, axes, the scale bar, looking up a result."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from c2lst._checks import listing

if TYPE_CHECKING:
    from collections.abc import Collection

    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure
    from numpy.typing import NDArray

# Okabe & Ito: told apart with any colour vision
BLACK, ORANGE, SKY, GREEN, YELLOW, BLUE, VERMILLION, PURPLE = (
    "#000000",
    "#E69F00",
    "#56B4E9",
    "#009E73",
    "#F0E442",
    "#0072B2",
    "#D55E00",
    "#CC79A7",
)
GREY = "#8C8C8C"
MISSING = "#D3D3D3"  # scanpy's na_color
REAL, SYNTHETIC, CONTROL = BLUE, VERMILLION, GREY

BARS_UM = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)


def one_axes(ax: Axes | None, size: tuple[float, float]) -> Axes:
    """Return `ax`, or the axes of a new figure of `size` inches."""
    if ax is not None:
        return ax
    import matplotlib.pyplot as plt

    return _plain(plt.subplots(figsize=size, layout="constrained")[1])


def many_axes(
    fig: Figure | SubFigure | None, rows: int, columns: int, size: tuple[float, float], **kwargs: Any
) -> NDArray[np.object_]:
    """Return `(rows, columns)` axes in `fig`, or in a new figure of `size` inches."""
    if fig is None:
        import matplotlib.pyplot as plt

        fig = plt.figure(figsize=size, layout="constrained")
    elif fig.figure.get_layout_engine() is None:
        fig.figure.set_layout_engine("constrained")  # or labels and outer columns fall off the figure
    axes = fig.subplots(rows, columns, squeeze=False, **kwargs)
    for ax in axes.ravel():
        _plain(ax)
    return axes


def _plain(ax: Axes) -> Axes:
    """Fix the size of labels, as that of all other text is: panels have sizes in inches, and styles may ask for more."""
    for axis in (ax.xaxis, ax.yaxis):
        axis.label.set_size(9)
    ax.tick_params(labelsize=8)
    return ax


def ink() -> str:
    """Return the colour of text in the style of now: black on white, white on black."""
    import matplotlib as mpl
    from matplotlib.colors import to_hex

    return to_hex(mpl.rcParams["text.color"])


def shortened(text: str, n: int) -> str:
    """Leave out the middle of a name that is longer than `n` characters."""
    text = str(text)
    return text if len(text) <= n else f"{text[: (n - 1) // 2]}…{text[len(text) - n // 2 :]}"


def result(
    table: AnnData, key: str, *, call: str, owner: str, needs: Collection[str] = (), within: str | None = None
) -> dict[str, Any]:
    """Return `uns[key]`, or the entry `within` it; raise `KeyError` naming the call that writes it."""
    found = table.uns.get(key)
    if within is not None:
        found = (found or {}).get(within)
    if found is None:
        raise KeyError(f"uns of {owner} has no {key!r}; it has {listing(table.uns)}. Call `c2lst.tl.{call}` first.")
    missing = [name for name in needs if name not in found]
    if missing:
        raise KeyError(
            f"uns[{key!r}] of {owner} lacks {listing(missing)}; it has {listing(found)}. Call `c2lst.tl.{call}` again."
        )
    return dict(found)


def check_table(table: Any, owner: str) -> AnnData:
    """Return `table` if it is an AnnData; raise `TypeError` otherwise."""
    from anndata import AnnData

    if not isinstance(table, AnnData):
        hint = " Pass its table, `sdata['table']`." if type(table).__name__ == "SpatialData" else ""
        raise TypeError(f"{owner} must be an AnnData, not {type(table).__name__}.{hint}")
    return table


def show_patch(ax: Axes, patch: NDArray[np.uint8]) -> None:
    """Draw one patch without ticks."""
    ax.imshow(patch, interpolation="nearest")
    ax.set_xticks([])
    ax.set_yticks([])
    for spine in ax.spines.values():
        spine.set_visible(False)


def scale_bar(ax: Axes, px: int, mpp: float) -> None:
    """Draw a bar of a round length, about a third of a patch of `px` pixels at `mpp` um per pixel."""
    field = px * mpp
    length = max([b for b in BARS_UM if b <= 0.45 * field], default=round(0.3 * field, 3))
    right, y = 0.94 * px - 0.5, 0.93 * px - 0.5
    left = right - length / mpp
    import matplotlib.patheffects as effects

    halo = [effects.Stroke(linewidth=4.5, foreground="white"), effects.Normal()]
    ax.plot([left, right], [y, y], color="black", linewidth=2.5, solid_capstyle="butt", path_effects=halo, gid="scale")
    ax.annotate(
        f"{length:g} µm",
        ((left + right) / 2, y),
        xytext=(0, 3),
        textcoords="offset points",
        ha="center",
        va="bottom",
        fontsize=7,
        gid="scale",
        path_effects=[effects.withStroke(linewidth=2.5, foreground="white")],
    )


def tidy(ax: Axes) -> None:
    """Take off the upper and right spine."""
    ax.spines[["top", "right"]].set_visible(False)


def identity_line(ax: Axes, *values: NDArray) -> None:
    """Draw y = x over the span of `values`, with equal limits of both axes."""
    both = np.concatenate([np.asarray(v, dtype=float).ravel() for v in values])
    both = both[np.isfinite(both)]
    low, high = (float(both.min()), float(both.max())) if both.size else (0.0, 1.0)
    pad = 0.05 * (high - low) or 0.5
    ax.plot([low - pad, high + pad], [low - pad, high + pad], color=GREY, linewidth=1, linestyle="--", zorder=0)
    ax.set_xlim(low - pad, high + pad)
    ax.set_ylim(low - pad, high + pad)
    ax.set_aspect("equal", adjustable="box")


def figure_text(value: Any) -> str:
    """Write a number with three significant digits; "n/a" for what is none."""
    if value is None or isinstance(value, str) or not np.isfinite(value):
        return "n/a"
    value = float(value)
    return f"{value:.0f}" if 1000 <= abs(value) < 10_000 else f"{value:.3g}"
