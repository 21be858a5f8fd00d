"""Where networks run when they only look: patches are drawn, encoded and embedded on the GPU, where there is one."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from c2lst._settings import settings

if TYPE_CHECKING:
    from collections.abc import Iterator


def compute_device() -> torch.device:
    """Return the device that `c2lst.settings.accelerator` means. Raises `RuntimeError` where it is asked for and is not there."""
    asked = settings.accelerator
    if asked != "cpu" and torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    if asked in ("gpu", "cuda"):
        raise RuntimeError(
            f"c2lst.settings.accelerator is {asked!r}, but torch sees no CUDA GPU. 'auto' takes one where there is one."
        )
    return torch.device("cpu")


@contextmanager
def on_device(*modules: torch.nn.Module) -> Iterator[torch.device]:
    """Within the block the modules are where networks run; afterwards they are in main memory again.

    Float32 is float32 there: convolutions do not round to TF32, so that grey levels are those of a processor.
    """
    here = compute_device()
    if here.type == "cpu":
        yield here
        return
    with _no_tf32():
        try:
            for module in modules:
                module.to(here)
            yield here
        finally:
            for module in modules:
                module.to("cpu")


@contextmanager
def _no_tf32() -> Iterator[None]:
    cudnn = torch.backends.cudnn
    try:
        was = cudnn.allow_tf32
        cudnn.allow_tf32 = False
    except RuntimeError:  # said in torch's newer way, which does not mix with this one: the caller's choice
        was = None
    try:
        yield
    finally:
        if was is not None:
            cudnn.allow_tf32 = was
