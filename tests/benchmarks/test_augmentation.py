from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import c2lst as c2l

HERE = Path(__file__).parents[2] / "benchmarks" / "augmentation"
TRAIN, TEST = ["C2", "C3", "C4"], ["C5", "B4"]


@pytest.fixture
def scripts(monkeypatch):
    if not HERE.is_dir():
        pytest.skip("the benchmarks are not part of an installed package")
    monkeypatch.syspath_prepend(str(HERE.parent / "central"))
    monkeypatch.syspath_prepend(str(HERE))
    import choose
    import run

    return choose, run


@pytest.fixture
def opened(monkeypatch):
    """Toy sections under the names of real ones; a list of those that were opened."""
    made = dict(zip([*TRAIN, *TEST], c2l.datasets.toy_tissue(16, sections=5), strict=True))
    seen = []

    def load(name, path=None):
        seen.append(name)
        made[name]["table"].uns["c2lst_section"] = name
        made[name].attrs["c2lst_section"] = name
        return made[name]

    monkeypatch.setattr(c2l.datasets, "her2st", load)
    return seen


@pytest.fixture
def settings(tmp_path):
    made = json.loads((HERE / "settings.json").read_text())
    made |= {
        "central": "toy",
        "n_top": 12,
        "adapt": {"steps": 1, "validation": 0.0},
        "sampler_steps": 1,
        "n_boot": 50,
    }
    made |= {"judge": {"kind": "ridge", "encoder": "rgb"}, "n_blocks": 4}
    made["synthetic"] |= {"n_condition": 12, "n_synthetic": 8}
    grid = {"n_condition": [12, 16], "keep": [1.0, 0.5]}
    made["choose"] |= {"seeds": [100], "encoder": "rgb", "fraction": 0.5, "grid": grid}
    arms = ["real", "synthetic", "shuffled"]
    same = {"encoder": "rgb", "predictors": ["ridge"], "arms": arms}
    made["parts"] = {
        "all": {**same, "fractions": [0.5, 1.0], "seeds": [0, 1]},
        "few": {**same, "fractions": [0.4], "seeds": [0], "arms": ["real", "mixup"]},
        "chosen-from-sampled": {**same, "fractions": [0.5, 1.0], "seeds": [0], "settings": "sampled"},
    }
    file = tmp_path / "settings.json"
    file.write_text(json.dumps(made))
    return file


def test_the_settings_are_those_of_the_protocol(scripts):
    made = json.loads((HERE / "settings.json").read_text())
    assert (made["train"], made["test"]) == (TRAIN, TEST) and made["n_top"] == 50
    runs = pd.DataFrame(
        [
            {"fraction": f, "predictor": p, "seed": s, "encoder": part["encoder"] if p != "cnn" else "none"}
            for part in made["parts"].values()
            if part.get("settings") != "sampled"
            for f in part["fractions"]
            for p in part["predictors"]
            for s in part["seeds"]
        ]
    )
    assert not runs.duplicated().any()
    seeds = runs[runs["encoder"] != "central"].groupby(["fraction", "predictor"])["seed"].nunique()
    for f in (0.1, 1.0):
        assert seeds[f, "ridge"] >= 10 and seeds[f, "ridge-whitened"] >= 10 and seeds[f, "cnn"] >= 3
    assert all(seeds[f, "ridge"] >= 3 for f in (0.05, 0.25, 0.5))
    assert not set(made["choose"]["seeds"]) & set(runs["seed"])
    for factor, values in made["choose"]["grid"].items():
        assert made["synthetic"][factor] in values


@pytest.mark.parametrize("name", ["toy", "features"])
def test_other_settings_differ_where_they_mean_to(scripts, name):
    import _data

    made, main = (_data.read_settings(HERE / f"{n}.json") for n in (name, "settings"))
    where = {"toy": {"train", "test", "central", "parts"}, "features": {"choose", "parts"}}[name]
    assert set(made) == set(main) and {k for k in made if made[k] != main[k]} == where
    assert _data.results_of(HERE / f"{name}.json").name == f"augmentation-{name}"
    assert _data.results_of(HERE / "settings.json").name == "augmentation"


def test_simulated_sections_by_number(scripts, tmp_path):
    import _data

    central = c2l.models.CentralModel.from_pretrained("toy")
    names = ["toy0", "toy2"]
    found = _data.tables(names, None, central, tmp_path)
    assert [t.uns["c2lst_section"] for t in found.values()] == names
    assert {t.n_obs for t in found.values()} == {200}
    again = _data.tables(names, None, central, tmp_path)
    assert np.array_equal(again["toy2"].obsm["patches"], found["toy2"].obsm["patches"])


def test_search(scripts):
    choose, _ = scripts
    tried = []

    def trial(setting):
        tried.append(dict(setting))
        noise = np.array([0.01, -0.01, 0.0])
        return 0.1 * setting["a"] + 0.001 * setting["b"] + noise * (1 + setting["b"])

    best, finished, said = choose.search({"a": 1, "b": 0, "c": 5}, {"a": [0, 1, 2], "b": [0, 1], "c": [5]}, trial)
    # a gains; what b gains is within the noise
    assert best == {"a": 2, "b": 0, "c": 5} and finished
    assert [s["chosen"] for s in said] == [2, 0, 5] and len(tried) == 4
    best, finished, _ = choose.search({"a": 1}, {"a": [0, 1]}, lambda s: None if s["a"] == 0 else np.zeros(3))
    assert best == {"a": 1} and not finished


