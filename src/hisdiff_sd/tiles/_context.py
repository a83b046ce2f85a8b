"""Neighbours of a spot as index arrays with a mask, never as copied embeddings."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from hisdiff_sd._errors import HisDiffError

_TIES = 16


@dataclass(frozen=True)
class Context:
    """For every spot the rows of its nearest spots.

    Attributes
    ----------
    index
        (n, k) int64 rows, nearest first; the spot itself stands first. Rows behind the mask are 0.
    mask
        (n, k) bool, true where there is such a neighbour.
    """

    index: np.ndarray
    mask: np.ndarray

    def mean(self, values: np.ndarray) -> np.ndarray:
        """(n, E) mean of `values` (n, E) over each spot's neighbours, in float64."""
        total = np.zeros((len(self.index), values.shape[1]))
        for column in range(self.index.shape[1]):
            total += np.where(self.mask[:, column, None], values[self.index[:, column]], 0.0)
        return total / self.mask.sum(1, keepdims=True)


def nearest(xy: np.ndarray, k: int) -> Context:
    """The `k` nearest spots of each spot of one slide, itself included.

    Spots at equal distance (a square grid has many) are taken in the order of their y, then x, so that the result does
    not depend on the order in which spots are stored.

    Parameters
    ----------
    xy
        (n, 2) spot centres.
    k
        Number of neighbours; slides with fewer spots give masked places.

    Examples
    --------
    >>> nearest(np.array([[0.0, 0.0], [1.0, 0.0], [5.0, 0.0]]), 2).index.tolist()
    [[0, 1], [1, 0], [2, 1]]
    """
    xy = np.asarray(xy, np.float64)
    if xy.ndim != 2 or xy.shape[1] != 2 or not np.isfinite(xy).all():
        raise HisDiffError(f"spot centres must be finite (n, 2), not {xy.shape}")
    if k < 1:
        raise HisDiffError(f"k={k} leaves not even the spot itself; 1 or more are needed")
    n = len(xy)
    if n == 0:
        return Context(np.zeros((0, k), np.int64), np.zeros((0, k), bool))
    found = min(k + _TIES, n)
    distance, index = cKDTree(xy).query(xy, k=range(1, found + 1))
    is_self = index == np.arange(n)[:, None]
    # where many spots lie on one point, the spot itself may not be among those found
    lost = np.flatnonzero(~is_self.any(1))
    index[lost, -1], distance[lost, -1], is_self[lost, -1] = lost, 0.0, True
    # distances on a grid differ in the last bits: compare them to a millionth of the spacing
    unit = float(np.median(distance[:, min(1, found - 1)])) or 1.0
    rank = np.where(is_self, -1.0, np.round(distance / unit, 6))
    order = np.lexsort((xy[index, 0], xy[index, 1], rank), axis=1)[:, : min(k, found)]
    result = np.zeros((n, k), np.int64)
    mask = np.zeros((n, k), bool)
    result[:, : order.shape[1]] = np.take_along_axis(index, order, axis=1)
    mask[:, : order.shape[1]] = True
    return Context(result, mask)
