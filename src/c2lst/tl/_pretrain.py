from __future__ import annotations

import copy
import hashlib
import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from c2lst._checks import check_fraction, check_positive
from c2lst._docs import doc
from c2lst._logging import logger
from c2lst._random import derive, generator

if TYPE_CHECKING:
    import torch

    from c2lst.models import CentralModel
    from c2lst.nn import Guide
    from c2lst.train import Bar, Pool

TOKENIZERS = {
    "dc": {"latent_channels": 4, "channels": (64, 64, 128), "layers": (0, 2, 2)},
    "kl": {"latent_channels": 4, "channels": (16, 32, 64)},
}
DENOISERS = {
    "unet": {"channels": (64, 128, 192), "layers": 1},
    "dit": {"width": 256, "depth": 6, "heads": 4},
}
GUIDES = {"unet": {"channels": (32, 32, 64), "layers": 1}, "dit": {"width": 128, "depth": 3, "heads": 4}}
DECODER = {
    "noise": 0.1, "density": 0.5, "adversarial": 2.0, "matching": 6.0, "cropped": 1.0, "kl": 0.0,
    "spectrum": 0.1, "grid": 0.3, "texture": 3.0, "keep_grey": 0.0, "ema": 0.995,
}  # fmt: skip
DRAWN, DRAWN_STEPS = 1024, 20  # samples that the decoder learns on beside real patches, and solver steps of each
NEON = {"samples": 2048, "weight": 1.0, "batch_size": 32, "lr": 1e-4, "ema": 0.98}
# settings of a tokenizer's training, not of its network
OBJECTIVE = (
    "kl", "noise", "coarse", "cropped", "density", "adversarial", "matching", "spectrum", "grid", "texture", "schedule",
)  # fmt: skip


