from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from c2lst.metrics import gap_closed, paired_difference, pearson
from c2lst.metrics._blocks import Blocks, mean_pcc, measured_sums, run_key, run_sums, spatial_blocks


def grid(side):
    row, col = np.divmod(np.arange(side * side), side)
    return np.stack([col, row], axis=1).astype(float)


def section(seed, n_side=13, genes=6, dtype=np.float32):
    """Positions, blocks, measured; a gene that is constant, one that is 0 but in a corner, one far from 0."""
    rng = np.random.default_rng(seed)
    at = grid(n_side)
    y = rng.normal(size=(len(at), genes))
    y[:, 0] = 2.5
    y[:, 1] = np.where(at.sum(1) < 5, rng.random(len(at)) + 1, 0)
    y[:, 2] += 1e3
    return at, spatial_blocks(at, 12), y.astype(dtype)


def noisy(y, rho, rng):
    """Predictions whose correlation with standard normal `y` is `rho`."""
    return rho * y + np.sqrt(1 - rho**2) * rng.normal(size=y.shape)


def test_blocks_are_even_connected_and_few():
    at = grid(14)[:181] * 290
    block = spatial_blocks(at, 12)
    sizes = np.bincount(block)
    assert len(sizes) == 12 and sizes.min() >= 13 and sizes.max() <= 17
    # neighbours: a block is far smaller than the section
    spread = np.stack([np.ptp(at[block == b], axis=0) for b in range(12)])
    assert (spread <= 290 * 7).all()
    np.testing.assert_array_equal(spatial_blocks(at * 0.688 + 100, 12), block)  # no unit, no origin
    assert spatial_blocks(at[:18], 12).max() == 3  # four spots a block at least
    assert spatial_blocks(at[:7], 12).max() == 0
    assert spatial_blocks(at, 1).max() == 0


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n_blocks", [1, 12])
def test_all_blocks_give_the_plain_pcc(dtype, n_blocks):
    at, _, y = section(0, dtype=dtype)
    block = spatial_blocks(at, n_blocks)
    x = noisy(y, 0.6, np.random.default_rng(1)).astype(dtype)
    x[:, 3] = 1.3  # a constant prediction scores 0
    want = np.nanmean(pearson(x, y))
    got = mean_pcc(measured_sums(y, block), run_sums(x, y, block), np.ones((1, block.max() + 1)))
    np.testing.assert_allclose(got, want, atol=1e-9)


def test_resampled_blocks_give_the_pcc_of_their_spots():
    _, block, y = section(0)
    x = noisy(y, 0.5, np.random.default_rng(1)).astype(np.float32)
    measured, run = measured_sums(y, block), run_sums(x, y, block)
    rng = np.random.default_rng(2)
    for _ in range(5):
        drawn = rng.integers(12, size=12)
        rows = np.concatenate([np.flatnonzero(block == b) for b in drawn])
        weight = np.bincount(drawn, minlength=12)[None]
        # gene 1 is constant where its corner is not drawn: left out, as in the plain score
        np.testing.assert_allclose(mean_pcc(measured, run, weight), np.nanmean(pearson(x[rows], y[rows])), atol=1e-8)
    away = np.flatnonzero([not y[block == b, 1].any() for b in range(12)])
    weight = np.isin(np.arange(12), away).astype(float)[None]
    rows = np.isin(block, away)
    assert np.isnan(pearson(x[rows], y[rows])[1])
    np.testing.assert_allclose(mean_pcc(measured, run, weight), np.nanmean(pearson(x[rows], y[rows])), atol=1e-8)
    flat = measured_sums(y[:, :1], block), run_sums(x[:, :1], y[:, :1], block)
    assert np.isnan(mean_pcc(*flat, np.ones((1, 12)))).all()


def curve(predicted, y, block, name="C5"):
    """A table and its sums from `{(arm, fraction): [prediction per seed]}`."""
    rows, runs = [], {}
    for (arm, fraction), per_seed in predicted.items():
        for seed, x in enumerate(per_seed):
            row = (name, fraction, arm, "ridge", "rgb", seed)
            rows.append((*row, float(np.nanmean(pearson(x, y)))))
            runs[run_key(row)] = run_sums(x, y, block)
    df = pd.DataFrame(rows, columns=["section", "fraction", "arm", "predictor", "encoder", "seed", "pcc"])
    df.attrs["blocks"] = {"sections": {name: measured_sums(y, block)}, "runs": runs}
    return df


@pytest.fixture
def df():
    rng = np.random.default_rng(3)
    _, block, y = section(3)
    y = y[:, 3:]
    made = {
        ("real", 0.1): [noisy(y, 0.3, rng) for _ in range(3)],
        ("synthetic", 0.1): [noisy(y, 0.5, rng) for _ in range(3)],
        ("real", 1.0): [noisy(y, 0.8, rng) for _ in range(3)],
    }
    made["copy", 0.1] = made["real", 0.1]  # the same predictions under another name
    return curve(made, y, block)


def test_sums_are_plain_data(df):
    stored = json.loads(json.dumps(df.attrs["blocks"]))
    again = df.copy()
    again.attrs = {}
    pd.testing.assert_frame_equal(gap_closed(again, blocks=stored), gap_closed(df))
    assert again.equals(df) and json.dumps(df.attrs["blocks"]) == json.dumps(stored)


