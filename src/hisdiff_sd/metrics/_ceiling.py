from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from hisdiff_sd._errors import HisDiffError
from hisdiff_sd.metrics._correlation import pcc

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


def thinning_ceiling(
    counts: Any, target: str = "log2", *, totals: ArrayLike | None = None, seed: int = 0, repeats: int = 10
) -> NDArray[np.float64]:
    r"""Correlation that a perfect prediction of a gene's rate would have with its counts, by binomial thinning.

    Every count is split at random into two halves, which are two independent measurements at half the depth. Their
    correlation :math:`r` on the target scale, brought to full depth by Spearman and Brown, is the reliability of the
    counts, and its root the ceiling of `pcc`:

    .. math:: c = \sqrt{\frac{2 r}{1 + r}}, \qquad \text{halves } h \text{ as }
              \log_2(2 h + 1) \text{ or } \log(1 + 10^4 \cdot 2 h / \mathrm{total})

    Parameters
    ----------
    counts
        Raw counts, shape (n_spots, n_genes), array or scipy sparse matrix; whole numbers.
    target
        Scale of the correlation: ``"log2"`` or ``"cp10k"``.
    totals
        Counts of all genes of the slide's file, shape (n_spots,), for ``"cp10k"``; None: the sums over the given genes.
    seed
        Of the halves.
    repeats
        Splits; :math:`r` is the mean over them.

    Returns
    -------
    Ceilings, shape (n_genes,), float64, in [0, 1]; 0 for a gene whose halves do not correlate. It holds if counting is
    the only noise, as of a Poisson: what varies from spot to spot without being visible counts as signal, so that the
    real ceiling is lower. On a log scale, and with few counts, Spearman and Brown hold approximately. A root makes much of
    little: in a gene without any pattern, chance alone gives about (4 / n_spots)^(1/4), a quarter for 1,000 spots.

    Raises
    ------
    HisDiffError
        If counts are no whole numbers of 0 or more, shapes do not fit, the target is unknown or `repeats` is below 1.

    References
    ----------
    Spearman, Correlation calculated from faulty data, and Brown, Some experimental results in the correlation of mental
    abilities, both Br. J. Psychol. 3 (1910).

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> rate = np.exp(rng.normal(size=(500, 1)))
    >>> counts = rng.poisson(np.hstack([0.1 * rate, 100 * rate]))  # the same map, shallow and deep
    >>> shallow, deep = hd.metrics.thinning_ceiling(counts)
    >>> bool(shallow < 0.6), bool(deep > 0.98)
    (True, True)
    """
    from hisdiff_sd._targets import to_target

    x = _whole(counts)
    if repeats < 1:
        raise HisDiffError(f"repeats={repeats} splits nothing; it has to be 1 or more.")
    total = x.sum(axis=1).astype(np.float64) if totals is None else np.asarray(totals, np.float64)
    if total.shape != (len(x),) or not np.isfinite(total).all() or (total < 0).any():
        raise HisDiffError(f"totals has the shape {total.shape}; it has to be ({len(x)},) counts of 0 or more.")
    rng = np.random.default_rng(seed)
    r = np.zeros(x.shape[1])
    for _ in range(repeats):
        half = rng.binomial(x, 0.5)
        r += pcc(to_target(2 * half, total, target), to_target(2 * (x - half), total, target)) / repeats
    # halves that correlate negatively tell of no reliability
    r = np.clip(r, 0.0, 1.0)
    return np.sqrt(2.0 * r / (1.0 + r))


def _whole(counts: Any) -> NDArray[np.int64]:
    """Raw counts (n_spots, n_genes), or an error."""
    x = np.asarray(counts.toarray() if sparse.issparse(counts) else counts, np.float64)
    if x.ndim != 2 or x.size == 0:
        raise HisDiffError(f"counts has the shape {x.shape}; it has to be (n_spots, n_genes), not empty.")
    wrong = ~(np.isfinite(x) & (x >= 0) & (x == np.floor(x)))
    if wrong.any():
        raise HisDiffError(
            f"counts holds {int(wrong.sum())} values that are no counts, as {x[wrong][0]:.6g}; only raw counts, whole "
            "numbers of 0 or more, can be thinned."
        )
    return x.astype(np.int64)
