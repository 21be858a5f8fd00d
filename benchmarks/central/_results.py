"""Where and with what a result was made, and small pictures."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

PACKAGES = ("c2lst", "torch", "diffusers", "lightning", "numpy", "scikit-learn", "spatialdata")


def provenance() -> dict[str, str]:
    """Return commit, versions and machine."""
    here = Path(__file__).resolve().parent

    def git(*args: str) -> str:
        try:
            done = subprocess.run(["git", *args], cwd=here, capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError):
            return ""
        return done.stdout.strip()

    # code alone: results of an earlier run do not make it another one
    changed = git(
        "status",
        "--porcelain",
        "--untracked-files=no",
        "--",
        ":/src",
        ":/benchmarks/central/*.py",
        ":/benchmarks/augmentation/*.py",
    )
    return {
        "commit": (git("rev-parse", "--short=12", "HEAD") or "unknown") + ("+changes" if changed else ""),
        "versions": ", ".join([f"python {platform.python_version()}", *(f"{p} {version(p)}" for p in PACKAGES)]),
        "machine": f"{_cpu()}, {os.cpu_count()} cores",
    }


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def labels(paths: list[Path]) -> list[str]:
    """Name models by the last part of their paths, and by more of it where that is not enough."""
    parts = [Path(p).resolve().parts for p in paths]
    for k in range(1, max(map(len, parts)) + 1):
        names = ["/".join(p[-k:]) for p in parts]
        if len(set(names)) == len(names):
            return names
    raise ValueError("The same model is named twice.")


def write_json(path: Path, value: Any) -> None:
    """Write JSON that a person can read; NaN becomes null."""
    path.write_text(json.dumps(_plain(value), indent=1, ensure_ascii=False) + "\n")


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not np.isfinite(value) else value


def number(value: Any) -> str:
    """Write a number with three significant digits."""
    if value is None or not np.isfinite(value):
        return ""
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def markdown(columns: list[str], rows: list[list[str]]) -> str:
    """Write a table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(str(c) for c in line) + " |" for line in lines) + "\n"


def grid_picture(patches: list[list[NDArray[np.uint8]]], names: list[str], gap: int = 3) -> NDArray[np.uint8]:
    """Lay out rows of patches with a name before each."""
    from PIL import Image, ImageDraw

    side, width = patches[0][0].shape[0], 0
    margin = 8 + 7 * max(map(len, names))
    width = margin + len(patches[0]) * (side + gap)
    sheet = Image.new("RGB", (width, len(patches) * (side + gap)), "white")
    pen = ImageDraw.Draw(sheet)
    for i, (row, name) in enumerate(zip(patches, names, strict=True)):
        y = i * (side + gap)
        pen.text((3, y + side // 2 - 6), name, fill="black")
        for j, patch in enumerate(row):
            sheet.paste(Image.fromarray(patch), (margin + j * (side + gap), y))
    return np.asarray(sheet)


def save_png(path: Path, picture: NDArray[np.uint8], limit: int = 590_000) -> None:
    """Write a PNG below `limit` bytes, with as many colours as that takes: one palette for all that is shown."""
    from PIL import Image

    image = Image.fromarray(picture)
    image.save(path, optimize=True)
    for colours in (256, 128, 64, 32):
        if path.stat().st_size <= limit:
            return
        image.quantize(colours, dither=Image.Dither.NONE).save(path, optimize=True)
    if path.stat().st_size > limit:
        raise ValueError(f"{path.name} has {path.stat().st_size} bytes with 32 colours; show fewer patches.")
