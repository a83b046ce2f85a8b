"""The spots of a slide as plain arrays in level-0 px."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from hisdiff_sd._errors import HisDiffError

if TYPE_CHECKING:
    from spatialdata import SpatialData


@dataclass(frozen=True)
class Shapes:
    """Spots of one slide.

    Attributes
    ----------
    index
        Barcodes, (n,).
    xy
        (n, 2) centres in level-0 px.
    diameter_px
        Diameter in level-0 px.
    """

    index: pd.Index
    xy: np.ndarray
    diameter_px: float

    @property
    def n(self) -> int:
        """Number of spots."""
        return len(self.index)


def slide_shapes(sdata: SpatialData, shapes_key: str) -> Shapes:
    """Centres and diameter of the circles `shapes_key`."""
    if shapes_key not in sdata.shapes:
        raise HisDiffError(f"no shapes {shapes_key!r}; shapes here: {', '.join(map(repr, sdata.shapes)) or 'none'}")
    frame = sdata.shapes[shapes_key]
    if "radius" not in frame:
        raise HisDiffError(f"shapes {shapes_key!r} are not circles (no radius); spots are needed")
    xy = np.column_stack([frame.geometry.x, frame.geometry.y])
    return Shapes(frame.index, xy, 2 * float(np.median(frame["radius"])))
