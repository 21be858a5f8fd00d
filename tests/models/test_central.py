from __future__ import annotations

import dataclasses
import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler

from c2lst import nn
from c2lst.models import CentralModel
from c2lst.models._central import draw

WEIGHTS = "diffusion_pytorch_model.safetensors"
KEY = "proj_out.weight"


def test_round_trip_is_exact(tiny, saved, patches8):
    again = CentralModel.from_pretrained(saved)
    assert again.hash == tiny.hash
    assert len(tiny.hash) == 64
    assert (again.mpp, again.patch_px, again.name) == (4.0, 8, str(saved))
    for key in tiny.card:
        assert again.card[key] == tiny.card[key]
    np.testing.assert_array_equal(again.sample(3, seed=1, steps=2), tiny.sample(3, seed=1, steps=2))
    assert torch.equal(again.encode(patches8), tiny.encode(patches8))


def test_a_guide_goes_with_the_model(guided, tiny, tmp_path):
    path = guided.save_pretrained(tmp_path / "guided")
    again = CentralModel.from_pretrained(path)
    assert again.hash == guided.hash != tiny.hash
    assert again.autoguidance == 1.5 and "autoguidance" not in again.card
    assert again.n_parameters == tiny.n_parameters + sum(p.numel() for p in again.guide.parameters())
    drawn = guided.sample(3, seed=1, steps=2)
    np.testing.assert_array_equal(again.sample(3, seed=1, steps=2), drawn)
    # without it, the samples are those of the bare model
    bare = tiny.sample(3, seed=1, steps=2)
    np.testing.assert_array_equal(guided.sample(3, seed=1, steps=2, autoguidance=1.0), bare)
    assert np.abs(drawn.astype(int) - bare).mean() > 1
    assert "drawn with a guide (1.5)" in repr(again) and "drawn with a guide (1.5)" in again._repr_html_()
    with pytest.raises(ValueError, match=r"autoguidance=1\.5 needs a guide"):
        tiny.sample(3, steps=2, autoguidance=1.5)
    with pytest.raises(ValueError, match="autoguidance must be at least 0"):
        guided.sample(3, steps=2, autoguidance=-1)
    weaker = dataclasses.replace(guided, autoguidance=1.2)
    assert weaker.hash != guided.hash
    CentralModel.from_pretrained(guided.save_pretrained(tmp_path / "half", half=True))


def no_weight(path, edit):
    edit(path / "c2lst_card.json", autoguidance=KeyError)


def odd_weight(path, edit):
    edit(path / "c2lst_card.json", autoguidance="2")


def no_entry(path, edit):
    edit(path / "model_index.json", guide=KeyError)


def odd_entry(path, edit):
    edit(path / "model_index.json", guide=["diffusers", "AutoencoderKL"])


def other_channels(path, edit):
    nn.make_denoiser(latent_channels=3, latent_px=4, width=8, depth=1, heads=2).save_pretrained(path / "guide")


@pytest.mark.parametrize(
    ("spoil", "match"),
    [
        (no_weight, "must say the autoguidance of its guide, a number, not None"),
        (odd_weight, "a number, not '2'"),
        (no_entry, r"says autoguidance=1\.5, and model_index\.json names no guide"),
        (odd_entry, "must name one guide among"),
        (other_channels, "guide takes latents of 3 channels, the denoiser of 2"),
    ],
)
def test_a_spoilt_guide_is_named(guided, tmp_path, edit, spoil, match):
    path = guided.save_pretrained(tmp_path / "guided")
    spoil(path, edit)
    with pytest.raises(ValueError, match=match):
        CentralModel.from_pretrained(path)


