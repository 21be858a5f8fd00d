from __future__ import annotations

import json

import numpy as np
import pytest

import c2lst as c2l
from c2lst.metrics._blocks import RUN, mean_pcc, run_key
from c2lst.tl import _learning_curve as module
from c2lst.tl._arms import GENERATED

FAST = {"predictors": ("ridge",), "encoder": "rgb", "n_top": 9, "progress": False}
COLUMNS = [
    "section", "fraction", "arm", "predictor", "encoder", "seed", "n_spots", "n_synthetic", "pcc", "mse", "moran_corr",
    "moran_bias", "seconds",
]  # fmt: skip


NUMBERS = [c for c in COLUMNS if c != "seconds"]


@pytest.fixture
def sections(coloured):
    made = [coloured(36, seed=i, name=n) for i, n in enumerate("abt")]
    return made[:2], made[2:]


@pytest.fixture
def pool(coloured):
    return coloured(40, seed=9).obsm["patches"]


@pytest.fixture
def runs(monkeypatch):
    """Every draw that is made and every run that is computed."""
    seen = {"draws": [], "runs": []}

    class Watched(module.Draw):
        def __init__(self, bench, fraction, seed, **kwargs):
            super().__init__(bench, fraction, seed, **kwargs)
            seen["draws"].append(self)

        def run(self, arm, kind):
            seen["runs"].append((self.fraction, self.seed, arm, kind))
            return super().run(arm, kind)

    monkeypatch.setattr(module, "Draw", Watched)
    return seen


def test_rows_and_columns(sections, pool, snapshot, changed):
    train, test = sections
    before = [snapshot(t) for t in [*train, *test]]
    df = c2l.tl.learning_curve(
        train, test, fractions=(0.25, 0.5, 1.0), arms=("real", "classical", "mixup", "pseudo"), seeds=range(2),
        predictors=("ridge", "ridge-whitened"), pool=pool, encoder="rgb", n_top=9, progress=False,
    )  # fmt: skip
    assert list(df.columns) == COLUMNS
    assert len(df) == 2 * 2 * 4 * 2 + 2 * 2  # fractions x seeds x arms x recipes, and the reference
    full = df[df.fraction == 1]
    assert set(full.arm) == {"real"} and (full.n_spots == 72).all() and (full.n_synthetic == 0).all()
    few = df[(df.fraction == 0.25) & (df.arm != "real")]
    assert (few.n_spots == 18).all() and (few.n_synthetic == [40 if a == "pseudo" else 180 for a in few.arm]).all()
    assert set(df.section) == {"t"} and set(df.encoder) == {"rgb"}
    assert df.pcc.between(-1, 1).all() and (df.mse > 0).all() and df.moran_corr.between(-1, 1).all()
    assert df[df.fraction == 1].pcc.mean() > 0.5
    assert len(df.attrs["genes"]) == 9 and df.attrs["settings"]["n_top"] == 9
    json.dumps(df.attrs["settings"])
    closed = c2l.metrics.gap_closed(df)
    assert len(closed) == 2 * 3 * 2 and closed.difference.notna().all()
    assert not any(changed(b, t) for b, t in zip(before, [*train, *test], strict=True))


