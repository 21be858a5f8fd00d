from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from spatialdata import SpatialData
from spatialdata.models import Image2DModel, ShapesModel, TableModel
from spatialdata.transformations import Identity, Scale, Translation

PITCH, SIDE, MARGIN = 64, 32, 48  # px: centre to centre, painted square, first centre


def _picture(rows: int, cols: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A grey image with a square of its own colour around every spot; centres x, y and colours."""
    row, col = np.divmod(np.arange(rows * cols), cols)
    centres = np.column_stack([col, row]) * float(PITCH) + MARGIN
    colours = np.column_stack([40 + 37 * row, 250 - 29 * col, 20 + 11 * np.arange(rows * cols)]).astype(np.uint8)
    image = np.full((rows * PITCH + 32, cols * PITCH + 32, 3), 128, dtype=np.uint8)
    for (x, y), colour in zip(centres.astype(int), colours, strict=True):
        image[y - SIDE // 2 : y + SIDE // 2, x - SIDE // 2 : x + SIDE // 2] = colour
    return image.transpose(2, 0, 1), centres, colours


@pytest.fixture(scope="session")
def painted():
    """Build a section whose spots lie on painted squares of 32 px; 0.5 um per pixel unless told otherwise."""

    def build(
        *, layout="identity", rows=3, cols=4, scale_factors=None, chunks=None, name="s", source_mpp=0.5, image=None
    ):
        picture, centres, colours = _picture(rows, cols)
        picture = picture if image is None else image
        to_image, to_shapes, xy, radius = {"cs": Identity()}, {"cs": Identity()}, centres, 16.0
        if layout == "scale":  # shapes in um, the image scaled into um
            to_image, xy, radius = {"cs": Scale([0.5, 0.5], axes=("x", "y"))}, centres * 0.5, 8.0
        elif layout == "translation":  # the image is a crop that starts at (1000, 500)
            to_image, xy = {"cs": Translation([1000, 500], axes=("x", "y"))}, centres + [1000, 500]
        elif layout == "visium":  # full-resolution shapes, an image downscaled by 4
            hires = Scale([0.25, 0.25], axes=("x", "y"))
            to_image = {"cs_downscaled_hires": Identity(), "cs": hires.inverse()}
            to_shapes, xy, radius = {"cs": Identity(), "cs_downscaled_hires": hires}, centres * 4, 64.0
        names = [f"{name}_{i}" for i in range(len(xy))]
        row, col = np.divmod(np.arange(len(xy)), cols)
        obs = pd.DataFrame({"array_row": row, "array_col": col, "spot_id": np.arange(len(xy)) + 100}, index=names)
        obs["region"] = pd.Categorical([f"{name}_spots"] * len(xy))
        counts = np.random.default_rng(0).poisson(3, (len(xy), 6)).astype(np.float32)
        table = ad.AnnData(counts, obs=obs, var=pd.DataFrame(index=[f"G{i}" for i in range(6)]))
        table.obsm["spatial"] = centres.copy()
        parsed = Image2DModel.parse(
            picture,
            dims=("c", "y", "x"),
            c_coords=None if picture.shape[0] == 1 else list("rgba")[: picture.shape[0]],
            scale_factors=scale_factors,
            transformations=to_image,
            **({} if chunks is None else {"chunks": chunks}),
        )
        shapes = ShapesModel.parse(
            xy, geometry=0, radius=radius, index=obs["spot_id"].to_numpy(), transformations=to_shapes
        )
        sdata = SpatialData(
            images={f"{name}_image": parsed},
            shapes={f"{name}_spots": shapes},
            tables={
                "table": TableModel.parse(table, region=f"{name}_spots", region_key="region", instance_key="spot_id")
            },
        )
        sdata.attrs["c2lst_section"] = name
        if source_mpp is not None:
            sdata.attrs["c2lst_source_mpp"] = source_mpp
        return sdata, colours

    return build


@pytest.fixture(scope="session")
def fingerprint():
    """Everything a table holds, as something that can be compared."""

    def take(table: ad.AnnData) -> dict[str, str]:
        out = {"X": table.X.tobytes(), "names": tuple(table.obs_names)}
        for slot in ("obs", "var"):
            for key in getattr(table, slot):
                out[f"{slot}/{key}"] = getattr(table, slot)[key].astype(str).to_json()
        for key in table.obsm:
            out[f"obsm/{key}"] = np.asarray(table.obsm[key]).tobytes()
        for key in table.uns:
            out[f"uns/{key}"] = repr(table.uns[key])
        return out

    return take


@pytest.fixture(scope="session")
def genes():
    """Build a table of counts alone, with places on a square array of 100 px = 200 um (2 um per pixel)."""

    def build(n=100, n_genes=30, seed=0, name=None, shift=0):
        rng = np.random.default_rng(seed)
        rate = rng.gamma(1.0, 2.0, n_genes) * rng.gamma(2.0, 0.5, (n, n_genes))
        side = int(np.ceil(np.sqrt(n)))
        row, col = np.divmod(np.arange(n), side)
        obs = pd.DataFrame({"array_row": row, "array_col": col}, index=[f"{name or 'c'}{i}" for i in range(n)])
        var = pd.DataFrame(index=[f"G{i + shift}" for i in range(n_genes)])
        table = ad.AnnData(rng.poisson(rate).astype(np.float32), obs=obs, var=var)
        table.obsm["spatial"] = np.column_stack([col, row]) * 100.0
        if name:
            table.uns["c2lst_section"] = name
        return table

    return build
