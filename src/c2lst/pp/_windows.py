"""Windows of one level, cut at whole pixels, each dask chunk read once, and resized by area."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from c2lst._checks import check_choice

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from ._image import Level

PADS = {"reflect": "reflect", "edge": "edge", "white": "constant", "constant": "constant"}
WHITE = 255


@dataclass(frozen=True)
class Cutter:
    """A recipe for patches of `patch_px` at `mpp` from one level of an image.

    A window is the smallest whole number of pixels that holds the field of view; the field lies in its middle and is
    resized by area, so the scale is exact. The window is moved by at most half a pixel of the level to the pixel grid.
    """

    level: Level
    patch_px: int
    mpp: float
    source_mpp: float

    def axis(self, factor: float) -> tuple[float, float, int]:
        """Return pixels of the level per pixel of the patch, the field and the window in pixels of the level."""
        step = self.mpp / (self.source_mpp * factor)
        if abs(step - 1) <= 1e-3:
            step = 1.0
        field = self.patch_px * step
        window = round(field) if abs(field - round(field)) < 1e-6 * field else int(np.ceil(field))
        return step, field, window

    def corners(self, xy: NDArray[np.float64]) -> NDArray[np.int64]:
        """Return the upper left corners `(n, 2)` y, x of the windows around `xy` (pixels of level 0)."""
        level = self.level
        at = np.column_stack([xy[:, 1] / level.fy, xy[:, 0] / level.fx])
        size = np.array([self.axis(level.fy)[2], self.axis(level.fx)[2]])
        # pixel i covers [i, i + 1); 1e-9 keeps a place on the grid there through rounding
        return np.floor(at - size / 2 + 0.5 + 1e-9).astype(np.int64)

    def inside(self, corners: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the share of each field of view that lies inside the image."""
        share = np.ones(len(corners))
        for k, factor in enumerate((self.level.fy, self.level.fx)):
            _, field, window = self.axis(factor)
            low = corners[:, k] + (window - field) / 2
            seen = np.minimum(low + field, self.level.shape[k]) - np.maximum(low, 0)
            share *= np.clip(seen, 0, None) / field
        return share

    def resize(self, crop: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Resize one window `(h, w, 3)` to the patch, every pixel weighted by the area it covers.

        Halves are rounded up, and what lies within rounding of a half too: the same bytes on every machine and with any
        number of threads, whatever order they add in.
        """
        if crop.shape[:2] == (self.patch_px, self.patch_px):
            return crop
        wy, wx = (self._weights(f) for f in (self.level.fy, self.level.fx))
        rows = wy @ crop.reshape(crop.shape[0], -1).astype(np.float64)
        rows = rows.reshape(self.patch_px, crop.shape[1], 3).transpose(0, 2, 1)
        out = rows @ wx.T
        return np.clip(np.floor(out.transpose(0, 2, 1) + (0.5 + 1e-6)), 0, 255).astype(np.uint8)

    def _weights(self, factor: float) -> NDArray[np.float64]:
        step, field, window = self.axis(factor)
        edges = (window - field) / 2 + step * np.arange(self.patch_px + 1)
        pixel = np.arange(window)
        over = np.minimum(edges[1:, None], pixel + 1) - np.maximum(edges[:-1, None], pixel)
        return np.clip(over, 0, None) / step


def reading_order(cutter: Cutter, corners: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the order in which `cut` is done with the windows: by the last chunk they touch, then by row."""
    last = np.zeros(len(corners), dtype=np.int64)
    for k in (0, 1):
        edges = np.cumsum(cutter.level.data.chunks[k + 1])
        window = cutter.axis((cutter.level.fy, cutter.level.fx)[k])[2]
        end = np.clip(corners[:, k] + window - 1, 0, cutter.level.shape[k] - 1)
        last = last * len(edges) + np.searchsorted(edges, end, side="right")
    return np.lexsort((np.arange(len(corners)), last))


def cut(
    cutter: Cutter, corners: NDArray[np.int64], *, pad: str = "reflect", max_ram_gb: float = 4.0, batch: int = 256
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.uint8]]]:
    """Yield `(which windows, patches)` in batches, in `reading_order`; each dask chunk is computed once.

    As many chunks as fit `max_ram_gb` are computed in one call (all of them, where the level fits), by the
    `dask.distributed` client in scope if there is one.
    """
    import dask

    check_choice("pad", pad, PADS)
    level, (height, width) = cutter.level, cutter.level.shape
    size = np.array([cutter.axis(level.fy)[2], cutter.axis(level.fx)[2]])
    low = np.clip(corners, 0, [height, width])
    high = np.clip(corners + size, 0, [height, width])
    y_edges, x_edges = (np.concatenate([[0], np.cumsum(c)]) for c in level.data.chunks[1:])
    first = np.column_stack([np.searchsorted(e, low[:, k], "right") - 1 for k, e in enumerate((y_edges, x_edges))])
    last = np.column_stack([np.searchsorted(e, high[:, k], "left") - 1 for k, e in enumerate((y_edges, x_edges))])
    touching: dict[tuple[int, int], list[int]] = {}
    for i in reading_order(cutter, corners):
        for cy in range(first[i, 0], last[i, 0] + 1):
            for cx in range(first[i, 1], last[i, 1] + 1):
                touching.setdefault((cy, cx), []).append(int(i))
    open_windows: dict[int, NDArray[np.uint8]] = {}
    rows: list[int] = []
    done: list[NDArray[np.uint8]] = []
    for group in _groups(sorted(touching), y_edges, x_edges, max_ram_gb * 1e9):
        lazy = [level.data[:, y_edges[cy] : y_edges[cy + 1], x_edges[cx] : x_edges[cx + 1]] for cy, cx in group]
        for (cy, cx), block in zip(group, dask.compute(*lazy), strict=True):
            y0, x0 = y_edges[cy], x_edges[cx]
            for i in touching[cy, cx]:
                if i not in open_windows:
                    open_windows[i] = np.empty((*(high[i] - low[i]), 3), dtype=np.uint8)
                top, left = max(low[i, 0], y0), max(low[i, 1], x0)
                end, right = min(high[i, 0], y_edges[cy + 1]), min(high[i, 1], x_edges[cx + 1])
                open_windows[i][top - low[i, 0] : end - low[i, 0], left - low[i, 1] : right - low[i, 1]] = block[
                    :, top - y0 : end - y0, left - x0 : right - x0
                ].transpose(1, 2, 0)
                if (cy, cx) == (last[i, 0], last[i, 1]):
                    around = [*zip(low[i] - corners[i], corners[i] + size - high[i], strict=True), (0, 0)]
                    rows.append(i)
                    done.append(cutter.resize(_pad(open_windows.pop(i), around, pad)))
                    if len(rows) == batch:
                        yield np.array(rows), np.stack(done)
                        rows, done = [], []
    if rows:
        yield np.array(rows), np.stack(done)


def _pad(crop: NDArray[np.uint8], around: list[tuple[int, int]], pad: str) -> NDArray[np.uint8]:
    if not any(map(any, around)):
        return crop
    return np.pad(crop, around, mode=PADS[pad], **({"constant_values": WHITE} if PADS[pad] == "constant" else {}))


def _groups(chunks, y_edges, x_edges, budget: float) -> Iterator[list[tuple[int, int]]]:
    group, held = [], 0
    for cy, cx in chunks:
        size = 3 * int(y_edges[cy + 1] - y_edges[cy]) * int(x_edges[cx + 1] - x_edges[cx])
        if group and held + size > budget:
            yield group
            group, held = [], 0
        group.append((cy, cx))
        held += size
    if group:
        yield group
