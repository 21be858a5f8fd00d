from __future__ import annotations

import numpy as np
import pytest
import torch

import c2lst as c2l
from c2lst.nn import _device

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA GPU")


@pytest.fixture
def accelerator(monkeypatch):
    def choose(value):
        monkeypatch.setattr(c2l.settings, "accelerator", value)

    return choose


def test_only_known_accelerators_are_taken():
    with pytest.raises(ValueError, match="accelerator"):
        c2l.settings.accelerator = "tpu"
    assert c2l.settings.accelerator == "auto"


def test_a_gpu_that_is_not_there_is_missed_and_not_replaced(accelerator, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert _device.compute_device().type == "cpu"
    accelerator("gpu")
    with pytest.raises(RuntimeError, match="no CUDA GPU"):
        c2l.models.CentralModel.from_pretrained("toy").sample(1, steps=1)


def test_modules_come_back_even_from_an_error(monkeypatch):
    monkeypatch.setattr(_device, "compute_device", lambda: torch.device("cuda"))
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    module, seen = torch.nn.Linear(2, 2), []
    monkeypatch.setattr(module, "to", lambda where: seen.append(torch.device(where).type))
    with pytest.raises(RuntimeError, match="out of memory"), _device.on_device(module):
        assert not torch.backends.cudnn.allow_tf32
        raise RuntimeError("out of memory")
    assert seen == ["cuda", "cpu"]
    assert torch.backends.cudnn.allow_tf32


def test_the_setting_decides_where_a_call_does_not_say(accelerator, monkeypatch):
    import lightning.pytorch as lp

    seen = []

    class Told(Exception):
        pass

    def trainer(**kwargs):
        seen.append(kwargs["accelerator"])
        raise Told

    monkeypatch.setattr(lp, "Trainer", trainer)
    patches = np.zeros((32, 16, 16, 3), dtype=np.uint8)
    for setting, asked in (("auto", "auto"), ("cpu", "auto"), ("cpu", "gpu")):
        accelerator(setting)
        with pytest.raises(Told):
            c2l.tl.pretrain(patches, mpp=4.0, steps=2, accelerator=asked, progress=False)
    assert seen == ["auto", "cpu", "gpu"]


@needs_gpu
def test_a_gpu_draws_and_sees_what_a_cpu_does(toy, local, accelerator):
    profiles = np.asarray(c2l.tl.augment(toy, local, n_obs=6, sampler_steps=1, progress=False).X)
    found = {}
    for where in ("cpu", "gpu"):
        accelerator(where)
        torch.cuda.reset_peak_memory_stats()
        before_it = torch.cuda.memory_allocated()
        drawn = local.sample(profiles, steps=6, guidance=2.5)
        tables = [toy["table"].copy() for _ in range(2)]
        c2l.tl.embed(tables[0], encoder="central", central="toy")
        found[where] = (drawn, tables[0].obsm["X_c2lst"])
        assert (torch.cuda.max_memory_allocated() - before_it > 1e6) == (where == "gpu")
    assert np.abs(found["cpu"][0].astype(int) - found["gpu"][0]).max() <= 1
    np.testing.assert_allclose(*(found[w][1] for w in ("cpu", "gpu")), rtol=1e-2, atol=1e-3)
    parts = (local.central.tokenizer, local.central.denoiser, local.modulation)
    assert {p.device.type for m in parts for p in m.parameters()} == {"cpu"}


@needs_gpu
def test_a_local_model_learns_on_a_gpu_what_it_learns_on_a_cpu(toy, copied, accelerator):
    before = c2l.models.CentralModel.from_pretrained("toy").hash
    cards = {}
    for where in ("cpu", "gpu"):
        accelerator(where)
        torch.cuda.reset_peak_memory_stats()
        before_it = torch.cuda.memory_allocated()
        made = c2l.tl.adapt(copied(toy), "toy", steps=40, progress=False)
        assert (torch.cuda.max_memory_allocated() - before_it > 1e6) == (where == "gpu")
        assert {p.device.type for p in made.modulation.parameters()} == {"cpu"}
        cards[where] = made.card["loss_held_out"]
    assert cards["gpu"] == pytest.approx(cards["cpu"], rel=0.02)
    made.central._hash = None
    assert made.central.hash == before


@needs_gpu
def test_every_predictor_and_arm_runs_on_a_gpu(accelerator):
    accelerator("gpu")
    train, test = c2l.datasets.toy_tissue(40, sections=2)
    for part in (train, test):
        c2l.pp.extract_patches(part, mpp=2.0, patch_px=64)
    df = c2l.tl.learning_curve(
        train, test, central="toy", fractions=(0.5, 1.0), predictors=("ridge", "cnn"), encoder="central", seeds=(0,),
        n_top=10, n_synthetic=16, adapt_kwargs={"steps": 4}, cnn_steps=4, progress=False,
    )  # fmt: skip
    assert np.isfinite(df["pcc"]).all()
    assert {"real", "synthetic"} <= set(df["arm"])


@needs_gpu
def test_pretraining_goes_on_from_a_checkpoint_on_a_gpu(tmp_path, accelerator):
    accelerator("gpu")
    patches = np.random.default_rng(0).integers(0, 255, (64, 16, 16, 3), dtype=np.uint8)
    settings = {"mpp": 4.0, "tokenizer_steps": 4, "batch_size": 8, "schedule": "trapezoid", "progress": False}
    torch.cuda.reset_peak_memory_stats()
    c2l.tl.pretrain(patches, steps=6, out=tmp_path / "run", **settings)
    assert torch.cuda.max_memory_allocated() > 1e6
    longer = c2l.tl.pretrain(patches, steps=12, decoder_steps=4, out=tmp_path / "run", **settings)
    assert longer.card["steps"] == 12
    assert np.isfinite(longer.sample(2, steps=2)).all()
