from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from c2lst._checks import check_positive
from c2lst._random import generator

from ._toy_model import PITCH_UM, ROW_UM
from ._toy_tissue import toy_tissue

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray

DIAMETER_UM = 65.0  # SpaceRanger writes the diameter of a theoretical spot, not the 55 um of the printed one
FIDUCIAL_UM = 105.0


def toy_spaceranger(
    path: str | os.PathLike, *, n_spots: int = 100, seed: int = 0, n_genes: int = 200, mpp: float = 1.0
) -> Path:
    """Write a simulated section as a folder such as SpaceRanger writes, and return its path.

    The section is `toy_tissue(n_spots, seed=seed, n_genes=n_genes, mpp=mpp)`. Written are

    - `filtered_feature_bc_matrix.h5`: counts, barcodes in the order of the section's spots;
    - `spatial/tissue_positions.csv`: all places of the array (`in_tissue` 0 beside the tissue), px rounded to integers;
    - `spatial/scalefactors_json.json`: `spot_diameter_fullres` is a theoretical 65 um, as SpaceRanger has it;
    - `spatial/tissue_hires_image.png` and `tissue_lowres_image.png`, 2 and 4 times coarser than full resolution;
    - `tissue_fullres_image.tif`.

    Nothing in the folder says how many microns a pixel measures: the pitch of the array does (100 um).

    Parameters
    ----------
    path
        Folder to make; it must be absent or empty.
    n_spots, seed, n_genes, mpp
        As in :func:`c2lst.datasets.toy_tissue`.

    Raises
    ------
    ValueError
        If the folder exists and is not empty, or a number is out of range.

    Examples
    --------
    >>> import tempfile
    >>> import c2lst as c2l
    >>> folder = c2l.datasets.toy_spaceranger(tempfile.mkdtemp(), n_spots=20)
    >>> sorted(p.name for p in folder.iterdir())
    ['filtered_feature_bc_matrix.h5', 'spatial', 'tissue_fullres_image.tif']

    To read it: `spatialdata_io.visium(folder, dataset_id="toy0", fullres_image_file="tissue_fullres_image.tif")`.
    """
    from PIL import Image

    check_positive("mpp", mpp)
    path = Path(path)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ValueError(f"path={str(path)!r} exists and is not an empty folder; name another one, or remove it.")
    sdata = toy_tissue(n_spots, seed=seed, n_genes=n_genes, mpp=mpp)
    table = sdata["table"]
    (path / "spatial").mkdir(parents=True, exist_ok=True)

    levels = [sdata["image"][f"scale{k}"]["image"].data.compute().transpose(1, 2, 0) for k in range(3)]
    Image.fromarray(levels[0]).save(path / "tissue_fullres_image.tif", compression="tiff_deflate")
    Image.fromarray(levels[1]).save(path / "spatial" / "tissue_hires_image.png")
    Image.fromarray(levels[2]).save(path / "spatial" / "tissue_lowres_image.png")
    scales = {
        "spot_diameter_fullres": DIAMETER_UM / mpp,
        "fiducial_diameter_fullres": FIDUCIAL_UM / mpp,
        "tissue_hires_scalef": 0.5,
        "tissue_lowres_scalef": 0.25,
    }
    (path / "spatial" / "scalefactors_json.json").write_text(json.dumps(scales))
    positions = _positions(table, mpp)
    positions.to_csv(path / "spatial" / "tissue_positions.csv", index_label="barcode")
    barcodes = positions.index[positions["in_tissue"] == 1]
    _write_counts(path / "filtered_feature_bc_matrix.h5", table, barcodes)
    return path


def _positions(table: AnnData, mpp: float) -> pd.DataFrame:
    """All places of the array about the section, in array order, by barcode."""
    array = table.obs[["array_row", "array_col"]].to_numpy()
    origin = table.obsm["spatial"][0] - array[0, ::-1] * (PITCH_UM / 2 / mpp, ROW_UM / mpp)
    row, col = (a.ravel() for a in np.mgrid[: array[:, 0].max() + 2, : array[:, 1].max() + 2])
    even = (row + col) % 2 == 0
    places = pd.DataFrame({"array_row": row[even], "array_col": col[even]})
    there = pd.MultiIndex.from_frame(places).isin(list(map(tuple, array)))
    places.insert(0, "in_tissue", there.astype(int))
    places["pxl_row_in_fullres"] = np.rint(origin[1] + places["array_row"] * ROW_UM / mpp).astype(int)
    places["pxl_col_in_fullres"] = np.rint(origin[0] + places["array_col"] * PITCH_UM / 2 / mpp).astype(int)
    places.index = pd.Index(_barcodes(len(places)))
    return places


def _barcodes(n: int) -> list[str]:
    """`n` barcodes of 16 letters in alphabetical order, always the same."""
    rng = generator(0, 10)
    letters = rng.integers(0, 4, (n, 16))
    # the first letters count upwards in base 4, so no two are equal
    width = max(1, int(np.ceil(np.log(max(n, 2)) / np.log(4))))
    letters[:, :width] = np.arange(n)[:, None] // 4 ** np.arange(width - 1, -1, -1) % 4
    return ["".join("ACGT"[i] for i in line) + "-1" for line in letters]


def _write_counts(path: Path, table: AnnData, barcodes: pd.Index) -> None:
    """Write the feature-barcode matrix, version 2 of the format: features by barcodes, compressed by barcode."""
    import h5py

    x = table.X.tocsr()

    def text(values) -> NDArray[np.bytes_]:
        return np.asarray(list(values), dtype="S")

    with h5py.File(path, "w") as f:
        f.attrs["filetype"] = "matrix"
        f.attrs["version"] = 2
        f.attrs["chemistry_description"] = "simulated"
        f.attrs["library_ids"] = text([table.uns["c2lst_section"]])
        matrix = f.create_group("matrix")
        matrix["barcodes"] = text(barcodes)
        matrix["data"] = x.data.astype(np.int32)
        matrix["indices"] = x.indices.astype(np.int64)
        matrix["indptr"] = x.indptr.astype(np.int64)
        matrix["shape"] = np.array([table.n_vars, table.n_obs], dtype=np.int32)
        features = matrix.create_group("features")
        features["id"] = text(f"TOYG{i:08d}" for i in range(table.n_vars))
        features["name"] = text(table.var_names)
        features["feature_type"] = text(["Gene Expression"] * table.n_vars)
        features["genome"] = text(["toy"] * table.n_vars)
        features["_all_tag_keys"] = text(["genome"])
