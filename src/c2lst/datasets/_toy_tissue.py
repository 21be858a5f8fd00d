from __future__ import annotations

import os
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from c2lst._checks import check_positive
from c2lst._keys import Key
from c2lst._logging import progress as progress_bar
from c2lst._notes import notes, record

from ._toy_draw import BLOCK_PX, Painter
from ._toy_genes import draw_counts, genes
from ._toy_model import COMPARTMENTS, FACTORS, MARGIN_UM, PITCH_UM, ROW_UM, SPOT_UM, TISSUE_UM, Tissue

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray
    from spatialdata import SpatialData

LEVELS = 3  # of the image pyramid: 1, 2 and 4 times coarser


def toy_tissue(
    n_spots: int = 200,
    *,
    sections: int = 1,
    seed: int = 0,
    backed: str | os.PathLike | None = None,
    n_genes: int = 200,
    mpp: float = 1.0,
    nuclei: bool = False,
    name: str = "toy",
    progress: bool | None = None,
) -> SpatialData | list[SpatialData]:
    """Simulate sections of tissue, stained and sequenced, of which everything is known. Offline.

    Writes nothing (but `backed`). The same arguments give the same bytes; section `i` of a seed is the same whatever
    `sections` is. About 1.5 s for 200 spots on one core.

    Parameters
    ----------
    n_spots
        Spots of each section, exactly: the nearest to the middle of a hexagonal array of 55 um spots, 100 um apart
        (Visium). All lie on tissue.
    sections
        How many sections. They differ in layout, stain and depth; genes, loadings and palette are the same.
    seed
        Seed of layout, stain and counts.
    backed
        Path of a zarr store (a directory of stores `<name>0.zarr` ... for several sections) to draw into, chunk by
        chunk: memory is bounded by the chunk, not by the section. Pixels and counts are those of `backed=None`.
    n_genes
        Genes. A quarter are noise.
    mpp
        Microns per pixel of the image at full resolution.
    nuclei
        Add the true nuclei as points `"nuclei"`: `x`, `y` (px), `area_um2`, `eccentricity`, `haematoxylin_od`.
    name
        Sections are named `<name>0`, `<name>1` ...
    progress
        Show a progress bar while a `backed` image is drawn; `None` follows `c2lst.settings.progress`.

    Returns
    -------
    One :class:`~spatialdata.SpatialData`, or a list of them if `sections` is above 1. Each holds, all in `"global"`:

    - `images["image"]`: uint8 `(3, y, x)`, chunks of 512 px, three levels (1, 2 and 4 times coarser).
    - `shapes["spots"]`: circles, radius 27.5 um, in px.
    - `tables["table"]`: `X` counts (CSR, int32); `obs`: `array_row`, `array_col`, `n_nuclei` (centres of nuclei in the
      spot); `var`: `program`, `baseline`, `dispersion`, `loading_<factor>`; `obsm["spatial"]` in px of full resolution;
      `obsm["factors"]` and `obsm["compartments"]`, data frames (see Notes).
    - `uns["c2lst_section"]`, `attrs["c2lst_section"]`: the name; `uns["c2lst"]["source_mpp"]`,
      `attrs["c2lst_source_mpp"]`: `mpp`.

    Raises
    ------
    ValueError
        If a number is out of range or `backed` exists already.
    TypeError
        If a count is no whole number.

    Notes
    -----
    *Tissue.* Gaussian random fields `z` of position (variance 1, correlation `exp(-d^2 / 2 l^2)`, `l` of 95 to 170 um)
    lay out four compartments by a softmax: tumour, stroma, lymphoid, fat; lumens of glands are cut out of the tumour
    where a finer field (`l` = 21 um) passes a threshold that falls with a slow one. The five fractions `p` sum to 1
    everywhere and follow smooth, ragged borders.

    *Nuclei* are placed by thinning a jittered hexagonal lattice (one place every 8 um) to the local density

    - density (per mm2) = (4600, 1700, 8200, 350, 40) . p x exp(0.45 z), up to 1.8 times denser around lumens,
      14,844 at most;
    - log radius (um) = log(4.7, 3.1, 3.1, 2.9, 4.2) . p + 0.15 z, sd between nuclei 0.10 to 0.20;
    - log of long over short axis = (0.24, 1.0, 0.06, 0.9, 0.24) . p + 0.2 z, sd 0.12, along the fibres in stroma;
    - log haematoxylin OD (base e) = log(1.15, 1.3, 1.5, 1.25, 1.15) . p + 0.13 z, sd 0.12,

    with a `z` each, for tumour, stroma, lymphoid, fat, lumen in this order.

    *Factors* of a spot (`obsm["factors"]`) are means over its disc (61 points; `<>` below):
    `nuclear_density` = (log <density> - log 3000) / 0.7, `nuclear_size` = (<log radius> - log 3.8) / 0.25,
    `nuclear_elongation` = (<log axes ratio> - 0.5) / 0.35, `nuclear_stain` = <z> of the OD, and the five fractions
    <p> (`obsm["compartments"]` has these five alone). The constants do not depend on the section.

    *Genes.* Programs DENS, SIZE, ELON, CHRO, TUMR, STRM, LYMP, FATT, LUMN load on the nine factors in that order, each
    gene on its own factor with 0.5 to 1.3 times the program's scale (0.75, 0.5, 0.5, 0.6, 1.4, 1.4, 1.8, 1.8, 4) and on
    the others with N(0, 0.04); NOISE genes load on none. log rate = baseline + loadings . factors.
    Rates of the program genes are divided by their sum, so that they make 75 % of the expected counts of every spot;
    noise genes make 25 %, with constant shares. Counts are negative binomial: mean = share x depth, variance = mean +
    mean^2 / dispersion (about 6). log depth = log 4000 + N(0, 0.2) of the section + N(0, 0.25) of the spot.

    *Stain.* Pixels = glass x exp(-(H h + E e)) + N(0, 1.6), by Beer and Lambert: `h` is the darkest nucleus over the
    pixel or the basophilic cytoplasm, `e` eosin of cytoplasm, fibres and the membranes of fat cells. Each section
    varies the two stain vectors (4 %), their strength (10 %) and the colour of the glass: the batch effect.

    Examples
    --------
    >>> import c2lst as c2l
    >>> sdata = c2l.datasets.toy_tissue(30)
    >>> sdata["table"].shape
    (30, 200)
    >>> sdata["table"].obsm["factors"].shape
    (30, 9)
    >>> [s.attrs["c2lst_section"] for s in c2l.datasets.toy_tissue(10, sections=2)]
    ['toy0', 'toy1']
    """
    check_positive("n_spots", n_spots, integer=True)
    check_positive("sections", sections, integer=True)
    check_positive("seed", seed, integer=True, zero=True)
    check_positive("n_genes", n_genes, integer=True)
    check_positive("mpp", mpp)
    paths = [None] * sections
    if backed is not None:
        backed = Path(backed)
        paths = [backed] if sections == 1 else [backed / f"{name}{i}.zarr" for i in range(sections)]
        for path in paths:
            if path.exists():
                raise ValueError(
                    f"backed={str(path)!r} exists already; read it with `spatialdata.read_zarr`, or remove it."
                )
    made = [
        _section(
            i,
            n_spots=n_spots,
            seed=seed,
            path=path,
            n_genes=n_genes,
            mpp=float(mpp),
            nuclei=nuclei,
            name=name,
            show=progress,
        )
        for i, path in enumerate(paths)
    ]
    return made[0] if sections == 1 else made


