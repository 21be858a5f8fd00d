"""What `data` may be, resolved in one place: SpatialData, AnnData, a list or a dict of them -> sections."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ._checks import listing
from ._keys import Key

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray
    from spatialdata import SpatialData


@dataclass
class Section:
    """One section of tissue: its name, its table and, where there is one, its SpatialData."""

    name: str
    table: AnnData
    sdata: SpatialData | None = None
    parent: AnnData | None = None  # the concatenated table that `library_key` split
    rows: NDArray[np.int64] | None = None
    positional: bool = False  # nothing names it: `section0` is its place in the list

    def write_obs(self, key: str, values: Any) -> None:
        """Write a column of `obs`, through to the concatenated table if there is one."""
        import pandas as pd

        values = pd.Series(np.asarray(values), index=self.table.obs_names)
        if values.dtype == object:
            values = values.astype("category")
        self.table.obs[key] = values
        if self.parent is not None:
            old = self.parent.obs[key].astype(object) if key in self.parent.obs else None
            column = (
                np.full(self.parent.n_obs, None, dtype=object) if old is None else old.to_numpy(dtype=object).copy()
            )
            column[self.rows] = values.astype(object)
            done = pd.Series(column, index=self.parent.obs_names)
            if not done.isna().any():
                # the categories of all sections, not of this one alone
                done = done.astype("category" if isinstance(values.dtype, pd.CategoricalDtype) else values.dtype)
            self.parent.obs[key] = done

    def write_obsm(self, key: str, values: Any) -> None:
        """Write an entry of `obsm` (array or DataFrame), through to the concatenated table if there is one."""
        import pandas as pd

        self.table.obsm[key] = values
        if self.parent is not None:
            old = self.parent.obsm.get(key)
            whole = np.full((self.parent.n_obs, *values.shape[1:]), np.nan, dtype=np.float32)
            if old is not None and tuple(old.shape[1:]) == tuple(values.shape[1:]):
                whole[:] = np.asarray(old)
            whole[self.rows] = np.asarray(values)
            frame = isinstance(values, pd.DataFrame)
            self.parent.obsm[key] = (
                pd.DataFrame(whole, index=self.parent.obs_names, columns=values.columns) if frame else whole
            )


def sections(data: Any, *, table_key: str = "table", library_key: str | None = None) -> list[Section]:
    """Resolve `data` into named sections.

    Names come from a dict's keys, else from `uns`/`attrs["c2lst_section"]`, else a unique region name, else
    `section0`, `section1`, ... `library_key` splits one concatenated AnnData by a column of `obs`.
    """
    if isinstance(data, dict):
        named = [(str(name), _one(item, table_key)) for name, item in data.items()]
    elif isinstance(data, list | tuple):
        named = [(None, _one(item, table_key)) for item in data]
    else:
        named = [(None, _one(data, table_key))]
    if not named:
        raise ValueError("`data` holds no section; pass a SpatialData, an AnnData or a list of them.")
    if library_key is not None:
        if len(named) > 1:
            raise ValueError("library_key= splits one concatenated AnnData; a list of sections is split already.")
        return _split(named[0][1][0], library_key)
    regions = [_region(table) for _, (table, _) in named]
    out = []
    for i, (name, (table, sdata)) in enumerate(named):
        name = name or table.uns.get(Key.SECTION) or (sdata.attrs.get(Key.SECTION) if sdata is not None else None)
        if name is None and regions[i] and regions.count(regions[i]) == 1:
            name = regions[i]
        out.append(Section(str(name or f"section{i}"), table, sdata, positional=name is None))
    names = [s.name for s in out]
    if len(set(names)) < len(names):
        raise ValueError(f"Two sections have one name: {listing(names)}; pass a dict {{name: section}}.")
    return out


def _one(item: Any, table_key: str) -> tuple[AnnData, SpatialData | None]:
    from anndata import AnnData

    if isinstance(item, AnnData):
        table, sdata = item, None
    elif type(item).__name__ == "SpatialData":
        if table_key not in item.tables:
            raise KeyError(
                f"The SpatialData has no table {table_key!r}; it has {listing(item.tables)}. Pass table_key=."
            )
        table, sdata = item.tables[table_key], item
    else:
        raise TypeError(
            f"A section must be a SpatialData or an AnnData (or a list or dict of them), not {type(item).__name__}."
        )
    if table.n_obs == 0:
        raise ValueError(f"The table{'' if sdata is None else f' {table_key!r}'} has no spots (n_obs = 0).")
    if not table.obs_names.is_unique:
        raise ValueError("obs_names of the table are not unique; call `.obs_names_make_unique()` first.")
    if not table.var_names.is_unique:
        dup = table.var_names[table.var_names.duplicated()].unique()
        raise ValueError(f"Genes come twice in var_names: {listing(dup)}; call `.var_names_make_unique()` first.")
    return table, sdata


def several_regions(table: AnnData) -> tuple[str, list[str]] | None:
    """Return the column that tells regions apart and their names, where a table of a SpatialData holds several."""
    key = (table.uns.get("spatialdata_attrs") or {}).get("region_key")
    names = sorted(set(table.obs[key].astype(str))) if key in table.obs else []
    return (str(key), names) if len(names) > 1 else None


def check_sections(found: list[Section], what: str) -> None:
    """Raise where what is measured section by section would be measured over several regions at once."""
    for s in found:
        regions = several_regions(s.table) if s.parent is None else None
        if regions:
            raise ValueError(
                f"The table of section {s.name!r} holds {len(regions[1])} regions, {listing(regions[1])}, and {what} section "
                f"by section; pass library_key={regions[0]!r}."
            )


def _region(table: AnnData) -> str | None:
    region = (table.uns.get("spatialdata_attrs") or {}).get("region")
    region = [region] if isinstance(region, str) else list(region if region is not None else [])
    return str(region[0]) if len(region) == 1 else None


def _split(table: AnnData, library_key: str) -> list[Section]:
    if library_key not in table.obs:
        raise KeyError(f"obs has no column {library_key!r}; it has {listing(table.obs.columns)}.")
    if table.obs[library_key].isna().any():
        raise ValueError(f"obs[{library_key!r}] has missing values; every spot must belong to a section.")
    column = table.obs[library_key].astype(str).to_numpy()
    out = []
    for name in sorted(set(column)):
        rows = np.flatnonzero(column == name)
        out.append(Section(name, table[rows].copy(), None, table, rows))
    return out
