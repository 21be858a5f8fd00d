from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from c2lst._checks import check_patches, check_positive

from ._stain import BATCH, THRESHOLD, stain

if TYPE_CHECKING:
    from numpy.typing import NDArray


def haematoxylin(patches: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Haematoxylin by colour deconvolution (Ruifrok & Johnston 2001).

    Parameters
    ----------
    patches
        uint8 `(n, H, W, 3)`.

    Returns
    -------
    float32 `(n, H, W)`, optical density (base 10) of the stain, not below 0: six times the first channel of
    :func:`skimage.color.rgb2hed`.

    Raises
    ------
    TypeError, ValueError
        If `patches` are anything else.

    Examples
    --------
    >>> import numpy as np
    >>> import c2lst as c2l
    >>> patches = np.full((1, 2, 2, 3), 255, dtype="uint8")
    >>> patches[0, 0, 0] = [66, 60, 143]  # blue
    >>> c2l.metrics.haematoxylin(patches)[0].round(1)
    array([[0.9, 0. ],
           [0. , 0. ]], dtype=float32)
    """
    return stain(patches, 0)


def haematoxylin_area(patches: NDArray[np.uint8], *, threshold: float = THRESHOLD) -> NDArray[np.float64]:
    """Share of each patch that is stained by haematoxylin, roughly the share covered by nuclei.

    It needs no nucleus to be resolved, so it also serves patches of 2 um/px. The threshold is fixed, not fitted to the
    patch, so that patches compare; it is Otsu's over five sections of HER2-positive breast cancer, and slides stained
    much paler or darker want their own.

    Parameters
    ----------
    patches
        uint8 `(n, H, W, 3)`.
    threshold
        Optical density of haematoxylin, see :func:`haematoxylin`.

    Returns
    -------
    `(n,)` in 0..1.

    Raises
    ------
    TypeError, ValueError
        If `patches` are anything else.

    Examples
    --------
    >>> import numpy as np
    >>> import c2lst as c2l
    >>> patches = np.full((1, 4, 4, 3), 255, dtype="uint8")
    >>> patches[:, :2] = [66, 60, 143]
    >>> c2l.metrics.haematoxylin_area(patches)
    array([0.5])
    """
    check_positive("threshold", threshold)
    patches = check_patches(patches)
    out = np.empty(len(patches))
    size = max(1, BATCH // max(1, patches.shape[1] * patches.shape[2]))
    for start in range(0, len(patches), size):
        at = slice(start, start + size)
        out[at] = (haematoxylin(patches[at]) > threshold).mean(axis=(1, 2))
    return out
