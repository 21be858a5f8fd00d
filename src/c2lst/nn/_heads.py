"""Predictor heads that are trained end to end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

if TYPE_CHECKING:
    from torch import Tensor


class PatchCNN(nn.Module):
    """A small convolutional network, patch `(n, 3, H, W)` -> genes `(n, n_genes)`.

    The recipe of ST-Net (He et al. 2020: one regression head over all genes) at a size that trains on two cores.
    """

    def __init__(self, n_genes: int, channels: tuple[int, ...] = (24, 48, 96, 128), dropout: float = 0.2):
        super().__init__()
        self.n_genes, self.channels, self.dropout = int(n_genes), tuple(channels), float(dropout)
        layers: list[nn.Module] = []
        before = 3
        for width in self.channels:
            layers += [
                nn.Conv2d(before, width, 3, stride=2, padding=1, bias=False),
                nn.GroupNorm(8, width),
                nn.SiLU(),
                nn.Conv2d(width, width, 3, padding=1, groups=8, bias=False),
                nn.GroupNorm(8, width),
                nn.SiLU(),
            ]
            before = width
        self.body = nn.Sequential(*layers)
        self.head = nn.Sequential(nn.Dropout(self.dropout), nn.Linear(before, self.n_genes))

    @property
    def config(self) -> dict:
        """What rebuilds the module."""
        return {"n_genes": self.n_genes, "channels": list(self.channels), "dropout": self.dropout}

    def forward(self, images: Tensor) -> Tensor:
        """Return standardised expression, `(n, n_genes)`."""
        return self.head(self.body(images).mean(dim=(2, 3)))


class PatchCritic(nn.Module):
    """Tell real patches from restored ones, place by place (Isola et al. 2017): images `(n, 3, H, W)` -> `(n, 1, h, w)`.

    Three halvings, so that each place sees 22 pixels: texture, and of the rest of a patch no more than its mean and spread.
    """

    def __init__(self, width: int = 32):
        super().__init__()
        layers: list[nn.Module] = []
        before = 3
        for after in (width, 2 * width, 4 * width):
            layers += [nn.Conv2d(before, after, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
            if before > 3:
                layers.insert(-1, nn.GroupNorm(8, after))
            before = after
        self.layers = nn.Sequential(*layers, nn.Conv2d(before, 1, 1))

    def forward(self, images: Tensor, *, features: bool = False) -> Tensor | tuple[Tensor, list[Tensor]]:
        """Return a score for each place, higher is more real; with `features`, also what each halving sees."""
        seen = []
        for layer in self.layers:
            images = layer(images)
            if isinstance(layer, nn.LeakyReLU):
                seen.append(images)
        return (images, seen) if features else images
