from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from c2lst._checks import listing
from c2lst._docs import doc
from c2lst._keys import Key

from ._figure import GREY, MISSING, REAL, figure_text, identity_line, many_axes, one_axes, result, shortened, tidy

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure
    from numpy.typing import NDArray

    from c2lst._resolve import Section


@doc
def spatial_coherence(
    data: Any,
    *,
    gene: str | None = None,
    key: str = Key.uns.COHERENCE,
    predicted_key: str = Key.obsm.PREDICTED,
    layer: str | None = None,
    table_key: str = "table",
    library_key: str | None = None,
    ax: Axes | None = None,
    fig: Figure | SubFigure | None = None,
) -> Axes | NDArray[np.object_]:
    """Draw Moran's I of predicted against measured genes, or one gene on the tissue.

    A prediction is smoother than counts, so points above the dashed line are the rule; see
    :func:`c2lst.tl.spatial_coherence` for what to hold against them.

    Parameters
    ----------
    {data}
    gene
        Draw this gene on the tissue instead: measured and predicted side by side, log1p of counts per 10,000. Each map
        has its own colour scale, because a prediction spans less than counts.
    key
        Where :func:`c2lst.tl.spatial_coherence` wrote, in `uns`.
    predicted_key
        Where :func:`c2lst.tl.predict` wrote, in `obsm`.
    {layer}
    {table_key}
    library_key
        As it was passed to :func:`c2lst.tl.spatial_coherence`.
    ax
        Axes to draw in (one section, no `gene`).
    fig
        Figure to draw in (several sections, or `gene`); `None` makes one.

    Returns
    -------
    One section: its axes. Several: an array of axes, one a section. With `gene`: axes `(sections, 2)`.

    Raises
    ------
    KeyError
        If `uns[key]`, the prediction, the gene or the positions are not there.
    ValueError
        If `ax` is given for a figure of several panels.

    Examples
    --------
    >>> import numpy as np, anndata as ad
    >>> import c2lst as c2l
    >>> spots = ad.AnnData(np.zeros((3, 2)))
    >>> spots.uns["spatial_coherence"] = {
    ...     "genes": ["A", "B"], "measured": np.array([0.1, 0.3]), "predicted": np.array([0.4, 0.5]),
    ...     "corr": 1.0, "bias": 0.25,
    ... }
    >>> c2l.pl.spatial_coherence(spots).get_xlabel()
    "Moran's I, measured"
    """
    from c2lst._resolve import check_sections, sections

    found = sections(data, table_key=table_key, library_key=library_key)
    check_sections(found, "this is drawn")
    if ax is not None and (gene is not None or len(found) > 1):
        raise ValueError("This figure has several panels: pass fig= instead of ax=.")
    if gene is not None:
        maps = [_maps(section, gene, predicted_key, layer) for section in found]
        axes = many_axes(fig, len(found), 2, (8.4, 3.8 * len(found)))
        for row, section, (xy, measured, predicted) in zip(axes, found, maps, strict=True):
            name = shortened(section.name, 24)
            _map(row[0], xy, measured, f"{name}: {gene}, measured")
            _map(row[1], xy, predicted, f"{name}: {gene}, predicted")
        return axes
    results = [
        result(
            section.table,
            key,
            call=f"spatial_coherence(data{'' if library_key is None else f', library_key={library_key!r}'})",
            owner=f"section {section.name!r}",
            needs=("measured", "predicted", "corr", "bias"),
            within=None if section.parent is None else section.name,
        )
        for section in found
    ]
    if len(found) == 1 and fig is None:
        return _scatter(one_axes(ax, (4.2, 4.2)), found[0].name, results[0])
    axes = many_axes(fig, 1, len(found), (4.0 * len(found), 4.2))[0]
    for one, section, values in zip(axes, found, results, strict=True):
        _scatter(one, section.name, values)
    return axes if len(found) > 1 else axes[0]


