"""Run a plan on a Lightning trainer: one bar, no files, unless checkpoints are asked for."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning.pytorch as lp
import torch
from lightning.pytorch.utilities import rank_zero_only
from safetensors.torch import load_file, save_file
from torch.utils.data import DataLoader

from c2lst._logging import LIGHTNING, logger, quiet
from c2lst._logging import progress as progress_bar
from c2lst._settings import settings as package

from ._data import Ticks

if TYPE_CHECKING:
    from ._plans import Plan

STATE, FLAT = "state.safetensors", "flat.safetensors"
HEARTBEAT_S = 20.0  # a process that waits for another hears from it so often


class Bar:
    """One progress bar over the phases of a call; its description says which one is on. Drawn when the first begins."""

    def __init__(self, total: int, show: bool | None):
        self.total, self.show, self.bar = total, show, None
        self.end = 0
        self.encoded = False

    def __getstate__(self) -> dict[str, Any]:
        # a copy in another process draws its own, phase by phase
        return {**self.__dict__, "bar": None, "encoded": False}

    def phase(self, desc: str, length: int, done: int = 0, *, drawn: bool = True) -> None:
        """Begin a phase of `length` steps, of which some may be `done`; what the one before left out is skipped."""
        if self.bar is None:
            show = self.show if drawn else False
            self.bar = progress_bar(total=self.total, desc=desc, show=show, unit="step")
        else:
            self.bar.set_description(desc)
        self.bar.update(self.end + done - self.bar.n)
        self.end += length

    def latents(self, n_batches: int, done: int = 0, *, drawn: bool = True) -> None:
        """Begin the phase in which latents are encoded: once, however many plans learn from them."""
        if not self.encoded:
            self.encoded = True
            self.phase("latents", n_batches, done, drawn=drawn)

    def step(self, losses: list[float] | None = None) -> None:
        """Count a step; show the mean of the last `losses`."""
        self.bar.update()
        if losses:
            recent = losses[-50:]
            self.bar.set_postfix(loss=f"{sum(recent) / len(recent):.3f}", refresh=False)

    def close(self) -> None:
        """Leave the bar as it stands."""
        if self.bar is not None:
            self.bar.close()


class _Count(lp.Callback):
    """Count first of all: Lightning calls callbacks before the plan's own hook, and a checkpoint must know the step."""

    def on_train_start(self, trainer: lp.Trainer, plan: Plan) -> None:
        self.last = time.monotonic()

    def on_train_batch_end(self, trainer: lp.Trainer, plan: Plan, outputs: Any, batch: Any, batch_idx: int) -> None:
        plan.count()
        now = time.monotonic()
        plan.seconds, self.last = plan.seconds + now - self.last, now


class _Encode(lp.Callback):
    """Before the first step, the first process encodes the latents that a plan wants; the others wait and share them.

    Where no folder is given and there are several processes, the file is temporary.
    """

    def __init__(self, bar: Bar | None):
        self.bar, self.temporary = bar, None

    def setup(self, trainer: lp.Trainer, plan: Plan, stage: str) -> None:
        source = getattr(plan, "latents", None)
        if not hasattr(source, "encode"):
            return
        strategy = trainer.strategy
        if trainer.world_size > 1 and source.folder is None:
            if trainer.is_global_zero:
                self.temporary = tempfile.mkdtemp(prefix="c2lst-")
            self.temporary = strategy.broadcast(self.temporary)
            source.folder = Path(self.temporary)
        ready = strategy.broadcast(source.ready)
        if trainer.is_global_zero and self.bar is not None:
            self.bar.latents(source.n_batches, source.n_batches if ready else 0)
        if not ready and trainer.is_global_zero:
            last = time.monotonic()
            for _ in source.encode(strategy.root_device):
                if self.bar is not None:
                    self.bar.step()
                if time.monotonic() - last > HEARTBEAT_S:
                    strategy.broadcast(False)
                    last = time.monotonic()
            strategy.broadcast(True)
        elif not ready:
            while not strategy.broadcast(None):
                pass
        if source.array is None:
            source.open()

    def teardown(self, trainer: lp.Trainer, plan: Plan, stage: str) -> None:
        if self.temporary is not None:
            plan.latents.folder = plan.latents.array = None  # the next plan encodes again
            if trainer.is_global_zero:
                shutil.rmtree(self.temporary, ignore_errors=True)


