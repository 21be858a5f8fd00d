"""The writer of patch stores: whole chunks, in order, and the mark that a store is complete last."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from c2lst._notes import jsonable
from c2lst._patches import encode_names

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

CHUNK_BYTES = 4 * 2**20


class PatchWriter:
    """A patch store being written: rows are appended in order, whole chunks go to disk, the mark comes last."""

    def __init__(
        self, path: str | Path, names: Sequence[str] | None, shape: tuple[int, ...], meta: dict[str, Any]
    ) -> None:
        import zarr

        self.path, self.names = Path(path), None if names is None else list(names)
        meta = json.loads(json.dumps(jsonable({**meta, "patch_px": shape[0]})))
        n = None if names is None else len(names)
        if self.path.exists():
            self._group = zarr.open_group(self.path, mode="r+")
            attrs = dict(self._group.attrs)
            same = attrs.get("meta") == meta and attrs.get("n", "none") in (n, "none")
            if same and n is not None:
                same = "names" in self._group and np.array_equal(self._group["names"][:], encode_names(self.names))
            if not same or attrs.get("shape") != list(shape):
                raise ValueError(
                    f"The patch store {str(path)!r} was written with another specification: "
                    f"{_differences(attrs.get('meta'), meta)}. Give another path, or remove that directory."
                )
            self._array = self._group["patches"]
            self.done, self.complete = int(attrs["done"]), bool(attrs["complete"])
        else:
            rows = max(1, CHUNK_BYTES // int(np.prod(shape)))
            rows = rows if n is None else max(1, min(rows, n))
            self._group = zarr.open_group(self.path, mode="w")
            self._array = self._group.create_array(
                "patches", shape=(n or 0, *shape), chunks=(rows, *shape), dtype=np.uint8
            )
            if n is not None:
                self._write_names()
            self._group.attrs.update(
                c2lst_patches=1, meta=meta, shape=list(shape), n="none" if n is None else n, done=0, complete=False
            )
            self.done, self.complete = 0, False
        self._held: list[NDArray[np.uint8]] = []
        self._n_held = 0

    @property
    def held(self) -> int:
        """Rows taken but not written yet."""
        return self._n_held

    def append(self, batch: NDArray[np.uint8]) -> None:
        """Take the next rows; those that fill chunks are written."""
        if len(batch) == 0:
            return
        if self.complete:
            raise ValueError(f"The patch store {str(self.path)!r} is complete; nothing can be added.")
        self._held.append(np.asarray(batch))
        self._n_held += len(batch)
        rows = self._array.chunks[0]
        if self._n_held >= rows:
            whole = np.concatenate(self._held)
            cut = len(whole) - len(whole) % rows
            self._flush(whole[:cut])
            self._held, self._n_held = [whole[cut:]], len(whole) - cut

    def _flush(self, rows: NDArray[np.uint8]) -> None:
        end = self.done + len(rows)
        if self.names is not None and end > len(self.names):
            raise ValueError(f"More patches than the {len(self.names)} obs_names of the store {str(self.path)!r}.")
        if end > self._array.shape[0]:
            self._array.resize((end, *self._array.shape[1:]))
        self._array[self.done : end] = rows
        self.done = end
        self._group.attrs["done"] = end

    def _write_names(self) -> None:
        names = encode_names(self.names)
        self._group.create_array("names", shape=names.shape, chunks=names.shape, dtype=np.uint8, overwrite=True)
        self._group["names"][:] = names

    def close(self) -> None:
        """Write what is left and then the mark that the store is complete."""
        if self.complete:
            return
        if self._n_held:
            self._flush(np.concatenate(self._held))
        self._held, self._n_held = [], 0
        if self.names is not None and self.done != len(self.names):
            raise ValueError(f"{len(self.names)} obs_names for {self.done} patches in the store {str(self.path)!r}.")
        if self.names is None:
            self.names = [str(i) for i in range(self.done)]
            self._write_names()
        self._group.attrs["n"] = self.done
        self._group.attrs["complete"] = True
        self.complete = True


def _differences(old: dict[str, Any] | None, new: dict[str, Any]) -> str:
    old = old or {}
    out = [f"{k}={old.get(k)!r} there, {new.get(k)!r} here" for k in {**old, **new} if old.get(k) != new.get(k)]
    return "; ".join(out) or "other rows or another patch size"
