from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

HERE = Path(__file__).parents[2] / "benchmarks" / "central"


@pytest.fixture
def evaluate(monkeypatch):
    if not HERE.is_dir():
        pytest.skip("the benchmarks are not part of an installed package")
    monkeypatch.syspath_prepend(str(HERE))
    import evaluate as module

    return module


def patches(n, seed):
    """Random blobs: no two alike, no symmetry."""
    from scipy.ndimage import gaussian_filter

    raw = np.random.default_rng(seed).normal(size=(n, 32, 32, 3))
    smooth = np.stack([gaussian_filter(p, (2, 2, 0)) for p in raw])
    return np.clip(170 + 150 * smooth, 0, 255).astype(np.uint8)


def test_judge(evaluate):
    assert evaluate.judge("kid", 0.2, 0.1) == (0.2, "yes")
    assert evaluate.judge("kid", 0.21, 0.1)[1] == "no"
    assert evaluate.judge("coverage", 0.79, 1.0) == (0.8, "no")
    assert evaluate.judge("reconstructed_nuclei", 0.96, 1.0)[1] == "yes"
    assert evaluate.judge("reconstructed_nuclei", 1.06, 1.0)[1] == "no"
    assert evaluate.judge("c2st", 1.0, 0.9)[1] == "no test"  # a limit of 1.05 cannot be missed
    assert evaluate.judge("frechet", 3.0, 1.0)[1] == ""


def test_audit_finds_copies_and_forgives_blur(evaluate):
    pool, fresh = patches(60, 0), patches(20, 1)
    near = evaluate.nearest([evaluate.pattern(t) for t in evaluate.turns(fresh)], evaluate.pattern(pool))
    copied = np.ascontiguousarray(np.rot90(pool[[7, 3]], 1, (1, 2))[:, :, ::-1])
    found = evaluate.nearest([evaluate.pattern(t) for t in evaluate.turns(copied)], evaluate.pattern(pool))
    assert found.index.tolist() == [7, 3] and found.distance.max() < 1e-3
    # a tenth of the contrast brings nothing nearer: in plain pixels it would
    pale = (fresh.mean(axis=(1, 2), keepdims=True) * 0.9 + fresh * 0.1).astype(np.uint8)
    faded = evaluate.nearest([evaluate.pattern(t) for t in evaluate.turns(pale)], evaluate.pattern(pool))
    assert np.median(faded.distance / near.distance) > 0.95
    assert evaluate.copies(copied, pool) == 2
    assert evaluate.copies(fresh, pool) == 0


def test_psnr_and_ratio(evaluate):
    real = np.full((4, 8, 8, 3), 100, dtype=np.uint8)
    assert evaluate.psnr(real + 10, real)[0] == pytest.approx(20 * np.log10(255 / 10))
    assert evaluate.ratio(np.full(5, 2.0), np.full(5, 4.0), 0) == (0.5, 0.0)


@pytest.fixture
def cross(monkeypatch):
    if not HERE.is_dir():
        pytest.skip("the benchmarks are not part of an installed package")
    monkeypatch.syspath_prepend(str(HERE))
    import cross as module

    return module


def test_restored_patches_are_held_against_sections_that_they_are_not_of(cross):
    draw = np.random.default_rng(0)
    # a section has a place of its own, and so has tissue that was never read
    real = {s: draw.normal(size=(300, 8)) + 3 * np.eye(8)[k] for k, s in enumerate("abc")}
    held = draw.normal(size=(100, 8)) + 3 * np.eye(8)[3]
    as_they_are = cross.figures(real, real, held, 0)
    assert set(as_they_are) == {"own", "a", "b", "c", "mean", cross.HELD}
    kid = {k: v for k, (v, _) in as_they_are.items()}
    # the three together are one population; one of them is none of the two others'
    assert 10 * abs(kid["own"]) < min(kid[s] for s in "abc")
    assert kid["mean"] == pytest.approx(np.mean([kid[s] for s in "abc"]))
    # what a decoder does to all of them alike is seen in each figure
    moved = cross.figures(real, {s: x + np.eye(8)[4] for s, x in real.items()}, held, 0)
    assert all(moved[k][0] > kid[k] + 0.1 for k in kid)
    # samples are of no section: all of them are held against each
    samples = cross.figures(real, np.concatenate(list(real.values())), held, 0)
    assert samples["a"][0] < kid["a"] / 2 and samples[cross.HELD] == as_they_are[cross.HELD]


def test_jpeg_loses_more_at_a_lower_quality(cross):
    some = patches(4, 0)
    lost = [np.abs(cross.as_jpeg(some, q).astype(int) - some).mean() for q in cross.JPEG]
    assert 0 < lost[0] < lost[1] < 5


@pytest.fixture
def transfer(monkeypatch):
    if not HERE.is_dir():
        pytest.skip("the benchmarks are not part of an installed package")
    monkeypatch.syspath_prepend(str(HERE))
    import transfer as module

    return module


def test_peak_is_what_a_block_held_at_most(transfer):
    with transfer.Peak() as peak:
        big = np.ones(8_000_000)  # 64 MB
        del big
    if not np.isfinite(peak.mb):
        pytest.skip("this system does not tell the peak of a process")
    assert 55 < peak.mb < 200


def test_from_scratch_says_nothing_at_first_and_random_weights_do(transfer):
    import torch

    import c2lst as c2l
    from c2lst import nn

    for denoiser in (
        nn.make_denoiser(kind="unet", latent_channels=4, latent_px=8, channels=(32, 32), layers=1),
        nn.make_denoiser(kind="dit", latent_channels=4, latent_px=8, width=32, depth=1, heads=2),
    ):
        tokenizer = nn.make_tokenizer(latent_channels=4, channels=(8, 8), patch_px=16)
        scheduler = c2l.models.CentralModel.from_pretrained("toy").scheduler
        central = c2l.models.CentralModel(tokenizer, denoiser, scheduler, mpp=2.0, patch_px=16)
        z, t = torch.randn(2, 4, 8, 8), torch.tensor([100.0, 500.0])
        with torch.no_grad():
            assert not nn.denoise(transfer.random_denoiser(central, 0, zero=True), z, t).any()
            assert nn.denoise(transfer.random_denoiser(central, 0, zero=False), z, t).std() > 1e-3
