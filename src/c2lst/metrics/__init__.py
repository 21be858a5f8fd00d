"""Measures: arrays in, numbers out."""

from __future__ import annotations

from ._c2st import c2st
from ._composition import composition
from ._density_coverage import density_coverage
from ._frechet import frechet_distance
from ._gap_closed import gap_closed
from ._haematoxylin import haematoxylin, haematoxylin_area
from ._ilisi import ilisi
from ._kid import kid
from ._moran import morans_i
from ._moran_agreement import moran_agreement
from ._mse import mse
from ._nearest_audit import nearest_audit
from ._nuclei import nuclei
from ._paired_difference import paired_difference
from ._pearson import pearson
from ._rgb_stats import rgb_stats
from ._round_trip_share import round_trip_share

__all__ = [
    "c2st",
    "composition",
    "density_coverage",
    "frechet_distance",
    "gap_closed",
    "haematoxylin",
    "haematoxylin_area",
    "ilisi",
    "kid",
    "moran_agreement",
    "morans_i",
    "mse",
    "nearest_audit",
    "nuclei",
    "paired_difference",
    "pearson",
    "rgb_stats",
    "round_trip_share",
]