def test_directory_is_json_and_safetensors(saved):
    files = sorted(str(p.relative_to(saved)) for p in saved.rglob("*") if p.is_file())
    assert files == [
        "c2lst_card.json", "model_index.json", "scheduler/scheduler_config.json", "transformer/config.json",
        f"transformer/{WEIGHTS}", "vae/config.json", f"vae/{WEIGHTS}",
    ]  # fmt: skip
    card = json.loads((saved / "c2lst_card.json").read_text())
    assert card["licence"] == "CC0-1.0"
    assert (card["mpp"], card["patch_px"]) == (4.0, 8)
    index = json.loads((saved / "model_index.json").read_text())
    assert index["transformer"] == ["diffusers", "PixArtTransformer2DModel"]


def test_diffusers_reads_the_parts(tiny, saved):
    from diffusers import AutoencoderKL, PixArtTransformer2DModel

    denoiser = PixArtTransformer2DModel.from_pretrained(saved / "transformer")
    assert torch.equal(denoiser.proj_out.weight, tiny.denoiser.proj_out.weight)
    tokenizer = AutoencoderKL.from_pretrained(saved / "vae")
    assert list(tokenizer.config.latents_mean) == list(tiny.tokenizer.config.latents_mean)


def test_half_is_half_the_size_and_nearly_the_same(tiny, tmp_path):
    path = tiny.save_pretrained(tmp_path / "half", half=True)
    again = CentralModel.from_pretrained(path)
    assert again.denoiser.proj_out.weight.dtype == torch.float32
    torch.testing.assert_close(again.denoiser.proj_out.weight, tiny.denoiser.proj_out.weight, rtol=1e-3, atol=1e-6)
    assert again.hash != tiny.hash
    assert again.hash == CentralModel.from_pretrained(again.save_pretrained(tmp_path / "again")).hash
    sizes = [(p / "transformer" / WEIGHTS).stat().st_size for p in (path, tmp_path / "again")]
    assert sizes[0] < 0.7 * sizes[1]


def test_hash_tells_weights_scale_and_scheduler_apart(tiny, saved, edit, edit_tensors, copy_of):
    def hash_after(name, change):
        path = copy_of(saved, name)
        change(path)
        return CentralModel.from_pretrained(path).hash

    def move(tensors):
        tensors[KEY][0, 0] += 1e-3

    hashes = {
        tiny.hash,
        hash_after("a", lambda p: edit_tensors(p / "transformer" / WEIGHTS, move)),
        hash_after("b", lambda p: edit(p / "c2lst_card.json", mpp=4.01)),
        hash_after("c", lambda p: edit(p / "scheduler" / "scheduler_config.json", shift=3.0)),
        hash_after("d", lambda p: edit(p / "vae" / "config.json", latents_mean=[0.0, 0.0])),
    }
    assert len(hashes) == 5
    assert hash_after("e", lambda p: edit(p / "c2lst_card.json", data="said otherwise")) == tiny.hash


def test_pipelines_of_diffusers_load_with_their_scale(pipeline):
    central = CentralModel.from_pretrained(pipeline, mpp=0.5)
    assert (central.mpp, central.patch_px, central.latent_shape) == (0.5, 8, (2, 4, 4))
    a = central.sample(2, seed=0, steps=2)
    assert a.shape == (2, 8, 8, 3)
    np.testing.assert_array_equal(a, central.sample(2, seed=0, steps=2))
    assert not any(p.requires_grad for p in central.denoiser.parameters())
    assert not central.denoiser.training


def test_a_pipeline_saved_by_c2lst_says_its_scale(pipeline, tmp_path):
    central = CentralModel.from_pretrained(pipeline, mpp=0.5)
    again = CentralModel.from_pretrained(central.save_pretrained(tmp_path / "ours"))
    assert (again.mpp, again.hash) == (0.5, central.hash)


def test_a_pipeline_does_not_say_its_scale(pipeline):
    with pytest.raises(ValueError, match=r"does not say its microns per pixel.*from_pretrained\(\.\.\., mpp=\)"):
        CentralModel.from_pretrained(pipeline)