class _Progress(lp.Callback):
    """Tell a bar of the steps of a plan."""

    def __init__(self, bar: Bar, desc: str, own: bool):
        self.bar, self.desc, self.own = bar, desc, own

    def on_train_start(self, trainer: lp.Trainer, plan: Plan) -> None:
        self.bar.phase(self.desc, plan.steps, plan.step, drawn=trainer.is_global_zero)

    def on_train_batch_end(self, trainer: lp.Trainer, plan: Plan, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.bar.step(plan.losses if plan.step % 20 == 0 else None)

    def on_train_end(self, trainer: lp.Trainer, plan: Plan) -> None:
        if self.own:
            self.bar.close()

    def on_exception(self, trainer: lp.Trainer, plan: Plan, exception: BaseException) -> None:
        self.bar.close()


class _Deadline(lp.Callback):
    """Stop when the time is up, and say so; several processes stop at the same step."""

    def __init__(self, minutes: float, desc: str):
        self.minutes, self.desc = minutes, desc

    def on_train_start(self, trainer: lp.Trainer, plan: Plan) -> None:
        self.look(trainer, plan)  # it may have been over before

    def on_train_batch_end(self, trainer: lp.Trainer, plan: Plan, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.look(trainer, plan)

    def look(self, trainer: lp.Trainer, plan: Plan) -> None:
        over = plan.seconds > 60 * self.minutes
        if trainer.world_size > 1:
            over = trainer.strategy.reduce_boolean_decision(over, all=False)
        if over and plan.step < plan.steps and not trainer.should_stop:
            trainer.should_stop = True
            if trainer.is_global_zero:
                logger.warning(
                    "%s stopped after %.1f minutes at step %d of %d.", self.desc, self.minutes, plan.step, plan.steps
                )


class _Checkpoint(lp.Callback):
    """Safetensors and JSON, written beside and renamed, so that a kill never leaves half a file.

    A trapezoid leaves a second file, the state before its decay: from there a longer one goes on as if it had been
    asked for at once.
    """

    def __init__(self, path: Path, every: int, settings: dict[str, Any]):
        self.path, self.every, self.settings = Path(path), int(every), settings

    def on_train_batch_end(self, trainer: lp.Trainer, plan: Plan, outputs: Any, batch: Any, batch_idx: int) -> None:
        if not trainer.is_global_zero:
            return
        if plan.schedule == "trapezoid" and plan.step == plan.decay_from:
            self.save(trainer, plan, FLAT)
        ended = plan.step >= plan.steps or trainer.should_stop
        if ended or plan.step % self.every == 0:
            self.save(trainer, plan, STATE, ended=ended)

    def save(self, trainer: lp.Trainer, plan: Plan, name: str, *, ended: bool = False) -> None:
        tensors = {f"model.{k}": v for k, v in plan.state_dict().items()}
        state = trainer.optimizers[0].state_dict()["state"]
        tensors |= {f"optimizer.{i}.{k}": v for i, entry in state.items() for k, v in entry.items()}
        best = getattr(plan, "best", None)
        tensors |= {f"best.{k}": v for k, v in (best[1] if best else {}).items()}
        note = {
            "step": plan.step,
            "best": [best[0], best[2]] if best else None,
            "losses": plan.losses,
            "validation": plan.validation,
            "seconds": round(plan.seconds, 3),
            "warmup": plan.warmup,
            "ended": ended,
            "settings": self.settings,
            "engine": _engine(trainer),
        }
        self.path.mkdir(parents=True, exist_ok=True)
        temporary = self.path / f"{name}.part"
        # one file: the note travels in the header, so that tensors and step can never disagree
        contiguous = {k: v.detach().cpu().clone().contiguous() for k, v in tensors.items()}
        save_file(contiguous, temporary, metadata={"c2lst": json.dumps(note)})
        os.replace(temporary, self.path / name)

    def on_train_start(self, trainer: lp.Trainer, plan: Plan) -> None:
        state = getattr(plan, "_restored", None)
        if state is None:
            return
        optimizer = trainer.optimizers[0]
        whole = optimizer.state_dict()
        whole["state"] = state
        optimizer.load_state_dict(whole)
        del plan._restored
        here, there = _engine(trainer), plan._engine
        if there and here != there and trainer.is_global_zero:
            logger.warning(
                "The checkpoint was written on another engine (%s); the result is not that of an uninterrupted run.",
                _differences(there, here),
            )


def _engine(trainer: lp.Trainer) -> dict[str, Any]:
    """Return what changes the bytes of a run without being a setting of it."""
    return {
        "processes": trainer.world_size,
        "precision": str(trainer.precision),
        "device": trainer.strategy.root_device.type,
    }


def _differences(there: dict[str, Any], here: dict[str, Any]) -> str:
    return "; ".join(
        f"{k}={there.get(k, 'unset')!r} there, {here.get(k, 'unset')!r} here"
        for k in sorted({**there, **here})
        if there.get(k, "unset") != here.get(k, "unset")
    )


def read_note(path: str | Path | None, name: str = STATE) -> dict[str, Any] | None:
    """Return what a checkpoint directory notes beside its tensors; `None` where there is no checkpoint."""
    from safetensors import safe_open

    if path is None or not (Path(path) / name).is_file():
        return None
    with safe_open(Path(path) / name, "pt") as opened:
        return json.loads(opened.metadata()["c2lst"])


def _settings(plan: Plan, extra: dict[str, Any] | None) -> dict[str, Any]:
    # through JSON, as the checkpoint has been: a tuple is a list there
    return json.loads(json.dumps({**plan.settings(), **(extra or {})}, default=str))


def _restore(plan: Plan, path: Path, settings: dict[str, Any] | None = None, *, extend: bool = True) -> bool:
    """Load a checkpoint into `plan`, if there is one; strict about its keys and about every one of the `settings`.

    With `extend` the plan may have more steps than the checkpoint was written for.
    """
    path = Path(path)
    note = read_note(path)
    if note is None:
        return False
    file = path / STATE
    there = note["settings"]
    here = there if settings is None else settings
    longer = extend and here["steps"] > there["steps"]
    differ = _differences(
        {k: v for k, v in there.items() if k != "steps" or not longer},
        {k: v for k, v in here.items() if k != "steps" or not longer},
    )
    if differ:
        fewer = extend and here["steps"] < there["steps"]
        why = " It may be extended to more steps, not cut to fewer." if fewer else ""
        raise ValueError(
            f"{file} was written with other settings: {differ}.{why} Give those it was written with, or another "
            "directory to begin anew."
        )
    if longer and plan.schedule == "trapezoid" and (path / FLAT).is_file():
        flat = read_note(path, FLAT)
        if flat["step"] <= note["step"] and flat["settings"] == there:
            logger.info("More steps are asked for: back to step %d, before the rate fell.", flat["step"])
            file, note = path / FLAT, {**flat, "seconds": note["seconds"]}
    tensors = load_file(file)
    plan.load_state_dict({k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")})
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("optimizer."):
            _, index, name = key.split(".", 2)
            state.setdefault(int(index), {})[name] = value
    if note.get("best"):
        value, step = note["best"]
        plan.best = (value, {k.removeprefix("best."): v for k, v in tensors.items() if k.startswith("best.")}, step)
    plan.step, plan.losses = int(note["step"]), list(note["losses"])
    plan.validation = [tuple(v) for v in note["validation"]]
    plan.seconds, plan.warmup = float(note["seconds"]), int(note["warmup"])
    plan._restored, plan._engine, plan._ended = state, note["engine"], bool(note["ended"])
    return True


def fit(
    plan: Plan,
    *,
    desc: str,
    accelerator: str = "auto",
    devices: int | str = 1,
    strategy: str = "auto",
    num_nodes: int = 1,
    precision: str | None = None,
    clip: float | None = 1.0,
    checkpoint: str | Path | None = None,
    every: int = 500,
    settings: dict[str, Any] | None = None,
    extend: bool = True,
    max_minutes: float | None = None,
    progress: bool | None = None,
    bar: Bar | None = None,
) -> Plan:
    """Train `plan` for its steps, or until `max_minutes` are over; go on from `checkpoint` where it holds one.

    Parameters
    ----------
    precision
        `None` is bf16 autocast where the processor or GPU has it, and float32 elsewhere.
    clip
        Largest norm of the gradient; `None` does not clip.
    every
        Steps between two checkpoints; one more is written at the end.
    settings
        What else must be the same for a checkpoint to be taken up, beside what `plan.settings()` says.
    extend
        Whether a checkpoint that has ended may be trained on: to more steps, or to more minutes. Otherwise it is only
        read.
    max_minutes
        Time in training, all sittings together as far as checkpoints know of them.
    bar
        A bar of the caller's, of which this is a phase; `None` makes one.
    """
    if accelerator == "auto":
        accelerator = package.accelerator
    whole = _settings(plan, {"clip": clip, **(settings or {})})
    own, bar = bar is None, bar or Bar(plan.steps, progress)
    done = False
    if checkpoint is not None and _restore(plan, Path(checkpoint), whole, extend=extend):
        done = plan._ended and not extend
        if rank_zero_only.rank in (None, 0):
            logger.info("%s: step %d of %d is found in %s.", desc, plan.step, plan.steps, checkpoint)
    left = plan.steps - plan.step
    if left > 0 and not done:
        with quiet(*LIGHTNING), torch.random.fork_rng(devices=[]), tempfile.TemporaryDirectory() as scratch:
            trainer = lp.Trainer(
                accelerator=accelerator,
                devices=devices,
                strategy=strategy,
                num_nodes=num_nodes,
                precision=precision or default_precision(accelerator),
                max_steps=left,
                max_epochs=1,
                gradient_clip_val=clip,
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
                use_distributed_sampler=False,
            )
            # processes that are forked or spawned keep what they learn to themselves: it comes back by a checkpoint
            apart = type(trainer.strategy.launcher).__name__ == "_MultiProcessingLauncher"
            if checkpoint is None and apart:
                checkpoint, every = scratch, left
            callbacks: list[lp.Callback] = [_Count(), _Encode(None if own else bar), _Progress(bar, desc, own)]
            if max_minutes is not None:
                callbacks.append(_Deadline(max_minutes, desc))
            if checkpoint is not None:
                callbacks.append(_Checkpoint(Path(checkpoint), every, whole))
            trainer.callbacks.extend(callbacks)
            trainer.fit(plan, DataLoader(Ticks(left), batch_size=None))
            if apart:
                _restore(plan, Path(checkpoint), whole)
                n_batches = 0 if bar.encoded else getattr(getattr(plan, "latents", None), "n_batches", 0)
                bar.encoded = bar.encoded or bool(n_batches)
                bar.end += plan.steps + n_batches
    elif not own:
        waiting = getattr(plan, "latents", None)
        if plan.steps and hasattr(waiting, "encode"):
            bar.latents(waiting.n_batches, waiting.n_batches, drawn=rank_zero_only.rank in (None, 0))
        bar.phase(desc, plan.steps, plan.steps, drawn=rank_zero_only.rank in (None, 0))
    if hasattr(plan, "_restored"):
        del plan._restored
    return plan.cpu().eval()


def default_precision(accelerator: str = "auto") -> str:
    """Return "bf16-mixed" where it pays, "32-true" elsewhere."""
    if accelerator != "cpu" and torch.cuda.is_available():
        return "bf16-mixed" if torch.cuda.is_bf16_supported() else "16-mixed"
    return "bf16-mixed" if accelerator in ("auto", "cpu") and has_bfloat16() else "32-true"


def has_bfloat16() -> bool:
    """Say whether the processor computes in bfloat16 itself."""
    capability = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    tiles = getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    return bool(capability() or tiles())
