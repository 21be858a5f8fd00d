"""Directories of diffusers pipelines, and of this package, read strictly."""

from __future__ import annotations

import inspect
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from c2lst._checks import listing

from ._adopt import CONDITION, OLD_TRANSFORMER, PIXCELL, adopt_config, adopt_tensors
from ._central import CARD, GUIDE, CentralModel, shrinks
from ._files import check_directory, check_kept_scale, is_plain, load_strictly, read_json, read_weights

if TYPE_CHECKING:
    from torch import nn

TOKENIZERS = ("AutoencoderKL", "AutoencoderTiny", "AutoencoderDC", "VQModel")
DENOISERS = (
    "DiTTransformer2DModel",
    "PixArtTransformer2DModel",
    "UNet2DModel",
    "UNet2DConditionModel",
    OLD_TRANSFORMER,
    PIXCELL,
)
SCHEDULERS = (
    "FlowMatchEulerDiscreteScheduler",
    "DDIMScheduler",
    "DDPMScheduler",
    "DEISMultistepScheduler",
    "DPMSolverMultistepScheduler",
    "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler",
    "PNDMScheduler",
    "UniPCMultistepScheduler",
)


def load_directory(
    path: Path,
    *,
    name: str,
    mpp: float | None = None,
    patch_px: int | None = None,
    vae: Any = None,
    condition: Any = None,
) -> CentralModel:
    """Load a directory strictly; see :meth:`CentralModel.from_pretrained`.

    Text encoders, safety checkers and whatever else a pipeline has are neither read nor named.
    """
    from c2lst.nn._denoiser import check_denoiser, set_condition

    check_directory(path, "model_index.json")
    index = read_json(path / "model_index.json")
    card = read_json(path / CARD, "mpp", "patch_px") if (path / CARD).is_file() else {}
    guide, autoguidance = _guide(path, index, card)
    denoiser = _module(path, index, "denoiser", DENOISERS)
    scheduler = _scheduler(path, index)
    tokenizer = _tokenizer(path, index) if vae is None else _given(vae)
    if condition is not None:
        set_condition(denoiser, condition)
    try:
        check_denoiser(denoiser)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    if card:
        check_kept_scale(path / CARD, card)
        _check_scale(path, card, mpp, patch_px)
        mpp, patch_px = card["mpp"], card["patch_px"]
    if mpp is None:
        raise ValueError(f"{path} does not say its microns per pixel; pass CentralModel.from_pretrained(..., mpp=).")
    if patch_px is None:
        side = denoiser.config.sample_size
        if isinstance(side, list | tuple) and len(set(side)) == 1:
            side = side[0]
        if not isinstance(side, int):
            raise ValueError(
                f"{path} does not say the side of a patch (sample_size={side!r}); pass "
                "CentralModel.from_pretrained(..., patch_px=)."
            )
        patch_px = side * shrinks(tokenizer)
    try:
        return CentralModel(
            tokenizer, denoiser, scheduler, mpp=mpp, patch_px=patch_px, card=card, name=name, guide=guide,
            autoguidance=autoguidance,
        )  # fmt: skip
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _guide(path: Path, index: dict[str, Any], card: dict[str, Any]) -> tuple[nn.Module | None, float]:
    """Take the weaker denoiser out of `index`, where there is one, and load it; and how far samples keep away from it."""
    from c2lst.nn._denoiser import check_denoiser

    entry, said = index.pop(GUIDE, None), card.pop("autoguidance", None)
    if entry is None:
        if said is not None:
            raise ValueError(f"{path / CARD} says autoguidance={said!r}, and model_index.json names no {GUIDE}.")
        return None, 1.0
    if isinstance(said, bool) or not isinstance(said, int | float) or not 0 <= said < math.inf:
        raise ValueError(f"{path / CARD} must say the autoguidance of its {GUIDE}, a number, not {said!r}.")
    guide = _module(path, {GUIDE: entry}, GUIDE, DENOISERS)
    try:
        check_denoiser(guide)
    except ValueError as error:
        raise ValueError(f"{path / GUIDE}: {error}") from error
    return guide, float(said)


def _check_scale(path: Path, card: dict[str, Any], mpp: float | None, patch_px: int | None) -> None:
    if mpp not in (None, card["mpp"]) or patch_px not in (None, card["patch_px"]):
        raise ValueError(
            f"{path} is of patches of {card['patch_px']} px at {card['mpp']:g} um/px; mpp={mpp!r}, "
            f"patch_px={patch_px!r} is not for it. Leave them out: they are for directories that do not say their scale."
        )


