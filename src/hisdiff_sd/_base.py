"""The regression under a flow model: kernel ridge on embeddings that are standardised slide by slide."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hisdiff_sd._baselines import left_out_rows
from hisdiff_sd._inputs import Measured, SlideInputs
from hisdiff_sd.tiles import Context

_WIDTHS = (0.1, 0.3, 1.0)
_PENALTIES = tuple(float(10**p) for p in np.arange(-1.5, 1.6, 0.5))
_MOST_LANDMARKS = 1500
_SMALLEST = 1e-6  # deviation of what never varies
_TINY = 1e-7  # share of the largest eigenvalue of a kernel below which a direction is rounding
_BLOCK = 2048  # spots whose features are held at once


@dataclass(frozen=True)
class KernelRegression:
    r"""Kernel ridge regression, the mean of the regressions that leave out one training slide each.

    .. math:: f_g(x) = b_g + \sum_m w_{mg} \exp(-\gamma \lVert (x - l_m) / s \rVert^2 / F)

    :math:`x` are a spot's embedding and the means over its near and its wide context, each standardised over its slide: what
    a scanner or a stain changes in all tiles of a slide drops out, and nothing measured is used.

    Attributes
    ----------
    width
        :math:`\gamma`.
    penalty
        Of the kernel's weights.
    scale
        (F,) float32, standard deviation of the features over the training spots.
    landmarks
        (m, F) float32, features of training spots (all, or 1,500 of them).
    weight
        (m, G) float32.
    intercept
        (G,) float32.
    """

    width: float
    penalty: float
    scale: np.ndarray
    landmarks: np.ndarray
    weight: np.ndarray
    intercept: np.ndarray

    def predict(self, slide: SlideInputs) -> np.ndarray:
        """(n, G) float32 on the target scale, not clipped."""
        out = np.empty((slide.n, len(self.intercept)), np.float32)
        moments = _moments(slide)
        for start in range(0, slide.n, _BLOCK):
            rows = np.arange(start, min(start + _BLOCK, slide.n))
            x = _features(slide, rows, moments) / self.scale
            out[rows] = _kernel(x, self.landmarks, self.width) @ self.weight + self.intercept
        return out


def fit_regression(slides: Sequence[SlideInputs], truth: Sequence[Measured]) -> tuple[KernelRegression, np.ndarray]:
    """The regression whose width and penalty have the lowest error on left-out slides, and its out-of-fold predictions.

    Returns
    -------
    The mean of the regressions of all folds, so that its error on a new slide is like that of the out-of-fold predictions
    (n, G), float64, not clipped. A single slide is cut into stripes.
    """
    y = np.concatenate([m.y for m in truth])
    x = np.concatenate([_features(s, np.arange(s.n), _moments(s)) for s in slides])
    deviation = x.std(0)
    scale = np.where(deviation > _SMALLEST, deviation, 1.0).astype(np.float32)
    x = x / scale
    chosen = np.arange(len(x))
    if len(x) > _MOST_LANDMARKS:
        chosen = np.sort(np.random.default_rng(0).choice(len(x), _MOST_LANDMARKS, replace=False))
    landmarks = x[chosen]
    folds = list(left_out_rows(slides))
    best: tuple[float, float, int, np.ndarray, np.ndarray] | None = None
    for width in _WIDTHS:
        basis, to_landmarks = _basis(x, landmarks, width)
        oof = np.empty((len(_PENALTIES), *y.shape))
        weights = np.zeros((len(_PENALTIES), basis.shape[1], y.shape[1]))
        for fit, left_out in folds:
            fitted = _ridge_path(basis[fit], y[fit])
            oof[:, left_out] = basis[left_out] @ fitted + y[fit].mean(0)
            weights += fitted / len(folds)
        errors = [float(((predicted.clip(0) - y) ** 2).mean()) for predicted in oof]
        at = int(np.argmin(errors))
        if best is None or errors[at] < best[0]:
            best = (errors[at], width, at, oof[at], to_landmarks @ weights[at])
    assert best is not None
    _, width, at, predicted, weight = best
    intercept = np.mean([y[fit].mean(0) for fit, _ in folds], axis=0)
    made = KernelRegression(
        width, _PENALTIES[at], scale, landmarks, weight.astype(np.float32), intercept.astype(np.float32)
    )
    return made, predicted


def _moments(slide: SlideInputs) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of a slide's embeddings, (E,) each."""
    deviation = slide.embedding.std(0, dtype=np.float64)
    return slide.embedding.mean(0, dtype=np.float64), np.where(deviation > _SMALLEST, deviation, 1.0)


def _features(slide: SlideInputs, rows: np.ndarray, moments: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """(rows, 3 E) float32: embeddings and the means over their contexts, standardised over the slide."""
    shift, scale = moments
    contexts = (Context(c.index[rows], c.mask[rows]).mean(slide.embedding) for c in (slide.near, slide.wide))
    parts = [(values - shift) / scale for values in (slide.embedding[rows], *contexts)]
    return np.hstack(parts).astype(np.float32)


def _kernel(a: np.ndarray, b: np.ndarray, width: float) -> np.ndarray:
    """(n, m) Gaussian kernel; distances are means over the features, so that the width does not depend on their number."""
    squared = (a**2).sum(1)[:, None] + (b**2).sum(1) - 2 * a @ b.T
    return np.exp(-width / a.shape[1] * squared.clip(0))


def _basis(x: np.ndarray, landmarks: np.ndarray, width: float) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates (n, r) whose inner products are the kernel of the landmarks' span, and what leads to them (m, r)."""
    values, vectors = np.linalg.eigh(_kernel(landmarks, landmarks, width).astype(np.float64))
    kept = values > _TINY * values[-1]
    to_landmarks = vectors[:, kept] / np.sqrt(values[kept])
    return _kernel(x, landmarks, width) @ to_landmarks, to_landmarks


def _ridge_path(basis: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(penalties, r, G) weights for all penalties from one decomposition."""
    values, vectors = np.linalg.eigh(basis.T @ basis)
    projected = vectors.T @ (basis.T @ (y - y.mean(0)))
    return np.stack([vectors @ (projected / (values.clip(0) + p)[:, None]) for p in _PENALTIES])
