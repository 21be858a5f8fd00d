from __future__ import annotations

import json

import anndata as ad
import numpy as np
import pytest
from sklearn.decomposition import PCA

import c2lst as c2l
from c2lst._expression import expression, library_size
from c2lst._patches import get_patches
from c2lst._random import derive

QUICK = {"sampler_steps": 2, "progress": False}


def grey(a, b):
    """Return the largest difference in grey levels."""
    return int(np.abs(a.astype(int) - b.astype(int)).max())


def test_twice_is_the_same(table, local):
    first, second = (c2l.tl.augment(table, local, n_obs=6, **QUICK) for _ in range(2))
    np.testing.assert_array_equal(first.obsm["patches"], second.obsm["patches"])
    np.testing.assert_array_equal(first.X, second.X)
    assert first.obs.equals(second.obs)
    other = c2l.tl.augment(table, local, n_obs=6, seed=1, **QUICK)
    assert grey(first.obsm["patches"], other.obsm["patches"]) > 1
    assert (other.obs["c2lst_seed"] == 1).all()


def test_batch_size_does_not_matter(table, local):
    drawn = [c2l.tl.augment(table, local, n_obs=10, batch_size=b, **QUICK) for b in (64, 1, 7)]
    for other in drawn[1:]:
        np.testing.assert_array_equal(other.X, drawn[0].X)
        assert grey(other.obsm["patches"], drawn[0].obsm["patches"]) <= 1
    # nor does how many are drawn after a patch
    fewer = c2l.tl.augment(table, local, n_obs=4, **QUICK)
    np.testing.assert_array_equal(fewer.X, drawn[0].X[:4])
    assert grey(fewer.obsm["patches"], drawn[0].obsm["patches"][:4]) <= 1


def test_two_processes_draw_the_same(table, local):
    one = c2l.tl.augment(table, local, n_obs=4, batch_size=2, **QUICK)
    many = c2l.tl.augment(table, local, n_obs=4, batch_size=2, devices=2, **QUICK)
    assert grey(one.obsm["patches"], many.obsm["patches"]) <= 1
    assert many.uns["c2lst"]["params"]["augment"] == one.uns["c2lst"]["params"]["augment"]


def test_half_the_precision_draws_nearly_the_same(table, local):
    full, half = (c2l.tl.augment(table, local, n_obs=8, precision=p, **QUICK) for p in ("32-true", "bf16-mixed"))
    np.testing.assert_array_equal(full.X, half.X)
    apart = np.abs(full.obsm["patches"].astype(int) - half.obsm["patches"].astype(int))
    assert 0 < apart.mean() < 1.5 and np.percentile(apart, 99) <= 6
    assert half.uns["c2lst"]["params"]["augment"]["precision"] == "bf16-mixed"
    with pytest.raises(ValueError, match="precision='16'.*'32-true', 'bf16-mixed'"):
        c2l.tl.augment(table, local, precision="16")


def test_emulated_precision_is_warned_of(table, local, monkeypatch, caplog):
    import c2lst.train

    monkeypatch.setattr(c2lst.train, "has_bfloat16", lambda: True)
    native = c2l.tl.augment(table, local, n_obs=2, precision="bf16-mixed", **QUICK)
    assert not caplog.records
    monkeypatch.setattr(c2lst.train, "has_bfloat16", lambda: False)
    c2l.tl.augment(table, local, n_obs=2, precision="32-true", **QUICK)
    assert not caplog.records
    emulated = c2l.tl.augment(table, local, n_obs=2, precision="bf16-mixed", **QUICK)
    assert "precision='32-true' is several times faster here" in caplog.text
    assert np.array_equal(native.obsm["patches"], emulated.obsm["patches"])


def test_profiles_resampled_are_those_of_the_parents(table, local, monkeypatch):
    seen = {}
    draw = type(local).sample
    monkeypatch.setattr(
        type(local), "sample", lambda self, profiles, **kw: seen.update(profiles=profiles) or draw(self, profiles, **kw)
    )
    synth = c2l.tl.augment(
        table, local, n_obs=40, strategy="resample", n_components=None, sampler_steps=1, progress=False
    )
    parents = table[synth.obs["c2lst_parent"].astype(str)]
    np.testing.assert_array_equal(synth.X, expression(parents, local.genes))
    np.testing.assert_array_equal(seen["profiles"], synth.X)  # the row of X IS what the patch was drawn for
    assert list(synth.var_names) == local.genes and synth.var["c2lst_genes"].all()
    counts = synth.obs["c2lst_parent"].value_counts().reindex(table.obs_names, fill_value=0)
    assert counts.max() - counts.min() <= 1  # 40 of 32 spots
    assert "counts" not in synth.layers