def test_choose_then_run(scripts, opened, settings, tmp_path, capsys, monkeypatch):
    import _data

    choose, run = scripts
    out, cache = tmp_path / "out", tmp_path / "cache"
    common = ["--settings", str(settings), "--out", str(out), "--cache", str(cache)]
    with pytest.raises(SystemExit):
        run.main([*common, "--only", "all"])
    assert "run choose.py first" in capsys.readouterr().err and not opened

    choose.main([*common, "--minutes", "0"])
    assert not json.loads((out / "choose.json").read_text())["finished"]
    choose.main(common)
    chosen = json.loads((out / "choose.json").read_text())
    table = pd.read_csv(out / "choose.csv")
    assert chosen["finished"] and len(table) == 9 and set(table["held_out"]) == set(TRAIN)
    assert set(chosen["chosen"]) == set(_data.SYNTHETIC) and set(table["n_condition"]) == {12, 16}
    assert {s["factor"] for s in chosen["decisions"]} == {"n_condition", "keep"} and chosen["commit"]
    np.testing.assert_allclose(table["gain"], table["synthetic"] - table["real"], atol=1e-5)
    choose.main(common)
    assert len(pd.read_csv(out / "choose.csv")) == 9  # nothing is tried again

    def score(self, synthetic, held, seed):
        assert self.fraction == 1 and {n: t.n_obs for n, t in self.here.items()} == dict.fromkeys(TRAIN, 8)
        return 0.1, 0.1 + synthetic["keep"] * (1 + TRAIN.index(held))

    monkeypatch.setattr(choose.Validation, "score", score)
    choose.main([*common, "--sampled", "0"])
    # choosing never opens a section for testing
    assert set(opened) == set(TRAIN)
    assert "seed 0 draws" in json.loads((out / "choose_sampled_0.json").read_text())["declared"]

    run.main([*common, "--only", "all"])
    assert set(opened) == {*TRAIN, *TEST}
    runs = pd.read_csv(out / "runs.csv")
    assert len(runs) == 2 * (2 * 3 + 2) and set(runs["section"]) == set(TEST)
    for name in ("gap_closed", "differences"):
        assert set(pd.read_csv(out / f"{name}.csv")["interval"]) == {"seeds x blocks"}
    assert (out / "learning_curve_rgb.png").is_file()
    run.main([*common, "--only", "few", "chosen-from-sampled", "--minutes", "60"])
    again = pd.read_csv(out / "runs.csv")
    assert len(again) == len(runs) + 4 and set(again["part"]) == {"all", "few"}
    other = pd.read_csv(out / "chosen-from-sampled_differences.csv")
    assert set(other["interval"]) == {"blocks"} and set(other["control"]) == {"real", "shuffled"}
    text = (out / "results.md").read_text()
    assert "seed 0 draws" in text and "each left out in turn" in text and "Commit" in text
    assert len(json.loads((out / "provenance.json").read_text())) == 2


def test_what_former_days_tried_is_not_taken_for_this(scripts):
    choose, _ = scripts
    old = pd.DataFrame({"central": ["a"], "guidance": [1.5], "gain": [0.1]})
    assert choose._find(pd.DataFrame(), {"central": "a"}) is None
    assert choose._find(old, {"central": "a", "guidance": 1.5})["gain"] == 0.1
    assert choose._find(old, {"central": "a", "guidance": 1.5, "n_condition": 100}) is None
    both = pd.concat([old, old.assign(n_condition=100, gain=0.2)], ignore_index=True)
    assert choose._find(both, {"central": "a", "guidance": 1.5, "n_condition": 100})["gain"] == 0.2


def test_a_section_cannot_be_on_both_sides(scripts, settings):
    import _data

    made = json.loads(settings.read_text())
    settings.write_text(json.dumps(made | {"train": ["C2", "C5"]}))
    with pytest.raises(ValueError, match=r"\['C5'\] are for training and for testing"):
        _data.read_settings(settings)


def test_round_trip(scripts, opened, settings, tmp_path, monkeypatch):
    import round_trip

    monkeypatch.setattr(round_trip, "JUDGES", {"ridge": "rgb"})
    out = tmp_path / "out"
    common = ["--settings", str(settings), "--out", str(out), "--cache", str(tmp_path / "cache")]
    round_trip.main([*common, "--seeds", "0"])
    first = pd.read_csv(out / "round_trip.csv")
    assert list(first["section"]) == TEST and set(first["judge"]) == {"ridge"} and (first["n_spots"] == 16).all()
    np.testing.assert_allclose(first["share"], first["pcc"] / first["real"], rtol=1e-4)
    # what was done stays as it is
    round_trip.main([*common, "--seeds", "0", "1"])
    both = pd.read_csv(out / "round_trip.csv")
    assert list(both["seed"]) == [0, 0, 1, 1]
    pd.testing.assert_frame_equal(both.iloc[:2], first, check_dtype=False)  # a column of ones is read as integers
    assert "| C5 | ridge | 2 |" in (out / "round_trip.md").read_text()
