"""Sections that are drawn, so that every pixel of tissue is known."""

from __future__ import annotations

import numpy as np
from scipy import ndimage as ndi

SHAPE, UM = (340, 380), 6.0  # of the drawn slides: 2.0 x 2.3 mm
Y, X = np.mgrid[: SHAPE[0], : SHAPE[1]]
GLASS = (242, 240, 241)
HAEMATOXYLIN, EOSIN = np.array([0.65, 0.70, 0.29]), np.array([0.07, 0.99, 0.11])
NOTHING = np.zeros(SHAPE, bool)


def field(rng: np.random.Generator, length: float) -> np.ndarray:
    """Smooth noise of one length, with a deviation of 1."""
    values = ndi.gaussian_filter(rng.standard_normal(SHAPE), length)
    return values / values.std()


def disc(y: float, x: float, radius: float) -> np.ndarray:
    return np.hypot(Y - y, X - x) < radius


BLOB = np.hypot((Y - 170) / 110, (X - 200) / 125) + 0.06 * field(np.random.default_rng(7), 12) < 1


def draw(where: np.ndarray, *, stain: float = 1, glass: tuple = GLASS, noise: float = 1, seed: int = 0) -> np.ndarray:
    """A section with nuclei, as float RGB."""
    rng = np.random.default_rng(seed)
    amount = ndi.gaussian_filter(where.astype(float), 0.8) * stain
    haematoxylin = (0.25 + 0.18 * field(rng, 1) + 0.08 * field(rng, 12)).clip(0) * amount
    eosin = (0.25 + 0.08 * field(rng, 2) + 0.1 * field(rng, 20)).clip(0) * amount
    density = haematoxylin[..., None] * HAEMATOXYLIN + eosin[..., None] * EOSIN
    return np.array(glass) * 10**-density + rng.normal(0, noise, (*SHAPE, 1)) + rng.normal(0, noise / 2, (*SHAPE, 3))


def overlap(found: np.ndarray, truth: np.ndarray) -> float:
    """Intersection over union."""
    return (found & truth).sum() / (found | truth).sum()