def test_arms_of_the_generator(toy, two, runs, snapshot, changed):
    for t in two:
        t.uns["c2lst_section"] = "train" + t.uns["c2lst_section"]
    test = toy["table"]
    before = [snapshot(t) for t in [*two, test]]
    arms = ("real", "synthetic", "shuffled", "shuffled-within", "unconditional")
    df = c2l.tl.learning_curve(
        two, test, central="toy", arms=arms, fractions=(0.5,), seeds=[0], n_synthetic=10, n_condition=12, n_top=15,
        predictors=("ridge", "cnn"), encoder="rgb", cnn_steps=2, progress=False,
        adapt_kwargs={"steps": 2, "validation": 0.0, "pool": None}, augment_kwargs={"sampler_steps": 2},
    )  # fmt: skip
    assert [tuple(r) for r in df[["arm", "predictor"]].values][:2] == [("real", "ridge"), ("real", "cnn")]
    assert set(df[df.predictor == "cnn"].encoder) == {"none"}
    assert set(df[df.arm != "real"].n_synthetic) <= {10} and not any(
        changed(b, t) for b, t in zip(before, [*two, test], strict=True)
    )
    assert ("unconditional" in set(df.arm)) and len(df) in (9, 10)  # a recipe without an unconditional arm has no row
    extras = runs["draws"][0].extras
    ours, mixed, within = extras["synthetic"], extras["shuffled"], extras["shuffled-within"]
    np.testing.assert_array_equal(ours.patches, mixed.patches)
    for other in (mixed, within):
        assert not np.array_equal(ours.target, other.target, equal_nan=True)
        # the same profiles, of other patches
        rows = {tuple(np.nan_to_num(r, nan=-1)) for r in ours.target}
        assert {tuple(np.nan_to_num(r, nan=-1)) for r in other.target} == rows
    # labels know the spot that was mixed in, whatever patch they stand beside
    assert not np.array_equal(ours.partner, ours.parent)
    if "unconditional" in extras:
        np.testing.assert_array_equal(extras["unconditional"].partner, ours.partner)
    # an evaluated gene outside the panel of the few spots has no synthetic label
    panel = runs["draws"][0].local.genes
    assert len(panel) == 12
    for j, gene in enumerate(df.attrs["genes"]):
        assert np.isnan(ours.target[:, j]).all() == (gene not in panel)


def test_what_was_drawn_serves_other_calls(toy, two, tmp_path, monkeypatch):
    from c2lst.tl import _adapt, _augment

    for t in two:
        t.uns["c2lst_section"] = "train" + t.uns["c2lst_section"]
    arms = ("synthetic", "shuffled", "unconditional")
    common = {
        "central": "toy", "fractions": (0.5,), "seeds": [0], "n_synthetic": 10, "n_condition": 12, "n_top": 15,
        "predictors": ("ridge",), "progress": False, "adapt_kwargs": {"steps": 2, "validation": 0.0, "pool": None},
        "augment_kwargs": {"sampler_steps": 2},
    }  # fmt: skip
    calls = []
    for module_, name in ((_adapt, "adapt"), (_augment, "augment")):
        made = getattr(module_, name)
        monkeypatch.setattr(
            module_, name, lambda *a, _made=made, _name=name, **k: (calls.append(_name), _made(*a, **k))[1]
        )

    def run(kept, **kwargs):
        calls.clear()
        df = c2l.tl.learning_curve(
            two, toy["table"], **{**common, "arms": arms, "encoder": "rgb", "keep_drawn": kept, **kwargs}
        )
        return df[NUMBERS], list(calls)

    kept = tmp_path / "drawn"
    (bare, made), (first, _) = run(None), run(kept)
    assert made == ["adapt", "augment"] and first.equals(bare)
    n_files = len(list(kept.iterdir()))
    assert n_files == 3
    again, made = run(kept)
    assert made == [] and again.equals(bare)
    other, made = run(kept, predictors=("ridge", "cnn"), cnn_steps=2, weight=3.0, encoder="rgb")
    assert made == [] and not other[other.predictor == "ridge"].equals(bare)
    # more of them is another drawing of the same local model; other spots, genes or steps are another model
    assert run(kept, n_synthetic=11)[1] == ["augment"]
    gate = {"keep": 0.5, "encoder": "rgb"}
    assert run(kept, n_synthetic=5, gate_kwargs=gate)[1] == []
    assert run(kept, n_condition=13)[1] == ["adapt", "augment"]
    assert run(kept, seeds=[1])[1] == ["adapt", "augment"]
    assert run(kept, adapt_kwargs={"steps": 3, "validation": 0.0, "pool": None})[1] == ["adapt", "augment"]
    two[0].X = two[0].X[::-1].copy()
    assert run(kept)[1] == ["adapt", "augment"]


