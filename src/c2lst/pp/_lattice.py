"""The pitch of the printed array, from positions fitted on array indices."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from c2lst._logging import logger

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray

VISIUM_UM = 100.0  # centre to centre, hexagonal
LEGACY_ST_UM = 200.0  # centre to centre, square
LEGACY_ST_SIDE = 36  # a square array longer than this is no legacy ST (33 x 35): its pitch must be told
INDICES = (("array_row", "array_col"), ("y", "x"))


def indices(table: AnnData) -> NDArray[np.float64] | None:
    """Return array indices `(n_obs, 2)` row, column where `obs` has them: whole numbers, not pixels."""
    for row, col in INDICES:
        if row in table.obs and col in table.obs:
            try:
                at = table.obs[[row, col]].to_numpy(dtype=float)
            except (TypeError, ValueError):
                continue
            known = at[np.isfinite(at).all(axis=1)]
            whole = len(known) and np.abs(known - np.rint(known)).max() < 0.05
            # x and y are used for pixels and microns too: those run far
            if whole and (row == "array_row" or np.ptp(known, axis=0).max() <= LEGACY_ST_SIDE):
                return at
    return None


def fit_pitch(at: NDArray[np.float64], xy: NDArray[np.float64]) -> tuple[float, str]:
    """Fit positions on array indices; return the pitch in units of `xy` and the lattice, "hexagonal" or "square"."""
    ok = np.isfinite(at).all(axis=1) & np.isfinite(xy).all(axis=1)
    at, xy = np.rint(at[ok]), xy[ok]
    design = np.column_stack([at[:, 1], at[:, 0], np.ones(len(at))])
    if len(at) < 4 or np.linalg.matrix_rank(design) < 3:
        raise ValueError(
            f"{len(at)} spots on one line do not give the pitch of the array; pass source_mpp= (um per pixel)."
        )
    steps, *_ = np.linalg.lstsq(design, xy, rcond=None)
    col, row = np.linalg.norm(steps[0]), np.linalg.norm(steps[1])
    area = abs(steps[0, 0] * steps[1, 1] - steps[0, 1] * steps[1, 0])
    off = np.sqrt(np.mean(np.sum((xy - design @ steps) ** 2, axis=1)))
    ratio = row / col if col > 0 else np.inf
    if len(np.unique((at[:, 0] + at[:, 1]) % 2)) == 1 and ratio > 1.4:
        kind, pitch, wanted = "hexagonal", np.sqrt(4 * area / np.sqrt(3)), np.sqrt(3)
    else:
        kind, pitch, wanted = "square", np.sqrt(area), 1.0
    if not abs(ratio / wanted - 1) < 0.1 or off > 0.4 * pitch:
        raise ValueError(
            f"The positions of the spots do not follow their array indices (step along rows {row:.4g}, along columns "
            f"{col:.4g}, rest {off:.3g}), so the pitch cannot be fitted; pass source_mpp= (um per pixel)."
        )
    return float(pitch), kind


def default_pitch(kind: str, at: NDArray[np.float64], bin_um: float | None) -> float:
    """Return the pitch in um that the platform has; raise where the lattice alone does not tell."""
    if bin_um is not None:
        return bin_um
    if kind == "hexagonal":
        return VISIUM_UM
    side = int(np.ptp(at[np.isfinite(at).all(axis=1)], axis=0).max()) + 1
    if side > LEGACY_ST_SIDE:
        raise ValueError(
            f"A square array of {side} positions is no legacy ST, and nothing says how wide its bins are; pass "
            "pitch_um= to `c2lst.pp.infer_mpp`, or source_mpp=."
        )
    return LEGACY_ST_UM


def neighbour_distance(xy: NDArray[np.float64]) -> float:
    """Return the median distance to the nearest neighbour, with a warning: it is a poor measure of the pitch."""
    from scipy.spatial import cKDTree

    xy = xy[np.isfinite(xy).all(axis=1)]
    if len(xy) < 2:
        raise ValueError("One spot has no neighbour to measure the pitch by; pass source_mpp= (um per pixel).")
    distance = float(np.median(cKDTree(xy).query(xy, k=2)[0][:, 1]))
    logger.warning(
        "obs has no array indices (array_row/array_col or x/y): the scale is taken from the median distance of "
        "neighbours (%.4g px). Printed spots jitter and sub-sampled ones lie further apart; pass source_mpp= if you "
        "know it.",
        distance,
    )
    return distance
