from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from c2lst.pp._windows import Cutter


def cutter(step, patch_px=8):
    return Cutter(SimpleNamespace(fy=1.0, fx=1.0), patch_px, mpp=float(step), source_mpp=1.0)


def window(step, seed, patch_px=8):
    size = cutter(step, patch_px).axis(1.0)[2]
    return np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)


@pytest.mark.parametrize("step", [Fraction(2), Fraction(4), Fraction(4, 3), Fraction(3, 2), Fraction(8, 5)])
def test_halves_are_rounded_up(step):
    """Ratios that make means of exactly one half, in arithmetic that is exact."""
    crop, n = window(step, 0, 4), 4
    size, halves = len(crop), 0
    low = (size - n * step) / 2
    share = [
        [max(Fraction(0), min(low + step * (i + 1), p + 1) - max(low + step * i, p)) / step for p in range(size)]
        for i in range(n)
    ]
    made = cutter(step, n).resize(crop)
    for y in range(n):
        for x in range(n):
            for c in range(3):
                exact = sum(
                    share[y][i] * share[x][j] * int(crop[i, j, c])
                    for i in range(size) for j in range(size) if share[y][i] and share[x][j]
                )  # fmt: skip
                halves += exact % 1 == Fraction(1, 2)
                assert made[y, x, c] == int(exact + Fraction(1, 2))
    assert halves or step not in (2, 4)


@given(step=st.fractions(1, 6, max_denominator=30), seed=st.integers(0, 2**32 - 1))
def test_the_order_of_adding_does_not_show(step, seed):
    """Rows first or columns first, from the left or from the right: what threads may do differently."""
    crop = window(step, seed)
    made = cutter(step).resize(crop)
    assert np.array_equal(cutter(step).resize(crop.transpose(1, 0, 2)).transpose(1, 0, 2), made)
    assert np.array_equal(cutter(step).resize(crop[::-1, ::-1])[::-1, ::-1], made)


def test_a_flat_window_stays_what_it_is():
    for value in (0, 1, 254, 255):
        crop = np.full_like(window(Fraction(17, 5), 0), value)
        assert (cutter(Fraction(17, 5)).resize(crop) == value).all()
