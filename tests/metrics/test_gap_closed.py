from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from c2lst.metrics import gap_closed


def table(values, section="C5", predictor="ridge", **more):
    """Rows from `{(arm, fraction): [value per seed]}`; a value may be `{seed: value}`."""
    rows = []
    for (arm, fraction), per_seed in values.items():
        items = per_seed.items() if isinstance(per_seed, dict) else enumerate(per_seed)
        for seed, value in items:
            rows.append(
                {"section": section, "fraction": fraction, "arm": arm, "predictor": predictor, "seed": seed, **more}
                | {"pcc": value}
            )
    return pd.DataFrame(rows)


RUNS = {
    ("real", 0.1): [0.10, 0.12, 0.14],
    ("synthetic", 0.1): [0.16, 0.16, 0.19],
    ("real", 1.0): [0.32, 0.30, 0.34],
}


def test_by_hand():
    (row,) = gap_closed(table(RUNS)).to_dict("records")
    assert (row["section"], row["predictor"]) == ("C5", "ridge")
    assert (row["fraction"], row["arm"], row["n_seeds"]) == (0.1, "synthetic", 3)
    assert row["gap"] == pytest.approx(0.32 - 0.12)
    assert row["difference"] == pytest.approx(0.05)
    assert row["gap_closed"] == pytest.approx(0.25)
    # means of three draws of 0.06, 0.04, 0.05: every one of 27 is as likely, the extremes have 1/27 each
    assert row["difference_low"] == pytest.approx(0.04)
    assert row["difference_high"] == pytest.approx(0.06)
    # gaps by seed are 0.22, 0.18, 0.20
    assert (row["gap_low"], row["gap_high"]) == (pytest.approx(0.18), pytest.approx(0.22))
    ratios = [(a + b + c) / (d + e + f) for a, d in PAIRS for b, e in PAIRS for c, f in PAIRS]
    assert row["low"] == pytest.approx(min(ratios))
    assert row["high"] == pytest.approx(max(ratios))


PAIRS = [(0.06, 0.22), (0.04, 0.18), (0.05, 0.20)]  # difference and gap by seed


def test_interval_covers():
    rng = np.random.default_rng(0)
    hits = 0
    for i in range(100):
        noise = rng.normal(size=(3, 12)) * 0.02
        runs = {("real", 0.1): 0.1 + noise[0], ("ours", 0.1): 0.2 + noise[0] + noise[1], ("real", 1.0): 0.3 + noise[2]}
        row = gap_closed(table(runs), n_boot=300, seed=i).iloc[0]
        hits += row["low"] <= 0.5 <= row["high"]
    assert 85 <= hits <= 99


def test_groups_are_kept_apart():
    shifted = {k: [v + 0.1 for v in vs] for k, vs in RUNS.items()}
    df = pd.concat(
        [
            table(RUNS),
            table(shifted, section="B4"),
            table({**RUNS, ("synthetic", 0.1): [0.12, 0.14, 0.16]}, predictor="cnn"),
            table({("real", 0.25): [0.2, 0.2, 0.2], ("shuffled", 0.25): [0.1, 0.1, 0.1]}),
        ]
    )
    out = gap_closed(df).set_index(["section", "predictor", "fraction", "arm"])
    assert len(out) == 4
    assert out.loc["B4", "ridge", 0.1, "synthetic"]["gap_closed"] == pytest.approx(0.25)
    assert out.loc["C5", "cnn", 0.1, "synthetic"]["gap_closed"] == pytest.approx(0.1)
    assert out.loc["C5", "ridge", 0.25, "shuffled"]["gap_closed"] == pytest.approx(-0.1 / 0.12)


def test_encoders_are_kept_apart():
    other = {k: [v * 2 for v in vs] for k, vs in RUNS.items()}
    out = gap_closed(pd.concat([table(RUNS, encoder="central"), table(other, encoder="timm")]))
    assert out["encoder"].tolist() == ["central", "timm"]
    assert out["gap"].tolist() == pytest.approx([0.2, 0.4])


def test_no_encoder_named():
    assert len(gap_closed(table(RUNS, encoder=None, predictor="cnn"))) == 1


