"""The arms of the benchmark: what joins the real spots in training, and with which labels."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

import numpy as np

from c2lst._random import derive, generator

from ._augment import mixing, parents_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

ARMS = (
    "real",
    "classical",
    "mixup",
    "pseudo",
    "synthetic",
    "shuffled",
    "shuffled-within",
    "unconditional",
)
GENERATED = ("synthetic", "shuffled", "shuffled-within", "unconditional")
# not among the arms that run unless asked: what a generator's own features give without generating
MORE_ARMS = ("pseudo-central",)
PSEUDO = ("pseudo", "pseudo-central")


@dataclass
class Extra:
    """Samples beside the real ones: uint8 patches, targets (NaN where a gene is not carried), parents (-1: none).

    Of generated ones also the profile each is labelled with, and what the judge of the gate says of its patch.
    """

    patches: NDArray[np.uint8]
    target: NDArray[np.float32]
    parent: NDArray[np.int64]
    features: NDArray[np.float32] | None = None
    profiles: NDArray[np.float32] | None = None
    judged: NDArray[np.float32] | None = None
    partner: NDArray[np.int64] | None = None  # spots that parents were mixed with
    without: dict[int, NDArray[np.float32]] | None = None  # targets as they are when a fold's spots are not known

    def relabelled(self, order: NDArray[np.int64]) -> Extra:
        """Give each patch the genes of another, whose parent is then as near to it as its own."""
        return replace(self, target=self.target[order], profiles=self.profiles[order], partner=self.parent[order])

    def take(self, rows: NDArray) -> Extra:
        """Keep some."""
        given = {f.name: getattr(self, f.name) for f in fields(self)}
        without = given.pop("without")
        made = Extra(**{k: None if v is None else v[rows] for k, v in given.items()})
        return made if without is None else replace(made, without={k: v[rows] for k, v in without.items()})


def classical(patches: NDArray[np.uint8], target: NDArray, n: int, seed: int) -> Extra:
    """Turns, flips and a jitter of optical density."""
    import torch

    from c2lst.nn import to_tensor, to_uint8
    from c2lst.train import augment_batch

    parents = parents_of(len(patches), n, derive(seed, 91))
    draws = torch.Generator().manual_seed(derive(seed, 92))
    images = augment_batch(to_tensor(patches[parents]), draws, stain=0.1)
    return Extra(to_uint8(images), target[parents], parents)


def mixup(patches: NDArray[np.uint8], target: NDArray, n: int, seed: int) -> Extra:
    """Pixels and genes of a spot and one of its five neighbours in expression, mixed (Zhang et al. 2018)."""
    parents = parents_of(len(patches), n, derive(seed, 93))
    partner, share = mixing(target, parents, derive(seed, 94))
    pixels = share[:, :, None, None]
    mixed = (1 - pixels) * patches[parents] + pixels * patches[partner]
    labels = (1 - share) * target[parents] + share * target[partner]
    return Extra(mixed.round().astype(np.uint8), labels, parents, partner=partner)


def shuffled(extra: Extra, seed: int) -> Extra:
    """Genes permuted among all synthetic patches."""
    return extra.relabelled(generator(seed, 95).permutation(len(extra.patches)))


def shuffled_within(extra: Extra, seed: int) -> Extra:
    """Genes permuted among synthetic patches of one expression cluster: the harder control."""
    from sklearn.cluster import KMeans

    n = len(extra.profiles)
    kmeans = KMeans(max(2, min(8, n // 20)), n_init=3, random_state=derive(seed, 96))
    clusters = kmeans.fit_predict(extra.profiles)
    order = np.arange(n)
    for i, name in enumerate(np.unique(clusters)):
        rows = np.flatnonzero(clusters == name)
        order[rows] = generator(seed, 97, i).permutation(rows)
    return extra.relabelled(order)
