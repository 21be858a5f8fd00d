"""The central model: tokenizer, denoiser, scheduler and the card that says where they come from."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from c2lst._checks import check_positive
from c2lst._logging import batches, progress
from c2lst._random import noise

from ._files import WEIGHTS, new_directory, write_json

if TYPE_CHECKING:
    from diffusers import SchedulerMixin
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from c2lst.nn import Guide

CARD = "c2lst_card.json"
GUIDE = "guide"  # its folder


@dataclass(eq=False, repr=False)
class CentralModel:
    """A latent diffusion model of histology that knows nothing of genes.

    Its directory is that of a diffusers pipeline (JSON and safetensors), with a card beside it.

    Attributes
    ----------
    tokenizer, denoiser, scheduler
        Modules of diffusers.
    mpp
        Microns per pixel of its patches.
    patch_px
        Side of a patch in pixels.
    card
        Training data with licences, seed, steps, curves, limits.
    name
        Under which it was loaded or registered.
    guide, autoguidance
        A weaker denoiser of the same latents, and how far samples keep away from what it would do (Karras et al. 2024): what
        the denoiser says more than the guide is multiplied by `autoguidance`; 1 is none. Without a guide `None` and 1.

    Examples
    --------
    >>> import c2lst as c2l
    >>> central = c2l.models.CentralModel.from_pretrained("toy")
    >>> central.mpp, central.patch_px
    (2.0, 64)
    >>> central.sample(2, seed=0, steps=2).shape
    (2, 64, 64, 3)
    """

    tokenizer: nn.Module
    denoiser: nn.Module
    scheduler: SchedulerMixin
    mpp: float
    patch_px: int
    card: dict[str, Any] = field(default_factory=dict)
    name: str = "unnamed"
    guide: nn.Module | None = None
    autoguidance: float = 1.0

    def __post_init__(self) -> None:
        check_positive("mpp", self.mpp)
        check_positive("patch_px", self.patch_px, integer=True)
        check_positive("autoguidance", self.autoguidance, zero=True)
        self.mpp, self.patch_px, self.autoguidance = float(self.mpp), int(self.patch_px), float(self.autoguidance)
        for module in self._modules():
            module.requires_grad_(False).eval()
        if self.guide is None and self.autoguidance != 1.0:
            raise ValueError(f"autoguidance={self.autoguidance:g} needs a guide, a weaker denoiser to keep away from.")
        if self.guide is not None and self.guide.config.in_channels != self.denoiser.config.in_channels:
            raise ValueError(
                f"The guide takes latents of {self.guide.config.in_channels} channels, the denoiser of "
                f"{self.denoiser.config.in_channels}: these two do not belong together."
            )
        self._hash: str | None = None
        shape = self._latent_shape()
        name, config = type(self.denoiser).__name__, self.denoiser.config
        if shape[0] != config.in_channels:
            raise ValueError(
                f"The tokenizer makes {shape[0]} channels, the {name} takes {config.in_channels}: these two do not "
                "belong together."
            )
        token = config.patch_size if "patch_size" in config else 2 ** (len(config.block_out_channels) - 1)
        if shape[1] % token:
            raise ValueError(
                f"patch_px={self.patch_px} makes latents of {shape[1]} px, no multiple of {token}, by which the {name} "
                f"shrinks them; choose a multiple of {token * shrinks(self.tokenizer)}."
            )
        for module in self._modules()[1:]:
            module.px_per_latent = shrinks(self.tokenizer)

    def _modules(self) -> list[nn.Module]:
        return [self.tokenizer, self.denoiser, *([] if self.guide is None else [self.guide])]

    def guided(self, autoguidance: float | None = None) -> Guide | None:
        """Return what samples keep away from, `autoguidance` of it or as much as the model says; `None` where nothing is."""
        from c2lst.nn import Guide

        weight = self.autoguidance if autoguidance is None else autoguidance
        check_positive("autoguidance", weight, zero=True)
        if self.guide is None and weight != 1.0:
            raise ValueError(f"autoguidance={weight:g} needs a guide, and {self.name!r} has none; leave it out.")
        return None if weight == 1.0 else Guide(self.denoiser, self.guide, float(weight))

    def _latent_shape(self) -> tuple[int, int, int]:
        config, down = self.tokenizer.config, shrinks(self.tokenizer)
        if self.patch_px % down:
            raise ValueError(f"patch_px={self.patch_px} is no multiple of {down}, by which the tokenizer shrinks.")
        channels = config.get("vq_embed_dim") or config.latent_channels
        return (int(channels), self.patch_px // down, self.patch_px // down)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of a patch's latents."""
        return self._latent_shape()

    @property
    def hash(self) -> str:
        """SHA-256 over every weight, every setting, mpp, patch size and autoguidance: the model's identity."""
        if self._hash is None:
            digest = hashlib.sha256()
            configs = [
                {k: v for k, v in part.config.items() if not k.startswith("_")}
                for part in (*self._modules(), self.scheduler)
            ]
            drawn = [] if self.guide is None else [self.autoguidance]
            said = json.dumps([self.mpp, self.patch_px, configs, *drawn], sort_keys=True, default=str)
            digest.update(said.encode())
            for part in self._modules():
                for key, value in sorted(part.state_dict().items()):
                    digest.update(key.encode())
                    digest.update(value.detach().cpu().contiguous().numpy().tobytes())
            self._hash = digest.hexdigest()
        return self._hash

    @property
    def reference(self) -> dict[str, str]:
        """Name and content hash, as written to `uns["c2lst"]["central"]`."""
        return {"name": self.name, "hash": self.hash}

    @property
    def n_parameters(self) -> int:
        """Parameters of tokenizer, denoiser and guide."""
        return sum(p.numel() for m in self._modules() for p in m.parameters())

    def encode(self, patches: NDArray[np.uint8], *, batch_size: int = 256) -> Tensor:
        """Turn uint8 `(n, H, W, 3)` into latents `(n, C, h, w)`, float32."""
        import torch

        from c2lst import nn

        with nn.on_device(self.tokenizer) as here, torch.inference_mode():
            return torch.cat(
                [
                    nn.encode(self.tokenizer, nn.to_tensor(patches[s]).to(here)).cpu()
                    for s in batches(len(patches), batch_size)
                ]
            ).clone()

    def decode(self, latents: Tensor, *, batch_size: int = 64) -> NDArray[np.uint8]:
        """Turn latents `(n, C, h, w)` into uint8 `(n, H, W, 3)`."""
        import torch

        from c2lst import nn

        with nn.on_device(self.tokenizer) as here, torch.inference_mode():
            return np.concatenate(
                [nn.to_uint8(nn.decode(self.tokenizer, latents[s].to(here))) for s in batches(len(latents), batch_size)]
            )

    def sample(
        self,
        n: int,
        *,
        seed: int = 0,
        steps: int = 20,
        autoguidance: float | None = None,
        batch_size: int = 64,
        progress: bool | None = False,
    ) -> NDArray[np.uint8]:
        """Draw `n` patches, uint8 `(n, H, W, 3)`; patch `i` depends on `seed` and `i` alone.

        `autoguidance` of `None` is the model's own; 1 draws without its guide, in less time.
        """
        check_positive("n", n, integer=True)
        check_positive("steps", steps, integer=True)
        return draw(
            self, np.arange(n), seed=seed, steps=steps, autoguidance=autoguidance, batch_size=batch_size, show=progress
        )

    def save_pretrained(self, path: str | Path, *, overwrite: bool = False, half: bool = False) -> Path:
        """Write the model to a new directory; `half` stores float16. Raises `FileExistsError` where one is."""
        import torch
        from safetensors.torch import save_file

        with new_directory(path, overwrite=overwrite) as made:
            index: dict[str, Any] = {"_class_name": "C2LSTCentralModel"}
            parts = {"vae": self.tokenizer, _denoiser_folder(self.denoiser): self.denoiser}
            parts |= {} if self.guide is None else {GUIDE: self.guide}
            for folder, module in parts.items():
                index[folder] = ["diffusers", type(module).__name__]
                module.save_config(made / folder)
                dtype = torch.float16 if half else torch.float32
                tensors = {
                    k: v.detach().cpu().to(dtype if v.is_floating_point() else v.dtype).contiguous()
                    for k, v in module.state_dict().items()
                }
                save_file(tensors, made / folder / WEIGHTS, metadata={"format": "pt"})
            index["scheduler"] = ["diffusers", type(self.scheduler).__name__]
            self.scheduler.save_config(made / "scheduler")
            write_json(made / "model_index.json", index)
            drawn = {} if self.guide is None else {"autoguidance": self.autoguidance}
            write_json(made / CARD, {**self.card, "mpp": self.mpp, "patch_px": self.patch_px, **drawn})
        return Path(path)

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        *,
        mpp: float | None = None,
        patch_px: int | None = None,
        vae: str | Path | nn.Module | None = None,
        condition: int | NDArray | Tensor | None = None,
        revision: str | None = None,
    ) -> CentralModel:
        """Load a registered model by name, or a directory: this package's, or that of a diffusers pipeline.

        A pipeline is read where its denoiser is a DiT, a PixArt (PixCell's own checkpoint among them) or a UNet over the
        latents of an autoencoder; its text encoders and the like are left alone, no code of it is run. A model of the
        Hugging Face Hub is fetched only here, when a user asks for it by the name in :func:`list_central`: JSON and
        safetensors alone, after its licence is logged.

        Parameters
        ----------
        mpp, patch_px
            Microns per pixel and side of the patches; needed for a directory that does not say them.
        vae
            The autoencoder where it lies apart: its directory, that of a pipeline with it, or the module.
        condition
            What the model is told beside the time on every call: a class, or embeddings `(tokens, width)` for its
            cross-attention. `None` is what the model itself has for nothing: a learned embedding, a null class, or zeros.
        revision
            Commit, tag or branch on the Hub, for a registered model that lies there.

        Raises
        ------
        KeyError
            The name is not registered and no such directory exists.
        ValueError
            A class is not known, a key is missing, a shape does not fit, there is a pickle, or the scale is unknown.
        PermissionError
            The model is gated and access was not granted yet.
        ConnectionError
            The Hub cannot be reached and the model was not fetched before.
        """
        from ._pipeline import load_directory
        from ._registry import registered, remember

        key = str(name_or_path)
        asked = {"mpp": mpp, "patch_px": patch_px, "vae": vae, "condition": condition}
        found = registered(key, revision=revision, **asked)
        if found is not None:
            return remember(found)
        if revision is not None:
            raise ValueError(f"revision={revision!r} is for models of the Hub; {key} is a directory.")
        return remember(load_directory(Path(key), name=key, **asked))

    def _networks(self) -> str:
        if self.guide is None:
            return type(self.denoiser).__name__
        return f"{type(self.denoiser).__name__}, drawn with a guide ({self.autoguidance:g})"

    def __repr__(self) -> str:
        data = self.card.get("data", "not said")
        return (
            f"CentralModel {self.name!r}: {self.patch_px} px at {self.mpp:g} um/px "
            f"({self.patch_px * self.mpp:g} um), {self.n_parameters / 1e6:.2f} M parameters, "
            f"{self._networks()}\n  trained on: {data}\n  hash: {self.hash[:12]}"
        )

    def _repr_html_(self) -> str:
        rows = {
            "patch": f"{self.patch_px} px at {self.mpp:g} um/px ({self.patch_px * self.mpp:g} um)",
            "parameters": f"{self.n_parameters / 1e6:.2f} M",
            "denoiser": self._networks(),
            "hash": self.hash[:12],
            **{k: v for k, v in self.card.items() if isinstance(v, str | int | float)},
        }
        return html_table(f"CentralModel {self.name}", rows)


