from __future__ import annotations

import numpy as np
import pytest
from skimage.measure import regionprops

from c2lst.metrics import composition, haematoxylin, haematoxylin_area, nuclei

BLUE = (40, 36, 120)


def tissue(mpp, centres, semi=(4.0, 4.0), field=64.0):
    """White patch with ellipses, positions and semi-axes (y, x) in um, drawn by means over 8 x 8 sub-pixels."""
    n = round(field / mpp)
    fine = (np.arange(8 * n) + 0.5) * mpp / 8
    hit = np.zeros((8 * n, 8 * n), dtype=bool)
    for y, x in centres:
        hit |= ((fine[:, None] - y) / semi[0]) ** 2 + ((fine[None] - x) / semi[1]) ** 2 < 1
    share = hit.reshape(n, 8, n, 8).mean(axis=(1, 3))[..., None]
    return np.round(255 * (1 - share) + np.array(BLUE) * share).astype(np.uint8)[None]


GRID = [(y, x) for y in (10, 26, 42, 55) for x in (10, 26, 42, 55)]


@pytest.mark.parametrize("mpp", [0.25, 0.5, 1.0])
def test_discs(mpp):
    found = nuclei(tissue(mpp, GRID), mpp=mpp).iloc[0]
    assert found["nuclei_per_mm2"] == pytest.approx(16 / 0.064**2)
    assert found["nucleus_area_um2"] == pytest.approx(np.pi * 16, rel=0.15)
    assert found["nucleus_eccentricity"] < 0.3


def test_ellipses():
    found = nuclei(tissue(0.25, GRID[::3], semi=(6.0, 3.0)), mpp=0.25).iloc[0]
    assert found["nuclei_per_mm2"] == pytest.approx(6 / 0.064**2)
    assert found["nucleus_eccentricity"] == pytest.approx(np.sqrt(1 - 0.25), abs=0.03)


def test_touching_nuclei_are_parted():
    pair = tissue(0.5, [(30, 26.5), (30, 33.5)])
    assert nuclei(pair, mpp=0.5)["nuclei_per_mm2"][0] == pytest.approx(2 / 0.064**2)


def test_shapes_equal_regionprops():
    import sys

    module = sys.modules["c2lst.metrics._nuclei"]
    rng = np.random.default_rng(0)
    patch = tissue(0.5, rng.uniform(0, 64, (25, 2)), semi=(5.0, 3.0))
    density = haematoxylin(patch)[0]
    labels = module._segment(density, 0.5, 0.65)
    area, eccentricity, od = module._measure(labels, density, labels.max())
    props = regionprops(labels, intensity_image=density)
    assert len(props) == labels.max() > 5
    np.testing.assert_allclose(area, [p.area for p in props])
    np.testing.assert_allclose(eccentricity, [p.eccentricity for p in props], atol=1e-6)
    np.testing.assert_allclose(od, [p.intensity_mean for p in props], rtol=1e-5)


def test_edges_count_half():
    """A nucleus cut by an edge is counted on one of two sides, so tiles add up to the whole."""
    whole = tissue(0.5, [(y, x) for y in (16, 32, 48) for x in (16, 32, 48)])
    quarters = np.concatenate([whole[:, a : a + 64, b : b + 64] for a in (0, 64) for b in (0, 64)])
    count = nuclei(quarters, mpp=0.5)["nuclei_per_mm2"] * 0.032**2
    assert count.sum() == pytest.approx(9)
    assert nuclei(whole, mpp=0.5)["nuclei_per_mm2"][0] * 0.064**2 == pytest.approx(9)


def test_debris_and_nothing():
    found = nuclei(tissue(0.5, [(30, 30)], semi=(1.5, 1.5)), mpp=0.5).iloc[0]
    assert found["nuclei_per_mm2"] == 0
    assert np.isnan(found["nucleus_area_um2"])


def test_composition_columns_and_values():
    patches = np.concatenate([tissue(1.0, GRID), tissue(1.0, GRID[:4]), tissue(1.0, [])])
    found = composition(patches, mpp=1.0)
    assert list(found) == [
        *("haematoxylin_area", "haematoxylin_od", "haematoxylin_texture", "eosin_od"),
        *("nuclei_per_mm2", "nucleus_area_um2", "nucleus_eccentricity"),
    ]
    np.testing.assert_allclose(found["haematoxylin_area"], haematoxylin_area(patches))
    np.testing.assert_allclose(found["haematoxylin_od"], haematoxylin(patches).mean(axis=(1, 2)), rtol=1e-6)
    assert found["haematoxylin_area"][0] == pytest.approx(16 * np.pi * 16 / 64**2, rel=0.15)
    assert found["haematoxylin_texture"].is_monotonic_decreasing
    assert found["haematoxylin_texture"][2] == 0
    assert found["nuclei_per_mm2"].is_monotonic_decreasing
    assert "nuclei_per_mm2" not in composition(patches, mpp=2.0)


def test_texture_is_finer_than_staining():
    pale = np.full((1, 64, 64, 3), 230, dtype=np.uint8)
    slope = pale.copy()
    slope[0, :, 16:] = np.linspace(230, 150, 48)[None, :, None]  # staining that drifts over the patch
    grain = pale.copy()
    grain[0, ::2] = 150
    texture = composition(np.concatenate([pale, slope, grain]), mpp=2.0)["haematoxylin_texture"]
    assert texture[0] == pytest.approx(0, abs=1e-6)
    assert texture[2] > 5 * texture[1]


def test_errors():
    patch = tissue(1.0, [])
    with pytest.raises(ValueError, match="mpp"):
        nuclei(patch, mpp=0)
    with pytest.raises(TypeError, match="uint8"):
        composition(patch / 255, mpp=1.0)
