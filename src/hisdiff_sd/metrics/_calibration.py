from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from hisdiff_sd._errors import HisDiffError
from hisdiff_sd.metrics._samples import blocks, check_ensemble, check_samples, summary

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from hisdiff_sd.metrics._check import Matrix, Vector

_NEAR = 1e-9  # a rank nearer than this to a whole one is the whole one: (1 - 0.9) / 2 * 20 is 0.9999999999999998


def weibull_quantiles(samples: ArrayLike, levels: ArrayLike) -> NDArray[np.float64]:
    r"""Quantiles of the samples at Weibull positions: the k-th smallest of :math:`m` samples is the quantile k / (m + 1).

    If the truth is a further draw of the same distribution, it lies below that sample with just this probability, and the
    interval of two such quantiles covers what it says. The usual quantiles (numpy's default) are too narrow: the 5% to
    95% interval of 20 samples covers 82%. Between positions it interpolates, as ``np.quantile(method="weibull")``: of 19,
    39, 59, ... samples the 90% interval covers exactly 90% of any continuous distribution, of other numbers of Gaussian
    samples up to 91%.

    Parameters
    ----------
    samples
        Samples of the prediction, shape (n_samples, n_spots, n_genes).
    levels
        Probabilities, shape (n_levels,); none below 1 / (n_samples + 1) or above n_samples / (n_samples + 1): 5% and 95%
        need 19 samples.

    Returns
    -------
    Quantiles, shape (n_levels, n_spots, n_genes), float64.

    Raises
    ------
    HisDiffError
        If so few samples do not reach a level, shapes are wrong or a value is not finite.

    Examples
    --------
    >>> hd.metrics.weibull_quantiles([[[3.0]], [[1.0]], [[2.0]]], [0.25, 0.5, 0.625]).ravel().tolist()
    [1.0, 2.0, 2.5]
    """
    x = check_samples(samples)
    rank, part = _ranks(np.asarray(levels, np.float64), len(x))
    out = np.empty((rank.size, *x.shape[1:]))
    for spots, block in blocks(x):
        block.sort(axis=0)
        for i, (k, f) in enumerate(zip(rank, part, strict=True)):
            # at a whole rank the sample itself, exactly: a truth equal to it (a zero) has to count as inside
            out[i, spots] = block[k] if f == 0 else block[k] + f * (block[k + 1] - block[k])
    return out


def _ranks(levels: Vector, n_samples: int) -> tuple[NDArray[np.int64], Vector]:
    """Rank from 0 and the part of the way to the next rank, of every level."""
    if levels.ndim != 1 or levels.size == 0 or not ((levels > 0) & (levels < 1)).all():
        raise HisDiffError(f"levels={levels.tolist()} have to be a list of probabilities between 0 and 1.")
    position = levels * (n_samples + 1)
    whole = np.round(position)
    position = np.where(np.abs(position - whole) < _NEAR, whole, position)
    outside = (position < 1) | (position > n_samples)
    if outside.any():
        level = float(levels[outside][0])
        needed = math.ceil(1 / min(level, 1 - level) - 1 - _NEAR)
        raise HisDiffError(
            f"{n_samples} samples reach no further than the quantiles 1/{n_samples + 1} and {n_samples}/{n_samples + 1}; "
            f"the level {level:.6g} needs {needed} samples at least."
        )
    lower = np.floor(position).astype(np.int64)
    return lower - 1, position - lower


def central_interval(samples: ArrayLike, level: float) -> tuple[Matrix, Matrix]:
    """Lower and upper end of the central interval, each (n_spots, n_genes)."""
    if not 0 < level < 1:
        raise HisDiffError(f"level={level} is no coverage; it has to lie between 0 and 1, as 0.9.")
    low, high = weibull_quantiles(samples, [(1 - level) / 2, (1 + level) / 2])
    return low, high


