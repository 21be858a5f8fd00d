from __future__ import annotations

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import c2lst as c2l
from c2lst.tl._pretrain_data import apart, gather, in_memory

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


KILLED = """
import json, os, signal, sys
import numpy as np, torch
torch.set_num_threads(1)
import c2lst as c2l
from c2lst import train

plan, step = getattr(train, sys.argv[1]), int(sys.argv[2])
loss = plan.loss

def cut(self, generator):
    if self.step == step:
        os.kill(os.getpid(), signal.SIGKILL)
    return loss(self, generator)

plan.loss = cut
c2l.tl.pretrain(np.load(sys.argv[3]), out=sys.argv[4], **json.loads(sys.argv[5]))
"""


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def script(path, text, *args):
    path.write_text(text)
    # as bytes: a text would take the carriage returns of a bar for new lines
    done = subprocess.run([sys.executable, str(path), *map(str, args)], capture_output=True, timeout=540, check=False)
    done.stderr = done.stderr.decode()
    return done


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_killed_twice_it_ends_as_if_never_interrupted(patches, tmp_path, one_thread, same):
    how = {**TINY, "steps": 7, "tokenizer_steps": 5, "checkpoint_every": 2, "schedule": "trapezoid"}
    whole = c2l.tl.pretrain(patches, **how)
    np.save(tmp_path / "patches.npy", patches)
    out = tmp_path / "out"
    for plan, step in (("TokenizerPlan", 3), ("DenoiserPlan", 5)):
        done = script(tmp_path / "killed.py", KILLED, plan, step, tmp_path / "patches.npy", out, json.dumps(how))
        assert done.returncode == -9, done.stderr
    (latents,) = (out / "checkpoints").glob("latents-*")
    stamp = latents.stat().st_mtime_ns
    ended = c2l.tl.pretrain(patches, out=out, **how)
    assert same(weights(whole), weights(ended))
    assert whole.hash == ended.hash
    assert whole.card["curves"] == ended.card["curves"]
    # what was encoded before the second kill is used again
    assert latents.stat().st_mtime_ns == stamp
    assert c2l.models.CentralModel.from_pretrained(out / "model").hash == whole.hash


TWO = """
import json, os, sys
import numpy as np, torch
import c2lst as c2l
from c2lst.train import Latents, Plan

drawn, encoded = [], []
rows, encode = Plan.rows, Latents.encode

def noted(self, n, generator, size=None):
    got = rows(self, n, generator, size)
    drawn.append([type(self).__name__, self.step, got.tolist()])
    return got

def counted(self, device="cpu"):
    encoded.append(len(self.pool))
    return encode(self, device)

Plan.rows, Latents.encode = noted, counted
if __name__ == "__main__":
    how = json.loads(sys.argv[3])
    made = c2l.tl.pretrain(np.load(sys.argv[1]), out=sys.argv[2] + "/out", **{**how, "progress": True})
    # again without a place for checkpoints, on the tokenizer of the first
    other = c2l.tl.pretrain(np.load(sys.argv[1]), **{**how, "tokenizer": made})
    rank = os.environ.get("LOCAL_RANK", "0")
    said = {"hash": made.hash, "other": other.hash, "drawn": drawn, "encoded": encoded, "card": made.card}
    with open(sys.argv[2] + f"/rank{rank}.json", "w") as file:
        json.dump(said, file)
"""

SPAWN = """
import json, sys
import numpy as np
import c2lst as c2l

if __name__ == "__main__":
    made = c2l.tl.pretrain(np.load(sys.argv[1]), **json.loads(sys.argv[3]))
    with open(sys.argv[2] + "/spawned.json", "w") as file:
        json.dump({"hash": made.hash, "card": made.card}, file)
"""


