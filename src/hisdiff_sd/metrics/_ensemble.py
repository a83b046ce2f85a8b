from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hisdiff_sd._errors import HisDiffError
from hisdiff_sd.metrics._samples import blocks, check_ensemble, summary

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from hisdiff_sd.metrics._check import Matrix, Vector
    from hisdiff_sd.metrics._samples import Cube


def crps(samples: ArrayLike, true: ArrayLike, *, per_spot: bool = False) -> float | NDArray[np.float64]:
    r"""Continuous ranked probability score of every spot and gene, by the fair estimator of Ferro (2014).

    .. math:: \frac1m \sum_s |x_s - y| - \frac{1}{2 m (m - 1)} \sum_{s, s'} |x_s - x_{s'}|

    The expectation does not depend on the number of samples :math:`m`, so that ensembles of different sizes may be
    compared. In return the value of one spot can be negative. It judges each gene by itself: the structure among genes is
    for `energy_score` and `variogram_score`.

    Parameters
    ----------
    samples
        Samples of the prediction, shape (n_samples, n_spots, n_genes). A fair score of a single sample is the point
        score: with shape (1, n_spots, n_genes) the value is that of `mae`.
    true
        Measured expression on the same scale, shape (n_spots, n_genes).
    per_spot
        Whether to return a value for every spot, the mean over its genes.

    Returns
    -------
    The mean over spots and genes, or means of shape (n_spots,), float64, in units of the expression scale; low is good.

    Raises
    ------
    HisDiffError
        If the shapes do not fit or a value is not finite.

    References
    ----------
    Ferro, Fair scores for ensemble forecasts, Q. J. R. Meteorol. Soc. 140 (2014).

    Examples
    --------
    >>> hd.metrics.crps([[[0.0]], [[2.0]]], [[1.0]])  # 1 - 1
    0.0
    >>> hd.metrics.crps([[[0.0]]], [[1.0]])
    1.0
    """
    x, y = check_ensemble(samples, true)
    m = len(x)
    # sum over pairs of |x_s - x_t| = sum over ranks k = 1 ... m of (2 k - m - 1) x_(k)
    weights = (2.0 * np.arange(m) - m + 1.0) / max(m * (m - 1), 1)
    out = np.empty(len(y))
    for spots, block in blocks(x):
        error = np.sort(block - y[spots], axis=0)
        out[spots] = (np.abs(error).mean(axis=0) - np.tensordot(weights, error, axes=1)).mean(axis=1)
    return summary(out, per_spot)


def energy_score(samples: ArrayLike, true: ArrayLike, *, per_spot: bool = False) -> float | NDArray[np.float64]:
    r"""Energy score of every spot over all its genes at once (Gneiting & Raftery 2007), by the fair estimator.

    .. math:: \frac1m \sum_s \lVert x_s - y \rVert - \frac{1}{2 m (m - 1)} \sum_{s, s'} \lVert x_s - x_{s'} \rVert

    The norm is the Euclidean one over the genes. It is smallest for the true joint distribution, but of little power
    against wrong correlations: report `variogram_score` beside it. With one gene it is `crps`.

    Parameters
    ----------
    samples
        Samples of the prediction, shape (n_samples, n_spots, n_genes). A fair score of a single sample is the point
        score: with shape (1, n_spots, n_genes) the value is the norm of the error.
    true
        Measured expression on the same scale, shape (n_spots, n_genes).
    per_spot
        Whether to return a value for every spot.

    Returns
    -------
    The mean over spots, or values of shape (n_spots,), float64, in units of the expression scale; low is good. It grows
    with the square root of the number of genes: compare on one panel.

    Raises
    ------
    HisDiffError
        If the shapes do not fit or a value is not finite.

    References
    ----------
    Gneiting & Raftery, Strictly proper scoring rules, prediction, and estimation, J. Am. Stat. Assoc. 102 (2007).

    Examples
    --------
    >>> hd.metrics.energy_score([[[0.0, 0.0]], [[6.0, 8.0]]], [[3.0, 4.0]])  # 5 - 10 / 2
    0.0
    >>> hd.metrics.energy_score([[[3.0, 4.0]]], [[0.0, 0.0]])
    5.0
    """
    x, y = check_ensemble(samples, true)
    out = np.empty(len(y))
    for spots, block in blocks(x):
        out[spots] = _norm(block - y[spots]).mean(axis=0) - _spread(block)
    return summary(out, per_spot)


