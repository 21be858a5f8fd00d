"""Local models and patches of a learning curve, kept for calls that ask other predictors of the same draws."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from anndata import AnnData
    from numpy.typing import NDArray

    from c2lst.models import CentralModel, LocalModel


class Drawn:
    """A directory of what draws made, each thing under a digest of all that it depends on. Without a path nothing is kept."""

    def __init__(self, path: str | Path | None = None):
        self.path = None if path is None else Path(path)

    def local(self, depends: dict[str, Any], central: CentralModel, make: Callable[[], LocalModel]) -> LocalModel:
        """Return a local model, adapted unless it is kept."""
        from c2lst.models import LocalModel

        at = self._at("local", depends)
        if at is None:
            return make()
        if not at.is_dir():
            made = make()
            made.save_pretrained(at, overwrite=True)
            return made
        return LocalModel.from_pretrained(at, central=central)

    def table(self, depends: dict[str, Any], make: Callable[[], AnnData]) -> AnnData:
        """Return synthetic spots, drawn unless they are kept."""
        import anndata as ad

        at = self._at("synthetic", depends, ".h5ad")
        if at is None:
            return make()
        if not at.is_file():
            made = make()
            part = at.with_suffix(f".{os.getpid()}.part")
            made.write_h5ad(part)
            os.replace(part, at)
            return made
        return ad.read_h5ad(at)

    def patches(self, depends: dict[str, Any], make: Callable[[], NDArray[np.uint8]]) -> NDArray[np.uint8]:
        """Return patches alone, drawn unless they are kept."""
        import torch

        from c2lst.models._files import read_tensors, write_tensors

        at = self._at("patches", depends, ".safetensors")
        if at is None:
            return make()
        if not at.is_file():
            made = make()
            part = at.with_suffix(f".{os.getpid()}.part")
            write_tensors(part, {"patches": torch.from_numpy(np.ascontiguousarray(made))})
            os.replace(part, at)
            return made
        return read_tensors(at)["patches"].numpy()

    def _at(self, what: str, depends: dict[str, Any], suffix: str = "") -> Path | None:
        if self.path is None:
            return None
        from c2lst import __version__

        try:
            said = json.dumps({**depends, "version": __version__}, sort_keys=True)
        except TypeError:  # arrays among the arguments: not to be told apart by their text
            return None
        self.path.mkdir(parents=True, exist_ok=True)
        return self.path / f"{what}-{hashlib.sha256(said.encode()).hexdigest()[:16]}{suffix}"


def fingerprint(*arrays: NDArray) -> str:
    """Return a digest of arrays, their shapes included."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:16]


def told(value: Any) -> Any:
    """Return arguments with a digest instead of each array, whose text would be abbreviated."""
    if isinstance(value, dict):
        return {k: told(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [told(v) for v in value]
    if isinstance(value, np.ndarray) and value.ndim:
        return f"array {fingerprint(value)}"
    return value
