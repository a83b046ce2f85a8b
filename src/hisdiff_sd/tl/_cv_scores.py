"""What is computed of stored samples and the measurement of one slide."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import numpy as np

from hisdiff_sd import metrics
from hisdiff_sd.tl._bootstrap import Blocks
from hisdiff_sd.tl._gather import spot_grid

MOST_SINGLES = 16
_REGION = 25  # spots
_FEWEST_FOR_MORAN = 9  # spots
_LEVEL = 0.9
_FEWEST_TO_HALVE = 4  # samples
_NEIGHBOURS = {"square": 4, "hexagonal": 6}
Function = Callable[[np.ndarray, np.ndarray], float]


@dataclass(frozen=True)
class Judged:
    """Samples of one slide beside its measurement.

    Attributes
    ----------
    samples
        (S, n, G) on the target scale; S is 1 for a point prediction.
    true
        (n, G) measured.
    xy
        (n, 2) spot centres.
    known
        Values per spot of metrics that were computed before; those that are computed are added.
    """

    samples: np.ndarray
    true: np.ndarray
    xy: np.ndarray
    known: dict[str, np.ndarray] = field(default_factory=dict)

    @cached_property
    def mean(self) -> np.ndarray:
        """(n, G) mean of the samples, float64."""
        return np.asarray(self.samples.mean(0, dtype=np.float64))

    @cached_property
    def graph(self) -> Any:
        """Neighbours on the grid: 6 of a hexagonal one, else 4."""
        return metrics.neighbour_graph(self.xy, _NEIGHBOURS.get(spot_grid(self.xy), 4))

    def per_spot(self, metric: str) -> np.ndarray:
        """(n,) a score of `PER_SPOT`."""
        if metric not in self.known:
            self.known[metric] = PER_SPOT[metric](self)
        return self.known[metric]

    def singles(self, function: Function, rows: np.ndarray | slice = slice(None)) -> float:
        """Mean of a score over single samples, at most 16, at some spots."""
        true = self.true[rows]
        return float(np.mean([function(s[rows].astype(np.float64), true) for s in self.samples[:MOST_SINGLES]]))


def _coverage(j: Judged) -> np.ndarray:
    if not _covers(j):
        return np.full(len(j.true), np.nan)
    return np.asarray(metrics.coverage(j.samples, _rounded(j), level=_LEVEL, per_spot=True))


def _rounded(j: Judged) -> np.ndarray:
    """The measurement with the digits of the samples, as they are stored: a count that was drawn is a count that is covered."""
    return j.true.astype(j.samples.dtype)


def _region_coverage(j: Judged) -> float:
    if not _covers(j) or len(j.true) < _REGION:
        return float("nan")
    regions = metrics.compact_regions(j.xy, size=_REGION)
    return metrics.region_coverage(j.samples, j.true, regions, level=_LEVEL)


def _moran(j: Judged, function: Callable[[np.ndarray, np.ndarray, Any], float]) -> float:
    if len(j.true) < _FEWEST_FOR_MORAN:
        return float("nan")
    return j.singles(lambda p, t: function(p, t, j.graph))


def _covers(j: Judged) -> bool:
    """Whether the 5% and 95% quantiles are among the samples at all."""
    return len(j.samples) + 1 >= round(2 / (1 - _LEVEL))


def _fair(j: Judged, function: Callable[..., Any]) -> np.ndarray:
    """Mean of a fair score of every second sample and of the others.

    A fair score needs independent samples. Those of a flow come in pairs of opposite noise, which would make it look better
    than it is; within either half there are no pairs. All rows are treated alike.
    """
    halves = [j.samples[0::2], j.samples[1::2]] if len(j.samples) >= _FEWEST_TO_HALVE else [j.samples]
    return np.mean([function(half, j.true, per_spot=True) for half in halves], axis=0)


def _variogram(j: Judged) -> np.ndarray:
    if j.true.shape[1] < 2:
        return np.full(len(j.true), np.nan)
    return _fair(j, metrics.variogram_score)


def _best(r: np.ndarray, k: int) -> np.ndarray:
    """Mean of the k highest along the last axis, as `hd.metrics.pcc_top`."""
    return np.asarray(np.sort(r, axis=-1)[..., ::-1][..., :k].mean(-1))


def _of_correlations(name: str, j: Judged, rows: np.ndarray | slice) -> float:
    return float(OF_CORRELATIONS[name](metrics.pcc(j.mean[rows], j.true[rows])))


# the score of a slide is the mean of a value per spot
PER_SPOT: dict[str, Callable[[Judged], np.ndarray]] = {
    "mse": lambda j: ((j.mean - j.true) ** 2).mean(1),
    "mae": lambda j: np.abs(j.mean - j.true).mean(1),
    "crps": lambda j: _fair(j, metrics.crps),
    "energy": lambda j: _fair(j, metrics.energy_score),
    "variogram": _variogram,
    "coverage90": _coverage,
}
# a score of the correlations of the genes (..., G)
OF_CORRELATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "pcc10": lambda r: _best(r, 10),
    "pcc50": lambda r: _best(r, 50),
    "pcc_all": lambda r: np.asarray(r.mean(-1)),
}
# a score of any set of spots
OF_SPOTS: dict[str, Callable[[Judged, np.ndarray | slice], float]] = {
    **{name: partial(_of_correlations, name) for name in OF_CORRELATIONS},
    "rvd_single": lambda j, rows: j.singles(metrics.rvd, rows),
    "log_var_ratio_single": lambda j, rows: j.singles(metrics.log_var_ratio, rows),
    "gene_corr_single": lambda j, rows: j.singles(metrics.gene_corr_error, rows),
}
# a score of the slide as a whole: neighbours cannot be resampled
OF_SLIDE: dict[str, Callable[[Judged], float]] = {
    "moran_single": lambda j: _moran(j, metrics.moran_corr),
    "moran_error_single": lambda j: _moran(j, metrics.moran_error),
    "coverage90_regions": _region_coverage,
}
METRICS = (
    "pcc10",
    "pcc50",
    "pcc_all",
    "mse",
    "mae",
    "rvd_single",
    "log_var_ratio_single",
    "gene_corr_single",
    "moran_single",
    "moran_error_single",
    "crps",
    "energy",
    "variogram",
    "coverage90",
    "coverage90_regions",
)


def resampled(j: Judged, asked: Sequence[str], blocks: Blocks) -> dict[str, np.ndarray]:
    """Metric -> (n_boot,) its values of resampled spots."""
    out: dict[str, np.ndarray] = {}
    correlations = blocks.correlations(j.mean, j.true) if set(asked) & set(OF_CORRELATIONS) else None
    for metric in asked:
        if metric in PER_SPOT:
            out[metric] = blocks.means(j.per_spot(metric))
        elif correlations is not None and metric in OF_CORRELATIONS:
            out[metric] = OF_CORRELATIONS[metric](correlations)
        else:
            out[metric] = blocks.recomputed(partial(OF_SPOTS[metric], j))
    return out


def score(j: Judged, metric: str) -> float:
    """One metric of one slide."""
    if metric in PER_SPOT:
        return float(j.per_spot(metric).mean())
    if metric in OF_SPOTS:
        return OF_SPOTS[metric](j, slice(None))
    return OF_SLIDE[metric](j)
