from __future__ import annotations

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    PNDMScheduler,
)

from c2lst import nn

SCHEDULERS = {
    "flow": FlowMatchEulerDiscreteScheduler(),
    "ddim": DDIMScheduler(num_train_timesteps=100, clip_sample=False),
    "ddpm": DDPMScheduler(num_train_timesteps=100, clip_sample=False),
    "ddpm v": DDPMScheduler(num_train_timesteps=100, clip_sample=False, prediction_type="v_prediction"),
    "dpm": DPMSolverMultistepScheduler(num_train_timesteps=100),
    "sde": DPMSolverMultistepScheduler(num_train_timesteps=100, algorithm_type="sde-dpmsolver++"),
    "euler": EulerDiscreteScheduler(num_train_timesteps=100),
    "dpm with a learned variance": DPMSolverMultistepScheduler(num_train_timesteps=100, variance_type="learned_range"),
    "ddpm with a learned variance": DDPMScheduler(
        num_train_timesteps=100, clip_sample=False, variance_type="learned_range"
    ),
    "pndm": PNDMScheduler(num_train_timesteps=100, skip_prk_steps=True),
}


def drawn():
    generator = torch.Generator().manual_seed(0)
    z, noise = (torch.randn(4, 2, 3, 3, generator=generator) for _ in range(2))
    return z, noise, torch.tensor([0.0, 0.25, 0.5, 0.99])


def test_flow_matching_by_hand():
    z, noise, u = drawn()
    noisy, t, target = nn.Objective(SCHEDULERS["flow"]).noised(z, noise, u)
    for i, s in enumerate(u.tolist()):
        torch.testing.assert_close(noisy[i], (1 - s) * z[i] + s * noise[i])
    torch.testing.assert_close(target, noise - z)
    torch.testing.assert_close(t, 1000 * u)
    # one straight step back along the target finds the image again
    torch.testing.assert_close(noisy - u.view(-1, 1, 1, 1) * target, z)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_noising_and_targets_are_the_schedulers_own(kind):
    z, noise, u = drawn()
    scheduler = DDPMScheduler(num_train_timesteps=100, prediction_type=kind)
    noisy, t, target = nn.Objective(scheduler).noised(z, noise, u)
    assert t.tolist() == [0, 25, 50, 99]
    torch.testing.assert_close(noisy, scheduler.add_noise(z, noise, t))
    expected = {"epsilon": noise, "sample": z, "v_prediction": scheduler.get_velocity(z, noise, t)}[kind]
    torch.testing.assert_close(target, expected)


def test_epsilon_and_v_say_the_same():
    z, noise, u = drawn()
    of = {
        kind: nn.Objective(DDPMScheduler(num_train_timesteps=100, prediction_type=kind)).noised(z, noise, u)
        for kind in ("epsilon", "v_prediction", "sample")
    }
    noisy, t, v = of["v_prediction"]
    alpha = DDPMScheduler(num_train_timesteps=100).alphas_cumprod[t].view(-1, 1, 1, 1)
    torch.testing.assert_close(alpha.sqrt() * v + (1 - alpha).sqrt() * noisy, of["epsilon"][2])
    torch.testing.assert_close(alpha.sqrt() * noisy - (1 - alpha).sqrt() * v, of["sample"][2])


def test_times_are_logit_normal_for_flow_and_uniform_otherwise():
    generator = torch.Generator().manual_seed(0)
    flow = nn.Objective(SCHEDULERS["flow"]).draw_times(20000, generator)
    plain = nn.Objective(SCHEDULERS["ddpm"]).draw_times(20000, generator)
    for u in (flow, plain):
        assert 0 <= u.min() <= u.max() <= 1
        assert u.mean().item() == pytest.approx(0.5, abs=0.01)
    assert torch.logit(flow).std().item() == pytest.approx(1.0, abs=0.03)
    assert plain.std().item() == pytest.approx(12**-0.5, abs=0.01)
    # a shift multiplies the odds
    for name in ("flow", "ddpm"):
        generator.manual_seed(0)
        first = nn.Objective(SCHEDULERS[name]).draw_times(10, generator)
        generator.manual_seed(0)
        shifted = nn.Objective(SCHEDULERS[name]).draw_times(10, generator, shift=3.0)
        torch.testing.assert_close(torch.logit(shifted), torch.logit(first) + 1.0986123, rtol=1e-4, atol=1e-4)


def test_some_times_are_drawn_evenly():
    objective = nn.Objective(SCHEDULERS["flow"])

    def near_noise(even):
        return (objective.draw_times(40000, torch.Generator().manual_seed(0), 2.0, even) > 0.95).float().mean().item()

    assert near_noise(0.0) == pytest.approx(1 / 82, abs=0.003)
    assert near_noise(0.5) == pytest.approx(0.5 / 82 + 0.5 / 20, abs=0.003)
    assert near_noise(1.0) == pytest.approx(1 / 20, abs=0.003)


@pytest.mark.parametrize("sigma", [0.2, 0.45, 0.7])
def test_a_share_of_noise_has_its_time_in_every_scheduler(sigma):
    assert nn.Objective(SCHEDULERS["flow"]).time_of(sigma) == sigma * SCHEDULERS["flow"].config.num_train_timesteps
    ddpm = DDPMScheduler()
    t = nn.Objective(ddpm).time_of(sigma)
    assert t == int(t)
    alpha = float(ddpm.alphas_cumprod[int(t)])
    # signal to noise, as the flow has it there
    assert alpha**0.5 / (1 - alpha) ** 0.5 == pytest.approx((1 - sigma) / sigma, rel=0.02)


