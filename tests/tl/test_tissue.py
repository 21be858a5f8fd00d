from __future__ import annotations

import copy

import numpy as np
import pytest

import c2lst as c2l
from c2lst.tl import _tissue
from c2lst.tl._tissue import Tissue


@pytest.fixture
def patches() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, size=(6, 64, 64, 3), dtype=np.uint8)


class Counted:
    """The toy model, and how many patches it was shown."""

    def __init__(self, monkeypatch):
        self.model = c2l.models.CentralModel.from_pretrained("toy")
        self.seen = 0
        encode = self.model.encode

        def counting(images, **kwargs):
            self.seen += len(images)
            return encode(images, **kwargs)

        monkeypatch.setattr(self.model, "encode", counting)


def test_a_pool_that_is_used_whole_is_encoded_once_and_comes_in_the_order_of_each_draw(patches, monkeypatch):
    counted = Counted(monkeypatch)
    shared = Tissue(patches)
    for seed in (0, 1):
        drawn = shared.drawn(seed)
        order = [int(np.flatnonzero((patches == p).all((1, 2, 3)))[0]) for p in drawn.patches]
        assert sorted(order) == list(range(6))
        turned = drawn.turns(counted.model)
        assert turned.shape[:2] == (6, 8)
        # each row is of its patch, the first turn of which is the patch itself
        np.testing.assert_allclose(turned[:, 0], counted.model.encode(patches)[order], atol=1e-5)
        features = drawn.features(counted.model)
        np.testing.assert_array_equal(features, Tissue(patches).features(counted.model)[order])
    assert not np.array_equal(shared.drawn(0).patches, shared.drawn(1).patches)
    before = counted.seen
    shared.drawn(2).turns(counted.model)
    shared.drawn(2).features(counted.model)
    assert counted.seen == before


def test_another_model_is_asked_anew(patches):
    shared = Tissue(patches)
    one = c2l.models.CentralModel.from_pretrained("toy")
    two = copy.copy(one)
    first = shared.turns(one)
    assert shared.turns(one) is first and shared.turns(two) is not first


def test_of_a_larger_pool_only_what_is_drawn_is_encoded(patches, monkeypatch):
    monkeypatch.setattr(_tissue, "N_POOL", 4)
    counted = Counted(monkeypatch)
    drawn = Tissue(patches).drawn(0)
    assert len(drawn) == 4
    drawn.turns(counted.model)
    assert counted.seen == 4 * 8
    some = Tissue(patches).take(np.array([5, 1]))
    np.testing.assert_array_equal(some.patches, patches[[5, 1]])


def test_adapting_to_shared_tissue_is_adapting_to_its_patches(patches, coloured):
    table = coloured(12, seed=0, px=64)
    c2l.pp.select_genes(table, n_top=4)
    shared = Tissue(patches)
    made = [c2l.tl.adapt(table.copy(), "toy", pool=pool, steps=2, progress=False) for pool in (patches, shared, shared)]
    curves = [local.card["curves"]["loss"] for local in made]
    assert curves[0] == curves[1] == curves[2]
    assert {local.card["n_pool"] for local in made} == {6}
