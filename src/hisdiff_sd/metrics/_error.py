from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hisdiff_sd.metrics._check import check_pair

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


def mse(pred: ArrayLike, true: ArrayLike) -> float:
    r"""Mean squared error over all spots and genes.

    .. math:: \frac{1}{SG} \sum_{s, g} (p_{sg} - t_{sg})^2

    Parameters
    ----------
    pred, true
        Predicted and measured expression, shape (n_spots, n_genes).

    Returns
    -------
    The mean, 0 or more, in squared units of the expression scale.

    Raises
    ------
    HisDiffError
        If the shapes differ or a value is not finite.

    Examples
    --------
    >>> hd.metrics.mse([[1.0, 2.0]], [[1.0, 4.0]])
    2.0
    """
    p, t = check_pair(pred, true)
    return float(((p - t) ** 2).mean())


def mae(pred: ArrayLike, true: ArrayLike) -> float:
    r"""Mean absolute error over all spots and genes.

    .. math:: \frac{1}{SG} \sum_{s, g} |p_{sg} - t_{sg}|

    Parameters
    ----------
    pred, true
        Predicted and measured expression, shape (n_spots, n_genes).

    Returns
    -------
    The mean, 0 or more, in units of the expression scale.

    Raises
    ------
    HisDiffError
        If the shapes differ or a value is not finite.

    Examples
    --------
    >>> hd.metrics.mae([[1.0, 2.0]], [[1.0, 4.0]])
    1.0
    """
    p, t = check_pair(pred, true)
    return float(np.abs(p - t).mean())
