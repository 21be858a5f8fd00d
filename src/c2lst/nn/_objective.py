"""What a denoiser is trained to say, and how samples are drawn with it; both from a diffusers scheduler."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, NamedTuple

import torch
from diffusers import DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler

from ._denoiser import denoise
from ._modulation import attached

if TYPE_CHECKING:
    from diffusers import SchedulerMixin
    from torch import Tensor, nn

    from ._modulation import Modulation


class Objective:
    """Noising and target of a scheduler: flow matching, or epsilon, v-prediction and sample of a DDPM-like one."""

    def __init__(self, scheduler: SchedulerMixin):
        self.scheduler = scheduler
        self.flow = "FlowMatch" in type(scheduler).__name__
        if not self.flow:
            if not hasattr(scheduler, "alphas_cumprod"):
                raise TypeError(f"{type(scheduler).__name__} is not a scheduler c2lst can train with.")
            self.kind = scheduler.config.prediction_type
            if self.kind not in ("epsilon", "v_prediction", "sample"):
                raise ValueError(f"prediction_type={self.kind!r} of {type(scheduler).__name__} is not known.")

    def draw_times(self, n: int, generator: torch.Generator, shift: float = 1.0, even: float = 0.0) -> Tensor:
        """Draw `n` times in 0..1; logit-normal for flow matching (Esser et al. 2024), uniform otherwise.

        `shift` above 1 moves them towards noise, where what a patch is made of is decided: their odds are multiplied by it.
        Of each, with a chance of `even`, a uniform one takes the place: logit-normal ones hardly ever come near pure noise,
        where every sample begins.
        """
        u = torch.sigmoid(torch.randn(n, generator=generator)) if self.flow else torch.rand(n, generator=generator)
        u = self.shifted(u, shift)
        if even:
            uniform, chance = torch.rand(2, n, generator=generator)
            u = torch.where(chance < even, uniform, u)
        return u

    @staticmethod
    def shifted(u: Tensor, shift: float) -> Tensor:
        """Multiply the odds of times in 0..1 by `shift`."""
        return u if shift == 1.0 else shift * u / (1 + (shift - 1) * u)

    def noised(self, z: Tensor, noise: Tensor, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return noisy latents, what the denoiser is told the time is, and the target."""
        steps = self.scheduler.config.num_train_timesteps
        if self.flow:
            sigma = u.to(z).view(-1, 1, 1, 1)
            return (1 - sigma) * z + sigma * noise, u.to(z) * steps, noise - z
        t = (u * steps).long().clamp(0, steps - 1).to(z.device)
        alpha = self.scheduler.alphas_cumprod.to(z)[t].view(-1, 1, 1, 1)
        noisy = alpha.sqrt() * z + (1 - alpha).sqrt() * noise
        target = {
            "epsilon": noise,
            "v_prediction": alpha.sqrt() * noise - (1 - alpha).sqrt() * z,
            "sample": z,
        }[self.kind]
        return noisy, t, target

    def time_of(self, sigma: float) -> float:
        """Return the time step at which latents and noise are mixed as `1 - sigma` to `sigma`."""
        steps = self.scheduler.config.num_train_timesteps
        if self.flow:
            return sigma * steps
        signal = (1 - sigma) ** 2 / ((1 - sigma) ** 2 + sigma**2)
        return float((self.scheduler.alphas_cumprod - signal).abs().argmin())

    def loss(self, model: nn.Module, z: Tensor, noise: Tensor, u: Tensor) -> Tensor:
        """Return the mean squared error per patch, `(n,)`."""
        noisy, t, target = self.noised(z, noise, u)
        return (denoise(model, noisy, t).float() - target.float()).square().mean(dim=(1, 2, 3))


def solver_of(scheduler: SchedulerMixin) -> SchedulerMixin:
    """Return what draws samples: a copy of the scheduler, for it holds state; DPM-Solver++ in the place of Euler's method.

    The flow from noise to latents is curved, the more so the nearer the latents are to white noise, and Euler's method
    loses a part of their variance on its way, 13 % of it in 20 steps: patches come out smooth. A solver of second order (Lu
    et al. 2022) is off by 1 % in as many.
    """
    config = scheduler.config
    euler = type(scheduler) is FlowMatchEulerDiscreteScheduler
    if euler and not config.get("use_dynamic_shifting") and not config.get("stochastic_sampling"):
        return DPMSolverMultistepScheduler(
            num_train_timesteps=config.num_train_timesteps, prediction_type="flow_prediction", use_flow_sigmas=True,
            flow_shift=config.shift,
        )  # fmt: skip
    # `denoise` leaves out what a model says of its variance: a solver must not look for it
    learned = str(config.get("variance_type")).startswith("learned")
    return type(scheduler).from_config(config, **({"variance_type": "fixed_small"} if learned else {}))


class Guide(NamedTuple):
    """Autoguidance (Karras et al. 2024): samples keep away from what a weaker denoiser would do.

    What `denoiser` says more than `weak`, one of the same latents that is smaller and was trained for a shorter time, is
    multiplied by `weight`: where the weak one errs, the strong one errs less in the same direction. 1 is none.
    """

    denoiser: nn.Module
    weak: nn.Module
    weight: float


@torch.inference_mode()
def sample(
    model: nn.Module,
    scheduler: SchedulerMixin,
    noise: Tensor,
    *,
    steps: int,
    modulation: Modulation | None = None,
    condition: Tensor | None = None,
    guidance: float = 1.0,
    guide: Guide | None = None,
) -> Tensor:
    """Draw latents from `noise` `(n, C, h, w)`; `guidance` is that of Ho & Salimans (2022), 1 is none.

    `condition` is `(n, d)`, a row of NaN being a patch without genes. The solver is :func:`solver_of` the scheduler. The
    denoiser of a `guide` is not modulated: what it adds is the same whatever the genes.
    """
    solver = solver_of(scheduler)
    solver.set_timesteps(steps, device=noise.device)
    # for solvers that add noise themselves: a generator a patch, seeded by its own start, so that what is drawn for one
    # patch does not depend on the others of its batch
    generators = [torch.Generator().manual_seed(zlib.crc32(row.cpu().numpy().tobytes())) for row in noise]
    extra = {"generator": generators} if "generator" in type(solver).step.__code__.co_varnames else {}
    sigma = getattr(solver, "init_noise_sigma", 1.0)
    z = noise * sigma
    guided = modulation is not None and condition is not None and guidance != 1.0
    for t in solver.timesteps:
        x = solver.scale_model_input(z, t) if hasattr(solver, "scale_model_input") else z
        times = t.to(z.device).expand(len(z))
        if modulation is None:
            v = denoise(model, x, times)
        else:
            with attached(modulation, model, condition):
                v = denoise(model, x, times)
            if guided:
                with attached(modulation, model, torch.full_like(condition, torch.nan)):
                    free = denoise(model, x, times)
                v = free + guidance * (v - free)
        if guide is not None and guide.weight != 1.0:
            plain = v if modulation is None and model is guide.denoiser else denoise(guide.denoiser, x, times)
            v = v + (guide.weight - 1.0) * (plain - denoise(guide.weak, x, times))
        # under autocast a denoiser says bfloat16; solvers round what they are given to what they are told
        z = solver.step(v.to(z.dtype), t, z, return_dict=True, **extra).prev_sample
    return z
