from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

from hisdiff_sd._errors import HisDiffError
from hisdiff_sd.metrics._calibration import coverage
from hisdiff_sd.metrics._samples import check_ensemble

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


def region_coverage(samples: ArrayLike, true: ArrayLike, regions: ArrayLike, *, level: float = 0.9) -> float:
    r"""Share of measured means over regions inside the central interval of the samples' means.

    .. math:: \frac{1}{RG} \sum_{r, g} \mathbf 1 [\, l_{rg} \le \bar t_{rg} \le u_{rg} \,]

    The interval is that of `coverage`, of the samples of the region's mean. Samples that are calibrated at every spot
    cover far too little here if they are drawn independently from spot to spot, while errors of a model are not
    independent. The mean is that of the values as they are given: the mean of logs is no log of the mean.

    Parameters
    ----------
    samples
        Samples of the prediction, shape (n_samples, n_spots, n_genes), each sample drawn for all spots together; at
        least 19 for a level of 0.9.
    true
        Measured expression on the same scale, shape (n_spots, n_genes).
    regions
        Region of every spot, shape (n_spots,), integers; -1 for none. `compact_regions` makes them.
    level
        Nominal coverage, between 0 and 1.

    Returns
    -------
    The share, over regions and genes, in [0, 1].

    Raises
    ------
    HisDiffError
        If there is no region or too few samples for the level, shapes do not fit or a value is not finite.

    Examples
    --------
    >>> samples = [[[float(i)], [0.0]] for i in range(19)]  # their mean: 0 ... 9
    >>> hd.metrics.region_coverage(samples, [[10.0], [6.0]], [0, 0]), hd.metrics.region_coverage(samples, [[10.0], [9.0]], [0, 0])
    (1.0, 0.0)
    """
    x, t = check_ensemble(samples, true)
    labels = np.asarray(regions)
    if labels.shape != (len(t),) or not np.issubdtype(labels.dtype, np.integer):
        raise HisDiffError(
            f"regions has the shape {labels.shape} and type {labels.dtype}; it has to be ({len(t)},) integers, -1 for none."
        )
    spots = np.flatnonzero(labels >= 0)
    if spots.size == 0:
        raise HisDiffError("regions holds no region: no label is 0 or more.")
    _, row, size = np.unique(labels[spots], return_inverse=True, return_counts=True)
    mean = sparse.csr_array((1.0 / size[row], (row, spots)), shape=(size.size, len(t)))
    return float(coverage(np.stack([mean @ one.astype(np.float64) for one in x]), mean @ t, level=level))


def compact_regions(xy: ArrayLike, size: int = 25, seed: int = 0) -> NDArray[np.int64]:
    """Divide the spots into compact regions of equal size, by cutting the slide in two again and again.

    Each cut is straight, across the longer side of what it cuts, along one of two axes whose angle is drawn at random.

    Parameters
    ----------
    xy
        Spot centres, shape (n_spots, 2), in any unit.
    size
        Spots of a region.
    seed
        Of the angle; other seeds give other regions.

    Returns
    -------
    Region of every spot, shape (n_spots,), int64: 0 ... n_spots // size - 1, each of exactly `size` spots; -1 for the
    fewer than `size` spots that are left, all on one edge of the slide.

    Raises
    ------
    HisDiffError
        If `xy` is not (n_spots, 2) and finite, or `size` is below 1 or above the number of spots.

    Examples
    --------
    >>> labels = hd.metrics.compact_regions([[0, 0], [1, 0], [10, 0], [11, 0], [20, 0]], size=2)
    >>> sorted(labels.tolist())
    [-1, 0, 0, 1, 1]
    """
    centres = np.asarray(xy, np.float64)
    if centres.ndim != 2 or centres.shape[1] != 2 or not np.isfinite(centres).all():
        raise HisDiffError(f"xy has the shape {centres.shape} or is not finite; it has to be (n_spots, 2), finite.")
    if not 1 <= size <= len(centres):
        raise HisDiffError(f"size={size} spots cannot be a region of a slide of {len(centres)} spots.")
    angle = np.random.default_rng(seed).uniform(0.0, np.pi)
    turned = centres @ np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    n_regions = len(centres) // size
    labels = np.full(len(centres), -1, np.int64)
    along = int(np.ptp(turned, axis=0).argmax())
    whole = np.argsort(turned[:, along], kind="stable")[: n_regions * size]
    parts, found = [(whole, n_regions)], 0
    while parts:
        spots, n = parts.pop()
        if n == 1:
            labels[spots] = found
            found += 1
            continue
        axis = int(np.ptp(turned[spots], axis=0).argmax())
        ordered = spots[np.argsort(turned[spots, axis], kind="stable")]
        half = n // 2
        parts += [(ordered[half * size :], n - half), (ordered[: half * size], half)]
    return labels