def coverage(
    samples: ArrayLike, true: ArrayLike, *, level: float = 0.9, per_spot: bool = False
) -> float | NDArray[np.float64]:
    r"""Share of measured values inside the central interval of the samples.

    .. math:: \frac{1}{SG} \sum_{s, g} \mathbf 1 [\, l_{sg} \le t_{sg} \le u_{sg} \,]

    :math:`l, u` are the `weibull_quantiles` (1 - level) / 2 and (1 + level) / 2; both ends belong to the interval. Where
    many values are equal (zero counts), a calibrated model covers more than `level`: see `pit`. Wide intervals cover
    everything: report `interval_width` or `interval_score` beside it. It says nothing of averages over a region: that is
    `region_coverage`.

    Parameters
    ----------
    samples
        Samples of the prediction, shape (n_samples, n_spots, n_genes); at least 19 for a level of 0.9.
    true
        Measured expression on the same scale, shape (n_spots, n_genes).
    level
        Nominal coverage, between 0 and 1; a calibrated model has a coverage of `level`.
    per_spot
        Whether to return a value for every spot, the share of its genes.

    Returns
    -------
    The share, or shares of shape (n_spots,), float64.

    Raises
    ------
    HisDiffError
        If there are too few samples for the level, shapes do not fit or a value is not finite.

    Examples
    --------
    >>> samples = [[[float(i), float(i)]] for i in range(19)]
    >>> hd.metrics.coverage(samples, [[0.0, 19.0]])  # the interval is 0 ... 18
    0.5
    """
    x, t = check_ensemble(samples, true)
    low, high = central_interval(x, level)
    return summary(((low <= t) & (t <= high)).mean(axis=1), per_spot)


def interval_width(samples: ArrayLike, level: float = 0.9, *, per_spot: bool = False) -> float | NDArray[np.float64]:
    r"""Mean width of the central interval of the samples.

    .. math:: \frac{1}{SG} \sum_{s, g} (u_{sg} - l_{sg})

    Parameters
    ----------
    samples
        Samples of the prediction, shape (n_samples, n_spots, n_genes); at least 19 for a level of 0.9.
    level
        Nominal coverage, between 0 and 1.
    per_spot
        Whether to return a value for every spot, the mean over its genes.

    Returns
    -------
    The mean over spots and genes, or means of shape (n_spots,), float64, in units of the expression scale. Of two models
    with the same `coverage` the narrower is better.

    Raises
    ------
    HisDiffError
        If there are too few samples for the level, the shape is wrong or a value is not finite.

    Examples
    --------
    >>> hd.metrics.interval_width([[[float(i)]] for i in range(19)])
    18.0
    """
    low, high = central_interval(samples, level)
    return summary((high - low).mean(axis=1), per_spot)


def interval_score(
    samples: ArrayLike, true: ArrayLike, *, level: float = 0.9, per_spot: bool = False
) -> float | NDArray[np.float64]:
    r"""Interval score: the width of the central interval, and a fine for every value outside (Gneiting & Raftery 2007).

    .. math:: (u - l) + \frac{2}{\alpha} (l - t)_+ + \frac{2}{\alpha} (t - u)_+, \qquad \alpha = 1 - \mathrm{level}

    Averaged over spots and genes. It is smallest for the true quantiles, so that neither wide nor narrow intervals win.
    Ensembles are to be compared at one number of samples: their quantiles are less certain the fewer they are.

    Parameters
    ----------
    samples
        Samples of the prediction, shape (n_samples, n_spots, n_genes); at least 19 for a level of 0.9.
    true
        Measured expression on the same scale, shape (n_spots, n_genes).
    level
        Nominal coverage, between 0 and 1.
    per_spot
        Whether to return a value for every spot, the mean over its genes.

    Returns
    -------
    The mean over spots and genes, or means of shape (n_spots,), float64, in units of the expression scale; low is good.

    Raises
    ------
    HisDiffError
        If there are too few samples for the level, shapes do not fit or a value is not finite.

    References
    ----------
    Gneiting & Raftery, Strictly proper scoring rules, prediction, and estimation, J. Am. Stat. Assoc. 102 (2007);
    Winkler, A decision-theoretic approach to interval estimation, J. Am. Stat. Assoc. 67 (1972).

    Examples
    --------
    >>> samples = [[[float(i)]] for i in range(19)]  # the interval is 0 ... 18
    >>> hd.metrics.interval_score(samples, [[9.0]]), round(hd.metrics.interval_score(samples, [[20.0]]), 6)  # 18 + 20 * 2
    (18.0, 58.0)
    """
    x, t = check_ensemble(samples, true)
    low, high = central_interval(x, level)
    fine = np.maximum(low - t, 0.0) + np.maximum(t - high, 0.0)
    return summary((high - low + 2.0 / (1.0 - level) * fine).mean(axis=1), per_spot)