def _section(
    index: int,
    *,
    n_spots: int,
    seed: int,
    path: Path | None,
    n_genes: int,
    mpp: float,
    nuclei: bool,
    name: str,
    show: bool | None,
) -> SpatialData:
    from spatialdata import SpatialData

    array, centres, size_um = _spots(n_spots)
    tissue = Tissue(seed, index, centres, size_um)
    section = f"{name}{index}"
    table = _table(tissue, section, array, centres, n_genes, mpp)
    record(table, "toy_tissue", n_spots=n_spots, seed=seed, section=index, n_genes=n_genes, mpp=mpp)
    step = 2 ** (LEVELS - 1)
    width, height = (int(np.ceil(s / mpp / step)) * step for s in size_um)
    painter = Painter(tissue, mpp)
    levels = [np.zeros((3, height >> k, width >> k), np.uint8) for k in range(LEVELS)] if path is None else None
    if levels is not None:
        _paint(painter, levels)
    elements = {
        "image": _image(levels, height, width),
        "spots": _circles(centres / mpp, SPOT_UM / 2 / mpp),
        "table": table,
    }
    if nuclei:
        elements["nuclei"] = _nuclei(tissue, mpp)
    sdata = SpatialData.init_from_elements(elements, attrs={Key.SECTION: section, "c2lst_source_mpp": mpp})
    return sdata if path is None else _write(sdata, painter, path, show)


