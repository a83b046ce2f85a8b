from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hisdiff_sd.metrics._check import check_pair, variances

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

# A predicted variance counts as at least this part of the measured one, so that a constant prediction scores 20.
_LOWEST_RATIO = 2.0**-20


def rvd(pred: ArrayLike, true: ArrayLike) -> float:
    r"""Relative variance distance: how far the predicted variances of the genes lie from the measured ones.

    .. math:: \frac{1}{|G|} \sum_{g \in G} \frac{(\sigma^2_{p,g} - \sigma^2_{t,g})^2}{(\sigma^2_{t,g})^2}

    :math:`G` are the genes that vary in `true`; genes whose measured variance is zero are left out. One gene of low
    measured variance can make the mean hundreds: report `log_var_ratio` beside it. Constant predictions score 1.

    Parameters
    ----------
    pred, true
        Predicted and measured expression, shape (n_spots, n_genes).

    Returns
    -------
    The mean, 0 or more; NaN if no gene varies in `true`.

    Raises
    ------
    HisDiffError
        If the shapes differ or a value is not finite.

    Examples
    --------
    >>> hd.metrics.rvd([[0.0, 7.0], [4.0, 7.0]], [[0.0, 0.0], [2.0, 2.0]])  # variances 4, 0 and 1, 1
    5.0
    """
    p, t = check_pair(pred, true)
    var_pred, var_true = variances(p), variances(t)
    varies = var_true > 0
    if not varies.any():
        return float("nan")
    return float(((var_pred[varies] / var_true[varies] - 1.0) ** 2).mean())


def log_var_ratio(pred: ArrayLike, true: ArrayLike) -> float:
    r"""Median distance of predicted and measured variance in doublings, which no single gene can dominate.

    .. math:: \operatorname{median}_{g \in G}\ \left| \log_2
              \frac{\max(\sigma^2_{p,g},\ 2^{-20} \sigma^2_{t,g})}{\sigma^2_{t,g}} \right|

    :math:`G` are the genes that vary in `true`. The floor under the predicted variance keeps the value finite: a gene
    that is predicted constant scores 20, which stands for infinity. The training mean of `hd.tl.evaluate` has this value.

    Parameters
    ----------
    pred, true
        Predicted and measured expression, shape (n_spots, n_genes).

    Returns
    -------
    The median, 0 or more; 1 means twice or half the measured variance; NaN if no gene varies in `true`.

    Raises
    ------
    HisDiffError
        If the shapes differ or a value is not finite.

    Examples
    --------
    >>> hd.metrics.log_var_ratio([[0.0], [4.0]], [[0.0], [2.0]])
    2.0
    >>> hd.metrics.log_var_ratio([[1.0], [1.0]], [[0.0], [2.0]])
    20.0
    """
    p, t = check_pair(pred, true)
    var_pred, var_true = variances(p), variances(t)
    varies = var_true > 0
    if not varies.any():
        return float("nan")
    ratio = np.maximum(var_pred[varies] / var_true[varies], _LOWEST_RATIO)
    return float(np.median(np.abs(np.log2(ratio))))
