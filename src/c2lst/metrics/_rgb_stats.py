from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from c2lst._checks import check_patches

if TYPE_CHECKING:
    from numpy.typing import NDArray


def rgb_stats(patches: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Mean and standard deviation of red, green and blue per patch: the baseline that any encoder has to beat.

    Parameters
    ----------
    patches
        uint8 `(n, H, W, 3)`.

    Returns
    -------
    `(n, 6)`: three means, then three standard deviations, in grey levels.

    Raises
    ------
    TypeError, ValueError
        If `patches` are anything else.

    Examples
    --------
    >>> import numpy as np
    >>> import c2lst as c2l
    >>> patches = np.zeros((1, 2, 2, 3), dtype="uint8")
    >>> patches[0, 0, :, 0] = 100
    >>> c2l.metrics.rgb_stats(patches)
    array([[50.,  0.,  0., 50.,  0.,  0.]])
    """
    patches = check_patches(patches)
    out = np.empty((len(patches), 6))
    for i in range(len(patches)):  # patch by patch: no float copy of all of them
        pixels = np.asarray(patches[i], dtype=np.float64)
        out[i, :3], out[i, 3:] = pixels.mean(axis=(0, 1)), pixels.std(axis=(0, 1))
    return out
