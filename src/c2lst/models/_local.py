"""The local model: a few megabytes that turn a central model towards the genes of an institution's spots."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from c2lst._checks import PRECISIONS, check_choice, check_positive, listing
from c2lst._logging import logger

from ._central import CentralModel, draw, html_table
from ._files import (
    built,
    check_directory,
    check_kept_panel,
    load_strictly,
    new_directory,
    read_json,
    read_tensors,
    write_json,
    write_tensors,
)
from ._registry import referenced

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from c2lst.nn import GeneEncoder, Modulation

FILES = ("local.json", "local.safetensors")


class LocalModel:
    """A central model modulated by the genes of a few spots.

    It refers to the central model by name and content hash and holds none of its weights, no pixel and no count of the
    spots it was fitted on.

    Attributes
    ----------
    central
        The frozen :class:`CentralModel`.
    genes
        The panel, in the order of the columns of every profile.
    card
        What `adapt` saw and did not see, its settings and curves.
    """

    def __init__(
        self,
        central: CentralModel,
        gene_encoder: GeneEncoder,
        modulation: Modulation,
        genes: Sequence[str],
        *,
        modulation_kind: str,
        card: dict[str, Any] | None = None,
    ):
        self.central = central
        self.gene_encoder, self.modulation = gene_encoder.eval(), modulation
        self.genes, self.modulation_kind, self.card = list(genes), modulation_kind, dict(card or {})
        self.denoiser = modulation.bind(central.denoiser)
        self.gene_encoder.requires_grad_(False)
        self.modulation.requires_grad_(False).eval()

    @property
    def mpp(self) -> float:
        """Microns per pixel of the patches."""
        return self.central.mpp

    @property
    def patch_px(self) -> int:
        """Side of a patch in pixels."""
        return self.central.patch_px

    @property
    def n_parameters(self) -> int:
        """Parameters beside the central model's."""
        return sum(p.numel() for m in (self.modulation, self.gene_encoder) for p in m.parameters())

    def condition(self, profiles: NDArray[np.float32] | None, n: int | None = None):
        """Encode profiles `(n, n_genes)` (what the gene encoder takes); `None` drops the genes of `n` patches."""
        import torch

        if profiles is None:
            return torch.full((n, self.gene_encoder.dim), torch.nan)
        profiles = np.asarray(profiles, dtype=np.float32)
        if profiles.ndim != 2 or profiles.shape[1] != len(self.genes):
            raise ValueError(f"Profiles must be (n, {len(self.genes)}), a column a gene, not {profiles.shape}.")
        with torch.no_grad():
            return self.gene_encoder(torch.from_numpy(profiles)).clone()

    def sample(
        self,
        profiles: NDArray[np.float32] | None,
        *,
        n: int | None = None,
        index: NDArray[np.int64] | None = None,
        seed: int = 0,
        guidance: float = 2.5,
        autoguidance: float | None = None,
        steps: int = 20,
        batch_size: int = 64,
        precision: str = "32-true",
        progress: bool | None = False,
    ) -> NDArray[np.uint8]:
        """Draw one patch a profile, uint8 `(n, H, W, 3)`.

        Parameters
        ----------
        profiles
            `(n, n_genes)`, log1p CP10k of the panel (counts for the `"scvi"` encoder); `None` draws `n` without genes.
        index
            Names the noise of each patch: equal entries, equal noise. `None` is 0, 1, 2, ...
        guidance
            Of Ho & Salimans (2022): 1 is none, more exaggerates what the genes ask for.
        autoguidance
            Of the central model, where it has a guide (see :class:`CentralModel`): `None` is its own, 1 is none.
        precision
            `"32-true"`, or `"bf16-mixed"`: faster where the processor has bfloat16, several times slower elsewhere.
        """
        from c2lst.nn import compute_device
        from c2lst.train import has_bfloat16

        check_positive("guidance", guidance, zero=True)
        check_positive("steps", steps, integer=True)
        check_choice("precision", precision, PRECISIONS)
        if precision == "bf16-mixed" and compute_device().type == "cpu" and not has_bfloat16():
            logger.warning(
                "This processor has no bfloat16 and emulates it: precision='32-true' is several times faster here."
            )
        if profiles is None and n is None:
            raise ValueError("Without profiles, pass n= the number of patches.")
        condition = self.condition(profiles, n)
        index = np.arange(len(condition)) if index is None else np.asarray(index)
        return draw(
            self.central,
            index,
            seed=seed,
            steps=steps,
            batch_size=batch_size,
            modulation=self.modulation,
            denoiser=self.denoiser,
            condition=condition,
            guidance=1.0 if profiles is None else guidance,
            autoguidance=autoguidance,
            precision=precision,
            show=progress,
            desc="generating",
        )

    def save_pretrained(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write the model to a new directory of JSON and safetensors. Raises `FileExistsError` where one is."""
        with new_directory(path, overwrite=overwrite) as made:
            write_json(
                made / FILES[0],
                {
                    "format": "c2lst.LocalModel/1",
                    "central": self.central.reference,
                    "genes": self.genes,
                    "gene_encoder": {"kind": self.gene_encoder.kind, **self.gene_encoder.config},
                    "modulation": {"kind": self.modulation_kind, **self.modulation.config},
                    "card": self.card,
                },
            )
            tensors = {f"modulation.{k}": v for k, v in self.modulation.state_dict().items()}
            tensors |= {f"gene_encoder.{k}": v for k, v in self.gene_encoder.state_dict().items()}
            write_tensors(made / FILES[1], tensors)
        return Path(path)

    @classmethod
    def from_pretrained(cls, path: str | Path, *, central: CentralModel | str | None = None) -> LocalModel:
        """Load a directory; `central` is needed only where the referenced model is not found by its name.

        Raises
        ------
        ValueError
            A file is broken, a key or shape does not fit, a pickle is there, or `central` is another model.
        KeyError
            The referenced central model is not found.
        """
        import torch

        from c2lst.nn import GENE_ENCODERS, MODULATIONS

        path = check_directory(path, *FILES)
        spec = read_json(
            path / FILES[0], "format", "central", "genes", "gene_encoder", "modulation", "card", exact=True
        )
        if spec["format"] != "c2lst.LocalModel/1":
            raise ValueError(f"{path} has format {spec['format']!r}; this version reads 'c2lst.LocalModel/1'.")
        check_kept_panel(path, spec)
        tensors = read_tensors(path / FILES[1])
        known = {"modulation", "gene_encoder"}
        stray = sorted({k.split(".")[0] for k in tensors} - known)
        if stray:
            raise ValueError(f"{path / FILES[1]} has unknown parts {listing(stray)}; known are {listing(known)}.")
        model = referenced(spec["central"], central, path)
        makers, probes = {}, []
        for role, table in (("gene_encoder", GENE_ENCODERS), ("modulation", MODULATIONS)):
            config = dict(spec[role]) if isinstance(spec[role], dict) else {}
            kind = config.pop("kind", None)
            if kind not in table:
                raise ValueError(f"{path} names the {role} {kind!r}; known are {listing(table)}.")
            makers[role] = partial(table[kind], **config)
            try:
                with torch.device("meta"):  # no memory yet for what a file asks for
                    probes.append(makers[role]())
            except (TypeError, ValueError, RuntimeError) as error:
                raise ValueError(f"{path}: the {role} {kind!r} does not take these settings: {error}.") from error
        _check_fit(path, spec["genes"], model, *probes)
        own = {
            role: {k.removeprefix(f"{role}."): v for k, v in tensors.items() if k.startswith(f"{role}.")}
            for role in makers
        }
        encoder = built(makers["gene_encoder"], own["gene_encoder"], path / FILES[1])
        with torch.random.fork_rng(devices=[]):  # what is drawn at random is overwritten
            out = cls(
                model, encoder, makers["modulation"](), spec["genes"], modulation_kind=spec["modulation"]["kind"],
                card=spec["card"],
            )  # fmt: skip
        # some modulations have their weights only when they are bound
        load_strictly(out.modulation, own["modulation"], path / FILES[1])
        return out

    save, load = save_pretrained, from_pretrained

    def __repr__(self) -> str:
        lines = [
            f"LocalModel of {self.central.name!r} ({self.central.hash[:12]}), {self.modulation_kind} of "
            f"{self.n_parameters / 1e3:.0f} k parameters, {len(self.genes)} genes by {self.gene_encoder.kind!r}"
        ]
        lines += [f"  {k}: {v}" for k, v in self.card.items() if k not in ("curves",)]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        rows = {
            "central model": f"{self.central.name} ({self.central.hash[:12]})",
            "modulation": f"{self.modulation_kind}, {self.n_parameters / 1e3:.0f} k parameters",
            "genes": f"{len(self.genes)} by {self.gene_encoder.kind}",
            **{k: v for k, v in self.card.items() if k != "curves"},
        }
        return html_table("LocalModel", rows)


def _check_fit(path: Path, genes: list[str], model: CentralModel, encoder: GeneEncoder, modulation: Modulation) -> None:
    from c2lst.nn import sites

    if len(genes) != encoder.n_genes or len(set(genes)) != len(genes):
        raise ValueError(
            f"{path} names {len(genes)} genes ({len(set(genes))} different ones), its gene encoder takes "
            f"{encoder.n_genes}: the panel does not match the weights."
        )
    widths = [s.width for s in sites(model.denoiser)]
    if modulation.condition_dim != encoder.dim or modulation.widths != widths:
        raise ValueError(
            f"{path}: the modulation takes {modulation.condition_dim} values for widths {modulation.widths}, the gene "
            f"encoder gives {encoder.dim} and the central model {model.name!r} has {widths}."
        )
