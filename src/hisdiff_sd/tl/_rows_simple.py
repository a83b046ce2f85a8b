"""Rows without a network: the training mean, one depth map, ridges, a random training spot."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from hisdiff_sd._baselines import Baselines, fit_baselines, tuned_ridge
from hisdiff_sd._inputs import Measured, SlideInputs
from hisdiff_sd.tl._row import FitContext, Fitted, Point, Row, stream

Fit = Callable[[Sequence[SlideInputs], Sequence[Measured], FitContext], Fitted]


@dataclass(frozen=True)
class BuiltIn:
    """A row of this package."""

    name: str
    fitting: Fit

    def fit(self, slides: Sequence[SlideInputs], truth: Sequence[Measured], context: FitContext) -> Fitted:
        """Call the function that fits it."""
        return self.fitting(slides, truth, context)


def _baselines(slides: Sequence[SlideInputs], truth: Sequence[Measured], context: FitContext) -> Baselines:
    made: Baselines = context.shared("baselines", lambda: fit_baselines(slides, truth))
    return made


def _point(method: str) -> Fit:
    def fit(slides: Sequence[SlideInputs], truth: Sequence[Measured], context: FitContext) -> Fitted:
        baselines = _baselines(slides, truth, context)
        return Point(lambda slide: baselines.predict(method, slide))

    return fit


def _ridge_on(features: str) -> Fit:
    def fit(slides: Sequence[SlideInputs], truth: Sequence[Measured], context: FitContext) -> Fitted:
        linear, _ = tuned_ridge(slides, np.concatenate([m.y for m in truth]), (features,))
        return Point(linear.predict)

    return fit


@dataclass(frozen=True)
class _Dressed:
    baselines: Baselines

    def samples(self, slide: SlideInputs, n_samples: int, seed: int) -> np.ndarray:
        return self.baselines.dressed(slide, n_samples, int(stream(seed, "dressed", slide.name).integers(2**31)))


def _dressed(slides: Sequence[SlideInputs], truth: Sequence[Measured], context: FitContext) -> Fitted:
    return _Dressed(_baselines(slides, truth, context))


@dataclass(frozen=True)
class _RandomSpot:
    measured: np.ndarray

    def samples(self, slide: SlideInputs, n_samples: int, seed: int) -> np.ndarray:
        rows = stream(seed, "random spot", slide.name).integers(len(self.measured), size=(n_samples, slide.n))
        return self.measured[rows]


def _random_spot(slides: Sequence[SlideInputs], truth: Sequence[Measured], context: FitContext) -> Fitted:
    return _RandomSpot(np.concatenate([m.y for m in truth]))


SIMPLE_ROWS: tuple[Row, ...] = (
    BuiltIn("mean", _point("mean")),
    BuiltIn("depth_map", _point("depth_map")),
    BuiltIn("ridge", _ridge_on("spot")),
    BuiltIn("ridge_context", _ridge_on("context")),
    BuiltIn("better_ridge", _point("ridge")),
    BuiltIn("dressed_ridge", _dressed),
    BuiltIn("random_spot", _random_spot),
)
