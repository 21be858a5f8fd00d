from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ.setdefault("MPLBACKEND", "Agg")


@pytest.fixture(autouse=True, scope="session")
def _quiet():
    import c2lst

    c2lst.settings.progress = False


@pytest.fixture(scope="session")
def her2st_dir() -> Path:
    """Directory of the real sections; tests that need it are skipped where it is absent."""
    path = Path(os.environ.get("C2LST_HER2ST", Path(__file__).parents[2] / "shared" / "data" / "her2st"))
    if not (path / "C2.jpg").is_file():
        pytest.skip(f"the her2st sections are not in {path}; set C2LST_HER2ST to their directory")
    return path