def test_pairing_is_exact(df):
    """Two arms that predict the same differ by exactly 0 in every sample of seeds and blocks."""
    row = paired_difference(df, arm="copy").set_index("control").loc["real"]
    assert (row["difference"], row["low"], row["high"]) == (0, 0, 0) and row["interval"] == "seeds x blocks"
    ours, controls = paired_difference(df), paired_difference(df, arm="real").set_index("control")
    by = ours.set_index("control")
    assert set(by.index) == {"real", "copy"}
    assert by.loc["real", "low"] == by.loc["copy", "low"] == pytest.approx(-controls.loc["synthetic", "high"])
    closed = gap_closed(df).set_index("arm")
    assert closed.loc["copy", ["gap_closed", "low", "high"]].tolist() == [0, 0, 0]
    assert closed.loc["synthetic", "gap_low"] == closed.loc["copy", "gap_low"]
    # one and the same bootstrap in both tables
    assert closed.loc["synthetic", "difference_low"] == by.loc["real", "low"]


def test_what_was_resampled_is_said(df):
    both = gap_closed(df).iloc[0]
    assert (both["interval"], both["n_blocks"], both["n_seeds"]) == ("seeds x blocks", 12, 3)
    alone = gap_closed(df, blocks=[]).iloc[0]
    assert (alone["interval"], alone["n_blocks"]) == ("seeds", 0)
    for column in ("gap", "difference", "gap_closed"):
        assert both[column] == alone[column]  # blocks move intervals, not figures
    bare = df.copy()
    bare.attrs = {}
    pd.testing.assert_frame_equal(gap_closed(bare), gap_closed(df, blocks=[]))
    one = gap_closed(df[df["seed"] == 0]).iloc[0]
    assert one["interval"] == "blocks" and one["difference_low"] < one["difference"] < one["difference_high"]
    assert np.isnan(one["gap_closed"])  # a ratio asks for two seeds
    assert gap_closed(bare[bare["seed"] == 0]).iloc[0]["interval"] == "none"
    mse = gap_closed(df.assign(mse=1 - df["pcc"]), metric="mse").iloc[0]
    assert mse["interval"] == "seeds"
    # a run without sums: its comparison falls back, the others do not
    less = df.copy()
    runs = {k: v for k, v in df.attrs["blocks"]["runs"].items() if '"copy"' not in k}
    less.attrs["blocks"] = {**df.attrs["blocks"], "runs": runs}
    said = gap_closed(less).set_index("arm")["interval"]
    assert said.to_dict() == {"copy": "seeds", "synthetic": "seeds x blocks"}


def test_reference_with_other_seeds_has_the_same_blocks(df):
    moved = df.copy()
    is_full = moved["fraction"] == 1
    moved.loc[is_full, "seed"] += 10
    runs = dict(df.attrs["blocks"]["runs"])
    for seed in range(3):
        old, new = (run_key(("C5", 1.0, "real", "ridge", "rgb", s)) for s in (seed, seed + 10))
        runs[new] = runs.pop(old)
    moved.attrs["blocks"] = {**df.attrs["blocks"], "runs": runs}
    got, want = gap_closed(moved).set_index("arm"), gap_closed(df).set_index("arm")
    assert set(got["interval"]) == {"seeds x blocks"}
    assert got.loc["synthetic", "gap"] == pytest.approx(want.loc["synthetic", "gap"])
    assert got.loc["synthetic", "gap_low"] == pytest.approx(want.loc["synthetic", "gap_low"], abs=0.02)
    runs = {k: v for k, v in runs.items() if "1.0" not in k}
    moved.attrs["blocks"] = {**df.attrs["blocks"], "runs": runs}
    assert set(gap_closed(moved)["interval"]) == {"seeds"}


def test_tables_put_together(df):
    rng = np.random.default_rng(9)
    _, block, y = section(9)
    y = y[:, 3:]
    arms = [("real", 0.1), ("synthetic", 0.1), ("real", 1.0)]
    other = curve({k: [noisy(y, 0.4, rng)] * 2 for k in arms}, y, block, name="B4")
    stored = [df.attrs["blocks"], other.attrs["blocks"]]
    both = gap_closed(pd.concat([df, other]), blocks=stored)
    assert set(both["interval"]) == {"seeds x blocks"} and len(both) == 3
    # sums of one section over other blocks or genes do not mix
    clash = curve({k: [noisy(y, 0.4, rng)] * 2 for k in arms}, y, block)
    with pytest.raises(ValueError, match=r"sums of \['C5'\] over different spots, genes or blocks"):
        gap_closed(df, blocks=[df.attrs["blocks"], clash.attrs["blocks"]])


def test_sums_of_another_table_are_refused(df):
    with pytest.raises(ValueError, match=r"give a mean PCC of .* df says .*blocks=\[\]"):
        gap_closed(df.assign(pcc=df["pcc"] + 0.01))
    with pytest.raises(TypeError, match="attrs"):
        gap_closed(df, blocks={"genes": []})


def test_intervals_cover():
    """New sections, new draws: the interval holds the difference of the correlations that made them."""
    rng = np.random.default_rng(0)
    at = grid(10)
    block = spatial_blocks(at, 12)
    rho, paired, single, n = {"real": 0.3, "synthetic": 0.4}, 0, 0, 40
    for i in range(n):
        y = rng.normal(size=(100, 3))
        # what is wrong in a prediction is in part the section's own, so that runs of one section err together
        common = rng.normal(size=y.shape)
        made = {}
        for arm, r in rho.items():
            wrong = [np.sqrt(0.5) * (common + rng.normal(size=y.shape)) for _ in range(4)]
            made[arm, 0.1] = [r * y + np.sqrt(1 - r**2) * e for e in wrong]
        df = curve(made, y, block)
        row = paired_difference(df, n_boot=200, seed=i).iloc[0]
        paired += row["low"] <= 0.1 <= row["high"]
        scores = Blocks(df.attrs["blocks"], n_boot=200, seed=i).resampled(df[df["arm"] == "real"])
        low, high = np.quantile(scores.mean(axis=1), [0.025, 0.975])
        single += low <= 0.3 <= high
    assert paired >= 0.88 * n
    assert single >= 0.85 * n