def test_loss_is_the_mean_square_per_patch(denoiser, latents):
    objective = nn.Objective(SCHEDULERS["flow"])
    noise, u = torch.randn_like(latents), torch.tensor([0.1, 0.5, 0.9])
    noisy, t, target = objective.noised(latents, noise, u)
    expected = (nn.denoise(denoiser, noisy, t) - target).square().flatten(1).mean(1)
    torch.testing.assert_close(objective.loss(denoiser, latents, noise, u), expected)


def test_unknown_schedulers_are_named():
    with pytest.raises(ValueError, match="prediction_type='flow_prediction'"):
        nn.Objective(DPMSolverMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True))
    with pytest.raises(TypeError, match="object is not a scheduler"):
        nn.Objective(object())


class Toy(torch.nn.Module):
    """Says a fixed multiple of what it sees."""

    def forward(self, z, t):
        return 0.3 * z


@pytest.mark.parametrize("scheduler", SCHEDULERS.values(), ids=SCHEDULERS)
def test_samples_do_not_depend_on_the_others_of_the_batch(scheduler, monkeypatch):
    import c2lst.nn._objective as module

    monkeypatch.setattr(module, "denoise", lambda model, z, t: model(z, t))
    noise = torch.randn(4, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    whole = nn.sample(Toy(), scheduler, noise, steps=3)
    assert torch.equal(nn.sample(Toy(), scheduler, noise, steps=3), whole)
    order = [2, 0, 3]
    torch.testing.assert_close(nn.sample(Toy(), scheduler, noise[order], steps=3), whole[order])
    torch.testing.assert_close(nn.sample(Toy(), scheduler, noise[1:2], steps=3)[0], whole[1])
    assert torch.isfinite(whole).all()


def test_a_denoiser_that_knows_the_answer_arrives(monkeypatch):
    import c2lst.nn._objective as module

    goal = torch.randn(2, 2, 4, 4, generator=torch.Generator().manual_seed(1))
    noise = torch.randn(2, 2, 4, 4, generator=torch.Generator().manual_seed(2))
    monkeypatch.setattr(module, "denoise", lambda model, z, t: noise - goal)
    # the first of 1,000 times is .999, not 1
    torch.testing.assert_close(nn.sample(Toy(), SCHEDULERS["flow"], noise, steps=4), goal, rtol=0, atol=0.006)


def test_a_guide_is_kept_away_from(monkeypatch):
    import c2lst.nn._objective as module

    calls = []

    def says(model, z, t):
        calls.append(model)
        return model.weight * z

    strong, weak = Toy(), Toy()
    strong.weight, weak.weight = 0.3, 0.1
    monkeypatch.setattr(module, "denoise", says)
    noise = torch.randn(2, 2, 4, 4, generator=torch.Generator().manual_seed(2))

    def drawn(guide=None, model=strong):
        calls.clear()
        return nn.sample(model, SCHEDULERS["flow"], noise, steps=3, guide=guide)

    plain = drawn()
    assert torch.equal(drawn(nn.Guide(strong, weak, 1.0)), plain) and len(calls) == 3
    guided = drawn(nn.Guide(strong, weak, 1.5))
    assert len(calls) == 6  # the strong one is asked once a step
    # .3 + .5 (.3 - .1)
    further = Toy()
    further.weight = 0.4
    torch.testing.assert_close(drawn(model=further), guided)
    # what is drawn with may be another one: the difference is that of the two all the same
    other = Toy()
    other.weight = 0.7
    further.weight = 0.8
    torch.testing.assert_close(drawn(nn.Guide(strong, weak, 1.5), model=other), drawn(model=further))


def test_the_callers_scheduler_and_random_state_are_left_alone(denoiser, latents):
    scheduler = DPMSolverMultistepScheduler(num_train_timesteps=100)
    before = torch.random.get_rng_state()
    nn.sample(denoiser, scheduler, latents, steps=2)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert scheduler.num_inference_steps is None


def test_samples_have_the_spread_of_the_data(monkeypatch):
    """Of white latents, for which the best denoiser is known."""
    import c2lst.nn._objective as module

    mean = 0.3

    def knows(model, x, t):
        sigma = (t / 1000).view(-1, 1, 1, 1)
        clean = mean + (1 - sigma) / ((1 - sigma) ** 2 + sigma**2) * (x - (1 - sigma) * mean)
        return (x - clean) / sigma  # noise minus data

    monkeypatch.setattr(module, "denoise", knows)
    noise = torch.randn(64, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    for steps in (12, 16, 32):
        z = nn.sample(Toy(), SCHEDULERS["flow"], noise, steps=steps)
        assert z.mean().item() == pytest.approx(mean, abs=0.01)
        assert z.var().item() == pytest.approx(1.0, abs=0.025)
    # Euler's method, which the scheduler itself would be, loses a part of it
    monkeypatch.setattr(module, "solver_of", lambda scheduler: type(scheduler).from_config(scheduler.config))
    assert nn.sample(Toy(), SCHEDULERS["flow"], noise, steps=16).var().item() < 0.87


def test_a_scheduler_that_is_no_plain_euler_draws_itself():
    from c2lst.nn._objective import solver_of

    stochastic = FlowMatchEulerDiscreteScheduler(stochastic_sampling=True)
    for scheduler in (stochastic, SCHEDULERS["ddpm"]):
        assert type(solver_of(scheduler)) is type(scheduler) and solver_of(scheduler) is not scheduler
    shifted = solver_of(FlowMatchEulerDiscreteScheduler(shift=3.0))
    assert isinstance(shifted, DPMSolverMultistepScheduler) and shifted.config.flow_shift == 3.0