def _entry(path: Path, index: dict[str, Any], role: str, names: tuple[str, ...]) -> tuple[Path, str]:
    """Return the folder and the class of the one part of `index` that plays `role`."""
    classes = {k: v[1] for k, v in index.items() if isinstance(v, list) and len(v) == 2 and v[1] is not None}
    found = [(folder, kind) for folder, kind in classes.items() if kind in names]
    if len(found) != 1:
        why = ""
        if role == "tokenizer" and not found and not any("Autoencoder" in kind for kind in classes.values()):
            why = (
                " It has no autoencoder: it is a model of pixels, or its autoencoder lies apart; pass that one as "
                "CentralModel.from_pretrained(..., vae=<directory>)."
            )
        raise ValueError(
            f"{path} must name one {role} among {listing(names)} in model_index.json; it names {classes}.{why}"
        )
    folder, kind = found[0]
    if not is_plain(folder):
        raise ValueError(f"{path}/model_index.json names the folder {folder!r}, which is no plain name.")
    return path / folder, kind


def _module(path: Path, index: dict[str, Any], role: str, names: tuple[str, ...]) -> nn.Module:
    folder, kind = _entry(path, index, role, names)
    check_directory(folder, "config.json")
    config = read_json(folder / "config.json", "_class_name")
    if config["_class_name"] != kind:
        raise ValueError(f"{folder} is a {config['_class_name']}, but model_index.json calls it a {kind}.")
    return _built(folder, config)


def _built(folder: Path, config: dict[str, Any]) -> nn.Module:
    """Make the module of a config and load its weights, every key and shape."""
    import diffusers
    import torch

    kind, settings = adopt_config(config, folder)
    tensors = adopt_tensors(read_weights(folder), config, folder)
    cls = getattr(diffusers, kind)
    # the latents' mean and spread are kept by modules whose constructor does not know them, too
    extra = {k: settings[k] for k in ("latents_mean", "latents_std") if k in settings}
    extra = {k: v for k, v in extra.items() if k not in inspect.signature(cls).parameters}
    try:
        with torch.random.fork_rng(devices=[]):  # what is drawn at random is overwritten
            module = cls.from_config({k: v for k, v in settings.items() if k not in extra})
    except (TypeError, ValueError, NotImplementedError) as error:
        raise ValueError(f"{folder / 'config.json'} makes no {kind}: {error}") from error
    if extra:
        module.register_to_config(**extra)
    for key in CONDITION:
        value = tensors.get(key)
        if value is not None:
            module.register_buffer(key, value.float() if value.is_floating_point() else value)
    load_strictly(module, tensors, folder)
    return module


def _tokenizer(path: Path, index: dict[str, Any]) -> nn.Module:
    folder, kind = _entry(path, index, "tokenizer", TOKENIZERS)
    if (folder / "config.json").is_file() and not any(folder.glob("*.safetensors*")):
        check_directory(folder)  # a pickle is named as such
        raise ValueError(
            f"{folder} holds the settings of its {kind} but no weights: they lie apart. Pass their directory as "
            "CentralModel.from_pretrained(..., vae=)."
        )
    return _module(path, index, "tokenizer", TOKENIZERS)


def _given(vae: Any) -> nn.Module:
    """Return the autoencoder a user names: a module of diffusers, its directory, or that of a pipeline with one."""
    if not isinstance(vae, str | Path):
        if type(vae).__name__ not in TOKENIZERS:
            raise TypeError(
                f"vae must be a directory or one of {listing(TOKENIZERS)} of diffusers, not {type(vae).__name__}."
            )
        return vae
    path = check_directory(vae)
    if (path / "model_index.json").is_file():
        return _tokenizer(path, read_json(path / "model_index.json"))
    check_directory(path, "config.json")
    config = read_json(path / "config.json", "_class_name")
    if config["_class_name"] not in TOKENIZERS:
        raise ValueError(f"{path} is a {config['_class_name']}; vae must be one of {listing(TOKENIZERS)}.")
    return _built(path, config)


def _scheduler(path: Path, index: dict[str, Any]) -> Any:
    import diffusers

    folder, kind = _entry(path, index, "scheduler", SCHEDULERS)
    check_directory(folder, "scheduler_config.json")
    config = read_json(folder / "scheduler_config.json")
    if config.get("_class_name", kind) != kind:
        raise ValueError(f"{folder} is a {config['_class_name']}, but model_index.json calls it a {kind}.")
    try:
        return getattr(diffusers, kind).from_config(config)
    except (TypeError, ValueError, NotImplementedError) as error:
        raise ValueError(f"{folder / 'scheduler_config.json'} makes no {kind}: {error}") from error
