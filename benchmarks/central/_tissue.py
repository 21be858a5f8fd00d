"""Real patches of her2st for the benchmarks of central models: what was trained on, what is held out, dense windows."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image

import c2lst as c2l
from c2lst._random import derive, generator

if TYPE_CHECKING:
    from numpy.typing import NDArray

TRAIN = ("C2", "C3", "C4")
MIN_TISSUE = 0.6
CLEAR_PX = 10  # of the full image, between the two parts of C4


class Tissue(NamedTuple):
    """Patches at one scale, uint8 `(n, H, W, 3)`: disjoint grids, and windows at random places for the audit."""

    reference: NDArray[np.uint8]
    train: dict[str, NDArray[np.uint8]]
    dense: dict[str, NDArray[np.uint8]]


def load(
    data: Path, against: str, *, mpp: float, patch_px: int, dense: int, validation_from: float, cache: Path
) -> Tissue:
    """Cut (or take from `cache`) the patches that a comparison with `against` needs."""
    held = against == "validation"

    def get(section: str, part: str, n: int | None) -> NDArray[np.uint8]:
        said = f"{section}-{part}-{validation_from:g}" if part != "whole" else f"{section}-whole"
        file = cache / f"patches-{said}-{mpp:g}um-{patch_px}px-{'grid' if n is None else n}.npy"
        if not file.is_file():
            file.parent.mkdir(parents=True, exist_ok=True)
            sdata = c2l.datasets.her2st(section, path=data)
            if part != "whole":
                sdata = _cut(sdata, part, validation_from)
            found = c2l.pp.tissue_patches(
                sdata, n, mpp=mpp, patch_px=patch_px, min_tissue=MIN_TISSUE, seed=derive(5, 1)
            )
            np.save(file, found)
        return np.load(file)

    parts = {s: "train" if held and s == "C4" else "whole" for s in TRAIN}
    return Tissue(
        get("C4", "validation", None) if held else get(against, "whole", None),
        {s: get(s, part, None) for s, part in parts.items()},
        {s: get(s, part, dense // len(TRAIN)) for s, part in parts.items()},
    )


def _cut(sdata, part: str, validation_from: float):
    import spatialdata as sd

    extent = sd.get_extent(sdata)
    (x0, x1), (y0, y1) = extent["x"], extent["y"]
    at = x0 + validation_from * (x1 - x0)
    low, high = (x0, at - CLEAR_PX) if part == "train" else (at, x1)
    return sd.bounding_box_query(
        sdata, axes=("x", "y"), min_coordinate=[low, y0], max_coordinate=[high, y1], target_coordinate_system="global"
    )


def stratified(parts: dict[str, NDArray[np.uint8]], n: int, seed: int) -> tuple[NDArray[np.uint8], NDArray[np.str_]]:
    """Draw `n` patches, as evenly over the sections as their numbers allow; and the section of each."""
    left, out, names = n, [], []
    for i, (name, patches) in enumerate(sorted(parts.items(), key=lambda item: len(item[1]))):
        share = min(len(patches), round(left / (len(parts) - i)))
        out.append(patches[np.sort(generator(seed, 51, i).permutation(len(patches))[:share])])
        names.append(np.repeat(name, share))
        left -= share
    return np.concatenate(out), np.concatenate(names)


class Features:
    """Features of one encoder, kept on disk by the hash of the patches."""

    def __init__(self, cache: Path):
        self.cache = cache

    def __call__(self, patches: NDArray[np.uint8], encoder: str, *, keep: bool = True) -> NDArray[np.float32]:
        digest = hashlib.sha256(np.ascontiguousarray(patches).tobytes()).hexdigest()[:20]
        file = self.cache / f"features-{encoder}-{digest}.npy"
        if file.is_file():
            return np.load(file)
        found = _embed(patches, encoder)
        if keep:
            file.parent.mkdir(parents=True, exist_ok=True)
            np.save(file, found)
        return found


_LOADED: dict = {}


def _embed(patches: NDArray[np.uint8], encoder: str) -> NDArray[np.float32]:
    from c2lst.models import get_encoder

    if encoder not in _LOADED:  # an encoder is loaded once a run
        _LOADED[encoder] = get_encoder(encoder).load(None)
    embed = _LOADED[encoder]
    return np.concatenate([np.asarray(embed(patches[i : i + 64]), np.float32) for i in range(0, len(patches), 64)])


def noise_patches(patches: NDArray[np.uint8], seed: int) -> NDArray[np.uint8]:
    """Draw Gaussian noise with the mean and sd of red, green and blue of each of `patches`: stain and nothing else.

    One field of noise serves the three colours, as stain darkens them together.
    """
    stats = c2l.metrics.rgb_stats(patches)
    n, h, w, _ = patches.shape
    field = np.stack([generator(seed, 52, i).standard_normal((h, w, 1)) for i in range(n)])
    drawn = stats[:, None, None, :3] + field * stats[:, None, None, 3:]
    return np.clip(np.rint(drawn), 0, 255).astype(np.uint8)


def flat_patches(patches: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return each patch with every pixel at its mean colour."""
    mean = np.rint(patches.mean(axis=(1, 2), keepdims=True)).astype(np.uint8)
    return np.broadcast_to(mean, patches.shape).copy()


def as_jpeg(patches: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    """Return patches as they come out of JPEG of that quality, colours at full resolution above 90 and halved below."""
    out = []
    for patch in patches:
        file = io.BytesIO()
        Image.fromarray(patch).save(file, "JPEG", quality=quality, subsampling=0 if quality > 90 else 2)
        out.append(np.asarray(Image.open(file)))
    return np.stack(out)
