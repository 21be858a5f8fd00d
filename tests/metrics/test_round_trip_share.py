from __future__ import annotations

import numpy as np
import pytest

from c2lst.metrics import round_trip_share


def test_share_over_genes_that_both_score():
    assert round_trip_share([0.1, 0.3, np.nan, 0.5], [0.2, 0.6, 0.9, np.nan]) == pytest.approx(0.5)


def test_judge_that_cannot_read_real_patches():
    assert np.isnan(round_trip_share([0.1, 0.2], [-0.1, 0.1]))
    assert np.isnan(round_trip_share([np.nan], [0.3]))


def test_errors():
    with pytest.raises(ValueError, match="n_genes"):
        round_trip_share([0.1], [0.1, 0.2])
