"""What a flow model has beside its network: the regression it stands on, the noise of a slide, the calibration."""

from __future__ import annotations

from dataclasses import dataclass

from hisdiff_sd._base import KernelRegression
from hisdiff_sd._noise import SharedNoise


@dataclass(frozen=True)
class Residual:
    """Samples are the regression's prediction plus `temperature` times the residual that the network draws, clipped at zero.

    Attributes
    ----------
    base
        The regression.
    noise
        What spots share of their noise.
    temperature
        Factor with which 90% intervals of left-out training slides hold 90% of what was measured (of two slides or one: with
        which those around out-of-fold predictions do).
    """

    base: KernelRegression
    noise: SharedNoise
    temperature: float = 1.0
