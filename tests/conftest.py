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


@pytest.fixture(scope="session")
def toy():
    """One toy section with patches (2 um/px, 64 px) and a panel of 20 genes; shared, so copy it before writing to it."""
    import c2lst as c2l

    sdata = c2l.datasets.toy_tissue(32)
    c2l.pp.extract_patches(sdata, mpp=2.0, patch_px=64)
    c2l.pp.select_genes(sdata, n_top=20)
    return sdata


@pytest.fixture(scope="session")
def local(toy):
    """The toy central model after two steps on `toy`; shared."""
    import c2lst as c2l

    return c2l.tl.adapt(_copy(toy), "toy", steps=2, progress=False)


@pytest.fixture(scope="session")
def synthetic(toy, local):
    """Twelve synthetic spots of `local`; shared, so `.copy()` it before writing to it."""
    import c2lst as c2l

    return c2l.tl.augment(_copy(toy), local, n_obs=12, sampler_steps=2, progress=False)


@pytest.fixture(scope="session")
def predictor_rgb(toy):
    """A ridge on the colours of `toy`; shared."""
    import c2lst as c2l

    return c2l.tl.fit_predictor(_copy(toy), encoder="rgb")


def _copy(sdata):
    from copy import deepcopy

    import spatialdata

    copied = spatialdata.deepcopy(sdata) if hasattr(spatialdata, "deepcopy") else deepcopy(sdata)
    return copied


@pytest.fixture(scope="session")
def copied():
    """Return a function that copies a SpatialData deeply."""
    return _copy
