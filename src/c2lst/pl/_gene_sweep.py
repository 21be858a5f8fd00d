from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

import numpy as np

from c2lst._checks import listing
from c2lst._keys import Key
from c2lst._patches import get_patches

from ._figure import check_table, many_axes, scale_bar, show_patch

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.figure import Figure, SubFigure
    from numpy.typing import NDArray

VALUE, REPLICATE = "c2lst_value", "c2lst_replicate"


def gene_sweep(
    swept: AnnData, *, key: str = Key.obsm.PATCHES, rows: int | None = 4, fig: Figure | SubFigure | None = None
) -> NDArray[np.object_]:
    """Draw what moving genes does to patches made from the same noise.

    Each row starts from one noise, each column has one value; all else is held.

    Parameters
    ----------
    swept
        What :func:`c2lst.tl.gene_sweep` returned.
    key
        Name of the patches.
    rows
        At most so many noises; `None` draws all.
    fig
        Figure to draw in; `None` makes one.

    Returns
    -------
    Axes `(noises, values)`.

    Raises
    ------
    KeyError
        If `swept` lacks `obs["c2lst_value"]`, `obs["c2lst_replicate"]` or the patches.

    Examples
    --------
    >>> import numpy as np, anndata as ad, pandas as pd
    >>> import c2lst as c2l
    >>> obs = pd.DataFrame({"c2lst_value": [0.0, 1.0], "c2lst_replicate": [0, 0]}, index=["a", "b"])
    >>> swept = ad.AnnData(obs=obs, obsm={"patches": np.zeros((2, 8, 8, 3), dtype="uint8")})
    >>> c2l.pl.gene_sweep(swept).shape
    (1, 2)
    """
    check_table(swept, "swept")
    for column in (VALUE, REPLICATE):
        if column not in swept.obs:
            raise KeyError(
                f"obs of `swept` has no {column!r}; it has {listing(swept.obs.columns)}. "
                "Pass what `c2lst.tl.gene_sweep(local, gene, ...)` returned."
            )
    patches = get_patches(swept, key)
    value, replicate = swept.obs[VALUE].to_numpy(dtype=float), swept.obs[REPLICATE].to_numpy()
    values, replicates = np.unique(value), np.unique(replicate)[:rows]
    known = swept.uns.get(Key.UNS) or {}
    mpp = ((known.get("patches") or {}).get(key) or {}).get("mpp")
    axes = many_axes(fig, len(replicates), len(values), (1.25 * len(values) + 0.4, 1.25 * len(replicates) + 0.6))
    for i, r in enumerate(replicates):
        for j, v in enumerate(values):
            at = np.flatnonzero((replicate == r) & (value == v))
            axes[i, j].set_axis_off()
            if len(at):
                axes[i, j].set_axis_on()
                show_patch(axes[i, j], patches[int(at[0])])
    for ax, v in zip(axes[0], values, strict=True):
        ax.set_title(f"{v:.3g}", fontsize=8)
    for ax, r in zip(axes[:, 0], replicates, strict=True):
        ax.set_ylabel(f"noise {r}", fontsize=8)
    if mpp is not None and not isinstance(mpp, str):
        scale_bar(axes[0, 0], patches.shape[1], float(mpp))
    said = _moved((known.get("params") or {}).get("gene_sweep") or {})
    width = axes[0, 0].figure.get_figure().get_size_inches()[0]
    axes[0, 0].figure.suptitle("\n".join(textwrap.wrap(said, max(16, int(13 * width)))), fontsize=9)
    return axes


def _moved(params: dict[str, Any]) -> str:
    """Say what was moved, as far as it was written down."""
    genes = [str(g) for g in params.get("genes", ())]
    if not genes or genes == ["a direction"]:
        return "multiples of the direction added to the profile"
    named = ", ".join(genes[:3]) + (f" and {len(genes) - 3} more" if len(genes) > 3 else "")
    return f"{named} (log1p of counts per 10,000)"
