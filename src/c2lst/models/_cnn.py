"""The convolutional predictor, trained end to end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from c2lst._random import derive

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from c2lst.nn import PatchCNN


def fit_cnn(
    patches: list[Any],
    target: NDArray[np.float32],
    weight: NDArray[np.float64],
    real: NDArray[np.bool_],
    *,
    steps: int,
    batch_size: int = 64,
    lr: float = 2e-3,
    seed: int = 0,
    progress: bool | None = False,
    accelerator: str = "auto",
) -> tuple[PatchCNN, dict[str, NDArray]]:
    """Train on patches (a list of arrays, laid end to end) and targets `(n, n_genes)`; NaN targets count for nothing.

    Targets are standardised by the real rows. Every arm takes the same number of steps.
    """
    import torch

    from c2lst.nn import PatchCNN
    from c2lst.train import CNNPlan, Pool, fit

    mean = target[real].mean(0)
    scale = np.maximum(target[real].std(0), 1e-2)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, 51))
        network = PatchCNN(target.shape[1])
    plan = CNNPlan(
        network,
        Pool(patches),
        torch.from_numpy(((target - mean) / scale).astype(np.float32)),
        torch.from_numpy(weight.astype(np.float64)),
        steps=steps,
        batch_size=batch_size,
        lr=lr,
        seed=derive(seed, 52),
        weight_decay=0.05,
    )
    fit(plan, desc="cnn", progress=progress, accelerator=accelerator)
    return network.eval().requires_grad_(False), {
        "gene_mean": mean.astype(np.float32),
        "gene_scale": scale.astype(np.float32),
    }
