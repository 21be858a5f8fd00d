from __future__ import annotations

import gzip
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from c2lst._checks import check_choice, listing
from c2lst._keys import Key
from c2lst._notes import notes, record
from c2lst._settings import settings

from ._download import fetch, verify

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator, Sequence

    import pandas as pd
    from anndata import AnnData
    from numpy.typing import NDArray
    from spatialdata import SpatialData

COMMIT = "85df7411b987a7dec3feff9718b869a7a82091ec"
BASE = f"https://raw.githubusercontent.com/almaan/her2st/{COMMIT}/data"
SOURCE = {
    "citation": "Andersson et al., Spatial deconvolution of HER2-positive breast cancer delineates tumor-associated "
    "cell type interactions, Nat Commun 12, 6012 (2021)",
    "doi": "10.5281/zenodo.4751624",
    "licence": "CC BY 4.0",
    "commit": COMMIT,
}
PITCH_UM = 200.0  # of the legacy Spatial Transcriptomics array, centre to centre
SPOT_UM = 100.0  # diameter of a spot
LEVELS = 5  # of the image pyramid, each twice as coarse
CHUNK_PX = 1024


class Pinned(NamedTuple):
    """Where the image of a section lies, and the sha256 of its three files."""

    image: str
    image_sha256: str
    counts_sha256: str
    spots_sha256: str

    def files(self, section: str) -> list[tuple[str, str, str]]:
        """Return local name, path at the source and sha256 of image, counts and spots."""
        return [
            (f"{section}.jpg", f"ST-imgs/{self.image}", self.image_sha256),
            (f"{section}.tsv.gz", f"ST-cnts/{section}.tsv.gz", self.counts_sha256),
            (f"{section}_selection.tsv", f"ST-spotfiles/{section}_selection.tsv", self.spots_sha256),
        ]


SECTIONS = {
    "B4": Pinned(
        "B/B4/BT10737_D2_HE.jpg",
        "3cb165614ce2a13426381e450220dccac980cc9bda6a90fb041c28ca0e2c753d",
        "e38231c2a38c9bc7e6d550eec0e527c1869ee0e525fc913e708d1323c34f5ebb",
        "192b46f3ca414c85753a01a4fb5760a697ca6c0a1aadb949c4687cc6efa9faa0",
    ),
    "C2": Pinned(
        "C/C2/5714_HE_BT_C2.jpg",
        "26e2f73ae840cdd46c5bba405aae181f13a56a376b9848dff23f7a9c5de7f19e",
        "c1c59ea6cffae36b9ecb561b8e2a97e3aa5f4085f748e991a0e330ed9d09773d",
        "235b5f4306b3b57c628ffc82c98c7109602474fbcc79a917b9c50517f99b6b1c",
    ),
    "C3": Pinned(
        "C/C3/5714_HE_BT_D1.jpg",
        "0005a92674014d473040a28f0afca89ce5fa5c44019b479b638ceb3272ceb568",
        "e00c55a3eb9caac5d9c71b8906aae8be8b38f93e23938f4a0ebee17683ef6a2a",
        "7fd76c13370b7804ac3bb377b846d22485cf9223f9dd8dfc25be06e5aaf65755",
    ),
    "C4": Pinned(
        "C/C4/5714_HE_BT_D2.jpg",
        "f40607eb1d5f0d125decd71c48b0c5d29cf6776ad92297fd185631208c82d6f2",
        "33201f76d41d7131dc600a0f87d9a70383af3503e81698b4d11e6f2e8d73e9da",
        "47e79f3b9dbfa3a8c18af9e948ba7ba4bf0a75ea1b4c292bc714ced7d0917d4c",
    ),
    "C5": Pinned(
        "C/C5/5714_HE_BT_E1.jpg",
        "34028ea41e376396b50c42b0a11a7e689c85be4a8022e668d0a09cc128c04c65",
        "c0f310315ca6110d74dbdf7011e5b42432ba0b8eb5f001824764911988f39338",
        "2114cc3b4da759772112897f1e247d5443c9f8c808e6a9a952eb4fda379a194c",
    ),
    "C6": Pinned(
        "C/C6/5714_HE_BT_E2.jpg",
        "dddd87232589648861a9b6776dc1749be8306213f6589aeef0e805fb2b1ee263",
        "60478b0d2411501866685f41312c65c6591e499d64d5b719be8ee9bab25c9bc8",
        "efdbbc6759c6af43baa966505c31705f09c087c1dccf1ea3e0d1db7b55717117",
    ),
}


