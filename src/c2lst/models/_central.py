"""The central model: tokenizer, denoiser, scheduler and the card that says where they come from."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from c2lst._checks import check_positive, listing
from c2lst._logging import batches, progress
from c2lst._random import noise

from ._files import check_directory, load_strictly, new_directory, read_json, read_tensors, write_json

if TYPE_CHECKING:
    from diffusers import SchedulerMixin
    from numpy.typing import NDArray
    from torch import Tensor, nn

CARD = "c2lst_card.json"
TOKENIZERS = ("AutoencoderKL", "AutoencoderTiny")
DENOISERS = ("DiTTransformer2DModel", "PixArtTransformer2DModel", "UNet2DModel", "UNet2DConditionModel")
SCHEDULERS = (
    "FlowMatchEulerDiscreteScheduler",
    "DDIMScheduler",
    "DDPMScheduler",
    "DPMSolverMultistepScheduler",
    "EulerDiscreteScheduler",
    "PNDMScheduler",
)
WEIGHTS = "diffusion_pytorch_model.safetensors"


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

    def __post_init__(self) -> None:
        check_positive("mpp", self.mpp)
        check_positive("patch_px", self.patch_px, integer=True)
        self.mpp, self.patch_px = float(self.mpp), int(self.patch_px)
        for module in (self.tokenizer, self.denoiser):
            module.requires_grad_(False).eval()
        self._hash: str | None = None
        shape = self._latent_shape()
        if shape[0] != self.denoiser.config.in_channels:
            raise ValueError(
                f"The tokenizer makes {shape[0]} channels, the {type(self.denoiser).__name__} takes "
                f"{self.denoiser.config.in_channels}: these two do not belong together."
            )

    def _latent_shape(self) -> tuple[int, int, int]:
        config = self.tokenizer.config
        blocks = config.get("block_out_channels") or config.get("encoder_block_out_channels")
        down = 2 ** (len(blocks) - 1)
        if self.patch_px % down:
            raise ValueError(f"patch_px={self.patch_px} is no multiple of {down}, by which the tokenizer shrinks.")
        return (int(config.latent_channels), self.patch_px // down, self.patch_px // down)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of a patch's latents."""
        return self._latent_shape()

    @property
    def hash(self) -> str:
        """SHA-256 over every weight, every setting, mpp and patch size: the model's identity."""
        if self._hash is None:
            digest = hashlib.sha256()
            configs = [
                {k: v for k, v in part.config.items() if not k.startswith("_")}
                for part in (self.tokenizer, self.denoiser, self.scheduler)
            ]
            said = json.dumps([self.mpp, self.patch_px, configs], sort_keys=True, default=str)
            digest.update(said.encode())
            for part in (self.tokenizer, self.denoiser):
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
        """Parameters of tokenizer and denoiser."""
        return sum(p.numel() for m in (self.tokenizer, self.denoiser) for p in m.parameters())

    def encode(self, patches: NDArray[np.uint8], *, batch_size: int = 256) -> Tensor:
        """Turn uint8 `(n, H, W, 3)` into latents `(n, C, h, w)`, float32."""
        import torch

        from c2lst import nn

        with torch.inference_mode():
            return torch.cat(
                [nn.encode(self.tokenizer, nn.to_tensor(patches[s])) for s in batches(len(patches), batch_size)]
            ).clone()

    def decode(self, latents: Tensor, *, batch_size: int = 64) -> NDArray[np.uint8]:
        """Turn latents `(n, C, h, w)` into uint8 `(n, H, W, 3)`."""
        import torch

        from c2lst import nn

        with torch.inference_mode():
            return np.concatenate(
                [nn.to_uint8(nn.decode(self.tokenizer, latents[s])) for s in batches(len(latents), batch_size)]
            )

    def sample(
        self, n: int, *, seed: int = 0, steps: int = 20, batch_size: int = 64, progress: bool | None = False
    ) -> NDArray[np.uint8]:
        """Draw `n` patches, uint8 `(n, H, W, 3)`; patch `i` depends on `seed` and `i` alone."""
        check_positive("n", n, integer=True)
        check_positive("steps", steps, integer=True)
        return draw(self, np.arange(n), seed=seed, steps=steps, batch_size=batch_size, show=progress)

    def save_pretrained(self, path: str | Path, *, overwrite: bool = False, half: bool = False) -> Path:
        """Write the model to a new directory; `half` stores float16. Raises `FileExistsError` where one is."""
        import torch
        from safetensors.torch import save_file

        with new_directory(path, overwrite=overwrite) as made:
            index: dict[str, Any] = {"_class_name": "C2LSTCentralModel"}
            parts = {"vae": self.tokenizer, _denoiser_folder(self.denoiser): self.denoiser}
            for folder, module in parts.items():
                index[folder] = ["diffusers", type(module).__name__]
                module.save_config(made / folder)
                dtype = torch.float16 if half else torch.float32
                tensors = {k: v.detach().cpu().to(dtype).contiguous() for k, v in module.state_dict().items()}
                save_file(tensors, made / folder / WEIGHTS, metadata={"format": "pt"})
            index["scheduler"] = ["diffusers", type(self.scheduler).__name__]
            self.scheduler.save_config(made / "scheduler")
            write_json(made / "model_index.json", index)
            write_json(made / CARD, {**self.card, "mpp": self.mpp, "patch_px": self.patch_px})
        return Path(path)

    @classmethod
    def from_pretrained(
        cls, name_or_path: str | Path, *, mpp: float | None = None, patch_px: int | None = None
    ) -> CentralModel:
        """Load a registered model by name, or a directory (this package's, or a diffusers pipeline's).

        A pipeline's directory does not say its scale: pass `mpp` (microns per pixel) for one.

        Raises
        ------
        KeyError
            The name is not registered and no such directory exists.
        ValueError
            A class is not known, a key is missing, a shape does not fit, there is a pickle, or the scale is unknown.
        """
        from ._registry import registered

        key = str(name_or_path)
        found = registered(key)
        if found is not None:
            _check_asked(f"The registered model {key!r}", found.mpp, found.patch_px, mpp, patch_px)
            return found
        return load_directory(Path(key), name=key, mpp=mpp, patch_px=patch_px)

    def __repr__(self) -> str:
        data = self.card.get("data", "not said")
        return (
            f"CentralModel {self.name!r}: {self.patch_px} px at {self.mpp:g} um/px "
            f"({self.patch_px * self.mpp:g} um), {self.n_parameters / 1e6:.2f} M parameters, "
            f"{type(self.denoiser).__name__}\n  trained on: {data}\n  hash: {self.hash[:12]}"
        )

    def _repr_html_(self) -> str:
        rows = {
            "patch": f"{self.patch_px} px at {self.mpp:g} um/px ({self.patch_px * self.mpp:g} um)",
            "parameters": f"{self.n_parameters / 1e6:.2f} M",
            "denoiser": type(self.denoiser).__name__,
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
    show: bool | None = None,
    desc: str = "sampling",
) -> NDArray[np.uint8]:
    """Draw one patch an entry of `index`; its noise follows from `seed` and that entry.

    float32 throughout: a batch of another size then gives the same grey levels up to rounding.
    """
    import torch

    from c2lst import nn

    out = np.empty((len(index), central.patch_px, central.patch_px, 3), dtype=np.uint8)
    model = central.denoiser if denoiser is None else denoiser
    with progress(total=len(index), desc=desc, show=show, unit="patch") as bar:
        for s in batches(len(index), batch_size):
            start = torch.from_numpy(noise(seed, index[s], central.latent_shape))
            z = nn.sample(
                model,
                central.scheduler,
                start,
                steps=steps,
                modulation=modulation,
                condition=None if condition is None else condition[s],
                guidance=guidance,
            )
            out[s] = central.decode(z, batch_size=batch_size)
            bar.update(s.stop - s.start)
    return out


