from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from c2lst import nn
from c2lst.models import CentralModel, LocalModel

GENES = ["B", "A", "C", "D"]


def make(tiny, kind="film", encoder="pca"):
    rng = np.random.default_rng(0)
    profiles = rng.random((12, 4)).astype(np.float32) * 3
    torch.manual_seed(0)
    genes = nn.GENE_ENCODERS[encoder].fit(profiles)
    modulation = nn.MODULATIONS[kind](genes.dim, [s.width for s in nn.sites(tiny.denoiser)], rank=2)
    modulation.bind(tiny.denoiser)
    with torch.no_grad():
        for p in modulation.parameters():
            p.add_(0.2 * torch.randn(p.shape))
    card = {"n_spots": 12, "curves": {"loss": [1.0]}}
    return LocalModel(tiny, genes, modulation, GENES, modulation_kind=kind, card=card), profiles


@pytest.fixture
def model(tiny):
    return make(tiny)[0]


@pytest.fixture
def place(model, tmp_path):
    return model.save_pretrained(tmp_path / "local")


@pytest.mark.parametrize(("kind", "encoder"), [("film", "pca"), ("film", "mlp"), ("lora", "pca")])
def test_round_trip_gives_the_same_patches(tiny, tmp_path, kind, encoder):
    if kind == "lora":
        pytest.importorskip("peft")
    model, profiles = make(tiny, kind, encoder)
    again = LocalModel.load(model.save(tmp_path / "local"), central=tiny)
    assert again.genes == GENES
    assert again.card == model.card
    assert again.modulation_kind == kind
    assert again.n_parameters == model.n_parameters
    plain = tiny.sample(3, seed=1, steps=2)
    for guidance in (1.0, 2.0):
        kwargs = {"seed": 1, "guidance": guidance, "steps": 2}
        ours = model.sample(profiles[:3], **kwargs)
        np.testing.assert_array_equal(again.sample(profiles[:3], **kwargs), ours)
        assert not np.array_equal(ours, plain)
    np.testing.assert_array_equal(again.sample(None, n=2, steps=2), model.sample(None, n=2, steps=2))


@pytest.mark.parametrize("kind", ["film", "lora"])
def test_the_guide_of_the_central_model_draws_with_it(guided, kind):
    if kind == "lora":
        pytest.importorskip("peft")
    genes = nn.GENE_ENCODERS["pca"].fit(np.random.default_rng(0).random((12, 4)).astype(np.float32))
    modulation = nn.MODULATIONS[kind](genes.dim, [s.width for s in nn.sites(guided.denoiser)], rank=2)
    untouched = LocalModel(guided, genes, modulation, GENES, modulation_kind=kind)
    # a modulation that is still nothing draws what the central model draws, guide and all
    drawn = guided.sample(3, seed=1, steps=2)
    for profiles in (None, np.ones((3, 4))):
        np.testing.assert_array_equal(untouched.sample(profiles, n=3, seed=1, steps=2), drawn)
    model, profiles = make(guided, kind)
    ours, bare = (model.sample(profiles[:3], seed=1, steps=2, autoguidance=w) for w in (None, 1.0))
    assert np.abs(ours.astype(int) - bare).mean() > 1
    np.testing.assert_array_equal(model.sample(profiles[:3], seed=1, steps=2, autoguidance=1.5), ours)


def test_binding_again_keeps_what_lora_learned(tiny):
    pytest.importorskip("peft")
    model, profiles = make(tiny, "lora")
    with torch.no_grad():
        learned = [p.clone() for p in model.modulation.adapters.values()]
    assert any(p.abs().sum() > 0 for p in learned)
    again = LocalModel(tiny, model.gene_encoder, model.modulation, GENES, modulation_kind="lora")
    for a, b in zip(learned, again.modulation.adapters.values(), strict=True):
        assert torch.equal(a, b)
    z, t = torch.randn(1, *tiny.latent_shape), torch.tensor([500.0])
    assert not torch.allclose(nn.denoise(again.denoiser, z, t), nn.denoise(tiny.denoiser, z, t))


def test_scvi_travels_as_safetensors(tiny, tmp_path):
    counts = np.random.default_rng(0).poisson(5.0, (20, 4)).astype(np.float32)
    genes = nn.SCVIGeneEncoder.fit(counts, dim=2, epochs=1)
    torch.manual_seed(0)
    film = nn.FiLM(2, [s.width for s in nn.sites(tiny.denoiser)], rank=2)
    model = LocalModel(tiny, genes, film, GENES, modulation_kind="film")
    again = LocalModel.load(model.save(tmp_path / "local"), central=tiny)
    assert again.gene_encoder.uses_counts
    assert torch.equal(again.condition(counts[:3]), model.condition(counts[:3]))