def _norm(x: Cube) -> Matrix:
    """Euclidean norm over the last axis."""
    return np.sqrt(np.einsum("sbg,sbg->sb", x, x))


def _spread(x: Cube) -> Vector:
    """Half the mean distance of two different samples, per spot; 0 for a single sample."""
    m = len(x)
    total = np.zeros(x.shape[1])
    for s in range(m - 1):
        total += _norm(x[s + 1 :] - x[s]).sum(axis=0)
    return total / max(m * (m - 1), 1)


def variogram_score(
    samples: ArrayLike, true: ArrayLike, *, p: float = 0.5, per_spot: bool = False
) -> float | NDArray[np.float64]:
    r"""Variogram score of every spot over all pairs of genes (Scheuerer & Hamill 2015), by a fair estimator.

    .. math:: \frac{2}{G (G - 1)} \sum_{i < j} \left[ \left( |y_i - y_j|^p - \bar v_{ij} \right)^2
              - \frac{\operatorname{var}_s v_{sij}}{m} \right], \qquad v_{sij} = |x_{si} - x_{sj}|^p

    :math:`\bar v_{ij}` is the mean over the :math:`m` samples and var their sample variance (divisor :math:`m - 1`). The
    last term is what the noise of a mean of :math:`m` samples adds to the square: without it small ensembles score
    worse. The score sees differences of genes within a spot: correlations and variances that are wrong, and not a shift
    that all genes of a spot share.

    Parameters
    ----------
    samples
        Samples of the prediction, shape (n_samples, n_spots, n_genes), at least two genes. A single sample is a point
        prediction: the last term is left out.
    true
        Measured expression on the same scale, shape (n_spots, n_genes).
    p
        Exponent, above 0; 0.5 is usual, and robust to outliers.
    per_spot
        Whether to return a value for every spot.

    Returns
    -------
    The mean over spots, or values of shape (n_spots,), float64, in units of the expression scale to the power 2 p; low
    is good, and a spot can be negative.

    Raises
    ------
    HisDiffError
        If the shapes do not fit, there is one gene only, `p` is not above 0, or a value is not finite.

    References
    ----------
    Scheuerer & Hamill, Variogram-based proper scoring rules for probabilistic forecasts of multivariate quantities, Mon.
    Weather Rev. 143 (2015).

    Examples
    --------
    >>> hd.metrics.variogram_score([[[0.0, 4.0]]], [[0.0, 1.0]])  # (1 - 2)^2
    1.0
    >>> hd.metrics.variogram_score([[[0.0, 4.0]], [[0.0, 0.0]]], [[0.0, 1.0]])  # (1 - 1)^2 - 2 / 2
    -1.0
    """
    x, y = check_ensemble(samples, true)
    n_genes = y.shape[1]
    if n_genes < 2:
        raise HisDiffError("the variogram score compares pairs of genes, and there is one gene; use crps.")
    if not (np.isfinite(p) and p > 0):
        raise HisDiffError(f"p={p} is no exponent of a variogram; it has to be above 0 (0.5 is usual).")
    out = np.zeros(len(y))
    for spots, block in blocks(x):
        for i in range(n_genes - 1):
            out[spots] += _variogram_terms(block, y[spots], i, p)
    return summary(out * (2.0 / (n_genes * (n_genes - 1))), per_spot)


def _variogram_terms(x: Cube, y: Matrix, i: int, p: float) -> Vector:
    """Sum per spot of the fair terms of gene `i` with all later genes."""
    m = len(x)
    v, target = _power(x[:, :, i + 1 :] - x[:, :, i, None], p), _power(y[:, i + 1 :] - y[:, i, None], p)
    mean = v.mean(axis=0)
    terms = ((target - mean) ** 2).sum(axis=1)
    if m > 1:
        v -= mean
        terms -= np.einsum("sbg,sbg->b", v, v) / (m * (m - 1))
    return terms


def _power(difference: Cube | Matrix, p: float) -> NDArray[np.float64]:
    """|difference|^p in place of the difference; roots are several times quicker than powers."""
    np.abs(difference, out=difference)
    if p == 0.5:
        return np.sqrt(difference, out=difference)
    return difference if p == 1 else np.power(difference, p, out=difference)
