from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from c2lst.metrics import paired_difference


@pytest.fixture
def df():
    values = {
        "real": [0.10, 0.12, 0.14],
        "synthetic": [0.16, 0.16, 0.19],
        "shuffled": [0.10, 0.20, 0.11],
        "late": [np.nan, 0.1, np.nan],
    }
    rows = [
        {"section": "C5", "fraction": f, "arm": a, "predictor": "ridge", "seed": s, "pcc": v}
        for f in (0.1, 0.25)
        for a, per_seed in values.items()
        for s, v in enumerate(per_seed)
        if f == 0.1 or a in ("real", "synthetic")
    ]
    return pd.DataFrame([*rows, {**rows[0], "fraction": 1.0}])


def test_by_hand(df):
    out = paired_difference(df).set_index(["fraction", "control"])
    assert list(out.index) == [(0.1, "real"), (0.1, "shuffled"), (0.1, "late"), (0.25, "real")]
    row = out.loc[0.1, "real"]
    assert row["difference"] == pytest.approx(0.05)
    assert (row["low"], row["high"]) == (pytest.approx(0.04), pytest.approx(0.06))
    assert (row["share_above_0"], row["seeds_above_0"], row["n_seeds"]) == (1, 3, 3)
    row = out.loc[0.1, "shuffled"]
    assert row["difference"] == pytest.approx((0.06 - 0.04 + 0.08) / 3)
    assert row["seeds_above_0"] == 2 and 0 < row["share_above_0"] < 1
    row = out.loc[0.1, "late"]
    assert row["difference"] == pytest.approx(0.06) and row["interval"] == "none" and np.isnan(row["low"])


def test_lower_is_better_for_mse(df):
    out = paired_difference(df.assign(mse=1 - df["pcc"]), metric="mse")
    assert out["difference"].to_numpy() == pytest.approx(paired_difference(df)["difference"].to_numpy())


def test_errors(df):
    with pytest.raises(ValueError, match=r"No run of df has arm 'ours'.*'shuffled'"):
        paired_difference(df, arm="ours")
    with pytest.raises(KeyError, match=r"lacks the columns \['arm'\]"):
        paired_difference(df.drop(columns="arm"))