def her2st(
    section: str | Sequence[str], *, path: str | os.PathLike[str] | None = None
) -> SpatialData | list[SpatialData]:
    """HER2-positive human breast cancer, H&E and legacy Spatial Transcriptomics (Andersson et al. 2021, CC BY 4.0).

    Spots are 100 um across, 200 um apart; the image has about 0.688 um/px. C2 to C6 are serial sections of one tumour;
    B4 is of another patient, sequenced 15 times shallower.

    Parameters
    ----------
    section
        `"B4"`, `"C2"`, `"C3"`, `"C4"`, `"C5"` or `"C6"`, or a list of them.
    path
        Directory that holds `<section>.jpg`, `<section>.tsv.gz` and `<section>_selection.tsv`. `None` downloads them
        (about 5 MB a section, from a pinned commit) to `c2lst.settings.cache_dir / "her2st"`; a download that broke
        off is continued.

    Returns
    -------
    A :class:`~spatialdata.SpatialData`, or a list for a list, with the following elements:

    `images["image"]`
        Multiscale, uint8 `(c, y, x)`, held in memory (about 370 MB).
    `shapes["<section>_spots"]`
        Circles in pixels of the image, indexed by spot (`C2_10x21`).
    `tables["table"]`
        Counts of the spots that have both counts and a place in the image; `obs["array_row"]`, `obs["array_col"]`,
        `obsm["spatial"]` in pixels, `uns["c2lst"]["source_mpp"]` from the fit of those on the array, and
        `uns["c2lst_section"]`.
    `attrs`
        `c2lst_section`, `c2lst_source_mpp` and `c2lst_source` (citation, DOI, licence, commit).

    Raises
    ------
    ValueError
        If there is no such section, or a file is not the pinned one (sha256).
    FileNotFoundError
        If `path` lacks a file.
    ConnectionError
        If the download fails.

    Examples
    --------
    >>> import c2lst as c2l
    >>> sdata = c2l.datasets.her2st("C2")  # doctest: +SKIP
    >>> sdata["table"].n_obs  # doctest: +SKIP
    187
    """
    if isinstance(section, str):
        check_choice("section", section, SECTIONS)
        return _read(section, *_files(section, path))
    names = list(section)
    for name in names:
        check_choice("section", name, SECTIONS)
    return [_read(name, *_files(name, path)) for name in names]


def _files(section: str, path: str | os.PathLike[str] | None) -> list[Path]:
    """Return image, counts and spots as checked local files."""
    pinned = SECTIONS[section].files(section)
    if path is None:
        cache = settings.cache_dir / "her2st"
        return [fetch(f"{BASE}/{remote}", cache / local, digest) for local, remote, digest in pinned]
    folder = Path(path)
    if not folder.is_dir():
        raise FileNotFoundError(f"path={str(path)!r} is no directory; leave path= out to download section {section}.")
    missing = [local for local, _, _ in pinned if not (folder / local).is_file()]
    if missing:
        raise FileNotFoundError(
            f"{folder} lacks {listing(missing)} of section {section}; it has "
            f"{listing(sorted(p.name for p in folder.iterdir()))}. Leave path= out to download them."
        )
    for local, _, digest in pinned:
        verify(folder / local, digest)
    return [folder / local for local, _, _ in pinned]


def _read(section: str, image: Path, counts: Path, spots: Path) -> SpatialData:
    from spatialdata import SpatialData
    from spatialdata.models import ShapesModel
    from spatialdata.transformations import Identity

    table, source_mpp = _table(section, counts, spots)
    region = f"{section}_spots"
    circles = ShapesModel.parse(
        table.obsm[Key.obsm.SPATIAL],
        geometry=0,
        radius=SPOT_UM / 2 / source_mpp,
        index=table.obs["spot_id"].to_numpy(),
        transformations={"global": Identity()},
    )
    return SpatialData(
        images={"image": _image(image)},
        shapes={region: circles},
        tables={"table": table},
        attrs={Key.SECTION: section, "c2lst_source_mpp": source_mpp, "c2lst_source": dict(SOURCE)},
    )


