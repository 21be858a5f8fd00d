from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from c2lst._checks import check_patches, check_positive
from c2lst._notes import jsonable
from c2lst._patches import StoredPatches, encode_names, open_store

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

CHUNK_BYTES = 4 * 2**20


def write_patches(
    path: str | Path,
    patches: NDArray[np.uint8] | Iterable[NDArray[np.uint8]],
    *,
    mpp: float,
    obs_names: Sequence[str] | None = None,
    meta: dict[str, Any] | None = None,
    overwrite: bool = False,
    resume: bool = False,
) -> None:
    """Write patches into a zarr store, chunk by chunk; what is held in memory is one batch and one chunk.

    A mark that the store is complete is written last, and a store without it is refused by
    :func:`c2lst.io.read_patches`.

    Parameters
    ----------
    path
        Directory of the store.
    patches
        uint8 `(n, H, W, 3)`, or an iterable of such batches.
    mpp
        Microns per pixel of the patches.
    obs_names
        Names of the rows; `None` counts from 0.
    meta
        Whatever else is worth keeping beside `mpp` and `patch_px` (JSON-able).
    overwrite
        Replace what is at `path` if it is a patch store.
    resume
        Go on with a half-written store: the rows that are written already are taken from `patches` and dropped.

    Raises
    ------
    ValueError
        If `path` exists (and neither `overwrite` nor `resume` is set), was begun with another specification, or the
        number of names is not that of the patches.

    Examples
    --------
    >>> import numpy as np, tempfile, c2lst as c2l
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     c2l.io.write_patches(f"{folder}/p.zarr", np.zeros((3, 8, 8, 3), np.uint8), mpp=2.0)
    ...     c2l.io.read_patches(f"{folder}/p.zarr").patches.shape
    (3, 8, 8, 3)
    """
    check_positive("mpp", mpp)
    names = None if obs_names is None else [str(name) for name in obs_names]
    if names is not None and len(set(names)) < len(names):
        raise ValueError("obs_names holds a name twice; the rows of a store are found by name.")
    path = Path(path)
    if path.exists():
        _clear_or_refuse(path, overwrite=overwrite, resume=resume)
    if hasattr(patches, "ndim"):
        whole = check_patches(patches)
        if names is not None and len(names) != len(whole):
            raise ValueError(f"{len(names)} obs_names for {len(whole)} patches.")
        patches = (whole[start : start + 256] for start in range(0, len(whole), 256))
    writer, seen = None, 0
    for batch in patches:
        batch = check_patches(batch, "a batch of patches")
        if writer is None:
            writer = PatchWriter(path, names, batch.shape[1:], {"mpp": float(mpp), **(meta or {})})
        skip = min(max(writer.done - seen, 0), len(batch))
        seen += len(batch)
        writer.append(batch[skip:])
    if writer is None:
        raise ValueError("There is no patch to write.")
    writer.close()


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
                same = np.array_equal(self._group["names"][:], encode_names(self.names))
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


def _clear_or_refuse(path: Path, *, overwrite: bool, resume: bool) -> None:
    import shutil

    import zarr

    try:
        ours = "c2lst_patches" in zarr.open_group(path, mode="r").attrs
    except (FileNotFoundError, ValueError, KeyError):
        ours = False
    if not ours:
        raise ValueError(f"{str(path)!r} exists and is not a patch store; give another path.")
    if overwrite:
        shutil.rmtree(path)
    elif not resume:
        raise ValueError(f"{str(path)!r} exists; pass overwrite=True, or resume=True to go on with a half-written one.")


class PatchStore(NamedTuple):
    """What :func:`c2lst.io.read_patches` returns.

    Attributes
    ----------
    patches
        uint8 `(n, H, W, 3)`, read only where it is indexed.
    names
        Names of the rows.
    meta
        `mpp` (um/px), `patch_px` and whatever the writer noted.
    """

    patches: StoredPatches
    names: list[str]
    meta: dict[str, Any]


def read_patches(path: str | Path) -> PatchStore:
    """Open a patch store: patches `(n, H, W, 3)` that are read where they are indexed, names of the rows, and meta.

    Raises
    ------
    FileNotFoundError
        If there is nothing at `path`.
    ValueError
        If it is not a patch store, or half written.

    Examples
    --------
    >>> import numpy as np, tempfile, c2lst as c2l
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     c2l.io.write_patches(f"{folder}/p.zarr", np.zeros((2, 8, 8, 3), np.uint8), mpp=2.0, obs_names=["a", "b"])
    ...     store = c2l.io.read_patches(f"{folder}/p.zarr")
    ...     store.names, store.meta["mpp"], store.patches[1].shape
    (['a', 'b'], 2.0, (8, 8, 3))
    """
    return PatchStore(*open_store(path))