@pytest.mark.parametrize("pipeline", ["unet"], indirect=True)
def test_a_pipeline_without_sample_size_asks_for_the_side(pipeline, edit):
    edit(pipeline / "unet" / "config.json", sample_size=None)
    with pytest.raises(ValueError, match="patch_px="):
        CentralModel.from_pretrained(pipeline, mpp=0.5)
    assert CentralModel.from_pretrained(pipeline, mpp=0.5, patch_px=16).latent_shape == (2, 8, 8)


def pickle_inside(path, edit, edit_tensors, truncate):
    (path / "vae" / "diffusion_pytorch_model.bin").write_bytes(b"\x80\x04.")


def unknown_class(path, edit, edit_tensors, truncate):
    edit(path / "model_index.json", transformer=["some_package", "RemoteTransformer"])


def other_class(path, edit, edit_tensors, truncate):
    edit(path / "transformer" / "config.json", _class_name="DiTTransformer2DModel")


def climbs_out(path, edit, edit_tensors, truncate):
    edit(path / "model_index.json", transformer=KeyError, **{"../x": ["diffusers", "PixArtTransformer2DModel"]})


def missing_key(path, edit, edit_tensors, truncate):
    edit_tensors(path / "transformer" / WEIGHTS, lambda t: t.pop(KEY))


def extra_key(path, edit, edit_tensors, truncate):
    edit_tensors(path / "transformer" / WEIGHTS, lambda t: t.update(stray=torch.zeros(1)))


def wrong_shape(path, edit, edit_tensors, truncate):
    edit_tensors(path / "transformer" / WEIGHTS, lambda t: t.update({KEY: torch.zeros(1, 16)}))


def wrong_channels(path, edit, edit_tensors, truncate):
    torch.manual_seed(0)
    other = nn.make_tokenizer(latent_channels=3, channels=(8, 8), patch_px=8, norm_groups=4)
    other.save_pretrained(path / "vae")


def cut_weights(path, edit, edit_tensors, truncate):
    truncate(path / "vae" / WEIGHTS)


def no_json(path, edit, edit_tensors, truncate):
    (path / "model_index.json").write_text("not json")


def a_list(path, edit, edit_tensors, truncate):
    (path / "model_index.json").write_text("[]")


def no_index(path, edit, edit_tensors, truncate):
    (path / "model_index.json").unlink()


def no_weights(path, edit, edit_tensors, truncate):
    (path / "transformer" / WEIGHTS).unlink()


def no_scale(path, edit, edit_tensors, truncate):
    (path / "c2lst_card.json").unlink()


def card_without_scale(path, edit, edit_tensors, truncate):
    edit(path / "c2lst_card.json", mpp=KeyError)


@pytest.mark.parametrize(
    ("spoil", "match"),
    [
        (pickle_inside, r"diffusion_pytorch_model\.bin.*pickles run code"),
        (unknown_class, r"one denoiser among.*PixArtTransformer2DModel.*it names.*RemoteTransformer"),
        (other_class, "is a DiTTransformer2DModel, but model_index.json calls it a PixArtTransformer2DModel"),
        (climbs_out, "no plain name"),
        (missing_key, r"do not fit PixArtTransformer2DModel: the file lacks \['proj_out\.weight'\]"),
        (extra_key, r"has unknown \['stray'\]"),
        (wrong_shape, r"wrong shapes.*proj_out\.weight \(1, 16\) instead of \(2, 16\)"),
        (wrong_channels, "tokenizer makes 3 channels, the PixArtTransformer2DModel takes 2"),
        (cut_weights, "not a whole safetensors file"),
        (no_json, "is not JSON"),
        (a_list, "must hold a JSON object, not a list"),
        (no_index, r"lacks \['model_index\.json'\]; it holds"),
        (no_weights, r"lacks \['diffusion_pytorch_model\.safetensors'\]"),
        (no_scale, "mpp="),
        (card_without_scale, r"lacks the keys \['mpp'\]"),
    ],
)
def test_a_spoilt_directory_is_named(saved, edit, edit_tensors, truncate, spoil, match):
    spoil(saved, edit, edit_tensors, truncate)
    with pytest.raises(ValueError, match=f"(?s){match}"):
        CentralModel.from_pretrained(saved)