def _table(section: str, counts: Path, spots: Path) -> tuple[AnnData, float]:
    """Return the table of spots with both counts and a place, and the scale of the image."""
    import pandas as pd
    from anndata import AnnData
    from scipy.sparse import csr_matrix
    from spatialdata.models import TableModel

    ids, genes, matrix = _read_counts(counts)
    place = pd.read_csv(spots, sep="\t")
    place.index = place["x"].astype(str) + "x" + place["y"].astype(str)
    rows = np.flatnonzero(np.isin(ids, place.index))
    place = place.loc[[ids[i] for i in rows]]
    names = pd.Index([f"{section}_{i}" for i in place.index])
    region = f"{section}_spots"
    obs = pd.DataFrame(
        {
            "region": pd.Categorical([region] * len(names)),
            "spot_id": names,
            "array_row": place["y"].to_numpy(),
            "array_col": place["x"].to_numpy(),
            "pixel_x": place["pixel_x"].to_numpy(),
            "pixel_y": place["pixel_y"].to_numpy(),
        },
        index=names,
    )
    table = AnnData(csr_matrix(matrix[rows]), obs=obs, var=pd.DataFrame(index=pd.Index(genes)))
    table.obsm[Key.obsm.SPATIAL] = place[["pixel_x", "pixel_y"]].to_numpy(dtype=float)
    source_mpp = _scale(place)
    table.uns[Key.SECTION] = section
    notes(table).update(source_mpp=source_mpp, source=dict(SOURCE))
    record(table, "her2st", section=section)
    return TableModel.parse(table, region=region, region_key="region", instance_key="spot_id"), source_mpp


def _read_counts(path: Path) -> tuple[list[str], list[str], NDArray[np.int32]]:
    """Read spots by genes; a quarter of the time that pandas takes for so many columns."""
    with gzip.open(path, "rt") as file:
        genes = file.readline().rstrip("\n").split("\t")[1:]
        lines = [line.split("\t", 1) for line in file if line.strip()]
    matrix = np.stack([np.fromstring(values, dtype=np.int32, sep="\t") for _, values in lines])
    return [name for name, _ in lines], genes, matrix


def _scale(place: pd.DataFrame) -> float:
    """Return um per pixel: the pitch of the array over its pitch in pixels, by least squares over all spots.

    Distances of neighbours would be too short, because printed spots jitter and the nearest is taken.
    """
    array = np.column_stack([place["x"], place["y"], np.ones(len(place))])
    fit = np.linalg.lstsq(array, place[["pixel_x", "pixel_y"]].to_numpy(dtype=float), rcond=None)[0]
    return float(PITCH_UM / np.sqrt(abs(np.linalg.det(fit[:2]))))


def _image(path: Path):
    """Decode the image and build its pyramid, means of 2 x 2 pixels."""
    import dask.array as da
    from PIL import Image
    from spatialdata.models import Image2DModel
    from spatialdata.transformations import Identity

    with _large_images(), Image.open(path) as file:
        picture = file.convert("RGB")
    chunks = (3, CHUNK_PX, CHUNK_PX)
    pyramid = []
    for k in range(LEVELS):
        if k:
            width, height = (side // 2 * 2 for side in picture.size)
            picture = picture.reduce(2, box=(0, 0, width, height))
        pixels = np.moveaxis(np.asarray(picture), -1, 0)
        pyramid.append(da.from_array(pixels, chunks=chunks, name=False))
    image = Image2DModel.parse(
        pyramid[0],
        dims=("c", "y", "x"),
        c_coords=["r", "g", "b"],
        scale_factors=[2] * (LEVELS - 1),
        chunks=chunks,
        transformations={"global": Identity()},
    )
    for k, level in enumerate(pyramid):  # computed once, instead of from level 0 at each reading
        image[f"scale{k}"]["image"].data = level
    return image


@contextmanager
def _large_images() -> Iterator[None]:
    """Let Pillow open images of 92 megapixels, for now: the files are pinned, the guard is for others."""
    from PIL import Image

    before = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = None
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = before
