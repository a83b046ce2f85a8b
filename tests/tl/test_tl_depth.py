"""Predictions at another sequencing depth than that of the training slides."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from spatialdata import SpatialData

import hisdiff_sd as hd
from hisdiff_sd._errors import HisDiffError
from hisdiff_sd.tl._depth import at_depth

ATTRS = "hisdiff_sd"
IDS = [f"s{i}" for i in range(40)]


@pytest.fixture
def slide(open_store) -> SpatialData:
    return open_store("S3")


def predict(sdata: SpatialData, model: hd.HisDiff, **options) -> np.ndarray:
    hd.tl.predict(sdata, model, **{"n_samples": 4, "steps": 3, "keep_samples": 4, **options})
    return np.stack([np.asarray(sdata["hisdiff"].layers[f"sample_{k}"]) for k in range(4)])


def counts_of(samples: np.ndarray) -> np.ndarray:
    return np.exp2(samples.astype(np.float64)) - 1


def test_a_tenth_of_the_depth_has_a_tenth_of_the_counts_and_the_noise_of_few(slide, tiny_model):
    deep = predict(slide, tiny_model)
    shallow = predict(slide, tiny_model, depth=0.1, overwrite=True)
    assert slide["hisdiff"].uns[ATTRS]["depth"] == 0.1
    ours = counts_of(shallow)
    np.testing.assert_allclose(ours, np.round(ours), atol=1e-3 * (1 + ours.max()))  # whole counts
    expected = 0.1 * counts_of(deep)
    assert abs((ours - expected).sum()) < 5 * np.sqrt(expected.sum() + expected.size)
    assert (ours > np.ceil(10 * expected) + 1e-3 * (1 + ours)).sum() == 0  # no more than there were


def test_more_depth_multiplies(slide, tiny_model):
    once = predict(slide, tiny_model)
    twice = predict(slide, tiny_model, depth=2, overwrite=True)
    np.testing.assert_allclose(counts_of(twice), 2 * counts_of(once), rtol=1e-3, atol=1e-3)


def test_the_depth_of_training_changes_nothing(slide, tiny_model):
    np.testing.assert_array_equal(predict(slide, tiny_model, depth=1), predict(slide, tiny_model, overwrite=True))


def test_the_noise_depends_on_neither_batch_nor_place(slide, tiny_model):
    whole = predict(slide, tiny_model, depth=0.5)
    by_one = predict(slide, tiny_model, depth=0.5, batch_size=1, overwrite=True)
    # samples that differ by rounding may round to another whole count, seldom
    assert (np.abs(whole - by_one) > 1e-4).mean() < 0.01


def test_another_depth_is_not_taken_for_the_same(slide, tiny_model):
    predict(slide, tiny_model, depth=0.5)
    with pytest.raises(HisDiffError, match=r"depth: 0\.5 there, 1 asked for"):
        predict(slide, tiny_model)


def test_a_prediction_that_says_no_depth_has_that_of_training(slide, tiny_model):
    before = predict(slide, tiny_model)
    del slide["hisdiff"].uns[ATTRS]["depth"]  # as tables were before there was a choice
    slide["hisdiff"].layers["sample_0"][:] = 7
    assert (predict(slide, tiny_model)[0] == 7).all()  # kept
    with pytest.raises(HisDiffError, match=r"depth: None there, 0\.5 asked for"):
        predict(slide, tiny_model, depth=0.5)
    np.testing.assert_array_equal(predict(slide, tiny_model, overwrite=True), before)


@pytest.mark.parametrize("depth", [0, -1, np.nan, np.inf])
def test_what_is_no_depth_is_refused(slide, tiny_model, depth):
    with pytest.raises(HisDiffError, match="no sequencing depth; give the counts of a spot relative to the training"):
        predict(slide, tiny_model, depth=depth)
    assert "hisdiff" not in slide.tables


@pytest.mark.parametrize(
    "use",
    [
        lambda slide, model: hd.tl.predict(slide, model, depth=0.5),
        lambda slide, model: hd.tl.exceedance(slide, model, 1.0, depth=0.5),
        lambda slide, model: hd.tl.region_mean(slide, model, np.zeros(41, int), depth=0.5),
    ],
)
def test_a_target_without_depth_is_refused(slide, tiny_model, use):
    relative = dataclasses.replace(tiny_model.config, target="cp10k")
    model = hd.HisDiff(tiny_model.network, relative, tiny_model.scalers)
    with pytest.raises(HisDiffError, match=r"target 'cp10k' is relative to a spot's total, .*; leave depth= out"):
        use(slide, model)


def test_exceedance_and_regions_are_at_the_depth_too(slide, tiny_model):
    likely = []
    for depth in (1, 0.1):
        hd.tl.exceedance(slide, tiny_model, 1.0, n_samples=10, steps=2, depth=depth, overwrite=True)
        likely.append(np.asarray(slide["hisdiff_exceedance"].X).mean())
    assert likely[1] < likely[0]
    regions = np.zeros(slide["hisdiff_exceedance"].n_obs, int)
    means = [
        hd.tl.region_mean(slide, tiny_model, regions, n_samples=20, steps=2, depth=depth)["mean"].to_numpy()
        for depth in (1, 0.1)
    ]
    np.testing.assert_allclose(means[1].sum(), 0.1 * means[0].sum(), rtol=0.05)


def test_what_a_bad_model_draws_is_thinned_too():
    samples = np.full((1, 1, 3), [0.0, 50.0, 2000.0], np.float32)  # on the log2 scale
    np.testing.assert_allclose(at_depth(samples, 0.25, 0, "S", ["s"])[0, 0], [0, 48, 1998], atol=1e-3)


@settings(max_examples=30, deadline=None)
@given(
    mean=st.floats(0, 200),
    depth=st.floats(0.01, 1, exclude_max=True),
    seed=st.integers(0, 2**31),
)
def test_thinned_counts_have_the_mean_and_the_variance_of_thinning(mean, depth, seed):
    samples = np.log2(1 + np.full((2, len(IDS), 25), mean)).astype(np.float32)
    drawn = counts_of(at_depth(samples, depth, seed, "S", IDS))
    part = mean % 1  # between whole numbers one of the two
    variance = mean * depth * (1 - depth) + depth**2 * part * (1 - part)
    assert abs(drawn.mean() - mean * depth) < 6 * np.sqrt(variance / drawn.size) + 1e-4 * (1 + mean)
    assert drawn.var() < 1.5 * variance + 0.05
    # spots and samples have noise of their own
    if variance > 0.5:
        assert (drawn[0] != drawn[1]).any()
        assert (drawn[0, 0] != drawn[0, 1]).any()