def test_two_processes_train_one_model(patches, tmp_path):
    how = {
        **TINY, "steps": 6, "tokenizer_steps": 4, "batch_size": 4, "accelerator": "cpu", "devices": 2,
        "strategy": "ddp", "precision": "32-true", "guide_steps": 3, "guide": GUIDE,
    }  # fmt: skip
    np.save(tmp_path / "patches.npy", patches)
    done = script(tmp_path / "two.py", TWO, tmp_path / "patches.npy", tmp_path, json.dumps(how))
    assert done.returncode == 0, done.stderr
    first, second = (json.loads((tmp_path / f"rank{i}.json").read_text()) for i in (0, 1))
    assert first["hash"] == second["hash"] and first["other"] == second["other"]
    # each draws its own batches, of the size asked for
    assert len(first["drawn"]) == len(second["drawn"]) == 4 + 6 + 3 + 6 + 3
    for a, b in zip(first["drawn"], second["drawn"], strict=True):
        assert a[:2] == b[:2] and a[2] != b[2] and len(a[2]) == len(b[2]) == 4
    # with a place for latents once, without one for the denoiser and for the guide
    assert first["encoded"] == [20, 20, 20] and second["encoded"] == []
    # one bar, of the first call, and one checkpoint a stage
    assert len([line for line in done.stderr.split("\n") if "%|" in line]) == 1
    assert all(f"{phase}:" in done.stderr for phase in ("tokenizer", "latents", "denoiser", "guide"))
    names = sorted(str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*.safetensors"))
    assert names == [
        "checkpoints/denoiser/state.safetensors", "checkpoints/guide/state.safetensors",
        "checkpoints/tokenizer/state.safetensors", "model/guide/diffusion_pytorch_model.safetensors",
        "model/transformer/diffusion_pytorch_model.safetensors", "model/vae/diffusion_pytorch_model.safetensors",
    ]  # fmt: skip
    assert c2l.models.CentralModel.from_pretrained(tmp_path / "out" / "model").hash == first["hash"]
    curves = first["card"]["curves"]
    assert curves["validation"] == second["card"]["curves"]["validation"]
    assert 0.5 < curves["denoiser"][0] < 4 and np.isfinite(curves["denoiser"]).all()
    # processes that are spawned, as a notebook's are forked, hand back what they learnt: the same model, and its curves
    done = script(
        tmp_path / "s.py", SPAWN, tmp_path / "patches.npy", tmp_path, json.dumps({**how, "strategy": "ddp_spawn"})
    )
    assert done.returncode == 0, done.stderr
    spawned = json.loads((tmp_path / "spawned.json").read_text())
    assert spawned["hash"] == first["hash"]
    told = spawned["card"]["curves"]
    assert [told[k] for k in ("tokenizer", "denoiser", "guide")] == [
        curves[k] for k in ("tokenizer", "denoiser", "guide")
    ]
    for name in ("tokenizer_validation", "validation", "guide_validation"):
        # a sum of floats in another process may differ in its last digit, by where its memory lies
        np.testing.assert_allclose(told[name], curves[name], rtol=1e-6)
    # not what one process makes of its half of the batches
    alone = c2l.tl.pretrain(patches, **{**how, "devices": 1, "strategy": "auto"})
    assert alone.hash != first["hash"]
    assert alone.card["curves"]["denoiser"][0] == pytest.approx(curves["denoiser"][0], rel=0.3)


def test_two_processes_move_one_denoiser(patches, tmp_path):
    # what another process draws may differ in its last digit, so this run is compared with none but itself
    how = {
        **TINY, "accelerator": "cpu", "devices": 2, "strategy": "ddp", "precision": "32-true",
        "neon_steps": 2, "neon_kwargs": {"samples": 8, "batch_size": 4},
    }  # fmt: skip
    np.save(tmp_path / "patches.npy", patches)
    done = script(tmp_path / "two.py", TWO, tmp_path / "patches.npy", tmp_path, json.dumps(how))
    assert done.returncode == 0, done.stderr
    first, second = (json.loads((tmp_path / f"rank{i}.json").read_text()) for i in (0, 1))
    assert first["hash"] == second["hash"] and first["other"] == second["other"]
    # one step of the tokenizer, two of the denoiser, two of its copy; then once more behind the same tokenizer
    assert len(first["drawn"]) == len(second["drawn"]) == 1 + 2 + 2 + 2 + 2
    assert all(a[2] != b[2] for a, b in zip(first["drawn"], second["drawn"], strict=True))
    assert all(max(rows) < 8 for _, _, rows in first["drawn"][-2:])
    assert all(f"{phase}:" in done.stderr for phase in ("denoiser", "samples", "neon"))
    found = (p.parent.name.split("-")[0] for p in (tmp_path / "out" / "checkpoints").rglob("*.safetensors"))
    assert sorted(found) == ["denoiser", "neon", "own", "tokenizer"]


def test_a_finished_run_is_trained_on(patches, tmp_path, same):
    how = {**TINY, "tokenizer_steps": 2, "schedule": "trapezoid", "ema": 0.9}
    whole = c2l.tl.pretrain(patches, **{**how, "steps": 8})
    c2l.tl.pretrain(patches, out=tmp_path, **{**how, "steps": 5})
    longer = c2l.tl.pretrain(patches, resume=tmp_path, **{**how, "steps": 8})
    assert longer.card["steps"] == 8
    assert same(weights(whole), weights(longer))
    # the decoder behind it begins again: it learns on samples of the denoiser
    decoded = {**how, "decoder_steps": 2}
    whole = c2l.tl.pretrain(patches, **{**decoded, "steps": 8})
    c2l.tl.pretrain(patches, out=tmp_path / "decoded", **{**decoded, "steps": 5})
    sharper = c2l.tl.pretrain(patches, resume=tmp_path / "decoded", **{**decoded, "steps": 8})
    assert same(weights(whole), weights(sharper))
    # half of the steps is not a new number of steps for a tokenizer that is there
    again = {k: v for k, v in how.items() if k not in ("tokenizer_steps", "ema")}
    assert c2l.tl.pretrain(patches, out=tmp_path, **{**again, "steps": 8}).hash == longer.hash


def test_a_checkpoint_of_other_settings_is_refused(patches, tmp_path):
    c2l.tl.pretrain(patches, out=tmp_path, **TINY)
    for other, said in (
        ({"seed": 1}, "seed="),
        ({"batch_size": 4}, "batch_size=8 there, 4 here"),
        ({"lr": 1e-3}, "lr=0.0006 there, 0.001 here"),
        ({"time_shift": 2.0}, "time_shift='unset' there, 2.0 here"),
        ({"clip": None}, "clip=1.0 there, None here"),
        ({"schedule": "trapezoid"}, "schedule='cosine' there, 'trapezoid' here"),
        ({"tokenizer": {**TINY["tokenizer"], "latent_channels": 2}}, "tokenizer.latent_channels=4 there, 2 here"),
        ({"denoiser": {**TINY["denoiser"], "depth": 2}}, "denoiser.num_layers=1 there, 2 here"),
        ({"tokenizer_steps": 4}, "steps=1 there, 4 here"),
        ({"mpp": 2.0}, "mpp=4.0 there, 2.0 here"),
        ({"steps": 1, "tokenizer_steps": 1}, "It may be extended"),
    ):
        with pytest.raises(ValueError, match=said):
            c2l.tl.pretrain(patches, out=tmp_path, **{**TINY, **other})
    with pytest.raises(ValueError, match="patches='.*' there, '.*' here"):
        c2l.tl.pretrain(patches[::-1], out=tmp_path, **TINY)
    with pytest.raises(FileNotFoundError, match="begins anew"):
        c2l.tl.pretrain(patches, resume=tmp_path / "nothing", **TINY)


def test_a_tokenizer_stopped_by_the_clock_is_final_and_the_denoiser_goes_on(patches, tmp_path, same):
    how = {**TINY, "steps": 4, "tokenizer_steps": 5, "ema": 0.9}
    first = c2l.tl.pretrain(patches, out=tmp_path, max_minutes=1e-6, **how)
    assert first.card["tokenizer_steps"] == 1
    second = c2l.tl.pretrain(patches, out=tmp_path, **how)
    assert second.card["steps"] == 4
    assert second.card["tokenizer_steps"] == 1
    assert same(*({k: v for k, v in weights(m).items() if k.startswith("0.")} for m in (first, second)))


def test_one_bar_for_the_whole_call(patches, tmp_path, monkeypatch):
    import c2lst.train._fit as module

    made = []

    class Drawn:
        def __init__(self, **kwargs):
            self.kwargs, self.n, self.said, self.closed = kwargs, 0, [kwargs["desc"]], False
            made.append(self)

        def update(self, n=1):
            self.n += n

        def set_description(self, desc):
            self.said.append(desc)

        def set_postfix(self, **_):
            pass

        def close(self):
            self.closed = True

    monkeypatch.setattr(module, "progress_bar", lambda **kwargs: Drawn(**kwargs))
    for _ in range(2):  # trained, and read
        c2l.tl.pretrain(patches, out=tmp_path, **{**TINY, "progress": True})
    assert len(made) == 2
    for bar in made:
        assert bar.said == ["tokenizer", "latents", "denoiser"]
        assert bar.n == bar.kwargs["total"] == 1 + 1 + 2
        assert bar.kwargs["show"] is True and bar.closed


def test_the_tokenizer_has_a_curve_on_held_out_tissue(patches):
    made = c2l.tl.pretrain(patches, **{**TINY, "tokenizer_steps": 3})
    curve = made.card["curves"]["tokenizer_validation"]
    assert [step for step, _ in curve] == [1, 2, 3]
    assert curve[-1][1] == pytest.approx(made.card["psnr_held_out_db"], abs=0.02)
    assert len(c2l.pl.training(made)) == 2


def test_a_tokenizer_is_taken_as_it_is(patches, same):
    first = c2l.tl.pretrain(patches, **TINY)
    second = c2l.tl.pretrain(patches, **{**TINY, "seed": 3, "tokenizer": first})
    assert same(*({k: v for k, v in weights(m).items() if k.startswith("0.")} for m in (first, second)))
    assert second.card["tokenizer_steps"] == 0 and "tokenizer" not in second.card["curves"]
    assert second.hash != first.hash


def rows_of(patches):
    return {p.tobytes() for p in patches}


def gathered(patches, **kwargs):
    defaults = {"mpp": 4.0, "patch_px": 16, "n_per_section": 40, "validation": 0.1, "tissue_kwargs": None, "seed": 0}
    return gather(patches, **{**defaults, **kwargs})


def test_windows_are_those_of_tissue_patches_and_none_is_on_both_sides():
    sections = c2l.datasets.toy_tissue(40, sections=2, seed=5)
    tissue = gathered(sections)
    cut = c2l.pp.tissue_patches(sections, 80, mpp=4.0, patch_px=16, seed=0)
    train, held = rows_of(tissue.train.take(np.arange(len(tissue.train)))), rows_of(tissue.held)
    assert train <= rows_of(cut) and held <= rows_of(cut)
    assert not train & held
    # 4 of each section's 40, and what lies next to them is left out
    assert len(tissue.held) == 8
    assert 40 < len(tissue.train) <= 72
    assert "one end of each section" in tissue.held_is
    whole = gathered(sections[0], validation=sections[1], n_per_section=None)
    grid = c2l.pp.tissue_patches(sections[0], mpp=4.0, patch_px=16)
    np.testing.assert_array_equal(whole.train.take(np.arange(len(whole.train))), grid)
    np.testing.assert_array_equal(whole.held, c2l.pp.tissue_patches(sections[1], mpp=4.0, patch_px=16))


@pytest.mark.parametrize("seed", range(5))
def test_held_out_windows_are_a_window_away(seed):
    rng = np.random.default_rng(seed)
    corners = rng.integers(0, [900, 400] if seed % 2 else [400, 900], (300, 2))
    size = np.array([40, 44])
    far, near = apart(corners, size, 0.1)
    axis = 0 if seed % 2 else 1
    assert 30 <= far.sum() < 36 and not (far & near).any()
    assert corners[far, axis].min() - (corners[near, axis].max() + size[axis]) >= size[axis]
    assert (~far & ~near).sum() < 80


def test_arrays_stores_and_sections_mix(patches, tmp_path):
    small = patches[:, :16, :16]
    c2l.io.write_patches(tmp_path / "p.zarr", small[10:], mpp=4.0)
    section = c2l.datasets.toy_tissue(40, seed=5)
    tissue = gathered([section, small[:10], tmp_path / "p.zarr"], patch_px=None)
    train = tissue.train.take(np.arange(len(tissue.train)))
    # the last rows of what has no places, and one end of what has
    np.testing.assert_array_equal(train[:20], small[:20])
    np.testing.assert_array_equal(tissue.held[:4], small[20:])
    assert rows_of(train[20:]) <= rows_of(c2l.pp.tissue_patches(section, 40, mpp=4.0, patch_px=16, seed=0))
    assert len(tissue.held) == 4 + 4
    given = gathered({"a": small}, validation=tmp_path / "p.zarr", patch_px=None)
    assert len(given.train) == 24
    np.testing.assert_array_equal(given.held, small[10:])


def test_a_store_is_read_once_and_as_far_as_memory_allows(tmp_path):
    rows = np.random.default_rng(1).integers(0, 256, (1000, 8, 8, 3)).astype(np.uint8)
    c2l.io.write_patches(tmp_path / "p.zarr", rows, mpp=4.0)
    pool = gathered(tmp_path / "p.zarr", patch_px=None, validation=rows[:4]).train
    assert not pool.in_memory
    whole = in_memory(pool, 1.0, 0)
    assert whole.in_memory
    np.testing.assert_array_equal(whole.parts[0], rows)
    part = in_memory(pool, 600 * 192 / 1e9, 0)
    assert 400 <= len(part) <= 600
    assert rows_of(part.parts[0]) <= rows_of(rows)


def test_a_section_is_trained_on(same):
    section = c2l.datasets.toy_tissue(40, seed=5)
    how = {k: v for k, v in TINY.items() if k != "tokenizer"} | {"tokenizer": {"channels": (8, 8)}}
    made = c2l.tl.pretrain(section, patch_px=16, n_per_section=40, **how)
    assert made.patch_px == 16
    assert made.card["n_patches"] > 20 and made.card["n_held_out"] == 2


def test_bad_tissue(patches, tmp_path):
    section = c2l.datasets.toy_tissue(20, seed=5)
    c2l.io.write_patches(tmp_path / "p.zarr", patches, mpp=2.0)
    with pytest.raises(ValueError, match="at 2 um/px, not at mpp=4"):
        c2l.tl.pretrain(tmp_path / "p.zarr", **TINY)
    with pytest.raises(ValueError, match="side of 32 px, not patch_px=16"):
        c2l.tl.pretrain([patches, section], patch_px=16, **TINY)
    with pytest.raises(ValueError, match="too small to hold out tissue"):
        c2l.tl.pretrain(section, patch_px=64, **TINY)
    with pytest.raises(ValueError, match="leaves nothing"):
        c2l.tl.pretrain(patches, validation=1.0, **TINY)
    with pytest.raises(TypeError, match="patches must be an array"):
        c2l.tl.pretrain(section["table"], **TINY)
    with pytest.raises(ValueError, match="num_nodes=2 needs out="):
        c2l.tl.pretrain(patches, num_nodes=2, **TINY)


def test_bad_input(patches):
    with pytest.raises(ValueError, match="too few to pretrain"):
        c2l.tl.pretrain(patches[:8], **TINY)
    with pytest.raises(ValueError, match="multiple of 8"):
        c2l.tl.pretrain(patches[:, :30, :30], **TINY)
    with pytest.raises(ValueError, match="of one size"):
        c2l.tl.pretrain([patches, patches[:, :16, :16]], **TINY)
    with pytest.raises((TypeError, ValueError), match="uint8"):
        c2l.tl.pretrain(patches.astype(float), **TINY)
    with pytest.raises(ValueError, match="time_shift"):
        c2l.tl.pretrain(patches, time_shift=0, **TINY)
    with pytest.raises(ValueError, match="time_even"):
        c2l.tl.pretrain(patches, time_even=1.5, **TINY)
    with pytest.raises(TypeError, match="mpp"):
        c2l.tl.pretrain(patches)


def test_the_decoder_learns_on_behind_the_same_latents(patches, same):
    whole = c2l.tl.pretrain(patches, **TINY)
    sharper = c2l.tl.pretrain(patches, decoder_steps=2, **TINY)
    assert same(whole.denoiser.state_dict(), sharper.denoiser.state_dict())
    np.testing.assert_array_equal(whole.encode(patches[:4]), sharper.encode(patches[:4]))
    assert not same(whole.tokenizer.decoder.state_dict(), sharper.tokenizer.decoder.state_dict())
    assert sharper.card["decoder_steps"] == 2 and sharper.card["curves"]["decoder_validation"]
    # a tokenizer that is another model's is left to it
    taken = c2l.tl.pretrain(patches, decoder_steps=2, **{**TINY, "tokenizer": whole})
    assert same(whole.tokenizer.encoder.state_dict(), taken.tokenizer.encoder.state_dict())
    assert not same(whole.tokenizer.decoder.state_dict(), taken.tokenizer.decoder.state_dict())


def test_the_decoder_alone_learns_on_as_it_is_told(patches, same, tmp_path):
    first = c2l.tl.pretrain(patches, **TINY)
    more = {k: v for k, v in TINY.items() if k not in ("tokenizer", "denoiser")} | {"steps": 0}
    bare = c2l.tl.pretrain(patches, init=first, **more)
    assert same(weights(bare), weights(first)) and bare.card["steps"] == 0
    sharper, smoother = (
        c2l.tl.pretrain(patches, init=first, decoder_steps=3, decoder_kwargs=k, out=tmp_path / n, **more)
        for n, k in (("a", None), ("b", {"batch_size": 2, "spectrum": 0.0, "adversarial": 0.5}))
    )
    assert same(sharper.denoiser.state_dict(), first.denoiser.state_dict())
    assert not same(sharper.tokenizer.decoder.state_dict(), smoother.tokenizer.decoder.state_dict())
    assert [ax.get_title() for ax in c2l.pl.training(sharper)] == ["decoder: reconstruction, critic"]
    # it goes on from its checkpoint, and other settings are another run
    again = c2l.tl.pretrain(patches, init=first, decoder_steps=3, out=tmp_path / "a", **more)
    assert same(weights(again), weights(sharper))
    with pytest.raises(ValueError, match="batch_size=2 there, 8 here"):
        c2l.tl.pretrain(patches, init=first, decoder_steps=3, out=tmp_path / "b", **more)
    with pytest.raises(ValueError, match=r"decoder_kwargs holds \['decoder_only'\]"):
        c2l.tl.pretrain(patches, init=first, decoder_steps=3, decoder_kwargs={"decoder_only": False}, **more)
    with pytest.raises(ValueError, match="steps"):
        c2l.tl.pretrain(patches, **{**TINY, "steps": 0})


GUIDE = {"width": 16, "depth": 1, "heads": 2}


def test_a_guide_is_trained_beside_the_denoiser(patches, same, tmp_path, caplog):
    bare = c2l.tl.pretrain(patches, **TINY)
    made, again = (
        c2l.tl.pretrain(patches, guide_steps=3, guide=GUIDE | {"lr": 1e-3}, out=tmp_path / "a", **TINY)
        for _ in range(2)
    )
    assert same(weights(made), weights(bare)) and made.hash == again.hash != bare.hash
    assert made.autoguidance == 1.15 and made.guide.config.num_attention_heads == 2
    assert made.card["guide_steps"] == 3 and len(made.card["curves"]["guide"]) == 3
    assert [ax.get_title() for ax in c2l.pl.training(made)][-1] == "guide: denoising"
    assert c2l.models.CentralModel.from_pretrained(tmp_path / "a" / "model").hash == made.hash
    assert bare.guide is None and "guide_steps" not in bare.card
    # behind a model that is there: its parts stay as they are
    more = {k: v for k, v in TINY.items() if k not in ("tokenizer", "denoiser")}
    kept = c2l.tl.pretrain(patches, init=bare, guide_steps=3, guide=GUIDE, autoguidance=1.3, **{**more, "steps": 0})
    assert same(weights(kept), weights(bare)) and kept.autoguidance == 1.3
    # it stays with them, and goes where one of them is trained on
    decoded = c2l.tl.pretrain(patches, init=kept, decoder_steps=2, **{**more, "steps": 0})
    assert same(decoded.guide.state_dict(), kept.guide.state_dict()) and decoded.autoguidance == 1.3
    assert not caplog.records
    assert c2l.tl.pretrain(patches, init=kept, **more).guide is None
    assert "init has a guide, which belongs to its own latents" in caplog.text


def test_the_decoder_learns_on_what_is_drawn_with_the_guide(patches, same):
    first = c2l.tl.pretrain(patches, guide_steps=2, guide=GUIDE, **TINY)
    more = {k: v for k, v in TINY.items() if k not in ("tokenizer", "denoiser")} | {"steps": 0, "decoder_steps": 3}
    near, far = (
        c2l.tl.pretrain(patches, init=dataclasses.replace(first, autoguidance=w), **more).tokenizer.state_dict()
        for w in (1.0, 9.0)
    )
    assert not same(near, far)


def test_a_guide_is_asked_for_in_full(patches):
    with pytest.raises(ValueError, match="pass guide_steps= too"):
        c2l.tl.pretrain(patches, guide=GUIDE, **TINY)
    with pytest.raises(ValueError, match="autoguidance"):
        c2l.tl.pretrain(patches, guide_steps=2, autoguidance=0, **TINY)
    with pytest.raises(TypeError, match="guide_steps"):
        c2l.tl.pretrain(patches, guide_steps=2.5, **TINY)
    with pytest.raises(ValueError, match="lr of guide"):
        c2l.tl.pretrain(patches, guide_steps=2, guide={"lr": 0}, **TINY)


def test_the_denoiser_is_moved_away_from_its_own_samples(patches, same, tmp_path, caplog):
    bare = c2l.tl.pretrain(patches, **TINY)
    once, again, far = (
        c2l.tl.pretrain(patches, neon_steps=3, neon_kwargs={"samples": 16, "weight": w, "lr": 1e-2}, out=out, **TINY)
        for w, out in ((1.0, tmp_path / "a"), (1.0, tmp_path / "b"), (3.0, tmp_path / "a"))
    )
    assert once.hash == again.hash and same(once.tokenizer.state_dict(), bare.tokenizer.state_dict())
    first, one, three = (m.denoiser.state_dict() for m in (bare, once, far))
    # the same copy, three times as far away; the third took it from the checkpoint of the first
    assert any((one[k] - first[k]).abs().max() > 1e-3 for k in first)
    for k, v in first.items():
        torch.testing.assert_close(three[k] - v, 3 * (one[k] - v), atol=1e-5, rtol=1e-3)
    assert once.card["neon_steps"] == 3 and once.card["neon"]["samples"] == 16 and "neon_steps" not in bare.card
    assert len(once.card["curves"]["neon"]) == 3 and once.card["curves"]["neon_validation"][-1][0] == 3
    assert "denoiser on its own samples" in [ax.get_title() for ax in c2l.pl.training(once)]
    assert c2l.models.CentralModel.from_pretrained(tmp_path / "b" / "model").hash == once.hash
    # behind a model that is there: its guide belonged to the denoiser as it was; the decoder sees the new one's samples
    guided = c2l.tl.pretrain(patches, guide_steps=2, guide=GUIDE, **TINY)
    more = {k: v for k, v in TINY.items() if k not in ("tokenizer", "denoiser")} | {"steps": 0}
    on = c2l.tl.pretrain(patches, init=guided, neon_steps=2, neon_kwargs={"samples": 16}, decoder_steps=2, **more)
    assert on.guide is None and "init has a guide" in caplog.text
    assert not same(on.denoiser.state_dict(), guided.denoiser.state_dict())
    plain = c2l.tl.pretrain(patches, init=guided, decoder_steps=2, **more)
    assert not same(on.tokenizer.state_dict(), plain.tokenizer.state_dict())


def test_moving_away_is_asked_for_in_full(patches):
    with pytest.raises(ValueError, match="pass neon_steps= too"):
        c2l.tl.pretrain(patches, neon_kwargs={"weight": 2.0}, **TINY)
    with pytest.raises(ValueError, match=r"neon_kwargs holds \['steps'\]"):
        c2l.tl.pretrain(patches, neon_steps=2, neon_kwargs={"steps": 2}, **TINY)
    for name in ("samples", "weight", "batch_size", "lr"):
        with pytest.raises(ValueError, match=f"{name} of neon_kwargs"):
            c2l.tl.pretrain(patches, neon_steps=2, neon_kwargs={name: 0}, **TINY)


def test_what_is_compiled_is_the_denoiser_that_learns(patches, monkeypatch):
    compiled = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module, *_, **__: compiled.append(module))
    c2l.tl.pretrain(patches, **TINY)
    assert not compiled
    central = c2l.tl.pretrain(patches, compile=True, **TINY)
    assert [type(m) for m in compiled] == [type(central.denoiser)] and central.denoiser is not compiled[0]


