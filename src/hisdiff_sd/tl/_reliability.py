"""Which genes to believe, from predictions of slides that were left out."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
from scipy.stats import false_discovery_control

from hisdiff_sd._errors import HisDiffError
from hisdiff_sd._inputs import Measured, SlideInputs
from hisdiff_sd._trust import FALSE_DISCOVERY, LOWEST_PCC, Reliability
from hisdiff_sd.metrics import pcc, shifted_null

logger = logging.getLogger("hisdiff_sd")

SHIFTS = 1000


def judge_genes(
    slides: Sequence[SlideInputs],
    truth: Sequence[Measured],
    predicted: Sequence[np.ndarray],
    *,
    samples: int,
    steps: int,
    seed: int,
) -> Reliability | None:
    """Judge every gene by predictions of left-out slides against their measurements.

    Parameters
    ----------
    slides, truth
        The slides, and what was measured on them.
    predicted
        (n, G) of each slide, by a model that was trained without it.
    samples, steps
        How the predictions were made.
    seed
        Of the spatial shifts.

    Returns
    -------
    PCC, p, q and verdict of every gene; None, with a warning, if a slide cannot be judged, as one of a few spots.
    """
    pairs = list(zip(predicted, (m.y for m in truth), strict=True))
    try:
        observed = np.mean([pcc(p, y) for p, y in pairs], axis=0)
        nulls = [
            shifted_null(p, y, s.xy, n_shifts=SHIFTS, seed=seed + i)
            for i, (s, (p, y)) in enumerate(zip(slides, pairs, strict=True))
        ]
    except HisDiffError as error:
        logger.warning("which genes are reliable cannot be told: %s", error)
        return None
    null = np.mean(nulls, axis=0)
    p_values = (1 + (null >= observed).sum(axis=0)) / (1 + SHIFTS)
    q = false_discovery_control(p_values)
    reliable = (q <= FALSE_DISCOVERY) & (observed >= LOWEST_PCC)
    logger.info("%d of %d genes are reliable on left-out slides", int(reliable.sum()), len(reliable))
    return Reliability(observed, p_values, q, reliable, tuple(s.name for s in slides), samples, steps, SHIFTS)