@pytest.mark.parametrize(
    "full",
    [
        pytest.param([0.15, 0.16, 0.17], id="gap under 0.05"),
        pytest.param([0.05, 0.60, 0.05], id="interval reaches 0"),
        pytest.param([0.05, 0.06, 0.07], id="negative"),
    ],
)
def test_no_ratio_without_a_gap(full):
    row = gap_closed(table({**RUNS, ("real", 1.0): full})).iloc[0]
    assert row[["gap_closed", "low", "high"]].isna().all()
    assert row["difference"] == pytest.approx(0.05)
    assert np.isfinite(row[["gap", "gap_low", "gap_high", "difference_low", "difference_high"]].astype(float)).all()


def test_only_common_seeds_are_paired():
    runs = {
        ("real", 0.1): {0: 0.1, 1: 0.12, 2: 0.9},
        ("synthetic", 0.1): {0: 0.2, 1: 0.22, 5: 0.0},
        ("real", 1.0): {0: 0.3, 1: 0.32, 7: 9.0},
    }
    row = gap_closed(table(runs)).iloc[0]
    assert row["n_seeds"] == 2
    assert row["difference"] == pytest.approx(0.1)
    assert row["gap"] == pytest.approx(0.2)


def test_reference_with_other_seeds_is_resampled_on_its_own():
    row = gap_closed(table({**RUNS, ("real", 1.0): {10: 0.3, 11: 0.34}})).iloc[0]
    assert row["gap"] == pytest.approx(0.2)
    assert row["gap_low"] == pytest.approx(0.3 - 0.14, abs=0.015)
    assert row["gap_high"] == pytest.approx(0.34 - 0.10, abs=0.015)
    single = gap_closed(table({**RUNS, ("real", 1.0): {10: 0.32}})).iloc[0]
    assert single["gap_closed"] == pytest.approx(0.25)


def test_one_seed_has_no_interval():
    row = gap_closed(table({k: v[:1] for k, v in RUNS.items()})).iloc[0]
    assert row["difference"] == pytest.approx(0.06)
    assert row["gap"] == pytest.approx(0.22)
    assert row[["gap_closed", "low", "gap_low", "difference_low"]].isna().all()


def test_lower_is_better_for_mse():
    df = table({k: [1 - v for v in vs] for k, vs in RUNS.items()}).rename(columns={"pcc": "mse"})
    row = gap_closed(df, metric="mse").iloc[0]
    assert row["gap"] == pytest.approx(0.2)
    assert row["gap_closed"] == pytest.approx(0.25)


def test_runs_without_a_score_and_incomplete_tables():
    runs = {**RUNS, ("synthetic", 0.1): [0.16, np.nan, 0.19], ("lonely", 0.25): [0.3, 0.3, 0.3]}
    out = gap_closed(table(runs)).set_index("arm")
    assert out.loc["synthetic", "n_seeds"] == 2
    assert out.loc["lonely", "n_seeds"] == 0
    assert np.isnan(out.loc["lonely", "difference"])
    no_reference = table({k: v for k, v in RUNS.items() if k[1] < 1}, section="B4")
    out = gap_closed(pd.concat([table(RUNS), no_reference])).set_index("section")
    assert np.isnan(out.loc["B4", "gap"])
    assert out.loc["B4", "difference"] == pytest.approx(0.05)


def test_seed_and_input_untouched():
    df = table(RUNS)
    before = df.copy()
    pd.testing.assert_frame_equal(gap_closed(df, seed=1), gap_closed(df, seed=1))
    pd.testing.assert_frame_equal(df, before)


def test_errors():
    df = table(RUNS)
    with pytest.raises(KeyError, match=r"lacks the columns \['arm', 'seed'\]"):
        gap_closed(df.drop(columns=["arm", "seed"]))
    with pytest.raises(KeyError, match="'mse'.*learning_curve"):
        gap_closed(df, metric="mse")
    with pytest.raises(ValueError, match="2 runs that come twice"):
        gap_closed(pd.concat([df, df.iloc[:2]]))
    with pytest.raises(ValueError, match=r"No run has arm 'real' at fraction 1.0"):
        gap_closed(df[df["fraction"] < 1])
    with pytest.raises(TypeError, match="pcc"):
        gap_closed(df.assign(pcc=df["pcc"].astype(str)))
    with pytest.raises(ValueError, match=r"missing values in \['section'\]"):
        gap_closed(df.assign(section=[None, *df["section"][1:]]))
    with pytest.raises(TypeError, match="DataFrame"):
        gap_closed(df.to_dict())
