from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hisdiff_sd.metrics._samples import blocks, check_ensemble

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


def pit(samples: ArrayLike, true: ArrayLike, *, seed: int = 0) -> NDArray[np.float64]:
    r"""Randomised probability integral transform: where the measured value ranks among the samples.

    .. math:: \frac{\#\{s : x_s < t\} + U\, (1 + \#\{s : x_s = t\})}{m + 1}, \qquad U \sim \mathcal U(0, 1)

    Counts are discrete, and most are zero in many genes: among equal values the rank is drawn at random, and so is the
    place within the rank. The histogram of a calibrated model is flat whatever the distribution and the number of
    samples (Czado et al. 2009). A U shape means samples that are too narrow, a hump samples that are too wide, a slope
    samples that are too low (rising) or too high. Values are equal if they are so as float64: bring samples and truth to
    the scale in one precision, or only zeros are.

    Parameters
    ----------
    samples
        Samples of the prediction, shape (n_samples, n_spots, n_genes).
    true
        Measured expression on the same scale, shape (n_spots, n_genes).
    seed
        Of the random ranks.

    Returns
    -------
    Values between 0 and 1, shape (n_spots, n_genes), float64.

    Raises
    ------
    HisDiffError
        If the shapes do not fit or a value is not finite.

    References
    ----------
    Czado, Gneiting & Held, Predictive model assessment for count data, Biometrics 65 (2009).

    Examples
    --------
    >>> samples = [[[0.0, 5.0]], [[0.0, 5.0]], [[0.0, 5.0]]]
    >>> values = hd.metrics.pit(samples, [[1.0, 1.0]])  # above all three, below all three
    >>> bool(0.75 <= values[0, 0] <= 1), bool(0 <= values[0, 1] <= 0.25)
    (True, True)
    """
    x, t = check_ensemble(samples, true)
    out = np.random.default_rng(seed).random(t.shape)
    for spots, block in blocks(x):
        below, equal = (block < t[spots]).sum(axis=0), (block == t[spots]).sum(axis=0)
        out[spots] = (below + out[spots] * (1 + equal)) / (len(x) + 1)
    return out
