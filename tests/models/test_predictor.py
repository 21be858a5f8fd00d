from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from c2lst import nn
from c2lst.models import Predictor
from c2lst.models._encoders import embed_patches
from c2lst.models._ridge import fit_ridge, fit_trust

GENES = ["B", "A"]
KINDS = ["ridge", "ridge-whitened", "cnn"]


def make(kind, tiny, patches8):
    rng = np.random.default_rng(0)
    patches = rng.integers(0, 256, (12, 8, 8, 3), dtype=np.uint8)
    encoder = "rgb" if kind == "cnn" else "central"
    features = embed_patches(patches, encoder, tiny)
    network = None
    if kind == "cnn":
        torch.manual_seed(0)
        network = nn.PatchCNN(2, channels=(8, 8)).eval()
        arrays = {"gene_mean": np.ones(2, np.float32), "gene_scale": np.full(2, 2.0, np.float32)}
    else:
        pool = embed_patches(patches8, encoder, tiny) if kind == "ridge-whitened" else None
        target = rng.random((12, 2)).astype(np.float32)
        arrays, _ = fit_ridge(features, target, np.ones(12), np.ones(12, bool), np.arange(12) % 3, pool=pool)
    return Predictor(
        kind, GENES, arrays | fit_trust(features), encoder=encoder, central=None if kind == "cnn" else tiny,
        network=network, mpp=4.0, patch_px=8, card={"n_spots": 12, "seed": 0},
    )  # fmt: skip


@pytest.fixture
def ridge(tiny, patches8, tmp_path):
    return make("ridge", tiny, patches8).save(tmp_path / "ridge")


@pytest.fixture
def cnn(tiny, patches8, tmp_path):
    return make("cnn", tiny, patches8).save(tmp_path / "cnn")


@pytest.mark.parametrize("kind", KINDS)
def test_round_trip_predicts_the_same(kind, tiny, patches8, tmp_path):
    predictor = make(kind, tiny, patches8)
    path = predictor.save_pretrained(tmp_path / "p")
    assert sorted(p.name for p in path.iterdir()) == ["predictor.json", "predictor.safetensors"]
    again = Predictor.from_pretrained(path, central=tiny)
    out = predictor.from_patches(patches8)
    assert out.shape == (5, 2)
    assert np.isfinite(out).all()
    np.testing.assert_array_equal(again.from_patches(patches8), out)
    features = predictor.features(patches8)
    np.testing.assert_array_equal(again.distance(features), predictor.distance(features))
    for name in ("kind", "genes", "encoder", "mpp", "patch_px", "card"):
        assert getattr(again, name) == getattr(predictor, name)


@pytest.mark.parametrize("kind", KINDS)
def test_batches_do_not_matter(kind, tiny, patches8):
    predictor = make(kind, tiny, patches8)
    np.testing.assert_allclose(
        predictor.from_patches(patches8, batch_size=2), predictor.from_patches(patches8), rtol=1e-3, atol=1e-4
    )


def test_tissue_has_no_up_for_the_cnn(tiny, patches8):
    predictor = make("cnn", tiny, patches8)
    turned = np.ascontiguousarray(np.rot90(patches8, 1, (1, 2)))
    np.testing.assert_allclose(predictor.from_patches(turned), predictor.from_patches(patches8), rtol=1e-4, atol=1e-5)


def test_a_ridge_by_hand(tiny, patches8):
    predictor = make("ridge", tiny, patches8)
    x = predictor.features(patches8)
    a = predictor.arrays
    expected = (x - a["mean"]) @ (a["rotation"] @ a["coef"]) + a["intercept"]
    np.testing.assert_allclose(predictor.from_patches(patches8), expected, rtol=1e-3, atol=1e-4)
    np.testing.assert_array_equal(predictor.from_patches(patches8, features=x), predictor.from_features(x))