def html_table(title: str, rows: dict[str, Any]) -> str:
    """Draw a two-column table for a notebook."""
    body = "".join(f"<tr><th>{escape(str(k))}</th><td>{escape(str(v))}</td></tr>" for k, v in rows.items())
    return f"<p><b>{escape(title)}</b></p><table>{body}</table>"


def draw(
    central: CentralModel,
    index: NDArray[np.int64],
    *,
    seed: int,
    steps: int,
    batch_size: int = 64,
    modulation=None,
    denoiser=None,
    condition=None,
    guidance: float = 1.0,
    autoguidance: float | None = None,
    precision: str = "32-true",
    show: bool | None = None,
    desc: str = "sampling",
) -> NDArray[np.uint8]:
    """Draw one patch an entry of `index`; its noise follows from `seed` and that entry.

    In float32 a batch of another size gives the same grey levels up to rounding; with `"bf16-mixed"` they differ a little.
    """
    import torch

    from c2lst import nn

    out = np.empty((len(index), central.patch_px, central.patch_px, 3), dtype=np.uint8)
    model = central.denoiser if denoiser is None else denoiser
    guide = central.guided(autoguidance)
    moved = [central.tokenizer, model, *([] if modulation is None else [modulation])]
    moved += [] if guide is None else [guide.denoiser, guide.weak]
    with (
        progress(total=len(index), desc=desc, show=show, unit="patch") as bar,
        nn.on_device(*moved) as here,
    ):
        for s in batches(len(index), batch_size):
            start = torch.from_numpy(noise(seed, index[s], central.latent_shape)).to(here)
            with torch.autocast(here.type, torch.bfloat16, enabled=precision == "bf16-mixed"), torch.inference_mode():
                z = nn.sample(
                    model,
                    central.scheduler,
                    start,
                    steps=steps,
                    modulation=modulation,
                    condition=None if condition is None else condition[s].to(here),
                    guidance=guidance,
                    guide=guide,
                )
                out[s] = nn.to_uint8(nn.decode(central.tokenizer, z))
            bar.update(s.stop - s.start)
    return out


def _denoiser_folder(denoiser: nn.Module) -> str:
    return "unet" if "UNet" in type(denoiser).__name__ else "transformer"


def shrinks(tokenizer: nn.Module) -> int:
    """Return by how much an autoencoder of diffusers shrinks the side of a patch."""
    config = tokenizer.config
    return 2 ** (len(config.get("block_out_channels") or config.get("encoder_block_out_channels")) - 1)
