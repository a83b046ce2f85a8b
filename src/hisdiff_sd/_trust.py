"""What a model knows of its own limits: how far a tile lies from its training tiles, and which genes it can predict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from hisdiff_sd._errors import HisDiffError

if TYPE_CHECKING:
    from hisdiff_sd._inputs import SlideInputs

FALSE_DISCOVERY = 0.05  # largest q of a reliable gene
LOWEST_PCC = 0.2  # lowest PCC of a reliable gene: below it a map is beyond chance, but of no use

_EXPLAINED = 0.95
_MOST_AXES = 64
_SPOTS_PER_AXIS = 4
_LEFT_OUT_QUANTILE = 0.99
_STRIPES = 4
_SMALLEST = 1e-6  # variance of what never varied in training
_BLOCK = 16_384  # rows that are scored at once


@dataclass(frozen=True)
class OutOfDistribution:
    r"""Distance of a tile's embedding from those of the training slides.

    Embeddings are standardised. Their covariance :math:`C` is that of a probabilistic PCA (Tipping and Bishop 1999): the
    first :math:`k` axes with their variances :math:`\lambda_i`, and one variance :math:`\sigma^2` for all other
    directions, so that it can be inverted where there are fewer spots than dimensions. The score is the Mahalanobis
    distance, as Lee et al. (2018, NeurIPS) take it to find inputs that a network was not trained for, in units of
    left-out slides:

    .. math:: d(x) = \sqrt{\frac{1}{E} \left( \sum_{i=1}^{k} \frac{(v_i^\top z)^2}{\lambda_i}
                     + \frac{\lVert z \rVert^2 - \sum_i (v_i^\top z)^2}{\sigma^2} \right)}, \qquad
              \mathrm{score}(x) = d(x) \,/\, q_{99}

    :math:`z` is the standardised embedding of :math:`E` dimensions; :math:`q_{99}` is the 99th percentile of the distances of
    training spots, each slide measured by statistics of the others (of a single slide, each of four stripes). A score of 1
    is as far off as the farthest 1% of spots of a slide that was left out.

    Attributes
    ----------
    shift, scale
        (E,) float32, mean and standard deviation of the training spots.
    axes
        (k, E) float32, the first principal axes of standardised embeddings: as many as hold 95% of the variance, at most
        64 and at most one for four spots.
    variances
        (k,) float32, along the axes.
    rest
        Variance along every other direction.
    unit
        Distance that has the score 1.

    Examples
    --------
    >>> axis, deviation = np.array([[1.0, 0.0]]), np.array([3.0])
    >>> ood = OutOfDistribution(np.zeros(2), np.ones(2), axis, deviation**2, rest=1.0, unit=2.0)
    >>> ood.score(np.array([[0.0, 0.0], [3.0, 0.0], [0.0, 3.0]])).astype(float).round(2).tolist()
    [0.0, 0.35, 1.06]
    """

    shift: np.ndarray
    scale: np.ndarray
    axes: np.ndarray
    variances: np.ndarray
    rest: float
    unit: float

    @classmethod
    def fit(cls, slides: Sequence[SlideInputs]) -> OutOfDistribution:
        """Statistics of the spots of training slides."""
        parts = [s.embedding for s in slides] if len(slides) > 1 else _stripes(slides[0])
        centre = np.concatenate(parts).mean(0, dtype=np.float64)
        whole = sum((_Moments.of(p, centre) for p in parts), _Moments.none(len(centre)))
        left_out = [_gaussian(whole - _Moments.of(p, centre), centre).score(p) for p in parts]
        unit = max(float(np.quantile(np.concatenate(left_out), _LEFT_OUT_QUANTILE)), _SMALLEST)
        fitted = _gaussian(whole, centre)
        return cls(fitted.shift, fitted.scale, fitted.axes, fitted.variances, fitted.rest, unit)

    def score(self, embedding: np.ndarray) -> np.ndarray:
        """How far embeddings lie from the training slides.

        Parameters
        ----------
        embedding
            (n, E).

        Returns
        -------
        (n,) float32, 0 or more; above 1 a tile is not to be trusted.

        Raises
        ------
        HisDiffError
            If the embeddings are of another width.
        """
        if embedding.ndim != 2 or embedding.shape[1] != len(self.shift):
            raise HisDiffError(
                f"embeddings of shape {embedding.shape} cannot be scored; the training slides had (n, {len(self.shift)})"
            )
        out = np.empty(len(embedding), np.float32)
        axes, variances = self.axes.astype(np.float64), self.variances.astype(np.float64)
        for start in range(0, len(embedding), _BLOCK):
            z = (embedding[start : start + _BLOCK] - self.shift.astype(np.float64)) / self.scale
            along = (z @ axes.T) ** 2
            # rounding may leave less than nothing beside the axes
            beside = np.maximum((z**2).sum(1) - along.sum(1), 0.0)
            squared = ((along / variances).sum(1) + beside / self.rest) / z.shape[1]
            out[start : start + _BLOCK] = np.sqrt(squared) / self.unit
        return out

    def trusted(self, embedding: np.ndarray) -> np.ndarray:
        """(n,) bool: no farther from the training slides than the farthest 1% of spots of a left-out slide."""
        return self.score(embedding) <= 1


@dataclass(frozen=True)
class Reliability:
    """Which genes are predicted on slides that were left out of the training.

    Attributes
    ----------
    pcc
        (G,) float64, correlation of the predicted with the measured map, the mean over the left-out slides.
    p
        (G,) float64, part of spatially shifted predictions (`hisdiff_sd.metrics.shifted_null`) that reach that mean.
    q
        (G,) float64, `p` adjusted to false discovery rates (Benjamini and Hochberg 1995).
    reliable
        (G,) bool, q <= 0.05 and pcc >= 0.2.
    slides
        The slides that were left out in turn.
    samples, steps
        A prediction is the mean of so many samples of so many steps.
    shifts
        Number of shifts.
    """

    pcc: np.ndarray
    p: np.ndarray
    q: np.ndarray
    reliable: np.ndarray
    slides: tuple[str, ...]
    samples: int
    steps: int
    shifts: int


@dataclass(frozen=True)
class Trust:
    """What a model knows of its own limits.

    Attributes
    ----------
    ood
        Distance of a tile from the training tiles.
    genes
        Which genes are predicted on left-out slides; None if no slide was left out.
    """

    ood: OutOfDistribution
    genes: Reliability | None = None


@dataclass(frozen=True)
class _Moments:
    """Number, sum (E,) and sum of products (E, E) of rows, so that a slide is left out by a subtraction."""

    n: int
    total: np.ndarray
    products: np.ndarray

    @classmethod
    def of(cls, rows: np.ndarray, centre: np.ndarray) -> _Moments:
        # what is subtracted keeps digits that a large mean would take
        x = rows - centre
        return cls(len(x), x.sum(0), x.T @ x)

    @classmethod
    def none(cls, dim: int) -> _Moments:
        return cls(0, np.zeros(dim), np.zeros((dim, dim)))

    def __add__(self, other: _Moments) -> _Moments:
        return _Moments(self.n + other.n, self.total + other.total, self.products + other.products)

    def __sub__(self, other: _Moments) -> _Moments:
        return _Moments(self.n - other.n, self.total - other.total, self.products - other.products)


def _gaussian(moments: _Moments, centre: np.ndarray) -> OutOfDistribution:
    """Probabilistic PCA of what the moments are of, with distances as they are (unit 1)."""
    mean = moments.total / max(moments.n, 1)
    covariance = moments.products / max(moments.n, 1) - np.outer(mean, mean)
    spread = np.sqrt(np.maximum(np.diag(covariance), 0.0))
    # a dimension that never varies stays as it is
    scale = np.where(spread > _SMALLEST, spread, 1.0)
    values, vectors = np.linalg.eigh(covariance / np.outer(scale, scale))
    values, vectors = values[::-1].clip(0), vectors[:, ::-1]
    share = np.cumsum(values) / max(float(values.sum()), _SMALLEST)
    dim = len(values)
    k = min(int((share < _EXPLAINED).sum()) + 1, _MOST_AXES, moments.n // _SPOTS_PER_AXIS, dim - 1)
    return OutOfDistribution(
        shift=(centre + mean).astype(np.float32),
        scale=scale.astype(np.float32),
        axes=np.ascontiguousarray(vectors[:, :k].T, np.float32),
        variances=values[:k].clip(_SMALLEST).astype(np.float32),
        rest=max(float(values[k:].mean()), _SMALLEST),
        unit=1.0,
    )


def _stripes(slide: SlideInputs) -> list[np.ndarray]:
    """Embeddings of stripes across the longer side of the only slide."""
    along = slide.xy[:, np.ptp(slide.xy, axis=0).argmax()]
    return [slide.embedding[rows] for rows in np.array_split(np.argsort(along, kind="stable"), _STRIPES)]
