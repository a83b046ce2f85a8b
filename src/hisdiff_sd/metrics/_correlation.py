from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hisdiff_sd._errors import HisDiffError
from hisdiff_sd.metrics._check import check_pair, standardise

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


def pcc(pred: ArrayLike, true: ArrayLike) -> NDArray[np.float64]:
    r"""Pearson correlation of every gene over the spots.

    .. math:: r_g = \frac{\sum_s (p_{sg} - \bar p_g)(t_{sg} - \bar t_g)}
                         {\sqrt{\sum_s (p_{sg} - \bar p_g)^2 \sum_s (t_{sg} - \bar t_g)^2}}

    Parameters
    ----------
    pred
        Predicted expression, shape (n_spots, n_genes).
    true
        Measured expression, same shape, spots and genes in the same order.

    Returns
    -------
    Correlations, shape (n_genes,), float64, in [-1, 1]. A gene whose prediction or truth is constant scores 0.

    Raises
    ------
    HisDiffError
        If the shapes differ or a value is not finite.

    Examples
    --------
    >>> hd.metrics.pcc([[0.0, 1.0], [1.0, 1.0], [2.0, 1.0]], [[1.0, 0.0], [3.0, 5.0], [5.0, 2.0]]).round(6).tolist()
    [1.0, 0.0]
    """
    p, t = check_pair(pred, true)
    r = (standardise(p) * standardise(t)).sum(axis=0)
    return np.asarray(np.clip(r, -1.0, 1.0))


def pcc_top(pred: ArrayLike, true: ArrayLike, k: int) -> float:
    r"""Mean correlation of the `k` genes that are predicted best, the PCC-k of the literature.

    .. math:: \mathrm{PCC}_k = \frac1k \sum_{i=1}^{k} r_{(i)}, \qquad r_{(1)} \ge r_{(2)} \ge \ldots

    The genes are picked after the fact, from the same correlations: two methods are scored on different genes and the
    value grows with the size of the panel. Report `pcc_of` over a fixed list beside it.

    Parameters
    ----------
    pred, true
        Predicted and measured expression, shape (n_spots, n_genes).
    k
        How many genes; all of them if there are fewer than `k`.

    Returns
    -------
    The mean, in [-1, 1].

    Raises
    ------
    HisDiffError
        If `k` is below 1, the shapes differ or a value is not finite.

    Examples
    --------
    >>> pred = [[0.0, 1.0], [1.0, 2.0], [2.0, 3.0]]
    >>> true = [[1.0, 1.0], [3.0, 5.0], [5.0, 1.0]]
    >>> round(hd.metrics.pcc_top(pred, true, k=1), 3), round(hd.metrics.pcc_top(pred, true, k=50), 3)
    (1.0, 0.5)
    """
    if k < 1:
        raise HisDiffError(f"k={k} genes cannot be averaged; k has to be 1 or more.")
    return float(np.sort(pcc(pred, true))[::-1][:k].mean())


def pcc_of(pred: ArrayLike, true: ArrayLike, genes: ArrayLike) -> float:
    r"""Mean correlation over a fixed list of genes :math:`G`, the same for every method.

    .. math:: \frac{1}{|G|} \sum_{g \in G} r_g

    Parameters
    ----------
    pred, true
        Predicted and measured expression, shape (n_spots, n_genes).
    genes
        Column numbers, shape (n,), integers in 0 ... n_genes - 1; chosen on the training slides.

    Returns
    -------
    The mean, in [-1, 1].

    Raises
    ------
    HisDiffError
        If the list is empty or holds a column that does not exist; if the shapes differ or a value is not finite.

    Examples
    --------
    >>> pred = [[0.0, 1.0], [1.0, 0.0], [2.0, 1.0]]
    >>> true = [[1.0, 0.0], [3.0, 5.0], [5.0, 0.0]]
    >>> round(hd.metrics.pcc_of(pred, true, genes=[1]), 6)
    -1.0
    """
    r = pcc(pred, true)
    columns = np.asarray(genes)
    if columns.ndim != 1 or columns.size == 0 or not np.issubdtype(columns.dtype, np.integer):
        raise HisDiffError(
            f"genes has the shape {columns.shape} and type {columns.dtype}; it has to be a list of column numbers, "
            "at least one (of a boolean mask: np.flatnonzero(mask))."
        )
    outside = columns[(columns < 0) | (columns >= r.size)]
    if outside.size:
        raise HisDiffError(f"genes holds {outside[0]}, but the columns of pred and true are 0 ... {r.size - 1}.")
    return float(r[columns].mean())
