"""The rows beside every result, against truths that are known and against scikit-learn."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Ridge

from hisdiff_sd._baselines import FEATURES, PENALTIES, Baselines, feature_matrix, fit_baselines
from hisdiff_sd._inputs import Measured, SlideInputs
from hisdiff_sd.tiles import nearest

DIM, GENES = 5, 4
WEIGHT = np.random.default_rng(99).normal(size=(DIM, GENES))


def a_slide(n: int = 80, seed: int = 0, shift: float = 0.0) -> SlideInputs:
    rng = np.random.default_rng(seed)
    xy = rng.uniform(0, 1000, (n, 2))
    embedding = (rng.normal(size=(n, DIM)) + shift).astype(np.float32)
    return SlideInputs(
        f"S{seed}", pd.Index([f"b{i}" for i in range(n)]), xy, embedding, nearest(xy, 9), nearest(xy, 49)
    )


def measure(slide: SlideInputs, what: str = "spot", noise: float = 0.0, seed: int = 0) -> Measured:
    """Expression that is linear in the embedding of the spot, or in the mean of its near context; well above zero."""
    rng = np.random.default_rng([seed, slide.n])
    seen = slide.embedding if what == "spot" else slide.near.mean(slide.embedding.astype(np.float64))
    y = 20 + seen @ WEIGHT + rng.normal(size=(slide.n, GENES)) * noise
    return Measured(y, 2.0 ** (8 + slide.embedding[:, 0]))


def fitted(what: str = "spot", noise: float = 0.0, n_slides: int = 3, n: int = 80):
    slides = [a_slide(n, seed, shift=0.3 * seed) for seed in range(1, n_slides + 1)]
    truth = [measure(s, what, noise, i) for i, s in enumerate(slides)]
    return slides, truth, fit_baselines(slides, truth)


def groups(slides: list[SlideInputs]) -> np.ndarray:
    return np.repeat(np.arange(len(slides)), [s.n for s in slides])


def by_sklearn(slides, y: np.ndarray, group: np.ndarray, features: str, penalty: float) -> np.ndarray:
    """Out-of-fold predictions with scikit-learn, each fold standardised by itself."""
    x = np.concatenate([feature_matrix(s, features) for s in slides])
    out = np.empty_like(y)
    for g in np.unique(group):
        fit, left = group != g, group == g
        mean, std = x[fit].mean(0), x[fit].std(0)
        model = Ridge(alpha=penalty).fit((x[fit] - mean) / std, y[fit])
        out[left] = model.predict((x[left] - mean) / std)
    return out


@pytest.mark.parametrize("what", FEATURES)
def test_a_linear_truth_is_recovered(what):
    slides, truth, baselines = fitted(what, noise=0.01)
    new = a_slide(seed=50, shift=1.0)
    expected = measure(new, what).y
    error = np.abs(baselines.predict("ridge", new) - expected).mean()
    assert error < 0.05 * expected.std()
    assert baselines.ridge.features == what
    assert baselines.ridge.penalty == PENALTIES[0]


def test_noise_asks_for_a_higher_penalty():
    weak, strong = (fitted(noise=noise, n=20)[2].ridge.penalty for noise in (0.01, 20.0))
    assert weak < strong


@pytest.mark.parametrize("noise", [0.05, 3.0])
@pytest.mark.parametrize("what", FEATURES)
def test_features_and_penalty_have_the_lowest_error_on_left_out_slides(what, noise):
    slides, truth, baselines = fitted(what, noise, n=30)
    y = np.concatenate([m.y for m in truth])
    errors = {
        (features, penalty): ((by_sklearn(slides, y, groups(slides), features, penalty).clip(0) - y) ** 2).mean()
        for features in FEATURES
        for penalty in PENALTIES
    }
    assert (baselines.ridge.features, baselines.ridge.penalty) == min(errors, key=errors.get)


@pytest.mark.parametrize("noise", [0.05, 3.0])
def test_the_ridge_is_that_of_scikit_learn(noise):
    slides, truth, baselines = fitted(noise=noise)
    x = np.concatenate([feature_matrix(s, baselines.ridge.features) for s in slides])
    mean, std = x.mean(0), x.std(0)
    reference = Ridge(alpha=baselines.ridge.penalty).fit((x - mean) / std, np.concatenate([m.y for m in truth]))
    new = a_slide(seed=50)
    expected = reference.predict((feature_matrix(new, baselines.ridge.features) - mean) / std)
    np.testing.assert_allclose(baselines.predict("ridge", new), expected, rtol=1e-9)


def test_features_are_the_spot_and_the_means_of_its_contexts():
    slide = a_slide(seed=3)
    own = slide.embedding.astype(np.float64)
    np.testing.assert_array_equal(feature_matrix(slide, "spot"), own)
    distance = np.linalg.norm(slide.xy[:, None] - slide.xy[None], axis=2).argsort(1)
    expected = np.hstack([own, own[distance[:, :9]].mean(1), own[distance[:, :49]].mean(1)])
    np.testing.assert_allclose(feature_matrix(slide, "context"), expected, rtol=1e-9, atol=1e-12)


def test_residuals_are_those_on_left_out_slides():
    slides, truth, baselines = fitted(noise=2.0)
    y = np.concatenate([m.y for m in truth])
    out_of_fold = by_sklearn(slides, y, groups(slides), baselines.ridge.features, baselines.ridge.penalty)
    np.testing.assert_allclose(baselines.residuals, y - out_of_fold, rtol=1e-8, atol=1e-8)


def test_a_single_slide_is_cut_into_stripes():
    slide = a_slide(n=80, seed=1)
    slide = dataclasses.replace(slide, xy=slide.xy * [0.5, 1.0])
    stripe = slide.xy[:, 1].argsort().argsort() // 20  # four, of twenty spots each, across the longer side
    truth = measure(slide, noise=1.0)
    baselines = fit_baselines([slide], [truth])
    out_of_fold = by_sklearn([slide], truth.y, stripe, baselines.ridge.features, baselines.ridge.penalty)
    np.testing.assert_allclose(baselines.residuals, truth.y - out_of_fold, rtol=1e-8, atol=1e-8)
    assert np.abs(baselines.predict("ridge", a_slide(seed=9)) - measure(a_slide(seed=9)).y).mean() < 0.5


@pytest.mark.parametrize("heights", [np.zeros(30), np.arange(30) % 2 * 200.0], ids=["one row", "two rows"])
def test_a_single_slide_of_few_rows_is_cut_too(heights):
    slide = a_slide(n=30, seed=1)
    xy = np.column_stack([np.arange(30) * 100.0, heights])
    slide = dataclasses.replace(slide, xy=xy, near=nearest(xy, 9), wide=nearest(xy, 49))
    baselines = fit_baselines([slide], [measure(slide, noise=0.1)])
    assert np.isfinite(baselines.residuals).all()
    assert np.abs(baselines.predict("ridge", slide) - measure(slide).y).mean() < 0.5


def test_the_mean_is_that_of_all_training_spots():
    slides, truth, baselines = fitted(noise=1.0)
    predicted = baselines.predict("mean", a_slide(n=7, seed=8))
    assert predicted.shape == (7, GENES)
    np.testing.assert_allclose(predicted, np.tile(np.concatenate([m.y for m in truth]).mean(0), (7, 1)))


def test_top_variance_are_the_genes_that_vary_most():
    slides = [a_slide(seed=s) for s in (1, 2)]
    rng = np.random.default_rng(0)
    scale = rng.permutation(60) + 1.0
    truth = [Measured(rng.normal(size=(s.n, 60)) * scale + 200, rng.uniform(1, 9, s.n)) for s in slides]
    baselines = fit_baselines(slides, truth)
    variance = np.concatenate([m.y for m in truth]).var(0)
    assert len(baselines.top_variance) == 50
    assert list(baselines.top_variance) == list(np.argsort(-variance)[:50])
    assert len(fitted()[2].top_variance) == GENES


def low(n_slides: int = 3) -> tuple[list[SlideInputs], list[Measured]]:
    """Expression that a line would take below zero."""
    slides = [a_slide(seed=s) for s in range(1, n_slides + 1)]
    return slides, [Measured((s.embedding @ WEIGHT).clip(0).astype(np.float64), np.full(s.n, 50.0)) for s in slides]


@pytest.mark.parametrize("method", ["mean", "depth_map", "ridge", "dressed"])
def test_nothing_is_predicted_below_zero_counts(method):
    slides, truth = low()
    baselines = fit_baselines(slides, truth)
    new = a_slide(seed=7)
    raw = (feature_matrix(new, baselines.ridge.features) - baselines.ridge.shift) / baselines.ridge.scale
    assert (raw @ baselines.ridge.weight + baselines.ridge.intercept).min() < 0  # else the test could not fail
    values = baselines.dressed(new, 4, 0) if method == "dressed" else baselines.predict(method, new)
    assert values.min() >= 0


def test_one_map_of_depth_serves_all_genes():
    slides = [a_slide(seed=s) for s in (1, 2, 3)]
    loading, rng = np.array([1.0, 0.5, -0.7, 0.0]), np.random.default_rng(1)
    truth = []
    for slide in slides:
        depth = 8 + slide.embedding[:, 0].astype(np.float64)
        y = 20 + depth[:, None] * loading + rng.normal(size=(slide.n, GENES)) * 0.05
        truth.append(Measured(y, 2.0**depth - 1))
    baselines = fit_baselines(slides, truth)
    new = a_slide(seed=8)
    maps = baselines.predict("depth_map", new)
    centred = maps - maps.mean(0)
    assert np.linalg.svd(centred, compute_uv=False)[1] < 1e-9 * np.linalg.norm(centred)
    np.testing.assert_allclose(baselines.depth_slope, loading, atol=0.02)
    expected = 20 + (8 + new.embedding[:, :1].astype(np.float64)) * loading
    np.testing.assert_allclose(maps, expected, atol=0.2)
    depth = baselines.depth.predict(new)
    assert depth.shape == (new.n, 1)
    np.testing.assert_allclose(depth[:, 0], 8 + new.embedding[:, 0], atol=0.1)


def correlated(slides: list[SlideInputs]) -> list[Measured]:
    """Linear in the spot, plus noise that genes 0 and 1 share, genes 2 and 3 have in opposite ways."""
    rng = np.random.default_rng(5)
    out = []
    for slide in slides:
        shared = rng.normal(size=(slide.n, 2))
        noise = np.column_stack([shared[:, 0], shared[:, 0], shared[:, 1], -shared[:, 1]])
        noise = (noise + 0.3 * rng.normal(size=noise.shape)) * [1.0, 2.0, 0.5, 3.0]
        out.append(Measured(50 + slide.embedding @ WEIGHT + noise, np.full(slide.n, 100.0)))
    return out


def test_the_dressed_ridge_spreads_and_hangs_together_as_the_residuals_do():
    slides = [a_slide(n=300, seed=s) for s in (1, 2, 3)]
    truth = correlated(slides)
    baselines = fit_baselines(slides, truth)
    new = a_slide(n=300, seed=8)
    draws = baselines.dressed(new, 40, seed=0)
    assert draws.shape == (40, 300, GENES)
    added = draws - baselines.predict("ridge", new)
    np.testing.assert_allclose(added.std((0, 1)), np.array([1.0, 2.0, 0.5, 3.0]) * np.sqrt(1.09), rtol=0.1)
    np.testing.assert_allclose(added.mean((0, 1)), 0, atol=0.1)
    found = np.corrcoef(added.reshape(-1, GENES), rowvar=False)
    expected = np.corrcoef(baselines.residuals, rowvar=False)
    np.testing.assert_allclose(found, expected, atol=0.05)
    assert expected[0, 1] > 0.85
    assert expected[2, 3] < -0.85
    # over the spots of one draw the spread of the measurement is met, which the ridge alone loses
    measured = correlated([new])[0].y
    np.testing.assert_allclose(draws[0].var(0), measured.var(0), rtol=0.25)
    assert (baselines.predict("ridge", new).var(0) < 0.9 * measured.var(0)).any()


def test_a_draw_adds_whole_residual_rows():
    slides, truth, baselines = fitted(noise=1.0)
    new = a_slide(n=10, seed=8)
    added = (baselines.dressed(new, 3, seed=4) - baselines.predict("ridge", new)).reshape(-1, GENES)
    distance = np.abs(added[:, None] - baselines.residuals[None]).max(2)
    assert distance.min(1).max() < 1e-9
    assert len(set(distance.argmin(1))) > 15  # different spots get different rows


def test_draws_depend_on_the_seed_alone():
    _, _, baselines = fitted(noise=1.0)
    new = a_slide(n=10, seed=8)
    np.testing.assert_array_equal(baselines.dressed(new, 3, seed=4), baselines.dressed(new, 3, seed=4))
    assert np.abs(baselines.dressed(new, 3, seed=4) - baselines.dressed(new, 3, seed=5)).max() > 0.1


def test_residuals_of_many_spots_are_thinned(monkeypatch):
    monkeypatch.setattr("hisdiff_sd._baselines._MOST_RESIDUALS", 50)
    slides, truth, thinned = fitted(noise=1.0)
    monkeypatch.undo()
    _, _, full = fitted(noise=1.0)
    assert thinned.residuals.shape == (50, GENES)
    rows = {tuple(row) for row in full.residuals}
    assert {tuple(row) for row in thinned.residuals} <= rows
    assert len({tuple(row) for row in thinned.residuals}) == 50


def all_rows(baselines: Baselines, slide: SlideInputs) -> np.ndarray:
    return np.stack([baselines.predict(m, slide) for m in ("mean", "depth_map", "ridge")])


def test_what_is_fitted_does_not_depend_on_the_slide_it_is_applied_to():
    _, _, baselines = fitted(noise=1.0)
    new, other = a_slide(seed=8), a_slide(seed=9, shift=5.0)
    before = all_rows(baselines, new)
    all_rows(baselines, other)
    np.testing.assert_array_equal(all_rows(baselines, new), before)
    # a spot's prediction is its own: the spots may come in any order
    order = np.random.default_rng(0).permutation(new.n)
    shuffled = dataclasses.replace(
        new,
        index=new.index[order],
        xy=new.xy[order],
        embedding=new.embedding[order],
        near=nearest(new.xy[order], 9),
        wide=nearest(new.xy[order], 49),
    )
    np.testing.assert_allclose(all_rows(baselines, shuffled), before[:, order], rtol=1e-9)


@settings(max_examples=25, deadline=None)
@given(
    scale=st.lists(st.floats(1e-2, 1e2), min_size=DIM, max_size=DIM),
    shift=st.lists(st.floats(-10, 10), min_size=DIM, max_size=DIM),
)
def test_scale_and_shift_of_the_features_change_nothing(scale, shift):
    slides = [a_slide(n=25, seed=s) for s in (1, 2)]
    truth = [measure(s, noise=0.5) for s in slides]
    new = a_slide(n=25, seed=8)

    def moved(slide: SlideInputs) -> SlideInputs:
        return dataclasses.replace(slide, embedding=slide.embedding.astype(np.float64) * scale + shift)

    plain = fit_baselines(slides, truth).predict("ridge", new)
    again = fit_baselines([moved(s) for s in slides], truth).predict("ridge", moved(new))
    np.testing.assert_allclose(again, plain, rtol=1e-5)


def test_a_feature_that_never_varies_does_no_harm():
    slides = [a_slide(seed=s) for s in (1, 2)]
    slides = [dataclasses.replace(s, embedding=np.column_stack([s.embedding, np.full(s.n, 3.3)])) for s in slides]
    truth = [Measured(20 + s.embedding[:, :DIM] @ WEIGHT, np.full(s.n, 100.0)) for s in slides]
    baselines = fit_baselines(slides, truth)
    assert np.isfinite(baselines.residuals).all()
    np.testing.assert_allclose(baselines.predict("ridge", slides[0]), truth[0].y, atol=0.5)


def test_more_features_than_spots_are_regularised():
    rng = np.random.default_rng(0)
    slides = []
    for s in (1, 2, 3):
        slide = a_slide(n=12, seed=s)
        slides.append(dataclasses.replace(slide, embedding=rng.normal(size=(12, 200)).astype(np.float32)))
    truth = [Measured(rng.uniform(1, 5, (12, GENES)), rng.uniform(50, 90, 12)) for _ in slides]
    baselines = fit_baselines(slides, truth)
    assert baselines.ridge.penalty >= 100  # there is nothing to be learned
    assert np.isfinite(all_rows(baselines, slides[0])).all()
