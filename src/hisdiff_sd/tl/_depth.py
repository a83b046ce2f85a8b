"""Samples at another sequencing depth than that of the training slides."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hisdiff_sd._errors import HisDiffError
from hisdiff_sd._noise import noise_stream
from hisdiff_sd._targets import from_target

_MOST = 40.0  # log2 of a count above which the noise is a millionth of it, and whole numbers soon end
COUNTS = "log2"  # the target whose values are of counts, and not of their share in the total


def check_depth(depth: float, target: str) -> None:
    """Refuse what is no depth, and a depth that the target does not depend on."""
    if not (np.isfinite(depth) and depth > 0):
        raise HisDiffError(
            f"depth={depth} is no sequencing depth; give the counts of a spot relative to the training slides, such as 0.1"
        )
    if depth != 1 and target != COUNTS:
        raise HisDiffError(
            f"depth={depth:g} is of counts, and the model's target {target!r} is relative to a spot's total, whatever the depth; "
            "leave depth= out"
        )


def at_depth(samples: np.ndarray, depth: float, seed: int, slide: str, instances: Sequence[str]) -> np.ndarray:
    """Samples as they would be measured with `depth` times the counts of the training slides.

    Fewer counts are a binomial part of those of a sample (between whole numbers one of the two is drawn), which adds the
    noise that shallow sequencing has. More are a multiple, whose relative noise stays that of the training slides.

    Parameters
    ----------
    samples
        float32 (n_samples, n, G), log2(count + 1).
    depth
        Counts relative to the training slides.
    seed, slide, instances
        What the noise is keyed by, with the number of the sample: the spots (n,) of the slide.

    Returns
    -------
    float32 (n_samples, n, G), log2(count + 1).
    """
    counts = from_target(np.minimum(samples, _MOST).astype(np.float64), COUNTS)
    if depth > 1:
        changed = depth * counts
    else:
        changed = np.empty(samples.shape)
        for k, of_sample in enumerate(counts):
            for row, values in enumerate(of_sample):
                stream = noise_stream(seed, slide, f"{instances[row]}|depth", k)
                whole = np.floor(values + stream.random(len(values))).astype(np.int64)
                changed[k, row] = stream.binomial(whole, depth)
    return np.where(samples > _MOST, samples + np.log2(depth), np.log2(1 + changed)).astype(np.float32)
