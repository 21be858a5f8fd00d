from __future__ import annotations

import numpy as np
import pytest
import torch
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from c2lst import nn
from c2lst.train import Latents, Pool, augment_batch
from c2lst.train._data import Ahead


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


def test_a_pool_of_some_rows_is_that_part_of_the_whole():
    whole = np.concatenate(parts())
    pool = Pool(parts(), np.array([7, 0, 3]))
    assert pool.shape == (3, 2, 2, 3)
    assert pool.nbytes == 36
    np.testing.assert_array_equal(pool.take(np.array([2, 0, 2])), whole[[3, 7, 3]])


def test_a_fingerprint_tells_pixels_number_and_order():
    seen = {Pool(parts()).fingerprint(), Pool(parts()[:2]).fingerprint(), Pool(parts()[::-1]).fingerprint()}
    changed = parts()
    changed[1] += 1
    assert len(seen | {Pool(changed).fingerprint()}) == 4
    assert Pool([np.concatenate(parts())]).fingerprint() in seen


@pytest.fixture
def coded():
    torch.manual_seed(0)
    tokenizer = nn.make_tokenizer(latent_channels=2, channels=(4, 4), patch_px=8, norm_groups=2).eval()
    pool = Pool([np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)])
    return tokenizer, pool


def test_latents_are_those_of_all_turns_and_flips(coded):
    tokenizer, pool = coded
    latents = Latents(tokenizer, pool, "key", batch_size=2)
    assert latents.shape == (40, 2, 4, 4)
    assert not latents.ready
    assert list(latents.encode()) == [1, 2, 3]
    with torch.no_grad():
        x = nn.to_tensor(pool.take(np.array([3])))
        eight = [torch.rot90(y, k, (2, 3)) for k in range(4) for y in (x,)]
        expected = torch.cat([nn.encode(tokenizer, y.flip(3) if f else y) for y in eight for f in (False, True)])
    got = latents[np.arange(24, 32)]
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, expected, atol=2e-3, rtol=2e-3)


def test_latents_in_a_file_are_encoded_once_and_never_half(coded, tmp_path):
    tokenizer, pool = coded
    memory = Latents(tokenizer, pool, "a", batch_size=2)
    list(memory.encode())
    cut = Latents(tokenizer, pool, "a", folder=tmp_path, batch_size=2)
    steps = cut.encode()
    next(steps)
    del steps  # as if it had been killed
    again = Latents(tokenizer, pool, "a", folder=tmp_path, batch_size=2)
    assert not again.ready
    list(again.encode())
    assert again.ready
    assert [p.name for p in tmp_path.iterdir()] == ["latents-a.npy"]
    third = Latents(tokenizer, pool, "a", folder=tmp_path, batch_size=2)
    assert third.ready
    assert torch.equal(third[np.arange(40)], memory[np.arange(40)])
    assert not Latents(tokenizer, pool, "b", folder=tmp_path).ready
    with pytest.raises(ValueError, match="holds .40, .* not .24, .*remove it"):
        Latents(tokenizer, Pool([pool.parts[0][:3]]), "a", folder=tmp_path).open()


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


def test_batches_drawn_ahead_are_those_of_their_step():
    drawn = []

    def batch(step):
        drawn.append(step)
        return (torch.full((2,), float(step)),)

    ahead = Ahead(batch, depth=2)
    assert [float(ahead(k)[0][0]) for k in (3, 4, 5, 9, 10)] == [3, 4, 5, 9, 10]
    assert len(drawn) == len(set(drawn)) and set(drawn) >= {3, 4, 5, 9, 10} and max(drawn) <= 12