def test_profiles_interpolated_lie_between_two_spots(toy, local):
    real = expression(toy["table"], local.genes).astype(float)
    synthetic = c2l.tl.augment(toy["table"], local, n_obs=12, n_components=None, sampler_steps=1, progress=False)
    at = toy["table"].obs_names.get_indexer(synthetic.obs["c2lst_parent"].astype(str))
    for x, i in zip(np.asarray(synthetic.X, dtype=float), at, strict=True):
        towards = np.delete(real, i, axis=0) - real[i]
        share = ((x - real[i]) * towards).sum(1) / (towards**2).sum(1)
        rest = np.linalg.norm(x - real[i] - share[:, None] * towards, axis=1)
        best = rest.argmin()
        assert rest[best] < 1e-4
        assert -1e-6 <= share[best] <= 0.5 + 1e-6  # nearer to the parent
    assert not np.array_equal(synthetic.X, real[at])


def test_profiles_drawn_by_scvi_are_counts(table, local):
    synth = c2l.tl.augment(table, local, n_obs=8, strategy="scvi", sampler_steps=1, progress=False)
    counts = np.asarray(synth.layers["counts"])
    assert np.issubdtype(counts.dtype, np.integer) and counts.min() >= 0 and counts.max() > 0
    size = library_size(table[synth.obs["c2lst_parent"].astype(str)])[:, None]
    np.testing.assert_allclose(synth.X, np.log1p(counts * 1e4 / size), rtol=1e-5)
    again = c2l.tl.augment(table, local, n_obs=8, strategy="scvi", sampler_steps=1, progress=False)
    np.testing.assert_array_equal(again.layers["counts"], counts)
    np.testing.assert_array_equal(again.obsm["patches"], synth.obsm["patches"])


def test_what_it_says_of_itself(synthetic, toy, local):
    obs = synthetic.obs
    assert list(obs) == [
        "c2lst_origin",
        "c2lst_parent",
        "c2lst_section",
        "c2lst_seed",
        "c2lst_partner",
        "c2lst_partner_section",
    ]
    assert (obs["c2lst_origin"] == "synthetic").all() and (obs["c2lst_section"] == "toy0").all()
    assert set(obs["c2lst_parent"]) <= set(toy["table"].obs_names)
    assert synthetic.obs_names.is_unique and "spatial" not in synthetic.obsm
    said = synthetic.uns["c2lst"]
    assert said["expression"] == "log1p CP10k" and said["central"] == local.central.reference
    assert said["patches"]["patches"] | {"mpp": 2.0, "patch_px": 64, "field_um": 128.0} == said["patches"]["patches"]
    assert said["params"]["augment"]["strategy"] == "interpolate" and said["params"]["augment"]["n_obs"] == 12
    json.dumps(said)
    assert synthetic.obsm["patches"].dtype == np.uint8 and synthetic.obsm["patches"].shape == (12, 64, 64, 3)


def test_store_holds_the_same_pixels(table, local, tmp_path):
    memory = c2l.tl.augment(table, local, n_obs=7, batch_size=3, **QUICK)
    stored = c2l.tl.augment(table, local, n_obs=7, batch_size=3, store=tmp_path / "s.zarr", **QUICK)
    assert "patches" not in stored.obsm
    assert stored.uns["c2lst"]["patches"]["patches"]["store"] == str(tmp_path / "s.zarr")
    read = c2l.io.read_patches(tmp_path / "s.zarr")
    assert grey(np.asarray(read.patches[:]), memory.obsm["patches"]) == 0
    assert list(read.names) == list(stored.obs_names)
    np.testing.assert_array_equal(stored.X, memory.X)
    c2l.tl.embed(stored, encoder="rgb")  # tools find them there
    c2l.tl.embed(memory, encoder="rgb")
    np.testing.assert_array_equal(stored.obsm["X_c2lst"], memory.obsm["X_c2lst"])


def test_subset_and_sections(two, local, snapshot, changed):
    for t in two:
        t.obs["few"] = np.arange(t.n_obs) < 4
    before = [snapshot(t) for t in two]
    synth = c2l.tl.augment(two, local, subset="few", n_obs=9, **QUICK)
    assert not any(changed(b, t) for b, t in zip(before, two, strict=True))
    allowed = {(s, n) for s, t in zip(("toy0", "toy1"), two, strict=True) for n in t.obs_names[:4]}
    assert set(zip(synth.obs["c2lst_section"], synth.obs["c2lst_parent"], strict=True)) <= allowed
    whole = ad.concat({"toy0": two[0], "toy1": two[1]}, label="section", merge="same", uns_merge="first")
    split = c2l.tl.augment(whole, local, subset="few", n_obs=9, library_key="section", **QUICK)
    np.testing.assert_array_equal(split.X, synth.X)
    np.testing.assert_array_equal(split.obsm["patches"], synth.obsm["patches"])


def test_default_number(two, local):
    two[0].obs["few"] = np.arange(20) < 2
    assert c2l.tl.augment(two[0], local, subset="few", sampler_steps=1, progress=False).n_obs == 20


def test_bad_input(table, local):
    with pytest.raises(ValueError, match="strategy='x'"):
        c2l.tl.augment(table, local, strategy="x")
    with pytest.raises(ValueError, match="n_obs"):
        c2l.tl.augment(table, local, n_obs=0)
    with pytest.raises(ValueError, match="sampler_steps"):
        c2l.tl.augment(table, local, sampler_steps=0)
    with pytest.raises(ValueError, match="guidance"):
        c2l.tl.augment(table, local, guidance=-1)
    with pytest.raises(KeyError, match=f"toy0.*{local.genes[3]}"):
        c2l.tl.augment(table[:, [g for g in table.var_names if g != local.genes[3]]].copy(), local)
    table.obs["none"] = False
    with pytest.raises(ValueError, match="selects no spot"):
        c2l.tl.augment(table, local, subset="none")