def test_a_model_is_trained_on(patches, same, tmp_path):
    first = c2l.tl.pretrain(patches, out=tmp_path / "first", card={"licence": "CC0"}, **TINY)
    before = first.hash
    more = {k: v for k, v in TINY.items() if k not in ("tokenizer", "denoiser")}
    # at next to no rate nothing moves: it begins where the first one ended, with its tokenizer
    still = c2l.tl.pretrain(patches, init=first, **{**more, "lr": 1e-12})
    for key, value in weights(first).items():
        np.testing.assert_allclose(weights(still)[key], value, atol=1e-6)
    on = c2l.tl.pretrain(patches, init=tmp_path / "first" / "model", out=tmp_path / "on", **more)
    assert same(on.tokenizer.state_dict(), first.tokenizer.state_dict()) and on.card["tokenizer_steps"] == 0
    assert not same(on.denoiser.state_dict(), first.denoiser.state_dict()) and first.hash == before
    assert on.card["init"] == {"hash": before, "data": "not said", "licence": "CC0", "steps": 2}
    # the tokenizer too, where steps are given for it
    objective = {"noise": 0.1, "adversarial": 0.5}
    both = c2l.tl.pretrain(patches, init=first, tokenizer_steps=2, tokenizer=objective, **more)
    assert not same(both.tokenizer.encoder.state_dict(), first.tokenizer.encoder.state_dict())
    assert both.card["tokenizer_steps"] == 2 and first.hash == before
    # another start is another run
    with pytest.raises(ValueError, match="init"):
        c2l.tl.pretrain(patches, init=both, resume=tmp_path / "on", **more)
    for wrong in ({"denoiser": {}}, {"tokenizer": first}, {"tokenizer": {"channels": (8, 8)}}):
        with pytest.raises(ValueError, match="init= brings its own networks"):
            c2l.tl.pretrain(patches, init=first, **{**more, **wrong})
    with pytest.raises(ValueError, match="init is a model of 4 um/px"):
        c2l.tl.pretrain(patches, init=first, **{**more, "mpp": 2.0})
    with pytest.raises(ValueError, match="init is a model of 32 px"):
        c2l.tl.pretrain(patches, init=first, patch_px=16, **more)


