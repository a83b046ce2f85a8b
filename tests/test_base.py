"""The regression under a flow: that it learns, that its predictions are out of fold, and what a scanner cannot change."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest

from hisdiff_sd import _base
from hisdiff_sd._base import fit_regression
from hisdiff_sd._inputs import Measured, SlideInputs
from hisdiff_sd.metrics import pcc
from hisdiff_sd.tiles import nearest

E, G = 6, 3


def a_slide(name: str, seed: int, n: int = 100) -> tuple[SlideInputs, Measured]:
    """Expression is a curved function of the embedding, and of the mean over the neighbours."""
    rng = np.random.default_rng(seed)
    xy = np.column_stack(np.divmod(np.arange(n), 10)).astype(float)
    embedding = rng.normal(size=(n, E)).astype(np.float32)
    near, wide = nearest(xy, 9), nearest(xy, 49)
    around = near.mean(embedding)
    y = np.column_stack([embedding[:, 0] ** 2, 2 * np.tanh(2 * embedding[:, 1]), 4 * around[:, 2]])
    y = y + 3 + 0.2 * rng.normal(size=y.shape)
    return SlideInputs(name, pd.Index([f"s{i}" for i in range(n)]), xy, embedding, near, wide), Measured(y, y.sum(1))


@pytest.fixture(scope="module")
def slides():
    return [a_slide(f"S{i}", i) for i in range(3)]


@pytest.fixture(scope="module")
def fitted(slides):
    return fit_regression([s for s, _ in slides], [m for _, m in slides])


def test_it_predicts_a_new_slide_with_curves_and_context(fitted):
    slide, truth = a_slide("new", 9)
    r = pcc(fitted[0].predict(slide), truth.y)
    assert (r > [0.55, 0.8, 0.5]).all(), r


def test_a_linear_model_could_not_tell_the_first_gene(slides):
    """The test above would not be passed by a ridge."""
    slide, truth = slides[0]
    x = np.column_stack([slide.embedding, np.ones(slide.n)])
    linear = x @ np.linalg.lstsq(x, truth.y[:, 0], rcond=None)[0]
    assert abs(np.corrcoef(linear, truth.y[:, 0])[0, 1]) < 0.4


def test_predictions_are_out_of_fold(slides, fitted):
    """Those of a slide do not change when its own measurements do; the model's do."""
    inputs, truth = [s for s, _ in slides], [m for _, m in slides]
    spoiled = [dataclasses.replace(truth[0], y=truth[0].y[::-1]), *truth[1:]]
    again, predicted = fit_regression(inputs, spoiled)
    first = slice(0, inputs[0].n)
    if again.penalty == fitted[0].penalty:
        np.testing.assert_allclose(predicted[first], fitted[1][first], atol=1e-6)
    assert not np.allclose(predicted[inputs[0].n :], fitted[1][inputs[0].n :], atol=1e-2)


def test_a_scanner_that_shifts_and_stretches_all_tiles_changes_nothing(fitted):
    slide, _ = a_slide("new", 9)
    rng = np.random.default_rng(0)
    other = dataclasses.replace(
        slide, embedding=(slide.embedding * rng.uniform(0.5, 2, E) + rng.normal(size=E)).astype(np.float32)
    )
    np.testing.assert_allclose(fitted[0].predict(other), fitted[0].predict(slide), atol=1e-3)


def test_blocks_do_not_change_predictions(fitted, monkeypatch):
    slide, _ = a_slide("new", 9)
    whole = fitted[0].predict(slide)
    monkeypatch.setattr(_base, "_BLOCK", 7)
    np.testing.assert_allclose(fitted[0].predict(slide), whole, atol=1e-4)


def test_with_all_spots_as_landmarks_it_is_kernel_ridge_as_scikit_learn_has_it():
    from sklearn.kernel_ridge import KernelRidge

    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(60, 6)), rng.normal(size=(60, 2))
    basis, _ = _base._basis(x, x)
    weights = _base._ridge_path(basis[:40], y[:40])
    at = _base._PENALTIES.index(1.0)

    def kernel(a: np.ndarray, b: np.ndarray) -> float:
        spot, whole = (((a[k] - b[k]) ** 2).mean() for k in (slice(2), slice(None)))
        return float(np.mean([np.exp(-g * d) for g in (0.1, 0.3, 1) for d in (spot, whole)]))

    reference = KernelRidge(alpha=1.0, kernel=kernel).fit(x[:40], y[:40] - y[:40].mean(0))
    np.testing.assert_allclose(basis[40:] @ weights[at], reference.predict(x[40:]), atol=1e-6)


def test_few_landmarks_do_nearly_as_well(slides, fitted, monkeypatch):
    monkeypatch.setattr(_base, "_MOST_LANDMARKS", 150)
    fewer, _ = fit_regression([s for s, _ in slides], [m for _, m in slides])
    assert fewer.landmarks.shape == (150, 3 * E)
    slide, truth = a_slide("new", 9)
    assert pcc(fewer.predict(slide), truth.y).mean() > pcc(fitted[0].predict(slide), truth.y).mean() - 0.1


def test_one_slide_is_cut_into_stripes_and_a_constant_embedding_does_no_harm():
    slide, truth = a_slide("S", 3)
    slide.embedding[:, 5] = 2.0
    made, predicted = fit_regression([slide], [truth])
    assert np.isfinite(made.predict(slide)).all()
    assert pcc(predicted, truth.y)[1] > 0.6
