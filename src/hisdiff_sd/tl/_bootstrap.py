"""Intervals from resampled blocks of neighbouring spots, the same for everything that is compared."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from hisdiff_sd.metrics import compact_regions
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
