"""Patches of a table, wherever they lie: in `obsm`, or in the zarr store that `uns["c2lst"]["patches"]` names."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ._checks import check_patches, listing
from ._keys import Key
from ._subset import boolean

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData
    from numpy.typing import NDArray

EXTRACT = "Call `c2lst.pp.extract_patches(sdata, mpp=...)` first."


class StoredPatches:
    """Rows of a patch store as an array `(n, H, W, 3)` of uint8 that is read only where it is indexed."""

    dtype = np.dtype(np.uint8)
    ndim = 4

    def __init__(self, array: Any, rows: NDArray[np.int64] | None = None) -> None:
        self._array = array
        self._rows = np.arange(array.shape[0]) if rows is None else np.asarray(rows, dtype=np.int64)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape `(n, H, W, 3)`."""
        return (len(self._rows), *self._array.shape[1:])

    @property
    def nbytes(self) -> int:
        """Size in bytes once read."""
        return int(np.prod(self.shape))

    def __len__(self) -> int:
        return len(self._rows)

    def __repr__(self) -> str:
        return f"StoredPatches{self.shape}"

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray:
        return np.asarray(self[:], dtype=dtype)

    def __getitem__(self, index: Any) -> NDArray[np.uint8]:
        first, rest = (index[0], index[1:]) if isinstance(index, tuple) else (index, ())
        rows = self._rows[first]
        if rows.ndim == 0:
            return np.asarray(self._array[int(rows)])[rest]
        if len(rows) == 0:
            return np.empty((0, *self.shape[1:]), dtype=np.uint8)[(slice(None), *rest)]
        if len(rows) == rows[-1] - rows[0] + 1 and (np.diff(rows) == 1).all():
            got = np.asarray(self._array[int(rows[0]) : int(rows[-1]) + 1])
        else:
            unique, back = np.unique(rows, return_inverse=True)
            got = np.asarray(self._array.oindex[unique])[back]
        return got[(slice(None), *rest)]


def open_store(path: str | Path) -> tuple[StoredPatches, list[str], dict[str, Any]]:
    """Open a finished patch store: patches, names of the rows, meta; raise where it is absent or half written."""
    import zarr

    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"There is no patch store at {str(path)!r}; it was moved or removed. {EXTRACT}")
    try:
        group = zarr.open_group(path, mode="r")
    except (FileNotFoundError, ValueError, KeyError) as error:
        raise ValueError(f"{str(path)!r} is not a zarr group, so not a patch store of c2lst.") from error
    attrs = dict(group.attrs)
    if "c2lst_patches" not in attrs:
        raise ValueError(f"{str(path)!r} is a zarr group but not a patch store; `c2lst.io.write_patches` writes one.")
    if not attrs.get("complete", False):
        raise ValueError(
            f"The patch store {str(path)!r} is half written: {attrs.get('done', 0)} of {attrs.get('n', 'unknown')} "
            "patches. Run the call that wrote it again; it goes on where it stopped."
        )
    return StoredPatches(group["patches"]), decode_names(group["names"][:]), attrs["meta"]


def rows_done(path: str | Path) -> int:
    """Return how many patches are written in a store, whole or half; 0 where there is none."""
    import zarr

    try:
        return int(zarr.open_group(path, mode="r").attrs.get("done", 0))
    except (FileNotFoundError, ValueError, KeyError):
        return 0


def encode_names(names: Sequence[str]) -> NDArray[np.uint8]:
    """Turn names into bytes `(n, longest)`: zarr 3 has no settled format for strings."""
    raw = [str(name).encode() for name in names]
    out = np.zeros((len(raw), max([1, *map(len, raw)])), dtype=np.uint8)
    for row, name in zip(out, raw, strict=True):
        row[: len(name)] = np.frombuffer(name, dtype=np.uint8)
    return out


def decode_names(array: NDArray[np.uint8]) -> list[str]:
    """Undo `encode_names`."""
    return [row.tobytes().rstrip(b"\0").decode() for row in array]


def patch_meta(table: AnnData, key: str = Key.obsm.PATCHES) -> dict[str, Any]:
    """Return `uns["c2lst"]["patches"][key]` as plain Python ("none" is None); raise `KeyError` where it is unknown."""
    known = (table.uns.get(Key.UNS) or {}).get("patches") or {}
    if key not in known and key in table.obsm:
        raise KeyError(
            f"uns['c2lst']['patches'] knows no patches {key!r}; it knows {listing(known)}. obsm has them, but nothing says their scale. "
            "If tables were concatenated, `anndata.concat(..., uns_merge='same', merge='same')` keeps it."
        )
    if key not in known:
        raise KeyError(f"uns['c2lst']['patches'] knows no patches {key!r}; it knows {listing(known)}. {EXTRACT}")
    plain = {str(k): v.tolist() if isinstance(v, np.ndarray | np.generic) else v for k, v in known[key].items()}
    return {k: None if isinstance(v, str) and v == "none" else v for k, v in plain.items()}


def made_meta(mpp: float, patch_px: int, store: str | Path | None = None) -> dict[str, dict[str, Any]]:
    """Return `uns["c2lst"]["patches"]` of a table whose patches were cut from no image of its own."""
    return {
        Key.obsm.PATCHES: {
            "mpp": mpp, "source_mpp": mpp, "patch_px": patch_px, "field_um": mpp * patch_px, "image_key": "none",
            "coordinate_system": "none", "level": 0, "store": "none" if store is None else str(store),
        }
    }  # fmt: skip


def get_patches(table: AnnData, key: str = Key.obsm.PATCHES) -> NDArray[np.uint8] | StoredPatches:
    """Return the patches of a table, uint8 `(n_obs, H, W, 3)`, row `i` being that of `obs_names[i]`.

    They come from `obsm[key]`, or lazily from the store that `uns["c2lst"]["patches"][key]` names.
    """
    if key in table.obsm:
        return check_patches(table.obsm[key], f"obsm[{key!r}]")
    store = None
    if key in ((table.uns.get(Key.UNS) or {}).get("patches") or {}):
        store = patch_meta(table, key).get("store")
    if store is None:
        raise KeyError(
            f"The table has no patches {key!r}: obsm has {listing(table.obsm)}, no store is named. {EXTRACT}"
        )
    patches, names, _ = open_store(store)
    at = {name: i for i, name in enumerate(names)}
    missing = [name for name in table.obs_names if name not in at]
    if missing:
        raise KeyError(
            f"The patch store {str(store)!r} lacks {len(missing)} of {table.n_obs} spots: {listing(missing)}. A store is of one "
            f"section: tables that have one each cannot be concatenated, pass a list of them. {EXTRACT}"
        )
    return StoredPatches(patches._array, np.array([at[name] for name in table.obs_names], dtype=np.int64))


def valid_mask(table: AnnData, patch_key: str = Key.obsm.PATCHES) -> NDArray[np.bool_]:
    """Return which spots have a patch worth seeing."""
    own = f"{Key.obs.VALID}_{patch_key}"
    column = own if own in table.obs else Key.obs.VALID
    if column not in table.obs:
        return np.ones(table.n_obs, dtype=bool)
    values = boolean(table.obs[column])
    if values is None:
        raise ValueError(
            f"obs[{column!r}] must say True or False of every spot; it has {listing(table.obs[column].unique())}."
        )
    return values