def test_latents_are_added_to_a_trained_model(patches, same, tmp_path):
    settings = {"mpp": 4.0, "steps": 2, "batch_size": 8, "progress": False}
    tokenizer = {"kind": "dc", "latent_channels": 2, "channels": (8, 16), "layers": (0, 1)}
    first = c2l.tl.pretrain(
        patches, tokenizer=tokenizer, denoiser={"kind": "unet", "channels": (32, 64), "layers": 1}, **settings
    )
    grow = {"init": first, "tokenizer": {"latent_channels": 4}, "tokenizer_steps": 3, **settings}
    grown = c2l.tl.pretrain(patches, out=tmp_path, decoder_steps=2, **grow)
    z, more = first.encode(patches[:4]), grown.encode(patches[:4])
    assert more.shape[1] == 4
    np.testing.assert_allclose(more[:, :2], z, atol=1e-4)
    assert grown.sample(2, seed=0, steps=2).shape == (2, 32, 32, 3)
    again = c2l.models.CentralModel.from_pretrained(tmp_path / "model")
    np.testing.assert_array_equal(again.encode(patches[:4]), more)
    # found again, samples and all
    drawn = sorted((tmp_path / "checkpoints" / "drawn").iterdir())
    assert len(drawn) == 1 and load_file(drawn[0])["latents"].shape == (16, 4, 16, 16)
    assert c2l.tl.pretrain(patches, out=tmp_path, decoder_steps=2, **grow).hash == grown.hash
    with pytest.raises(ValueError, match="pass tokenizer_steps="):
        c2l.tl.pretrain(patches, **{**grow, "tokenizer_steps": None})
    with pytest.raises(ValueError, match="latent_channels=3 must be more than the 2"):
        c2l.tl.pretrain(patches, **{**grow, "tokenizer": {"latent_channels": 3}})


