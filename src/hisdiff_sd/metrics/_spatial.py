from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse
from scipy.spatial import cKDTree

from hisdiff_sd._errors import HisDiffError
from hisdiff_sd.metrics._check import check_pair, standardise

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from hisdiff_sd.metrics._check import Matrix

_REACH = 1.25  # pitches: the next neighbours of a square grid lie at 1.41, of a hexagonal one at 1.73


def neighbour_graph(xy: ArrayLike, n_neighbours: int) -> sparse.csr_matrix:
    """Which spots are neighbours on the grid, for `moran`.

    Of every spot the nearest `n_neighbours` that lie within 1.25 pitches; two spots are neighbours if either has the
    other among these. The pitch is the median distance of the second nearest spot, as in `shifted_null`.

    Parameters
    ----------
    xy
        Spot centres, shape (n_spots, 2), in any unit.
    n_neighbours
        4 for a square grid (ST), 6 for a hexagonal one (Visium).

    Returns
    -------
    Symmetric matrix of 0 and 1, shape (n_spots, n_spots), float64, with nothing on the diagonal.

    Raises
    ------
    HisDiffError
        If `xy` is not (n_spots, 2) and finite, has fewer than 3 spots or most of them at one place, or `n_neighbours` is
        below 1.

    Examples
    --------
    >>> graph = hd.metrics.neighbour_graph([[0, 0], [1, 0], [2, 0], [0, 1], [1, 1], [2, 1]], n_neighbours=4)
    >>> graph.sum(axis=0).astype(int).tolist()
    [[2, 3, 2, 2, 3, 2]]
    """
    centres = np.asarray(xy, np.float64)
    if centres.ndim != 2 or centres.shape[1] != 2 or not np.isfinite(centres).all():
        raise HisDiffError(f"xy has the shape {centres.shape} or is not finite; it has to be (n_spots, 2), finite.")
    if n_neighbours < 1:
        raise HisDiffError(f"n_neighbours={n_neighbours}; it has to be 4 for a square grid, 6 for a hexagonal one.")
    n = len(centres)
    if n < 3:
        raise HisDiffError(f"{n} spots are no grid; 3 at least are needed.")
    tree = cKDTree(centres)
    pitch = float(np.median(tree.query(centres, k=3)[0][:, 2]))
    if pitch == 0:
        raise HisDiffError("most spots lie at the same place; xy has to hold one centre per spot.")
    # one more than asked for: the spot itself is among them
    _, near = tree.query(centres, k=n_neighbours + 1, distance_upper_bound=_REACH * pitch)
    row = np.repeat(np.arange(n), n_neighbours + 1)
    column = near.ravel()
    real = (column < n) & (column != row)
    graph = sparse.csr_matrix((np.ones(int(real.sum())), (row[real], column[real])), shape=(n, n))
    return sparse.csr_matrix(graph.maximum(graph.T))


def moran(values: ArrayLike, graph: Any) -> NDArray[np.float64]:
    r"""Moran's I of every gene: how alike neighbouring spots are.

    .. math:: I_g = \frac{S}{\sum_{ij} w_{ij}}
              \frac{\sum_{ij} w_{ij} (x_{ig} - \bar x_g)(x_{jg} - \bar x_g)}{\sum_i (x_{ig} - \bar x_g)^2}

    About 0 without any spatial pattern, 1 for a smooth map. Take ``cp10k`` values: on ``log2`` it is mostly the pattern
    of sequencing depth. Samples have the I of their noise as well; a mean of samples is smoother than any measurement.

    Parameters
    ----------
    values
        Expression, shape (n_spots, n_genes).
    graph
        Weights :math:`w`, scipy sparse matrix or array of shape (n_spots, n_spots): `neighbour_graph`.

    Returns
    -------
    Moran's I, shape (n_genes,), float64; 0 for a gene that does not vary.

    Raises
    ------
    HisDiffError
        If the shapes do not fit, the graph has no neighbours or a value is not finite.

    References
    ----------
    Moran, Notes on continuous stochastic phenomena, Biometrika 37 (1950).

    Examples
    --------
    >>> graph = hd.metrics.neighbour_graph([[0, 0], [1, 0], [0, 1], [1, 1]], n_neighbours=4)
    >>> hd.metrics.moran([[0.0, 0.0], [1.0, 1.0], [1.0, 0.0], [0.0, 1.0]], graph).round(6).tolist()  # a chessboard, two halves
    [-1.0, 0.0]
    """
    x, _ = check_pair(values, values)
    return _moran(x, _weights(graph, len(x)))


