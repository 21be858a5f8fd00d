"""Where things lie: the image meant, shapes -> coordinate system -> image as one affine, rows of a table -> shapes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from c2lst._checks import listing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData
    from numpy.typing import NDArray
    from spatialdata import SpatialData

TOLERANCE = 1e-3  # of rotation and anisotropy, relative


@dataclass(frozen=True)
class Placement:
    """One set of shapes in one image: image pixel (level 0) = `scale` * shape unit + `offset`, for x and y."""

    image_key: str
    coordinate_system: str
    scale: float
    offset: tuple[float, float]

    def pixels(self, xy: NDArray[np.float64]) -> NDArray[np.float64]:
        """Map positions `(n, 2)` x, y in units of the shapes to pixels of the image at full resolution."""
        return xy * self.scale + np.asarray(self.offset)


def find_image(
    sdata: SpatialData, image_key: str | None, systems: set[str] | None, what: str, regions: Sequence[str] = ()
) -> str:
    """Return the image meant: the one named, or the only one in the coordinate `systems` (None: in any)."""
    if image_key is not None:
        if image_key not in sdata.images:
            raise KeyError(f"The SpatialData has no image {image_key!r}; it has {listing(sdata.images)}.")
        return image_key
    if not len(sdata.images):
        raise ValueError("The SpatialData has no image to cut patches from; add one, or read the data with its image.")
    found = [k for k in sdata.images if systems is None or systems & set(_transformations(sdata.images[k]))]
    if not found:
        where = {k: sorted(_transformations(sdata.images[k])) for k in sdata.images}
        raise ValueError(
            f"No image shares a coordinate system with {what}: that lies in {sorted(systems or ())}, the images in "
            f"{where}. Align them with `spatialdata.transformations.set_transformation`."
        )
    if len(found) > 1:
        each = f", or one for each region: image_key={dict.fromkeys(regions, '...')}" if len(regions) > 1 else ""
        raise ValueError(f"Several images fit {what}: {listing(found)}; name one with image_key={each}.")
    return found[0]


def check_system(sdata: SpatialData, coordinate_system: str | None) -> None:
    """Raise `KeyError` if the coordinate system is not there."""
    if coordinate_system is not None and coordinate_system not in sdata.coordinate_systems:
        raise KeyError(
            f"The SpatialData has no coordinate system {coordinate_system!r}; it has "
            f"{listing(sdata.coordinate_systems)}. Pass one of them as coordinate_system=, or none."
        )


def place(
    sdata: SpatialData,
    shapes_key: str,
    image_key: str | None,
    coordinate_system: str | None,
    regions: Sequence[str] = (),
) -> Placement:
    """Compose shapes -> coordinate system -> image into one scale and offset; refuse what is more than that.

    `regions` are all that the call is about, for its messages.
    """
    check_system(sdata, coordinate_system)
    here = _transformations(sdata.shapes[shapes_key])
    what = f"the shapes {shapes_key!r}"
    if coordinate_system is not None and coordinate_system not in here:
        raise ValueError(f"{what} are not in the coordinate system {coordinate_system!r}; they are in {sorted(here)}.")
    asked = set(here) if coordinate_system is None else {coordinate_system}
    image_key = find_image(sdata, image_key, asked, what, regions)
    there = _transformations(sdata.images[image_key])
    shared = sorted(asked & set(there))
    if not shared:
        raise ValueError(
            f"{what} and the image {image_key!r} share no coordinate system: {sorted(here)} and {sorted(there)}. "
            "Align them with `spatialdata.transformations.set_transformation`."
        )
    found = {cs: np.linalg.inv(_matrix(there[cs])) @ _matrix(here[cs]) for cs in shared}
    first = found[shared[0]]
    for cs in shared[1:]:
        other = found[cs]
        size = np.sqrt(abs(np.linalg.det(first[:2, :2])))
        if np.abs(other[:2, :2] - first[:2, :2]).max() > TOLERANCE * size or np.abs(other - first)[:2, 2].max() > 1:
            raise ValueError(
                f"{what} lie elsewhere in the image {image_key!r} through the coordinate system {cs!r} than through "
                f"{shared[0]!r}; name the right one with coordinate_system=, one of {listing(shared)}."
            )
    scale, offset = _simple(first, what, image_key)
    return Placement(image_key, shared[0], scale, offset)


def _simple(m: NDArray[np.float64], what: str, image_key: str) -> tuple[float, tuple[float, float]]:
    (a, b), (c, d) = m[:2, :2]
    size = np.sqrt(abs(a * d - b * c))
    if not np.isfinite(m).all() or size == 0:
        raise ValueError(f"The transformation of {what} into the image {image_key!r} is not invertible: {m.tolist()}.")
    mend = "Bring them onto the pixel grid of the image first, e.g. with `spatialdata.transform`."
    if a <= 0 or d <= 0 or max(abs(b), abs(c)) > TOLERANCE * size:
        angle = np.degrees(np.arctan2(c, a))
        raise ValueError(
            f"{what} are rotated, sheared or mirrored against the image {image_key!r} (angle {angle:.2f} degrees, "
            f"matrix [[{a:.5g}, {b:.5g}], [{c:.5g}, {d:.5g}]]); patches are cut along the pixel grid. {mend}"
        )
    if abs(a - d) > TOLERANCE * size:
        raise ValueError(
            f"{what} are scaled differently along x ({a:.6g}) and y ({d:.6g}) in the image {image_key!r}; microns per "
            f"pixel would be two numbers. {mend}"
        )
    return float(size), (float(m[0, 2]), float(m[1, 2]))


def _transformations(element: Any) -> dict[str, Any]:
    from spatialdata.transformations import get_transformation

    return get_transformation(element, get_all=True)


def _matrix(transformation: Any) -> NDArray[np.float64]:
    return np.asarray(transformation.to_affine_matrix(("x", "y"), ("x", "y")), dtype=float)


def regions(table: AnnData, sdata: SpatialData) -> list[tuple[str, NDArray[np.int64], NDArray[np.float64]]]:
    """Align a table to its shapes by instance id: for each region its name, the rows, and x, y of the centres.

    Centres `(n_rows, 2)` are in units of the shapes; NaN where a row has no shape, or a shape no position.
    """
    attrs = table.uns.get("spatialdata_attrs")
    if not attrs:
        raise ValueError(
            "The table annotates no shapes (uns has no 'spatialdata_attrs'), so its rows have no place; call "
            "`spatialdata.models.TableModel.parse(table, region=..., region_key=..., instance_key=...)`."
        )
    region_key, instance_key = attrs["region_key"], attrs["instance_key"]
    for key in (region_key, instance_key):
        if key not in table.obs:
            raise KeyError(f"obs has no column {key!r}, which spatialdata_attrs names; it has {listing(table.obs)}.")
    of_row = table.obs[region_key].astype(str).to_numpy()
    out = []
    for name in dict.fromkeys(of_row):
        if name not in sdata.shapes:
            kind = next((k for k in ("points", "labels") if name in getattr(sdata, k)), None)
            more, fix = "", ""
            if kind:
                more = f" (it is in sdata.{kind}, which c2lst does not read)"
            if kind == "labels":
                to = f"{name}_circles"
                fix = (
                    f" Make circles of them: `sdata[{to!r}] = spatialdata.to_circles(sdata[{name!r}])`, `sdata[table_key].obs"
                    f"[{region_key!r}] = pandas.Categorical([{to!r}] * n_obs)`, `sdata.set_table_annotates_spatialelement("
                    f"table_key, {to!r}, {region_key!r}, {instance_key!r})`."
                )
            raise KeyError(
                f"The table annotates {name!r}, which is not among the shapes{more}; there are {listing(sdata.shapes)}.{fix}"
            )
        rows = np.flatnonzero(of_row == name)
        shapes = sdata.shapes[name]
        if not shapes.index.is_unique:
            raise ValueError(f"Instance ids of the shapes {name!r} come twice; give every shape an id of its own.")
        ids = table.obs[instance_key].to_numpy()[rows]
        at = shapes.index.get_indexer(ids)
        if (at < 0).all():
            raise ValueError(
                f"No row of the table finds its shape in {name!r}: obs[{instance_key!r}] has {listing(ids, 3)} "
                f"({ids.dtype}), the shapes are called {listing(shapes.index, 3)} ({shapes.index.dtype})."
            )
        centroid = shapes.geometry.centroid
        xy = np.column_stack([centroid.x.to_numpy(), centroid.y.to_numpy()]).astype(float)
        out.append((name, rows, np.where((at >= 0)[:, None], xy[at], np.nan)))
    return out
