"""Predictors: image -> genes."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from c2lst._checks import listing

from ._central import CentralModel, html_table
from ._encoders import embed_patches, get_encoder
from ._files import (
    built,
    check_directory,
    check_kept_panel,
    check_kept_scale,
    new_directory,
    read_json,
    read_tensors,
    write_json,
    write_tensors,
)
from ._registry import referenced
from ._ridge import ridge_predict, trust_distances

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from c2lst.nn import PatchCNN

FILES = ("predictor.json", "predictor.safetensors")
KINDS = ("ridge", "ridge-whitened", "cnn")


class Predictor:
    """Predicts log1p CP10k of a panel from patches.

    `arrays` hold what was fitted: for the ridges `mean`, `rotation` (features -> components, standardised or whitened),
    `coef`, `intercept`; for the CNN `gene_mean`, `gene_scale`; for the trust flag `trust_mean` and what follows.

    Attributes
    ----------
    kind
        `"ridge"`, `"ridge-whitened"` or `"cnn"`.
    genes
        The panel, in the order of the columns of a prediction.
    mpp, patch_px
        Of the patches it takes.
    card
        What it saw and did not see.
    """

    def __init__(
        self,
        kind: str,
        genes: Sequence[str],
        arrays: dict[str, NDArray],
        *,
        encoder: str = "central",
        central: CentralModel | None = None,
        network: PatchCNN | None = None,
        mpp: float,
        patch_px: int,
        card: dict[str, Any] | None = None,
    ):
        self.kind, self.genes = kind, list(genes)
        # one layout before and after a file: products then agree to the last bit
        self.arrays = {k: np.ascontiguousarray(v) for k, v in arrays.items()}
        self.encoder, self.central, self.network = encoder, central, network
        self.mpp, self.patch_px, self.card = float(mpp), int(patch_px), dict(card or {})

    def features(self, patches: Any, *, batch_size: int = 128, progress: bool | None = False) -> NDArray[np.float32]:
        """Return what the encoder says of patches, `(n, dim)`."""
        return embed_patches(patches, self.encoder, self.central, batch_size=batch_size, show=progress)

    def from_features(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Predict from features (ridges), `(n, n_genes)`."""
        return ridge_predict(self.arrays, features)

    def from_patches(
        self,
        patches: Any,
        *,
        features: NDArray | None = None,
        batch_size: int = 128,
        progress: bool | None = False,
    ) -> NDArray[np.float32]:
        """Predict from uint8 patches `(n, H, W, 3)`, in memory or in a store: `(n, n_genes)`."""
        if self.kind != "cnn":
            if features is None:
                features = self.features(patches, batch_size=batch_size, progress=progress)
            return self.from_features(features)
        import torch

        from c2lst import nn
        from c2lst._logging import batches

        out = []
        with torch.inference_mode():
            for s in batches(len(patches), batch_size):
                x = nn.to_tensor(np.asarray(patches[s]))
                # tissue has no up: the mean over four turns
                out.append(sum(self.network(torch.rot90(x, k, (2, 3))) for k in range(4)).div(4).numpy())
        return np.concatenate(out) * self.arrays["gene_scale"] + self.arrays["gene_mean"]

    def distance(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Distance of features to the training tissue, 1 being the limit of trust: `(n,)`.

        The larger of two: within the main directions of the training patches, and off them.
        """
        within, off = trust_distances(features, self.arrays)
        limit = self.arrays["trust_limit"]
        return np.maximum(within / limit[0], off / limit[1]).astype(np.float32)

    def save_pretrained(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write the predictor to a new directory of JSON and safetensors. Raises `FileExistsError` where one is."""
        import torch

        with new_directory(path, overwrite=overwrite) as made:
            spec = {
                "format": "c2lst.Predictor/1",
                "kind": self.kind,
                "genes": self.genes,
                "encoder": self.encoder,
                "central": None if self.central is None else self.central.reference,
                "network": None if self.network is None else self.network.config,
                "mpp": self.mpp,
                "patch_px": self.patch_px,
                "card": self.card,
            }
            write_json(made / FILES[0], spec)
            tensors = {f"arrays.{k}": torch.from_numpy(v) for k, v in self.arrays.items()}
            if self.network is not None:
                tensors |= {f"network.{k}": v for k, v in self.network.state_dict().items()}
            write_tensors(made / FILES[1], tensors)
        return Path(path)

    @classmethod
    def from_pretrained(
        cls, path: str | Path, *, central: CentralModel | str | None = None, encoder: str | None = None
    ) -> Predictor:
        """Load a directory.

        Parameters
        ----------
        central
            The central model that was used, where it is not found by its name.
        encoder
            The encoder that was used; needed for one of timm (`"timm:<name>"`), whose weights timm fetches from a hub: a
            file fetches nothing that its user has not named.

        Raises
        ------
        ValueError
            Files are broken, a key or shape does not fit, or `central` or `encoder` is another one.
        KeyError
            The central model or the encoder is not found.
        """
        from c2lst.nn import PatchCNN

        path = check_directory(path, *FILES)
        keys = ("format", "kind", "genes", "encoder", "central", "network", "mpp", "patch_px", "card")
        spec = read_json(path / FILES[0], *keys, exact=True)
        if spec["format"] != "c2lst.Predictor/1" or spec["kind"] not in KINDS:
            raise ValueError(
                f"{path} has format {spec['format']!r} and kind {spec['kind']!r}; this version reads "
                f"'c2lst.Predictor/1' of {listing(KINDS)}."
            )
        check_kept_panel(path, spec)
        check_kept_scale(path, spec)
        tensors = read_tensors(path / FILES[1])
        arrays = {k.removeprefix("arrays."): v.numpy() for k, v in tensors.items() if k.startswith("arrays.")}
        stray = sorted(k for k in tensors if not k.startswith(("arrays.", "network.")))
        if stray or (spec["network"] is None and len(arrays) < len(tensors)):
            raise ValueError(f"{path / FILES[1]} has unknown tensors {listing(stray or sorted(tensors))}.")
        _check_arrays(spec, arrays, path)
        model = _kept_encoder(path, spec, central, encoder)
        network = None
        if spec["network"] is not None:
            own = {k.removeprefix("network."): v for k, v in tensors.items() if k.startswith("network.")}
            try:
                network = built(partial(PatchCNN, **spec["network"]), own, path / FILES[1])
            except (TypeError, RuntimeError) as error:
                raise ValueError(f"{path}: the network does not take these settings: {error}.") from error
            network.eval()
        return cls(
            spec["kind"],
            spec["genes"],
            arrays,
            encoder=spec["encoder"],
            central=model,
            network=network,
            mpp=spec["mpp"],
            patch_px=spec["patch_px"],
            card=spec["card"],
        )

    save, load = save_pretrained, from_pretrained

    def __repr__(self) -> str:
        lines = [f"Predictor {self.kind!r} of {len(self.genes)} genes, {self.patch_px} px at {self.mpp:g} um/px"]
        if self.kind != "cnn":
            lines[0] += f", on features of {self.encoder!r}"
        return "\n".join(lines + [f"  {k}: {v}" for k, v in self.card.items() if k != "curves"])

    def _repr_html_(self) -> str:
        rows = {"kind": self.kind, "encoder": self.encoder, "genes": len(self.genes)}
        return html_table("Predictor", rows | {k: v for k, v in self.card.items() if k != "curves"})


def _check_arrays(spec: dict[str, Any], arrays: dict[str, NDArray], path: Path) -> None:
    trust = {"trust_mean", "trust_inverse", "trust_basis", "trust_sd", "trust_limit"}
    want = trust | ({"gene_mean", "gene_scale"} if spec["kind"] == "cnn" else {"mean", "rotation", "coef", "intercept"})
    if set(arrays) != want:
        raise ValueError(f"{path} must hold the arrays {listing(sorted(want))}; it holds {listing(sorted(arrays))}.")
    if (spec["network"] is not None) != (spec["kind"] == "cnn"):
        raise ValueError(f"{path}: a predictor {spec['kind']!r} with network={spec['network']!r} cannot be.")
    if len(set(spec["genes"])) != len(spec["genes"]):
        raise ValueError(f"{path} names a gene twice.")
    last = arrays["gene_mean" if spec["kind"] == "cnn" else "intercept"]
    n = len(spec["genes"])
    if last.shape != (n,):
        raise ValueError(f"{path} names {n} genes but predicts {last.size}.")
    dim, kept = (*arrays["trust_basis"].shape, 0, 0)[:2]
    shapes = {
        "trust_mean": (dim,),
        "trust_inverse": (dim,),
        "trust_basis": (dim, kept),
        "trust_sd": (kept,),
        "trust_limit": (2,),
    }
    if spec["kind"] == "cnn":
        shapes |= {"gene_scale": (n,)}
    else:
        components = (*arrays["rotation"].shape, 0, 0)[1]
        shapes |= {"mean": (dim,), "rotation": (dim, components), "coef": (components, n)}
    wrong = [f"{k} {arrays[k].shape} instead of {v}" for k, v in shapes.items() if arrays[k].shape != v]
    if wrong:
        raise ValueError(f"{path} has arrays that do not fit each other: {listing(wrong)}.")


def _kept_encoder(path: Path, spec: dict[str, Any], central: Any, encoder: str | None) -> CentralModel | None:
    """Return the central model that a saved predictor needs; raise where its encoder is not what it may be."""
    name = spec["encoder"]
    if not isinstance(name, str) or (spec["kind"] == "cnn" and name != "rgb"):
        raise ValueError(f"{path} names the encoder {name!r}, which a predictor {spec['kind']!r} does not have.")
    if encoder not in (None, name):
        raise ValueError(f"{path} was fitted with the encoder {name!r}, not with {encoder!r}.")
    if encoder is None and name.startswith("timm:"):
        raise ValueError(
            f"{path} uses the encoder {name!r}, whose weights timm may fetch from a hub. Pass encoder={name!r} if that is "
            "what you want."
        )
    needed = get_encoder(name).needs_central
    if needed != (spec["central"] is not None):
        raise ValueError(f"{path}: the encoder {name!r} with central={spec['central']!r} cannot be.")
    return referenced(spec["central"], central, path) if needed else None
