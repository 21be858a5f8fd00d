"""Patches without genes, and what a central model makes of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from c2lst._random import generator

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray
    from torch import Tensor

    from c2lst.models import CentralModel
    from c2lst.train import Bar

N_POOL = 2000  # patches of a pool that one adaptation uses, at most


class Tissue:
    """Unpaired patches. What a central model makes of them is computed once, for as many adaptations as share them."""

    def __init__(self, patches: NDArray[np.uint8]):
        self.patches = np.ascontiguousarray(patches)
        self._kept: dict[str, tuple[CentralModel, Any]] = {}

    def __len__(self) -> int:
        return len(self.patches)

    def take(self, rows: NDArray[np.int64]) -> Tissue:
        """Return some of the patches; of a pool that is used whole anyway, with what is known of them."""
        return _Rows(self, rows) if len(self) <= N_POOL else Tissue(self.patches[rows])

    def drawn(self, seed: int) -> Tissue:
        """Return the patches that an adaptation uses, in its order."""
        return self.take(generator(seed, 24).permutation(len(self))[:N_POOL])

    def turns(self, model: CentralModel, bar: Bar | None = None) -> Tensor:
        """Return latents `(n, 8, C, h, w)` of the eight turns and flips, each a step of the bar."""
        return self._once("turns", model, lambda: turns(model, self.patches, bar), bar)

    def features(self, model: CentralModel) -> NDArray[np.float32]:
        """Return the central model's features `(n, dim)`."""
        from c2lst.models._encoders import embed_patches

        return self._once("features", model, lambda: embed_patches(self.patches, "central", model))

    def _once(self, what: str, model: CentralModel, make: Callable[[], Any], bar: Bar | None = None) -> Any:
        if what in self._kept and self._kept[what][0] is model:
            if bar is not None:
                _pass(bar)
        else:
            self._kept[what] = (model, make())
        return self._kept[what][1]


class _Rows(Tissue):
    """Some patches of a pool that knows, or comes to know, what a central model makes of all."""

    def __init__(self, whole: Tissue, rows: NDArray[np.int64]):
        super().__init__(whole.patches[rows])
        self.whole, self.rows = whole, rows

    def turns(self, model: CentralModel, bar: Bar | None = None) -> Tensor:
        return self.whole.turns(model, bar)[self.rows]

    def features(self, model: CentralModel) -> NDArray[np.float32]:
        return self.whole.features(model)[self.rows]


def turns(model: CentralModel, patches: NDArray[np.uint8], bar: Bar | None = None) -> Tensor:
    """Return latents `(n, 8, C, h, w)` of the eight turns and flips of patches, each a step of the bar."""
    import torch

    if bar is not None:
        bar.phase("tissue", 8)
    latents = []
    for turned in _turned(patches):
        latents.append(model.encode(np.ascontiguousarray(turned)))
        if bar is not None:
            bar.step()
    return torch.stack(latents, dim=1)


def _pass(bar: Bar) -> None:
    bar.phase("tissue", 8)
    for _ in range(8):
        bar.step()


def _turned(patches: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    """Return the eight turns and flips of patches: tissue has no up."""
    turned = [np.rot90(patches, k, (1, 2)) for k in range(4)]
    return turned + [t[:, :, ::-1] for t in turned]
