"""Directories of JSON and safetensors: written whole or not at all, read strictly, never a pickle."""

from __future__ import annotations

import json
import math
import os
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from c2lst._checks import listing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor, nn

INDICES = ("model_index.json", "local.json", "predictor.json")  # what a directory of a model has
WEIGHTS = "diffusion_pytorch_model.safetensors"
PICKLES = {".bin", ".ckpt", ".joblib", ".msgpack", ".npy", ".npz", ".pickle", ".pkl", ".pt", ".pth"}


class TargetExistsError(FileExistsError, ValueError):
    """The place to write to is taken."""


@contextmanager
def new_directory(path: str | Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Yield a temporary directory that becomes `path` when the block ends well; nothing is left when it does not."""
    given, path = Path(path), Path(path).resolve()
    taken = path.exists() and (not path.is_dir() or any(path.iterdir()))
    if taken and not overwrite:
        raise TargetExistsError(f"{given} exists already; choose another path or pass overwrite=True.")
    if taken and not any((path / name).is_file() for name in INDICES):
        raise TargetExistsError(f"{given} exists and is no model, so it is not overwritten; choose another path.")
    if path == Path.cwd() or path in Path.cwd().parents:
        raise TargetExistsError(f"{given} is the working directory, or above it; name a new directory for the model.")
    path.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    try:
        yield made
        made.chmod(0o755)
        swap(made, path)
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        raise


def swap(made: Path, path: Path) -> None:
    """Move a directory to `path`; what was there goes only once the new one stands."""
    old = made.with_name(f"{made.name}-old")
    if path.exists():
        os.replace(path, old)
    try:
        os.replace(made, path)
    except BaseException:
        if old.exists():
            os.replace(old, path)
        raise
    shutil.rmtree(old, ignore_errors=True)


def check_directory(path: str | Path, *files: str) -> Path:
    """Return `path` if it is a directory that holds `files` and no pickle; raise with the reason otherwise."""
    path = Path(path)
    if path.is_file():
        what = "a pickle, which runs code when opened" if path.suffix in PICKLES else "a file"
        raise ValueError(f"{path} is {what}; a model is a directory of JSON and safetensors.")
    if not path.is_dir():
        raise FileNotFoundError(f"There is no directory {path}.")
    bad = sorted(str(p.relative_to(path)) for p in path.rglob("*") if p.suffix.lower() in PICKLES)
    if bad:
        raise ValueError(f"{path} holds {listing(bad)}: pickles run code when opened; only JSON and safetensors load.")
    missing = [f for f in files if not (path / f).is_file()]
    if missing:
        here = sorted(str(p.relative_to(path)) for p in path.rglob("*") if p.is_file())
        raise ValueError(f"{path} lacks {listing(missing)}; it holds {listing(here)}.")
    return path


def read_json(path: Path, *keys: str, exact: bool = False) -> dict[str, Any]:
    """Read a JSON object that must have `keys`, and no other, if `exact`."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not JSON: {error}.") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} must hold a JSON object, not a {type(value).__name__}.")
    missing = [k for k in keys if k not in value]
    if missing:
        raise ValueError(f"{path} lacks the keys {listing(missing)}; it has {listing(value)}.")
    unknown = [k for k in value if k not in keys]
    if exact and unknown:
        raise ValueError(f"{path} has unknown keys {listing(unknown)}; this version knows {listing(keys)}.")
    return value


def check_kept_panel(path: Path, spec: dict[str, Any]) -> None:
    """Raise unless `genes` of a file are a list of names, and `card` is an object."""
    genes = spec["genes"]
    if not isinstance(genes, list) or not genes or not all(isinstance(g, str) for g in genes):
        raise ValueError(f"{path} must name its genes in a list of strings, not as {genes!r:.80}.")
    if not isinstance(spec["card"], dict):
        raise ValueError(f"{path}: card must be an object, not a {type(spec['card']).__name__}.")


def is_plain(name: str) -> bool:
    """Say whether `name` is that of a file beside another, and no path."""
    return Path(name).name == name and name not in ("", ".", "..")


