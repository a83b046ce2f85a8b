"""The H&E image of a slide, small enough to draw."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hisdiff_sd import _keys as keys
from hisdiff_sd.io._image import levels_of
from hisdiff_sd.io._store import slide_attrs

if TYPE_CHECKING:
    from spatialdata import SpatialData

_LONGEST = 1000


def thumbnail_of(sdata: SpatialData, image_key: str = keys.HE) -> tuple[np.ndarray, float]:
    """uint8 (y, x, 3), at most twice 1,000 px on its longer edge, and its pixels per level-0 px; the padding is cut off."""
    height, width = slide_attrs(sdata)["true_size"]
    levels = levels_of(sdata.images[image_key])
    full = levels[0].shape[1]
    level = next((v for v in reversed(levels) if max(v.shape[1:]) >= _LONGEST), levels[0])
    scale = level.shape[1] / full
    cut = level.data[:, : int(height * scale), : int(width * scale)]
    stride = -(-max(cut.shape[1:]) // (2 * _LONGEST))
    return np.asarray(cut[:, ::stride, ::stride]).transpose(1, 2, 0), scale / stride
