from __future__ import annotations

import json

import anndata as ad
import numpy as np
import pytest

import c2lst as c2l

QUICK = {"steps": 2, "validation": 0.0, "progress": False}


@pytest.fixture(scope="module")
def toy_central():
    return c2l.models.CentralModel.from_pretrained("toy")


@pytest.fixture(scope="module")
def weights(toy_central):
    def take():
        parts = (toy_central.tokenizer, toy_central.denoiser)
        return {f"{i}.{k}": v.numpy().copy() for i, m in enumerate(parts) for k, v in m.state_dict().items()}

    return take


def test_twice_is_the_same_and_leaves_the_central_model(two, toy_central, weights, tensors, same):
    before, identity = weights(), toy_central.hash
    settings = {"steps": 3, "pool": two[1].obsm["patches"][:8], "progress": False}
    first = c2l.tl.adapt(two[0], toy_central, **settings)
    second = c2l.tl.adapt(two[0], toy_central, **settings)
    assert same(tensors(first), tensors(second))
    assert {k: v for k, v in first.card.items() if k != "hours"} == {
        k: v for k, v in second.card.items() if k != "hours"
    }
    assert first.card["n_held_out"] == 3 and first.card["n_pool"] == 8
    assert same(before, weights())
    toy_central._hash = None
    assert toy_central.hash == identity == first.central.hash
    other = c2l.tl.adapt(two[0], toy_central, **settings | {"seed": 1})
    assert not same(tensors(first), tensors(other))
    stainless = c2l.tl.adapt(two[0], toy_central, **settings | {"pool": None})
    assert not same(tensors(first), tensors(stainless))


def test_unpaired_tissue_is_told_its_genes_or_none(two, toy_central, tensors, same):
    settings = {"steps": 3, "pool": two[1].obsm["patches"][:8], "progress": False}
    told = c2l.tl.adapt(two[0], toy_central, **settings)
    silent = c2l.tl.adapt(two[0], toy_central, pool_genes="dropped", **settings)
    assert told.card["pool_genes"] == "predicted" and silent.card["pool_genes"] == "dropped"
    assert (told.card["lr"], silent.card["lr"]) == (3e-3, 1e-3)
    assert not same(tensors(told), tensors(silent))
    none = c2l.tl.adapt(two[0], toy_central, steps=3, progress=False)
    assert none.card["pool_genes"] == "none" and none.card["lr"] == 1e-3
    with pytest.raises(ValueError, match="pool_genes='guessed'.*'predicted'.*'dropped'"):
        c2l.tl.adapt(two[0], toy_central, pool_genes="guessed", **settings)


def test_one_bar_counts_the_tissue_and_the_steps(two, toy_central, capsys):
    pool = two[0].obsm["patches"][:6]
    c2l.tl.adapt(two[0], toy_central, pool=pool, steps=3, progress=True)
    said = capsys.readouterr().err
    assert "tissue" in said and "adapt: 100%" in said and "11/11" in said


@pytest.mark.parametrize("encoder", ["mlp", "scvi"])
def test_predicted_genes_go_through_every_gene_encoder(toy, toy_central, encoder, monkeypatch):
    from c2lst import train

    plans = []

    class Seen(train.ModulationPlan):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            plans.append(self)

    monkeypatch.setattr(train, "ModulationPlan", Seen)
    table = toy["table"].copy()
    pool = table.obsm["patches"][:6]
    c2l.tl.adapt(table, toy_central, gene_encoder=encoder, pool=pool, steps=1, progress=False)
    (plan,) = plans
    assert plan.pool_genes.shape == (6, plan.genes.shape[1]) and plan.pool.shape[:2] == (6, 8)
    if encoder == "scvi":  # counts, of about as many as were measured
        assert plan.pool_genes.min() >= 0
        assert 0.3 < plan.pool_genes.sum(1).mean() / plan.genes.sum(1).mean() < 3


def test_something_is_learned_by_the_modulation(two, tensors):
    local = c2l.tl.adapt(two[0], "toy", **QUICK)
    fitted = tensors(local)
    assert np.abs(fitted["modulation.out.weight"]).max() > 0  # zero before the first step
    assert np.abs(fitted["modulation.base"]).max() > 0
    assert local.n_parameters < 0.05 * local.central.n_parameters
    assert local.card["share_of_central"] == pytest.approx(local.n_parameters / local.central.n_parameters, abs=1e-4)


def test_writes_what_it_announces(two, snapshot, changed):
    table, other = two
    before = snapshot(table)
    local = c2l.tl.adapt(table, "toy", key_added="mine", **QUICK)
    here = changed(before, table)
    own = {k for k in here if k.startswith(("uns/c2lst/params/adapt/", "uns/mine/local/"))}
    assert here - own == {"uns/c2lst/central/name", "uns/c2lst/central/hash"}
    assert table.uns["c2lst"]["central"] == local.central.reference
    assert table.uns["mine"]["local"]["n_spots"] == 20
    assert table.uns["mine"]["local"]["sections"] == ["toy0"]
    json.dumps(table.uns["c2lst"])
    json.dumps(local.card)
    c2l.tl.adapt(other, "toy", **QUICK)
    assert other.uns["c2lst"]["local"]["steps"] == 2 and "patches" in other.uns["c2lst"]


