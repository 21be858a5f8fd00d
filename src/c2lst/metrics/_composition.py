from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from c2lst._checks import check_patches, check_positive

from ._nuclei import nuclei
from ._stain import THRESHOLD, stain

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

GRAIN_UM = 4.0  # half a nucleus: what is finer is texture, what is coarser is staining


def composition(patches: NDArray[np.uint8], *, mpp: float, threshold: float = THRESHOLD) -> pd.DataFrame:
    """Cellular composition of each patch, as far as its resolution shows it.

    Parameters
    ----------
    patches
        uint8 `(n, H, W, 3)`.
    mpp
        Microns per pixel of the patches.
    threshold
        Haematoxylin density above which a pixel is a nucleus; the same for all patches that are to be compared.

    Returns
    -------
    One row a patch. At any resolution: `haematoxylin_area` (share of pixels, see :func:`haematoxylin_area`),
    `haematoxylin_od` and `eosin_od` (mean optical density), `haematoxylin_texture` (standard deviation of the
    haematoxylin density after its blur with a Gaussian of 4 um is taken off). At 1 um/px or finer, also
    `nuclei_per_mm2`, `nucleus_area_um2` and `nucleus_eccentricity`, see :func:`nuclei`.

    Raises
    ------
    TypeError, ValueError
        If `patches` or `mpp` are anything else.

    Examples
    --------
    >>> import numpy as np
    >>> import c2lst as c2l
    >>> patches = np.full((2, 32, 32, 3), 255, dtype="uint8")
    >>> patches[0, 8:16, 8:16] = [66, 60, 143]
    >>> c2l.metrics.composition(patches, mpp=2.0)["haematoxylin_area"].tolist()
    [0.0625, 0.0]
    """
    import pandas as pd
    from scipy.ndimage import gaussian_filter

    check_positive("mpp", mpp)
    check_positive("threshold", threshold)
    patches = check_patches(patches)
    table = np.empty((len(patches), 4))
    for i in range(len(patches)):
        one = patches[i : i + 1]
        blue, pink = stain(one, 0)[0], stain(one, 1)[0]
        grain = blue - gaussian_filter(blue, GRAIN_UM / mpp)
        table[i] = (blue > threshold).mean(), blue.mean(), grain.std(), pink.mean()
    out = pd.DataFrame(table, columns=["haematoxylin_area", "haematoxylin_od", "haematoxylin_texture", "eosin_od"])
    if mpp > 1:
        return out
    return out.join(nuclei(patches, mpp=mpp, threshold=threshold).drop(columns="nucleus_od"))
