"""Slides of drawn images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from drawn import UM
from PIL import Image
from spatialdata import SpatialData

import hisdiff_sd as hd


@pytest.fixture
def slide_of(tmp_path: Path) -> Callable[..., SpatialData]:
    """A function that makes a bare slide of an image."""

    def make(image: np.ndarray, mpp: float = UM) -> SpatialData:
        Image.fromarray(image.clip(0, 255).round().astype(np.uint8)).save(tmp_path / "drawn.png")
        return hd.io.wsi(tmp_path / "drawn.png", mpp=mpp)

    return make