def test_the_central_model_is_found_by_its_hash(tiny, saved, ridge, monkeypatch):
    from c2lst.models import _registry, central_model

    monkeypatch.setattr(_registry, "_SEEN", {})
    with pytest.raises(KeyError, match="not to be found.*from_pretrained"):
        Predictor.load(ridge)
    central_model(saved)
    assert Predictor.load(ridge).central.hash == tiny.hash


def test_another_central_model_is_refused(tiny, ridge):
    Predictor.load(ridge, central=tiny)  # this session knows the right one, and still:
    with pytest.raises(ValueError, match=rf"'unnamed' \({tiny.hash[:12]}\), not with 'toy'"):
        Predictor.load(ridge, central="toy")


def test_a_predictor_without_central_model_takes_none(cnn, tiny, tmp_path):
    assert json.loads((cnn / "predictor.json").read_text())["central"] is None
    again = Predictor.load(cnn, central=tiny)
    assert again.central is None
    again.save(tmp_path / "again")


@pytest.mark.parametrize(
    ("changes", "error", "match"),
    [
        ({"format": "c2lst.Predictor/9"}, ValueError, r"this version reads 'c2lst\.Predictor/1'"),
        ({"kind": "forest"}, ValueError, r"kind 'forest'.*\['ridge', 'ridge-whitened', 'cnn'\]"),
        ({"genes": ["A"]}, ValueError, "names 1 genes but predicts 2"),
        ({"genes": ["A", "A"]}, ValueError, "names a gene twice"),
        ({"mpp": KeyError}, ValueError, r"lacks the keys \['mpp'\]"),
        ({"encoder": "uni"}, KeyError, r"encoder='uni' is not registered; there are \['central'"),
        ({"kind": "cnn"}, ValueError, "must hold the arrays .*gene_mean"),
        ({"network": {"n_genes": 2}}, ValueError, "'ridge' with network"),
    ],
)
def test_an_edited_description_is_refused(tiny, ridge, edit, changes, error, match):
    edit(ridge / "predictor.json", **changes)
    with pytest.raises(error, match=match):
        Predictor.load(ridge, central=tiny)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"network": None}, "unknown tensors"),
        ({"network": {"n_genes": 2, "speed": 1}}, "does not take these settings"),
        ({"network": {"n_genes": 3, "channels": [8, 8]}}, "wrong shapes"),
    ],
)
def test_an_edited_network_is_refused(cnn, edit, changes, match):
    edit(cnn / "predictor.json", **changes)
    with pytest.raises(ValueError, match=match):
        Predictor.load(cnn)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda t: t.pop("arrays.coef"), r"must hold the arrays \['coef'"),
        (lambda t: t.update({"arrays.more": torch.zeros(1)}), "it holds .*'more'"),
        (lambda t: t.update({"stray": torch.zeros(1)}), r"unknown tensors \['stray'\]"),
        (lambda t: t.update({"network.x": torch.zeros(1)}), "unknown tensors"),
        (lambda t: t.update({"arrays.intercept": torch.zeros(3)}), "2 genes but predicts 3"),
    ],
)
def test_keys_are_strict(tiny, ridge, edit_tensors, change, match):
    edit_tensors(ridge / "predictor.safetensors", change)
    with pytest.raises(ValueError, match=match):
        Predictor.load(ridge, central=tiny)


def test_keys_of_the_network_are_strict(cnn, edit_tensors):
    edit_tensors(cnn / "predictor.safetensors", lambda t: t.pop("network.head.1.bias"))
    with pytest.raises(ValueError, match=r"do not fit PatchCNN: the file lacks \['head\.1\.bias'\]"):
        Predictor.load(cnn)


def test_broken_files(ridge, tiny, truncate, tmp_path):
    pickle = tmp_path / "predictor.pkl"
    pickle.write_bytes(b"\x80\x04.")
    with pytest.raises(ValueError, match="is a pickle"):
        Predictor.load(pickle)
    truncate(ridge / "predictor.safetensors")
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        Predictor.load(ridge, central=tiny)


