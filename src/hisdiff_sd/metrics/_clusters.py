from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial.distance import cdist

from hisdiff_sd._errors import HisDiffError
from hisdiff_sd.metrics._check import check_pair, standardise

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from hisdiff_sd.metrics._check import Matrix

    Labels = NDArray[np.int64]

_DIMENSIONS = 10  # principal components that are clustered
_RESTARTS = 10
_ROUNDS = 100


def cluster_agreement(pred: ArrayLike, true: ArrayLike, *, n_clusters: int = 5, seed: int = 0) -> float:
    r"""Adjusted Rand index of the clusters of predicted and of measured spots.

    .. math:: \frac{\sum_{ij} \binom{n_{ij}}{2} - E}
              {\frac{1}{2} \left[ \sum_i \binom{a_i}{2} + \sum_j \binom{b_j}{2} \right] - E},
              \qquad E = \frac{\sum_i \binom{a_i}{2} \sum_j \binom{b_j}{2}}{\binom{S}{2}}

    :math:`n_{ij}` spots lie in predicted cluster :math:`i` and measured cluster :math:`j`, :math:`a_i, b_j` are the sizes
    of these. Both sides are clustered by themselves: genes to z-scores, up to 10 principal components, k-means (the best
    of 10 starts).

    Parameters
    ----------
    pred, true
        Predicted and measured expression, shape (n_spots, n_genes).
    n_clusters
        Clusters on each side, 2 ... n_spots.
    seed
        Of the starts of k-means. The value moves from seed to seed where clusters are not distinct: report several.

    Returns
    -------
    The index: 1 for equal clusters, about 0 for unrelated ones; high is good.

    Raises
    ------
    HisDiffError
        If `n_clusters` is below 2 or above the number of spots, the shapes differ or a value is not finite.

    References
    ----------
    Hubert & Arabie, Comparing partitions, J. Classif. 2 (1985).

    Examples
    --------
    >>> true = [[0.0, 0.0], [0.1, 0.0], [5.0, 5.0], [5.1, 5.0]]
    >>> hd.metrics.cluster_agreement([[9.0, 9.0], [9.0, 9.1], [2.0, 2.0], [2.0, 2.1]], true, n_clusters=2)
    1.0
    """
    p, t = check_pair(pred, true)
    if not 2 <= n_clusters <= len(p):
        raise HisDiffError(f"n_clusters={n_clusters}; {len(p)} spots can be divided into 2 ... {len(p)} clusters.")
    return adjusted_rand(_kmeans(_components(p), n_clusters, seed), _kmeans(_components(t), n_clusters, seed))


def adjusted_rand(a: Labels, b: Labels) -> float:
    """Adjusted Rand index of two labelings (n,), of integers of 0 or more."""
    table = np.zeros((a.max() + 1, b.max() + 1))
    np.add.at(table, (a, b), 1.0)
    both, of_a, of_b, of_all = (
        float((n * (n - 1)).sum()) / 2 for n in (table, table.sum(axis=1), table.sum(axis=0), table.sum())
    )
    expected = of_a * of_b / of_all if of_all else 0.0
    most = (of_a + of_b) / 2
    # nothing can be told apart: all spots in one cluster on both sides, or each in its own
    return 1.0 if most == expected else (both - expected) / (most - expected)


def _components(x: Matrix) -> Matrix:
    """Scores of the first principal components of the z-scored genes."""
    u, s, _ = np.linalg.svd(standardise(x), full_matrices=False)
    return (u * s)[:, :_DIMENSIONS]


def _kmeans(x: Matrix, k: int, seed: int) -> Labels:
    """Labels of the best of several runs of k-means."""
    rng = np.random.default_rng(seed)
    runs = [_lloyd(x, _spread_centres(x, k, rng)) for _ in range(_RESTARTS)]
    return min(runs, key=lambda run: run[1])[0]


def _spread_centres(x: Matrix, k: int, rng: np.random.Generator) -> Matrix:
    """Centres for k-means to start from, far from each other (k-means++)."""
    chosen = [int(rng.integers(len(x)))]
    while len(chosen) < k:
        distance = cdist(x, x[chosen], "sqeuclidean").min(axis=1)
        total = distance.sum()
        chosen.append(int(rng.choice(len(x), p=distance / total if total > 0 else None)))
    return x[chosen]


def _lloyd(x: Matrix, centres: Matrix) -> tuple[Labels, float]:
    """Labels and sum of squares after k-means; a cluster that loses all its spots keeps its centre."""
    labels = np.full(len(x), -1, np.int64)
    for _ in range(_ROUNDS):
        distance = cdist(x, centres, "sqeuclidean")
        nearest = distance.argmin(axis=1)
        if np.array_equal(nearest, labels):
            break
        labels = nearest
        centres = np.array(
            [x[labels == c].mean(axis=0) if (labels == c).any() else centres[c] for c in range(len(centres))]
        )
    return labels, float(cdist(x, centres, "sqeuclidean").min(axis=1).sum())