def test_the_directory_holds_none_of_the_central_model(tiny, place):
    assert sorted(p.name for p in place.iterdir()) == ["local.json", "local.safetensors"]
    spec = json.loads((place / "local.json").read_text())
    assert spec["central"] == {"name": tiny.name, "hash": tiny.hash}
    assert spec["genes"] == GENES
    from safetensors.torch import load_file

    tensors = load_file(place / "local.safetensors")
    assert {k.split(".")[0] for k in tensors} == {"modulation", "gene_encoder"}
    central = [v for v in tiny.denoiser.state_dict().values() if v.numel() > 16]
    assert not any(a.shape == b.shape and torch.equal(a, b) for a in tensors.values() for b in central)


def test_the_central_model_is_found_by_its_hash(tiny, saved, place, monkeypatch):
    from c2lst.models import _registry, central_model

    monkeypatch.setattr(_registry, "_SEEN", {})
    with pytest.raises(KeyError, match=r"central model 'unnamed'.*not to be found.*from_pretrained"):
        LocalModel.load(place)
    central_model(saved)  # loaded under another name in this session
    assert LocalModel.load(place).central.hash == tiny.hash
    assert LocalModel.load(place, central=str(saved)).central.hash == tiny.hash


def test_another_central_model_is_refused(tiny, place):
    with pytest.raises(ValueError, match=rf"'unnamed' \({tiny.hash[:12]}\), not with 'toy'"):
        LocalModel.load(place, central="toy")
    with pytest.raises(TypeError, match="must be a CentralModel, a name or a path, not int"):
        LocalModel.load(place, central=3)


def test_a_name_that_stands_for_other_weights_is_refused(model, place, edit, monkeypatch):
    from c2lst.models import _registry

    monkeypatch.setattr(_registry, "_SEEN", {})
    edit(place / "local.json", central={"name": "toy", "hash": "0" * 64})
    with pytest.raises(ValueError, match="'toy' with hash 000000000000, but what stands under that name"):
        LocalModel.load(place)


JSON, TENSORS = "local.json", "local.safetensors"


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"format": "c2lst.LocalModel/9"}, r"format 'c2lst\.LocalModel/9'; this version reads"),
        ({"genes": ["A", "B"]}, "names 2 genes .*takes 4: the panel does not match"),
        ({"genes": ["A", "A", "B", "C"]}, r"4 genes \(3 different ones\)"),
        ({"genes": KeyError}, r"lacks the keys \['genes'\]"),
        ({"gene_encoder": {"kind": "vae"}}, r"gene_encoder 'vae'; known are \['pca', 'mlp', 'scvi'\]"),
        ({"modulation": {"kind": "film", "speed": 1}}, "modulation 'film' does not take these settings"),
        ({"modulation": {"kind": "film", "condition_dim": 4, "widths": [1], "rank": 2}}, "has \\[96, 96\\]"),
    ],
)
def test_an_edited_description_is_refused(tiny, place, edit, changes, match):
    edit(place / JSON, **changes)
    with pytest.raises(ValueError, match=match):
        LocalModel.load(place, central=tiny)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda t: t.pop("modulation.base"), r"lacks \['base'\]"),
        (lambda t: t.update({"modulation.more": torch.zeros(1)}), r"has unknown \['more'\]"),
        (lambda t: t.update({"stray": torch.zeros(1)}), r"unknown parts \['stray'\]"),
        (lambda t: t.update({"gene_encoder.mean": torch.zeros(5)}), r"mean \(5,\) instead of \(4,\)"),
    ],
)
def test_keys_are_strict(tiny, place, edit_tensors, change, match):
    edit_tensors(place / TENSORS, change)
    with pytest.raises(ValueError, match=match):
        LocalModel.load(place, central=tiny)