def test_draws_are_nested_and_stratified(sections, runs):
    train, test = sections
    c2l.tl.learning_curve(train, test, fractions=(0.1, 0.25, 0.5), arms=("real",), seeds=[0, 1], **FAST)
    drawn = {(d.fraction, d.seed): set(d.names) for d in runs["draws"]}
    for seed in (0, 1):
        assert drawn[0.1, seed] < drawn[0.25, seed] < drawn[0.5, seed]
        assert len([n for n in drawn[0.5, seed] if n.startswith("a_")]) == 18
    assert drawn[0.1, 0] != drawn[0.1, 1]


def test_panel_is_fixed_once_from_all_training_spots(sections):
    train, test = sections
    df = c2l.tl.learning_curve(train, test, fractions=(0.25, 1.0), arms=("real",), seeds=[0], **FAST | {"n_top": 5})
    light = [t.copy() for t in train]
    c2l.pp.select_genes(light, n_top=5)
    assert df.attrs["genes"] == list(light[0].var_names[light[0].var["c2lst_genes"]])


def test_goes_on_where_it_stopped(sections, runs, tmp_path):
    train, test = sections
    settings = {
        "fractions": (0.5, 1.0),
        "arms": ("real", "classical"),
        "seeds": [0, 1],
        "out": tmp_path / "runs",
        **FAST,
    }
    first = c2l.tl.learning_curve(train, test, **settings)
    assert len(runs["runs"]) == 6
    again = c2l.tl.learning_curve(train, test, **settings)
    assert len(runs["runs"]) == 6 and len(runs["draws"]) == 4  # nothing is drawn or computed again
    assert again.equals(first) and again.attrs == first.attrs
    victim = next(p for p in (tmp_path / "runs").iterdir() if "classical" in p.name and "_1_" in p.name)
    victim.unlink()
    third = c2l.tl.learning_curve(train, test, **settings)
    assert runs["runs"][6:] == [(0.5, 1, "classical", "ridge")]
    assert third[NUMBERS].equals(first[NUMBERS])
    more = c2l.tl.learning_curve(train, test, **settings | {"seeds": [0, 1, 2]})
    assert len(runs["runs"]) == 10 and len(more) == 9
    with pytest.raises(ValueError, match="other settings.*'n_top'.*another out="):
        c2l.tl.learning_curve(train, test, **settings | {"n_top": 5})
    train[0].obsm["patches"][0, 0, 0] = 0
    with pytest.raises(ValueError, match="'data'"):
        c2l.tl.learning_curve(train, test, **settings)
    # a half-written file is not a finished run
    assert not list((tmp_path / "runs").glob("*.part"))


def test_what_the_central_model_knows_without_drawing_a_patch(coloured, runs):
    *train, test = (coloured(36, seed=i, name=n, px=64) for i, n in enumerate("abt"))
    pool = coloured(40, seed=9, px=64).obsm["patches"]
    kwargs = {"fractions": (0.5,), "seeds": [0], "pool": pool, "central": "toy", **FAST}
    df = c2l.tl.learning_curve(train, test, arms=("real", "pseudo", "pseudo-central"), **kwargs).set_index("arm")
    assert "pseudo-central" not in module.ARMS  # named, or not run
    assert (df.n_synthetic.drop("real") == 40).all()
    (draw,) = runs["draws"]
    own, central = draw.extras["pseudo-ridge"], draw.extras["pseudo-central"]
    np.testing.assert_array_equal(own.patches, central.patches)
    assert own.target.shape == central.target.shape and not np.allclose(own.target, central.target)
    assert np.isfinite(df.pcc).all()


