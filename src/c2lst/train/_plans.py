"""What is trained, and against what: one plan per objective.

A plan draws its own batches. Step `i` uses a generator seeded by `(seed, i)`, so the same seed gives the same bytes
and a run that was interrupted goes on as if it had not been.
"""

from __future__ import annotations

import copy
import math
from typing import TYPE_CHECKING, Any

import lightning.pytorch as lp
import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from c2lst._checks import check_choice
from c2lst._random import derive
from c2lst.nn import Objective, PatchCritic, attached, decode, encode, raw_latents, to_tensor

from ._data import Ahead, augment_batch

if TYPE_CHECKING:
    from diffusers import SchedulerMixin
    from numpy.typing import NDArray
    from torch import Tensor

    from c2lst.nn import GeneEncoder, Modulation

    from ._data import Latents, Pool


SCHEDULES = ("cosine", "trapezoid")
MANY = 2**20  # rows


class Plan(lp.LightningModule):
    """Base: AdamW, a schedule over `steps`, gradients clipped by the trainer.

    `losses` keeps one value a step, of the first process where there are several; `validation` pairs `(step, value)`.
    `batch_size` is that of one process: each draws its own.
    """

    def __init__(
        self,
        *,
        steps: int,
        batch_size: int,
        lr: float,
        seed: int,
        weight_decay: float = 0.01,
        schedule: str = "cosine",
    ):
        super().__init__()
        check_choice("schedule", schedule, SCHEDULES)
        self.steps, self.batch_size, self.lr = int(steps), int(batch_size), float(lr)
        self.seed, self.weight_decay, self.schedule = int(seed), float(weight_decay), schedule
        self.warmup = max(1, min(200, self.steps // 20))
        self.step = 0  # survives a resume, unlike the trainer's own count
        self.seconds = 0.0  # in training, all sittings together
        self.losses: list[float] = []
        self.validation: list[tuple[int, float]] = []

    def trained(self) -> list[nn.Parameter]:
        """Parameters the optimiser sees."""
        return [p for p in self.parameters() if p.requires_grad]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW (Loshchilov & Hutter 2019)."""
        return torch.optim.AdamW(self.trained(), lr=self.lr, weight_decay=self.weight_decay, betas=(0.9, 0.99))

    def draws(self, step: int | None = None) -> torch.Generator:
        """Return the generator of a step, this one by default (and of this process, when there are several)."""
        step = self.step if step is None else step
        return torch.Generator().manual_seed(derive(self.seed, 101, step, self.global_rank))

    def rows(self, n: int, generator: torch.Generator, size: int | None = None) -> NDArray[np.int64]:
        """Draw the rows of a batch, without repeats as far as `n` reaches."""
        size = self.batch_size if size is None else size
        if n > MANY and size < n // 100:
            # the order of all rows is not drawn for the sake of a few
            rows = np.empty(0, dtype=np.int64)
            while len(rows) < size:
                rows = np.concatenate([rows, torch.randint(n, (size,), generator=generator).numpy()])
                rows = rows[np.sort(np.unique(rows, return_index=True)[1])]
            return rows[:size]
        parts = [torch.randperm(n, generator=generator) for _ in range(-(-size // n))]
        return torch.cat(parts)[:size].numpy()

    @property
    def decay_from(self) -> int:
        """Step from which the rate of a trapezoid falls: the last fifth."""
        return self.steps - max(1, self.steps // 5)

    def rate(self) -> float:
        """Learning rate of this step: 5 % warm-up (200 steps at most), then a cosine to a tenth, or a trapezoid.

        The trapezoid (Zhai et al. 2022; Hu et al. 2024) stays flat and falls on a line to nothing over the last fifth.
        """
        if self.step < self.warmup:
            return self.lr * (self.step + 1) / self.warmup
        if self.schedule == "trapezoid":
            return self.lr * min(1.0, max(0, self.steps - self.step) / (self.steps - self.decay_from))
        x = (self.step - self.warmup) / max(1, self.steps - self.warmup)
        return self.lr * (0.1 + 0.45 * (1 + math.cos(math.pi * min(1.0, x))))

    def settings(self) -> dict[str, Any]:
        """Return what a checkpoint must agree with to be gone on with."""
        names = ("steps", "batch_size", "lr", "seed", "weight_decay", "schedule")
        return {"plan": type(self).__name__, **{name: getattr(self, name) for name in names}}

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """One step: set the rate, take the loss. Raises `FloatingPointError` where it is no number any more."""
        # dropout draws from the global generator; seeded anew each step, so that a resumed run draws the same
        torch.manual_seed(derive(self.seed, 109, self.step, self.global_rank))
        for group in self.optimizers().param_groups:
            group["lr"] = self.rate()
        loss = self.loss(self.draws())
        value = float(loss.detach())
        if not math.isfinite(value):
            raise FloatingPointError(
                f"The loss is {value} at step {self.step} of {self.steps}: training has diverged. A smaller lr than "
                f"{self.lr:g} is what to try first; a checkpoint written before stands."
            )
        self.losses.append(value)
        return loss

    def count(self) -> None:
        """Count the step once the weights have moved; :func:`c2lst.train.fit` calls it."""
        self.step += 1
        self.after_step()

    def loss(self, generator: torch.Generator) -> Tensor:
        """Return the loss of this step."""
        raise TypeError(f"{type(self).__name__} must define loss.")

    def after_step(self) -> None:
        """What follows a step (nothing by default)."""


@torch.autocast("cpu", enabled=False)
@torch.autocast("cuda", enabled=False)
def power_spectrum(x: Tensor) -> Tensor:
    """Return the power of images `(n, C, h, w)` by spatial frequency down and to the right, `(rows, columns, C, C)`.

    It is a mean over images, and over the frequencies of a bin: bins are of equal width from 0 to .5 cycles a pixel, half as
    many as an image has pixels and at most 8 each way. On the diagonal of `C, C` is the power of each channel, beside it what
    two channels share (the real part of their cross-spectrum).
    """
    h, w = x.shape[-2:]
    rows, columns = min(8, h // 2), min(8, w // 2)
    window = torch.hann_window(h, periodic=False)[:, None] * torch.hann_window(w, periodic=False)
    found = torch.view_as_real(torch.fft.rfft2((x - x.mean(dim=(2, 3), keepdim=True)) * window.to(x)))
    found = torch.einsum("nchwp,ndhwp->hwcd", found, found) / len(x)
    down, right = (
        (f.abs() * 2 * bins).long().clamp_max(bins - 1)
        for f, bins in ((torch.fft.fftfreq(h), rows), (torch.fft.rfftfreq(w), columns))
    )
    which = (down[:, None] * columns + right).flatten().to(x.device)
    total = found.new_zeros(rows * columns, *found.shape[2:]).index_add(0, which, found.flatten(0, 1))
    total = total / torch.bincount(which, minlength=rows * columns)[:, None, None]
    return total.unflatten(0, (rows, columns))


LAGS = ((0, 1), (1, 0), (1, 1), (1, -1), (0, 2), (2, 0), (2, 2), (2, -2))  # pixels down and to the right


@torch.autocast("cpu", enabled=False)
@torch.autocast("cuda", enabled=False)
def variogram(x: Tensor, period: int) -> Tensor:
    """Return the mean product of differences between pixels one or two apart, `(lags, period ** 2 + 4, C, C)`.

    On the diagonal are the squares of each channel, beside it what two channels share. It is kept apart by where in a cell of
    `period` pixels the pair lies, row by row, and then by whether it lies at the upper, lower, left or right border. Of tissue
    all places are alike; a decoder makes the pixels of a cell by weights of their own, and those at the border from less, and
    may leave a grid and a frame.
    """
    found = []
    for down, right in LAGS:
        h, w = x.shape[-2] - down, x.shape[-1] - abs(right)
        left = max(0, -right)
        d = x[..., :h, left : left + w] - x[..., down : down + h, left + right : left + right + w]
        ph, pw = min(period, h), min(period, w)
        cells = d[..., : h // ph * ph, : w // pw * pw].unflatten(3, (-1, pw)).unflatten(2, (-1, ph))
        cells = cells.permute(3, 5, 0, 2, 4, 1).flatten(0, 1).flatten(1, 3)
        edges = [e.transpose(1, 2).flatten(0, 1) for e in (d[..., 0, :], d[..., -1, :], d[..., 0], d[..., -1])]
        found.append(torch.cat([_shared(cells), torch.stack([_shared(e) for e in edges])]))
    return torch.stack(found)


def _shared(values: Tensor) -> Tensor:
    """Return the mean products of channels, `(..., m, C)` -> `(..., C, C)`."""
    return values.mT @ values / values.shape[-2]


@torch.autocast("cpu", enabled=False)
@torch.autocast("cuda", enabled=False)
def moments(features: Tensor) -> Tensor:
    """Return the second moments of features `(n, C, h, w)` over places and images, `(C, C)`."""
    return _shared(features.float().movedim(1, -1).flatten(0, 2))


@torch.autocast("cpu", enabled=False)
@torch.autocast("cuda", enabled=False)
def apart(ours: Tensor, aim: Tensor) -> Tensor:
    """Return how far covariances `(..., C, C)` are apart: the mean of `4 log(1 + d / 4)`.

    `d = tr(A^-1 B) / C + tr(B^-1 A) / C - 2` is `2 / C` of Jeffreys' divergence (both ways added up) of Gaussians that have
    them; for variances that differ a little, the square of the difference of their logarithms. It is the same in every basis
    of the channels: a hue that varies little counts as much as the grey that varies most. The logarithm keeps what hardly
    varies at all, such as hues of grey images, from outweighing all else.
    """
    # of grey images nothing is left beside the grey, of few places nothing but a few directions
    floor = 1e-6 + 1e-5 * aim.diagonal(dim1=-2, dim2=-1).mean(dim=-1)[..., None, None]
    floor = floor * torch.eye(ours.shape[-1], device=ours.device)
    ours, aim = torch.broadcast_tensors(ours + floor, aim + floor)
    ways = torch.linalg.solve(aim, ours), torch.linalg.solve(ours, aim)
    d = sum(way.diagonal(dim1=-2, dim2=-1).mean(dim=-1) for way in ways) - 2
    return 4 * (d.clamp_min(0) / 4).log1p().mean()


def _follow(average: nn.Module, module: nn.Module, decay: float, step: int) -> None:
    """Move the exponential moving average of the weights, shorter at first."""
    decay = min(decay, (1 + step) / (10 + step))
    torch._foreach_lerp_(list(average.parameters()), [p.detach() for p in module.parameters()], 1 - decay)


def optical(x: Tensor) -> Tensor:
    """Turn images in -1..1 into optical density (natural log), as stains add up in it (Beer and Lambert)."""
    return -torch.log(x.add(1).div(2).clamp(1 / 255, 1))


class TokenizerPlan(Plan):
    """Autoencoder: pixels, their gradients and their coarse view; a light KL, and noise on the latents.

    The noise is a share of the latents' own standard deviation: what a diffusion model gets a little wrong must still
    decode. `coarse` asks the decoder, given latents of half the resolution, for the patch at half the resolution
    (Skorokhodov et al. 2025): latents then hold coarse structure in their coarse view, which is easier to model.

    It is convolutional, so that most steps are taken on crops of half the side, at a quarter of the cost; the last
    fifth sees whole patches.

    With `decoder_only` the latents stay as they are, and a denoiser that draws them with them: the decoder alone learns
    on. `density` weighs the error in optical density, where a nucleus that is a little pale counts. `adversarial` is the
    say of a critic that learns to tell restored patches from real ones, relative to that of the errors, both measured by
    their gradients at the restored pixels (Esser et al. 2021): errors alone make a patch smooth. `matching` is that of the
    difference between what the critic's layers see in a restored patch and in its original (Larsen et al. 2016): texture
    as it is there, rather than any. With `drawn`, latents that a denoiser has drawn `(m, C, h, w)`, the critic judges
    what becomes of them too: where they differ from those of real patches, the decoder learns to make tissue of them all
    the same.

    `spectrum` weighs how far the power spectra of restored patches and of their originals are apart over a batch (after
    Durall et al. 2020), see :func:`power_spectrum` and :func:`apart`: beside a critic alone a decoder may leave the finest
    frequencies out, and most of what hues vary. `grid` does so for their variograms by place in a cell of the latents, see
    :func:`variogram`: the pixels of a cell are made by weights of their own, and the critic puts up with some of them being
    smoother than others. `texture` does so for the second moments of what the critic's first two layers see, over places and
    patches (after Gatys et al. 2015): texture of the right kind, wherever it lies, where the latents do not say where.

    `keep_grey` above 0 is for a decoder whose grey is good and whose hues are not: hues alone learn. In all of the above
    restored and drawn patches then have the grey (mean of the channels) that the decoder made when training began, and so
    have the originals; by this weight its own grey is held to that one.

    `ema` is the decay of a moving average of the weights, `average`, which is then what is validated and what ships: beside a
    critic the weights never settle, and the last step is one of many.

    `keep` is for a tokenizer that has grown, see :func:`c2lst.nn.grow_tokenizer`: that many latent channels stay as they
    are, so that a denoiser still knows them. Of the encoder, the last layer alone learns, and that for the others.
    """

    def __init__(
        self,
        tokenizer: nn.Module,
        patches: Pool,
        *,
        kl: float = 1e-4,
        noise: float = 0.2,
        coarse: float = 0.0,
        cropped: float = 0.8,
        density: float = 0.0,
        adversarial: float = 0.0,
        matching: float = 0.0,
        spectrum: float = 0.0,
        grid: float = 0.0,
        texture: float = 0.0,
        keep_grey: float = 0.0,
        decoder_only: bool = False,
        drawn: Tensor | None = None,
        keep: int = 0,
        ema: float = 0.0,
        held_out: NDArray[np.uint8] | None = None,
        check_every: int = 200,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.density, self.adversarial, self.matching = density, adversarial, matching
        self.spectrum, self.grid, self.texture = spectrum, grid, texture
        self.decoder_only, self.drawn, self.keep = decoder_only, drawn, keep
        if keep_grey and not decoder_only:
            raise ValueError("keep_grey= is for latents that stay as they are: it needs decoder_only=True.")
        self.keep_grey = keep_grey
        if keep_grey:
            # not a submodule: nothing of it is trained or saved
            object.__setattr__(self, "before", copy.deepcopy(tokenizer).requires_grad_(False))
        if (matching or texture or drawn is not None) and not adversarial:
            raise ValueError("matching=, texture= and drawn= are judged by a critic: they need adversarial= above 0.")
        last = tokenizer.encoder.conv_out.parameters() if keep else ()
        self._kept = [p.detach()[:keep].clone() for p in last]
        if adversarial:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(derive(self.seed, 113))
                self.critic = PatchCritic()
        self.tokenizer, self.patches, self.kl, self.noise, self.cropped = tokenizer, patches, kl, noise, cropped
        self.coarse, self.held_out, self.check_every, self.ema = coarse, held_out, check_every, ema
        self.average = copy.deepcopy(tokenizer).requires_grad_(False) if ema else None

    def on_fit_start(self) -> None:
        """Take what the decoder was to where the plan is."""
        if self.keep_grey:
            self.before.to(self.device)

    def trained(self) -> list[nn.Parameter]:
        """All parameters, or those behind the latents (with `keep`, those behind the encoder's last block)."""
        before = ("encoder.", "quant_conv.") if self.decoder_only or self.keep else ()
        last = "encoder.conv_out." if self.keep else "-"
        named = self.tokenizer.named_parameters()
        found = [p for name, p in named if not name.startswith(before) or name.startswith(last)]
        return found + (list(self.critic.parameters()) if self.adversarial else [])

    def loss(self, generator: torch.Generator) -> Tensor:
        """Reconstruction and regularisation."""
        patches = self.patches.take(self.rows(len(self.patches), generator))
        side = patches.shape[1]
        if self.step < self.cropped * self.steps and side >= 64 and side % 16 == 0:
            y, x = torch.randint(0, side // 2 + 1, (2,), generator=generator).tolist()
            patches = patches[:, y : y + side // 2, x : x + side // 2]
        x = to_tensor(patches)
        x = augment_batch(x, generator, stain=0.05).to(self.device)
        with torch.set_grad_enabled(not self.decoder_only):
            clean = raw_latents(self.tokenizer, x)
        z = clean + self.noise * clean.detach().float().std() * torch.randn(clean.shape, generator=generator).to(
            x.device
        )
        y = self.tokenizer.decode(z).sample.float()
        held = 0.0
        if self.keep_grey:
            held, y, x = self.with_grey_of_before(self.before.decode(z).sample, y, x)
        edges = sum(F.l1_loss(y.diff(dim=d), x.diff(dim=d)) for d in (2, 3))
        small = F.l1_loss(F.avg_pool2d(y, 4), F.avg_pool2d(x, 4))
        loss = F.l1_loss(y, x) + 0.5 * F.mse_loss(y, x) + edges + small
        if self.density:
            loss = loss + self.density * F.l1_loss(F.avg_pool2d(optical(y), 2), F.avg_pool2d(optical(x), 2))
        if self.adversarial:
            loss = loss + self.criticised(loss, y, x, generator)
        if self.spectrum:
            loss = loss + self.spectrum * apart(power_spectrum(y), power_spectrum(x))
        if self.grid:
            period = x.shape[-1] // z.shape[-1]
            ours, aim = (variogram(i, period) for i in (y, x))
            # of all cells: the places of an original are alike but for chance
            loss = loss + self.grid * apart(ours, aim[:, :-4].mean(dim=1, keepdim=True))
        if self.coarse:
            y, x = self.tokenizer.decode(F.avg_pool2d(z, 2)).sample.float(), F.avg_pool2d(x, 2)
            loss = loss + self.coarse * (F.l1_loss(y, x) + 0.5 * F.mse_loss(y, x))
        # unit-variance Gaussian with a fixed noise: KL is the squared mean up to a constant
        return loss + held + self.kl * clean.float().square().mean()

    def criticised(self, errors: Tensor, y: Tensor, x: Tensor, generator: torch.Generator) -> Tensor:
        """Return what the critic says of restored patches `y`, and what it learns from them and from real ones.

        One backward pass serves both: the critic that judges is held fixed, the patches that it learns from too.
        """
        made, held = [y], 0.0
        if self.drawn is not None:
            held, new = self.made(y.shape[-1], generator)
            made.append(new)
        fakes = sum(F.relu(1 + self.critic(m.detach()).float()).mean() for m in made) / len(made)
        told = F.relu(1 - self.critic(x).float()).mean() + fakes + held
        ramp = min(1.0, self.step / max(1, self.steps // 5))
        if not ramp:
            return told
        fixed = {name: p.detach() for name, p in self.critic.named_parameters()}

        def judged(images: Tensor) -> tuple[Tensor, list[Tensor]]:
            score, seen = torch.func.functional_call(self.critic, fixed, (images,), {"features": True})
            return -score.float().mean(), seen

        score, seen = judged(y)
        says = [(self.adversarial, score, y)]
        if self.matching or self.texture:
            with torch.no_grad():
                _, aim = self.critic(x, features=True)
        if self.matching:
            says.append((self.matching, sum(F.l1_loss(a, b) for a, b in zip(seen, aim, strict=True)), y))
        says += [(self.adversarial, judged(m)[0], m) for m in made[1:]]
        if self.texture:
            pairs = zip(seen[:2], aim[:2], strict=True)
            told = told + ramp * self.texture * sum(apart(moments(a), moments(b)) for a, b in pairs)
        ours = torch.autograd.grad(errors, y, retain_graph=True)[0].norm()
        for share, value, at in says:
            its = torch.autograd.grad(value, at, retain_graph=True)[0].norm()
            told = told + ramp * share * (ours / its.clamp_min(1e-8)) * value
        return told

    def made(self, side: int, generator: torch.Generator) -> tuple[Tensor | float, Tensor]:
        """Decode as many of the drawn latents as there are patches in a batch, at random places where they are larger.

        Return how far their grey has left that of before too, which is 0 without `keep_grey`.
        """
        z = self.drawn[self.rows(len(self.drawn), generator)].to(self.device)
        side = side * z.shape[-1] // self.patches.shape[1]
        y, x = torch.randint(0, z.shape[-1] - side + 1, (2,), generator=generator).tolist()
        z = z[:, :, y : y + side, x : x + side]
        made = decode(self.tokenizer, z).float()
        return self.with_grey_of_before(decode(self.before, z), made) if self.keep_grey else (0.0, made)

    def with_grey_of_before(self, before: Tensor, y: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
        """Return how far the grey of patches `y` has left that of `before`, and all patches with the latter."""
        grey, ours = before.detach().float().mean(dim=1, keepdim=True), y.mean(dim=1, keepdim=True)
        edges = sum(F.l1_loss(ours.diff(dim=d), grey.diff(dim=d)) for d in (2, 3))
        held = self.keep_grey * (F.l1_loss(ours, grey) + edges)
        return held, *(i - i.mean(dim=1, keepdim=True) + grey for i in (y, *others))

    def settings(self) -> dict[str, Any]:
        """Return what a checkpoint must agree with."""
        more = tuple(
            n
            for n in (
                "density",
                "adversarial",
                "matching",
                "spectrum",
                "grid",
                "texture",
                "keep_grey",
                "decoder_only",
                "keep",
                "ema",
            )
            if getattr(self, n)
        )
        names = ("kl", "noise", "coarse", "cropped", *more)
        drawn = {} if self.drawn is None else {"drawn": len(self.drawn)}
        return {**super().settings(), **{name: getattr(self, name) for name in names}, **drawn}

    @torch.no_grad()
    def after_step(self) -> None:
        """Put back what shall stay; move the average; look at the held-out patches now and then."""
        for p, kept in zip(self.tokenizer.encoder.conv_out.parameters() if self.keep else (), self._kept, strict=True):
            p[: self.keep] = kept.to(p)
        if self.average is not None:
            _follow(self.average, self.tokenizer, self.ema, self.step)
        if self.held_out is not None and (self.step % self.check_every == 0 or self.step == self.steps):
            self.validation.append((self.step, self.validate()))

    @torch.no_grad()
    def validate(self) -> float:
        """Return the PSNR (dB, mean over patches) of held-out patches."""
        was = self.training
        self.eval()
        total = 0.0
        tokenizer = self.tokenizer if self.average is None else self.average
        for start in range(0, len(self.held_out), 64):
            x = to_tensor(self.held_out[start : start + 64]).to(self.device)
            y = decode(tokenizer, encode(tokenizer, x)).float().clamp(-1, 1)
            error = (y - x).div(2).square().mean(dim=(1, 2, 3))
            total += float((-10 * error.clamp_min(1e-8).log10()).sum())
        self.train(was)
        return total / len(self.held_out)


class DenoiserPlan(Plan):
    """Denoiser on cached latents, with an exponential moving average of its weights.

    `time_shift` above 1 leans on noisy latents, `time_even` is the share of times that are drawn evenly: see
    :meth:`c2lst.nn.Objective.draw_times`.
    """

    def __init__(
        self,
        denoiser: nn.Module,
        scheduler: SchedulerMixin,
        latents: Tensor | Latents,
        *,
        held_out: Tensor | None = None,
        ema: float = 0.999,
        time_shift: float = 1.0,
        time_even: float = 0.0,
        check_every: int = 200,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.denoiser = denoiser
        self.objective, self.latents, self.held_out = Objective(scheduler), latents, held_out
        self.decay, self.check_every = ema, check_every
        self.time_shift, self.time_even = time_shift, time_even
        self.average = copy.deepcopy(denoiser).requires_grad_(False)
        self.ahead: Ahead | None = None

    def on_fit_start(self) -> None:
        """Beside a GPU, draw the batches of the next steps while it works on this one."""
        if self.device.type == "cuda":
            self.ahead = Ahead(lambda step: self.batch(self.draws(step)))

    def on_fit_end(self) -> None:
        """Let the threads go."""
        self.ahead = None

    def trained(self) -> list[nn.Parameter]:
        """Parameters of the denoiser, not of its average."""
        return list(self.denoiser.parameters())

    def settings(self) -> dict[str, Any]:
        """Return what a checkpoint must agree with."""
        times = {"time_shift": (self.time_shift, 1.0), "time_even": (self.time_even, 0.0)}
        changed = {name: value for name, (value, usual) in times.items() if value != usual}
        return {**super().settings(), "ema": self.decay, **changed}

    def batch(self, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Draw latents, noise and times."""
        z = self.latents[self.rows(len(self.latents), generator)]
        noise = torch.randn(z.shape, generator=generator)
        return z, noise, self.objective.draw_times(len(z), generator, self.time_shift, self.time_even)

    def loss(self, generator: torch.Generator) -> Tensor:
        """Denoising error."""
        drawn = self.batch(generator) if self.ahead is None else self.ahead(self.step)
        z, noise, u = (x.to(self.device, non_blocking=True) for x in drawn)
        return self.objective.loss(self.denoiser, z, noise, u).mean()

    @torch.no_grad()
    def after_step(self) -> None:
        """Move the average; look at the held-out patches now and then."""
        _follow(self.average, self.denoiser, self.decay, self.step)
        if self.held_out is not None and (self.step % self.check_every == 0 or self.step == self.steps):
            self.validation.append((self.step, self.validate()))

    @torch.no_grad()
    def validate(self) -> float:
        """Denoising error of the average on held-out patches, at fixed noise and times."""
        generator = torch.Generator().manual_seed(derive(self.seed, 103))
        total = 0.0
        for z in self.held_out.split(128):
            noise = torch.randn(z.shape, generator=generator)
            u = (torch.arange(len(z)) + 0.5) / len(z)
            z = z.to(self.device)
            total += float(self.objective.loss(self.average, z, noise.to(z), u).sum())
        return total / len(self.held_out)


def _turned(latents: Tensor, rows: NDArray[np.int64], generator: torch.Generator) -> Tensor:
    """Take rows of `(n, turns and flips, C, h, w)`, each as one of its turns and flips at random."""
    return latents[rows, torch.randint(0, latents.shape[1], (len(rows),), generator=generator)]


class ModulationPlan(Plan):
    """Modulation of a frozen denoiser by the genes of few spots, beside unpaired tissue.

    The genes of unpaired tissue are dropped, or are `pool_genes`, predicted ones. Then two patches of it go with each spot,
    and what is kept is the step at which their own genes help held-out spots most, over the genes of other spots: under
    predicted genes a model comes to trust genes more than measured, noisy ones deserve, and the loss alone would keep a step
    at which it hardly listens.

    `time_shift` above 1 leans on noisy latents, in training and on held-out spots: what kind of tissue a patch becomes is
    decided there, and genes have little to say about the rest.
    """

    def __init__(
        self,
        denoiser: nn.Module,
        scheduler: SchedulerMixin,
        modulation: Modulation,
        encoder: GeneEncoder,
        latents: Tensor,
        genes: Tensor,
        *,
        pool: Tensor | None = None,
        pool_genes: Tensor | None = None,
        dropout: float = 0.1,
        condition_noise: float = 0.1,
        time_shift: float = 1.0,
        held_out: tuple[Tensor, Tensor] | None = None,
        held_out_groups: NDArray | None = None,
        check_every: int = 100,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.modulation, self.encoder, self.time_shift = modulation, encoder, time_shift
        # not a submodule: the central model is frozen and not this plan's to train, move or save
        object.__setattr__(self, "frozen", denoiser)
        self.objective = Objective(scheduler)
        self.latents, self.genes, self.held_out, self.held_out_groups = latents, genes, held_out, held_out_groups
        # (m, turns and flips, C, h, w); one way up where none are given
        self.pool = pool[:, None] if pool is not None and pool.ndim == 4 else pool
        self.pool_genes = pool_genes
        self.dropout, self.condition_noise, self.check_every = dropout, condition_noise, check_every
        self.home = next(iter(denoiser.parameters())).device
        self.best: tuple[float, dict[str, Tensor], int] | None = None

    def on_fit_start(self) -> None:
        """Take the frozen denoiser to where the plan is trained; Lightning moves only what is the plan's own."""
        self.frozen.to(self.device)

    def release(self) -> None:
        """Bring the frozen denoiser back: it is the caller's."""
        self.frozen.to(self.home)

    def loss(self, generator: torch.Generator) -> Tensor:
        """Denoising error under the genes (dropped at random); on the pool under those it is told, or without."""
        # latents: (n, turns and flips, C, h, w)
        told = self.pool_genes is not None
        rows = self.rows(len(self.latents), generator, max(1, self.batch_size // 2) if told else None)
        z, genes = _turned(self.latents, rows, generator), self.genes[rows]
        silent = torch.zeros(len(rows), dtype=torch.bool)
        if self.pool is not None:
            extra = self.rows(len(self.pool), generator, None if told else max(1, len(rows) // 4))
            z = torch.cat([z, _turned(self.pool, extra, generator)])
            genes = torch.cat([genes, self.pool_genes[extra] if told else genes.new_zeros(len(extra), genes.shape[1])])
            silent = torch.cat([silent, torch.full((len(extra),), not told)])
        condition = self.encoder(genes.to(self.device))
        if self.condition_noise:
            jitter = torch.randn(condition.shape, generator=generator).to(condition)
            condition = condition + self.condition_noise * jitter
        drop = silent | (torch.rand(len(z), generator=generator) < self.dropout)
        z = z.to(self.device)
        condition = torch.where(drop.to(self.device)[:, None], torch.nan, condition)
        noise = torch.randn(z.shape, generator=generator).to(z)
        u = self.objective.draw_times(len(z), generator, self.time_shift)
        with attached(self.modulation, self.frozen, condition):
            return self.objective.loss(self.frozen, z, noise, u).mean()

    def after_step(self) -> None:
        """Look at the held-out spots now and then and keep the best state."""
        if self.held_out is not None and (self.step % self.check_every == 0 or self.step == self.steps):
            value = self.validate()
            self.validation.append((self.step, value))
            if self.pool_genes is not None and len(self.held_out[0]) > 1:  # one spot has no other's genes
                value -= self.validate(shuffle=True)
            if self.best is None or value < self.best[0]:
                state = {k: v.detach().clone() for k, v in self.state_dict().items()}
                self.best = (value, state, self.step)

    def validate(self, shuffle: bool = False, dropped: bool = False, repeats: int = 8) -> float:
        """Return the mean of :meth:`held_out_loss`."""
        return float(self.held_out_loss(shuffle=shuffle, dropped=dropped, repeats=repeats).mean())

    @torch.no_grad()
    def held_out_loss(
        self, shuffle: bool = False, dropped: bool = False, repeats: int = 8, within: bool = False
    ) -> Tensor:
        """Denoising error of each held-out spot at fixed noise and times.

        `shuffle` gives each the genes of another, `within` of the same group; NaN for a spot that is alone in its group.
        """
        was = self.training
        self.eval()
        generator = torch.Generator().manual_seed(derive(self.seed, 107))
        latents, genes = self.held_out
        condition = self.encoder(genes.to(self.device))
        total = torch.zeros(len(latents))
        for k in range(repeats):
            z = latents[:, k % latents.shape[1]].to(self.device)
            noise = torch.randn(z.shape, generator=generator).to(z)
            u = ((torch.randperm(len(z), generator=generator) + 0.5) / len(z) + k / repeats) % 1.0
            u = self.objective.shifted(u, self.time_shift)
            c = condition
            if shuffle and len(z) > 1:
                c = condition[self._others(len(z), k, within)]
            if dropped:
                c = torch.full_like(condition, torch.nan)
            with attached(self.modulation, self.frozen, c):
                total += self.objective.loss(self.frozen, z, noise, u).cpu()
        self.train(was)
        if shuffle and within and self.held_out_groups is not None:
            _, group, size = np.unique(self.held_out_groups, return_inverse=True, return_counts=True)
            total[torch.from_numpy(size[group] == 1)] = torch.nan
        return total / repeats

    def _others(self, n: int, k: int, within: bool) -> Tensor:
        """Return for each held-out spot whose genes it is given in round `k`."""
        rows = torch.arange(n)
        if not within or self.held_out_groups is None:
            return rows.roll(1 + k % (n - 1))
        for name in np.unique(self.held_out_groups):
            own = np.flatnonzero(self.held_out_groups == name)
            rows[own] = torch.from_numpy(np.roll(own, 1 + k % max(1, len(own) - 1)))
        return rows


class CNNPlan(Plan):
    """Image -> genes end to end, weighted mean squared error on standardised expression."""

    def __init__(
        self, network: nn.Module, images: Pool, target: Tensor, weight: Tensor, *, stain: float = 0.1, **kwargs: Any
    ):
        super().__init__(**kwargs)
        self.network, self.images, self.target, self.weight, self.stain = network, images, target, weight, stain

    def loss(self, generator: torch.Generator) -> Tensor:
        """Draw samples by weight: an arm with more samples still takes the same number of steps."""
        rows = torch.multinomial(self.weight, self.batch_size, replacement=True, generator=generator).numpy()
        x = augment_batch(to_tensor(self.images.take(rows)), generator, stain=self.stain).to(self.device)
        y = self.target[rows].to(self.device)
        known = torch.isfinite(y)
        error = torch.where(known, self.network(x).float() - torch.nan_to_num(y), 0.0)
        return error.square().sum() / known.sum().clamp_min(1)
