"""The simulated expression: gene programs that load on the latent factors, and negative-binomial counts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import scipy.sparse as sp

from c2lst._random import generator

from ._toy_model import FACTORS

if TYPE_CHECKING:
    from numpy.typing import NDArray

# program -> the factor it loads on, share of the genes, scale of the loadings per unit of the factor
PROGRAMS = {
    "DENS": ("nuclear_density", 0.12, 0.75),
    "SIZE": ("nuclear_size", 0.08, 0.5),
    "ELON": ("nuclear_elongation", 0.08, 0.5),
    "CHRO": ("nuclear_stain", 0.06, 0.6),
    "TUMR": ("tumour", 0.11, 1.4),
    "STRM": ("stroma", 0.11, 1.4),
    "LYMP": ("lymphoid", 0.08, 1.8),
    "FATT": ("fat", 0.07, 1.8),
    "LUMN": ("lumen", 0.04, 4.0),
    "NOISE": (None, 0.25, 0.0),
}
GENES_SEED = 20260  # never the user's: genes and loadings are the same in every section ever made
NOISE_SHARE = 0.25  # of the expected counts
DEPTH = 4000.0  # median counts of a spot
DEPTH_SPOT, DEPTH_SECTION = 0.25, 0.2  # sd of the log of the spots' and the sections' depth


def genes(n_genes: int) -> pd.DataFrame:
    """Return `var`: program, baseline (log share), dispersion (theta) and one `loading_<factor>` a factor."""
    edges = np.round(np.cumsum([share for _, share, _ in PROGRAMS.values()]) * n_genes).astype(int)
    sizes = np.diff(edges, prepend=0)
    names, program, baseline, theta, loadings = [], [], [], [], []
    for i, ((key, (factor, _, scale)), n) in enumerate(zip(PROGRAMS.items(), sizes, strict=True)):
        names += [f"{key}{j + 1:02d}" for j in range(n)]
        program += [key] * n
        # a generator a quantity: the first genes of a program are the same whatever n_genes
        baseline.append(generator(GENES_SEED, i, 0).normal(0, 0.7, n))
        theta.append(np.exp(generator(GENES_SEED, i, 1).normal(np.log(6.0), 0.3, n)))
        loading = np.zeros((n, len(FACTORS)))
        if factor is not None:
            loading = generator(GENES_SEED, i, 2).normal(0, 0.04, (n, len(FACTORS)))
            loading[:, FACTORS.index(factor)] = scale * generator(GENES_SEED, i, 3).uniform(0.5, 1.3, n)
        loadings.append(loading)
    var = pd.DataFrame({"program": program, "baseline": np.concatenate(baseline)}, index=pd.Index(names))
    is_noise = var["program"].to_numpy() == "NOISE"
    for mask, total in ((is_noise, NOISE_SHARE), (~is_noise, 1 - NOISE_SHARE)):
        if mask.any():
            b = var["baseline"].to_numpy()[mask]
            var.loc[mask, "baseline"] = b - np.log(np.exp(b).sum()) + np.log(total if is_noise.any() else 1.0)
    var["dispersion"] = np.concatenate(theta)
    for factor, column in zip(FACTORS, np.concatenate(loadings).T, strict=True):
        var[f"loading_{factor}"] = column
    var["program"] = pd.Categorical(var["program"], categories=list(PROGRAMS))
    return var


def expected_share(var: pd.DataFrame, factors: NDArray) -> NDArray:
    """Share of each gene in the expected counts of each spot, `(n_spots, n_genes)`; a row sums to 1."""
    loadings = var[[f"loading_{f}" for f in FACTORS]].to_numpy()
    share = np.exp(var["baseline"].to_numpy() + factors @ loadings.T)
    signal = var["program"].to_numpy() != "NOISE"
    # programs compete among themselves alone, so that a noise gene knows nothing of the tissue
    share[:, signal] *= (1 - share[:, ~signal].sum(axis=1, keepdims=True)) / share[:, signal].sum(axis=1, keepdims=True)
    return share


def draw_counts(var: pd.DataFrame, factors: NDArray, seed: int, section: int) -> sp.csr_matrix:
    """Draw counts, CSR of int32, 1,000 spots at a time with a generator each."""
    depth = DEPTH * np.exp(generator(seed, section, 7).normal(0, DEPTH_SECTION))
    theta = var["dispersion"].to_numpy()
    parts = []
    for start in range(0, len(factors), 1000):
        rng = generator(seed, section, 8, start)
        share = expected_share(var, factors[start : start + 1000])
        mean = share * depth * np.exp(rng.normal(0, DEPTH_SPOT, (len(share), 1)))
        parts.append(sp.csr_matrix(rng.poisson(rng.gamma(theta, mean / theta)).astype(np.int32)))
    return sp.vstack(parts, format="csr", dtype=np.int32)
