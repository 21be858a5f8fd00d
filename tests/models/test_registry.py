from __future__ import annotations

import numpy as np
import pytest

from c2lst import models
from c2lst.models import CentralModel

COLUMNS = ["task", "licence", "commercial_use", "gated", "size_mb", "mpp", "patch_px", "source", "needs"]


def test_the_table_of_central_models():
    df = models.list_central()
    assert df.columns.tolist() == COLUMNS
    assert df.index.name == "name"
    assert {"toy", "starter"} <= set(df.index)
    toy = df.loc["toy"]
    assert (toy["mpp"], toy["patch_px"], toy["licence"], toy["source"]) == (2.0, 64, "BSD-3-Clause", "shipped")
    assert 0 < toy["size_mb"] < 30
    # nothing that ships, and so nothing that is a default, is gated or non-commercial
    shipped = df[df["source"].str.startswith(("shipped", "not shipped"))]
    assert shipped["commercial_use"].all()
    assert not shipped["gated"].any()


def test_what_is_not_known_is_said_and_the_table_is_drawn_in_a_notebook():
    df = models.list_central()
    for name, px in (("PixCell-256", 256), ("PixCell-1024", 1024)):
        row = df.loc[name]
        assert (row["patch_px"], row["mpp"]) == (px, 0.5)
        assert not row["commercial_use"]
        assert "stable-diffusion-3.5-large" in row["needs"]
        assert row["source"] == f"https://huggingface.co/StonyBrook-CVLab/{name}"
    assert np.isnan(df.loc["PixCell-1024", "size_mb"])
    assert "<table" in df._repr_html_()
    models.register_central("odd", "hf:a/b", licence="not known", commercial=None, gated=None)
    assert models.list_central().loc["odd", ["commercial_use", "gated"]].tolist() == ["not known", "not known"]


def test_register_an_object(tiny):
    models.register_central("mine", tiny, task="noise", licence="CC-BY-NC-4.0", gated=True)
    found = CentralModel.from_pretrained("mine")
    assert found.denoiser is tiny.denoiser
    assert found.hash == tiny.hash
    assert (found.name, tiny.name) == ("mine", "unnamed")  # the user's object stays as it is
    assert models.central_model("mine").reference == {"name": "mine", "hash": tiny.hash}
    row = models.list_central().loc["mine"]
    assert (row["licence"], row["commercial_use"], row["gated"]) == ("CC-BY-NC-4.0", False, True)
    assert (row["mpp"], row["patch_px"], row["source"]) == (4.0, 8, "in memory")
    assert np.isnan(row["size_mb"])


def test_register_a_directory(saved, tiny):
    models.register_central("ours", saved, licence="CC0-1.0", commercial=True)
    found = CentralModel.from_pretrained("ours")
    assert found.hash == tiny.hash
    assert found.name == "ours"
    assert CentralModel.from_pretrained("ours") is found
    row = models.list_central().loc["ours"]
    assert (row["mpp"], row["patch_px"], row["source"]) == (4.0, 8, str(saved))
    assert row["size_mb"] > 0


def test_register_asks_for_a_scale_a_licence_and_a_name_of_its_own(saved, pipeline, tiny):
    with pytest.raises(ValueError, match=r"c2lst_card\.json and so no scale.*from_pretrained\(path, mpp=\)"):
        models.register_central("theirs", pipeline, licence="x")
    with pytest.raises(TypeError, match="licence"):
        models.register_central("theirs", saved)
    with pytest.raises(ValueError, match="'toy' ships with c2lst; choose another name"):
        models.register_central("toy", tiny, licence="x")
    with pytest.raises(FileNotFoundError, match="no directory"):
        models.register_central("theirs", saved / "nowhere", licence="x")
    assert "theirs" not in models.list_central().index


def test_an_unknown_name_lists_what_there_is():
    with pytest.raises(KeyError, match=r"No central model 'uni'.*'toy', 'starter'.*list_central.*register_central"):
        CentralModel.from_pretrained("uni")


def test_what_is_registered_is_whole(tiny):
    models.register_central("mine", tiny, licence="CC0-1.0")
    for key, value in (("vae", "x"), ("condition", 1), ("revision", "x")):
        with pytest.raises(ValueError, match=f"'mine' is whole: leave {key}= out"):
            CentralModel.from_pretrained("mine", **{key: value})
    with pytest.raises(ValueError, match="8 px at 4 um/px; mpp=2"):
        CentralModel.from_pretrained("mine", mpp=2.0)


def test_central_model_takes_objects_names_paths_and_references(tiny, saved):
    assert models.central_model(tiny).hash == tiny.hash
    assert models.central_model("toy").name == "toy"
    assert models.central_model(saved).hash == tiny.hash
    assert models.central_model(reference=tiny.reference).hash == tiny.hash
    with pytest.raises(TypeError, match="a CentralModel, a name or a path, not list"):
        models.central_model(["toy"])


def test_a_reference_goes_before_the_argument(tiny):
    models.central_model(tiny)
    assert models.central_model("toy", reference=tiny.reference).hash == tiny.hash


def test_what_was_loaded_is_found_by_what_refers_to_it(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr("c2lst.models._registry._SEEN", {})
    tiny.save_pretrained(tmp_path / "central")
    reference = {"name": "gone", "hash": tiny.hash}
    with pytest.raises(KeyError, match="load it with c2lst.models.CentralModel.from_pretrained in this session first"):
        models.central_model(reference=reference)
    CentralModel.from_pretrained(tmp_path / "central")
    assert models.central_model(reference=reference).hash == tiny.hash
