from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from c2lst._keys import Key

from ._figure import REAL, SYNTHETIC, check_table, ink, one_axes, result, shortened, tidy

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes


def memorization(synthetic: AnnData, *, key: str = Key.uns.MEMORIZATION, ax: Axes | None = None) -> Axes:
    """Draw how near synthetic patches and real ones come to the real patches of training.

    Real ones are those of the `holdout`, or, without one, those of training, each against the others.

    A generator that copies has synthetic patches left of the line, the 1st percentile of the real ones, far more often
    than the share that is expected there.

    Parameters
    ----------
    synthetic
        What :func:`c2lst.tl.memorization` wrote to.
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
    >>> synthetic.uns["memorization"] = {
    ...     "nearest_synthetic": np.array([2.0, 3.0, 4.0]), "nearest_real": np.array([2.5, 3.0, 3.5]),
    ...     "threshold": 2.4, "share": 1 / 3, "expected": 0.01,
    ... }
    >>> c2l.pl.memorization(synthetic).get_ylabel()
    'share of patches'
    """
    check_table(synthetic, "synthetic")
    found = result(
        synthetic,
        key,
        call="memorization(real, synthetic)",
        owner="`synthetic`",
        needs=("nearest_synthetic", "nearest_real", "threshold", "share", "expected"),
    )
    ax = one_axes(ax, (5.2, 3.6))
    made, real = (np.asarray(found[k], dtype=float) for k in ("nearest_synthetic", "nearest_real"))
    bins = np.histogram_bin_edges(np.concatenate([made, real]), bins=30)
    params = found.get("params") or {}
    held_out = bool(params.get("holdout", True))
    for values, colour, name in ((real, REAL, "held-out real" if held_out else "real"), (made, SYNTHETIC, "synthetic")):
        ax.hist(
            values,
            bins=bins,
            weights=np.full(len(values), 1 / max(1, len(values))),
            color=colour,
            alpha=0.5,
            label=f"{name} (n = {len(values)})",
        )
    ax.axvline(float(found["threshold"]), color=ink(), linestyle="--", linewidth=1.2, label="1st percentile of real")
    encoder = params.get("encoder")
    ax.set_xlabel("distance to the nearest real patch" + (f" (encoder {shortened(encoder, 24)!r})" if encoder else ""))
    ax.set_ylabel("share of patches")
    title = (
        f"{100 * found['share']:.1f} % of synthetic patches left of the line; {100 * found['expected']:.1f} % expected"
    )
    pixels = found.get("pixel_share")
    if pixels is not None and not isinstance(pixels, str) and np.isfinite(pixels):
        title += f"\nin pixels: {100 * pixels:.1f} %"
    ax.set_title(title, fontsize=9)
    ax.legend(frameon=False, fontsize=8)
    tidy(ax)
    return ax
