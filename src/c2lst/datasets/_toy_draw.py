"""The simulated stain: tissue to pixels, block by block, by the law of Beer and Lambert."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from c2lst._random import generator

from ._toy_model import REACH_UM, Tissue, Waves

if TYPE_CHECKING:
    from numpy.typing import NDArray

BLOCK_PX = 512

# optical density per unit of stain, RGB; the hues of H&E after Macenko et al. 2009
HAEMATOXYLIN = np.array([0.62, 0.70, 0.35])
EOSIN = np.array([0.17, 0.83, 0.47])

# of tumour, stroma, lymphoid, fat, lumen
EOSIN_OD = np.array([0.42, 0.50, 0.24, 0.02, 0.02], dtype=np.float32)
CYTOPLASM_OD = np.array([0.17, 0.02, 0.14, 0.0, 0.0], dtype=np.float32)  # haematoxylin outside nuclei

ADIPOCYTE_UM = 46.0


class Stain:
    """How one section was stained and scanned: the batch effect."""

    def __init__(self, seed: int, section: int):
        rng = generator(seed, section, 4)
        self.vectors = np.stack([HAEMATOXYLIN, EOSIN]) * np.exp(rng.normal(0, 0.04, (2, 3)))
        self.strength = np.exp(rng.normal(0, 0.10, 2))
        self.glass = np.array([243.0, 241.0, 244.0]) + rng.uniform(-4, 4, 3)


class Painter:
    """Draws any block of a section; a block depends on the section and its own place alone."""

    def __init__(self, tissue: Tissue, mpp: float):
        self.tissue, self.mpp = tissue, mpp
        seed, section = tissue.key
        self.stain = Stain(seed, section)
        rng = generator(seed, section, 5)
        self.grain = [Waves(rng, length, 96) for length in (2.2, 5.0, 18.0)]
        self.jitter = rng.uniform(0.12, 0.88, (64, 64, 2)).astype(np.float32)  # adipocytes, repeated every 64

    def block(self, row: int, col: int, height: int, width: int) -> NDArray[np.uint8]:
        """Pixels of block (`row`, `col`), `(height, width, 3)`, at most 512 x 512."""
        mpp, t = self.mpp, self.tissue
        x = (col * BLOCK_PX + np.arange(width) + 0.5) * mpp
        y = (row * BLOCK_PX + np.arange(height) + 0.5) * mpp
        mix, tissue = t.grid(x, y)
        rng = generator(*t.key, 6, row, col)
        noise = rng.standard_normal((height, width, 3), dtype=np.float32)
        if tissue.max() < 1e-3:
            h = e = np.zeros((height, width), np.float32)
        else:
            fine, mid, coarse = (g.grid(x, y) for g in self.grain)
            fibre, cleft = self._fibres(x, y, mid, coarse)
            texture = 1 + 0.10 * fine + 0.08 * coarse
            e = np.tensordot(EOSIN_OD, mix, 1) * texture
            e += EOSIN_OD[1] * mix[1] * (0.55 * fibre - 0.25)
            e *= 1 - mix[1] * cleft
            fat = np.nonzero(mix[3] > 0.02)
            e[fat] += 0.5 * mix[3][fat] * self._membranes(x, y, fat)
            h = np.tensordot(CYTOPLASM_OD, mix, 1) * (texture + 0.12 * mid)
            e, h = np.maximum(e, 0) * tissue, np.maximum(h, 0) * tissue
            nuclear, cover = self._nuclei(x, y)
            nuclear *= 1 + 0.10 * fine + 0.06 * mid
            h, e = np.maximum(h, nuclear), e * (1 - 0.45 * cover)
        od = np.stack([h * self.stain.strength[0], e * self.stain.strength[1]], axis=-1) @ self.stain.vectors
        return np.clip(self.stain.glass * np.exp(-od) + 1.6 * noise + 0.5, 0, 255).astype(np.uint8)

    def _fibres(self, x: NDArray, y: NDArray, mid: NDArray, coarse: NDArray) -> tuple[NDArray, NDArray]:
        """Wavy bundles (0 to 1) along the level lines of the fibre field, and the clefts between them."""
        t = self.tissue
        along = t.along[0] * x[None] + t.along[1] * y[:, None]
        phase = 2 * np.pi * 5.5 * (along + t.f["fibres"].grid(x, y)).astype(np.float32) + 0.9 * coarse
        wave = np.sin(phase) * (0.6 - 0.3 * coarse) + 0.55 * np.sin(2.7 * phase + 0.8 * mid) * (0.9 + 0.4 * coarse)
        fibre = 0.5 + 0.33 * wave
        cleft = 1 / (1 + np.exp(np.clip((wave + 1.0 - 0.25 * coarse + 0.2 * mid) / 0.12, -30, 30)))
        return fibre, 0.75 * cleft

    def _membranes(self, x: NDArray, y: NDArray, at: tuple[NDArray, NDArray]) -> NDArray:
        """1 on the borders between adipocytes, 0 inside: second less first distance to jittered lattice points."""
        u, v = (x / ADIPOCYTE_UM).astype(np.float32), (y / ADIPOCYTE_UM).astype(np.float32)
        iu, iv = np.floor(u).astype(int)[at[1]], np.floor(v).astype(int)[at[0]]
        u, v = u[at[1]] - iu, v[at[0]] - iv
        first = np.full(len(u), 9.0, np.float32)
        second = first.copy()
        for dv in (-1, 0, 1):
            for du in (-1, 0, 1):
                place = self.jitter[(iv + dv) % 64, (iu + du) % 64]
                x, y = du - u + place[:, 0], dv - v + place[:, 1]
                d = x * x + y * y
                np.minimum(second, np.maximum(first, d), out=second)
                np.minimum(first, d, out=first)
        gap = (np.sqrt(second) - np.sqrt(first)) * ADIPOCYTE_UM
        return 1 / (1 + np.exp(np.clip((gap - 3.0) / 0.6, -30, 30)))

    def _nuclei(self, x: NDArray, y: NDArray) -> tuple[NDArray, NDArray]:
        """Haematoxylin of nuclei and the share of each pixel they cover: small ellipses with soft edges."""
        mpp, shape = self.mpp, (len(y), len(x))
        od, cover = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
        half = mpp / 2
        found = self.tissue.nuclei(x[0] - half, y[0] - half, x[-1] + half, y[-1] + half, REACH_UM)
        long = found.a + mpp
        for low, high in ((0, 5.0), (5.0, 7.5), (7.5, np.inf)):
            which = np.flatnonzero((long > low) & (long <= high))
            if len(which) == 0:
                continue
            n = np.float32
            cx, cy, a, b, angle, stain, vesicular = (c[which] for c in found)
            k = int(np.ceil(min(high, long[which].max()) / mpp))
            px = np.floor((cx - x[0]) / mpp + 0.5).astype(np.int32)[:, None] + np.arange(-k, k + 1, dtype=np.int32)
            py = np.floor((cy - y[0]) / mpp + 0.5).astype(np.int32)[:, None] + np.arange(-k, k + 1, dtype=np.int32)
            dx = (x[0] + px * mpp - cx[:, None]).astype(n)[:, None, :]
            dy = (y[0] + py * mpp - cy[:, None]).astype(n)[:, :, None]
            c, s = np.cos(angle).astype(n)[:, None, None], np.sin(angle).astype(n)[:, None, None]
            a, b = a.astype(n)[:, None, None], b.astype(n)[:, None, None]
            u, v = (dx * c + dy * s) / a, (dy * c - dx * s) / b
            rho = np.sqrt(u * u + v * v)
            # signed distance to the edge, in pixels, to first order: rho - 1 over the length of its gradient
            slope = np.sqrt((u / a) ** 2 + (v / b) ** 2) / np.maximum(rho, 1e-3)
            soft = np.clip(0.5 - (rho - 1) / np.maximum(slope * np.maximum(mpp, 0.8) * 1.3, 1e-6), 0, 1)
            pale = 1 - 0.36 * vesicular.astype(n)[:, None, None] * np.clip(1.15 - 1.15 * rho * rho, 0, 1)
            ok = (px >= 0) & (px < shape[1])
            ok = ok[:, None, :] & ((py >= 0) & (py < shape[0]))[:, :, None] & (soft > 0)
            flat = (py[:, :, None] * shape[1] + px[:, None, :])[ok]
            # the darkest of overlapping nuclei: the order of drawing does not matter
            np.maximum.at(od.reshape(-1), flat, (soft * pale * stain.astype(n)[:, None, None])[ok])
            np.maximum.at(cover.reshape(-1), flat, soft[ok])
        return od, cover
