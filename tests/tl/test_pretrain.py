from __future__ import annotations

import json

import numpy as np
import pytest

import c2lst as c2l

TINY = {
    "mpp": 4.0, "steps": 2, "batch_size": 8, "progress": False, "tokenizer": {"latent_channels": 4, "channels": (8, 8, 8, 8)},
    "denoiser": {"width": 32, "depth": 1, "heads": 2},
}  # fmt: skip


@pytest.fixture(scope="module")
def patches():
    return np.random.default_rng(0).integers(0, 256, (24, 32, 32, 3)).astype(np.uint8)


def weights(central):
    return {
        f"{i}.{k}": v.numpy()
        for i, m in enumerate((central.tokenizer, central.denoiser))
        for k, v in m.state_dict().items()
    }


def test_twice_is_the_same(patches, same):
    before = patches.copy()
    first, second = (c2l.tl.pretrain(patches, **TINY) for _ in range(2))
    assert first.hash == second.hash and same(weights(first), weights(second))
    assert c2l.tl.pretrain(patches, seed=1, **TINY).hash != first.hash
    np.testing.assert_array_equal(patches, before)
    assert first.mpp == 4.0 and first.patch_px == 32
    np.testing.assert_array_equal(first.sample(2, steps=2), second.sample(2, steps=2))
    json.dumps(first.card)
    assert first.card["n_patches"] + first.card["n_held_out"] == 24 and first.card["steps"] == 2


def test_store_and_list_are_one(patches, tmp_path):
    c2l.io.write_patches(tmp_path / "p.zarr", patches, obs_names=[str(i) for i in range(24)], mpp=4.0)
    stored = c2l.tl.pretrain(c2l.io.read_patches(tmp_path / "p.zarr"), **TINY)
    assert stored.hash == c2l.tl.pretrain([patches[:10], patches[10:]], **TINY).hash


def test_finished_model_is_written(patches, tmp_path):
    made = c2l.tl.pretrain(patches, out=tmp_path / "central", card={"data": "noise", "licence": "CC0"}, **TINY)
    read = c2l.models.CentralModel.from_pretrained(tmp_path / "central" / "model")
    assert read.hash == made.hash and read.card["data"] == "noise"


def test_bad_input(patches):
    with pytest.raises(ValueError, match="too few to pretrain"):
        c2l.tl.pretrain(patches[:8], **TINY)
    with pytest.raises(ValueError, match="multiple of 8"):
        c2l.tl.pretrain(patches[:, :30, :30], **TINY)
    with pytest.raises(ValueError, match="of one size"):
        c2l.tl.pretrain([patches, patches[:, :16, :16]], **TINY)
    with pytest.raises((TypeError, ValueError), match="uint8"):
        c2l.tl.pretrain(patches.astype(float), **TINY)
    with pytest.raises(TypeError, match="mpp"):
        c2l.tl.pretrain(patches)
