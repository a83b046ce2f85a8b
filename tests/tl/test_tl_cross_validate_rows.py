"""The rows of a cross-validation on arrays: what they learn, draw and refuse."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch

from hisdiff_sd import metrics
from hisdiff_sd._baselines import feature_matrix
from hisdiff_sd._errors import HisDiffError
from hisdiff_sd._inputs import Measured, SlideInputs
from hisdiff_sd.tl import _rows_learned
from hisdiff_sd.tl._row import FitContext, Shuffled, check_samples_of, fit_shared, row_settings, shuffle_conditions
from hisdiff_sd.tl._rows import BUILT_IN, resolve_rows
from hisdiff_sd.tl._rows_hisdiff import HisDiffRow, default_preset


@pytest.fixture(scope="module")
def data(arrays) -> tuple[list[SlideInputs], list[Measured]]:
    slides = [arrays.slide(s) for s in (1, 2, 3)]
    return slides, [arrays.measure(s) for s in slides]


@pytest.fixture
def context(tmp_path) -> FitContext:
    return FitContext(None, torch.device("cpu"), 0, tmp_path)


def fitted(name: str, data, context: FitContext):
    return fit_shared(BUILT_IN[name], *data, context)


# --- rows


@pytest.mark.parametrize("name", sorted(BUILT_IN))
def test_a_row_draws_what_it_promises_and_the_same_again(data, context, name, monkeypatch, arrays):
    monkeypatch.setattr(_rows_learned, "_EPOCHS", 3)
    row, new = fitted(name, data, context), arrays.slide(9)
    samples = check_samples_of(name, row.samples(new, 5, 0), new, arrays.n_genes, 5)
    assert len(samples) == (5 if name in ("dressed_ridge", "random_spot", "knn") else 1)
    assert samples.min() >= 0
    np.testing.assert_allclose(samples, row.samples(new, 5, 0), rtol=1e-9)
    if len(samples) > 1:
        assert np.abs(samples - row.samples(new, 5, 1)).max() > 0.1


@pytest.mark.parametrize("name", ["mlp", "forest", "knn_mean"])
def test_what_is_not_linear_is_learned_by_rows_that_can(data, context, name, arrays):
    new = arrays.slide(9)
    truth = arrays.measure(new).y
    error = {n: ((fitted(n, data, context).samples(new, 1, 0)[0] - truth) ** 2).mean() for n in ("mean", name)}
    assert error[name] < 0.9 * error["mean"]


@pytest.mark.parametrize(("name", "features"), [("ridge", "spot"), ("ridge_context", "context")])
def test_a_ridge_is_linear_in_its_own_features(data, context, name, features, arrays):
    slides = data[0]
    truth = [Measured(20 + feature_matrix(s, features)[:, : arrays.dim] @ arrays.weight, np.ones(s.n)) for s in slides]
    row, new = fitted(name, (slides, truth), context), arrays.slide(9)
    np.testing.assert_allclose(
        row.samples(new, 1, 0)[0], 20 + feature_matrix(new, features)[:, : arrays.dim] @ arrays.weight, atol=0.3
    )


def test_random_spots_and_neighbours_are_whole_measured_vectors(data, context, arrays):
    known = {tuple(row) for m in data[1] for row in m.y}
    for name in ("random_spot", "knn"):
        samples = fitted(name, data, context).samples(arrays.slide(9), 4, 0)
        assert {tuple(row) for row in samples.reshape(-1, arrays.n_genes)} <= known


def test_neighbours_are_the_nearest_and_their_mean_is_that_of_many_draws(data, context, arrays):
    row = fitted("knn", data, context)
    slide = data[0][0]
    assert (row.rows(slide)[:, 0] == np.arange(slide.n)).all()  # a training spot finds itself
    new = arrays.slide(9)
    np.testing.assert_allclose(row.samples(new, 4000, 0).mean(0), row.mean(new), atol=0.25)
    np.testing.assert_array_equal(fitted("knn_mean", data, context).samples(new, 1, 0)[0], row.mean(new))


def test_few_neighbours_where_the_measurement_is_exact_many_where_it_is_noise(arrays):
    slides = [arrays.slide(s) for s in (1, 2, 3)]
    # copies of one slide in other places: the nearest spot of another slide is the spot itself
    same = [dataclasses.replace(slides[0], name=s.name) for s in slides]
    exact = _rows_learned._fit_neighbours(same, [arrays.measure(s, 0) for s in same])
    rng = np.random.default_rng(0)
    noise = _rows_learned._fit_neighbours(
        slides, [Measured(rng.normal(5, 1, (s.n, arrays.n_genes)), np.ones(s.n)) for s in slides]
    )
    assert (exact.k, noise.k) == (1, max(_rows_learned._NEIGHBOURS))


def test_more_than_eight_slides_are_left_out_in_groups(data, arrays):
    slides = [arrays.slide(s) for s in range(1, 12)]
    folds = list(_rows_learned._folds(slides))
    assert len(folds) == 8
    judged = np.concatenate([left for _, left in folds])
    assert sorted(judged) == list(range(sum(s.n for s in slides)))
    for fit, left in folds:
        assert not set(fit // slides[0].n) & set(left // slides[0].n)  # no slide on both sides


def test_shuffled_conditions_are_those_of_another_spot_with_its_context(arrays):
    slide = arrays.slide(4)
    shuffled = shuffle_conditions(slide, 0)
    before, after = feature_matrix(slide, "context"), feature_matrix(shuffled, "context")
    order = [int(np.flatnonzero((slide.embedding == row).all(1))[0]) for row in shuffled.embedding]
    assert sorted(order) == list(range(slide.n))
    assert order != list(range(slide.n))
    np.testing.assert_allclose(after, before[order], rtol=1e-6, atol=1e-9)
    np.testing.assert_array_equal(shuffled.xy, slide.xy)
    assert list(shuffled.index) == list(slide.index)


def test_a_shuffled_row_keeps_its_values_and_loses_its_skill(data, context, arrays):
    row = fit_shared(Shuffled(BUILT_IN["ridge"]), *data, context)
    new = arrays.slide(9)
    shuffled, plain = row.samples(new, 1, 0)[0], fitted("ridge", data, context).samples(new, 1, 0)[0]
    np.testing.assert_allclose(np.sort(shuffled, 0), np.sort(plain, 0), rtol=1e-6)
    truth = arrays.measure(new).y
    assert metrics.pcc(shuffled, truth).mean() < 0.3 * metrics.pcc(plain, truth).mean()


def test_what_is_fitted_for_two_rows_is_fitted_once_and_its_time_counted_for_both(data, context, arrays):
    class Slow:
        name, fits = "slow", 0

        def fit(self, slides, truth, context):
            Slow.fits += 1
            context.spent_before(10.0)
            return self

        def samples(self, slide, n_samples, seed):
            return np.zeros((1, slide.n, arrays.n_genes))

    row = Slow()
    seconds = [context.timed(lambda r=r: fit_shared(r, *data, context))[1] for r in (row, Shuffled(row))]
    assert Slow.fits == 1
    assert min(seconds) >= 10


def test_rows_are_found_by_name_and_made_of_objects_and_functions(arrays):
    def mine(slides, truth):
        return lambda slide: np.zeros((slide.n, arrays.n_genes))

    names = [
        "ridge",
        "hisdiff",
        "hisdiff:published",
        "shuffled:knn",
        mine,
        HisDiffRow("small", epochs=3, label="short"),
    ]
    found = [r.name for r in resolve_rows(names)]
    assert found == ["ridge", f"hisdiff:{default_preset()}", "hisdiff:published", "shuffled:knn", "mine", "short"]
    default = [r.name for r in resolve_rows(None)]
    assert {"ridge", "dressed_ridge", "random_spot", f"shuffled:hisdiff:{default_preset()}"} <= set(default)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["rigde"], "no row 'rigde'; .*Did you mean 'ridge'"),
        (["shuffled:rigde"], "no row 'rigde'"),
        (["hisdiff:huge"], "no row 'hisdiff:huge'; .*'hisdiff:small'"),
        (["ridge", "ridge"], "more than once: ridge"),
        ([], "rows= is empty"),
        ("ridge", "is one row; give a list"),
        ([3], "3 is no row"),
    ],
)
def test_rows_that_are_none_are_refused(rows, message):
    with pytest.raises(HisDiffError, match=message):
        resolve_rows(rows)


def test_a_row_without_samples_is_refused(data, context):
    class Estimator:
        name = "estimator"

        def fit(self, *args):
            return None

    with pytest.raises(HisDiffError, match="'estimator': fit returned a Estimator, which has no samples"):
        fit_shared(Estimator(), *data, context)


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (np.zeros((100, 6)), r"shape \(100, 6\) for slide 'S9'"),
        (np.zeros((3, 100, 6)), r"\(5 or 1, 100 spots, 6 genes\) is needed"),
        (np.full((1, 100, 6), np.nan), "NaN or infinite values for slide 'S9'"),
    ],
)
def test_samples_that_are_none_are_refused(samples, message, arrays):
    with pytest.raises(HisDiffError, match=message):
        check_samples_of("mine", samples, arrays.slide(9), arrays.n_genes, 5)


def test_settings_of_a_row_tell_it_from_another_but_not_what_it_has_learned():
    class Mine:
        def __init__(self, depth: int) -> None:
            self.depth, self.learned_, self._cache = depth, depth * 2, object()

    assert row_settings(Mine(1)) != row_settings(Mine(2))
    assert list(row_settings(Mine(1))) == ["class", "depth"]
    assert row_settings(HisDiffRow("small")) != row_settings(HisDiffRow("small", epochs=3))
    assert row_settings(Shuffled(HisDiffRow("small"))) != row_settings(Shuffled(HisDiffRow("small", steps=3)))
    assert json.dumps(row_settings(BUILT_IN["knn"])) == json.dumps(row_settings(resolve_rows(["knn"])[0]))
