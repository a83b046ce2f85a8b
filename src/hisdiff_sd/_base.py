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
    r"""Kernel ridge regression on spots and their surroundings.

    .. math:: f_g(x) = b_g + \sum_m w_{mg} k(x / s, l_m), \qquad
              k(x, l) = \frac{1}{6} \sum_{\gamma} \left(e^{-\gamma \lVert x_1 - l_1 \rVert^2 / E}
              + e^{-\gamma \lVert x - l \rVert^2 / 3 E}\right), \quad \gamma \in \{0.1, 0.3, 1\}

    :math:`x` are a spot's embedding :math:`x_1` and the means over its near and its wide context, each standardised over its
    slide: what a scanner or a stain changes in all tiles of a slide drops out, and nothing measured is used.

    Attributes
    ----------
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
            out[rows] = _kernel(x, self.landmarks) @ self.weight + self.intercept
        return out


def fit_regression(slides: Sequence[SlideInputs], truth: Sequence[Measured]) -> tuple[KernelRegression, np.ndarray]:
    """The regression whose penalty has the lowest error on left-out slides, and its out-of-fold predictions.

    Returns
    -------
    The regression of all slides, and predictions (n, G), float64, not clipped, by regressions that left the spot's slide out. A
    single slide is cut into stripes.
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
    basis, to_landmarks = _basis(x, landmarks)
    oof = np.empty((len(_PENALTIES), *y.shape))
    for fit, left_out in left_out_rows(slides):
        oof[:, left_out] = basis[left_out] @ _ridge_path(basis[fit], y[fit]) + y[fit].mean(0)
    at = int(np.argmin([float(((predicted.clip(0) - y) ** 2).mean()) for predicted in oof]))
    weight = (to_landmarks @ _ridge_path(basis, y)[at]).astype(np.float32)
    return KernelRegression(_PENALTIES[at], scale, landmarks, weight, y.mean(0).astype(np.float32)), oof[at]


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


def _kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(n, m) mean of Gaussian kernels of all widths, on the spot alone and on spot and context.

    Distances are means over the features, so that widths do not depend on their number.
    """
    own = a.shape[1] // 3
    out = np.zeros((len(a), len(b)), np.result_type(a, b))
    for features in (slice(own), slice(None)):
        p, q = a[:, features], b[:, features]
        squared = ((p**2).sum(1)[:, None] + (q**2).sum(1) - 2 * p @ q.T).clip(0) / p.shape[1]
        for width in _WIDTHS:
            out += np.exp(-width * squared)
    return out / (2 * len(_WIDTHS))


def _basis(x: np.ndarray, landmarks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates (n, r) whose inner products are the kernel of the landmarks' span, and what leads to them (m, r)."""
    values, vectors = np.linalg.eigh(_kernel(landmarks, landmarks).astype(np.float64))
    kept = values > _TINY * values[-1]
    to_landmarks = vectors[:, kept] / np.sqrt(values[kept])
    return _kernel(x, landmarks) @ to_landmarks, to_landmarks


def _ridge_path(basis: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(penalties, r, G) weights for all penalties from one decomposition."""
    values, vectors = np.linalg.eigh(basis.T @ basis)
    projected = vectors.T @ (basis.T @ (y - y.mean(0)))
    return np.stack([vectors @ (projected / (values.clip(0) + p)[:, None]) for p in _PENALTIES])
