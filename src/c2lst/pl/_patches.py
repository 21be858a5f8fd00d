from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from c2lst._checks import check_positive, listing
from c2lst._docs import doc
from c2lst._keys import Key
from c2lst._patches import get_patches, valid_mask
from c2lst._random import generator

from ._figure import check_table, many_axes, scale_bar, shortened, show_patch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData
    from matplotlib.figure import Figure, SubFigure
    from numpy.typing import NDArray


@doc
def patches(
    data: Any,
    n: int = 16,
    *,
    obs_names: Sequence[str] | None = None,
    synthetic: AnnData | None = None,
    key: str = Key.obsm.PATCHES,
    table_key: str = "table",
    library_key: str | None = None,
    columns: int = 8,
    seed: int = 0,
    fig: Figure | SubFigure | None = None,
) -> NDArray[np.object_]:
    """Draw patches of spots, or real parents above their synthetic children.

    The first patch of each size carries a scale bar in um; without `uns["c2lst"]["patches"]` there is none.

    Parameters
    ----------
    {data}
    n
        How many spots, drawn at random among those with `obs["c2lst_valid"]`; all of them if there are fewer.
    obs_names
        Draw these spots instead, in this order.
    synthetic
        What :func:`c2lst.tl.augment` made of `data`: draw spots that are parents, and under each the first synthetic
        patch made from its expression.
    key
        Name of the patches, in both.
    {table_key}
    library_key
        Column of `obs` that names the sections of a concatenated AnnData; `synthetic` is then of that same AnnData and column.
    columns
        Spots in a row.
    {seed}
    fig
        Figure to draw in; `None` makes one.

    Returns
    -------
    Axes `(rows, columns)`; with `synthetic`, rows 0, 2, ... are real and rows 1, 3, ... synthetic.

    Raises
    ------
    KeyError
        If there are no patches `key`, or no spot has a name of `obs_names`.
    ValueError
        If no spot of `data` is a parent, or spots of several sections share names and the sections' own do not tell whose
        the children are.

    Examples
    --------
    >>> import numpy as np, anndata as ad
    >>> import c2lst as c2l
    >>> spots = ad.AnnData(obsm={"patches": np.full((4, 32, 32, 3), 200, dtype="uint8")})
    >>> spots.uns["c2lst"] = {"patches": {"patches": {"mpp": 2.0}}}
    >>> c2l.pl.patches(spots, 3).shape
    (1, 3)
    """
    from c2lst._resolve import sections

    check_positive("n", n, integer=True)
    check_positive("columns", columns, integer=True)
    found = sections(data, table_key=table_key, library_key=library_key)
    tables = {s.name: s.table for s in found}
    at = [(name, i) for name, table in tables.items() for i in range(table.n_obs)]
    child = (
        None
        if synthetic is None
        else _children(check_table(synthetic, "synthetic"), tables, {s.name for s in found if not s.positional})
    )
    if obs_names is not None:
        chosen = _named(tables, at, obs_names)
        if child is not None and any(a not in child for a in chosen):
            lacking = [tables[s].obs_names[i] for s, i in chosen if (s, i) not in child]
            raise ValueError(
                f"`synthetic` has no child of {listing(lacking)}; its parents are in obs[{Key.obs.PARENT!r}]."
            )
    else:
        valid = {name: valid_mask(table, key) for name, table in tables.items()}
        pool = [(s, i) for s, i in at if valid[s][i] and (child is None or (s, i) in child)]
        if not pool:
            raise ValueError(
                "No spot of `data` can be drawn: none is valid"
                + ("." if child is None else " and a parent of `synthetic`; pass the sections it was made from.")
            )
        pick = generator(seed, 31).permutation(len(pool))[:n]
        chosen = [pool[j] for j in np.sort(pick)]

    real = {name: get_patches(table, key) for name, table in tables.items()}
    made = None if synthetic is None else get_patches(synthetic, key)
    columns = min(columns, len(chosen))
    step = 1 if made is None else 2
    rows = -(-len(chosen) // columns) * step
    axes = many_axes(fig, rows, columns, (1.15 * columns + 0.3, (1.15 if made is not None else 1.3) * rows + 0.1))
    seen: set[tuple] = set()
    for ax in axes.ravel():
        ax.set_axis_off()
    for j, (name, i) in enumerate(chosen):
        row, column = divmod(j, columns)
        top = axes[row * step, column]
        _draw(top, real[name][i], tables[name], key, seen)
        top.set_title(shortened(tables[name].obs_names[i], 19), fontsize=6, pad=2)
        if made is not None:
            _draw(axes[row * step + 1, column], made[child[name, i]], synthetic, key, seen)
        if column == 0 and made is not None:
            top.set_ylabel("real", fontsize=8)
            axes[row * step + 1, 0].set_ylabel("synthetic", fontsize=8)
    return axes


def _draw(ax, patch: NDArray[np.uint8], table: AnnData, key: str, seen: set[tuple]) -> None:
    ax.set_axis_on()
    show_patch(ax, patch)
    known = ((table.uns.get(Key.UNS) or {}).get("patches") or {}).get(key) or {}
    mpp = known.get("mpp")
    if mpp is not None and not isinstance(mpp, str) and (patch.shape[0], float(mpp)) not in seen:
        seen.add((patch.shape[0], float(mpp)))
        scale_bar(ax, patch.shape[0], float(mpp))


def _named(tables: dict[str, AnnData], at: list[tuple[str, int]], names: Sequence[str]) -> list[tuple[str, int]]:
    where: dict[str, tuple[str, int]] = {}
    for section, i in at:
        where.setdefault(str(tables[section].obs_names[i]), (section, i))
    missing = [name for name in names if name not in where]
    if missing:
        raise KeyError(f"No spot of `data` is called {listing(missing)}; obs_names are {listing(where)}.")
    if not len(names):
        raise ValueError("obs_names is empty; name at least one spot, or leave it out.")
    return [where[name] for name in names]


def _children(synthetic: AnnData, tables: dict[str, AnnData], named: set[str]) -> dict[tuple[str, int], int]:
    """Map (section, row) of each parent to the row of its first child; `named` sections are not called by their place.

    Where sections share the names of spots, as all Visium slides do, those of the sections tell them apart.
    """
    if Key.obs.PARENT not in synthetic.obs:
        raise KeyError(
            f"obs of `synthetic` has no {Key.obs.PARENT!r}; it has {listing(synthetic.obs.columns)}. "
            "Pass what `c2lst.tl.augment` returned."
        )
    parent = synthetic.obs[Key.obs.PARENT].astype(str).to_numpy()
    section = np.full(len(parent), "", dtype=object)
    if Key.SECTION in synthetic.obs:
        section = synthetic.obs[Key.SECTION].astype(str).to_numpy(dtype=object)
    by_name = bool(named & set(section))
    out: dict[tuple[str, int], int] = {}
    origin: dict[str, set[str]] = {}
    found: dict[str, set[str]] = {}
    for name, table in tables.items():
        row = {str(spot): i for i, spot in enumerate(table.obs_names)}
        for j, spot in enumerate(parent):
            # names of sections may have changed since: where none is known, those of the spots must do
            if spot in row and (not by_name or section[j] == name):
                out.setdefault((name, row[spot]), j)
                origin.setdefault(name, set()).add(section[j])
                found.setdefault(spot, set()).add(name)
    doubtful = any(len(names) > 1 for names in [*found.values(), *origin.values()])
    if not by_name and doubtful:
        raise ValueError(
            f"Spots of several sections have the same names, and `synthetic` knows other sections ({listing(sorted(set(section)))}) than "
            f"`data` ({listing(tables)}), so whose its children are is not known; pass {{name: section}} as to `c2lst.tl.augment`."
        )
    return out
