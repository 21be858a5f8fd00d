"""Colour deconvolution of H&E: one table look-up and one product per pixel."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from c2lst._checks import check_patches

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Haematoxylin, eosin and DAB as optical density in R, G, B (Ruifrok & Johnston 2001), the matrix of skimage.color
STAINS = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]])
UNMIX = np.linalg.inv(STAINS)
DENSITY = -np.log10(np.maximum(np.arange(256), 1) / 255)  # of a byte; black counts as 1, to stay finite
BATCH = 2**22  # pixels deconvolved at once: about 100 MB

# Between pale tissue and nuclei. Otsu's threshold under the spots of five her2st sections of two patients, at 0.7, 1
# and 2 um/px, is 0.60 to 0.71.
THRESHOLD = 0.65


def stain(patches: NDArray[np.uint8], which: int) -> NDArray[np.float32]:
    """Return optical density of one stain (0 haematoxylin, 1 eosin), `(n, H, W)`, not below 0."""
    patches = check_patches(patches)
    out = np.empty(patches.shape[:3], dtype=np.float32)
    # each byte's share in the stain, per channel: three look-ups instead of a logarithm per pixel
    share = (DENSITY[:, None] * UNMIX[:, which]).astype(np.float32)
    size = max(1, BATCH // max(1, patches.shape[1] * patches.shape[2]))
    for start in range(0, len(patches), size):
        at = slice(start, start + size)
        part = np.asarray(patches[at])
        total = share[part[..., 0], 0]
        total += share[part[..., 1], 1]
        total += share[part[..., 2], 2]
        np.maximum(total, 0, out=out[at])
    return out
