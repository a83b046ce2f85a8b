"""Intervals from resampled blocks of neighbouring spots, the same for everything that is compared."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from hisdiff_sd.metrics import compact_regions
from hisdiff_sd.metrics._check import is_flat
from hisdiff_sd.tl._row import stream

BLOCK = 25  # spots: 5 x 5 pitches; maps of tissue are alike at 2 or 3 pitches, and hardly beyond
_FEWEST_BLOCKS = 8
_FEWEST_UNITS = 5
_LEVELS = (2.5, 97.5)


class Blocks:
    """Resamples of one slide: compact blocks of spots, drawn with replacement, as many as there are.

    Neighbouring spots are alike, so that spots drawn one by one give intervals that are too narrow. Blocks have 25 spots
    (5 x 5 pitches), fewer on a slide of under 200 spots, so that there are at least 8. Every statistic of the slide
    uses the same resamples: differences are paired.

    Parameters
    ----------
    xy
        Spot centres, (n, 2).
    n_boot
        Number of resamples.
    seed
        Of the resamples.
    name
        Of the slide; other slides have other resamples.
    """

    def __init__(self, xy: np.ndarray, n_boot: int, seed: int, name: str = "") -> None:
        size = max(1, min(BLOCK, len(xy) // _FEWEST_BLOCKS))
        labels = compact_regions(xy, size=size)
        # the few spots that are left over are a block too: every spot counts
        self.labels = np.where(labels < 0, labels.max() + 1, labels)
        self.n = int(self.labels.max()) + 1
        drawn = stream(seed, "blocks", name).integers(self.n, size=(n_boot, self.n))
        self.counts = np.stack([np.bincount(row, minlength=self.n) for row in drawn])

    def means(self, values: np.ndarray) -> np.ndarray:
        """(n_boot,) mean of a value per spot (n,)."""
        total = np.bincount(self.labels, values, self.n)
        size = np.bincount(self.labels, minlength=self.n)
        return np.asarray((self.counts @ total) / (self.counts @ size))

    def recomputed(self, statistic: Callable[[np.ndarray], float]) -> np.ndarray:
        """(n_boot,) statistic of resampled spots, given as rows, each as often as it was drawn."""
        spots = [np.flatnonzero(self.labels == b) for b in range(self.n)]
        return np.array(
            [
                statistic(np.concatenate([s for s, k in zip(spots, row, strict=True) for _ in range(k)]))
                for row in self.counts
            ]
        )

    def correlations(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """(n_boot, G) `hd.metrics.pcc` of columns (n, G) over resampled spots, from sums of blocks: spots are read once."""
        drawn, size = self.counts.astype(np.float64), np.bincount(self.labels, minlength=self.n)
        n = (drawn @ size)[:, None]

        def mean(values: np.ndarray) -> np.ndarray:
            total = np.zeros((self.n, values.shape[1]))
            np.add.at(total, self.labels, values)
            return np.asarray(drawn @ total / n)

        # about the mean of the slide, so that differences of sums keep their digits
        p, t = (np.asarray(x, np.float64) - x.mean(0, dtype=np.float64) for x in (a, b))
        at_p, at_t = mean(p), mean(t)
        product = (mean(p * p) - at_p**2) * (mean(t * t) - at_t**2)
        flat = self._flat(a) | self._flat(b) | (product <= 0)
        r = np.where(flat, 0.0, (mean(p * t) - at_p * at_t) / np.sqrt(np.where(flat, 1.0, product)))
        return r.clip(-1, 1)

    def _flat(self, x: np.ndarray) -> np.ndarray:
        """(n_boot, G) whether a column does not vary over resampled spots."""
        low, high = np.full((self.n, x.shape[1]), np.inf), np.full((self.n, x.shape[1]), -np.inf)
        np.minimum.at(low, self.labels, x)
        np.maximum.at(high, self.labels, x)
        return np.stack([is_flat(low[row > 0].min(0), high[row > 0].max(0)) for row in self.counts])


class Units(NamedTuple):
    """What is independent among slides: the unit of every slide, and what is to be said of intervals."""

    of_slide: list[str]
    resampled: bool
    text: str


def independent_units(patients: Sequence[str]) -> Units:
    """Patients if there are five or more and all are known, else slides if there are five or more, else none."""
    n = len(patients)
    if all(patients) and len(set(patients)) >= _FEWEST_UNITS:
        return Units(list(patients), True, f"{len(set(patients))} patients, and blocks of spots within each slide")
    if n >= _FEWEST_UNITS:
        shared = " (as if those of one patient were independent)" if len(set(patients) - {""}) < n else ""
        return Units([str(i) for i in range(n)], True, f"{n} slides{shared}, and blocks of spots within each slide")
    return Units(
        [str(i) for i in range(n)],
        False,
        f"blocks of spots within each slide; {n} slide{'s' * (n > 1)} cannot tell how other slides or patients would vary",
    )


def pooled(of_slides: np.ndarray, units: Units, seed: int) -> np.ndarray:
    """(B,) means over slides of resamples (n_slides, B); units are resampled too if there are enough."""
    if not units.resampled:
        return np.asarray(of_slides.mean(0))
    rng = stream(seed, "units")
    names = sorted(set(units.of_slide))
    members = [np.flatnonzero(np.array(units.of_slide) == name) for name in names]
    out = np.empty(of_slides.shape[1])
    for b in range(len(out)):
        slides = np.concatenate([members[u] for u in rng.integers(len(members), size=len(members))])
        # a slide that is drawn twice is resampled twice
        out[b] = of_slides[slides, rng.integers(len(out), size=len(slides))].mean()
    return out


def interval(resamples: np.ndarray) -> tuple[float, float]:
    """Ends of the 95% percentile interval."""
    low, high = np.percentile(resamples, _LEVELS)
    return float(low), float(high)
