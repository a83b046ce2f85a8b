"""The rows that every result is judged beside: training mean, one depth map, a tuned ridge, a dressed ridge."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from hisdiff_sd._inputs import Measured, SlideInputs

PENALTIES = tuple(float(10**p) for p in np.arange(0.0, 5.1, 0.5))
FEATURES = ("spot", "context")
_MOST_RESIDUALS = 20_000
_STRIPES = 4


@dataclass(frozen=True)
class Linear:
    """A ridge regression on standardised features.

    Attributes
    ----------
    features
        ``"spot"`` (the embedding) or ``"context"`` (beside it the means over the near and the wide context).
    penalty
        Penalty of the standardised features.
    shift, scale
        (F,) of the features.
    weight, intercept
        (F, G) and (G,).
    """

    features: str
    penalty: float
    shift: np.ndarray
    scale: np.ndarray
    weight: np.ndarray
    intercept: np.ndarray

    def predict(self, slide: SlideInputs) -> np.ndarray:
        """(n, G) float64 on the target scale, clipped at zero counts."""
        x = (feature_matrix(slide, self.features) - self.shift) / self.scale
        return np.asarray((x @ self.weight + self.intercept).clip(0))


@dataclass(frozen=True)
class Baselines:
    """Everything learned on the training slides that `evaluate` prints beside a model.

    Attributes
    ----------
    mean
        (G,) mean of the training spots.
    top_variance
        Columns of the (at most) 50 genes of the highest training variance.
    ridge
        The tuned ridge; its features and penalty gave the lowest error on left-out training slides.
    residuals
        (m, G) out-of-fold residuals of that ridge, one row a training spot.
    depth
        Ridge of log2(total counts + 1), one output.
    depth_slope, depth_offset
        (G,) that turn the depth map into each gene's prediction, fitted out of fold.
    """

    mean: np.ndarray
    top_variance: np.ndarray
    ridge: Linear
    residuals: np.ndarray
    depth: Linear
    depth_slope: np.ndarray
    depth_offset: np.ndarray

    def predict(self, method: str, slide: SlideInputs) -> np.ndarray:
        """(n, G) prediction of ``"mean"``, ``"depth_map"`` or ``"ridge"``."""
        if method == "mean":
            return np.broadcast_to(self.mean, (slide.n, len(self.mean)))
        if method == "depth_map":
            return np.asarray((self.depth.predict(slide) * self.depth_slope + self.depth_offset).clip(0))
        return self.ridge.predict(slide)

    def dressed(self, slide: SlideInputs, n_samples: int, seed: int) -> np.ndarray:
        """(n_samples, n, G): the ridge plus a whole residual vector of a random training spot, clipped at zero counts."""
        x = (feature_matrix(slide, self.ridge.features) - self.ridge.shift) / self.ridge.scale
        base = x @ self.ridge.weight + self.ridge.intercept
        rows = np.random.default_rng(seed).integers(len(self.residuals), size=(n_samples, slide.n))
        return np.asarray((base + self.residuals[rows]).clip(0))


def fit_baselines(slides: Sequence[SlideInputs], truth: Sequence[Measured]) -> Baselines:
    """Fit all baselines on training slides; whatever is tuned is tuned by leaving slides out."""
    y = np.concatenate([m.y for m in truth])
    depth = np.concatenate([np.log2(m.totals + 1)[:, None] for m in truth])
    ridge, ridge_oof = tuned_ridge(slides, y)
    depth_map, depth_oof = tuned_ridge(slides, depth)
    residuals = y - ridge_oof
    if len(residuals) > _MOST_RESIDUALS:
        residuals = residuals[np.random.default_rng(0).choice(len(residuals), _MOST_RESIDUALS, replace=False)]
    centred = depth_oof - depth_oof.mean()
    slope = (centred * (y - y.mean(0))).sum(0) / max(float((centred**2).sum()), 1e-12)
    return Baselines(
        mean=y.mean(0),
        top_variance=np.argsort(-y.var(0), kind="stable")[:50],
        ridge=ridge,
        residuals=residuals,
        depth=depth_map,
        depth_slope=slope,
        depth_offset=y.mean(0) - slope * depth_oof.mean(),
    )


def feature_matrix(slide: SlideInputs, features: str) -> np.ndarray:
    """(n, F) float64 features of a slide's spots."""
    own = slide.embedding.astype(np.float64)
    if features == "spot":
        return own
    return np.hstack([own, slide.near.mean(own), slide.wide.mean(own)])


def tuned_ridge(
    slides: Sequence[SlideInputs], y: np.ndarray, choices: Sequence[str] = FEATURES
) -> tuple[Linear, np.ndarray]:
    """The ridge whose features and penalty have the lowest out-of-fold error, and its out-of-fold predictions."""
    best: tuple[float, str, float, np.ndarray] | None = None
    for features in choices:
        x = np.concatenate([feature_matrix(s, features) for s in slides])
        oof = np.empty((len(PENALTIES), *y.shape))
        for fit, left_out in left_out_rows(slides):
            oof[:, left_out] = _path(x[fit], y[fit], x[left_out])
        errors = [float(((predicted.clip(0) - y) ** 2).mean()) for predicted in oof]
        at = int(np.argmin(errors))
        if best is None or errors[at] < best[0]:
            best = (errors[at], features, PENALTIES[at], oof[at])
    assert best is not None
    _, features, penalty, predicted = best
    x = np.concatenate([feature_matrix(s, features) for s in slides])
    shift, scale = _standard(x)
    u, s, vt = np.linalg.svd((x - shift) / scale, full_matrices=False)
    weight = vt.T @ ((s / (s**2 + penalty))[:, None] * (u.T @ (y - y.mean(0))))
    return Linear(features, penalty, shift, scale, weight, y.mean(0)), predicted


def _path(x: np.ndarray, y: np.ndarray, left_out: np.ndarray) -> np.ndarray:
    """(penalties, n, G) ridge predictions for all penalties from one decomposition."""
    shift, scale = _standard(x)
    u, s, vt = np.linalg.svd((x - shift) / scale, full_matrices=False)
    projected = u.T @ (y - y.mean(0))
    basis = ((left_out - shift) / scale) @ vt.T
    return np.stack([basis @ ((s / (s**2 + p))[:, None] * projected) for p in PENALTIES]) + y.mean(0)


def _standard(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    scale = x.std(0)
    return x.mean(0), np.where(scale > 1e-9, scale, 1.0)


def left_out_rows(slides: Sequence[SlideInputs]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Rows to fit on and rows to judge on: a slide left out each time, or stripes across the longer side of the only slide."""
    if len(slides) > 1:
        group = np.repeat(np.arange(len(slides)), [s.n for s in slides])
    else:
        along = slides[0].xy[:, np.ptp(slides[0].xy, axis=0).argmax()]
        group = np.searchsorted(np.quantile(along, np.linspace(0, 1, _STRIPES + 1)[1:-1]), along)
    for g in np.unique(group):
        yield np.flatnonzero(group != g), np.flatnonzero(group == g)