def _spots(n_spots: int) -> tuple[NDArray, NDArray, tuple[float, float]]:
    """Array indices (row, col), centres (um) and the size of the image (um) of the `n_spots` nearest to the middle."""
    side = int(np.ceil(np.sqrt(n_spots * PITCH_UM * ROW_UM) / ROW_UM)) + 4
    row, col = (a.ravel() for a in np.mgrid[:side, : 2 * side])
    even = (row + col) % 2 == 0
    at = np.stack([row[even], col[even]], axis=1)
    xy = np.stack([at[:, 1] * PITCH_UM / 2, at[:, 0] * ROW_UM], axis=1)
    # the middle of a spot near the middle of the array, nudged so that no two spots are equally far
    centre = xy[np.argmin(np.abs(xy - (xy.min(axis=0) + xy.max(axis=0)) / 2).sum(axis=1))] + (1.37, 2.11)
    far = (((xy - centre) / 100.0) ** 4).sum(axis=1)
    keep = np.sort(np.argsort(far, kind="stable")[:n_spots])
    at, xy = at[keep], xy[keep]
    at = at - [at[:, 0].min() // 2 * 2, at[:, 1].min() // 2 * 2]
    xy = xy - xy.min(axis=0) + TISSUE_UM + MARGIN_UM
    size = xy.max(axis=0) + TISSUE_UM + MARGIN_UM
    return at, xy, (float(size[0]), float(size[1]))


def _table(tissue: Tissue, section: str, array: NDArray, centres: NDArray, n_genes: int, mpp: float) -> AnnData:
    from anndata import AnnData
    from spatialdata.models import TableModel

    factors, fractions = tissue.spots(centres)
    var = genes(n_genes)
    names = pd.Index([f"{section}_{r}x{c}" for r, c in array])
    obs = pd.DataFrame(
        {
            "region": pd.Categorical(["spots"] * len(names)),
            "spot_id": np.arange(len(names)),
            "array_row": array[:, 0],
            "array_col": array[:, 1],
            "in_tissue": 1,
            "n_nuclei": tissue.count(centres),
        },
        index=names,
    )
    table = AnnData(draw_counts(var, factors, *tissue.key), obs=obs, var=var)
    table.obsm["spatial"] = centres / mpp
    table.obsm["factors"] = pd.DataFrame(factors, index=names, columns=list(FACTORS))
    table.obsm["compartments"] = pd.DataFrame(fractions, index=names, columns=list(COMPARTMENTS))
    table.uns[Key.SECTION] = section
    notes(table)["source_mpp"] = mpp
    return TableModel.parse(table, region="spots", region_key="region", instance_key="spot_id")


def _circles(centres: NDArray, radius: float):
    from spatialdata.models import ShapesModel
    from spatialdata.transformations import Identity

    return ShapesModel.parse(
        centres, geometry=0, radius=radius, index=np.arange(len(centres)), transformations={"global": Identity()}
    )


def _nuclei(tissue: Tissue, mpp: float):
    from spatialdata.models import PointsModel
    from spatialdata.transformations import Identity

    found = tissue.nuclei(0, 0, *tissue.size_um)
    frame = pd.DataFrame(
        {
            "x": found.x / mpp,
            "y": found.y / mpp,
            "area_um2": np.pi * found.a * found.b,
            "eccentricity": np.sqrt(1 - (found.b / found.a) ** 2),
            "haematoxylin_od": found.stain,
        }
    )
    return PointsModel.parse(frame, transformations={"global": Identity()})


def _image(levels: list[NDArray] | None, height: int, width: int):
    """Make the multiscale image, of arrays or (to be filled on disk) of zeros."""
    import dask.array as da
    from spatialdata.models import Image2DModel
    from spatialdata.transformations import Identity

    chunks = (3, BLOCK_PX, BLOCK_PX)
    image = Image2DModel.parse(
        da.zeros((3, height, width), dtype=np.uint8, chunks=chunks),
        dims=("c", "y", "x"),
        c_coords=["r", "g", "b"],
        scale_factors=[2] * (LEVELS - 1),
        chunks=chunks,
        transformations={"global": Identity()},
    )
    for k in range(LEVELS):
        shape = (3, height >> k, width >> k)
        pixels = (
            da.zeros(shape, dtype=np.uint8, chunks=chunks)
            if levels is None
            else da.from_array(levels[k], chunks=chunks)
        )
        image[f"scale{k}"]["image"].data = pixels
    return image


def _paint(painter: Painter, levels: list, show: bool | None = False) -> None:
    """Fill the pyramid, block by block; `levels` are anything that takes `[:, y0:y1, x0:x1] = pixels`."""
    _, height, width = levels[0].shape
    corners = [(y, x) for y in range(0, height, BLOCK_PX) for x in range(0, width, BLOCK_PX)]
    for y, x in progress_bar(corners, desc="toy_tissue", show=show, unit="block"):
        h, w = min(BLOCK_PX, height - y), min(BLOCK_PX, width - x)
        pixels = painter.block(y // BLOCK_PX, x // BLOCK_PX, h, w).transpose(2, 0, 1)
        for k, level in enumerate(levels):
            if k:  # the mean of 2 x 2 pixels, rounded
                s = pixels.astype(np.uint16)
                s = s[:, ::2, ::2] + s[:, 1::2, ::2] + s[:, ::2, 1::2] + s[:, 1::2, 1::2]
                pixels = ((s + 2) // 4).astype(np.uint8)
            level[:, y >> k : (y + h) >> k, x >> k : (x + w) >> k] = pixels


def _write(sdata: SpatialData, painter: Painter, path: Path, show: bool | None) -> SpatialData:
    """Write the section with an image of zeros, then fill that image chunk by chunk; a broken run leaves no store."""
    import zarr
    from spatialdata import SpatialData

    path.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as part:
        store = Path(part) / path.name
        sdata.write(store)
        group = zarr.open_group(store / "images" / "image", mode="r+")
        stored = group.attrs.get("ome", group.attrs)["multiscales"][0]["datasets"]
        _paint(painter, [group[d["path"]] for d in stored], show)
        store.rename(path)
    return SpatialData.read(path)