def moran_error(pred: ArrayLike, true: ArrayLike, graph: Any) -> float:
    r"""How far the spatial autocorrelations of a prediction lie from the measured ones.

    .. math:: \frac1G \sum_g |I^p_g - I^t_g|

    Parameters
    ----------
    pred, true
        Predicted and measured expression, shape (n_spots, n_genes).
    graph
        Neighbours, shape (n_spots, n_spots): `neighbour_graph`.

    Returns
    -------
    The mean over genes, 0 or more; low is good.

    Raises
    ------
    HisDiffError
        If the shapes do not fit, the graph has no neighbours or a value is not finite.

    Examples
    --------
    >>> graph = hd.metrics.neighbour_graph([[0, 0], [1, 0], [0, 1], [1, 1]], n_neighbours=4)
    >>> chessboard, halves = [[0.0], [1.0], [1.0], [0.0]], [[0.0], [1.0], [0.0], [1.0]]
    >>> round(hd.metrics.moran_error(chessboard, halves, graph), 6)
    1.0
    """
    p, t = check_pair(pred, true)
    w = _weights(graph, len(p))
    return float(np.abs(_moran(p, w) - _moran(t, w)).mean())


def moran_corr(pred: ArrayLike, true: ArrayLike, graph: Any) -> float:
    r"""Pearson correlation over the genes of predicted and measured Moran's I: whether the right genes have a pattern.

    .. math:: \operatorname{corr}_g(I^p_g, I^t_g)

    Parameters
    ----------
    pred, true
        Predicted and measured expression, shape (n_spots, n_genes).
    graph
        Neighbours, shape (n_spots, n_spots): `neighbour_graph`.

    Returns
    -------
    The correlation, in [-1, 1], high is good; 0 if all genes have the same I in one of the two.

    Raises
    ------
    HisDiffError
        If the shapes do not fit, the graph has no neighbours or a value is not finite.

    Examples
    --------
    >>> graph = hd.metrics.neighbour_graph([[0, 0], [1, 0], [0, 1], [1, 1]], n_neighbours=4)
    >>> both = [[0.0, 0.0], [1.0, 1.0], [1.0, 0.0], [0.0, 1.0]]
    >>> round(hd.metrics.moran_corr(both, both, graph), 6)
    1.0
    """
    p, t = check_pair(pred, true)
    w = _weights(graph, len(p))
    r = (standardise(_moran(p, w)[:, None]) * standardise(_moran(t, w)[:, None])).sum()
    return float(np.clip(r, -1.0, 1.0))


def _weights(graph: Any, n_spots: int) -> sparse.csr_matrix:
    w = sparse.csr_matrix(graph, dtype=np.float64)
    if w.shape != (n_spots, n_spots):
        raise HisDiffError(f"graph has the shape {w.shape}; of {n_spots} spots it has to be ({n_spots}, {n_spots}).")
    if not w.sum() > 0:
        raise HisDiffError("graph has no neighbours; of which grid are the spots, and is its n_neighbours right?")
    return w


def _moran(x: Matrix, w: sparse.csr_matrix) -> NDArray[np.float64]:
    z = standardise(x)
    return np.asarray(len(x) / w.sum() * (z * (w @ z)).sum(axis=0))
