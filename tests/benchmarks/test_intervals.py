from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

HERE = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def simulated(monkeypatch):
    if not HERE.is_dir():
        pytest.skip("the benchmarks are not part of an installed package")
    monkeypatch.syspath_prepend(str(HERE))
    import interval_coverage as module

    return module


def test_fields_are_of_unit_variance_and_as_alike_as_they_should_be(simulated):
    rng = np.random.default_rng(0)
    for length in (0.0, 2.5):
        drawn = np.stack(simulated.fields(rng, length, 40)).reshape(40, 14, 14, 20)
        assert np.mean(drawn**2) == pytest.approx(1, abs=0.05)
        alike = np.mean(drawn[:, 1:] * drawn[:, :-1])
        assert alike == pytest.approx(np.exp(-1 / length) if length else 0, abs=0.05)


def test_a_simulated_section_has_a_gap_and_intervals_over_both(simulated):
    from c2lst.metrics import gap_closed

    df = simulated.section(np.random.default_rng(1), 1.0, 4, 0.05)
    row = gap_closed(df, n_boot=200).iloc[0]
    assert (row.n_seeds, row.n_blocks, row.interval) == (4, 12, "seeds x blocks")
    assert row.gap > 0.05 and row.difference_low < row.difference < row.difference_high


def test_coverage_counts(simulated):
    found = simulated.coverage(0.0, 3, 0.02, repeats=12, n_boot=100)
    assert 0.5 <= found["holds_difference"] <= 1
    assert found["difference"] > 0.02
