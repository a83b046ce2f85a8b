"""The spots of a slide, or the tiles of its grid, as plain arrays in level-0 px."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from hisdiff_sd._errors import HisDiffError
from hisdiff_sd.io._store import slide_attrs

if TYPE_CHECKING:
    from geopandas import GeoDataFrame
    from spatialdata import SpatialData

TILE_UM, SPACING_UM, GRID = "tile_um", "spacing_um", "grid"  # columns of a grid, each of one value


@dataclass(frozen=True)
class Shapes:
    """Spots, or tiles of a grid, of one slide.

    Attributes
    ----------
    index
        Barcodes, or names of tiles, (n,).
    xy
        (n, 2) centres in level-0 px.
    diameter_px
        Diameter of a spot in level-0 px; of a tile, that of the spot it stands for.
    spacing_px
        Distance of the tiles of a grid in level-0 px; None for spots.
    grid
        ``"square"`` or ``"hexagonal"``; empty for spots.
    """

    index: pd.Index
    xy: np.ndarray
    diameter_px: float
    spacing_px: float | None = None
    grid: str = ""

    @property
    def n(self) -> int:
        """Number of spots."""
        return len(self.index)

    def record(self) -> dict[str, Any]:
        """What of a grid goes into the provenance of its tables: its tiles may be replaced by others of the same names."""
        return {} if self.spacing_px is None else {"grid": self.grid, "spacing_px": round(self.spacing_px, 6)}


def slide_shapes(sdata: SpatialData, shapes_key: str) -> Shapes:
    """Centres and diameter of the circles, or of the tiles of `hd.pp.tile`, that are called `shapes_key`."""
    if shapes_key not in sdata.shapes:
        way_out = "" if sdata.shapes else "; lay a grid of tiles on the slide first: hd.pp.tissue and hd.pp.tile"
        listed = ", ".join(map(repr, sdata.shapes)) or "none"
        raise HisDiffError(f"no shapes {shapes_key!r}; shapes here: {listed}{way_out}")
    frame = sdata.shapes[shapes_key]
    if "radius" in frame:
        xy = np.column_stack([frame.geometry.x, frame.geometry.y])
        return Shapes(frame.index, xy, 2 * float(np.median(frame["radius"])))
    if not {TILE_UM, SPACING_UM, GRID} <= set(frame.columns):
        raise HisDiffError(
            f"shapes {shapes_key!r} are neither circles (no radius) nor a grid of hd.pp.tile; spots or tiles are needed"
        )
    mpp = float(slide_attrs(sdata)["mpp"])
    spacing, diameter = (float(frame[column].iloc[0]) / mpp for column in (SPACING_UM, TILE_UM))
    return Shapes(frame.index, _centres(frame), diameter, spacing, str(frame[GRID].iloc[0]))


def _centres(frame: GeoDataFrame) -> np.ndarray:
    """Centres of polygons that are symmetric, free of what rounding adds."""
    bounds = frame.bounds.to_numpy()
    return np.round((bounds[:, :2] + bounds[:, 2:]) / 2, 6)
