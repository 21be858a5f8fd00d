"""Which central models there are, by name, by path and by content hash."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from c2lst._checks import listing
from c2lst._logging import logger

from ._central import CARD, CentralModel, load_directory
from ._files import check_directory, read_json

if TYPE_CHECKING:
    import pandas as pd


@dataclass
class _Entry:
    source: CentralModel | Path
    task: str
    licence: str
    commercial: bool
    gated: bool
    held: CentralModel | None = None


def _shipped(name: str) -> Path:
    return Path(str(files("c2lst"))) / "models" / "weights" / name


_REGISTRY: dict[str, _Entry] = {
    "toy": _Entry(_shipped("toy"), "simulated H&E of c2lst.datasets.toy_tissue", "BSD-3-Clause", True, False),
    "starter": _Entry(_shipped("starter"), "H&E", "BSD-3-Clause", True, False),
}


def registered(name: str) -> CentralModel | None:
    """Return the model registered under `name`; `None` where it is not registered but is a path that exists."""
    if name not in _REGISTRY:
        if Path(name).exists():
            return None
        raise KeyError(
            f"No central model {name!r}: it is neither a directory nor registered; registered are "
            f"{listing(_REGISTRY)} (c2lst.models.list_central()). `c2lst.models.register_central` adds one."
        )
    entry = _REGISTRY[name]
    if name == "starter" and isinstance(entry.source, Path) and not entry.source.is_dir():
        logger.warning(
            'The "starter" central model does not ship yet; "toy" takes its place, which has seen simulated tissue '
            "only. Pretrain one on your H&E with c2lst.tl.pretrain."
        )
        return registered("toy")
    if entry.held is None:
        entry.held = entry.source if isinstance(entry.source, CentralModel) else load_directory(entry.source, name=name)
    return entry.held


def register_central(
    name: str,
    source: CentralModel | str | Path,
    *,
    task: str = "H&E",
    licence: str,
    commercial: bool = False,
    gated: bool = False,
) -> None:
    """Register a central model (or its directory) under `name`, with its licence.

    Raises
    ------
    ValueError
        `name` is one that ships with c2lst.
    """
    if name in ("toy", "starter"):
        raise ValueError(f"{name!r} ships with c2lst; choose another name.")
    if not isinstance(source, CentralModel):
        source = check_directory(source, "model_index.json")
        if not (source / CARD).is_file():
            raise ValueError(
                f"{source} has no {CARD} and so no scale; register the model itself: "
                "c2lst.models.CentralModel.from_pretrained(path, mpp=)."
            )
    else:
        source.name = name
    _REGISTRY[name] = _Entry(source, task, licence, commercial, gated)


def list_central() -> pd.DataFrame:
    """Return the central models c2lst knows, one row a model: task, licence, commercial use, gating, size, scale.

    Examples
    --------
    >>> import c2lst as c2l
    >>> "toy" in c2l.models.list_central().index
    True
    """
    import pandas as pd

    rows = {}
    for name, entry in _REGISTRY.items():
        path = entry.source if isinstance(entry.source, Path) else None
        there = path is None or path.is_dir()
        card = read_json(path / CARD) if path is not None and (path / CARD).is_file() else {}
        weights = [] if path is None else [f.stat().st_size for f in path.rglob("*.safetensors")]
        rows[name] = {
            "task": entry.task,
            "licence": entry.licence,
            "commercial_use": entry.commercial,
            "gated": entry.gated,
            "size_mb": sum(weights) / 1e6 if weights else np.nan,
            "mpp": card.get("mpp", entry.source.mpp if path is None else np.nan),
            "patch_px": card.get("patch_px", entry.source.patch_px if path is None else np.nan),
            "source": ("in memory" if path is None else "shipped" if name in ("toy", "starter") else str(path))
            if there
            else "not shipped yet; resolves to toy",
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("name")


_SEEN: dict[str, CentralModel] = {}  # by content hash: what this session has made or loaded


def central_model(central: Any = None, *, reference: dict[str, Any] | None = None) -> CentralModel:
    """Resolve a central model: an object, a name, a path; or the `reference` an object carries; else the starter.

    Raises
    ------
    KeyError
        The referenced model is not to be found in this session.
    ValueError
        What stands under the referenced name is another model (the content hash differs).
    """
    if reference:
        found = _SEEN.get(reference["hash"])
        if found is not None:
            return found
        try:
            found = CentralModel.from_pretrained(reference["name"])
        except (KeyError, ValueError, FileNotFoundError) as error:
            if isinstance(central, CentralModel) and central.hash == reference["hash"]:
                return remember(central)
            raise KeyError(
                f"The data refer to the central model {reference['name']!r} ({reference['hash'][:12]}), which is not "
                "to be found; load it with c2lst.models.CentralModel.from_pretrained(path) in this session first, or "
                "pass central=."
            ) from error
        if found.hash != reference["hash"]:
            raise ValueError(
                f"The data refer to the central model {reference['name']!r} with hash {reference['hash'][:12]}, but "
                f"what stands under that name has {found.hash[:12]}; load the right one first."
            )
        return remember(found)
    if isinstance(central, CentralModel):
        return remember(central)
    if central is not None and not isinstance(central, str | Path):
        raise TypeError(f"central must be a CentralModel, a name or a path, not {type(central).__name__}.")
    return remember(CentralModel.from_pretrained("starter" if central is None else central))


def referenced(reference: dict[str, Any], central: Any, path: Path) -> CentralModel:
    """Return the central model a saved object refers to; `central`, where given, must be that very model."""
    if central is None:
        return central_model(reference=reference)
    model = central_model(central)
    if model.hash != reference["hash"]:
        raise ValueError(
            f"{path} was fitted with the central model {reference['name']!r} ({reference['hash'][:12]}), not with "
            f"{model.name!r} ({model.hash[:12]})."
        )
    return model


def remember(central: CentralModel) -> CentralModel:
    """Let this session find the model again by its content hash."""
    return _SEEN.setdefault(central.hash, central)