def test_labels_of_a_teacher_do_not_know_the_fold_that_is_left_out(coloured, runs, monkeypatch):
    from c2lst.models import _ridge

    rng = np.random.default_rng(0)
    *train, test = (coloured(36, seed=i, name=n, px=64) for i, n in enumerate("abct"))
    for table in train:  # genes that no patch tells
        table.X = rng.poisson(20, table.shape).astype(np.float32)
    pool = np.concatenate([t.obsm["patches"] for t in train])  # tissue of the sections, each left out in turn
    best = []
    choose = _ridge.choose_alpha

    def seen(*args, **kwargs):
        best.append(choose(*args, **kwargs))
        return best[-1]

    monkeypatch.setattr(_ridge, "choose_alpha", seen)
    found = {}
    for arm in ("pseudo", "pseudo-central"):
        kwargs = {
            "fractions": (0.5,),
            "seeds": [0],
            "pool": pool,
            "central": "toy",
            "weight": 10.0,
            **FAST,
            "encoder": "central",
        }
        c2l.tl.learning_curve(train, test, arms=("real", arm), **kwargs)
        found[arm] = max(best[-1][1])
        draw = runs["draws"][-1]
        extra = next(v for k, v in draw.extras.items() if k.startswith(arm))
        assert set(extra.without) == {0, 1, 2}
        # with the teacher that saw all, what is noise comes back as if it were known
        x = np.concatenate([draw.features, extra.features])
        y, n = np.concatenate([draw.target, extra.target]).astype(float), len(draw.target)
        weight = np.r_[np.ones(n), np.full(len(y) - n, 10 * n / (len(y) - n))]
        fold = np.r_[_ridge.folds(draw.groups, draw.positions), np.full(len(y) - n, -1)]
        mean, rotation = _ridge.standardiser(x, weight)
        _, leaked = choose((x - mean) @ rotation, y, weight, np.arange(len(y)) < n, fold)
        assert max(leaked) > found[arm] + 0.15
    assert max(found.values()) < 0.15


def test_order_of_arms_does_not_matter(sections, pool):
    train, test = sections
    kwargs = {"fractions": (0.5,), "seeds": [0], "pool": pool, **FAST}
    a = c2l.tl.learning_curve(train, test, arms=("real", "pseudo", "mixup"), **kwargs).set_index("arm").pcc
    b = c2l.tl.learning_curve(train, test, arms=("mixup", "pseudo"), **kwargs).set_index("arm").pcc
    assert b.to_dict() == a.drop("real").to_dict()


def test_bad_input(sections, runs, snapshot, changed):
    train, test = sections
    with pytest.raises(ValueError, match="both in train and in test: that is leakage"):
        c2l.tl.learning_curve(train, train[:1], **FAST)
    with pytest.raises(ValueError, match="arms='x'"):
        c2l.tl.learning_curve(train, test, arms=("x",), **FAST)
    with pytest.raises(ValueError, match="predictors='x'"):
        c2l.tl.learning_curve(train, test, **FAST | {"predictors": ("x",)})
    with pytest.raises(ValueError, match="fractions"):
        c2l.tl.learning_curve(train, test, fractions=(0, 1), **FAST)
    with pytest.raises(ValueError, match="without an image.*pool="):
        c2l.tl.learning_curve(train, test, arms=("real", "pseudo"), **FAST)
    with pytest.raises(ValueError, match="too few"):
        c2l.tl.learning_curve(train[0][:5].copy(), test, **FAST)
    bare = train[0].copy()
    del bare.obsm["patches"]
    with pytest.raises(KeyError, match="extract_patches"):
        c2l.tl.learning_curve(bare, test, **FAST)
    assert not runs["draws"]


