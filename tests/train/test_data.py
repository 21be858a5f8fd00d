from __future__ import annotations

import numpy as np
import pytest
import torch
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from c2lst.train import Pool, augment_batch


def parts():
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (n, 2, 2, 3), dtype=np.uint8) for n in (3, 1, 5)]


@settings(max_examples=30, deadline=None)
@given(rows=st.lists(st.integers(0, 8), max_size=20))
def test_pool_takes_rows_of_all_parts_in_the_order_asked_for(rows):
    whole = np.concatenate(parts())
    pool = Pool(parts())
    assert len(pool) == 9
    assert pool.shape == whole.shape
    np.testing.assert_array_equal(pool.take(np.array(rows, dtype=np.int64)), whole[rows])


def test_pool_reads_a_store_once_and_in_order(tmp_path):
    first, second, third = parts()
    stored = zarr.create_array(tmp_path / "s", shape=third.shape, chunks=(2, 2, 2, 3), dtype=np.uint8)
    stored[:] = third
    asked = []

    class Counted:
        shape, dtype = stored.shape, stored.dtype

        def __len__(self):
            return len(third)

        @property
        def oindex(self):
            return self

        def __getitem__(self, rows):
            asked.append(np.asarray(rows).tolist())
            return stored.oindex[rows]

    got = Pool([first, second, Counted()]).take(np.array([8, 0, 5, 8, 3]))
    np.testing.assert_array_equal(got, np.concatenate([first, second, third])[[8, 0, 5, 8, 3]])
    assert asked == [[1, 4]]


@pytest.mark.parametrize("seed", range(3))
def test_turns_and_flips_keep_the_pixels_of_each_image(seed):
    x = torch.arange(16 * 3 * 4 * 4).reshape(16, 3, 4, 4).float()
    y = augment_batch(x, torch.Generator().manual_seed(seed))
    for before, after in zip(x, y, strict=True):
        assert torch.equal(before.flatten(1).sort(1).values, after.flatten(1).sort(1).values)
        # one of the eight turns and flips of the square, the same for all channels
        eight = [torch.rot90(b, k, (1, 2)) for b in (before, before.flip(2)) for k in range(4)]
        assert sum(torch.equal(after, e) for e in eight) == 1


def test_all_eight_orientations_come_up():
    x = torch.arange(4).reshape(1, 1, 2, 2).float().repeat(200, 1, 1, 1)
    y = augment_batch(x, torch.Generator().manual_seed(0))
    assert len({tuple(v.flatten().tolist()) for v in y}) == 8


def test_same_generator_same_images():
    x = torch.rand(5, 3, 8, 8) * 2 - 1
    a, b = (augment_batch(x, torch.Generator().manual_seed(3), stain=0.2) for _ in range(2))
    assert torch.equal(a, b)


def test_stain_scales_optical_density_and_leaves_white_white():
    x = torch.full((64, 3, 2, 2), 0.0)  # half of the light passes
    x[..., 0] = 1.0
    y = augment_batch(x, torch.Generator().manual_seed(0), stain=0.1)
    assert torch.allclose(y[y > 0.999], torch.tensor(1.0))
    density = (-torch.log2((y + 1) / 2)).amax(dim=(2, 3))  # 1 before the jitter
    assert density.mean().item() == pytest.approx(1.0, abs=0.03)
    assert density.std().item() == pytest.approx(0.1, rel=0.25)
    assert y.min() >= -1
    assert y.max() <= 1