def test_a_pickle_is_never_opened(tmp_path):
    opened = tmp_path / "opened"

    class Bomb:
        def __reduce__(self):
            return (opened.touch, ())

    path = tmp_path / "model.pt"
    torch.save(Bomb(), path)
    with pytest.raises(ValueError, match="is a pickle, which runs code when opened"):
        CentralModel.from_pretrained(path)
    assert not opened.exists()


def test_another_scale_than_the_cards_is_refused(saved):
    assert CentralModel.from_pretrained(saved, mpp=4.0, patch_px=8).mpp == 4.0
    with pytest.raises(ValueError, match=r"8 px at 4 um/px; mpp=2\.0"):
        CentralModel.from_pretrained(saved, mpp=2.0)
    with pytest.raises(ValueError, match="patch_px=16"):
        CentralModel.from_pretrained(saved, patch_px=16)
    with pytest.raises(ValueError, match="registered model 'toy'.*mpp=0.5"):
        CentralModel.from_pretrained("toy", mpp=0.5)


def test_an_existing_target_is_not_touched(tiny, saved):
    before = {p: p.read_bytes() for p in saved.rglob("*") if p.is_file()}
    for error in (FileExistsError, ValueError):
        with pytest.raises(error, match="exists already.*overwrite=True"):
            tiny.save_pretrained(saved)
    assert {p: p.read_bytes() for p in saved.rglob("*") if p.is_file()} == before
    (saved / "stray.txt").write_text("x")
    tiny.save_pretrained(saved, overwrite=True)
    assert not (saved / "stray.txt").exists()
    assert CentralModel.from_pretrained(saved).hash == tiny.hash


@pytest.mark.parametrize("there", [False, True])
def test_nothing_half_written_is_left(tiny, tmp_path, monkeypatch, there):
    target = tmp_path / "models" / "ours"
    if there:
        tiny.save_pretrained(target)
        stamp = (target / "model_index.json").read_bytes()

    def fail(*_args, **_kwargs):
        raise OSError("disk full")

    monkeypatch.setattr(tiny.scheduler, "save_config", fail)
    with pytest.raises(OSError, match="disk full"):
        tiny.save_pretrained(target, overwrite=True)
    assert [p.name for p in target.parent.iterdir()] == (["ours"] if there else [])
    if there:
        assert (target / "model_index.json").read_bytes() == stamp


def test_an_empty_directory_may_be_the_target(tiny, tmp_path):
    (tmp_path / "empty").mkdir()
    tiny.save_pretrained(tmp_path / "empty")
    assert (tmp_path / "empty" / "model_index.json").is_file()


def test_samples_follow_from_seed_and_index_alone(tiny):
    whole = tiny.sample(5, seed=3, steps=2)
    assert whole.dtype == np.uint8
    assert whole.std() > 0
    np.testing.assert_array_equal(tiny.sample(5, seed=3, steps=2), whole)
    for batch_size in (1, 2):
        other = tiny.sample(5, seed=3, steps=2, batch_size=batch_size)
        assert np.abs(other.astype(int) - whole).max() <= 1
    assert not np.array_equal(tiny.sample(5, seed=4, steps=2), whole)
    part = draw(tiny, np.array([3, 1]), seed=3, steps=2)
    assert np.abs(part.astype(int) - whole[[3, 1]]).max() <= 1


@pytest.mark.parametrize(
    ("kwargs", "error", "match"),
    [
        ({"n": 0}, ValueError, "n must be above 0"),
        ({"n": 2.5}, TypeError, "n must be an integer"),
        ({"n": 1, "steps": 0}, ValueError, "steps"),
    ],
)
def test_sample_checks_its_arguments(tiny, kwargs, error, match):
    with pytest.raises(error, match=match):
        tiny.sample(**kwargs)


