"""What patches without genes would say of them: a ridge on the central model's features, fitted on the paired spots."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from c2lst.models import CentralModel

    from ._tissue import Tissue


def central_teacher(
    patches: NDArray[np.uint8], values: NDArray[np.float32], fold: NDArray[np.int64], central: CentralModel,
    features: NDArray[np.float32] | None = None,
) -> Callable[[Tissue], NDArray[np.float32]]:  # fmt: skip
    """Fit a ridge on the central model's features of patches; returns a function from tissue to `(n, n_genes)`."""
    from c2lst.models._encoders import embed_patches
    from c2lst.models._ridge import fit_ridge, ridge_predict

    n = len(values)
    seen = embed_patches(patches, "central", central) if features is None else features
    arrays, _ = fit_ridge(seen, values, np.ones(n), np.ones(n, dtype=bool), fold)
    return lambda tissue: ridge_predict(arrays, tissue.features(central))


def stretched(predicted: NDArray[np.float32], measured: NDArray[np.float32]) -> NDArray[np.float32]:
    """Spread predicted profiles as measured ones are.

    A prediction varies less than what was measured, and a local model that only knew predicted profiles would not know the
    measured ones it is asked for. One factor for all genes, with each gene in units of its standard deviation: a gene that is
    hardly predicted stays nearly constant.
    """
    sd = np.maximum(measured.std(0), 1e-2)
    centred = predicted - predicted.mean(0)
    have = float(np.square(centred / sd).sum(1).mean())
    want = float((measured.var(0) / sd**2).sum())
    factor = np.sqrt(max(want, have) / have) if have > 1e-12 else 1.0
    return (measured.mean(0) + factor * centred).astype(np.float32)
