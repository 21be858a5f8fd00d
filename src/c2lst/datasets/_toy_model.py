"""The simulated tissue: what is where, as functions of position (um). No pixels and no counts here."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.spatial import KDTree

from c2lst._random import generator

if TYPE_CHECKING:
    from numpy.typing import NDArray

PITCH_UM = 100.0  # centre to centre, as on Visium slides
SPOT_UM = 55.0  # diameter of a spot
ROW_UM = PITCH_UM * np.sqrt(3) / 2  # between rows of spots
TISSUE_UM = 65.0  # tissue beyond the outermost spots, before the outline wobbles
MARGIN_UM = 95.0  # bare glass beyond that

COMPARTMENTS = ("tumour", "stroma", "lymphoid", "fat", "lumen")
FACTORS = ("nuclear_density", "nuclear_size", "nuclear_elongation", "nuclear_stain", *COMPARTMENTS)

# of tumour, stroma, lymphoid, fat, lumen
DENSITY = np.array([4600.0, 1700.0, 8200.0, 350.0, 40.0])  # nuclei per mm2
RADIUS = np.array([4.7, 3.1, 3.1, 2.9, 4.2])  # um, of the circle of equal area
LOG_ASPECT = np.array([0.24, 1.0, 0.06, 0.9, 0.24])  # log of long over short axis
STAIN = np.array([1.15, 1.30, 1.50, 1.25, 1.15])  # haematoxylin optical density (base e) of a nucleus

# factor = (value - centre) / scale; constants, so that a factor means the same in every section
CENTRE = {"nuclear_density": np.log(3000.0), "nuclear_size": np.log(3.8), "nuclear_elongation": 0.5}
SCALE = {"nuclear_density": 0.7, "nuclear_size": 0.25, "nuclear_elongation": 0.35}

CELL_UM = 256.0  # nuclei are drawn at random cell by cell of this lattice, one generator each
CANDIDATES = 32  # places for a nucleus along one side of a lattice cell: one every 8 um
MAX_DENSITY = 1e6 * (CANDIDATES / CELL_UM) ** 2  # per mm2
REACH_UM = 13.0  # no nucleus reaches further from its centre


class Waves:
    """A Gaussian random field as a sum of `k` plane waves: mean 0, variance 1, correlation length `length` (um).

    Correlation falls as exp(-d^2 / (2 length^2)). Exact at any position, so blocks and resolutions agree.
    """

    def __init__(self, rng: np.random.Generator, length: float, k: int = 32):
        self.kx, self.ky = rng.standard_normal((2, k)) / length
        self.phase = rng.uniform(0, 2 * np.pi, k)
        self.norm = np.sqrt(2 / k)

    def at(self, xy: NDArray) -> NDArray:
        """Value at points `(n, 2)`."""
        return self.norm * np.cos(xy[:, :1] * self.kx + xy[:, 1:] * self.ky + self.phase).sum(axis=1)

    def gradient(self, xy: NDArray) -> NDArray:
        """Gradient at points, `(n, 2)`."""
        s = -self.norm * np.sin(xy[:, :1] * self.kx + xy[:, 1:] * self.ky + self.phase)
        return np.stack([s @ self.kx, s @ self.ky], axis=1)

    def grid(self, x: NDArray, y: NDArray) -> NDArray:
        """Value on the grid `y` by `x`, as one matrix product."""
        ax, ay = np.outer(x, self.kx) + self.phase, np.outer(y, self.ky)
        left = np.concatenate([np.cos(ay), -np.sin(ay)], axis=1)
        right = np.concatenate([np.cos(ax), np.sin(ax)], axis=1)
        return ((self.norm * left).astype(np.float32)) @ right.astype(np.float32).T


class Nuclei(NamedTuple):
    """Nuclei of a region: centre, semi-axes (um), angle of the long axis (radians), optical density."""

    x: NDArray
    y: NDArray
    a: NDArray
    b: NDArray
    angle: NDArray
    stain: NDArray
    vesicular: NDArray  # 0: evenly dark, 1: pale centre, as large tumour nuclei have


LENGTHS = {
    "tumour": 120, "stroma": 120, "lymphoid": 95, "fat": 130, "lumen": 170, "gland": 21, "ragged": 20,
    "nuclear_density": 150, "nuclear_size": 160, "nuclear_elongation": 160, "nuclear_stain": 170,
    "fibres": 110, "outline": 160,
}  # fmt: skip


class Tissue:
    """One simulated section: fields of position, drawn from `seed` and the section's number."""

    def __init__(self, seed: int, section: int, spots: NDArray, size_um: tuple[float, float]):
        self.key = (seed, section)
        self.size_um = size_um
        self.f = {
            name: Waves(generator(seed, section, 1, i), length) for i, (name, length) in enumerate(LENGTHS.items())
        }
        rng = generator(seed, section, 2)
        angle = rng.uniform(0, np.pi)
        self.along = np.array([np.cos(angle), np.sin(angle)]) / 90.0  # the fibres' general direction
        self.centre = np.array(size_um) / 2
        # nuclei lately made: a few rows of lattice cells, whatever the height of the section
        self.cell = lru_cache(maxsize=int(4 * size_um[0] / CELL_UM) + 64)(self._cell)
        self.half = np.abs(spots - self.centre).max(axis=0) + TISSUE_UM

    # --- compartments -------------------------------------------------------------------------------------------
    def _beyond(self, x: NDArray, y: NDArray) -> NDArray:
        """Distance (um) beyond a rounded rectangle about the spots, below 0 inside."""
        u, v = (x - self.centre[0]) / self.half[0], (y - self.centre[1]) / self.half[1]
        return (np.sqrt(np.sqrt((u * u) ** 2 + (v * v) ** 2)) - 1) * self.half.min()

    @staticmethod
    def _wobble(v: dict[str, NDArray]) -> NDArray:
        return 35 * np.tanh(0.63 * v["outline"]) + 3 * v["gland"]  # bounded, so that every spot lies on tissue

    def _mix(self, v: dict[str, NDArray]) -> NDArray:
        """Compartment fractions `(5, ...)` from field values; they sum to 1."""
        rough = 0.7 * v["ragged"]
        logits = np.stack([6.5 * v["tumour"] + 1.6 + rough, 5.5 * v["stroma"] + 1.6 - rough,
                           6.5 * v["lymphoid"] - 3.0, 6.5 * v["fat"] - 5.0])  # fmt: skip
        np.exp(logits - logits.max(axis=0), out=logits)
        logits /= logits.sum(axis=0)
        hole = logits[0] ** 2 / (1 + np.exp(-np.clip(self._gland(v) / 0.16, -30, 30)))
        return np.concatenate([logits[:1] * (1 - hole), logits[1:], logits[:1] * hole])

    @staticmethod
    def _gland(v: dict[str, NDArray]) -> NDArray:
        return v["gland"] - 1.75 + 0.9 * v["lumen"]  # above 0 inside the lumen of a gland

    MIX = ("tumour", "stroma", "lymphoid", "fat", "lumen", "gland", "ragged")

    def grid(self, x: NDArray, y: NDArray) -> tuple[NDArray, NDArray]:
        """Compartment fractions `(5, ny, nx)` and share of tissue `(ny, nx)` on a grid."""
        v = {name: self.f[name].grid(x, y) for name in (*self.MIX, "outline")}
        mix = self._mix(v)
        edge = self._beyond(x[None], y[:, None]).astype(np.float32)
        edge -= self._wobble(v)
        return mix, (1 / (1 + np.exp(np.clip(edge / 1.5, -30, 30)))).astype(np.float32)

    def inside(self, xy: NDArray) -> NDArray:
        """Whether points lie on tissue."""
        v = {name: self.f[name].at(xy) for name in ("outline", "gland")}
        return self._beyond(xy[:, 0], xy[:, 1]) < self._wobble(v)

    # --- latent fields ------------------------------------------------------------------------------------------
    def latent(self, xy: NDArray) -> dict[str, NDArray]:
        """Latent fields at points: `mix` `(5, n)`, `density` (per mm2) and the logs of radius, axes ratio and stain."""
        v = {name: self.f[name].at(xy) for name in LENGTHS if name not in ("outline", "fibres")}
        mix = self._mix(v)
        rim = np.exp(-(((self._gland(v) + 0.45) / 0.3) ** 2)) * mix[0] ** 2
        density = (DENSITY @ mix) * np.exp(0.45 * v["nuclear_density"]) * (1 + 0.8 * rim)
        return {
            "mix": mix,
            "density": np.minimum(density, 0.95 * MAX_DENSITY),
            "log_radius": np.log(RADIUS) @ mix + 0.15 * v["nuclear_size"],
            "log_aspect": np.maximum(LOG_ASPECT @ mix + 0.2 * v["nuclear_elongation"], 0),
            "log_stain": np.log(STAIN) @ mix + 0.13 * v["nuclear_stain"],
            "z_stain": v["nuclear_stain"],
        }

    def spots(self, centres: NDArray) -> tuple[NDArray, NDArray]:
        """Factors `(n, 9)` and compartment fractions `(n, 5)` of spots: means over 61 points of each spot's disc."""
        t = np.arange(61)
        r, phi = SPOT_UM / 2 * np.sqrt((t + 0.5) / 61), t * np.pi * (3 - np.sqrt(5))
        disc = np.stack([r * np.cos(phi), r * np.sin(phi)], axis=1)
        factors, fractions = [], []
        for start in range(0, len(centres), 1000):
            part = centres[start : start + 1000]
            v = self.latent((part[:, None] + disc).reshape(-1, 2))
            mean = {k: a.reshape(*a.shape[:-1], len(part), 61).mean(axis=-1) for k, a in v.items()}
            value = {
                "nuclear_density": np.log(mean["density"]),
                "nuclear_size": mean["log_radius"],
                "nuclear_elongation": mean["log_aspect"],
            }
            columns = [(value[k] - CENTRE[k]) / SCALE[k] for k in value]
            factors.append(np.stack([*columns, mean["z_stain"], *mean["mix"]], axis=1))
            fractions.append(mean["mix"].T)
        return np.concatenate(factors), np.concatenate(fractions)

    # --- nuclei -------------------------------------------------------------------------------------------------
    def _cell(self, row: int, col: int) -> Nuclei:
        """Nuclei of one lattice cell. The cell has its own generator: no result depends on what was asked before."""
        rng = generator(*self.key, 3, row, col)
        n, step = CANDIDATES**2, CELL_UM / CANDIDATES
        i, j = np.divmod(np.arange(n), CANDIDATES)
        jitter = rng.uniform(-0.55, 0.55, (2, n))
        keep, angle, aspect, pick = rng.uniform(size=n), rng.normal(size=n), rng.normal(size=n), rng.uniform(size=n)
        size, stain = rng.normal(size=(2, n))
        odd = 0.25 * (-1.0) ** i  # every second row is shifted, as in a hexagonal packing
        xy = np.stack(
            [col * CELL_UM + (j + 0.5 + odd + jitter[0]) * step, row * CELL_UM + (i + 0.5 + jitter[1]) * step], 1
        )
        few = np.flatnonzero(self.inside(xy))
        v = self.latent(xy[few])
        few_kept = keep[few] * MAX_DENSITY < v["density"]
        at, v = few[few_kept], {k: a[..., few_kept] for k, a in v.items()}
        xy, mix = xy[at], v["mix"]
        spread = 0.10 + 0.10 * mix[0]  # tumour nuclei vary more in size
        r = np.clip(np.exp(v["log_radius"] + spread * size[at]), 1.8, 7.5)
        q = np.exp(np.clip(v["log_aspect"] + 0.12 * aspect[at], 0, 1.4) / 2)
        along = self.f["fibres"].gradient(xy) + self.along
        theta = np.arctan2(along[:, 0], -along[:, 1]) + 0.15 * angle[at]  # along the fibres: across their gradient
        free = pick[at] > mix[1] + mix[3]
        theta[free] = np.pi * pick[at][free] * 37.0 % np.pi
        od = np.exp(v["log_stain"] + 0.12 * stain[at])
        return Nuclei(xy[:, 0], xy[:, 1], r * q, r / q, theta, od, np.clip(1.3 * mix[0] - 0.3, 0, 1))

    def count(self, centres: NDArray) -> NDArray[np.int64]:
        """Nuclei whose centre lies in each spot's disc, `(n,)`."""
        tree = KDTree(centres)
        out = np.zeros(len(centres), dtype=np.int64)
        for row in range(int(self.size_um[1] // CELL_UM) + 1):
            for col in range(int(self.size_um[0] // CELL_UM) + 1):
                n = self.cell(row, col)
                _, at = tree.query(np.stack([n.x, n.y], axis=1), distance_upper_bound=SPOT_UM / 2)
                out += np.bincount(at[at < len(centres)], minlength=len(centres))
        return out

    def nuclei(self, x0: float, y0: float, x1: float, y1: float, reach: float = 0.0) -> Nuclei:
        """Nuclei whose centres lie within `reach` (um) of a rectangle."""
        rows = range(int((y0 - reach - CELL_UM / 4) // CELL_UM), int((y1 + reach + CELL_UM / 4) // CELL_UM) + 1)
        cols = range(int((x0 - reach - CELL_UM / 4) // CELL_UM), int((x1 + reach + CELL_UM / 4) // CELL_UM) + 1)
        parts = [self.cell(r, c) for r in rows for c in cols if r >= 0 and c >= 0]
        out = Nuclei(*(np.concatenate(column) for column in zip(*parts, strict=True)))
        ok = (out.x >= x0 - reach) & (out.x < x1 + reach) & (out.y >= y0 - reach) & (out.y < y1 + reach)
        return Nuclei(*(column[ok] for column in out))
