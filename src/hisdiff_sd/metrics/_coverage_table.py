from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hisdiff_sd.metrics._calibration import central_interval
from hisdiff_sd.metrics._samples import check_ensemble

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

_DECILES = 10


def coverage_table(samples: ArrayLike, true: ArrayLike, *, level: float = 0.9) -> dict[str, dict[str, float]]:
    """Coverage and width of the central interval by what was measured: zeros, others, and genes from rare to abundant.

    One number hides that zeros are covered too often and abundant genes too rarely. ``pd.DataFrame.from_dict(table,
    orient="index")`` makes a table of it. Zero and non-zero are chosen by the outcome: even a perfect model covers one
    more and the other less than `level`, so compare methods there, and judge calibration by ``"all"``, the deciles and
    `pit`.

    Parameters
    ----------
    samples
        Samples of the prediction, shape (n_samples, n_spots, n_genes); at least 19 for a level of 0.9.
    true
        Measured expression on the same scale, shape (n_spots, n_genes).
    level
        Nominal coverage, between 0 and 1.

    Returns
    -------
    Thirteen rows: ``"all"``, ``"zero"`` (measured as exactly 0), ``"non-zero"``, and ``"decile 1"`` ... ``"decile 10"``
    of the genes by their mean in `true` (1 is the rarest tenth). Each is a dictionary of ``coverage`` (share in the
    interval), ``width`` (mean, units of the expression scale) and ``n`` (values that were judged). Coverage and width of
    no value are NaN; panels of fewer than ten genes have such deciles.

    Raises
    ------
    HisDiffError
        If there are too few samples for the level, shapes do not fit or a value is not finite.

    Examples
    --------
    >>> samples = [[[float(i)], [float(i)]] for i in range(19)]
    >>> table = hd.metrics.coverage_table(samples, [[0.0], [20.0]])
    >>> table["all"], table["non-zero"]["coverage"], table["decile 1"]["n"]
    ({'coverage': 0.5, 'width': 18.0, 'n': 2.0}, 0.0, 2.0)
    """
    x, t = check_ensemble(samples, true)
    low, high = central_interval(x, level)
    inside, width = (low <= t) & (t <= high), high - low
    zero, n_genes = t == 0, t.shape[1]
    decile = np.empty(n_genes, np.int64)
    decile[np.argsort(t.mean(axis=0), kind="stable")] = np.arange(n_genes) * _DECILES // n_genes

    groups: dict[str, NDArray[np.bool_]] = {"all": np.ones_like(zero), "zero": zero, "non-zero": ~zero}
    groups |= {f"decile {d + 1}": np.broadcast_to(decile == d, t.shape) for d in range(_DECILES)}
    return {name: _row(inside, width, group) for name, group in groups.items()}


def _row(inside: NDArray[np.bool_], width: NDArray[np.float64], group: NDArray[np.bool_]) -> dict[str, float]:
    n = int(group.sum())
    if n == 0:
        return {"coverage": float("nan"), "width": float("nan"), "n": 0.0}
    return {"coverage": float(inside[group].mean()), "width": float(width[group].mean()), "n": float(n)}
