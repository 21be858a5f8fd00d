"""Gene encoders: expression of the panel -> condition vector. Fitted once, on training spots, then frozen."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from c2lst._logging import LIGHTNING, quiet

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor


class GeneEncoder(nn.Module):
    """Base. `fit` sees expression (log1p CP10k, or counts where `uses_counts`) `(n, n_genes)`; calling encodes."""

    uses_counts = False
    kind = ""

    def __init__(self, n_genes: int, dim: int):
        super().__init__()
        self.n_genes, self.dim = int(n_genes), int(dim)
        self.register_buffer("mean", torch.zeros(n_genes))
        self.register_buffer("scale", torch.ones(n_genes))

    @property
    def config(self) -> dict:
        """What rebuilds the module."""
        return {"n_genes": self.n_genes, "dim": self.dim}

    @classmethod
    def fit(cls, values: NDArray, *, seed: int = 0, **kwargs) -> GeneEncoder:
        """Fit on the training spots alone."""
        raise TypeError(f"{cls.__name__} must define fit.")

    def standardise(self, values: Tensor) -> Tensor:
        """Centre and scale each gene by the training spots; clipped at five standard deviations."""
        return ((values.float() - self.mean) / self.scale).clamp(-5, 5)

    def forward(self, values: Tensor) -> Tensor:
        """Encode `(n, n_genes)` into `(n, dim)`."""
        raise TypeError(f"{type(self).__name__} must define forward.")

    def _set_scale(self, values: NDArray) -> None:
        self.mean.copy_(torch.from_numpy(values.mean(0)).float())
        self.scale.copy_(torch.from_numpy(np.maximum(values.std(0), 1e-2)).float())


class PCAGeneEncoder(GeneEncoder):
    """Principal components of standardised expression, each of unit variance (few spots: few components)."""

    kind = "pca"

    def __init__(self, n_genes: int, dim: int):
        super().__init__(n_genes, dim)
        self.register_buffer("components", torch.zeros(n_genes, dim))

    @classmethod
    def fit(cls, values: NDArray, *, seed: int = 0, max_dim: int = 16) -> PCAGeneEncoder:
        """Fit by singular value decomposition; `seed` is not used."""
        n, genes = values.shape
        dim = int(max(1, min(max_dim, genes, (n - 1) // 2)))
        out = cls(genes, dim)
        values = np.asarray(values, dtype=np.float64)
        out._set_scale(values)
        z = np.clip((values - values.mean(0)) / np.maximum(values.std(0), 1e-2), -5, 5)
        _, s, vt = np.linalg.svd(z - z.mean(0), full_matrices=False)
        vt = vt[:dim] * np.sign(vt[:dim][np.arange(len(vt[:dim])), np.abs(vt[:dim]).argmax(1)])[:, None]
        # damped whitening: small components carry mostly noise and must not shout as loud as the first
        sd = s[:dim] / np.sqrt(max(n - 1, 1))
        floor = 0.5 * sd[0] if sd[0] > 0 else 1.0
        out.components.copy_(torch.from_numpy((vt / np.maximum(sd, floor)[:, None]).T.copy()).float())
        return out

    def forward(self, values: Tensor) -> Tensor:
        """Encode `(n, n_genes)` into `(n, dim)`."""
        return self.standardise(values) @ self.components


class MLPGeneEncoder(GeneEncoder):
    """Standardised expression through a small network that is trained together with the modulation."""

    kind = "mlp"

    def __init__(self, n_genes: int, dim: int = 32):
        super().__init__(n_genes, dim)
        self.net = nn.Sequential(nn.Linear(n_genes, 2 * dim), nn.SiLU(), nn.Dropout(0.1), nn.Linear(2 * dim, dim))

    @classmethod
    def fit(cls, values: NDArray, *, seed: int = 0, dim: int = 32) -> MLPGeneEncoder:
        """Set the standardisation; the network is trained by the modulation's plan."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            out = cls(values.shape[1], dim)
        out._set_scale(np.asarray(values, dtype=np.float64))
        return out

    def forward(self, values: Tensor) -> Tensor:
        """Encode `(n, n_genes)` into `(n, dim)`."""
        return self.net(self.standardise(values))