def test_list_dict_and_concatenated_table_are_one(two, tensors, same):
    whole = ad.concat({"toy0": two[0], "toy1": two[1]}, label="section", merge="same", uns_merge="first")
    split = c2l.tl.adapt(whole, "toy", library_key="section", **QUICK)
    listed = c2l.tl.adapt(two, "toy", **QUICK)
    named = c2l.tl.adapt({"toy0": two[0], "toy1": two[1]}, "toy", **QUICK)
    assert same(tensors(listed), tensors(named)) and same(tensors(listed), tensors(split))
    assert listed.card["sections"] == split.card["sections"] == ["toy0", "toy1"]
    assert listed.card["n_spots"] == 40
    # what is noted lands on the table the user holds, and on it alone
    assert whole.uns["c2lst"]["central"] == split.central.reference
    assert whole.uns["c2lst"]["local"]["n_spots"] == 40


def test_layer(two, tensors, same):
    plain = two[0].copy()
    moved = two[0].copy()
    moved.layers["raw"] = moved.X.copy()
    moved.X = moved.X.astype(np.float32) * 0.5
    with pytest.raises(ValueError, match="fractional.*'raw'"):
        c2l.tl.adapt(moved, "toy", **QUICK)
    a = c2l.tl.adapt(plain, "toy", **QUICK)
    b = c2l.tl.adapt(moved, "toy", layer="raw", **QUICK)
    assert same(tensors(a), tensors(b))
    assert moved.uns["c2lst"]["params"]["adapt"]["layer"] == "raw"


def test_spots_without_a_valid_patch_are_not_seen(two, tensors, same):
    flagged = two[0].copy()
    flagged.obs["c2lst_valid"] = np.arange(20) >= 5
    a = c2l.tl.adapt(flagged, "toy", **QUICK)
    b = c2l.tl.adapt(two[0][5:].copy(), "toy", **QUICK)
    assert a.card["n_spots"] == 15
    assert same(tensors(a), tensors(b))


def test_patches_in_a_store(copied, toy, tmp_path, tensors, same):
    stored = copied(toy)
    del stored["table"].obsm["patches"]
    c2l.pp.extract_patches(stored, mpp=2.0, patch_px=64, store=tmp_path / "p.zarr")
    assert "patches" not in stored["table"].obsm
    a = c2l.tl.adapt(stored, "toy", **QUICK)
    b = c2l.tl.adapt(toy["table"].copy(), "toy", **QUICK)
    assert same(tensors(a), tensors(b))


def test_lora(two, toy_central, weights, tensors, same):
    pytest.importorskip("peft")
    before = weights()
    local = c2l.tl.adapt(two[0], toy_central, modulation="lora", **QUICK)
    assert same(before, weights())
    moved = [k for k, v in tensors(local).items() if "lora_B" in k and np.abs(v).max() > 0]
    assert moved
    assert local.n_parameters < 0.05 * local.central.n_parameters
    assert local.sample(None, n=2, steps=2).shape == (2, 64, 64, 3)
    again = c2l.tl.adapt(two[0], toy_central, modulation="lora", **QUICK)
    assert same(tensors(local), tensors(again))


def test_mlp_encoder_is_trained(two, tensors):
    local = c2l.tl.adapt(two[0], "toy", gene_encoder="mlp", **QUICK)
    assert local.gene_encoder.kind == "mlp"
    assert local.n_parameters < 0.05 * local.central.n_parameters


def test_bad_input_is_refused_before_anything_changes(two, snapshot, changed):
    table, other = two
    before = snapshot(table)
    with pytest.raises(ValueError, match="modulation='x'.*film"):
        c2l.tl.adapt(table, "toy", modulation="x")
    with pytest.raises(ValueError, match="gene_encoder"):
        c2l.tl.adapt(table, "toy", gene_encoder="x")
    with pytest.raises(KeyError, match="No central model 'nowhere'"):
        c2l.tl.adapt(table, "nowhere")
    with pytest.raises(KeyError, match="select_genes"):
        c2l.tl.adapt(table, "toy", genes_key="other")
    with pytest.raises(KeyError, match="extract_patches"):
        c2l.tl.adapt(table, "toy", patch_key="other")
    with pytest.raises(KeyError, match="subset"):
        c2l.tl.adapt(table, "toy", subset="other")
    with pytest.raises(KeyError, match="no layer 'other'"):
        c2l.tl.adapt(table, "toy", layer="other")
    with pytest.raises(ValueError, match="steps"):
        c2l.tl.adapt(table, "toy", steps=0)
    with pytest.raises(ValueError, match="pool has patches of 32"):
        c2l.tl.adapt(table, "toy", pool=np.zeros((4, 32, 32, 3), np.uint8))
    assert not changed(before, table)
    with pytest.raises(ValueError, match="too few for adapt"):
        c2l.tl.adapt(table[:1].copy(), "toy")
    coarse = table.copy()
    coarse.uns["c2lst"]["patches"]["patches"]["mpp"] = 3.0
    with pytest.raises(ValueError, match=r"3 um/px.*extract_patches\(sdata, mpp=2, patch_px=64\)"):
        c2l.tl.adapt(coarse, "toy")
    other.var["c2lst_genes"] = ~other.var["c2lst_genes"]
    with pytest.raises(ValueError, match="different panels"):
        c2l.tl.adapt([table, other], "toy")


