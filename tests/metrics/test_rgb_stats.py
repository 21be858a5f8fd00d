from __future__ import annotations

import numpy as np
import pytest

from c2lst.metrics import rgb_stats


def test_equals_numpy():
    patches = np.random.default_rng(0).integers(0, 256, (5, 9, 7, 3), dtype=np.uint8)
    flat = patches.reshape(5, -1, 3).astype(float)
    np.testing.assert_allclose(rgb_stats(patches), np.hstack([flat.mean(1), flat.std(1)]))


def test_errors():
    with pytest.raises(ValueError, match="RGBA"):
        rgb_stats(np.zeros((2, 4, 4, 4), dtype=np.uint8))
