from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from c2lst._checks import check_patches, check_positive
from c2lst._docs import doc
from c2lst._logging import logger
from c2lst._random import derive, generator

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from c2lst.models import CentralModel

TOKENIZER = {"latent_channels": 4, "channels": (16, 32, 64)}
DENOISER = {"width": 256, "depth": 6, "heads": 4}


@doc
def pretrain(
    patches: NDArray[np.uint8] | Any,
    *,
    mpp: float,
    steps: int = 4000,
    tokenizer_steps: int | None = None,
    batch_size: int = 64,
    lr: float = 6e-4,
    tokenizer: dict[str, Any] | CentralModel | None = None,
    denoiser: dict[str, Any] | None = None,
    validation: NDArray[np.uint8] | float = 0.05,
    card: dict[str, Any] | None = None,
    accelerator: str = "auto",
    devices: int | str = 1,
    strategy: str = "auto",
    num_nodes: int = 1,
    precision: str | None = None,
    max_minutes: float | None = None,
    resume: str | Path | None = None,
    out: str | Path | None = None,
    seed: int = 0,
    progress: bool | None = None,
) -> CentralModel:
    """Pretrain a central model on unpaired H&E: the tokenizer first, then the denoiser on its cached latents.

    Parameters
    ----------
    patches
        uint8 `(n, H, W, 3)` in memory, a zarr store of them (:func:`c2lst.io.read_patches`), or a list of either;
        see :func:`c2lst.pp.tissue_patches`.
    mpp
        Microns per pixel of `patches`.
    steps
        Steps of the denoiser.
    tokenizer_steps
        Steps of the tokenizer; `None` is half of `steps`.
    tokenizer
        Settings for :func:`c2lst.nn.make_tokenizer`, or a central model whose tokenizer is taken as it is.
    denoiser
        Settings for :func:`c2lst.nn.make_denoiser`.
    validation
        Held-out patches, or the share of `patches` (its last rows, so that neighbours stay together) that is held out.
    card
        What the model card shall say beyond what this function knows: `data`, `licence`, `limits`, ...
    {engine}
    max_minutes
        Stop after so long, wherever the schedule is (the tokenizer gets half of it); `None` takes all steps.
    resume
        Directory of checkpoints of an interrupted run to go on with; usually the `checkpoints` folder under `out`.
    out
        Directory that receives checkpoints while training and the finished model.
    {seed}
    {progress}

    Returns
    -------
    The central model. Its card holds the curves; :func:`c2lst.pl.training` draws them.

    Raises
    ------
    ValueError, TypeError
        The patches are not uint8 `(n, H, W, 3)`, are fewer than 16, or their side is no multiple of 8.

    Examples
    --------
    >>> import c2lst as c2l
    >>> patches = c2l.pp.tissue_patches(c2l.datasets.toy_tissue(40), 32, mpp=4.0, patch_px=32)
    >>> central = c2l.tl.pretrain(patches, mpp=4.0, steps=2, batch_size=8, progress=False)
    >>> central.patch_px
    32
    """
    import torch
    from diffusers import FlowMatchEulerDiscreteScheduler

    from c2lst import nn
    from c2lst.models import CentralModel
    from c2lst.models._registry import remember
    from c2lst.train import DenoiserPlan, Pool, TokenizerPlan, fit

    begun = time.monotonic()
    # a store as `io.read_patches` returns it is a named tuple, not a list of parts
    parts = patches if isinstance(patches, list | tuple) and not hasattr(patches, "patches") else [patches]
    parts = [check_patches(getattr(p, "patches", p)) for p in parts]
    check_positive("mpp", mpp)
    check_positive("steps", steps, integer=True)
    check_positive("batch_size", batch_size, integer=True)
    if max_minutes is not None:
        check_positive("max_minutes", max_minutes)
    sides = {tuple(p.shape[1:3]) for p in parts}
    if len(sides) > 1 or len(set(next(iter(sides)))) > 1:
        raise ValueError(f"All patches must be square and of one size, not {sorted(sides)}.")
    patch_px = next(iter(sides))[0]
    if patch_px % 8:
        raise ValueError(f"The side of a patch must be a multiple of 8 px, not {patch_px}.")
    pool = Pool(parts)
    if len(pool) < 16:
        raise ValueError(f"{len(pool)} patches are too few to pretrain on; take more from c2lst.pp.tissue_patches.")
    n = len(pool)
    if isinstance(validation, float):
        cut = np.arange(n) >= n - max(4, round(validation * n))
        train_rows, held_rows = np.flatnonzero(~cut), np.flatnonzero(cut)
        held = pool.take(held_rows[:1000])
        train = Pool([p[: max(0, min(len(p), len(train_rows) - s))] for p, s in zip(parts, pool.starts, strict=False)])
        train.parts = [p for p in train.parts if len(p)]
        train = Pool(train.parts)
    else:
        held, train = check_patches(validation, "validation"), pool

    checkpoint = None if out is None and resume is None else Path(resume or Path(out) / "checkpoints")
    engine = {
        "accelerator": accelerator,
        "devices": devices,
        "strategy": strategy,
        "num_nodes": num_nodes,
        "precision": precision,
        "progress": progress,
    }

    def at(stage: str) -> Path | None:
        return None if checkpoint is None else checkpoint / stage

    curves: dict[str, Any] = {}
    if isinstance(tokenizer, CentralModel):
        tok = tokenizer.tokenizer
        tok_steps = 0
    else:
        tok_steps = steps // 2 if tokenizer_steps is None else tokenizer_steps
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive(seed, 1))
            tok = nn.make_tokenizer(**{**TOKENIZER, "patch_px": patch_px, **(tokenizer or {})})
        plan = TokenizerPlan(
            tok, train, steps=max(1, tok_steps), batch_size=min(batch_size, 32), lr=1.5e-3, seed=derive(seed, 2)
        )
        share = None if max_minutes is None else max_minutes / 2
        fit(plan, desc="tokenizer", checkpoint=at("tokenizer"), max_minutes=share, **engine)
        curves["tokenizer"] = _thin(plan.losses)
    tok.requires_grad_(False).eval()

    with torch.inference_mode():

        def raw(rows: NDArray[np.uint8]) -> torch.Tensor:
            return tok.encode(nn.to_tensor(rows)).latent_dist.mode()

        if tok_steps:
            few = generator(seed, 3).permutation(len(train))[:2000]
            nn.set_latent_scale(tok, torch.cat([raw(train.take(few[i : i + 128])) for i in range(0, len(few), 128)]))

        def latents(source: Any, turned: bool) -> torch.Tensor:
            # the whole pool in its 8 turns and flips, half precision: 4,000 patches of 64 px are 49 MB
            rows = []
            for i in range(0, len(source), 128):
                x = nn.to_tensor(source.take(np.arange(i, min(i + 128, len(source)))))
                for k, flip in [(k, f) for k in range(4) for f in (False, True)] if turned else [(0, False)]:
                    y = torch.rot90(x, k, (2, 3))
                    rows.append(nn.encode(tok, y.flip(3) if flip else y).half())
            return torch.cat(rows)

        cached = latents(train, True)
        held_latents = latents(Pool([held]), False).float().clone()
    cached = cached.clone()

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, 4))
        side = cached.shape[-1]
        # 64 to 255 tokens a patch where the side allows it
        token_px = max(t for t in (1, 2, 4, 8) if side % t == 0 and (t == 1 or side // t >= 8))
        given = {"latent_channels": cached.shape[1], "latent_px": side, "token_px": token_px}
        den = nn.make_denoiser(**{**DENOISER, **given, **(denoiser or {})})
    scheduler = FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000)
    plan = DenoiserPlan(
        den,
        scheduler,
        cached,
        held_out=held_latents,
        ema=0.999 if steps >= 2000 else 0.99,
        check_every=max(1, steps // 20),
        steps=steps,
        batch_size=batch_size,
        lr=lr,
        seed=derive(seed, 5),
    )
    left = None if max_minutes is None else max(0.1, max_minutes - (time.monotonic() - begun) / 60)
    fit(plan, desc="denoiser", checkpoint=at("denoiser"), max_minutes=left, **engine)
    curves |= {"denoiser": _thin(plan.losses), "validation": [list(v) for v in plan.validation]}
    with torch.inference_mode():
        shown = nn.decode(tok, held_latents[:256]).clamp(-1, 1)
        error = (shown - nn.to_tensor(held[: len(shown)])).div(2).square().mean(dim=(1, 2, 3))
    central = CentralModel(
        tok,
        plan.average,
        scheduler,
        mpp=mpp,
        patch_px=patch_px,
        name="pretrained",
        card={
            "data": "not said",
            "licence": "not said",
            "n_patches": len(train),
            "n_held_out": len(held),
            "steps": int(plan.step),
            "tokenizer_steps": int(tok_steps),
            "batch_size": int(batch_size),
            "seed": int(seed),
            "minutes": round((time.monotonic() - begun) / 60, 2),
            "psnr_held_out_db": round(float((-10 * error.clamp_min(1e-8).log10()).mean()), 2),
            "curves": curves,
            **(card or {}),
        },
    )
    logger.info("Pretrained in %.1f min; tokenizer %.1f dB.", central.card["minutes"], central.card["psnr_held_out_db"])
    if out is not None:
        central.save_pretrained(Path(out) / "model", overwrite=True)
    return remember(central)


def _thin(values: list[float], keep: int = 200) -> list[float]:
    """Average a curve down to at most `keep` points."""
    parts = np.array_split(np.asarray(values, dtype=float), min(keep, max(1, len(values))))
    return [round(float(p.mean()), 5) for p in parts if len(p)]