def test_an_existing_target_is_refused(ridge, tiny, patches8):
    before = (ridge / "predictor.json").read_bytes()
    for error in (FileExistsError, ValueError):
        with pytest.raises(error, match="exists already"):
            make("cnn", tiny, patches8).save(ridge)
    assert (ridge / "predictor.json").read_bytes() == before
    make("cnn", tiny, patches8).save(ridge, overwrite=True)
    assert Predictor.load(ridge).kind == "cnn"


def test_a_fitted_predictor_makes_the_round_trip(toy, predictor_rgb, tmp_path):
    again = Predictor.load(predictor_rgb.save(tmp_path / "p"))
    table = toy["table"]
    assert again.genes == table.var_names[table.var["c2lst_genes"]].tolist()
    patches = table.obsm["patches"]
    np.testing.assert_array_equal(again.from_patches(patches), predictor_rgb.from_patches(patches))


def test_patches_of_another_size_are_refused(tiny, patches8):
    predictor = make("ridge", tiny, patches8)
    with pytest.raises(ValueError, match=r"16 x 16 px, the central model .* takes 8 px.*extract_patches\(sdata, mpp=4"):
        predictor.from_patches(np.zeros((1, 16, 16, 3), np.uint8))


def test_what_a_person_sees(tiny, patches8):
    said = repr(make("ridge", tiny, patches8))
    assert "Predictor 'ridge' of 2 genes, 8 px at 4 um/px, on features of 'central'" in said
    assert "n_spots: 12" in said
    assert "n_spots" in make("cnn", tiny, patches8)._repr_html_()


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"central": None}, "the encoder 'central' with central=None cannot be"),
        ({"central": {"name": "toy"}}, "by name and hash"),
        ({"encoder": "timm:hf-hub:somebody/model"}, "may fetch from a hub. Pass encoder="),
        ({"encoder": 3}, "names the encoder 3"),
        ({"mpp": -3}, "no scale"),
        ({"mpp": "2"}, "no scale"),
        ({"patch_px": 0}, "no scale"),
        ({"genes": "BA"}, "list of strings"),
        ({"card": [1]}, "card must be an object"),
        ({"more": 1}, r"unknown keys \['more'\]"),
    ],
)
def test_what_no_predictor_says_is_refused(tiny, ridge, edit, changes, match):
    edit(ridge / "predictor.json", **changes)
    with pytest.raises(ValueError, match=match):
        Predictor.load(ridge, central=tiny)


def test_a_network_has_no_encoder_but_colours(cnn, edit):
    edit(cnn / "predictor.json", encoder="timm:resnet18")
    with pytest.raises(ValueError, match="a predictor 'cnn' does not have"):
        Predictor.load(cnn, encoder="timm:resnet18")


def test_an_encoder_that_fetches_is_taken_where_it_is_named(tiny, patches8, tmp_path, edit):
    path = make("ridge", tiny, patches8).save(tmp_path / "p")
    edit(path / "predictor.json", encoder="timm:resnet18", central=None)
    assert Predictor.load(path, encoder="timm:resnet18").encoder == "timm:resnet18"
    with pytest.raises(ValueError, match="not with 'rgb'"):
        Predictor.load(path, encoder="rgb")


@pytest.mark.parametrize("key", ["trust_mean", "trust_sd", "trust_limit", "mean", "rotation", "coef"])
def test_arrays_that_do_not_fit_each_other_are_refused(tiny, ridge, edit_tensors, key):
    edit_tensors(ridge / "predictor.safetensors", lambda t: t.update({f"arrays.{key}": torch.zeros(1)}))
    with pytest.raises(ValueError, match="do not fit each other"):
        Predictor.load(ridge, central=tiny)


def test_loading_leaves_random_numbers_alone(tiny, ridge, cnn):
    before = torch.get_rng_state()
    Predictor.load(ridge, central=tiny)
    Predictor.load(cnn)
    assert torch.equal(before, torch.get_rng_state())
