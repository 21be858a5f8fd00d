"""Arrays or zarr stores as training data: what a step sees follows from the seed and the step alone."""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import IterableDataset

from c2lst import nn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray
    from torch import Tensor


class Pool:
    """Several arrays addressed as one: `(n_i, H, W, 3)` in memory or lazily in a store; `rows` are all, or a choice."""

    def __init__(self, parts: Sequence[Any], rows: NDArray[np.int64] | None = None):
        self.parts = list(parts)
        self.starts = np.cumsum([0, *(len(p) for p in self.parts)])
        self.rows = None if rows is None else np.asarray(rows, dtype=np.int64)

    def __len__(self) -> int:
        return int(self.starts[-1]) if self.rows is None else len(self.rows)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the whole."""
        return (len(self), *self.parts[0].shape[1:])

    @property
    def nbytes(self) -> int:
        """Size in bytes once read."""
        return int(np.prod(self.shape)) * self.parts[0].dtype.itemsize

    @property
    def in_memory(self) -> bool:
        """Whether every part is an array in memory."""
        return all(type(p) is np.ndarray for p in self.parts)

    def take(self, rows: NDArray[np.int64]) -> NDArray:
        """Return `rows` in the order asked for; each part is read once."""
        rows = np.asarray(rows) if self.rows is None else self.rows[rows]
        out = np.empty((len(rows), *self.parts[0].shape[1:]), dtype=self.parts[0].dtype)
        which = np.searchsorted(self.starts, rows, side="right") - 1
        for i in np.unique(which):
            at = np.flatnonzero(which == i)
            local, back = np.unique(rows[at] - self.starts[i], return_inverse=True)
            part = self.parts[i]
            got = part.oindex[local] if hasattr(part, "oindex") else part[local]
            out[at] = np.asarray(got)[back]
        return out

    def fingerprint(self, n: int = 4096) -> str:
        """Tell these patches from others: a hash of their number, their shape and all of them, of stores only `n`."""
        digest = hashlib.sha256(repr(self.shape).encode())
        n = len(self) if self.in_memory else min(n, len(self))
        some = np.unique(np.linspace(0, len(self) - 1, n).round().astype(np.int64))
        for start in range(0, len(some), 1024):
            digest.update(self.take(some[start : start + 1024]).tobytes())
        return digest.hexdigest()[:16]


class Latents:
    """Latents of a pool in its eight turns and flips, float16: `(8 n, C, h, w)`, encoded once.

    They are held in memory, or, with a `folder`, in a file there that processes share and a resumed run finds again.
    Row `8 i + k` is turn `k` of patch `i`. The file is named after what it was made of, written beside and renamed.
    """

    TURNS = tuple((k, flip) for k in range(4) for flip in (False, True))

    def __init__(
        self, tokenizer: torch.nn.Module, pool: Pool, key: str, *, folder: Path | None = None, batch_size: int = 128
    ):
        self.tokenizer, self.pool, self.key = tokenizer, pool, key
        self.folder, self.batch_size = folder, batch_size
        self.array: NDArray[np.float16] | None = None
        with torch.no_grad():
            one = nn.encode(tokenizer, nn.to_tensor(pool.take(np.arange(1))))
        self.shape = (8 * len(pool), *one.shape[1:])

    def __len__(self) -> int:
        return self.shape[0]

    def __getstate__(self) -> dict[str, Any]:
        # a copy in another process opens the file for itself
        return {**self.__dict__, "array": None if self.folder is not None else self.array}

    def __getitem__(self, rows: NDArray[np.int64]) -> Tensor:
        """Return rows as float32."""
        if self.array is None:
            self.open()
        return torch.from_numpy(np.asarray(self.array[np.asarray(rows)], dtype=np.float32))

    @property
    def path(self) -> Path | None:
        """Where the file is, or will be."""
        return None if self.folder is None else Path(self.folder) / f"latents-{self.key}.npy"

    @property
    def n_batches(self) -> int:
        """How many steps :meth:`encode` takes."""
        return -(-len(self.pool) // self.batch_size)

    @property
    def ready(self) -> bool:
        """Whether nothing is left to encode."""
        return self.array is not None or (self.path is not None and self.path.is_file())

    def open(self) -> None:
        """Look at the file; its pages are shared by the processes of a machine."""
        self.array = np.lib.format.open_memmap(self.path, mode="r")  # never objects
        if self.array.shape != self.shape:
            raise ValueError(f"{self.path} holds {self.array.shape}, not {self.shape}; remove it.")

    @torch.no_grad()
    def encode(self, device: torch.device | str = "cpu") -> Iterator[int]:
        """Encode the pool, in float32 on `device`; yields the number of batches done, one by one."""
        if self.path is None:
            part, array = None, np.empty(self.shape, dtype=np.float16)
        else:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            part = self.path.with_suffix(".part")
            array = np.lib.format.open_memmap(part, mode="w+", dtype=np.float16, shape=self.shape)
        self.tokenizer.to(device)
        try:
            for done, start in enumerate(range(0, len(self.pool), self.batch_size)):
                stop = min(start + self.batch_size, len(self.pool))
                x = nn.to_tensor(self.pool.take(np.arange(start, stop))).to(device)
                turned = []
                for k, flip in self.TURNS:
                    y = torch.rot90(x, k, (2, 3))
                    turned.append(nn.encode(self.tokenizer, (y.flip(3) if flip else y).contiguous()).float())
                array[8 * start : 8 * stop] = torch.stack(turned, dim=1).flatten(0, 1).cpu().numpy()
                yield done + 1
        finally:
            self.tokenizer.to("cpu")
        if part is None:
            self.array = array
        else:
            array.flush()
            del array
            os.replace(part, self.path)


class Ahead:
    """Draw the batches of the next steps in threads, in page-locked memory: a GPU need not wait for the processor.

    `batch` makes that of a step from nothing but the step, so that who makes it when is all the same.
    """

    def __init__(self, batch: Callable[[int], tuple[Tensor, ...]], depth: int = 3):
        self.batch, self.depth, self.threads = batch, depth, ThreadPoolExecutor(depth)
        self.waiting: dict[int, Future] = {}

    def __call__(self, step: int) -> tuple[Tensor, ...]:
        """Return the batch of `step`; have those of the steps after it drawn."""
        for k in range(step, step + self.depth + 1):
            if k not in self.waiting:
                self.waiting[k] = self.threads.submit(self._pinned, k)
        found = self.waiting.pop(step).result()
        self.waiting = {k: v for k, v in self.waiting.items() if k > step}
        return found

    def _pinned(self, step: int) -> tuple[Tensor, ...]:
        drawn = self.batch(step)
        return tuple(x.pin_memory() for x in drawn) if torch.cuda.is_available() else drawn


class Ticks(IterableDataset):
    """A data loader needs something to yield; the plan draws its own batch from its seed and step."""

    def __init__(self, n: int):
        self.n = int(n)

    def __len__(self) -> int:
        return self.n

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.n))


def augment_batch(images: Tensor, generator: torch.Generator, *, stain: float = 0.0) -> Tensor:
    """Turn and flip each image `(n, C, H, W)` at random; `stain` is the sd of a per-image jitter of optical density.

    Tissue has no up and no left. The jitter acts on images in -1..1.
    """
    turns = torch.randint(0, 4, (len(images),), generator=generator)
    flips = torch.randint(0, 2, (len(images),), generator=generator).bool()
    out = torch.empty_like(images)
    for k in range(4):
        for flip in (False, True):
            at = (turns == k) & (flips == flip)
            if at.any():
                x = torch.rot90(images[at], k, (2, 3))
                out[at] = x.flip(3) if flip else x
    if stain:
        density = -torch.log(out.add(1).div(2).clamp_min(1 / 255))
        factor = 1 + stain * torch.randn(len(out), out.shape[1], 1, 1, generator=generator)
        out = torch.exp(-density * factor.clamp(0.3, 2)).mul(2).sub(1)
    return out
