"""Neighbours of a spot as index arrays with a mask, never as copied embeddings."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hisdiff_sd._errors import HisDiffError

_TIES = 16
_OFF_GRID = 0.1


@dataclass(frozen=True)
class Context:
    """For every spot the rows of its nearest spots.

    Attributes
    ----------
    index
        (n, k) int64 rows, nearest first; the spot itself stands first. Rows behind the mask are 0.
    mask
        (n, k) bool, true where there is such a neighbour.

    Examples
    --------
    >>> from hisdiff_sd.tiles import nearest
    >>> context = nearest(np.array([[0.0, 0.0], [1.0, 0.0], [5.0, 0.0]]), 2)
    >>> context.mean(np.array([[0.0], [2.0], [4.0]])).tolist()
    [[1.0], [1.0], [3.0]]
    """

    index: np.ndarray
    mask: np.ndarray

    def first(self, k: int) -> Context:
        """The `k` nearest of these neighbours."""
        return Context(self.index[:, :k], self.mask[:, :k])

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
    >>> from hisdiff_sd.tiles import nearest
    >>> nearest(np.array([[0.0, 0.0], [1.0, 0.0], [5.0, 0.0]]), 2).index.tolist()
    [[0, 1], [1, 0], [2, 1]]
    """
    xy = _checked(xy)
    if k < 1:
        raise HisDiffError(f"k={k} leaves not even the spot itself; 1 or more are needed")
    from scipy.spatial import cKDTree

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


def within(xy: np.ndarray, radius: float) -> Context:
    """All spots within a radius of each spot of one slide, itself included.

    The physical form of a context: the same radius in um covers the same tissue on every technology, where a number of
    nearest spots does not (Visium spots are 100 um apart, Spatial Transcriptomics spots 200). Spots of one shell of a
    square or hexagonal grid are at one distance but for a few percent; a shell is taken whole, or not at all.

    Parameters
    ----------
    xy
        (n, 2) spot centres.
    radius
        In the unit of `xy`. A tenth of the distance of nearest spots is added, for spots that lie off their grid.

    Returns
    -------
    Neighbours, nearest first; as many columns as the spot with most neighbours needs, the others masked.

    Examples
    --------
    >>> from hisdiff_sd.tiles import within
    >>> within(np.array([[0.0, 0.0], [1.0, 0.0], [5.0, 0.0]]), 1.0).mask.sum(1).tolist()
    [2, 2, 1]
    """
    xy = _checked(xy)
    if not radius >= 0:
        raise HisDiffError(f"radius={radius} is no distance; give one in the unit of the spot centres")
    from scipy.spatial import cKDTree

    n = len(xy)
    if n < 2:
        return Context(np.zeros((n, 1), np.int64), np.ones((n, 1), bool))
    tree = cKDTree(xy)
    spacing = float(np.median(tree.query(xy, k=2)[0][:, 1]))
    pairs = tree.query_pairs(radius + _OFF_GRID * spacing, output_type="ndarray")
    own = np.arange(n)
    row = np.concatenate([own, pairs[:, 0], pairs[:, 1]])
    other = np.concatenate([own, pairs[:, 1], pairs[:, 0]])
    distance = np.round(np.linalg.norm(xy[row] - xy[other], axis=1) / (spacing or 1.0), 6)
    distance[:n] = -1.0  # the spot itself first, also where others lie on the same point
    order = np.lexsort((xy[other, 0], xy[other, 1], distance, row))
    row, other = row[order], other[order]
    count = np.bincount(row, minlength=n)
    place = np.arange(len(row)) - np.repeat(np.cumsum(count) - count, count)
    result = np.zeros((n, count.max()), np.int64)
    mask = np.zeros_like(result, bool)
    result[row, place], mask[row, place] = other, True
    return Context(result, mask)


def _checked(xy: np.ndarray) -> np.ndarray:
    """Spot centres as float64 (n, 2)."""
    xy = np.asarray(xy, np.float64)
    if xy.ndim != 2 or xy.shape[1] != 2 or not np.isfinite(xy).all():
        raise HisDiffError(f"spot centres must be finite (n, 2), not {xy.shape}")
    return xy