def test_networks_by_default_and_as_asked(patches):
    tiny = {"mpp": 4.0, "steps": 1, "batch_size": 4, "progress": False}
    made = c2l.tl.pretrain(patches, **tiny)
    assert type(made.tokenizer).__name__ == "AutoencoderDC" and type(made.denoiser).__name__ == "UNet2DModel"
    asked = c2l.tl.pretrain(
        patches, tokenizer={"channels": (8, 8, 8)}, denoiser={"width": 32, "depth": 1, "heads": 2}, **tiny
    )
    assert type(asked.tokenizer).__name__ == "AutoencoderKL"
    assert type(asked.denoiser).__name__ == "PixArtTransformer2DModel"


def test_a_finished_model_is_not_replaced_by_another(patches, tmp_path):
    import shutil

    first = c2l.tl.pretrain(patches, out=tmp_path / "central", **TINY)
    c2l.tl.pretrain(patches, out=tmp_path / "central", **TINY)  # the same again, from its checkpoints
    shutil.rmtree(tmp_path / "central" / "checkpoints")
    with pytest.raises(ValueError, match="holds a finished model, whose checkpoints are gone"):
        c2l.tl.pretrain(patches[::-1], out=tmp_path / "central", **TINY)
    assert c2l.models.CentralModel.from_pretrained(tmp_path / "central" / "model").hash == first.hash


@pytest.mark.parametrize("what", ["patches", "validation"])
def test_a_run_does_not_go_on_with_other_tissue(tmp_path, what):
    rng = np.random.default_rng(1)
    given = {
        "patches": rng.integers(0, 256, (600, 32, 32, 3)).astype(np.uint8),
        "validation": rng.integers(0, 256, (8, 32, 32, 3)).astype(np.uint8),
    }
    c2l.tl.pretrain(**given, out=tmp_path / "central", **TINY)
    given[what] = given[what].copy()
    given[what][5] = 0  # one patch of many
    key = {"patches": "patches", "validation": "held"}[what]
    with pytest.raises(ValueError, match=rf"other settings: .*{key}="):
        c2l.tl.pretrain(**given, out=tmp_path / "central", **TINY)
