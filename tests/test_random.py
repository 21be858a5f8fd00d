from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from c2lst._random import derive, nested_sample, noise


@given(st.integers(0, 2**40), st.integers(1, 200), st.floats(0.01, 1), st.floats(0.01, 1))
def test_a_larger_fraction_contains_a_smaller_one(seed, n, a, b):
    small, large = sorted((a, b))
    few, many = nested_sample(seed, n, small), nested_sample(seed, n, large)
    assert few.sum() == max(1, round(small * n))
    assert (many | ~few).all()


def test_noise_of_a_row_depends_on_its_index_alone():
    whole = noise(3, range(6), (2, 4))
    np.testing.assert_array_equal(noise(3, [4, 1], (2, 4)), whole[[4, 1]])
    assert not np.array_equal(noise(4, [1], (2, 4))[0], whole[1])


def test_derived_seeds_differ_by_stream():
    assert len({derive(0, i) for i in range(100)}) == 100
    assert derive(0, 1) == derive(0, 1)
