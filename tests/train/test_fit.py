from __future__ import annotations

import logging
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from c2lst import nn, train
from c2lst.train._data import Ahead

ALONE = {"desc": "test", "accelerator": "cpu", "precision": "32-true", "progress": False}


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def denoiser_plan(seed=0, steps=8, cls=train.DenoiserPlan):
    torch.manual_seed(5)
    model = nn.make_denoiser(latent_channels=2, latent_px=4, width=16, depth=2, heads=2)
    torch.nn.init.normal_(model.proj_out.weight, std=0.05)
    latents = torch.randn(12, 2, 4, 4, generator=torch.Generator().manual_seed(1))
    held = torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(2))
    return cls(
        model, FlowMatchEulerDiscreteScheduler(), latents, held_out=held, check_every=2, steps=steps, batch_size=4,
        lr=1e-3, seed=seed,
    )  # fmt: skip


def cnn_plan(seed=0, steps=6, cls=train.CNNPlan):
    torch.manual_seed(5)
    network = nn.PatchCNN(2, channels=(8, 8), dropout=0.5)
    images = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)
    target = torch.randn(6, 2, generator=torch.Generator().manual_seed(3))
    return cls(network, train.Pool([images]), target, torch.ones(6), steps=steps, batch_size=4, lr=1e-2, seed=seed)


MAKERS = {"denoiser": denoiser_plan, "cnn with dropout": cnn_plan}


def state(plan):
    return {k: v.clone() for k, v in plan.state_dict().items()}


def assert_same(a, b):
    assert a.keys() == b.keys()
    for key in a:
        assert torch.equal(a[key], b[key]), key


def killed(cls, at):
    """A plan that loses power in the middle of step `at`."""

    class Killed(cls):
        def loss(self, generator):
            if self.step == at:
                raise RuntimeError("power cut")
            return super().loss(generator)

    Killed.__name__ = cls.__name__  # a checkpoint names the class
    return Killed


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_same_seed_same_bytes_and_another_seed_others(make):
    a, b = train.fit(make(), **ALONE), train.fit(make(), **ALONE)
    assert_same(state(a), state(b))
    assert a.losses == b.losses
    c = train.fit(make(seed=1), **ALONE)
    assert a.losses != c.losses
    assert a.step == a.steps == len(a.losses)
    assert not a.training


def test_weights_move_and_the_callers_random_state_does_not():
    plan = denoiser_plan()
    start = state(plan)
    before, numpy_before = torch.random.get_rng_state(), np.random.get_state()[1].copy()
    train.fit(plan, **ALONE)
    assert torch.equal(torch.random.get_rng_state(), before)
    np.testing.assert_array_equal(np.random.get_state()[1], numpy_before)
    assert any(not torch.equal(start[k], v) for k, v in plan.state_dict().items() if k.startswith("denoiser"))


@pytest.mark.parametrize("at", [1, 4, 5])
@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_a_killed_run_goes_on_as_if_it_had_not_been(make, at, tmp_path):
    whole = train.fit(make(), **ALONE)
    cls = type(whole)
    with pytest.raises(RuntimeError, match="power cut"):
        train.fit(make(cls=killed(cls, at)), checkpoint=tmp_path, every=2, **ALONE)
    # a checkpoint after every second finished step, and none before
    assert (tmp_path / "state.safetensors").is_file() == (at >= 2)
    again = make()
    train.fit(again, checkpoint=tmp_path, every=2, **ALONE)
    assert_same(state(whole), state(again))
    assert again.losses == whole.losses
    assert again.validation == whole.validation
    assert again.step == whole.steps
    assert [p.name for p in tmp_path.iterdir()] == ["state.safetensors"]


def test_a_checkpoint_holds_the_weights_of_the_step_it_names(tmp_path):
    short = denoiser_plan()
    with pytest.raises(RuntimeError, match="power cut"):
        train.fit(denoiser_plan(cls=killed(train.DenoiserPlan, 3)), checkpoint=tmp_path, every=2, **ALONE)
    from c2lst.train._fit import _restore

    assert _restore(short, tmp_path)
    assert short.step == 2
    assert len(short.losses) == 2
    assert short.validation[-1][0] == 2
    assert all(float(s["step"]) == 2 for s in short._restored.values())