def check_kept_scale(path: Path, spec: dict[str, Any]) -> None:
    """Raise unless `mpp` and `patch_px` of a file are a scale and a size."""
    mpp, px = spec["mpp"], spec["patch_px"]
    numbers = (
        isinstance(mpp, int | float) and isinstance(px, int) and not isinstance(mpp, bool) and not isinstance(px, bool)
    )
    if not numbers or not 0 < mpp < math.inf or px < 1:
        raise ValueError(f"{path} says mpp={mpp!r} and patch_px={px!r}, which is no scale.")


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write a JSON object, readable by people."""
    path.write_text(json.dumps(value, indent=1, sort_keys=True, default=str) + "\n", encoding="utf-8")


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file; a broken one raises `ValueError`, and so do numbers that are none."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise ValueError(f"{path} is not a whole safetensors file: {error}.") from error
    bad = sorted(k for k, v in tensors.items() if v.is_floating_point() and not bool(v.isfinite().all()))
    if bad:
        raise ValueError(f"{path} has NaN or infinite numbers in {listing(bad)}.")
    return tensors


def read_weights(folder: Path) -> dict[str, Tensor]:
    """Read a module's weights as diffusers writes them: one file, one of a variant, or shards with their index."""
    whole, index = folder / WEIGHTS, folder / f"{WEIGHTS}.index.json"
    if whole.is_file():
        return read_tensors(whole)
    if index.is_file():
        named = read_json(index, "weight_map")["weight_map"]
        if not isinstance(named, dict):
            raise ValueError(f"{index}: weight_map must be an object, not a {type(named).__name__}.")
        parts = sorted({str(v) for v in named.values()})
        if any(not is_plain(part) for part in parts):
            raise ValueError(f"{index} names {listing(parts)}: not all are plain file names.")
        check_directory(folder, *parts)
        return {k: v for part in parts for k, v in read_tensors(folder / part).items()}
    variants = sorted(folder.glob("diffusion_pytorch_model.*.safetensors"))
    if len(variants) != 1:
        here = sorted(p.name for p in folder.iterdir())
        raise ValueError(f"{folder} lacks [{WEIGHTS!r}]; it holds {listing(here)}.")
    return read_tensors(variants[0])


def write_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write a safetensors file."""
    from safetensors.torch import save_file

    save_file({k: v.detach().cpu().clone().contiguous() for k, v in tensors.items()}, path)


def built(make: Callable[[], nn.Module], tensors: dict[str, Tensor], source: Any) -> nn.Module:
    """Make a module and load its weights; shapes are compared before memory is taken for what a file asks for."""
    import torch

    with torch.device("meta"):
        check_fit(make(), tensors, source)
    with torch.random.fork_rng(devices=[]):  # what is drawn at random is overwritten
        module = make()
    load_strictly(module, tensors, source)
    return module


def load_strictly(module: nn.Module, tensors: dict[str, Tensor], source: Any) -> None:
    """Load `tensors` into `module`; every key and every shape must match."""
    check_fit(module, tensors, source)
    own = module.state_dict()
    module.load_state_dict({k: v.to(own[k].dtype) for k, v in tensors.items()})


def check_fit(module: nn.Module, tensors: dict[str, Tensor], source: Any) -> None:
    """Raise unless every key and every shape matches."""
    own = module.state_dict()
    missing, extra = sorted(set(own) - set(tensors)), sorted(set(tensors) - set(own))
    wrong = [
        f"{k} {tuple(tensors[k].shape)} instead of {tuple(own[k].shape)}"
        for k in sorted(set(own) & set(tensors))
        if tensors[k].shape != own[k].shape
    ]
    if missing or extra or wrong:
        parts = [f"lacks {listing(missing, 4)}"] * bool(missing) + [f"has unknown {listing(extra, 4)}"] * bool(extra)
        parts += [f"has wrong shapes {listing(wrong, 4)}"] * bool(wrong)
        raise ValueError(f"The weights in {source} do not fit {type(module).__name__}: the file {'; '.join(parts)}.")
