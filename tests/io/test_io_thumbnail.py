"""The small image that is drawn under predictions lies on the slide."""

from __future__ import annotations

import dask.array as da
import numpy as np
import pytest
import spatialdata
from spatialdata.models import Image2DModel

from hisdiff_sd._thumbnail import thumbnail_of
from hisdiff_sd.io._image import pyramid


def smooth(height: int, width: int) -> np.ndarray:
    """(3, y, x) whose colours say where a pixel lies."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 250 // width, y * 250 // height, np.full_like(x, 90)]).astype(np.uint8)


@pytest.mark.parametrize(("height", "width"), [(900, 700), (1023, 2047), (3001, 2003), (301, 4099), (1, 1)])
@pytest.mark.parametrize("levels", [True, False])
def test_it_is_small_and_lies_where_its_scale_says(height, width, levels):
    image = smooth(height, width)
    lazy = da.from_array(image, chunks=(3, 512, 512))
    element = pyramid(lazy, 0.5) if levels else Image2DModel.parse(lazy, dims=("c", "y", "x"))
    record = dict.fromkeys(("patient", "species", "organ", "technology"), "")
    attrs = {"hisdiff_sd": record | {"schema": 1, "slide": "X", "mpp": 1.0, "true_size": [height, width], "qc": {}}}
    small, scale = thumbnail_of(spatialdata.SpatialData(images={"he": element}, attrs=attrs))
    assert small.dtype == np.uint8
    assert small.shape[2] == 3
    assert max(small.shape[:2]) <= 2000
    assert max(small.shape[:2]) >= min(999, max(height, width))
    assert abs(small.shape[0] - height * scale) <= 1
    assert abs(small.shape[1] - width * scale) <= 1
    rows, columns = np.arange(0, small.shape[0], 37), np.arange(0, small.shape[1], 41)
    expected = image[:, np.minimum(rows / scale, height - 1).astype(int)][
        :, :, np.minimum(columns / scale, width - 1).astype(int)
    ]
    found = small[rows][:, columns].transpose(2, 0, 1)
    assert np.abs(found.astype(int) - expected).max() <= 3  # no white padding, no shift