def test_a_finished_run_is_only_read(tmp_path):
    whole = denoiser_plan()
    train.fit(whole, checkpoint=tmp_path, every=4, **ALONE)
    stamp = (tmp_path / "state.safetensors").stat().st_mtime_ns
    again = train.fit(denoiser_plan(), checkpoint=tmp_path, every=4, **ALONE)
    assert_same(state(whole), state(again))
    assert (tmp_path / "state.safetensors").stat().st_mtime_ns == stamp


def test_a_checkpoint_of_another_seed_is_refused(tmp_path):
    train.fit(cnn_plan(steps=2), checkpoint=tmp_path, every=1, **ALONE)
    other = cnn_plan(seed=4, steps=2)
    before = state(other)
    with pytest.raises(ValueError, match=r"seed=0 there, 4 here\. Give those .* another\s+directory"):
        train.fit(other, checkpoint=tmp_path, **ALONE)
    assert_same(before, state(other))
    assert other.step == 0


def trapezoid(steps):
    plan = denoiser_plan(steps=steps)
    plan.schedule = "trapezoid"
    return plan


def test_a_longer_trapezoid_is_the_one_asked_for_at_once(tmp_path):
    whole = train.fit(trapezoid(16), **ALONE)
    short = train.fit(trapezoid(10), checkpoint=tmp_path, **ALONE)
    assert short.step == 10
    assert sorted(p.name for p in tmp_path.iterdir()) == ["flat.safetensors", "state.safetensors"]
    long = train.fit(trapezoid(16), checkpoint=tmp_path, **ALONE)
    assert_same(state(whole), state(long))
    assert long.losses == whole.losses
    assert long.validation == whole.validation
    with pytest.raises(ValueError, match=r"steps=16 there, 12 here\. It may be extended to more steps, not cut"):
        train.fit(trapezoid(12), checkpoint=tmp_path, **ALONE)


def test_a_longer_cosine_goes_on_from_the_end(tmp_path):
    short = train.fit(denoiser_plan(steps=4), checkpoint=tmp_path, **ALONE)
    long = train.fit(denoiser_plan(steps=6), checkpoint=tmp_path, **ALONE)
    assert long.losses[:4] == short.losses
    assert long.step == len(long.losses) == 6


def test_what_may_not_be_extended_is_only_read(tmp_path):
    short = train.fit(denoiser_plan(), checkpoint=tmp_path, max_minutes=1e-9, **ALONE)
    again = train.fit(denoiser_plan(), checkpoint=tmp_path, extend=False, **ALONE)
    assert short.step == again.step == 1
    assert_same(state(short), state(again))
    with pytest.raises(ValueError, match="steps=8 there, 9 here"):
        train.fit(denoiser_plan(steps=9), checkpoint=tmp_path, extend=False, **ALONE)


def test_settings_of_the_caller_count_too(tmp_path):
    train.fit(cnn_plan(), checkpoint=tmp_path, settings={"data": "a", "channels": (8, 8)}, **ALONE)
    train.fit(cnn_plan(), checkpoint=tmp_path, settings={"data": "a", "channels": (8, 8)}, **ALONE)
    with pytest.raises(ValueError, match="clip=1.0 there, 0.5 here; data='a' there, 'b' here"):
        train.fit(cnn_plan(), checkpoint=tmp_path, settings={"data": "b", "channels": (8, 8)}, clip=0.5, **ALONE)


def test_minutes_count_over_all_sittings(tmp_path):
    first = train.fit(denoiser_plan(), checkpoint=tmp_path, max_minutes=1e-9, **ALONE)
    assert first.seconds > 0
    stamp = (tmp_path / "state.safetensors").stat().st_mtime_ns
    again = train.fit(denoiser_plan(), checkpoint=tmp_path, max_minutes=1e-9, **ALONE)
    assert again.step == len(again.losses) == 1
    assert_same(state(first), state(again))
    assert (tmp_path / "state.safetensors").stat().st_mtime_ns == stamp
    assert train.fit(denoiser_plan(), checkpoint=tmp_path, max_minutes=60, **ALONE).step == 8