@pytest.mark.parametrize(
    ("kwargs", "error", "match"),
    [
        ({"mpp": 0}, ValueError, "mpp must be above 0"),
        ({"mpp": None}, TypeError, "mpp must be a number"),
        ({"patch_px": 9}, ValueError, "patch_px=9 is no multiple of 2"),
        ({"patch_px": 8.0}, TypeError, "patch_px must be an integer"),
    ],
)
def test_a_model_has_a_scale(tiny, kwargs, error, match):
    settings = {"mpp": 4.0, "patch_px": 8, **kwargs}
    with pytest.raises(error, match=match):
        CentralModel(tiny.tokenizer, tiny.denoiser, FlowMatchEulerDiscreteScheduler(), **settings)


def test_encode_and_decode_by_batches(tiny, patches8):
    z = tiny.encode(patches8)
    assert z.shape == (5, *tiny.latent_shape)
    torch.testing.assert_close(tiny.encode(patches8, batch_size=2), z, rtol=1e-4, atol=1e-5)
    assert tiny.decode(z).shape == patches8.shape


def test_what_a_person_sees(tiny):
    assert "8 px at 4 um/px (32 um)" in repr(tiny)
    assert "trained on: noise" in repr(tiny)
    assert tiny.hash[:12] in repr(tiny)
    odd = CentralModel(
        tiny.tokenizer, tiny.denoiser, DDIMScheduler(), mpp=4.0, patch_px=8, card={"data": "<script>"}, name="a&b"
    )
    html = odd._repr_html_()
    assert "<script>" not in html
    assert "a&amp;b" in html


def test_the_starter_ships_with_a_guide_and_is_small():
    import c2lst as c2l

    starter = CentralModel.from_pretrained("starter")
    assert starter.latent_shape == (8, 16, 16) and 1 < starter.autoguidance < 2
    parameters = [sum(p.numel() for p in m.parameters()) for m in (starter.guide, starter.denoiser)]
    assert 0 < parameters[0] < parameters[1] / 5
    assert starter.card["guide"]["guide_steps"] > 0 and not {"C5", "C6", "B4"} & {
        s["name"][-2:] for s in starter.card["sources"]
    }
    guided, bare = (starter.sample(2, seed=0, steps=4, autoguidance=w).astype(int) for w in (None, 1.0))
    assert 1 < np.abs(guided - bare).mean() < 40
    weights = (Path(c2l.__file__).parent / "models" / "weights").rglob("*.safetensors")
    assert sum(p.stat().st_size for p in weights) < 25e6


def test_the_starter_is_the_toy_until_it_ships(caplog, monkeypatch, tmp_path):
    from c2lst.models import _registry

    entry = _registry._REGISTRY["starter"]
    monkeypatch.setitem(
        _registry._REGISTRY, "starter", type(entry)(tmp_path / "nowhere", entry.task, entry.licence, True, False)
    )
    with caplog.at_level(logging.WARNING, "c2lst"):
        starter = CentralModel.from_pretrained("starter")
    assert "does not ship yet" in caplog.text
    assert "c2lst.tl.pretrain" in caplog.text
    assert starter.hash == CentralModel.from_pretrained("toy").hash


def test_the_toy_is_what_the_docs_say():
    toy = CentralModel.from_pretrained("toy")
    assert (toy.mpp, toy.patch_px, toy.name) == (2.0, 64, "toy")
    assert toy is CentralModel.from_pretrained("toy")


def test_loading_leaves_random_numbers_alone(tiny, tmp_path):
    tiny.save_pretrained(tmp_path / "a")
    before = torch.get_rng_state()
    CentralModel.from_pretrained(tmp_path / "a")
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("changes", [{"mpp": -2.0}, {"mpp": "2"}, {"patch_px": 0}, {"patch_px": 8.5}])
def test_a_scale_that_is_none_is_refused(tiny, tmp_path, edit, changes):
    from c2lst.models._central import CARD

    tiny.save_pretrained(tmp_path / "a")
    edit(tmp_path / "a" / CARD, **changes)
    with pytest.raises(ValueError, match="no scale"):
        CentralModel.from_pretrained(tmp_path / "a")