@doc
def pretrain(
    patches: Any,
    *,
    mpp: float,
    steps: int = 2000,
    tokenizer_steps: int | None = None,
    decoder_steps: int = 0,
    decoder_kwargs: dict[str, Any] | None = None,
    batch_size: int = 32,
    lr: float = 6e-4,
    schedule: str = "cosine",
    ema: float | None = None,
    time_shift: float = 1.0,
    time_even: float = 0.0,
    clip: float | None = 1.0,
    tokenizer: dict[str, Any] | CentralModel | None = None,
    denoiser: dict[str, Any] | None = None,
    neon_steps: int = 0,
    neon_kwargs: dict[str, Any] | None = None,
    guide_steps: int = 0,
    guide: dict[str, Any] | None = None,
    autoguidance: float = 1.15,
    init: CentralModel | str | Path | None = None,
    patch_px: int | None = None,
    n_per_section: int | None = None,
    tissue_kwargs: dict[str, Any] | None = None,
    validation: Any = 0.05,
    card: dict[str, Any] | None = None,
    accelerator: str = "auto",
    devices: int | str = 1,
    strategy: str = "auto",
    num_nodes: int = 1,
    precision: str | None = None,
    compile: bool = False,
    max_minutes: float | None = None,
    max_ram_gb: float = 4.0,
    checkpoint_every: int = 500,
    resume: str | Path | None = None,
    out: str | Path | None = None,
    seed: int = 0,
    progress: bool | None = None,
) -> CentralModel:
    """Pretrain a central model on unpaired H&E: the tokenizer first, then the denoiser on its cached latents.

    Parameters
    ----------
    patches
        uint8 `(n, H, W, 3)` in memory, a zarr store of them (its path, or what :func:`c2lst.io.read_patches` returns),
        a :class:`~spatialdata.SpatialData`, from whose tissue windows are cut as :func:`c2lst.pp.tissue_patches` does,
        or a list of any of these.
    mpp
        Microns per pixel of `patches`, and of what is cut from a SpatialData.
    steps
        Steps of the denoiser; 0, with `init`, begins with what comes after it.
    tokenizer_steps
        Steps of the tokenizer; `None` is half of `steps`, or as in the checkpoint that is found, or none with `init`.
    decoder_steps
        Steps in which, at the very end, the tokenizer's decoder alone learns on, sharper and with less noise, on real
        patches and on samples of the denoiser, and an average of its weights is kept; latents and denoiser stay as
        they are.
    decoder_kwargs
        What of that stage shall differ: `batch_size` (as above, 32 at most, by default), `lr`, `noise`, `cropped`, `ema`, or the
        weights of its losses, `density`, `adversarial`, `matching`, `spectrum`, `grid` and `texture`. `keep_grey`, none by
        default, is for a decoder (of `init`, say) whose grey is good and whose hues are not: above 0, 10 say, hues alone learn.
    batch_size
        Patches of a step, in each process: with two devices a step sees twice as many.
    lr
        Peak learning rate of the denoiser.
    schedule
        Of the learning rate, after a warm-up: `"cosine"` to a tenth, or `"trapezoid"`, flat and then on a line to nothing
        over the last fifth. A trapezoid can be made longer afterwards, see `resume`.
    ema
        Decay of the moving average of the denoiser's weights, which is what is returned; `None` is 0.999, or 0.99 for
        fewer than 2,000 steps.
    time_shift
        Multiplies the odds of the times at which the denoiser learns: above 1 it leans on noisy latents, where what kind
        of tissue a patch becomes is decided (Esser et al. 2024).
    time_even
        Share of times that are drawn evenly instead, 0 to 1. The others come within a twentieth of pure noise, where every
        sample begins, once in 600 draws (once in 80 with `time_shift=2`).
    clip
        Largest norm of the gradient; `None` does not clip.
    tokenizer
        Settings for :func:`c2lst.nn.make_tokenizer` (and, beside them, `kl`, `noise`, `coarse`, `cropped`, `density`,
        `adversarial`, `matching`, `spectrum`, `grid`, `texture` and `schedule` of its training), or a central model whose
        tokenizer is taken as it is. `None` is the starter's, of kind `"dc"`.
    denoiser
        Settings for :func:`c2lst.nn.make_denoiser`. `None` is the starter's UNet.
    neon_steps
        Steps in which a copy of the finished denoiser learns from latents that the denoiser itself draws, and so gets worse the
        way that its samples are wrong; the denoiser is then moved the other way (negative extrapolation, Alemohammad et al. 2025).
        0 does not. Some hundred are a start. What they gain differs from run to run: look at samples before a model is kept.
    neon_kwargs
        What of that stage shall differ: `samples` (2,048), how many are drawn; `weight` (1), how far the denoiser is moved
        away, in units of what the copy moved; `batch_size` (32), `lr` (1e-4) and `ema` (.98) of the copy.
    guide_steps
        Steps of a guide, a smaller denoiser on the same latents, from nothing; 0 trains none. Samples then keep away from
        what it would do (Karras et al. 2024). It should be clearly worse than the denoiser: a tenth of its steps or less.
    guide
        Settings of the guide for :func:`c2lst.nn.make_denoiser`, beside `batch_size` and `lr`. `None` is a network of the
        denoiser's kind, with about an eighth of the parameters that one has by default.
    autoguidance
        How far samples keep away from the guide: what the denoiser says more than it is multiplied by this; the starter
        draws with 1.2. A guide that is nearly as good as the denoiser bears 2 and more. Choose it by what samples look like
        beside real tissue (:func:`c2lst.tl.embedding_overlap`).
    init
        A central model, or what :meth:`c2lst.models.CentralModel.from_pretrained` takes, that is trained on, say the
        starter on slides of your own laboratory: the denoiser begins where its denoiser is. Its tokenizer is taken as it
        is, or, with `tokenizer_steps`, trained on too. Scale and side of the patches must be the same. With
        `tokenizer={"latent_channels": n}` beside it, more than the model has, latents are added for detail: the former
        ones stay as they are, so that the denoiser has only the new ones to learn (a tokenizer of kind `"dc"` and a UNet).
        A guide that the model has is kept where neither tokenizer nor denoiser is changed.
    patch_px
        Side of a patch that is cut from a SpatialData; `None` is that of the other patches, or 64.
    n_per_section
        Windows of each SpatialData, at random places of its tissue; `None` is a disjoint grid over all of it.
    tissue_kwargs
        What else :func:`c2lst.pp.tissue_patches` shall be told (`min_tissue`, `exclude`, `source_mpp`, ...).
    validation
        Held-out tissue, in any form that `patches` may have, or the share of `patches` that is held out. Of a
        SpatialData it is the windows at one end of the tissue, and those within one field of view of them are not
        trained on; of rows, whose places nobody knows, it is the last ones, so that neighbours stay together. At most
        1,000 patches are looked at.
    card
        What the model card shall say beyond what this function knows: `data`, `licence`, `limits`, ...
    {engine}
    num_nodes, precision
        Passed to it as well. `precision=None` is bf16 autocast where the processor or GPU has it, and float32 elsewhere.
        Several processes draw different batches, share one cache of latents, which the first of them encodes, and write
        one checkpoint; strategies must keep all weights in each process (`"ddp"`). Several nodes need an `out` that all
        of them see.
    compile
        Whether :func:`torch.compile` fuses the denoiser's training: a minute at the start, faster steps on a GPU. It needs a
        compiler on the machine, and rounds in another order.
    max_minutes
        Stop training after so long, wherever the schedule is (the tokenizer gets half of it); `None` takes all steps. What
        comes after the denoiser (`neon_steps`, guide and decoder) takes its steps. All sittings count, but not what was
        lost since the last checkpoint. A tokenizer that was stopped so is final; the denoiser goes on when it is called again with more minutes.
    max_ram_gb
        Patches in stores are read into memory once, up to so much; of a larger collection the tokenizer sees as many
        runs of neighbouring rows, and the denoiser all.
    checkpoint_every
        Steps between two checkpoints.
    resume
        Directory of checkpoints to go on with, usually the `checkpoints` folder under `out`. With `out` alone a run
        goes on from what it finds there. The result is that of a run that was never interrupted, to the bit, on the
        same engine of processor cores (kernels of a GPU may add up in another order each time). Every setting must be as it was, but for more `steps`: a finished model is trained on. A trapezoid
        goes back to where its rate began to fall and becomes the longer one; a cosine rises again to where the longer
        one stands at that step.
    out
        Directory that receives `checkpoints` while training (the latents among them, 16 bytes for each value of a patch) and
        the finished `model`.
    {seed}
    {progress}

    Returns
    -------
    The central model. Its card holds the curves, with those of the held-out tissue: the PSNR of the tokenizer in dB and
    the loss of the denoiser's average; :func:`c2lst.pl.training` draws them.

    Raises
    ------
    ValueError, TypeError
        The patches are not uint8 `(n, H, W, 3)`, are fewer than 16, are of another scale than `mpp` or `init`, their side
        is no multiple of 8, networks are asked for beside `init`, or the checkpoint is of other settings, which are named.
    FileNotFoundError
        There is no directory `resume`.
    FloatingPointError
        Training has diverged: its loss is no number any more.

    Examples
    --------
    >>> import c2lst as c2l
    >>> sections = c2l.datasets.toy_tissue(40, sections=2)
    >>> central = c2l.tl.pretrain(
    ...     sections, mpp=4.0, patch_px=16, n_per_section=32, steps=2, batch_size=8, progress=False
    ... )
    >>> central.patch_px, central.card["n_patches"] > central.card["n_held_out"] > 0
    (16, True)
    """
    import torch
    from diffusers import FlowMatchEulerDiscreteScheduler
    from lightning.pytorch.utilities import rank_zero_only

    from c2lst import nn
    from c2lst.models import CentralModel
    from c2lst.models._registry import remember
    from c2lst.train import Bar, DenoiserPlan, Latents, Pool, TokenizerPlan, fit, read_note

    from ._pretrain_data import gather, in_memory

    begun = time.monotonic()
    check_positive("mpp", mpp)
    if steps or init is None:
        check_positive("steps", steps, integer=True)
    check_positive("batch_size", batch_size, integer=True)
    check_positive("lr", lr)
    if decoder_steps:
        check_positive("decoder_steps", decoder_steps, integer=True)
    decoder_plan = {"batch_size": min(batch_size, 32), "lr": 4e-4, **DECODER}
    if unknown := set(decoder_kwargs or {}) - set(decoder_plan):
        raise ValueError(f"decoder_kwargs holds {sorted(unknown)}; it may hold {', '.join(sorted(decoder_plan))}.")
    decoder_plan |= {"decoder_only": True, **(decoder_kwargs or {})}
    check_positive("batch_size of decoder_kwargs", decoder_plan["batch_size"], integer=True)
    if unknown := set(neon_kwargs or {}) - set(NEON):
        raise ValueError(f"neon_kwargs holds {sorted(unknown)}; it may hold {', '.join(NEON)}.")
    neon = {**NEON, **(neon_kwargs or {})}
    if neon_steps:
        check_positive("neon_steps", neon_steps, integer=True)
        for name in ("samples", "batch_size"):
            check_positive(f"{name} of neon_kwargs", neon[name], integer=True)
        for name in ("weight", "lr"):
            check_positive(f"{name} of neon_kwargs", neon[name])
        check_fraction("ema of neon_kwargs", neon["ema"], zero=True)
    elif neon_kwargs is not None:
        raise ValueError(
            "neon_kwargs= says how the denoiser shall be moved away from its own samples: pass neon_steps= too."
        )
    guide_plan = {"batch_size": batch_size, "lr": lr}
    if guide_steps:
        check_positive("guide_steps", guide_steps, integer=True)
        check_positive("autoguidance", autoguidance)
        guide = dict(guide or {})
        guide_plan |= {k: guide.pop(k) for k in guide_plan if k in guide}
        check_positive("batch_size of guide", guide_plan["batch_size"], integer=True)
        check_positive("lr of guide", guide_plan["lr"])
    elif guide is not None:
        raise ValueError("guide= says what a guide shall be like: pass guide_steps= too.")
    check_positive("checkpoint_every", checkpoint_every, integer=True)
    check_positive("max_ram_gb", max_ram_gb)
    if ema is not None:
        check_fraction("ema", ema, zero=True)
    check_positive("time_shift", time_shift)
    check_fraction("time_even", time_even, zero=True)
    if clip is not None:
        check_positive("clip", clip)
    if max_minutes is not None:
        check_positive("max_minutes", max_minutes)
    if num_nodes > 1 and out is None and resume is None:
        raise ValueError(
            f"num_nodes={num_nodes} needs out=, a directory that all nodes see: the latents are shared there."
        )
    begin = _begin(init, mpp, patch_px, tokenizer, denoiser)
    grown = 0 if begin is None else int((tokenizer or {}).get("latent_channels", 0))
    if grown and not tokenizer_steps:
        raise ValueError(
            "More latent_channels than init has mean nothing until they are trained: pass tokenizer_steps=."
        )
    if begin is not None and patch_px is None:
        patch_px = begin.patch_px
    folder = _checkpoints(resume, out)
    finished = None if out is None else Path(out) / "model"
    if finished is not None and finished.exists() and resume is None and not any(folder.rglob("state.safetensors")):
        raise ValueError(
            f"{finished} holds a finished model, whose checkpoints are gone: it would be replaced by another. Pass another out=."
        )
    tissue = gather(
        patches,
        mpp=mpp,
        patch_px=patch_px,
        n_per_section=n_per_section,
        validation=validation,
        tissue_kwargs=tissue_kwargs,
        seed=seed,
    )
    train, held, patch_px = tissue.train, tissue.held, tissue.patch_px
    pixels = in_memory(train, max_ram_gb, seed)
    if len(pixels) == len(train):
        train = pixels
    data, apart = train.fingerprint(), Pool([held]).fingerprint()
    seen = data if pixels is train else pixels.fingerprint()  # of a large store the tokenizer sees a part

    def at(stage: str) -> Path | None:
        return None if folder is None else folder / stage

    def before(stage: str) -> float:
        """Return the seconds that earlier sittings spent on a stage."""
        note = read_note(at(stage))
        return 0.0 if note is None else float(note["seconds"])

    origin = {} if begin is None else {"init": begin.hash}
    engine = {
        "accelerator": accelerator,
        "devices": devices,
        "strategy": strategy,
        "num_nodes": num_nodes,
        "precision": precision,
        "clip": clip,
        "every": checkpoint_every,
    }
    curves: dict[str, Any] = {}
    given = isinstance(tokenizer, CentralModel) or (begin is not None and not tokenizer_steps)
    if given:
        tok, tok_steps = (begin or tokenizer).tokenizer, 0
    else:
        note = read_note(at("tokenizer"))
        if tokenizer_steps is not None:
            tok_steps = max(1, tokenizer_steps)
        else:
            tok_steps = max(1, steps // 2) if note is None else int(note["settings"]["steps"])
        asked = dict(tokenizer or {})
        objective = {k: asked.pop(k) for k in OBJECTIVE if k in asked}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive(seed, 1))
            if grown:
                tok = nn.grow_tokenizer(begin.tokenizer, grown).requires_grad_(True)
                objective["keep"] = begin.tokenizer.config.latent_channels
            elif begin is not None:
                tok = copy.deepcopy(begin.tokenizer).float().requires_grad_(True)
            else:
                tok = nn.make_tokenizer(**{"patch_px": patch_px, **_filled(asked or None, TOKENIZERS, "dc", "kl")})
    n_drawn = min(DRAWN, decoder_steps * decoder_plan["batch_size"])
    n_encoded = -(-len(train) // 128) if steps or guide_steps else 0
    n_own = neon["samples"] if neon_steps else 0
    n_batches = -(-n_drawn // 64) + -(-n_own // 64)
    bar = Bar(tok_steps + n_encoded + steps + neon_steps + guide_steps + n_batches + decoder_steps, progress)
    try:
        spent = 0.0
        if not given:
            plan = TokenizerPlan(
                tok,
                pixels,
                held_out=held[:: max(1, len(held) // 128)],
                check_every=max(1, tok_steps // 10),
                steps=tok_steps,
                batch_size=min(batch_size, 32),
                lr=1.5e-3,
                seed=derive(seed, 2),
                **{"schedule": schedule, **objective},
            )
            sitting = time.monotonic()
            fit(
                plan,
                desc="tokenizer",
                checkpoint=at("tokenizer"),
                settings={"patches": seen, "held": apart, "mpp": float(mpp), **origin, **_config("tokenizer", tok)},
                extend=False,
                max_minutes=None if max_minutes is None else max_minutes / 2,
                bar=bar,
                **engine,
            )
            # time of this sitting is counted below, that of earlier ones here
            spent = plan.seconds - (time.monotonic() - sitting)
            curves |= {"tokenizer": _thin(plan.losses), "tokenizer_validation": [list(v) for v in plan.validation]}
            tok_steps = plan.step
        tok.requires_grad_(False).eval()
        weights = _digest(tok)
        if not given:
            _set_scale(tok, pixels, weights, folder, seed, first=rank_zero_only.rank in (None, 0))
            if grown:
                _keep_scale(tok, begin.tokenizer)
        latents = Latents(tok, train, hashlib.sha256(f"{_digest(tok)} {data}".encode()).hexdigest()[:16], folder=folder)
        with torch.inference_mode():
            held_latents = torch.cat(
                [nn.encode(tok, nn.to_tensor(held[i : i + 128])) for i in range(0, len(held), 128)]
            ).clone()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive(seed, 4))
            side = latents.shape[-1]
            # 64 to 255 tokens a patch where the side allows it
            token_px = max(t for t in (1, 2, 4, 8) if side % t == 0 and (t == 1 or side // t >= 8))
            sized = {"latent_channels": latents.shape[1], "latent_px": side, "token_px": token_px}
            # a UNet halves its latents twice
            usual = "dit" if side % 4 else "unet"
            if grown:
                den = nn.grow_denoiser(begin.denoiser, grown)
            elif begin is not None:
                den = copy.deepcopy(begin.denoiser).float().requires_grad_(True)
            else:
                den = nn.make_denoiser(**{**sized, **_filled(denoiser, DENOISERS, usual, "dit")})
        scheduler = FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000) if begin is None else begin.scheduler
        note = read_note(at("denoiser"))
        if ema is None:
            ema = (0.999 if steps >= 2000 else 0.99) if note is None else float(note["settings"]["ema"])
        plan = DenoiserPlan(
            den,
            scheduler,
            latents,
            held_out=held_latents,
            ema=ema,
            time_shift=time_shift,
            time_even=time_even,
            check_every=max(1, steps // 20),
            steps=steps,
            batch_size=batch_size,
            lr=lr,
            seed=derive(seed, 5),
            schedule=schedule,
        )
        if compile:
            den.compile()
        left = None
        if max_minutes is not None:
            left = max(0.1, max_minutes - (spent + time.monotonic() - begun) / 60)
        spent += before("denoiser")
        fit(
            plan,
            desc="denoiser",
            checkpoint=at("denoiser"),
            settings={"latents": latents.key, "held": apart, **origin, **_config("denoiser", den)},
            max_minutes=left,
            bar=bar,
            **engine,
        )
        strong = plan.average
        if neon_steps:
            begun_from = _digest(strong)[:16]
            own = _drawn(strong, scheduler, latents.shape[1:], n_own, begun_from, at("own"), derive(seed, 10), bar)
            worse = DenoiserPlan(
                copy.deepcopy(strong).requires_grad_(True),
                scheduler,
                own,
                held_out=held_latents,
                ema=neon["ema"],
                time_shift=time_shift,
                time_even=time_even,
                check_every=max(1, neon_steps // 10),
                steps=neon_steps,
                batch_size=neon["batch_size"],
                lr=neon["lr"],
                weight_decay=0.0,  # or the way back would make weights larger that nothing speaks against
                seed=derive(seed, 11),
                schedule=schedule,
            )
            spent += before(f"neon-{begun_from}")
            fit(
                worse,
                desc="neon",
                # a denoiser that was trained on has other samples: this then begins again
                checkpoint=at(f"neon-{begun_from}"),
                settings={"samples": f"{begun_from} {n_own}", "held": apart},
                extend=False,
                bar=bar,
                **engine,
            )
            strong = nn.extrapolate(strong, worse.average, neon["weight"]).requires_grad_(False).eval()
            curves |= {"neon": _thin(worse.losses), "neon_validation": [list(v) for v in worse.validation]}
        weak = None
        if guide_steps:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(derive(seed, 8))
                like = "unet" if "UNet" in type(den).__name__ and usual == "unet" else "dit"
                weak = nn.make_denoiser(**{**sized, **_filled(guide or None, GUIDES, like, like)})
            weaker = DenoiserPlan(
                weak,
                scheduler,
                latents,
                held_out=held_latents,
                ema=0.999 if guide_steps >= 2000 else 0.99,
                time_shift=time_shift,
                time_even=time_even,
                check_every=max(1, guide_steps // 20),
                steps=guide_steps,
                seed=derive(seed, 9),
                schedule=schedule,
                **guide_plan,
            )
            spent += before("guide")
            fit(
                weaker,
                desc="guide",
                checkpoint=at("guide"),
                settings={"latents": latents.key, "held": apart, **_config("guide", weak)},
                bar=bar,
                **engine,
            )
            weak = weaker.average
            curves |= {"guide": _thin(weaker.losses), "guide_validation": [list(v) for v in weaker.validation]}
        elif begin is not None and begin.guide is not None:
            if steps or neon_steps or not given:
                logger.warning(
                    "init has a guide, which belongs to its own latents and denoiser: what is trained on here draws "
                    "without one. Pass guide_steps= to train another."
                )
            else:
                weak, autoguidance = begin.guide, begin.autoguidance
        if decoder_steps:
            # a copy: the tokenizer may be another model's
            tok = copy.deepcopy(tok)
            judged = _digest(strong)[:16]
            kept_from = None if weak is None else nn.Guide(strong, weak, autoguidance)
            if kept_from is not None:
                told = f"{judged} {_digest(weak)} {autoguidance!r}"
                judged = hashlib.sha256(told.encode()).hexdigest()[:16]
            drawn = _drawn(
                strong, scheduler, latents.shape[1:], n_drawn, judged, at("drawn"), derive(seed, 7), bar, kept_from
            )
            decoder = TokenizerPlan(
                tok.requires_grad_(True),
                pixels,
                held_out=held[:: max(1, len(held) // 128)],
                check_every=max(1, decoder_steps // 10),
                steps=decoder_steps,
                seed=derive(seed, 6),
                drawn=drawn,
                **decoder_plan,
            )
            spent += before(f"decoder-{judged}")
            fit(
                decoder,
                desc="decoder",
                # a denoiser that was trained on has other samples: the decoder then begins again
                checkpoint=at(f"decoder-{judged}"),
                settings={"latents": latents.key, "patches": seen, "held": apart, "samples": judged},
                extend=False,
                bar=bar,
                **engine,
            )
            tok = decoder.average.eval()
            curves |= {"decoder": _thin(decoder.losses), "decoder_validation": [list(v) for v in decoder.validation]}
    finally:
        bar.close()
    curves |= {"denoiser": _thin(plan.losses), "validation": [list(v) for v in plan.validation]}
    with torch.inference_mode():
        shown = nn.decode(tok, held_latents[:256]).clamp(-1, 1)
        error = (shown - nn.to_tensor(held[: len(shown)])).div(2).square().mean(dim=(1, 2, 3))
    central = CentralModel(
        tok,
        strong,
        scheduler,
        mpp=mpp,
        patch_px=patch_px,
        name="pretrained",
        guide=weak,
        autoguidance=1.0 if weak is None else autoguidance,
        card={
            "data": "not said",
            "licence": "not said",
            "n_patches": len(train),
            "n_held_out": len(held),
            "held_out": tissue.held_is,
            "steps": int(plan.step),
            "tokenizer_steps": int(tok_steps),
            "decoder_steps": int(decoder_steps),
            **({"neon_steps": int(neon_steps), "neon": neon} if neon_steps else {}),
            **({"guide_steps": int(guide_steps)} if guide_steps else {}),
            "batch_size": int(batch_size),
            "schedule": schedule,
            "ema": float(ema),
            "time_shift": float(time_shift),
            "time_even": float(time_even),
            "seed": int(seed),
            "minutes": round((spent + time.monotonic() - begun) / 60, 2),
            "psnr_held_out_db": round(float((-10 * error.clamp_min(1e-8).log10()).mean()), 2),
            "curves": curves,
            **({} if begin is None else {"init": {"hash": begin.hash, **_told(begin)}}),
            **(card or {}),
        },
    )
    if rank_zero_only.rank in (None, 0):
        logger.info(
            "Pretrained in %.1f min; tokenizer %.1f dB.", central.card["minutes"], central.card["psnr_held_out_db"]
        )
        if out is not None:
            central.save_pretrained(Path(out) / "model", overwrite=True)
    return remember(central)


def _begin(init: Any, mpp: float, patch_px: int | None, tokenizer: Any, denoiser: Any) -> CentralModel | None:
    """Load the model to be trained on, if any; what is asked for beside it must not contradict it."""
    from c2lst.models import CentralModel

    if init is None:
        return None
    known = {*OBJECTIVE, "latent_channels"}
    if denoiser is not None or isinstance(tokenizer, CentralModel) or set(tokenizer or {}) - known:
        raise ValueError(
            "init= brings its own networks: leave denoiser= out, and of tokenizer= all but the settings of its training "
            f"({', '.join(OBJECTIVE)}) and latent_channels, to add some."
        )
    model = init if isinstance(init, CentralModel) else CentralModel.from_pretrained(init)
    if not np.isclose(model.mpp, mpp, rtol=0.02):
        raise ValueError(f"init is a model of {model.mpp:g} um/px, the patches are of {mpp:g}; cut them at its scale.")
    if patch_px not in (None, model.patch_px):
        raise ValueError(f"init is a model of {model.patch_px} px, not of patch_px={patch_px}.")
    return model


def _told(model: CentralModel) -> dict[str, Any]:
    """What a card says of the model that was trained on, and of those before it."""
    return {k: model.card[k] for k in ("name", "data", "licence", "data_sha256", "steps", "init") if k in model.card}


def _checkpoints(resume: str | Path | None, out: str | Path | None) -> Path | None:
    if resume is None:
        return None if out is None else Path(out) / "checkpoints"
    resume = Path(resume)
    if not resume.is_dir():
        raise FileNotFoundError(
            f"resume={str(resume)!r} is no directory; out= alone goes on from what it finds there, or begins anew."
        )
    return resume / "checkpoints" if (resume / "checkpoints").is_dir() else resume


def _filled(asked: dict[str, Any] | None, kinds: dict[str, dict[str, Any]], default: str, plain: str) -> dict[str, Any]:
    """Fill up the settings of a network: of kind `default` where nothing is asked for, else of `plain` or what is said."""
    kind = default if asked is None else asked.get("kind", plain)
    return {"kind": kind, **kinds.get(kind, {}), **(asked or {})}


def _config(name: str, module: torch.nn.Module) -> dict[str, Any]:
    config = {
        k: v for k, v in module.config.items() if not k.startswith("_") and k not in ("latents_mean", "latents_std")
    }
    return {f"{name}.{k}": v for k, v in config.items()}


def _digest(module: torch.nn.Module) -> str:
    """Hash the weights of a tokenizer and the scale of its latents."""
    config = module.config
    scale = [config.get(k) for k in ("latents_mean", "latents_std", "scaling_factor", "shift_factor")]
    digest = hashlib.sha256(json.dumps(scale, default=str).encode())
    for key, value in sorted(module.state_dict().items()):
        digest.update(key.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _set_scale(
    tok: torch.nn.Module, pixels: Pool, weights: str, folder: Path | None, seed: int, *, first: bool
) -> None:
    """Scale latents to unit variance, as measured on 2,000 patches; a resumed run takes the numbers it finds."""
    import torch

    from c2lst import nn

    file = None if folder is None else folder / "scale.json"
    if file is not None and file.is_file():
        found = json.loads(file.read_text())
        if found["tokenizer"] == weights:
            tok.register_to_config(latents_mean=found["latents_mean"], latents_std=found["latents_std"])
            return
    few = generator(seed, 3).permutation(len(pixels))[:2000]
    with torch.inference_mode():
        raw = [nn.raw_latents(tok, nn.to_tensor(pixels.take(few[i : i + 128]))) for i in range(0, len(few), 128)]
        nn.set_latent_scale(tok, torch.cat(raw))
    if file is not None and first:
        part = file.with_suffix(f".{os.getpid()}.part")
        said = {"tokenizer": weights, "latents_mean": tok.config.latents_mean, "latents_std": tok.config.latents_std}
        part.write_text(json.dumps(said))
        os.replace(part, file)


def _drawn(
    denoiser: torch.nn.Module, scheduler: Any, shape: tuple[int, ...], n: int, key: str, folder: Path | None, seed: int,
    bar: Bar, guide: Guide | None = None,
) -> torch.Tensor:  # fmt: skip
    """Draw `n` latents `(n, C, h, w)` with the denoiser of that `key`; a resumed run takes those that it finds."""
    import torch
    from lightning.pytorch.utilities import rank_zero_only
    from safetensors.torch import load_file, save_file

    from c2lst import nn

    starts = range(0, n, 64)
    first = rank_zero_only.rank in (None, 0)
    file = None if folder is None else folder / f"latents-{n}-{key}.safetensors"
    if file is not None and file.is_file():
        bar.phase("samples", len(starts), len(starts), drawn=first)
        return load_file(file)["latents"]
    bar.phase("samples", len(starts), drawn=first)
    draws = torch.Generator().manual_seed(seed)
    parts = []
    with nn.on_device(denoiser, *([] if guide is None else [guide.weak])) as here:
        for start in starts:
            noise = torch.randn((min(64, n - start), *shape), generator=draws).to(here)
            parts.append(nn.sample(denoiser, scheduler, noise, steps=DRAWN_STEPS, guide=guide).cpu().clone())
            bar.step()
    found = torch.cat(parts)
    if file is not None and first:
        folder.mkdir(parents=True, exist_ok=True)
        part = file.with_suffix(f".{os.getpid()}.part")
        save_file({"latents": found}, part)
        os.replace(part, file)
    return found


def _keep_scale(tok: torch.nn.Module, before: torch.nn.Module) -> None:
    """Give the latent channels that were there before the scale they had, so that a denoiser still knows them."""
    config = before.config
    plain = {
        "latents_mean": config.get("shift_factor") or 0.0,
        "latents_std": 1 / (config.get("scaling_factor") or 1.0),
    }
    for name, value in plain.items():
        old, new = list(config.get(name) or [value] * config.latent_channels), list(tok.config[name])
        tok.register_to_config(**{name: old + new[len(old) :]})


def _thin(values: list[float], keep: int = 200) -> list[float]:
    """Average a curve down to at most `keep` points."""
    parts = np.array_split(np.asarray(values, dtype=float), min(keep, max(1, len(values))))
    return [round(float(p.mean()), 5) for p in parts if len(p)]