class SCVIGeneEncoder(GeneEncoder):
    """The latent mean of :class:`scvi.model.SCVI` (Lopez et al. 2018), fitted on counts of the panel.

    The model's tensors are kept here one by one, so that they can be saved as safetensors.
    """

    kind = "scvi"
    uses_counts = True
    min_spots = 20

    def __init__(self, n_genes: int, dim: int = 10, n_hidden: int = 64):
        super().__init__(n_genes, dim)
        from scvi.module import VAE

        self.n_hidden = int(n_hidden)
        self.vae = VAE(n_input=n_genes, n_latent=dim, n_hidden=n_hidden, n_layers=1)
        self.register_buffer("latent_mean", torch.zeros(dim))
        self.register_buffer("latent_scale", torch.ones(dim))
        self.requires_grad_(False).eval()

    @property
    def config(self) -> dict:
        """What rebuilds the module."""
        return {**super().config, "n_hidden": self.n_hidden}

    @classmethod
    def fit(cls, values: NDArray, *, seed: int = 0, dim: int = 10, epochs: int = 200) -> SCVIGeneEncoder:
        """Train scvi-tools' own model on counts `(n, n_genes)`."""
        if len(values) < cls.min_spots:
            raise ValueError(
                f"gene_encoder='scvi' needs at least {cls.min_spots} spots, here are {len(values)}; "
                "use gene_encoder='pca'."
            )
        import anndata as ad
        import scvi

        table = ad.AnnData(np.asarray(values, dtype=np.float32))
        with torch.random.fork_rng(devices=[]):
            before = np.random.get_state()
            torch.manual_seed(seed)
            np.random.seed(seed % 2**32)
            out = cls(values.shape[1], dim)
            scvi.model.SCVI.setup_anndata(table)
            model = scvi.model.SCVI(table, n_latent=dim, n_hidden=out.n_hidden, n_layers=1)
            with quiet(*LIGHTNING):
                model.train(
                    max_epochs=epochs,
                    accelerator="cpu",
                    train_size=1.0,
                    shuffle_set_split=False,  # it would be shuffled by a seed of scvi's own, None by default
                    batch_size=min(128, len(values)),
                    enable_progress_bar=False,
                    logger=False,
                )
            np.random.set_state(before)
        out.vae.load_state_dict(model.module.state_dict())
        out.requires_grad_(False).eval()
        with torch.no_grad():
            z = out._latent(torch.from_numpy(np.asarray(values, dtype=np.float32)))
        out.latent_mean.copy_(z.mean(0))
        out.latent_scale.copy_(z.std(0).clamp_min(1e-3))
        return out

    def _latent(self, counts: Tensor) -> Tensor:
        batch = torch.zeros(len(counts), 1, dtype=torch.long, device=counts.device)
        # scvi draws a z as well; the caller's random state must not notice
        with torch.random.fork_rng(devices=[]):
            return self.vae.inference(counts, batch)["qz"].loc

    def train(self, mode: bool = True) -> SCVIGeneEncoder:
        """Stay in evaluation mode: the encoder is frozen once fitted."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, values: Tensor) -> Tensor:
        """Encode counts `(n, n_genes)` into `(n, dim)`, standardised over the training spots."""
        return (self._latent(values.float()) - self.latent_mean) / self.latent_scale

    @torch.no_grad()
    def draw(self, counts: Tensor, *, seed: int) -> Tensor:
        """Draw counts from the posterior predictive of each row of `counts`, `(n, n_genes)`."""
        rows = []
        for i, row in enumerate(counts.float()):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed((seed + 7919 * i) % 2**31)
                batch = torch.zeros(1, 1, dtype=torch.long, device=counts.device)
                inference = self.vae.inference(row[None], batch)
                generative = self.vae.generative(inference["z"], inference["library"], batch)
                rows.append(generative["px"].sample())
        return torch.cat(rows)


GENE_ENCODERS: dict[str, type[GeneEncoder]] = {
    cls.kind: cls for cls in (PCAGeneEncoder, MLPGeneEncoder, SCVIGeneEncoder)
}