def test_sums_over_blocks_give_the_scores(sections):
    train, test = sections
    settings = {"fractions": (0.25, 1.0), "arms": ("real", "classical"), "seeds": [0, 1], **FAST}
    df = c2l.tl.learning_curve(train, test, n_blocks=6, **settings)
    assert list(df.columns) == COLUMNS and len(df) == 6
    stored = json.loads(json.dumps(df.attrs))["blocks"]  # plain data
    assert stored["sections"]["t"]["n"] == [6] * 6 and len(stored["runs"]) == 6
    closed = c2l.metrics.gap_closed(df)
    assert set(closed.interval) == {"seeds x blocks"} and set(closed.n_blocks) == {6}
    assert set(c2l.metrics.paired_difference(df, arm="classical").interval) == {"seeds x blocks"}
    # one block: the score as it is
    single = c2l.tl.learning_curve(train, test, n_blocks=1, **settings)
    assert single[NUMBERS].equals(df[NUMBERS])
    whole = single.attrs["blocks"]
    keys = [run_key(row) for row in single[list(RUN)].itertuples(index=False)]
    scores = [mean_pcc(whole["sections"]["t"], whole["runs"][k], np.ones((1, 1)))[0] for k in keys]
    np.testing.assert_allclose(scores, single.pcc, atol=1e-9)


def test_gate(toy, two, runs, tmp_path):
    for t in two:
        t.uns["c2lst_section"] = "train" + t.uns["c2lst_section"]
    settings = {
        "central": "toy", "arms": ("real", "classical", *GENERATED), "fractions": (0.5,), "seeds": [0], "n_synthetic": 6,
        "n_condition": 12, "n_top": 15, "predictors": ("ridge",), "encoder": "rgb", "progress": False,
        "adapt_kwargs": {"steps": 2, "pool": None}, "augment_kwargs": {"sampler_steps": 2},
        "gate_kwargs": {"keep": 0.5}, "out": tmp_path / "runs",
    }  # fmt: skip
    df = c2l.tl.learning_curve(two, toy["table"], **settings)
    assert set(df[df.arm != "real"].n_synthetic) == {6}  # as many as every arm has, whatever the gate drops
    said = {g["arm"]: g for g in df.attrs["gate"]}
    assert set(said) == set(GENERATED)
    for g in said.values():
        assert (g["n"], g["n_kept"], g["share_dropped"]) == (12, 6, 0.5) and g["agreement_kept"] >= g["agreement"]
    (draw,) = runs["draws"]
    assert draw.judge.card["n_spots"] == 20 and draw.judge.card["sections"] == draw.local.card["sections"]
    # controls are paired wrongly first and gated after: the same patches were drawn, others pass
    drawn, mixed = draw.drawn, draw.extras["shuffled"]
    assert len(drawn.patches) == 12
    pixels = [p.tobytes() for p in drawn.patches]
    rows = [pixels.index(p.tobytes()) for p in mixed.patches]
    assert not np.array_equal(mixed.profiles, drawn.profiles[rows])
    centred = [x - draw.centre for x in (mixed.judged, mixed.profiles)]
    # a judge of 20 spots takes the largest penalty and says next to nothing: what is rounding agrees with nothing
    says = 1e-5 * (1 + np.abs(draw.centre).max())
    spread = [np.linalg.norm(a - a.mean()) for a in centred[0]]
    own = [np.corrcoef(a, b)[0, 1] if s > says else 0.0 for a, b, s in zip(*centred, spread, strict=True)]
    assert np.mean(own) == pytest.approx(said["shuffled"]["agreement_kept"], abs=1e-6)
    again = c2l.tl.learning_curve(two, toy["table"], **settings)
    assert again.equals(df) and again.attrs == df.attrs and len(runs["draws"]) == 1
    # arms without a generator need no central model, and go into the same directory, before or after
    more = c2l.tl.learning_curve(two, toy["table"], **settings | {"arms": ("real", "mixup")})
    assert set(more.arm) == {"real", "mixup"} and len(runs["runs"]) == len(df) + 1
    with pytest.raises(ValueError, match="other settings.*'gate'"):
        c2l.tl.learning_curve(two, toy["table"], **settings | {"gate_kwargs": None})


