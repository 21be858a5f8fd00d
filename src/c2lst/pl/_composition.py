from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from c2lst._keys import Key

from ._figure import SYNTHETIC, check_table, figure_text, identity_line, many_axes, result, tidy

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.figure import Figure, SubFigure
    from numpy.typing import NDArray

LABELS = {
    "haematoxylin_area": "haematoxylin area (share of pixels)",
    "haematoxylin_od": "haematoxylin (optical density)",
    "haematoxylin_texture": "haematoxylin texture (OD)",
    "eosin_od": "eosin (optical density)",
    "nuclei_per_mm2": "nuclei (per mm²)",
    "nucleus_area_um2": "nucleus area (µm²)",
    "nucleus_eccentricity": "nucleus eccentricity",
    "nucleus_od": "nucleus haematoxylin (OD)",
}


def composition(
    synthetic: AnnData, *, key: str = Key.uns.COMPOSITION, fig: Figure | SubFigure | None = None
) -> NDArray[np.object_]:
    """Draw the cellular composition of synthetic patches against that of the real patches of their parents.

    One panel a measure, one point a synthetic patch, the dashed line where both agree. The title gives the Spearman
    correlation over pairs and the Wasserstein distance of the two distributions, in standard deviations of the parents.

    Parameters
    ----------
    synthetic
        What :func:`c2lst.tl.composition` wrote to.
    key
        Where in `uns`.
    fig
        Figure to draw in; `None` makes one.

    Returns
    -------
    One axes a measure.

    Raises
    ------
    KeyError
        If `uns[key]` is not there.

    Examples
    --------
    >>> import numpy as np, anndata as ad
    >>> import c2lst as c2l
    >>> synthetic = ad.AnnData(np.zeros((3, 2)))
    >>> synthetic.uns["composition"] = {
    ...     "measures": ["haematoxylin_area"], "synthetic": {"haematoxylin_area": np.array([0.1, 0.2, 0.4])},
    ...     "parent": {"haematoxylin_area": np.array([0.1, 0.3, 0.5])}, "correlation": {"haematoxylin_area": 0.98},
    ...     "wasserstein": {"haematoxylin_area": 0.07},
    ... }
    >>> c2l.pl.composition(synthetic)[0].get_xlabel()
    'real parent'
    """
    check_table(synthetic, "synthetic")
    found = result(
        synthetic,
        key,
        call="composition(real, synthetic)",
        owner="`synthetic`",
        needs=("measures", "synthetic", "parent", "correlation", "wasserstein"),
    )
    measures = [str(m) for m in found["measures"]]
    columns = min(4, len(measures))
    rows = -(-len(measures) // columns)
    axes = many_axes(fig, rows, columns, (2.9 * columns, 3.2 * rows)).ravel()
    for ax in axes[len(measures) :]:
        ax.remove()
    for ax, name in zip(axes, measures, strict=False):
        parent, made = (np.asarray(found[side][name], dtype=float) for side in ("parent", "synthetic"))
        identity_line(ax, parent, made)
        ax.scatter(parent, made, s=10, color=SYNTHETIC, alpha=0.6, linewidths=0)
        ax.set_xlabel("real parent")
        ax.set_ylabel("synthetic")
        r, distance = figure_text(found["correlation"].get(name)), figure_text(found["wasserstein"].get(name))
        ax.set_title(f"{LABELS.get(name, name)}\nSpearman {r}\nWasserstein {distance} sd", fontsize=8)
        tidy(ax)
    return axes[: len(measures)]
