"""Run a plan on a Lightning trainer: one bar, no files, unless checkpoints are asked for."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning.pytorch as lp
import torch
from safetensors.torch import load_file, save_file
from torch.utils.data import DataLoader

from c2lst._logging import LIGHTNING, logger, quiet
from c2lst._logging import progress as progress_bar

from ._data import Ticks

if TYPE_CHECKING:
    from ._plans import Plan


class _Count(lp.Callback):
    """Count first of all: Lightning calls callbacks before the plan's own hook, and a checkpoint must know the step."""

    def on_train_batch_end(self, trainer: lp.Trainer, plan: Plan, outputs: Any, batch: Any, batch_idx: int) -> None:
        plan.count()


class _Bar(lp.Callback):
    """One progress bar over the steps of a plan."""

    def __init__(self, desc: str, show: bool | None):
        self.desc, self.show, self.bar = desc, show, None

    def on_train_start(self, trainer: lp.Trainer, plan: Plan) -> None:
        show = self.show if trainer.is_global_zero else False
        self.bar = progress_bar(total=plan.steps, desc=self.desc, show=show, unit="step")
        self.bar.update(plan.step)

    def on_train_batch_end(self, trainer: lp.Trainer, plan: Plan, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.bar.update()
        if plan.step % 20 == 0:
            recent = plan.losses[-50:]
            self.bar.set_postfix(loss=f"{sum(recent) / len(recent):.3f}", refresh=False)

    def on_train_end(self, trainer: lp.Trainer, plan: Plan) -> None:
        self.bar.close()

    def on_exception(self, trainer: lp.Trainer, plan: Plan, exception: BaseException) -> None:
        if self.bar is not None:
            self.bar.close()


class _Deadline(lp.Callback):
    """Stop when the time is up, and say so."""

    def __init__(self, minutes: float, desc: str):
        self.end, self.minutes, self.desc = time.monotonic() + 60 * minutes, minutes, desc

    def on_train_batch_end(self, trainer: lp.Trainer, plan: Plan, outputs: Any, batch: Any, batch_idx: int) -> None:
        if time.monotonic() > self.end and plan.step < plan.steps and not trainer.should_stop:
            trainer.should_stop = True
            logger.warning(
                "%s stopped after %.1f minutes at step %d of %d.", self.desc, self.minutes, plan.step, plan.steps
            )


class _Checkpoint(lp.Callback):
    """Safetensors and JSON, written beside and renamed, so that a kill never leaves half a file."""

    def __init__(self, path: Path, every: int):
        self.path, self.every = Path(path), int(every)

    def on_train_batch_end(self, trainer: lp.Trainer, plan: Plan, outputs: Any, batch: Any, batch_idx: int) -> None:
        if plan.step % self.every == 0 and trainer.is_global_zero:
            self.save(trainer, plan)

    def save(self, trainer: lp.Trainer, plan: Plan) -> None:
        tensors = {f"model.{k}": v for k, v in plan.state_dict().items()}
        state = trainer.optimizers[0].state_dict()["state"]
        tensors |= {f"optimizer.{i}.{k}": v for i, entry in state.items() for k, v in entry.items()}
        note = {"step": plan.step, "losses": plan.losses, "validation": plan.validation, "seed": plan.seed}
        self.path.mkdir(parents=True, exist_ok=True)
        temporary = self.path / "state.safetensors.part"
        # one file: the note travels in the header, so that tensors and step can never disagree
        contiguous = {k: v.detach().cpu().clone().contiguous() for k, v in tensors.items()}
        save_file(contiguous, temporary, metadata={"c2lst": json.dumps(note)})
        os.replace(temporary, self.path / "state.safetensors")

    def on_train_start(self, trainer: lp.Trainer, plan: Plan) -> None:
        state = getattr(plan, "_restored", None)
        if state is not None:
            optimizer = trainer.optimizers[0]
            whole = optimizer.state_dict()
            whole["state"] = state
            optimizer.load_state_dict(whole)
            del plan._restored


def _restore(plan: Plan, path: Path) -> bool:
    """Load a checkpoint into `plan`, if there is one; strict about its keys and its seed."""
    from safetensors import safe_open

    file = Path(path) / "state.safetensors"
    if not file.is_file():
        return False
    with safe_open(file, "pt") as opened:
        note = json.loads(opened.metadata()["c2lst"])
    if note["seed"] != plan.seed:
        raise ValueError(f"{file} was written with seed={note['seed']}, not {plan.seed}; give another directory.")
    tensors = load_file(file)
    plan.load_state_dict({k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")})
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("optimizer."):
            _, index, name = key.split(".", 2)
            state.setdefault(int(index), {})[name] = value
    plan.step, plan.losses = int(note["step"]), list(note["losses"])
    plan.validation = [tuple(v) for v in note["validation"]]
    plan._restored = state
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
    checkpoint: str | Path | None = None,
    every: int = 500,
    max_minutes: float | None = None,
    progress: bool | None = None,
) -> Plan:
    """Train `plan` for its steps, or until `max_minutes` are over; go on from `checkpoint` where it holds one.

    `precision=None` is bf16 autocast where the processor or GPU has it, and float32 elsewhere.
    """
    callbacks: list[lp.Callback] = [_Count(), _Bar(desc, progress)]
    if checkpoint is not None:
        if _restore(plan, Path(checkpoint)):
            logger.info("%s goes on from step %d of %d.", desc, plan.step, plan.steps)
        callbacks.append(_Checkpoint(Path(checkpoint), every))
    if max_minutes is not None:
        callbacks.append(_Deadline(max_minutes, desc))
    left = plan.steps - plan.step
    if left > 0:
        with quiet(*LIGHTNING), torch.random.fork_rng(devices=[]):
            trainer = lp.Trainer(
                accelerator=accelerator,
                devices=devices,
                strategy=strategy,
                num_nodes=num_nodes,
                precision=precision or default_precision(accelerator),
                max_steps=left,
                max_epochs=1,
                gradient_clip_val=1.0,
                callbacks=callbacks,
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
                use_distributed_sampler=False,
            )
            trainer.fit(plan, DataLoader(Ticks(left), batch_size=None))
    return plan.cpu().eval()


def default_precision(accelerator: str = "auto") -> str:
    """Return "bf16-mixed" where it pays, "32-true" elsewhere."""
    if accelerator != "cpu" and torch.cuda.is_available():
        return "bf16-mixed" if torch.cuda.is_bf16_supported() else "16-mixed"
    capability = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    tiles = getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    return "bf16-mixed" if accelerator in ("auto", "cpu") and (capability() or tiles()) else "32-true"
