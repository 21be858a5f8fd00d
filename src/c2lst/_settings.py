"""Settings of the package, changed by assignment: `c2lst.settings.progress = False`."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, fields
from pathlib import Path


def _cache_dir() -> Path:
    base = os.environ.get("C2LST_CACHE_DIR")
    if base:
        return Path(base)
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "c2lst"


ACCELERATORS = ("auto", "cpu", "gpu", "cuda")


@dataclass
class Settings:
    """What holds for the whole session.

    Attributes
    ----------
    progress
        Show progress bars.
    accelerator
        What calls run on that do not say it themselves: `"auto"`, a CUDA GPU where there is one, `"gpu"` or `"cuda"`, only
        there, or `"cpu"`. On a GPU grey levels and features differ in the last digits from those of a CPU, and trained weights
        by more.
    cache_dir
        Where downloaded sections are kept (environment variable `C2LST_CACHE_DIR`).
    """

    progress: bool = True
    accelerator: str = "auto"
    cache_dir: Path = field(default_factory=_cache_dir)

    def __setattr__(self, name: str, value: object) -> None:
        known = [f.name for f in fields(self)]
        if name not in known:
            raise AttributeError(f"c2lst.settings has no {name!r}; it has {known}.")
        if name == "accelerator" and value not in ACCELERATORS:
            raise ValueError(f"c2lst.settings.accelerator is one of {list(ACCELERATORS)}, not {value!r}.")
        super().__setattr__(name, Path(value).expanduser() if name == "cache_dir" else value)


settings = Settings()
