"""Sections and settings of the augmentation benchmark."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np

import c2lst as c2l

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray
    from spatialdata import SpatialData

    from c2lst.models import CentralModel

SETTINGS = Path(__file__).resolve().with_name("settings.json")
SYNTHETIC = ("n_condition", "strategy", "n_components", "guidance", "condition_noise", "n_synthetic", "keep", "weight")


def results_of(path: Path) -> Path:
    """Return where the results of a settings file are kept."""
    name = "augmentation" if path == SETTINGS else f"augmentation-{path.stem}"
    return SETTINGS.parents[1] / "results" / name


def arguments(description: str) -> argparse.ArgumentParser:
    """Return a parser with what every script here takes."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="directory of her2st; left out, the sections are downloaded")
    parser.add_argument("--central", help="central model; left out, that of the settings")
    parser.add_argument("--out", type=Path, help="left out, results/augmentation, or that of other settings beside it")
    parser.add_argument("--settings", type=Path, default=SETTINGS)
    parser.add_argument("--cache", type=Path, default=c2l.settings.cache_dir / "benchmarks" / "augmentation")
    return parser


def read_arguments(parser: argparse.ArgumentParser, argv: list[str] | None) -> argparse.Namespace:
    """Parse, and fill in where results go."""
    args = parser.parse_args(argv)
    args.settings = args.settings.resolve()
    args.out = results_of(args.settings) if args.out is None else args.out
    return args


def read_settings(path: Path = SETTINGS) -> dict[str, Any]:
    """Read the settings; the sections that are for testing must not be among those for training."""
    settings = json.loads(Path(path).read_text())
    both = sorted(set(settings["train"]) & set(settings["test"]))
    if both:
        raise ValueError(f"{path}: the sections {both} are for training and for testing.")
    odd = set(settings["synthetic"]) ^ set(SYNTHETIC)
    odd |= set(settings["choose"]["grid"]) - set(SYNTHETIC)
    if odd:
        raise ValueError(
            f"{path}: 'synthetic' must set {list(SYNTHETIC)}, and 'grid' vary some of them; see {sorted(odd)}."
        )
    return settings


def how(synthetic: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    """Turn a setting of synthetic spots into arguments of `c2lst.tl.learning_curve`."""
    gate = {"keep": synthetic["keep"], **settings["judge"]} if synthetic["keep"] < 1 else {}
    augment = {k: synthetic[k] for k in ("strategy", "n_components", "guidance", "condition_noise")}
    return {
        "n_condition": synthetic["n_condition"],
        "n_synthetic": synthetic["n_synthetic"],
        "weight": synthetic["weight"],
        "augment_kwargs": {**augment, "sampler_steps": settings["sampler_steps"], "precision": settings["precision"]},
        "gate_kwargs": gate,
    }


def tables(names: Iterable[str], data: Path | None, central: CentralModel, cache: Path) -> dict[str, ad.AnnData]:
    """Return the tables of sections with patches of the central model's scale; kept in `cache`."""
    return {name: _section(name, data, central, cache)[0] for name in names}


def tissue(names: Iterable[str], data: Path | None, central: CentralModel, cache: Path) -> dict[str, NDArray[np.uint8]]:
    """Return the tissue of sections without its genes, on a disjoint grid; kept in `cache`."""
    return {name: _section(name, data, central, cache, pool=True)[1] for name in names}


def _section(
    name: str, data: Path | None, central: CentralModel, cache: Path, *, pool: bool = False
) -> tuple[ad.AnnData, NDArray[np.uint8] | None]:
    scale = {"mpp": central.mpp, "patch_px": central.patch_px}
    stem = cache / f"{name}-{central.mpp:g}um-{central.patch_px}px-{c2l.__version__}"
    table, grid = stem.with_name(stem.name + ".h5ad"), stem.with_name(stem.name + ".npy")
    if not table.is_file() or (pool and not grid.is_file()):
        cache.mkdir(parents=True, exist_ok=True)
        sdata = _toy(name) if name.startswith("toy") else c2l.datasets.her2st(name, path=data)
        if not table.is_file():
            c2l.pp.extract_patches(sdata, **scale)
            part = table.with_suffix(f".{os.getpid()}.h5ad.part")  # two parts of a benchmark may run side by side
            sdata["table"].write_h5ad(part)
            part.replace(table)
        if pool:
            part = grid.with_suffix(f".{os.getpid()}.npy.part")
            with part.open("wb") as file:
                np.save(file, c2l.pp.tissue_patches(sdata, None, **scale))
            part.replace(grid)
    return ad.read_h5ad(table), np.load(grid) if pool else None


def _toy(name: str) -> SpatialData:
    """Return the simulated section of that number, of 200 spots; each has a layout, a stain and a depth of its own."""
    number = int(name.removeprefix("toy"))
    return c2l.datasets.toy_tissue(200, sections=number + 2)[number]  # of one alone there is no list