def test_stops_in_time_and_goes_on(sections, runs, tmp_path, monkeypatch):
    train, test = sections
    settings = {"fractions": (0.5, 1.0), "arms": ("real", "classical"), "seeds": [0, 1], "out": tmp_path, **FAST}
    none = c2l.tl.learning_curve(train, test, minutes=0, **settings)
    assert none.empty and list(none.columns) == COLUMNS and not runs["draws"]
    clock = iter(range(100))
    monkeypatch.setattr(module, "_over", lambda began, minutes: minutes is not None and next(clock) > 2)
    part = c2l.tl.learning_curve(train, test, minutes=1, **settings)
    assert len(part) == len(runs["runs"]) == 2
    whole = c2l.tl.learning_curve(train, test, **settings)
    assert len(whole) == len(runs["runs"]) == 6 and len(set(runs["runs"])) == 6
    assert part.attrs["blocks"]["runs"].items() <= whole.attrs["blocks"]["runs"].items()
    with pytest.raises(ValueError, match="needs out="):
        c2l.tl.learning_curve(train, test, minutes=1, **FAST)


def test_gate_is_checked_before_anything_is_trained(sections, runs):
    train, test = sections
    for gate, match in (
        ({"threshold": 0.1}, "not \\['threshold'\\].*equally many samples"),
        ({"kind": "ridge"}, "'keep' \\(needed\\)"),
        ({"keep": 2}, "at most 1"),
        ({"keep": 0.5, "kind": "forest"}, "forest"),
    ):
        with pytest.raises(ValueError, match=match):
            c2l.tl.learning_curve(train, test, gate_kwargs=gate, **FAST)
    assert not runs["draws"]


def test_patches_under_another_key():
    train, test = c2l.datasets.toy_tissue(24, sections=2)
    c2l.pp.extract_patches([train, test], mpp=2.0, patch_px=64, key_added="small")
    df = c2l.tl.learning_curve(
        train, test, fractions=(0.5,), arms=("real",), predictors=("ridge",), encoder="rgb", seeds=[0], n_top=10,
        patch_key="small",
    )  # fmt: skip
    assert len(df) == 1 and np.isfinite(df["pcc"]).all()


def test_unnamed_sections_are_called_that(sections):
    train, test = sections
    for table in [*train, *test]:
        table.uns.pop("c2lst_section")
    with pytest.raises(ValueError, match=r"Nothing names the sections.*Pass \{name: section\} dicts"):
        c2l.tl.learning_curve(train, test, arms=("real",), **FAST)
    named = c2l.tl.learning_curve(
        {"a": train[0], "b": train[1]}, {"t": test[0]}, arms=("real",), fractions=(0.5, 1.0), seeds=[0], **FAST
    )
    assert set(named["section"]) == {"t"}


def test_places_and_regions_are_checked_before_anything_takes_long(sections, monkeypatch):
    from c2lst.models import _encoders

    monkeypatch.setattr(_encoders, "embed_patches", lambda *a, **k: pytest.fail("embedded"))
    train, test = sections
    test[0].obsm["spatial"][2] = np.nan
    with pytest.raises(ValueError, match="not finite for 1 of the 36 spots"):
        c2l.tl.learning_curve(train, test, arms=("real",), **FAST)
    train[0].obs["slide"] = np.repeat(["u", "v"], 18)
    train[0].uns["spatialdata_attrs"] = {"region": ["u", "v"], "region_key": "slide", "instance_key": "spot"}
    with pytest.raises(ValueError, match="holds 2 regions, .* pass a SpatialData for each"):
        c2l.tl.learning_curve(train, test, arms=("real",), **FAST)


def test_its_own_pool_is_of_the_table_and_the_image_of_the_patches(caplog):
    made = c2l.datasets.toy_tissue(40, sections=3)
    for sdata in made:
        sdata.tables["counts"] = sdata.tables.pop("table")
    c2l.pp.extract_patches(made, mpp=2.0, patch_px=64, table_key="counts")
    df = c2l.tl.learning_curve(
        made[:2], made[2:], central="toy", arms=("real", "mixup", "pseudo"), fractions=(0.5, 1.0), seeds=[0],
        predictors=("ridge",), encoder="rgb", n_top=10, n_synthetic=150, table_key="counts", progress=False,
    )  # fmt: skip
    n = df[df["fraction"] == 0.5].set_index("arm")["n_synthetic"]
    assert n["mixup"] == 150 and 0 < n["pseudo"] < 150
    assert f"The pool has {n['pseudo']} patches; pseudo labels no more, other arms get 150" in caplog.text