def test_broken_files(tiny, place, truncate, copy_of):
    cut = copy_of(place, "cut")
    truncate(cut / TENSORS)
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        LocalModel.load(cut, central=tiny)
    infected = copy_of(place, "infected")
    (infected / "weights.pkl").write_bytes(b"\x80\x04.")
    with pytest.raises(ValueError, match=r"weights\.pkl.*pickles run code"):
        LocalModel.load(infected, central=tiny)
    (place / JSON).unlink()
    with pytest.raises(ValueError, match=r"lacks \['local\.json'\]; it holds \['local\.safetensors'\]"):
        LocalModel.load(place, central=tiny)
    with pytest.raises(FileNotFoundError, match="no directory"):
        LocalModel.load(place / "nowhere", central=tiny)


def test_an_existing_target_is_refused(model, place):
    for error in (FileExistsError, ValueError):
        with pytest.raises(error, match="exists already"):
            model.save(place)


def test_same_index_same_noise(model):
    profiles = np.ones((4, 4), dtype=np.float32)
    out = model.sample(profiles, index=np.array([7, 7, 8, 7]), steps=2, batch_size=2)
    np.testing.assert_array_equal(out[0], out[1])
    assert np.abs(out[3].astype(int) - out[0]).max() <= 1
    assert not np.array_equal(out[2], out[0])


def test_profiles_are_checked(model):
    with pytest.raises(ValueError, match=r"Profiles must be \(n, 4\).*\(2, 3\)"):
        model.sample(np.ones((2, 3)))
    with pytest.raises(ValueError, match="pass n="):
        model.sample(None)
    with pytest.raises(ValueError, match="guidance must be at least 0"):
        model.sample(np.ones((2, 4)), guidance=-1)
    with pytest.raises(ValueError, match="steps"):
        model.sample(np.ones((2, 4)), steps=0)


def test_after_adapt_no_central_weight_has_changed(toy, copied, local, tmp_path):
    import c2lst as c2l

    fresh = CentralModel.from_pretrained("toy").save_pretrained(tmp_path / "toy")
    from c2lst.models._registry import _shipped

    shipped = CentralModel.from_pretrained(_shipped("toy"))
    assert local.central.hash == shipped.hash
    for part in ("tokenizer", "denoiser"):
        after, before = getattr(local.central, part).state_dict(), getattr(shipped, part).state_dict()
        for key in before:
            assert torch.equal(after[key], before[key]), key
    pytest.importorskip("peft")
    central = CentralModel.from_pretrained(fresh)
    few = copied(toy)["table"][:6].copy()
    c2l.tl.adapt(few, central, modulation="lora", steps=1, batch_size=4, progress=False)
    central._hash = None
    names = dict(central.denoiser.named_parameters())
    assert central.hash == shipped.hash
    assert not any("lora" in name or p.requires_grad for name, p in names.items())


def test_an_adapted_model_makes_the_round_trip(toy, local, tmp_path):
    again = LocalModel.load(local.save(tmp_path / "local"))
    table = toy["table"]
    assert again.genes == table.var_names[table.var["c2lst_genes"]].tolist()
    profiles = np.ones((2, 20), dtype=np.float32)
    np.testing.assert_array_equal(again.sample(profiles, steps=1), local.sample(profiles, steps=1))
    assert sum(p.stat().st_size for p in (tmp_path / "local").iterdir()) < 5e6


def test_what_a_person_sees(model):
    assert "LocalModel of 'unnamed'" in repr(model)
    assert "n_spots: 12" in repr(model)
    assert "curves" not in repr(model)
    assert "n_spots" in model._repr_html_()


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"central": None}, "by name and hash"),
        ({"central": {"name": "starter"}}, "by name and hash"),
        ({"genes": "BACD"}, "list of strings"),
        ({"card": 1}, "card must be an object"),
        ({"more": 1}, r"unknown keys \['more'\]"),
        (
            {"gene_encoder": {"kind": "pca", "n_genes": 4, "dim": 10**12}},
            "the gene encoder gives 1000000000000|does not take",
        ),
    ],
)
def test_what_no_local_model_says_is_refused(tiny, place, edit, changes, match):
    edit(place / "local.json", **changes)
    with pytest.raises(ValueError, match=match):
        LocalModel.load(place, central=tiny)


def test_weights_that_are_no_numbers_are_refused(tiny, place, edit_tensors):
    edit_tensors(place / "local.safetensors", lambda t: t[next(iter(t))].fill_(float("nan")))
    with pytest.raises(ValueError, match="NaN or infinite"):
        LocalModel.load(place, central=tiny)


def test_loading_leaves_random_numbers_alone(tiny, place):
    before = torch.get_rng_state()
    LocalModel.load(place, central=tiny)
    assert torch.equal(before, torch.get_rng_state())
