"""What the tools ask of their input, checked before anything is trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from c2lst._checks import listing
from c2lst._expression import panel
from c2lst._keys import Key
from c2lst._logging import logger
from c2lst._patches import get_patches, patch_meta, valid_mask
from c2lst._resolve import Section, sections, several_regions
from c2lst._subset import subset_masks

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray

    from c2lst.models import CentralModel


@dataclass
class Spots:
    """Spots of one section that a tool may see: rows of the table, and their patches."""

    section: Section
    rows: NDArray[np.int64]
    patches: Any  # uint8 (n, H, W, 3), in memory

    @property
    def table(self) -> AnnData:
        """The table."""
        return self.section.table

    @property
    def names(self) -> NDArray:
        """obs_names of the rows."""
        return self.section.table.obs_names.to_numpy()[self.rows]

    @property
    def keys(self) -> list[tuple[Any, str]]:
        """Section and obs_name of the rows; a section that nothing names is known by its table alone."""
        section = id(self.table) if self.section.positional else self.section.name
        return [(section, str(n)) for n in self.names]

    def without(self, keys: set[tuple[Any, str]]) -> Spots:
        """Leave out spots by their keys."""
        keep = np.array([k not in keys for k in self.keys], dtype=bool)
        return Spots(self.section, self.rows[keep], self.patches[keep])


def spots(
    data: Any,
    *,
    subset: str | None = None,
    table_key: str = "table",
    patch_key: str = Key.obsm.PATCHES,
    library_key: str | None = None,
    at_least: int = 1,
    what: str = "this",
) -> list[Spots]:
    """Resolve `data` into sections and read the patches of the spots that are meant and valid."""
    out = []
    found = sections(data, table_key=table_key, library_key=library_key)
    for s in found if what in ("adapt", "fit_predictor") else []:
        regions = several_regions(s.table) if s.parent is None else None
        if regions:
            logger.warning(
                "%s takes the %d regions %s of one table for one section; pass library_key=%r if they are sections.",
                what, len(regions[1]), listing(regions[1]), regions[0],
            )  # fmt: skip
    for section, mask in zip(found, subset_masks(found, subset), strict=True):
        patches = get_patches(section.table, patch_key)
        rows = np.flatnonzero(mask & valid_mask(section.table, patch_key))
        out.append(Spots(section, rows, np.asarray(patches[rows]) if len(rows) else None))
    total = sum(len(s.rows) for s in out)
    if total < at_least:
        raise ValueError(
            f"{total} spots (subset={subset!r}, valid patches) are too few for {what}, which needs at least {at_least}."
        )
    return [s for s in out if len(s.rows)]


def section_names(seen: list[Spots]) -> NDArray:
    """Return the section of each spot."""
    return np.concatenate([np.repeat(s.section.name, len(s.rows)) for s in seen])


def scale_of(table: AnnData, key: str = Key.obsm.PATCHES) -> tuple[float, int]:
    """Return (mpp, patch_px) of a table's patches."""
    meta = patch_meta(table, key)
    return float(meta["mpp"]), int(meta["patch_px"])


def check_scale(table: AnnData, mpp: float, patch_px: int, who: str, key: str = Key.obsm.PATCHES) -> None:
    """Raise unless the patches of a table have this scale (mpp within 2 %) and size."""
    here, px = scale_of(table, key)
    if abs(here / mpp - 1) > 0.02 or px != patch_px:
        raise ValueError(
            f"The patches {key!r} are {px} px at {here:g} um/px, {who} takes {patch_px} px at {mpp:g} um/px. "
            f"Call `c2lst.pp.extract_patches(sdata, mpp={mpp:g}, patch_px={patch_px})`."
        )


def common_panel(tables: list[AnnData], genes_key: str = Key.var.GENES) -> list[str]:
    """Return the panel all sections agree on."""
    panels = [panel(t, genes_key) for t in tables]
    if any(set(p) != set(panels[0]) for p in panels):
        raise ValueError(
            f"The sections mark different panels in var[{genes_key!r}]; call `c2lst.pp.select_genes([...])` on all of "
            "them at once."
        )
    return panels[0]


