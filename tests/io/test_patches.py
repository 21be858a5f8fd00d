from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import zarr

from c2lst import io
from c2lst._patches import get_patches, patch_meta
from c2lst.io._writer import PatchWriter


@pytest.fixture
def patches():
    return np.random.default_rng(0).integers(0, 256, (11, 8, 8, 3), dtype=np.uint8)


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr("c2lst.io._writer.CHUNK_BYTES", 3 * 8 * 8 * 3)  # three patches


def test_array_and_batches_give_one_store(patches, tmp_path, small_chunks):
    names = [f"spot-é{i}" for i in range(11)]
    io.write_patches(tmp_path / "a", patches, mpp=2.0, obs_names=names)
    io.write_patches(tmp_path / "b", (patches[i : i + 4] for i in range(0, 11, 4)), mpp=2.0, meta={"seed": 3})
    for path, wanted in (("a", names), ("b", [str(i) for i in range(11)])):
        stored = io.read_patches(tmp_path / path)
        assert stored.names == wanted
        assert stored.meta["mpp"] == 2.0
        assert stored.meta["patch_px"] == 8
        np.testing.assert_array_equal(np.asarray(stored.patches), patches)
    assert stored.meta["seed"] == 3
    assert zarr.open_group(tmp_path / "a", mode="r")["patches"].chunks == (3, 8, 8, 3)


def test_reading_is_lazy_and_indexes_like_numpy(patches, tmp_path):
    io.write_patches(tmp_path / "a", patches, mpp=2.0)
    got = io.read_patches(tmp_path / "a").patches
    assert (got.shape, got.dtype, got.ndim, len(got)) == ((11, 8, 8, 3), np.uint8, 4, 11)
    mask = np.arange(11) % 3 == 0
    for index in (
        4,
        -1,
        slice(2, 5),
        slice(None, None, -2),
        [5, 1, 5],
        mask,
        np.array([], int),
        (slice(1, 4), 2),
        (3, 1),
    ):
        np.testing.assert_array_equal(got[index], patches[index])


class Died(Exception):
    pass


def dying(patches):
    yield patches[:4]
    raise Died


def test_half_written_is_refused_and_can_go_on(patches, tmp_path, small_chunks):
    with pytest.raises(Died):
        io.write_patches(tmp_path / "a", dying(patches), mpp=2.0)
    with pytest.raises(ValueError, match="half written: 3 of"):
        io.read_patches(tmp_path / "a")
    with pytest.raises(ValueError, match="overwrite=True, or resume=True"):
        io.write_patches(tmp_path / "a", patches, mpp=2.0)
    with pytest.raises(ValueError, match="mpp=2.0 there, 1.0 here"):
        io.write_patches(tmp_path / "a", patches, mpp=1.0, resume=True)
    io.write_patches(tmp_path / "a", patches, mpp=2.0, resume=True)
    np.testing.assert_array_equal(io.read_patches(tmp_path / "a").patches[:], patches)
    io.write_patches(tmp_path / "a", patches[:5], mpp=1.0, overwrite=True)
    assert len(io.read_patches(tmp_path / "a").names) == 5


def test_the_mark_comes_last(patches, tmp_path):
    writer = PatchWriter(tmp_path / "a", [str(i) for i in range(11)], (8, 8, 3), {"mpp": 2.0})
    writer.append(patches[:10])
    with pytest.raises(ValueError, match="11 obs_names for 10 patches"):
        writer.close()
    with pytest.raises(ValueError, match="half written"):
        io.read_patches(tmp_path / "a")


@pytest.mark.parametrize(
    ("change", "kwargs", "error", "match"),
    [
        (lambda p: p.astype(float), {}, TypeError, "uint8"),
        (lambda p: p[..., :2], {}, ValueError, r"\(n, H, W, 3\)"),
        (lambda p: p, {"obs_names": ["a"]}, ValueError, "1 obs_names for 11"),
        (lambda p: p, {"obs_names": ["a"] * 11}, ValueError, "twice"),
        (lambda p: p, {"mpp": 0}, ValueError, "mpp"),
        (lambda p: iter(()), {}, ValueError, "no patch"),
    ],
)
def test_bad_input_leaves_no_store(patches, tmp_path, change, kwargs, error, match):
    with pytest.raises(error, match=match):
        io.write_patches(tmp_path / "a", change(patches), **{"mpp": 2.0, **kwargs})
    assert not (tmp_path / "a").exists()


def test_other_directories_are_never_touched(patches, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(ValueError, match="not a patch store"):
        io.write_patches(tmp_path / "mine", patches, mpp=2.0, overwrite=True)
    with pytest.raises(ValueError, match="not a zarr group"):
        io.read_patches(tmp_path / "mine")
    zarr.open_group(tmp_path / "other", mode="w")
    with pytest.raises(ValueError, match="not a patch store"):
        io.read_patches(tmp_path / "other")
    with pytest.raises(FileNotFoundError, match="no patch store"):
        io.read_patches(tmp_path / "nowhere")
    assert (tmp_path / "mine" / "thesis.txt").exists()


def test_get_patches_says_what_to_call(patches, tmp_path):
    table = ad.AnnData(np.ones((2, 1), np.float32), obs=pd.DataFrame(index=["a", "b"]))
    with pytest.raises(KeyError, match="extract_patches"):
        get_patches(table)
    with pytest.raises(KeyError, match="extract_patches"):
        patch_meta(table)
    io.write_patches(tmp_path / "p", patches[:2], mpp=2.0, obs_names=["b", "a"])
    table.uns["c2lst"] = {"patches": {"patches": {"mpp": 2.0, "store": str(tmp_path / "p")}}}
    np.testing.assert_array_equal(get_patches(table)[:], patches[[1, 0]])
    table.obs_names = ["a", "c"]
    with pytest.raises(KeyError, match="lacks 1 of 2 spots: .'c'."):
        get_patches(table)
    table.obsm["patches"] = np.zeros((2, 8, 8, 3))
    with pytest.raises(TypeError, match="uint8"):
        get_patches(table)


def test_a_store_is_replaced_by_what_was_read_from_it(patches, tmp_path, small_chunks):
    path = tmp_path / "p.zarr"
    io.write_patches(path, patches, mpp=2.0)
    old = io.read_patches(path)
    io.write_patches(path, old.patches, mpp=1.0, obs_names=old.names, overwrite=True)
    new = io.read_patches(path)
    np.testing.assert_array_equal(new.patches[:], patches)
    assert new.meta["mpp"] == 1.0
    assert [p.name for p in tmp_path.iterdir()] == ["p.zarr"]


def test_a_store_outlives_patches_that_cannot_replace_it(patches, tmp_path):
    path = tmp_path / "p.zarr"
    io.write_patches(path, patches, mpp=2.0)
    broken = (b for b in (patches[:4], patches[4:].astype(float)))
    for bad, error in ((patches.astype(float), TypeError), (broken, TypeError), ([], ValueError)):
        with pytest.raises(error):
            io.write_patches(path, bad, mpp=1.0, overwrite=True)
    np.testing.assert_array_equal(io.read_patches(path).patches[:], patches)
    assert [p.name for p in tmp_path.iterdir()] == ["p.zarr"]


def test_names_come_with_the_beginning_of_a_store(patches, tmp_path):
    def broken():
        yield patches[:4]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        io.write_patches(tmp_path / "p", broken(), mpp=2.0)
    with pytest.raises(ValueError, match="another specification"):
        io.write_patches(tmp_path / "p", patches, mpp=2.0, obs_names=[f"s{i}" for i in range(11)], resume=True)
