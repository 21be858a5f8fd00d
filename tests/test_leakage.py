"""The leakage canary: whatever is fitted stays the same to the bit when spots that were held out change."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

import c2lst as c2l

ADAPT = {"steps": 2, "progress": False}
DRAW = {"sampler_steps": 1, "progress": False}


@pytest.fixture(scope="module")
def _made():
    made = c2l.datasets.toy_tissue(15, sections=3)
    c2l.pp.extract_patches(made, mpp=2.0, patch_px=64)
    pool = c2l.pp.tissue_patches(made[0], 12, mpp=2.0, patch_px=64)
    return [s["table"] for s in made], pool


@pytest.fixture
def sections(_made):
    """Three sections; of the first two 10 spots each are for training, the third is held out as a whole."""
    tables = [t.copy() for t in _made[0]]
    for i, t in enumerate(tables):
        t.obs["train"] = (np.arange(t.n_obs) % 3 > 0) & (i < 2)
    return tables


@pytest.fixture
def pool(_made):
    return _made[1]


def change(table, rows, seed=0):
    """Other pixels and other integer counts for these spots."""
    rng = np.random.default_rng(seed)
    rows = np.flatnonzero(rows) if np.asarray(rows).dtype == bool else np.atleast_1d(rows)
    x = table.X.toarray()
    x[rows] = rng.poisson(3 * rng.gamma(0.3, 10, (len(rows), x.shape[1])))
    table.X = type(table.X)(x.astype(table.X.dtype))
    table.obsm["patches"] = table.obsm["patches"].copy()
    table.obsm["patches"][rows] = rng.integers(0, 256, table.obsm["patches"][rows].shape)
    return table


def held_out_changed(sections):
    return [change(t.copy(), ~t.obs["train"].to_numpy(), seed=i) for i, t in enumerate(sections)]


def one_training_spot_changed(sections):
    spot = int(np.flatnonzero(sections[0].obs["train"])[3])
    return [change(sections[0].copy(), spot), *(t.copy() for t in sections[1:])]


def digest(*arrays) -> str:
    out = hashlib.sha256()
    for a in arrays:
        a = np.ascontiguousarray(np.asarray(a))
        out.update(str((a.dtype, a.shape)).encode() + a.tobytes())
    return out.hexdigest()


def fitted(model) -> str:
    """Everything fitted in a local model or a predictor."""
    if hasattr(model, "modulation"):
        state = {**model.modulation.state_dict(), **{f"g.{k}": v for k, v in model.gene_encoder.state_dict().items()}}
        return digest(model.genes, *(state[k].numpy() for k in sorted(state)))
    network = [] if model.network is None else [v.numpy() for _, v in sorted(model.network.state_dict().items())]
    return digest(model.genes, *(model.arrays[k] for k in sorted(model.arrays)), *network)


def panel(tables):
    c2l.pp.select_genes(tables, n_top=20, subset="train")
    return list(tables[0].var_names[tables[0].var["c2lst_genes"]])


def test_select_genes(sections):
    before = panel(sections)
    assert panel(held_out_changed(sections)) == before
    # every held-out spot holds one gene alone, a gene that is not in the panel: without the subset it would be
    rare = next(g for g in sections[0].var_names if g not in before)
    other = [t.copy() for t in sections]
    for t in other:
        x = t.X.toarray()
        x[~t.obs["train"].to_numpy()] = 5000 * (t.var_names == rare)
        t.X = type(t.X)(x.astype(t.X.dtype))
    assert panel(other) == before
    c2l.pp.select_genes(other, n_top=20)
    assert other[0].var["c2lst_genes"][rare]
    assert panel([change(t.copy(), t.obs["train"].to_numpy()) for t in sections]) != before


@pytest.mark.parametrize("genes", ["pca", "scvi"])
def test_adapt_and_augment(sections, pool, genes):
    panel(sections)

    def run(tables):
        local = c2l.tl.adapt(tables, "toy", subset="train", pool=pool, gene_encoder=genes, **ADAPT)
        assert local.card["n_spots"] == 20 and local.card["n_held_out"] == 3
        synth = c2l.tl.augment(tables, local, subset="train", n_obs=6, **DRAW)
        return fitted(local), local.card["loss_held_out"], digest(synth.X), digest(synth.obsm["patches"])

    before = run(sections)
    assert run(held_out_changed(sections)) == before
    control = run(one_training_spot_changed(sections))
    assert control[0] != before[0] and control[1] != before[1] and control[3] != before[3]


@pytest.mark.parametrize("kind", ["ridge", "ridge-whitened", "cnn"])
def test_fit_predictor(sections, pool, kind):
    panel(sections)

    def run(tables):
        fit = c2l.tl.fit_predictor(tables, kind=kind, pool=pool, central="toy", subset="train", steps=3, progress=False)
        return fitted(fit), fit.card.get("alpha_curve")

    before = run(sections)
    assert run(held_out_changed(sections)) == before
    assert run(one_training_spot_changed(sections))[0] != before[0]


def test_predictions_of_other_spots(sections):
    """What is said of a spot does not depend on its neighbours in the table."""
    panel(sections)
    fit = c2l.tl.fit_predictor(sections[:2], encoder="rgb")
    c2l.tl.predict(sections[2], fit)
    other = change(sections[2].copy(), np.arange(5))
    c2l.tl.predict(other, fit)
    same = np.array_equal
    a, b = (t.obsm["c2lst_predicted"].to_numpy() for t in (sections[2], other))
    assert same(a[5:], b[5:]) and not same(a[:5], b[:5])


@pytest.fixture
def curve(monkeypatch, pool):
    """Run a learning curve of all arms and return digests of everything it fits, and its table."""
    import c2lst.models._cnn
    import c2lst.models._ridge
    import c2lst.tl._adapt
    import c2lst.tl._augment

    seen: list[str] = []

    def watch(module, name, take):
        original = getattr(module, name)

        def wrapped(*args, **kwargs):
            out = original(*args, **kwargs)
            seen.append(f"{name} {take(out)}")
            return out

        monkeypatch.setattr(module, name, wrapped)

    watch(c2lst.models._ridge, "fit_ridge", lambda out: digest(*(out[0][k] for k in sorted(out[0])), str(out[1])))
    watch(c2lst.models._cnn, "fit_cnn", lambda out: digest(*(v.numpy() for v in out[0].state_dict().values())))
    watch(c2lst.tl._adapt, "adapt", fitted)
    watch(c2lst.tl._augment, "augment", lambda out: digest(out.X, out.obsm["patches"]))

    def run(train, test):
        seen.clear()
        df = c2l.tl.learning_curve(
            train, test, central="toy", fractions=(0.5,), seeds=[0], predictors=("ridge", "cnn"), encoder="rgb",
            pool=pool, n_top=15, n_condition=15, n_synthetic=6, cnn_steps=1, progress=False,
            adapt_kwargs={"steps": 1}, augment_kwargs={"sampler_steps": 1},
        )  # fmt: skip
        return df, list(seen)

    return run


def test_learning_curve(sections, curve):
    train, test = sections[:2], sections[2]
    df, before = curve(train, test)
    assert {s.split()[0] for s in before} == {"fit_ridge", "fit_cnn", "adapt", "augment"}

    # the test section: nothing that is fitted changes, only what is scored
    other, after = curve(train, change(test.copy(), np.arange(test.n_obs)))
    assert after == before and other.attrs["genes"] == df.attrs["genes"]
    assert not np.allclose(other.pcc, df.pcc)

    # training spots that were not drawn. The evaluated genes come from all training spots, by design; exchanging
    # counts among spots that were not drawn keeps these genes, and changes every one of those spots.
    drawn = [t.copy() for t in train]
    c2l.pp.subsample(drawn, 0.5, seed=0)
    others = []
    for t in drawn:
        away = np.flatnonzero(~t.obs["c2lst_sampled"].to_numpy())
        assert 0 < len(away) < t.n_obs
        moved = change(t.copy(), away)
        x = t.X.toarray()
        x[away] = x[np.roll(away, 1)]
        moved.X = type(t.X)(x)
        del moved.obs["c2lst_sampled"]
        others.append(moved)
    other, after = curve(others, test)
    assert other.attrs["genes"] == df.attrs["genes"]
    assert after == before
    numbers = [c for c in df if c != "seconds"]
    assert other[numbers].equals(df[numbers])

    # the control: one drawn spot, and every fit is another, but for those of teachers that do not see its section
    spot = int(np.flatnonzero(drawn[0].obs["c2lst_sampled"])[0])
    moved = train[0].copy()
    moved.obsm["patches"] = moved.obsm["patches"].copy()
    moved.obsm["patches"][spot] = 255 - moved.obsm["patches"][spot]
    _, after = curve([moved, train[1]], test)
    same = set(after) & set(before)
    assert len(after) == len(before) and len(same) == 1
    assert all(s.startswith("fit_ridge") for s in same)
