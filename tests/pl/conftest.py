from __future__ import annotations

import numpy as np
import pandas as pd
import pytest


@pytest.fixture(autouse=True)
def _close():
    yield
    import matplotlib.pyplot as plt

    plt.close("all")


def _table(n: int, seed: int, prefix: str, px: int = 32):
    import anndata as ad

    rng = np.random.default_rng(seed)
    names = [f"{prefix}{i}" for i in range(n)]
    x = rng.poisson(3, size=(n, 5)).astype(np.float32)
    table = ad.AnnData(x, obs=pd.DataFrame(index=names), var=pd.DataFrame(index=list("ABCDE")))
    colours = rng.integers(0, 256, size=(n, 1, 1, 3))
    table.obsm["patches"] = np.broadcast_to(colours, (n, px, px, 3)).astype(np.uint8)
    table.uns["c2lst"] = {"patches": {"patches": {"mpp": 2.0, "patch_px": px, "store": "none"}}}
    return table


@pytest.fixture
def section():
    """A section of 20 spots, each patch of one colour, with positions and a prediction."""
    table = _table(20, 0, "s")
    rows, columns = np.divmod(np.arange(20), 5)
    table.obsm["spatial"] = np.stack([columns * 100.0, rows * 100.0], axis=1)
    table.obsm["c2lst_predicted"] = pd.DataFrame({"A": np.arange(20.0), "B": 0.5}, index=table.obs_names)
    table.uns["c2lst_section"] = "S1"
    table.uns["spatial_coherence"] = {
        "genes": list("ABCDE"),
        "measured": np.array([0.1, 0.2, 0.3, 0.4, 0.5]),
        "predicted": np.array([0.3, 0.3, 0.5, 0.6, 0.8]),
        "corr": 0.97,
        "bias": 0.2,
        "params": {},
    }
    return table


@pytest.fixture
def synthetic():
    """Twelve synthetic spots, children of s0 .. s5, with the result of every comparison."""
    rng = np.random.default_rng(1)
    table = _table(12, 1, "synthetic")
    table.obs["c2lst_parent"] = pd.Categorical([f"s{i % 6}" for i in range(12)])
    table.obs["c2lst_section"] = pd.Categorical(["S1"] * 12)
    figures = {"frechet": 8.0, "kid": 0.02, "kid_sd": 0.004, "density": 0.9, "coverage": 0.8, "c2st": 0.6, "ilisi": 1.7}
    floor = {"frechet": 4.0, "kid": -0.001, "kid_sd": 0.002, "density": 1.0, "coverage": 0.95, "c2st": 0.5}
    table.uns["embedding_overlap"] = {
        "encoder": "central",
        **figures,
        "floor": floor | {"ilisi": 1.9},
        "baseline": figures | {"frechet": 0.1, "coverage": 0.99},
        "n_real": 30,
        "n_synthetic": 12,
        "umap_real": rng.normal(size=(30, 2)).astype(np.float32),
        "umap_synthetic": rng.normal(size=(12, 2)).astype(np.float32),
        "params": {},
    }
    measures = ["haematoxylin_area", "nuclei_per_mm2"]
    parent = {m: rng.random(12) for m in measures}
    parent["nuclei_per_mm2"][3] = np.nan
    table.uns["composition"] = {
        "measures": measures,
        "synthetic": {m: v + 0.1 for m, v in parent.items()},
        "parent": parent,
        "correlation": {"haematoxylin_area": 0.912, "nuclei_per_mm2": np.nan},
        "wasserstein": {"haematoxylin_area": 0.1, "nuclei_per_mm2": 0.1},
        "params": {},
    }
    table.uns["round_trip"] = {
        "genes": list("ABCDE"),
        "pcc": np.array([0.1, 0.5, 0.3, np.nan, 0.2]),
        "shuffled_pcc": np.zeros(5),
        "real_pcc": np.array([0.2, 0.6, 0.4, 0.1, 0.3]),
        "mean_pcc": 0.275,
        "shuffled_mean_pcc": 0.0,
        "real_mean_pcc": 0.32,
        "share": 0.86,
        "params": {},
    }
    table.uns["memorization"] = {
        "nearest_synthetic": rng.normal(5, 1, size=12),
        "nearest_real": rng.normal(5, 1, size=30),
        "threshold": 3.0,
        "share": 0.0833,
        "expected": 0.01,
        "pixel_share": 0.0,
        "params": {"encoder": "central"},
    }
    return table


@pytest.fixture
def runs():
    """A learning curve: two sections, two recipes, three seeds."""
    rows = []
    for section in ("C5", "B4"):
        for predictor in ("ridge", "cnn"):
            for seed in range(3):
                rows.append((section, 1.0, "real", predictor, "central", seed, 0.3 + 0.01 * seed))
                for arm, gain in (("real", 0.0), ("synthetic", 0.05), ("shuffled", -0.02)):
                    rows.append((section, 0.1, arm, predictor, "central", seed, 0.1 + gain + 0.01 * seed))
    return pd.DataFrame(rows, columns=["section", "fraction", "arm", "predictor", "encoder", "seed", "pcc"])