def _denoiser_folder(denoiser: nn.Module) -> str:
    return "unet" if "UNet" in type(denoiser).__name__ else "transformer"


def _check_asked(what: str, mpp: float, patch_px: int, asked_mpp: float | None, asked_px: int | None) -> None:
    if asked_mpp not in (None, mpp) or asked_px not in (None, patch_px):
        raise ValueError(
            f"{what} is of patches of {patch_px} px at {mpp:g} um/px; mpp={asked_mpp!r}, patch_px={asked_px!r} is not "
            "for it. Leave them out: they are for directories that do not say their scale."
        )


def load_directory(path: Path, *, name: str, mpp: float | None = None, patch_px: int | None = None) -> CentralModel:
    """Load a directory strictly; see :meth:`CentralModel.from_pretrained`."""
    import diffusers

    check_directory(path, "model_index.json")
    index = read_json(path / "model_index.json")
    card = read_json(path / CARD, "mpp", "patch_px") if (path / CARD).is_file() else {}
    loaded = {}
    for role, names in (("tokenizer", TOKENIZERS), ("denoiser", DENOISERS), ("scheduler", SCHEDULERS)):
        found = [
            (folder, entry[1])
            for folder, entry in index.items()
            if isinstance(entry, list) and len(entry) == 2 and entry[1] in names
        ]
        if len(found) != 1:
            classes = {k: v[1] for k, v in index.items() if isinstance(v, list) and len(v) == 2}
            raise ValueError(
                f"{path} must name one {role} among {listing(names)} in model_index.json; it names {classes}."
            )
        folder, class_name = found[0]
        if Path(folder).name != folder:
            raise ValueError(f"{path}/model_index.json names the folder {folder!r}, which is no plain name.")
        kind = getattr(diffusers, class_name)
        if role == "scheduler":
            check_directory(path / folder, "scheduler_config.json")
            loaded[role] = kind.from_config(read_json(path / folder / "scheduler_config.json"))
            continue
        check_directory(path / folder, "config.json", WEIGHTS)
        config = read_json(path / folder / "config.json", "_class_name")
        if config["_class_name"] != class_name:
            raise ValueError(
                f"{path / folder} is a {config['_class_name']}, but model_index.json calls it a {class_name}."
            )
        module = kind.from_config(config)
        load_strictly(module, read_tensors(path / folder / WEIGHTS), path / folder / WEIGHTS)
        loaded[role] = module
    if card:
        _check_asked(f"{path}", card["mpp"], card["patch_px"], mpp, patch_px)
        mpp, patch_px = card["mpp"], card["patch_px"]
    if mpp is None:
        raise ValueError(f"{path} does not say its microns per pixel; pass CentralModel.from_pretrained(..., mpp=).")
    if patch_px is None:
        side = loaded["denoiser"].config.sample_size
        if not isinstance(side, int):
            raise ValueError(
                f"{path} does not say the side of a patch (sample_size={side!r}); pass "
                "CentralModel.from_pretrained(..., patch_px=)."
            )
        patch_px = side * 2 ** (len(loaded["tokenizer"].config.get("block_out_channels", [0] * 4)) - 1)
    return CentralModel(**loaded, mpp=mpp, patch_px=patch_px, card=card, name=name)