def test_noise_on_the_condition(table, local):
    how = {"n_obs": 40, "strategy": "resample", "sampler_steps": 1, "progress": False}
    how["n_components"] = None
    plain, noisy = (c2l.tl.augment(table, local, condition_noise=n, **how) for n in (0.0, 0.5))
    moved = noisy.X - plain.X
    sd = expression(table, local.genes).std(0)
    inside = plain.X > 2 * sd  # where no value was cut at 0
    assert 0.4 < (moved / sd)[inside].std() < 0.6 and (noisy.X >= 0).all()
    assert noisy.uns["c2lst"]["params"]["augment"]["condition_noise"] == 0.5
    fewer = c2l.tl.augment(table, local, condition_noise=0.5, **how | {"n_obs": 5})
    np.testing.assert_array_equal(fewer.X, noisy.X[:5])
    with pytest.raises(ValueError, match="condition_noise= is for"):
        c2l.tl.augment(table, local, strategy="scvi", condition_noise=0.5)


def test_profiles_are_kept_to_their_main_components(table, local):
    how = {"n_obs": 40, "strategy": "resample", "sampler_steps": 1, "progress": False}
    plain, kept = (c2l.tl.augment(table, local, n_components=n, **how) for n in (None, 2))
    spots = expression(table, local.genes)
    low = PCA(2).fit(spots)
    np.testing.assert_allclose(kept.X, np.maximum(low.inverse_transform(low.transform(plain.X)), 0), atol=1e-4)
    # the patch is drawn for the profile that labels it, not for the noisy one
    assert (kept.obsm["patches"] != plain.obsm["patches"]).any()
    asked = local.sample(kept.X, index=np.arange(40), seed=derive(0, 31), guidance=2.5, steps=1)
    np.testing.assert_array_equal(kept.obsm["patches"], asked)
    assert kept.uns["c2lst"]["params"]["augment"]["n_components"] == 2
    whole = c2l.tl.augment(table, local, n_components=10_000, **how)
    np.testing.assert_allclose(whole.X, plain.X, atol=1e-4)
    with pytest.raises(ValueError, match="n_components"):
        c2l.tl.augment(table, local, n_components=0)


def test_a_store_is_found_after_a_change_of_directory(toy, local, tmp_path, monkeypatch, copied):
    monkeypatch.chdir(tmp_path)
    made = c2l.tl.augment(copied(toy), local, n_obs=4, sampler_steps=1, store="synth.zarr", progress=False)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert get_patches(made)[:].shape == (4, 64, 64, 3)


def test_places_in_a_list_are_no_names(two, local, caplog):
    c2l.tl.augment(two, local, n_obs=2, sampler_steps=1, progress=False)
    assert "Nothing names the sections" not in caplog.text
    for table in two:
        table.uns.pop("c2lst_section")
        table.uns.pop("spatialdata_attrs", None)
    made = c2l.tl.augment(two, local, n_obs=2, sampler_steps=1, progress=False)
    assert "Nothing names the sections" in caplog.text
    assert set(made.obs["c2lst_section"]) <= {"section0", "section1"}


def test_an_interrupted_store_goes_on(toy, local, tmp_path, monkeypatch, copied):
    from c2lst.models import LocalModel

    sdata, drawn, sample = copied(toy), [], LocalModel.sample
    kw = {"n_obs": 300, "sampler_steps": 1, "batch_size": 64, "progress": False}
    monkeypatch.setattr("c2lst.io._writer.CHUNK_BYTES", 50 * 64 * 64 * 3)
    monkeypatch.setattr("c2lst.tl._augment.BLOCK", 64)
    whole = c2l.tl.augment(sdata, local, store=tmp_path / "whole.zarr", **kw)

    def fails(self, condition, **settings):
        drawn.append(len(condition))
        if len(drawn) == 3:
            raise KeyboardInterrupt
        return sample(self, condition, **settings)

    monkeypatch.setattr(LocalModel, "sample", fails)
    with pytest.raises(KeyboardInterrupt):
        c2l.tl.augment(sdata, local, store=tmp_path / "broken.zarr", **kw)
    made = c2l.tl.augment(sdata, local, store=tmp_path / "broken.zarr", **kw)
    assert sum(drawn[3:]) < 300
    np.testing.assert_array_equal(get_patches(made)[:], get_patches(whole)[:])
    # finished: the same call finds it, another is refused
    drawn.clear()
    c2l.tl.augment(sdata, local, store=tmp_path / "broken.zarr", **kw)
    assert not drawn
    with pytest.raises(ValueError, match="another specification: drawn="):
        c2l.tl.augment(sdata, local, store=tmp_path / "broken.zarr", guidance=1.0, **kw)
