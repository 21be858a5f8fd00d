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


@dataclass
class Settings:
    """What holds for the whole session.

    Attributes
    ----------
    progress
        Show progress bars.
    cache_dir
        Where downloaded sections are kept (environment variable `C2LST_CACHE_DIR`).
    """

    progress: bool = True
    cache_dir: Path = field(default_factory=_cache_dir)

    def __setattr__(self, name: str, value: object) -> None:
        known = [f.name for f in fields(self)]
        if name not in known:
            raise AttributeError(f"c2lst.settings has no {name!r}; it has {known}.")
        super().__setattr__(name, Path(value).expanduser() if name == "cache_dir" else value)


settings = Settings()
