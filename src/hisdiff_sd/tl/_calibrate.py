"""How wide a flow's samples have to spread so that their intervals hold what they say."""

from __future__ import annotations

import numpy as np

from hisdiff_sd.metrics import coverage

SAMPLES, STEPS = 38, 10  # 19 samples, or twice as many, are those whose 90% intervals are exact
LEVEL = 0.9
_TEMPERATURES = np.arange(0.7, 1.41, 0.02)


def fit_temperature(base: np.ndarray, drawn: np.ndarray, truth: np.ndarray) -> float:
    """The factor of residuals (S, n, G) with which 90% intervals around `base` (n, G) hold 90% of `truth` (n, G)."""
    held = [float(coverage(np.maximum(base + t * drawn, 0), truth)) for t in _TEMPERATURES]
    return float(_TEMPERATURES[int(np.argmin(np.abs(np.array(held) - LEVEL)))])
