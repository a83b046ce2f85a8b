"""One slide as the arrays that models are fitted on and applied to."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from hisdiff_sd.tiles import Context


@dataclass(frozen=True)
class SlideInputs:
    """What a model sees of a slide.

    Attributes
    ----------
    name
        Id of the slide.
    index
        Barcodes, (n,).
    xy
        (n, 2) spot centres in level-0 px.
    embedding
        (n, E) float32.
    near, wide
        The 9 and 49 nearest spots of each spot, itself included (the published context).
    mpp
        um per level-0 px.
    """

    name: str
    index: pd.Index
    xy: np.ndarray
    embedding: np.ndarray
    near: Context
    wide: Context
    mpp: float = 1.0

    @property
    def xy_um(self) -> np.ndarray:
        """(n, 2) spot centres in um."""
        return self.xy * self.mpp

    @property
    def n(self) -> int:
        """Number of spots."""
        return len(self.index)


@dataclass(frozen=True)
class Measured:
    """What was measured on a slide, in the rows of its inputs.

    Attributes
    ----------
    y
        (n, G) float64 on the target scale.
    totals
        (n,) counts of all non-control genes.
    """

    y: np.ndarray
    totals: np.ndarray
