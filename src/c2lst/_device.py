"""Where networks run when they only look: patches are drawn, encoded and embedded on the GPU, where there is one."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from c2lst._settings import settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch


def device() -> torch.device:
    """Return the device that `c2lst.settings.accelerator` means. Raises `RuntimeError` where it is asked for and is not there."""
    import torch

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
    """Within the block the modules are where networks run; afterwards they are in main memory again."""
    here = device()
    try:
        if here.type != "cpu":
            for module in modules:
                module.to(here)
        yield here
    finally:
        if here.type != "cpu":
            for module in modules:
                module.to("cpu")
