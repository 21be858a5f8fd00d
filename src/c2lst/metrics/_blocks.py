"""Sums over spatial blocks of a section, from which the mean PCC of any resampled blocks follows without the spots."""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from typing import TYPE_CHECKING, Any

import numpy as np

from c2lst._checks import listing
from c2lst._random import generator

from ._arrays import constant, matched

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from numpy.typing import ArrayLike, NDArray

SPOTS = 4  # at least, in a block
FLAT = 1e-9  # share of the sum of squares below which a variance is rounding
INTERVAL = (0.025, 0.975)
RUN = ("section", "fraction", "arm", "predictor", "encoder", "seed")


def spatial_blocks(positions: ArrayLike, n_blocks: int) -> NDArray[np.int64]:
    """Cut a section into blocks of equally many neighbouring spots; return the block of each.

    A set of spots is halved across its longer side until there are `n_blocks`, fewer where they would have less than
    four spots.
    """
    xy = np.asarray(positions, dtype=float)
    out = np.zeros(len(xy), dtype=np.int64)

    def cut(rows: NDArray[np.int64], k: int, first: int) -> None:
        if k == 1:
            out[rows] = first
            return
        axis = int(np.ptp(xy[rows], axis=0).argmax())
        rows = rows[np.argsort(xy[rows, axis], kind="stable")]
        at = round(len(rows) * (k // 2) / k)
        cut(rows[:at], k // 2, first)
        cut(rows[at:], k - k // 2, first + k // 2)

    cut(np.arange(len(xy)), max(1, min(n_blocks, len(xy) // SPOTS)), 0)
    return out


def measured_sums(measured: ArrayLike, block: NDArray[np.int64]) -> dict[str, Any]:
    """Return what the runs on a section share, as JSON can hold it: spots of each block, sums of y and y^2."""
    y, _ = matched(measured, measured)
    y = _centred(y, measured)
    return {"n": np.bincount(block).tolist(), "sums": _pack(_per_block(np.stack([y, y * y]), block))}


def run_sums(predicted: ArrayLike, measured: ArrayLike, block: NDArray[np.int64]) -> str:
    """Return what a run adds, as JSON can hold it: sums of x, x^2 and x y of each block and gene."""
    x, y = matched(predicted, measured)
    x, y = _centred(x, predicted), _centred(y, measured)
    return _pack(_per_block(np.stack([x, x * x, x * y]), block))


def run_key(run: Sequence[Any]) -> str:
    """Name a run by its section, fraction, arm, predictor, encoder and seed."""
    section, fraction, arm, predictor, encoder, seed = run
    return json.dumps([str(section), float(fraction), str(arm), str(predictor), str(encoder), int(seed)])


class Blocks:
    """Mean PCC of runs when blocks of their section are resampled: the same blocks for every run of a section.

    `stored` is what :func:`c2lst.tl.learning_curve` leaves in `df.attrs["blocks"]`, or several of them.
    """

    def __init__(self, stored: dict[str, Any] | Sequence[dict[str, Any]] | None, *, n_boot: int, seed: int) -> None:
        parts = [] if stored is None else [stored] if isinstance(stored, dict) else list(stored)
        for part in parts:
            if not isinstance(part, dict) or not {"sections", "runs"} <= set(part):
                raise TypeError("blocks must be what c2lst.tl.learning_curve leaves in df.attrs['blocks'], or a list.")
        self.sections: dict[str, Any] = {}
        self.runs: dict[str, str] = {}
        for part in parts:
            odd = [s for s, v in part["sections"].items() if self.sections.get(s, v) != v]
            if odd:
                raise ValueError(
                    f"blocks= hold sums of {listing(odd)} over different spots, genes or blocks; compare runs of one "
                    "test section and one setting of c2lst.tl.learning_curve."
                )
            self.sections |= part["sections"]
            self.runs |= part["runs"]
        self.n_boot, self.seed = n_boot, seed
        self._scores: dict[str, NDArray[np.float64]] = {}
        self._weights: dict[int, NDArray[np.float64]] = {}

    def n_blocks(self, section: Any) -> int:
        """Return how many blocks a section has; 0 where none are known."""
        return len(self.sections[str(section)]["n"]) if str(section) in self.sections else 0

    def resampled(self, runs: pd.DataFrame) -> NDArray[np.float64] | None:
        """Return the mean PCC of each run in each bootstrap sample of the blocks, `(n_boot, n_runs)`.

        `None` where the sums of a run are not known, or there is one block alone.
        """
        if not len(runs) or any(c not in runs for c in RUN) or self.n_blocks(runs["section"].iloc[0]) < 2:
            return None
        keys = [run_key(run) for run in runs[list(RUN)].itertuples(index=False)]
        if any(k not in self.runs for k in keys):
            return None
        for key, said in zip(keys, runs["pcc"], strict=True):
            self._check(key, float(said))
        return np.stack([self._scores[k] for k in keys], axis=1)

    def _check(self, key: str, said: float) -> None:
        """Score a run once: under the resampled blocks, and under all of them, which must be what the table says."""
        if key in self._scores:
            return
        section = json.loads(key)[0]
        scores = mean_pcc(self.sections[section], self.runs[key], self._weight(self.n_blocks(section)))
        if not np.isclose(scores[0], said, atol=1e-4, equal_nan=True):
            raise ValueError(
                f"The sums over blocks of the run {key} give a mean PCC of {scores[0]:.4f}, df says {said:.4f}: df was "
                "changed, or the sums are of another table. Pass the table as c2lst.tl.learning_curve returned it, or "
                "blocks=[] for intervals over seeds alone."
            )
        self._scores[key] = scores[1:]

    def _weight(self, n: int) -> NDArray[np.float64]:
        """Return how often each of `n` blocks is taken: once each, then in every bootstrap sample."""
        if n not in self._weights:
            draw = generator(self.seed, 6).integers(n, size=(self.n_boot, n))
            times = (draw[:, :, None] == np.arange(n)).sum(axis=1)
            self._weights[n] = np.concatenate([np.ones((1, n)), times])
        return self._weights[n]


def mean_pcc(measured: dict[str, Any], run: str, weight: NDArray) -> NDArray[np.float64]:
    """Return the mean over genes of the PCC over blocks taken as often as `weight` `(n, n_blocks)` says: `(n,)`.

    As :func:`c2lst.metrics.pearson`: a gene that does not vary there is left out, a constant prediction scores 0.
    """
    n_blocks = len(measured["n"])
    y, yy = _unpack(measured["sums"], 2, n_blocks)
    x, xx, xy = _unpack(run, 3, n_blocks)
    n = (weight @ np.asarray(measured["n"], dtype=float))[:, None]
    x, xx, xy, y, yy = (weight @ v for v in (x, xx, xy, y, yy))
    vx, vy = xx - x**2 / n, yy - y**2 / n
    scored, says = vy > FLAT * yy, vx > FLAT * xx
    r = np.zeros(xy.shape)
    np.divide(xy - x * y / n, np.sqrt(np.where(scored & says, vx * vy, 1)), out=r, where=scored & says)
    count = scored.sum(axis=1)
    total = np.clip(r, -1, 1).sum(axis=1)
    return np.divide(total, count, out=np.full(len(total), np.nan), where=count > 0)


def _centred(x: NDArray[np.float64], given: Any) -> NDArray[np.float64]:
    """Subtract the mean of each gene: the correlation stays, and the sums lose no digits."""
    return np.where(constant(x, given), 0.0, x - x.mean(axis=0))


def _per_block(x: NDArray[np.float64], block: NDArray[np.int64]) -> NDArray[np.float64]:
    return (block == np.arange(block.max() + 1)[:, None]).astype(float) @ x


def _pack(x: NDArray[np.float64]) -> str:
    return b64encode(np.ascontiguousarray(x, dtype="<f8").tobytes()).decode()


def _unpack(text: str, n_sums: int, n_blocks: int) -> NDArray[np.float64]:
    return np.frombuffer(b64decode(text), dtype="<f8").reshape(n_sums, n_blocks, -1)