def _scatter(ax: Axes, name: str, found: dict[str, Any]) -> Axes:
    measured, predicted = (np.asarray(found[k], dtype=float) for k in ("measured", "predicted"))
    identity_line(ax, measured, predicted)
    ax.axhline(0, color=GREY, linewidth=0.5)
    ax.axvline(0, color=GREY, linewidth=0.5)
    ax.scatter(measured, predicted, s=18, color=REAL, alpha=0.75, linewidths=0)
    ax.set_xlabel("Moran's I, measured")
    ax.set_ylabel("Moran's I, predicted")
    bias, drawn = float(found["bias"]), int((np.isfinite(measured) & np.isfinite(predicted)).sum())
    n = f"{drawn} genes" if drawn == len(measured) else f"{drawn} of {len(measured)} genes"
    ax.set_title(
        f"{shortened(name, 32)}: {n}\nr = {figure_text(found['corr'])}, predicted minus measured "
        f"{f'{bias:+.3f}' if np.isfinite(bias) else 'n/a'}",
        fontsize=9,
    )
    tidy(ax)
    return ax


def _maps(section: Section, gene: str, predicted_key: str, layer: str | None) -> tuple[NDArray, NDArray, NDArray]:
    """Positions, measured and predicted values of a gene."""
    from c2lst._expression import expression

    table: AnnData = section.table
    if Key.obsm.SPATIAL not in table.obsm:
        raise KeyError(
            f"Section {section.name!r} has no obsm[{Key.obsm.SPATIAL!r}]; obsm has {listing(table.obsm)}. "
            "Write the positions of the spots there, (n_obs, 2)."
        )
    if predicted_key not in table.obsm:
        raise KeyError(
            f"Section {section.name!r} has no obsm[{predicted_key!r}]; obsm has {listing(table.obsm)}. "
            "Call `c2lst.tl.predict(data, predictor)` first."
        )
    predicted = table.obsm[predicted_key]
    if gene not in getattr(predicted, "columns", ()):
        raise KeyError(
            f"obsm[{predicted_key!r}] of section {section.name!r} has no gene {gene!r}; it has "
            f"{listing(getattr(predicted, 'columns', ()))}."
        )
    measured = expression(table, [gene], layer)[:, 0]
    return np.asarray(table.obsm[Key.obsm.SPATIAL])[:, :2], measured, predicted[gene].to_numpy(dtype=float)


def _map(ax: Axes, xy: NDArray, values: NDArray, title: str) -> None:
    from matplotlib.collections import EllipseCollection
    from scipy.spatial import KDTree

    placed = np.isfinite(xy).all(axis=1)
    xy, values = xy[placed], values[placed]
    # discs about as wide as spots are apart, in units of the tissue: they fit whatever the size of the axes
    apart = float(np.median(KDTree(xy).query(xy, k=2)[0][:, 1])) if len(xy) > 1 else 1.0
    known = np.isfinite(values)

    def discs(which: NDArray[np.bool_], **how: Any) -> EllipseCollection:
        width = np.full(which.sum(), 0.8 * apart)
        made = EllipseCollection(
            width, width, 0 * width, units="xy", offsets=xy[which], offset_transform=ax.transData, linewidths=0, **how
        )
        return ax.add_collection(made, autolim=False)

    drawn = discs(known, cmap="viridis", array=values[known])
    if not known.all():
        discs(~known, facecolors=MISSING, label="no value")
    if len(xy):  # of all spots, so that maps of one section lie alike
        low, high = xy.min(axis=0) - apart, xy.max(axis=0) + apart
        ax.set_xlim(low[0], high[0])
        ax.set_ylim(high[1], low[1])  # as the image lies
    ax.set_aspect("equal")
    ax.set_xticks([])
    ax.set_yticks([])
    ax.spines[:].set_visible(False)
    ax.set_title(title, fontsize=9)
    ax.figure.colorbar(drawn, ax=ax, shrink=0.7, label="log1p of counts per 10,000")
