from __future__ import annotations

import gzip
import hashlib
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import spatialdata as sd
from PIL import Image
from scipy.sparse import isspmatrix_csr
from spatialdata.models import get_axes_names

import c2lst as c2l
from c2lst.datasets import _her2st as module

SPOTS = {"B4": 283, "C2": 187, "C3": 180, "C4": 184, "C5": 181}
PITCH_PX = 80.0


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A small section in the files of the real ones: 30 spots, of which two lack counts and one lacks a place."""
    folder = tmp_path_factory.mktemp("made")
    rng = np.random.default_rng(0)
    x, y = (a.ravel() for a in np.meshgrid(np.arange(6) + 3, np.arange(5) + 2))
    px, py = (x - 2) * PITCH_PX, (y - 1) * PITCH_PX
    image = rng.integers(0, 256, (501, 603, 3), dtype=np.uint8)
    Image.fromarray(image).save(folder / "C2.jpg", quality=95)
    lines = ["x\ty\tnew_x\tnew_y\tpixel_x\tpixel_y\tselected"]
    lines += [f"{a}\t{b}\t{a}\t{b}\t{c}\t{d}\t1" for a, b, c, d in zip(x, y, px, py, strict=True)]
    (folder / "C2_selection.tsv").write_text("\n".join(lines[:-1]) + "\n")
    ids = [f"{a}x{b}" for a, b in zip(x, y, strict=True)][2:]
    order = rng.permutation(len(ids))
    counts = rng.poisson(0.7, (len(ids), 7))
    text = "\t" + "\t".join(f"G{g}" for g in range(7)) + "\n"
    text += "".join(f"{ids[i]}\t" + "\t".join(map(str, counts[i])) + "\n" for i in order)
    (folder / "C2.tsv.gz").write_bytes(gzip.compress(text.encode(), mtime=0))
    return folder, dict(zip(ids, counts, strict=True))


@pytest.fixture
def pinned(made, monkeypatch):
    """The made section stands in the table of pinned files."""
    folder = made[0]
    digests = [
        hashlib.sha256((folder / f).read_bytes()).hexdigest() for f in ("C2.jpg", "C2.tsv.gz", "C2_selection.tsv")
    ]
    monkeypatch.setattr(module, "SECTIONS", {"C2": module.Pinned("C/C2/some.jpg", *digests)})
    return folder


@pytest.fixture
def source(pinned, tmp_path, monkeypatch):
    """A local server that has the files where the pinned repository has them."""
    root = tmp_path / "source"
    for local, remote, _ in module.SECTIONS["C2"].files("C2"):
        (root / remote).parent.mkdir(parents=True, exist_ok=True)
        (root / remote).write_bytes((pinned / local).read_bytes())

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=root))
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(module, "BASE", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(c2l.settings, "cache_dir", tmp_path / "cache")
    yield root
    server.shutdown()
    server.server_close()


def test_spots_with_both_counts_and_place(pinned, made):
    table = c2l.datasets.her2st("C2", path=pinned)["table"]
    assert table.shape == (27, 7)
    assert isspmatrix_csr(table.X)
    assert np.issubdtype(table.X.dtype, np.integer)
    for name, row in zip(table.obs_names, table.X.toarray(), strict=True):
        spot = name.removeprefix("C2_")
        np.testing.assert_array_equal(row, made[1][spot])
        x, y = map(int, spot.split("x"))
        assert tuple(table.obs.loc[name, ["array_row", "array_col"]]) == (y, x)
        at = table.obsm["spatial"][table.obs_names.get_loc(name)]
        np.testing.assert_allclose(at, [(x - 2) * PITCH_PX, (y - 1) * PITCH_PX])


def test_scale(pinned):
    sdata = c2l.datasets.her2st("C2", path=pinned)
    assert sdata.attrs["c2lst_source_mpp"] == pytest.approx(200 / PITCH_PX)
    assert sdata["table"].uns["c2lst"]["source_mpp"] == pytest.approx(200 / PITCH_PX)
    np.testing.assert_allclose(sdata["C2_spots"]["radius"], 50 / (200 / PITCH_PX))


def test_elements_and_notes(pinned):
    sdata = c2l.datasets.her2st("C2", path=pinned)
    table = sdata["table"]
    assert sdata.attrs["c2lst_section"] == table.uns["c2lst_section"] == "C2"
    for source in (sdata.attrs["c2lst_source"], table.uns["c2lst"]["source"]):
        assert source["licence"] == "CC BY 4.0"
        assert "Andersson" in source["citation"]
    assert list(sdata["C2_spots"].index) == list(table.obs["spot_id"])
    joined, matched = sd.join_spatialelement_table(sdata=sdata, spatial_element_names="C2_spots", table_name="table")
    assert matched.n_obs == len(joined["C2_spots"]) == table.n_obs


def test_image_pyramid(pinned):
    image = c2l.datasets.her2st("C2", path=pinned)["image"]
    assert get_axes_names(image) == ("c", "y", "x")
    levels = [image[f"scale{k}"]["image"] for k in range(module.LEVELS)]
    assert levels[0].shape == (3, 501, 603)
    assert all(level.dtype == np.uint8 and level.chunks is not None for level in levels)
    with Image.open(pinned / "C2.jpg") as file:
        pixels = np.asarray(file)
    np.testing.assert_array_equal(levels[0].transpose("y", "x", "c").to_numpy(), pixels)
    half = pixels[:500, :602].reshape(250, 2, 301, 2, 3).mean(axis=(1, 3))
    assert np.abs(levels[1].transpose("y", "x", "c").to_numpy() - half).max() <= 0.5


def test_lists(pinned):
    assert [type(s).__name__ for s in c2l.datasets.her2st(["C2"], path=pinned)] == ["SpatialData"]
    with pytest.raises(ValueError, match=r"section='D1' is not known; choose one of \['C2'\]"):
        c2l.datasets.her2st(["C2", "D1"], path=pinned)


def test_limit_of_pillow_is_left_alone(pinned, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    c2l.datasets.her2st("C2", path=pinned)
    assert Image.MAX_IMAGE_PIXELS == 1000


def test_wrong_local_file(pinned, tmp_path):
    for name in ("C2.jpg", "C2.tsv.gz", "C2_selection.tsv"):
        (tmp_path / name).write_bytes((pinned / name).read_bytes())
    (tmp_path / "C2_selection.tsv").write_bytes(b"x\ty\n")
    found = hashlib.sha256(b"x\ty\n").hexdigest()
    expected = module.SECTIONS["C2"].spots_sha256
    with pytest.raises(ValueError, match=f"C2_selection.tsv.*{found}.*{expected}"):
        c2l.datasets.her2st("C2", path=tmp_path)


def test_missing_local_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"lacks \['C2.jpg', 'C2.tsv.gz', 'C2_selection.tsv'\]"):
        c2l.datasets.her2st("C2", path=tmp_path)
    with pytest.raises(FileNotFoundError, match="no directory"):
        c2l.datasets.her2st("C2", path=tmp_path / "nowhere")


def test_downloads_into_the_cache_and_works_offline_afterwards(source, monkeypatch):
    first = c2l.datasets.her2st("C2")
    cache = c2l.settings.cache_dir / "her2st"
    assert sorted(p.name for p in cache.iterdir()) == ["C2.jpg", "C2.tsv.gz", "C2_selection.tsv"]
    monkeypatch.setattr(module, "BASE", "http://127.0.0.1:9")
    again = c2l.datasets.her2st("C2")
    assert (first["table"].X != again["table"].X).nnz == 0


def test_download_of_a_changed_file_is_refused(source):
    (source / "ST-cnts" / "C2.tsv.gz").write_bytes(b"changed")
    with pytest.raises(ValueError, match=f"ST-cnts/C2.tsv.gz.*{module.SECTIONS['C2'].counts_sha256}"):
        c2l.datasets.her2st("C2")
    assert not (c2l.settings.cache_dir / "her2st" / "C2.tsv.gz").exists()


def test_write_read_and_combine(pinned, tmp_path):
    sdata = c2l.datasets.her2st("C2", path=pinned)
    sdata.write(tmp_path / "C2.zarr")
    back = sd.read_zarr(tmp_path / "C2.zarr")
    assert back.attrs["c2lst_section"] == "C2"
    assert back["table"].uns["c2lst"]["source_mpp"] == sdata["table"].uns["c2lst"]["source_mpp"]
    assert (back["table"].X != sdata["table"].X).nnz == 0
    for k in range(module.LEVELS):
        a, b = (s["image"][f"scale{k}"]["image"].to_numpy() for s in (back, sdata))
        np.testing.assert_array_equal(a, b)
    both = sd.concatenate({"one": sdata, "two": sdata}, concatenate_tables=True)
    assert both["table"].n_obs == 2 * sdata["table"].n_obs


def test_pinned_table():
    real = module.SECTIONS
    assert sorted(real) == ["B4", "C2", "C3", "C4", "C5", "C6"]
    digests = [d for s, p in real.items() for _, _, d in p.files(s)]
    assert len(set(digests)) == 18
    assert all(len(d) == 64 and int(d, 16) for d in digests)
    assert module.BASE.startswith("https://") and module.COMMIT in module.BASE


@pytest.fixture(scope="module")
def c2(her2st_dir):
    return c2l.datasets.her2st("C2", path=her2st_dir)


@pytest.mark.her2st
@pytest.mark.parametrize("section", ["B4", "C3", "C4", "C5"])
def test_real_tables(section, her2st_dir):
    table, mpp = module._table(section, her2st_dir / f"{section}.tsv.gz", her2st_dir / f"{section}_selection.tsv")
    assert table.n_obs == SPOTS[section]
    assert mpp == pytest.approx(0.688, rel=0.01)
    assert table.var_names.is_unique


@pytest.mark.her2st
def test_real_section(c2):
    table, image = c2["table"], c2["image"]["scale0"]["image"]
    assert table.n_obs == SPOTS["C2"]
    assert c2.attrs["c2lst_source_mpp"] == pytest.approx(0.688, rel=0.01)
    assert c2["C2_spots"]["radius"].iloc[0] == pytest.approx(72.7, rel=0.01)
    assert np.median(np.asarray(table.X.sum(axis=1))) == pytest.approx(10_000, rel=0.3)
    xy = table.obsm["spatial"]
    assert (xy > 0).all()
    assert (xy < [image.sizes["x"], image.sizes["y"]]).all()


@pytest.mark.her2st
def test_real_tissue_lies_under_the_spots(c2):
    level = c2["image"]["scale3"]["image"].transpose("y", "x", "c").to_numpy().astype(float).mean(axis=2)
    xy = (c2["table"].obsm["spatial"] / 8).astype(int)
    under = np.mean([level[y - 9 : y + 9, x - 9 : x + 9].mean() for x, y in xy])
    margin = np.concatenate([level[:40].ravel(), level[-40:].ravel(), level[:, :40].ravel(), level[:, -40:].ravel()])
    assert under < np.median(margin) - 30


@pytest.mark.her2st
def test_real_section_is_written_and_read_back(c2, tmp_path):
    c2.write(tmp_path / "C2.zarr")
    back = sd.read_zarr(tmp_path / "C2.zarr")
    assert list(back["table"].obs_names) == list(c2["table"].obs_names)
    np.testing.assert_allclose(back["C2_spots"].geometry.x, c2["table"].obsm["spatial"][:, 0])
    crop = (slice(None), slice(4000, 4100), slice(4000, 4100))
    a, b = (s["image"]["scale0"]["image"][crop].to_numpy() for s in (back, c2))
    np.testing.assert_array_equal(a, b)