def test_another_engine_is_told(tmp_path, caplog):
    train.fit(denoiser_plan(), checkpoint=tmp_path, max_minutes=1e-9, **ALONE)
    with caplog.at_level(logging.WARNING, "c2lst"):
        train.fit(denoiser_plan(), checkpoint=tmp_path, **{**ALONE, "precision": "bf16-mixed"})
    assert "precision='32-true' there, 'bf16-mixed' here" in caplog.text


def test_a_gradient_is_clipped_as_asked():
    norms = []

    class Looked(train.CNNPlan):
        def on_train_batch_end(self, outputs, batch, batch_idx):
            norms.append(float(torch.stack([p.grad.norm() for p in self.trained()]).norm()))

    for clip in (1e-3, None):
        train.fit(cnn_plan(cls=Looked, steps=2), clip=clip, **ALONE)
    assert norms[:2] == pytest.approx([1e-3, 1e-3], rel=1e-2)
    assert min(norms[2:]) > 1e-2


def test_what_has_diverged_stops_and_says_so(tmp_path):
    class Diverging(train.DenoiserPlan):
        def loss(self, generator):
            return super().loss(generator) * (torch.inf if self.step == 5 else 1.0)

    with pytest.raises(FloatingPointError, match="inf at step 5 of 8: training has diverged"):
        train.fit(denoiser_plan(cls=Diverging), checkpoint=tmp_path, every=4, **ALONE)
    # what was written before stands
    assert train.read_note(tmp_path)["step"] == 4
    gone_on = denoiser_plan()
    train._fit._restore(gone_on, tmp_path)
    assert np.isfinite(gone_on.losses).all()


def test_batches_drawn_in_threads_train_the_same_model(monkeypatch):
    alone, beside = denoiser_plan(), denoiser_plan()

    def on_fit_start(plan):
        plan.ahead = Ahead(lambda step: plan.batch(plan.draws(step)))

    train.fit(alone, **ALONE)
    monkeypatch.setattr(train.DenoiserPlan, "on_fit_start", on_fit_start)
    train.fit(beside, **ALONE)
    assert_same(state(alone), state(beside))
    assert alone.losses == beside.losses and beside.ahead is None


def test_time_is_up(caplog):
    with caplog.at_level(logging.WARNING, "c2lst"):
        plan = train.fit(denoiser_plan(), max_minutes=1e-9, **ALONE)
    assert plan.step == 1
    assert "test stopped after 0.0 minutes at step 1 of 8" in caplog.text


@pytest.mark.parametrize("show", [True, False])
def test_one_bar_counts_every_step(monkeypatch, capsys, show):
    import c2lst.train._fit as module

    made = []

    class Bar:
        def __init__(self, **kwargs):
            self.kwargs, self.n, self.closed = kwargs, 0, False
            made.append(self)

        def update(self, n=1):
            self.n += n

        def set_postfix(self, **_):
            pass

        def close(self):
            self.closed = True

    monkeypatch.setattr(module, "progress_bar", lambda **kwargs: Bar(**kwargs))
    train.fit(cnn_plan(), **{**ALONE, "progress": show})
    assert len(made) == 1
    assert made[0].kwargs["total"] == made[0].n == 6
    assert made[0].kwargs["show"] is show
    assert made[0].closed
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == ""


def test_the_bar_is_drawn_once_for_a_person_and_closed_by_an_error(capsys):
    train.fit(cnn_plan(), **{**ALONE, "progress": True})
    # drawn over itself: one line, however often
    lines = [line for line in capsys.readouterr().err.split("\n") if "%|" in line]
    assert len(lines) == 1
    last = lines[0].split("\r")[-1]
    assert "test" in last
    assert "6/6" in last


def test_nothing_is_written_without_a_checkpoint(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    train.fit(cnn_plan(steps=2), **ALONE)
    assert not list(tmp_path.iterdir())


def test_default_precision_is_a_choice_of_lightning():
    assert train._fit.default_precision("cpu") in ("bf16-mixed", "32-true")


@contextmanager
def log_level(name, level):
    log = logging.getLogger(name)
    before = log.level
    log.setLevel(level)
    yield log
    log.setLevel(before)


def test_lightnings_loggers_speak_as_loud_afterwards():
    with log_level("lightning.pytorch", logging.WARNING) as log:
        train.fit(cnn_plan(steps=1), **ALONE)
        assert log.level == logging.WARNING