def central_for(
    data: list[AnnData] | AnnData, central: CentralModel | str | None, *, encoder: str = "central"
) -> CentralModel | None:
    """Return the central model whose features are meant.

    The one noted in `uns["c2lst"]["central"]`, else `central`, else the starter; `None` for another encoder. Where sections
    note different ones, `central` says which of them.
    """
    from c2lst.models import central_model, get_encoder

    if not get_encoder(encoder).needs_central:
        return None
    references = []
    for table in data if isinstance(data, list) else [data]:
        found = (table.uns.get(Key.UNS) or {}).get("central")
        if found is not None and found["hash"] not in [r["hash"] for r in references]:
            references.append(dict(found))
    if len(references) > 1:
        chosen = None if central is None else central_model(central)
        if chosen is None or chosen.hash not in [r["hash"] for r in references]:
            raise ValueError(
                f"The sections refer to different central models {listing(r['name'] for r in references)}; pass central= "
                "one of them, or adapt all of the sections together."
            )
        return chosen
    found = central_model(central, reference=references[0] if references else None)
    if references and central is not None and (asked := central_model(central)).hash != found.hash:
        logger.warning(
            "The data refer to the central model %r (uns['c2lst']['central']), which is used instead of central=%r; remove "
            "that entry to use another.",
            found.name,
            asked.name,
        )
    return found


def synthetic_table(synthetic: Any, name: str = "synthetic") -> AnnData:
    """Return the synthetic AnnData, checked to be one of :func:`c2lst.tl.augment`."""
    from anndata import AnnData

    if not isinstance(synthetic, AnnData):
        raise TypeError(f"{name} must be the AnnData that c2lst.tl.augment returns, not {type(synthetic).__name__}.")
    if is_pseudo(synthetic):
        raise ValueError(
            f"{name} are real patches with predicted genes (c2lst.tl.pseudo_label), not synthetic spots, and nothing was "
            "drawn that could be judged; pass what `c2lst.tl.augment(data, local)` returns."
        )
    if Key.obs.PARENT not in synthetic.obs:
        raise KeyError(
            f"{name}.obs has no column {Key.obs.PARENT!r}; it has {listing(synthetic.obs.columns)}. Pass what "
            "`c2lst.tl.augment(data, local)` returns."
        )
    return synthetic


def parent_keys(synthetic: AnnData) -> list[tuple[str, str]]:
    """Return section and obs_name of the parent of each synthetic spot."""
    return list(zip(synthetic.obs[Key.SECTION].astype(str), synthetic.obs[Key.obs.PARENT].astype(str), strict=True))


def partner_keys(synthetic: AnnData) -> list[tuple[str, str]]:
    """Return section and obs_name of the spot that was mixed into each synthetic one; of its parent where none was."""
    if Key.obs.PARTNER not in synthetic.obs or Key.obs.PARTNER_SECTION not in synthetic.obs:
        return parent_keys(synthetic)
    columns = (synthetic.obs[k].astype(str) for k in (Key.obs.PARTNER_SECTION, Key.obs.PARTNER))
    return list(zip(*columns, strict=True))


def everyone(data: Any, table_key: str, library_key: str | None) -> set[tuple[str, str]]:
    """Return section and obs_name of all spots."""
    found = sections(data, table_key=table_key, library_key=library_key)
    return {(s.name, str(n)) for s in found for n in s.table.obs_names}


def set_aside(data: Any, subset: str | None, table_key: str, library_key: str | None) -> set[tuple[str, str]]:
    """Return section and obs_name of the spots outside a subset."""
    found = sections(data, table_key=table_key, library_key=library_key)
    masks = subset_masks(found, subset)
    return {(s.name, str(n)) for s, mask in zip(found, masks, strict=True) for n in s.table.obs_names[~mask]}


def is_pseudo(table: Any) -> bool:
    """Say whether a table is one of :func:`c2lst.tl.pseudo_label`: real patches under predicted genes."""
    return Key.obs.ORIGIN in getattr(table, "obs", ()) and bool(
        (table.obs[Key.obs.ORIGIN].astype(str) == "pseudo").all()
    )


def one_table(data: Any, table_key: str = "table") -> list[AnnData]:
    """Return the tables of `data`."""
    return [s.table for s in sections(data, table_key=table_key)]
