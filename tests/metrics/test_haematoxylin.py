from __future__ import annotations

import numpy as np
import pytest
from skimage.color import hed2rgb, rgb2hed
from skimage.filters import threshold_otsu

from c2lst.metrics import haematoxylin, haematoxylin_area


@pytest.fixture
def patches():
    return np.random.default_rng(0).integers(1, 256, (6, 16, 20, 3), dtype=np.uint8)


def test_is_six_times_skimage(patches):
    h = haematoxylin(patches)
    assert h.shape == (6, 16, 20)
    assert h.dtype == np.float32
    np.testing.assert_allclose(h, 6 * rgb2hed(patches)[..., 0], atol=1e-5)


def test_batches_do_not_matter(patches, monkeypatch):
    import sys

    whole, area = haematoxylin(patches), haematoxylin_area(patches)
    monkeypatch.setattr(sys.modules["c2lst.metrics._stain"], "BATCH", 16 * 20 * 4)
    monkeypatch.setattr(sys.modules["c2lst.metrics._haematoxylin"], "BATCH", 16 * 20 * 4)
    np.testing.assert_array_equal(haematoxylin(patches), whole)
    np.testing.assert_array_equal(haematoxylin_area(patches), area)


def test_stained_by_a_known_amount():
    hed = np.zeros((1, 4, 4, 3))
    hed[..., :2] = 1.2 / 6, 0.3 / 6  # eosin beside it must not count
    patch = np.round(hed2rgb(hed) * 255).astype(np.uint8)
    np.testing.assert_allclose(haematoxylin(patch), 1.2, atol=0.02)


def test_white_and_black():
    patch = np.full((1, 2, 2, 3), 255, dtype=np.uint8)
    assert (haematoxylin(patch) == 0).all()
    patch[:] = 0
    assert np.isfinite(haematoxylin(patch)).all()


def test_area_counts_pixels_above_threshold(patches):
    expected = [(haematoxylin(patches[i : i + 1]) > 0.4).mean() for i in range(len(patches))]
    np.testing.assert_allclose(haematoxylin_area(patches, threshold=0.4), expected)
    assert len(haematoxylin_area(patches[:0])) == 0


def test_errors(patches):
    with pytest.raises(TypeError, match="uint8"):
        haematoxylin(patches / 255)
    with pytest.raises(ValueError, match=r"\(n, H, W, 3\)"):
        haematoxylin(patches[0])
    with pytest.raises(ValueError, match="threshold"):
        haematoxylin_area(patches, threshold=-1)


@pytest.mark.her2st
def test_default_threshold_is_near_otsu_on_tissue(her2st_dir, monkeypatch):
    import pandas as pd
    from PIL import Image

    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    with Image.open(her2st_dir / "C3.jpg") as file:
        file.draft("RGB", (file.width // 2, file.height // 2))  # decoded at half the size
        image = np.asarray(file)
    at = (pd.read_csv(her2st_dir / "C3_selection.tsv", sep="\t")[["pixel_x", "pixel_y"]].to_numpy() / 2).astype(int)
    spots = np.stack([image[y - 36 : y + 36, x - 36 : x + 36] for x, y in at])
    h = haematoxylin(spots)
    assert threshold_otsu(h[:, ::2, ::2]) == pytest.approx(0.65, abs=0.08)
    assert 0.1 < haematoxylin_area(spots).mean() < 0.4
