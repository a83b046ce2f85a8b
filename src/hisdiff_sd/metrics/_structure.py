from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hisdiff_sd.metrics._check import check_pair, standardise

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


def gene_corr_error(pred: ArrayLike, true: ArrayLike) -> float:
    r"""How far the gene-gene correlations of a prediction lie from the measured ones.

    .. math:: \frac{2}{G (G - 1)} \sum_{i < j} |C^p_{ij} - C^t_{ij}|

    :math:`C` are Pearson matrices of the genes over the spots. A gene that does not vary correlates 0 with every other.

    Parameters
    ----------
    pred, true
        Predicted and measured expression, shape (n_spots, n_genes).

    Returns
    -------
    The mean over all pairs of genes, in [0, 2]; NaN for a single gene, which has no pair.

    Raises
    ------
    HisDiffError
        If the shapes differ or a value is not finite.

    Examples
    --------
    >>> round(hd.metrics.gene_corr_error([[0.0, 0.0], [1.0, 1.0]], [[0.0, 1.0], [1.0, 0.0]]), 6)  # +1 against -1
    2.0
    """
    p, t = check_pair(pred, true)
    n_genes = p.shape[1]
    if n_genes < 2:
        return float("nan")
    p, t = standardise(p), standardise(t)
    distance = np.abs(p.T @ p - t.T @ t)
    np.fill_diagonal(distance, 0.0)
    return float(distance.sum() / (n_genes * (n_genes - 1)))
