"""Smooth random fields, the raw material of a synthetic slide."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Field = NDArray[np.float32]


def smooth_field(rng: np.random.Generator, shape: tuple[int, int], length: float) -> Field:
    """Gaussian random field of mean 0 and variance 1, smooth over `length` cells of the grid."""
    step = max(1, int(length / 3))  # drawn coarsely and enlarged: wide filters on fine grids are slow
    coarse = (shape[0] // step + 2, shape[1] // step + 2)
    noise = rng.standard_normal(coarse, dtype=np.float32)
    field = resize(gaussian_filter(noise, length / step, mode="wrap"), shape)
    return np.asarray((field - field.mean()) / max(float(field.std()), 1e-6), dtype=np.float32)


def resize(field: Field, shape: tuple[int, int]) -> Field:
    """The same field on a grid of another shape (height, width), bicubic."""
    image = Image.fromarray(np.ascontiguousarray(field, dtype=np.float32))
    return np.asarray(image.resize((shape[1], shape[0]), Image.Resampling.BICUBIC))


def ramp(x: Field) -> Field:
    """0 below 0, 1 above 1, smooth between."""
    t = np.clip(x, np.float32(0), np.float32(1))
    return np.asarray(t * t * (3.0 - 2.0 * t), dtype=np.float32)
