from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from c2lst._checks import check_patches, check_positive
from c2lst._patches import StoredPatches, open_store

from ._writer import PatchWriter

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import numpy as np
    from numpy.typing import NDArray


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
        Replace what is at `path` if it is a patch store; it stays as it is until the new one is whole.
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
    path = Path(path).resolve()
    there = path.exists()
    if there:
        _refuse(path, overwrite=overwrite, resume=resume)
    if hasattr(patches, "ndim"):
        whole = check_patches(patches)
        if names is not None and len(names) != len(whole):
            raise ValueError(f"{len(names)} obs_names for {len(whole)} patches.")
        patches = (whole[start : start + 256] for start in range(0, len(whole), 256))
    whole_meta = {"mpp": float(mpp), **(meta or {})}
    if not (there and overwrite):
        _write(path, patches, names, whole_meta)
        return
    # beside the old store, which may be where the patches come from, and goes only once the new one is whole
    made = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    try:
        _write(made / "store", patches, names, whole_meta)
        os.replace(path, made / "old")
        try:
            os.replace(made / "store", path)
        except BaseException:
            os.replace(made / "old", path)
            raise
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _write(path: Path, batches: Iterable[NDArray[np.uint8]], names: list[str] | None, meta: dict[str, Any]) -> None:
    writer, seen = None, 0
    for batch in batches:
        batch = check_patches(batch, "a batch of patches")
        if writer is None:
            writer = PatchWriter(path, names, batch.shape[1:], meta)
        skip = min(max(writer.done - seen, 0), len(batch))
        seen += len(batch)
        writer.append(batch[skip:])
    if writer is None:
        raise ValueError("There is no patch to write.")
    writer.close()


def _refuse(path: Path, *, overwrite: bool, resume: bool) -> None:
    """Raise where what is at `path` is no patch store, or may neither be replaced nor gone on with."""
    import zarr

    try:
        ours = "c2lst_patches" in zarr.open_group(path, mode="r").attrs
    except (FileNotFoundError, ValueError, KeyError):
        ours = False
    if not ours:
        raise ValueError(f"{str(path)!r} exists and is not a patch store; give another path.")
    if not overwrite and not resume:
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
