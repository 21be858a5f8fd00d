from __future__ import annotations

import json
import logging

import huggingface_hub
import numpy as np
import pytest
from huggingface_hub import errors

from c2lst import models
from c2lst.models import CentralModel

REPO = "somebody/histology"


@pytest.fixture
def hub(monkeypatch, pipeline):
    """The Hub, where `somebody/histology` is a pipeline; returns what was asked of it."""
    asked = []

    def snapshot_download(repo_id, **kwargs):
        asked.append({"repo_id": repo_id, **kwargs})
        return str(pipeline)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    return asked


@pytest.fixture
def fail(monkeypatch):
    """Return a function that makes the Hub fail."""

    def with_error(error):
        def snapshot_download(*_args, **_kwargs):
            raise error

        monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)

    return with_error


def http_error(kind):
    out = kind.__new__(kind)
    Exception.__init__(out, "said the Hub")
    return out


@pytest.fixture(autouse=True)
def _nothing_is_fetched(monkeypatch):
    def snapshot_download(*_args, **_kwargs):
        raise AssertionError("something was fetched that nobody named")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)


def register(**kwargs):
    terms = {"licence": "CC-BY-NC-4.0", "mpp": 0.5, "patch_px": 8} | kwargs
    models.register_central("theirs", f"hf:{REPO}", **terms)


def test_a_model_is_fetched_when_it_is_named_and_not_before(hub, caplog):
    register(gated=True)
    assert hub == []
    row = models.list_central().loc["theirs"]
    assert row["source"] == f"https://huggingface.co/{REPO}"
    assert (row["mpp"], row["patch_px"], row["gated"], row["commercial_use"]) == (0.5, 8, True, False)
    assert np.isnan(row["size_mb"])
    assert hub == []
    with caplog.at_level(logging.WARNING, logger="c2lst"):
        central = CentralModel.from_pretrained("theirs")
    assert (central.name, central.mpp, central.patch_px) == ("theirs", 0.5, 8)
    assert central.card["licence"] == "CC-BY-NC-4.0"
    assert len(hub) == 1
    assert hub[0]["repo_id"] == REPO
    assert f"https://huggingface.co/{REPO}. Terms: CC-BY-NC-4.0; no commercial use assumed" in caplog.text


def test_only_json_and_safetensors_are_asked_for(hub):
    from fnmatch import fnmatch

    register()
    CentralModel.from_pretrained("theirs")
    patterns = hub[0]["allow_patterns"]

    def taken(file):
        return any(fnmatch(file, p) for p in patterns)

    wanted = ["model_index.json", "transformer/config.json", "scheduler/scheduler_config.json"]
    wanted += ["vae/diffusion_pytorch_model.safetensors", "unet/diffusion_pytorch_model-00001-of-00002.safetensors"]
    assert all(map(taken, wanted))
    unwanted = [
        "unet/diffusion_pytorch_model.bin",
        "model.ckpt",
        "transformer/remote.py",
        "text_encoder/model.safetensors",
    ]
    unwanted += ["unet/diffusion_pytorch_model.fp16.safetensors", "pipeline.py", "vae/diffusion_pytorch_model.pt"]
    assert not any(map(taken, unwanted))


def test_a_revision_pins_it(hub):
    register(revision="v1")
    assert CentralModel.from_pretrained("theirs").card["revision"] == "v1"
    assert CentralModel.from_pretrained("theirs", revision="abc123").card["revision"] == "abc123"
    assert [a["revision"] for a in hub] == ["v1", "abc123"]
    with pytest.raises(ValueError, match="'toy' is whole: leave revision= out"):
        CentralModel.from_pretrained("toy", revision="v1")


def test_the_log_comes_before_the_fetch(fail, caplog):
    register()
    fail(errors.LocalEntryNotFoundError("no network"))
    with caplog.at_level(logging.WARNING, logger="c2lst"), pytest.raises(ConnectionError):
        CentralModel.from_pretrained("theirs")
    assert "Terms: CC-BY-NC-4.0" in caplog.text


@pytest.mark.parametrize(
    ("error", "kind", "match"),
    [
        (
            http_error(errors.GatedRepoError),
            PermissionError,
            f"is gated: ask for access at https://.*{REPO}.*hf auth login",
        ),
        (http_error(errors.RepositoryNotFoundError), ValueError, "not found: it is gone, renamed or private"),
        (
            http_error(errors.RevisionNotFoundError),
            ValueError,
            f"no revision None; its commits are at .*{REPO}/commits",
        ),
        (errors.LocalEntryNotFoundError("x"), ConnectionError, "cannot be reached from here.*Fetch it where there is"),
        (errors.OfflineModeIsEnabled("x"), ConnectionError, "cannot be reached from here.*OfflineModeIsEnabled"),
        (http_error(errors.HfHubHTTPError), ConnectionError, "cannot be reached.*said the Hub"),
    ],
)
def test_why_nothing_came(fail, error, kind, match):
    register()
    fail(error)
    with pytest.raises(kind, match=f"(?s){match}"):
        CentralModel.from_pretrained("theirs")


def test_a_reference_in_data_fetches_nothing(hub, monkeypatch):
    from c2lst.models import _registry

    register()
    with pytest.raises(KeyError, match="'theirs'.*not to be found; load it with .*from_pretrained"):
        models.central_model(reference={"name": "theirs", "hash": "0" * 64})
    assert hub == []
    central = CentralModel.from_pretrained("theirs")  # named by the user: from now on it is found
    assert models.central_model(reference=central.reference) is central
    monkeypatch.setattr(_registry, "_SEEN", {})
    with pytest.raises(KeyError, match="not to be found"):
        models.central_model(reference=central.reference)
    assert len(hub) == 1


def test_its_own_scale_and_autoencoder_may_be_given(hub, pipeline):
    register(mpp=None, patch_px=None)
    with pytest.raises(ValueError, match="does not say its microns per pixel"):
        CentralModel.from_pretrained("theirs")
    central = CentralModel.from_pretrained("theirs", mpp=0.25, vae=pipeline / "vae")
    assert (central.mpp, central.patch_px) == (0.25, 8)


def test_a_source_on_the_hub_is_checked(tiny):
    with pytest.raises(ValueError, match="must be 'hf:owner/repository'"):
        models.register_central("theirs", "hf:somebody", licence="x")
    with pytest.raises(ValueError, match="mpp must be above 0"):
        register(mpp=-1.0)
    with pytest.raises(ValueError, match="mpp= is for a source on the Hub"):
        models.register_central("theirs", tiny, licence="x", mpp=0.5)


@pytest.mark.parametrize("name", ["PixCell-256", "PixCell-1024"])
def test_pixcell_asks_for_its_autoencoder_before_anything_is_fetched(name):
    with pytest.raises(ValueError, match="without its autoencoder.*stable-diffusion-3.5-large.*Nothing was fetched"):
        CentralModel.from_pretrained(name)


def test_pickles_in_what_came_are_refused(hub, pipeline):
    register()
    (pipeline / "vae" / "diffusion_pytorch_model.bin").write_bytes(b"\x80\x04.")
    with pytest.raises(ValueError, match="pickles run code"):
        CentralModel.from_pretrained("theirs")


def test_a_card_in_the_repository_goes_first(hub, pipeline):
    (pipeline / "c2lst_card.json").write_text(json.dumps({"mpp": 0.25, "patch_px": 8, "licence": "theirs"}))
    register()
    central = CentralModel.from_pretrained("theirs")
    assert (central.mpp, central.card["licence"]) == (0.25, "theirs")