@pytest.mark.parametrize("validation", [-0.9, 1.5, 1.0])
def test_a_share_that_is_none_is_refused_before_anything_is_trained(two, validation):
    with pytest.raises(ValueError, match="validation"):
        c2l.tl.adapt(two, "toy", **{**QUICK, "validation": validation})
    with pytest.raises(ValueError, match="gene_dropout"):
        c2l.tl.adapt(two, "toy", gene_dropout=1.5, **QUICK)
    assert all("central" not in t.uns["c2lst"] for t in two)


def test_the_central_model_is_trained_on_where_the_plan_is_and_comes_back(two, toy_central, monkeypatch):
    from c2lst.train import ModulationPlan

    seen = []

    def start(plan):
        moved.append(plan.device)
        plan_start(plan)

    moved, plan_start = [], ModulationPlan.on_fit_start
    monkeypatch.setattr(ModulationPlan, "on_fit_start", start)
    monkeypatch.setattr(ModulationPlan, "loss", lambda plan, g: (_ for _ in ()).throw(RuntimeError("out of memory")))
    monkeypatch.setattr(type(toy_central.denoiser), "to", lambda self, where: seen.append(where) or self)
    with pytest.raises(RuntimeError, match="out of memory"):
        c2l.tl.adapt(two, toy_central, **QUICK)
    assert moved and seen == [moved[0], next(toy_central.denoiser.parameters()).device]


def test_the_frozen_denoiser_follows_its_plan(two, toy_central):
    """No accelerator is at hand, but a device without memory is."""
    import copy

    import torch

    from c2lst import nn
    from c2lst.train import ModulationPlan

    denoiser = copy.deepcopy(toy_central.denoiser)
    encoder = nn.GENE_ENCODERS["pca"].fit(np.random.default_rng(0).random((8, 4)).astype(np.float32))
    film = nn.MODULATIONS["film"](encoder.dim, [s.width for s in nn.sites(denoiser)])
    film.bind(denoiser)
    plan = ModulationPlan(
        denoiser, toy_central.scheduler, film, encoder, torch.zeros(8, 1, *toy_central.latent_shape), torch.zeros(8, 4),
        steps=2, batch_size=4, lr=1e-3, seed=0,
    )  # fmt: skip
    plan.to("meta")
    assert next(plan.frozen.parameters()).device.type == "cpu"
    plan.on_fit_start()
    assert {p.device.type for p in [*plan.parameters(), *plan.frozen.parameters()]} == {"meta"}
    assert plan.loss(torch.Generator()).device.type == "meta"


def test_one_held_out_spot_keeps_the_step_of_least_loss(two, tensors):
    pool = two[1].obsm["patches"][:12]
    local = c2l.tl.adapt(two[0][:12].copy(), "toy", pool=pool, steps=12, validation=0.1, progress=False)
    curve = dict(local.card["curves"]["validation"])
    assert local.card["n_held_out"] == 1
    assert local.card["kept_step"] == min(curve, key=curve.get)


def test_processes_that_are_spawned_hand_back_the_best_step(tmp_path):
    import subprocess
    import sys

    script = tmp_path / "run.py"
    script.write_text(
        "import json, sys, c2lst as c2l\n"
        "if __name__ == '__main__':\n"
        "    s = c2l.datasets.toy_tissue(24)\n"
        "    c2l.pp.extract_patches(s, mpp=2.0, patch_px=64)\n"
        "    c2l.pp.select_genes(s, n_top=10)\n"
        "    kw = {'steps': 3, 'accelerator': 'cpu', 'progress': False}\n"
        "    a = c2l.tl.adapt(s, 'toy', **kw)\n"
        "    b = c2l.tl.adapt(s, 'toy', strategy='ddp_spawn', **kw)\n"
        "    keys = ('kept_step', 'loss_held_out', 'gain_from_genes')\n"
        "    print(json.dumps([[m.card[k] for k in keys] for m in (a, b)]))\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    alone, apart = json.loads(done.stdout.strip().splitlines()[-1])
    assert apart == pytest.approx(alone, rel=1e-4)
