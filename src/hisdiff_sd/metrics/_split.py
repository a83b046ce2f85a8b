from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hisdiff_sd.metrics._check import check_pair

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


def error_split(pred: ArrayLike, true: ArrayLike) -> dict[str, float]:
    r"""What the mean squared error is made of: offset, scale and correlation (Murphy 1988).

    .. math:: \mathrm{MSE}_g = (\bar p_g - \bar t_g)^2 + (\sigma_{p,g} - \sigma_{t,g})^2
              + 2 \sigma_{p,g} \sigma_{t,g} (1 - r_g), \quad \text{in this order.}

    Means :math:`\bar p, \bar t`, population standard deviations :math:`\sigma` and correlation :math:`r` are those of a
    gene over the spots. Between patients most of the error is often offset: a shift in sequencing depth.

    Parameters
    ----------
    pred, true
        Predicted and measured expression, shape (n_spots, n_genes).

    Returns
    -------
    ``offset``, ``scale``, ``correlation``
        Means over the genes, each 0 or more, in squared units of the expression scale. Their sum is `mse`.

    Raises
    ------
    HisDiffError
        If the shapes differ or a value is not finite.

    References
    ----------
    Murphy, Skill scores based on the mean square error and their relationships to the correlation coefficient, Mon.
    Weather Rev. 116 (1988).

    Examples
    --------
    >>> hd.metrics.error_split([[1.0], [5.0]], [[0.0], [2.0]])  # means 3 and 1, standard deviations 2 and 1, r = 1
    {'offset': 4.0, 'scale': 1.0, 'correlation': 0.0}
    """
    p, t = check_pair(pred, true)
    mean_p, mean_t, sd_p, sd_t = p.mean(axis=0), t.mean(axis=0), p.std(axis=0), t.std(axis=0)
    covariance = ((p - mean_p) * (t - mean_t)).mean(axis=0)
    # sd_p sd_t r is the covariance; rounding can make it larger than sd_p sd_t
    correlation = np.maximum(2.0 * (sd_p * sd_t - covariance), 0.0)
    return {
        "offset": float(((mean_p - mean_t) ** 2).mean()),
        "scale": float(((sd_p - sd_t) ** 2).mean()),
        "correlation": float(correlation.mean()),
    }
