"""What every metric asks of its two arrays."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hisdiff_sd._errors import HisDiffError

Matrix = NDArray[np.float64]
Vector = NDArray[np.float64]

# A column that varies by less than this part of its largest value is constant: what is left is rounding of float64.
_ROUNDING = 1e-12


def check_pair(pred: ArrayLike, true: ArrayLike) -> tuple[Matrix, Matrix]:
    """Return both arrays as finite float64 matrices (n_spots, n_genes) of one shape, or say what is wrong."""
    p, t = np.asarray(pred, dtype=np.float64), np.asarray(true, dtype=np.float64)
    if p.shape != t.shape or p.ndim != 2:
        raise HisDiffError(
            f"pred has the shape {p.shape} and true {t.shape}; both have to be (n_spots, n_genes), with the same spots "
            "and genes in the same order."
        )
    if p.size == 0:
        raise HisDiffError(f"pred and true are empty, shape {p.shape}; a score needs at least one spot and one gene.")
    for name, x in (("pred", p), ("true", t)):
        bad = int(x.size - np.isfinite(x).sum())
        if bad:
            raise HisDiffError(
                f"{name} holds {bad} NaN or infinite values of {x.size}; leave those spots or genes out of both arrays."
            )
    return p, t


def standardise(x: Matrix) -> Matrix:
    """Columns with mean 0 and norm 1; constant columns become 0, so that they correlate 0 with everything."""
    centred = x - x.mean(axis=0)
    norm = np.sqrt((centred**2).sum(axis=0))
    flat = is_constant(x) | (norm == 0)
    return np.where(flat, 0.0, centred / np.where(flat, 1.0, norm))


def variances(x: Matrix) -> Vector:
    """Population variance per column, exactly 0 for constant columns."""
    return np.where(is_constant(x), 0.0, x.var(axis=0))


def is_constant(x: Matrix) -> NDArray[np.bool_]:
    """Which columns do not vary beyond the rounding of float64."""
    return is_flat(x.min(axis=0), x.max(axis=0))


def is_flat(low: Matrix | Vector, high: Matrix | Vector) -> NDArray[np.bool_]:
    """Whether values from `low` to `high` differ by no more than the rounding of float64."""
    return np.asarray(high - low <= _ROUNDING * np.maximum(np.abs(low), np.abs(high)))
