"""Arrays or zarr stores as training data: what a step sees follows from the seed and the step alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import IterableDataset

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray
    from torch import Tensor


class Pool:
    """Several arrays of one length, addressed as one: `(n_i, H, W, 3)` in memory or lazily in a store."""

    def __init__(self, parts: Sequence[Any]):
        self.parts = list(parts)
        self.starts = np.cumsum([0, *(len(p) for p in self.parts)])

    def __len__(self) -> int:
        return int(self.starts[-1])

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the whole."""
        return (len(self), *self.parts[0].shape[1:])

    def take(self, rows: NDArray[np.int64]) -> NDArray:
        """Return `rows` in the order asked for; each part is read once."""
        rows = np.asarray(rows)
        out = np.empty((len(rows), *self.parts[0].shape[1:]), dtype=self.parts[0].dtype)
        which = np.searchsorted(self.starts, rows, side="right") - 1
        for i in np.unique(which):
            at = np.flatnonzero(which == i)
            local, back = np.unique(rows[at] - self.starts[i], return_inverse=True)
            part = self.parts[i]
            got = part.oindex[local] if hasattr(part, "oindex") else part[local]
            out[at] = np.asarray(got)[back]
        return out


class Ticks(IterableDataset):
    """A data loader needs something to yield; the plan draws its own batch from its seed and step."""

    def __init__(self, n: int):
        self.n = int(n)

    def __len__(self) -> int:
        return self.n

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.n))


def augment_batch(images: Tensor, generator: torch.Generator, *, stain: float = 0.0) -> Tensor:
    """Turn and flip each image `(n, C, H, W)` at random; `stain` is the sd of a per-image jitter of optical density.

    Tissue has no up and no left. The jitter acts on images in -1..1.
    """
    turns = torch.randint(0, 4, (len(images),), generator=generator)
    flips = torch.randint(0, 2, (len(images),), generator=generator).bool()
    out = torch.empty_like(images)
    for k in range(4):
        for flip in (False, True):
            at = (turns == k) & (flips == flip)
            if at.any():
                x = torch.rot90(images[at], k, (2, 3))
                out[at] = x.flip(3) if flip else x
    if stain:
        density = -torch.log(out.add(1).div(2).clamp_min(1 / 255))
        factor = 1 + stain * torch.randn(len(out), out.shape[1], 1, 1, generator=generator)
        out = torch.exp(-density * factor.clamp(0.3, 2)).mul(2).sub(1)
    return out