def test_an_arm_does_not_depend_on_the_others(monkeypatch):
    pools = []
    from c2lst.tl import _adapt

    adapt = _adapt.adapt
    monkeypatch.setattr(_adapt, "adapt", lambda *a, **kw: pools.append(kw["pool"]) or adapt(*a, **kw))
    made = c2l.datasets.toy_tissue(24, sections=2)
    c2l.pp.extract_patches(made, mpp=2.0, patch_px=64)
    kw = {
        "central": "toy", "fractions": (0.5,), "encoder": "rgb", "seeds": [0], "n_top": 10, "n_condition": 15,
        "n_synthetic": 12, "adapt_kwargs": {"steps": 2}, "augment_kwargs": {"sampler_steps": 1}, "predictors": ("ridge",),
    }  # fmt: skip
    one = c2l.tl.learning_curve(made[:1], made[1:], arms=("real", "synthetic"), progress=False, **kw)
    two = c2l.tl.learning_curve(made[:1], made[1:], arms=("real", "synthetic", "pseudo"), progress=False, **kw)
    assert len(pools[0]) == len(pools[1]) == one.attrs["settings"]["pool"] > 0
    pcc = [d.set_index("arm")["pcc"] for d in (one, two)]
    assert pcc[0]["synthetic"] == pcc[1]["synthetic"]


def test_kept_runs_are_of_these_places_names_and_arguments(sections, tmp_path, pool):
    train, test = sections
    kw = {"arms": ("real", "classical"), "fractions": (0.5, 1.0), "seeds": [0], "out": tmp_path / "o", **FAST}
    c2l.tl.learning_curve(train, test, **kw)
    moved = [t.copy() for t in test]
    moved[0].obsm["spatial"] = moved[0].obsm["spatial"][::-1].copy()
    with pytest.raises(ValueError, match=r"other settings \(\['data'\]\)"):
        c2l.tl.learning_curve(train, moved, **kw)
    kw = {**kw, "out": tmp_path / "p"}
    big = np.concatenate([pool] * 30)  # as text both would be abbreviated to their first and last patches
    other = big.copy()
    other[500] = 0
    c2l.tl.learning_curve(train, test, adapt_kwargs={"pool": big}, **kw)
    with pytest.raises(ValueError, match=r"other settings \(\['adapt'\]\)"):
        c2l.tl.learning_curve(train, test, adapt_kwargs={"pool": other}, **kw)


def test_kept_patches_are_of_these_names(tmp_path):
    made = c2l.datasets.toy_tissue(24, sections=2)
    c2l.pp.extract_patches(made, mpp=2.0, patch_px=64)
    train, test = (s["table"].copy() for s in made)
    kw = {
        "central": "toy", "arms": ("synthetic",), "fractions": (0.5,), "encoder": "rgb", "seeds": [0], "n_top": 10,
        "n_condition": 15, "n_synthetic": 12, "adapt_kwargs": {"steps": 2}, "augment_kwargs": {"sampler_steps": 1},
        "predictors": ("ridge",), "keep_drawn": tmp_path / "kept", "progress": False,
    }  # fmt: skip
    first = c2l.tl.learning_curve(train, test, **kw)
    train.obs_names = ["x" + n for n in train.obs_names]
    again = c2l.tl.learning_curve(train, test, **kw)
    assert again["pcc"].tolist() == first["pcc"].tolist()
    assert len(list((tmp_path / "kept").glob("synthetic-*.h5ad"))) == 2
