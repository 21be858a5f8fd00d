"""Which central models there are, by name, by path and by content hash."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from c2lst._checks import check_positive, listing
from c2lst._logging import logger

from ._central import CARD, CentralModel
from ._files import check_directory, read_json
from ._hub import HUB, fetch
from ._pipeline import load_directory

if TYPE_CHECKING:
    import pandas as pd

UNKNOWN = "not known"
SHIPPED = ("toy", "starter")


@dataclass
class _Entry:
    source: CentralModel | Path | str  # a model, its directory, or hf:owner/repository
    task: str
    licence: str
    commercial: bool | None
    gated: bool | None
    mpp: float | None = None
    patch_px: int | None = None
    size_mb: float | None = None
    needs: str = ""
    revision: str | None = None
    held: CentralModel | None = None

    @property
    def hub(self) -> str | None:
        """Owner and name of its repository, where it lies on the Hub."""
        return self.source.removeprefix(HUB) if isinstance(self.source, str) else None

    @property
    def terms(self) -> str:
        """What a person must know before fetching it."""
        use = {None: f"commercial use {UNKNOWN}", True: "commercial use allowed", False: "no commercial use assumed"}
        return f"{self.licence}; {use[self.commercial]}"


def _shipped(name: str) -> Path:
    return Path(str(files("c2lst"))) / "models" / "weights" / name


# The model cards of 2025 say Apache-2.0; later accounts of the weights, and the repository of the code, say
# non-commercial: nobody is told more than the stricter of the two. Trained at 20x, which is nominally 0.5 um/px.
_PIXCELL = {
    "licence": "Apache-2.0 (card of 2025) or CC-BY-NC-ND-4.0 (later accounts): read the card",
    "commercial": False,
    "gated": False,
    "mpp": 0.5,
    "needs": "vae=: that of stabilityai/stable-diffusion-3.5-large (gated)",
}

_REGISTRY: dict[str, _Entry] = {
    "toy": _Entry(_shipped("toy"), "simulated H&E of c2lst.datasets.toy_tissue", "BSD-3-Clause", True, False),
    "starter": _Entry(_shipped("starter"), "H&E: breast, a little skin and ovary", "CC-BY-4.0", True, False),
    "PixCell-256": _Entry(
        f"{HUB}StonyBrook-CVLab/PixCell-256", "H&E, pan-cancer, 20x", patch_px=256, size_mb=2430.0, **_PIXCELL
    ),
    "PixCell-1024": _Entry(f"{HUB}StonyBrook-CVLab/PixCell-1024", "H&E, pan-cancer, 20x", patch_px=1024, **_PIXCELL),
}


def registered(
    name: str,
    *,
    mpp: float | None = None,
    patch_px: int | None = None,
    vae: Any = None,
    condition: Any = None,
    revision: str | None = None,
) -> CentralModel | None:
    """Return the model registered under `name`; `None` where it is not registered but is a path that exists."""
    if name not in _REGISTRY:
        if Path(name).exists():
            return None
        raise KeyError(
            f"No central model {name!r}: it is neither a directory nor registered; registered are "
            f"{listing(_REGISTRY)} (c2lst.models.list_central()). `c2lst.models.register_central` adds one."
        )
    entry = _REGISTRY[name]
    if entry.hub is not None:
        return _from_hub(name, entry, mpp, patch_px, vae, condition, revision)
    for key, value in (("vae", vae), ("condition", condition), ("revision", revision)):
        if value is not None:
            raise ValueError(f"The registered model {name!r} is whole: leave {key}= out.")
    if name == "starter" and isinstance(entry.source, Path) and not entry.source.is_dir():
        logger.warning(
            'The "starter" central model does not ship yet; "toy" takes its place, which has seen simulated tissue '
            "only. Pretrain one on your H&E with c2lst.tl.pretrain."
        )
        return registered("toy", mpp=mpp, patch_px=patch_px)
    if entry.held is None:
        entry.held = load_directory(entry.source, name=name)
    held = entry.held
    if mpp not in (None, held.mpp) or patch_px not in (None, held.patch_px):
        raise ValueError(
            f"The registered model {name!r} is of patches of {held.patch_px} px at {held.mpp:g} um/px; mpp={mpp!r}, "
            f"patch_px={patch_px!r} is not for it. Leave them out: they are for directories that do not say their scale."
        )
    return held


def _from_hub(
    name: str,
    entry: _Entry,
    mpp: float | None,
    patch_px: int | None,
    vae: Any,
    condition: Any,
    revision: str | None,
) -> CentralModel:
    if entry.needs.startswith("vae=") and vae is None:
        raise ValueError(
            f"{name!r} comes without its autoencoder. Pass {entry.needs}: its directory, or the module loaded with "
            "diffusers. Nothing was fetched."
        )
    revision = entry.revision if revision is None else revision
    path = fetch(name, entry.hub, terms=entry.terms, revision=revision)
    if not (path / CARD).is_file():
        mpp, patch_px = entry.mpp if mpp is None else mpp, entry.patch_px if patch_px is None else patch_px
    model = load_directory(path, name=name, mpp=mpp, patch_px=patch_px, vae=vae, condition=condition)
    card = {
        "licence": entry.licence,
        "source": f"https://huggingface.co/{entry.hub}",
        "revision": revision or path.name,
    }
    model.card = {**card, **model.card}
    return remember(model)


def register_central(
    name: str,
    source: CentralModel | str | Path,
    *,
    task: str = "H&E",
    licence: str,
    commercial: bool | None = False,
    gated: bool | None = False,
    mpp: float | None = None,
    patch_px: int | None = None,
    revision: str | None = None,
) -> None:
    """Register a central model, its directory, or its repository on the Hugging Face Hub under `name`.

    Parameters
    ----------
    source
        A :class:`CentralModel` (which stays as it is), a directory that says its scale, or `"hf:owner/repository"`.
        The last is fetched when the name is asked for in :meth:`CentralModel.from_pretrained`, not before.
    commercial, gated
        Whether commercial use is allowed and access must be asked for; `None` is not known.
    mpp, patch_px, revision
        Of a repository on the Hub.

    Raises
    ------
    ValueError
        `name` is one that ships with c2lst, or the directory has no scale.

    Examples
    --------
    >>> import c2lst as c2l
    >>> c2l.models.register_central("mine", c2l.models.CentralModel.from_pretrained("toy"), licence="CC0-1.0")
    >>> c2l.models.CentralModel.from_pretrained("mine").name
    'mine'
    """
    if name in SHIPPED:
        raise ValueError(f"{name!r} ships with c2lst; choose another name.")
    on_hub = isinstance(source, str) and source.startswith(HUB)
    if not on_hub:
        for key, value in (("mpp", mpp), ("patch_px", patch_px), ("revision", revision)):
            if value is not None:
                raise ValueError(f"{key}= is for a source on the Hub, 'hf:owner/repository', not for {source!r}.")
    held = None
    if isinstance(source, CentralModel):
        held = copy.copy(source)  # another name for the same modules
        held.name = name
    elif on_hub:
        if source.removeprefix(HUB).count("/") != 1:
            raise ValueError(f"{source!r} must be 'hf:owner/repository'.")
        if mpp is not None:
            check_positive("mpp", mpp)
        if patch_px is not None:
            check_positive("patch_px", patch_px, integer=True)
    else:
        source = check_directory(source, "model_index.json")
        if not (source / CARD).is_file():
            raise ValueError(
                f"{source} has no {CARD} and so no scale; register the model itself: "
                "c2lst.models.CentralModel.from_pretrained(path, mpp=)."
            )
    _REGISTRY[name] = _Entry(
        source, task, licence, commercial, gated, mpp=mpp, patch_px=patch_px, revision=revision, held=held
    )


def list_central() -> pd.DataFrame:
    """Return the central models c2lst knows as a data frame, one row a model, drawn as a table in a notebook.

    Columns: `task`, `licence`, `commercial_use`, `gated`, `size_mb` of the weights, `mpp` and `patch_px` of its patches,
    `source` (where it comes from), `needs` (what `from_pretrained` must be passed). What is not known is said to be, or
    NaN. Nothing is fetched.

    Examples
    --------
    >>> import c2lst as c2l
    >>> c2l.models.list_central().loc["toy", ["licence", "source"]].tolist()
    ['BSD-3-Clause', 'shipped']
    """
    import pandas as pd

    return pd.DataFrame.from_dict({name: _row(name, e) for name, e in _REGISTRY.items()}, orient="index").rename_axis(
        "name"
    )


def _row(name: str, entry: _Entry) -> dict[str, Any]:
    path = entry.source if isinstance(entry.source, Path) else None
    card = read_json(path / CARD) if path is not None and (path / CARD).is_file() else {}
    weights = [] if path is None else [f.stat().st_size for f in path.rglob("*.safetensors")]
    mpp, patch_px = (entry.held.mpp, entry.held.patch_px) if entry.held else (entry.mpp, entry.patch_px)
    if entry.hub is not None:
        source = f"https://huggingface.co/{entry.hub}"
    elif path is None:
        source = "in memory"
    elif not path.is_dir():
        source = "not shipped yet; resolves to toy" if name in SHIPPED else f"{path}, gone"
    else:
        source = "shipped" if name in SHIPPED else str(path)
    size = sum(weights) / 1e6 if weights else entry.size_mb
    return {
        "task": entry.task,
        "licence": entry.licence,
        "commercial_use": UNKNOWN if entry.commercial is None else entry.commercial,
        "gated": UNKNOWN if entry.gated is None else entry.gated,
        "size_mb": np.nan if size is None else size,
        "mpp": card.get("mpp", np.nan if mpp is None else mpp),
        "patch_px": card.get("patch_px", np.nan if patch_px is None else patch_px),
        "source": source,
        "needs": entry.needs,
    }


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
            found = _without_fetching(reference["name"])
        except (KeyError, ValueError, FileNotFoundError) as error:
            if isinstance(central, CentralModel) and central.hash == reference["hash"]:
                return remember(central)
            raise KeyError(
                f"The data refer to the central model {reference['name']!r} ({reference['hash'][:12]}), which is not "
                "to be found; load it with c2lst.models.CentralModel.from_pretrained in this session first, or "
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


def _without_fetching(name: str) -> CentralModel:
    """Load by name or path what is on this machine: a reference in somebody's data is no user's wish to fetch."""
    if name in _REGISTRY and _REGISTRY[name].hub is not None:
        raise KeyError(name)
    return CentralModel.from_pretrained(name)


def referenced(reference: dict[str, Any], central: Any, path: Path) -> CentralModel:
    """Return the central model a saved object refers to; `central`, where given, must be that very model."""
    known = isinstance(reference, dict) and all(isinstance(reference.get(k), str) for k in ("name", "hash"))
    if not known:
        raise ValueError(f"{path} must refer to a central model by name and hash, not by {reference!r}.")
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
    _SEEN[central.hash] = central
    return central
