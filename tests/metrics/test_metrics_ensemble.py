"""Proper scores of ensembles: direct sums over all pairs, fairness in the number of samples, what they can tell apart."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import hisdiff_sd as hd
from hisdiff_sd._errors import HisDiffError
from hisdiff_sd.metrics import _samples

VALUES = st.integers(-80, 80).map(lambda i: i / 8)
SCORES = [hd.metrics.crps, hd.metrics.energy_score, hd.metrics.variogram_score]


@st.composite
def ensembles(draw, min_samples=1):
    m, n, g = draw(st.integers(min_samples, 6)), draw(st.integers(1, 6)), draw(st.integers(2, 4))
    return draw(hnp.arrays(np.float64, (m, n, g), elements=VALUES)), draw(
        hnp.arrays(np.float64, (n, g), elements=VALUES)
    )


def crps_directly(x, y):
    m = len(x)
    pairs = sum(np.abs(a - b) for a in x for b in x)
    return np.mean([np.abs(a - y) for a in x], axis=0).mean(axis=1) - pairs.mean(axis=1) / (2 * m * (m - 1))


def energy_directly(x, y):
    m = len(x)
    pairs = sum(np.linalg.norm(a - b, axis=1) for a in x for b in x)
    return np.mean([np.linalg.norm(a - y, axis=1) for a in x], axis=0) - pairs / (2 * m * (m - 1))


def variogram_directly(x, y, p):
    m, terms = len(x), []
    for i in range(y.shape[1]):
        for j in range(i):
            v = np.abs(x[:, :, i] - x[:, :, j]) ** p
            terms.append((np.abs(y[:, i] - y[:, j]) ** p - v.mean(axis=0)) ** 2 - v.var(axis=0, ddof=1) / m)
    return np.mean(terms, axis=0)


@given(ensembles(min_samples=2))
@settings(deadline=None)
def test_scores_are_the_sums_over_all_pairs_of_samples(ensemble):
    x, y = ensemble
    np.testing.assert_allclose(hd.metrics.crps(x, y, per_spot=True), crps_directly(x, y), atol=1e-9)
    np.testing.assert_allclose(hd.metrics.energy_score(x, y, per_spot=True), energy_directly(x, y), atol=1e-9)
    for p in (0.5, 1, 1.5):
        found = hd.metrics.variogram_score(x, y, p=p, per_spot=True)
        np.testing.assert_allclose(found, variogram_directly(x, y, p), atol=1e-9)


@given(ensembles())
@settings(deadline=None)
def test_one_sample_is_scored_as_a_point(ensemble):
    point, y = ensemble[0][:1], ensemble[1]
    assert hd.metrics.crps(point, y) == pytest.approx(hd.metrics.mae(point[0], y), abs=1e-12)
    np.testing.assert_allclose(
        hd.metrics.energy_score(point, y, per_spot=True), np.linalg.norm(point[0] - y, axis=1), atol=1e-12
    )
    # without any correction: the mean of the squared differences of the variograms
    twice = np.repeat(point, 2, axis=0)  # no spread, so that nothing is taken off
    found = hd.metrics.variogram_score(point, y, per_spot=True)
    np.testing.assert_allclose(found, variogram_directly(twice, y, 0.5), atol=1e-9)


@given(ensembles(), st.integers(0, 2**32 - 1))
@settings(deadline=None)
def test_scores_ignore_the_order_of_samples_spots_and_genes(ensemble, seed):
    x, y = ensemble
    rng = np.random.default_rng(seed)
    m, n, g = (rng.permutation(k) for k in x.shape)
    for score in SCORES:
        expected = score(x, y, per_spot=True)
        np.testing.assert_allclose(score(x[m][:, n][:, :, g], y[n][:, g], per_spot=True), expected[n], atol=1e-9)
        assert score(x, y) == pytest.approx(expected.mean(), abs=1e-9)


@given(ensembles(), st.integers(1, 20), st.integers(-20, 20))
@settings(deadline=None)
def test_scores_scale_with_the_unit_and_ignore_an_offset(ensemble, scale, offset):
    x, y = ensemble
    for score in SCORES:  # the variogram of p = 0.5 has the power 2 p = 1 as well
        assert score(x * scale + offset, y * scale + offset) == pytest.approx(scale * score(x, y), abs=1e-6)


@given(ensembles(min_samples=2))
@settings(deadline=None)
def test_the_energy_score_of_one_gene_is_the_crps(ensemble):
    x, y = ensemble[0][:, :, :1], ensemble[1][:, :1]
    np.testing.assert_allclose(
        hd.metrics.energy_score(x, y, per_spot=True), hd.metrics.crps(x, y, per_spot=True), atol=1e-9
    )


def test_crps_of_a_calibrated_gaussian_does_not_depend_on_the_number_of_samples():
    x = np.random.default_rng(0).normal(size=(65, 4000, 10))
    few, true = x[:4], x[64]
    expected = 1 / np.sqrt(np.pi)  # E|X - Y| - E|X - X'| / 2, of differences with variance 2
    assert hd.metrics.crps(few, true) == pytest.approx(expected, abs=0.01)
    assert hd.metrics.crps(x[:64], true) == pytest.approx(expected, abs=0.01)
    # the plain estimator, of divisor m^2, is not fair: four samples score a quarter worse
    plain = np.abs(few - true).mean() - np.abs(few[:, None] - few[None]).mean() / 2
    assert plain == pytest.approx(1.25 * expected, abs=0.01)


@pytest.mark.parametrize("score", [hd.metrics.energy_score, hd.metrics.variogram_score])
def test_joint_scores_have_one_expectation_for_few_and_many_samples(score):
    x = correlated(np.random.default_rng(0), 65, 4000, 5, 0.6)
    few, many = score(x[:3], x[64], per_spot=True), score(x[:64], x[64], per_spot=True)
    error = (few - many).std() / np.sqrt(len(few))
    assert abs((few - many).mean()) < 3.5 * error
    # a plain estimator would not pass: of one sample, which is scored as a point, the difference is clear
    assert (score(x[:1], x[64], per_spot=True) - many).mean() > 20 * error


def correlated(rng, m, n, g, rho):
    """Draws with variance 1 of every gene and correlation rho of every two."""
    shared = rng.normal(size=(m, n, 1))
    return np.sqrt(rho) * shared + np.sqrt(1 - rho) * rng.normal(size=(m, n, g))


@pytest.mark.parametrize("score", [hd.metrics.energy_score, hd.metrics.variogram_score])
def test_joint_scores_prefer_the_true_correlation_of_genes(score):
    rng = np.random.default_rng(1)
    true = correlated(rng, 1, 3000, 6, 0.8)[0]
    right, independent = correlated(rng, 16, 3000, 6, 0.8), rng.normal(size=(16, 3000, 6))
    gain = score(independent, true, per_spot=True) - score(right, true, per_spot=True)
    assert gain.mean() > 5 * gain.std() / np.sqrt(len(gain))
    # gene by gene the two are the same
    by_gene = hd.metrics.crps(independent, true, per_spot=True) - hd.metrics.crps(right, true, per_spot=True)
    assert abs(by_gene.mean()) < 4 * by_gene.std() / np.sqrt(len(by_gene))


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_scores_prefer_the_true_width(score, scale):
    x = np.random.default_rng(2).normal(size=(21, 2000, 5))
    assert score(x[:20], x[20]) < score(scale * x[:20], x[20])


@pytest.mark.parametrize("score", SCORES)
def test_blocks_change_nothing_and_bound_the_memory(score, monkeypatch):
    x = np.random.default_rng(3).normal(size=(16, 2000, 30)).astype(np.float32)
    y = x.mean(axis=0) + 1
    whole = score(x[:, :300], y[:300], per_spot=True)
    monkeypatch.setattr(_samples, "_BLOCK", 16 * 30 * 7)  # seven spots
    np.testing.assert_allclose(score(x[:, :300], y[:300], per_spot=True), whole, rtol=1e-12)
    monkeypatch.setattr(_samples, "_BLOCK", 2**17)
    tracemalloc.start()
    score(x, y)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < x.size * 8  # the samples in float64, which are never made as a whole


def test_float32_samples_are_scored_in_float64():
    x = np.random.default_rng(4).normal(size=(5, 20, 3)).astype(np.float32) + np.float32(1000)
    y = np.full((20, 3), 1000.0)
    for score in SCORES:
        assert score(x, y) == score(x.astype(np.float64), y)


def test_lists_and_whole_numbers_are_taken():
    assert hd.metrics.crps([[[0], [4]], [[2], [4]]], [[1], [4]], per_spot=True).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("score", [*SCORES, hd.metrics.coverage, hd.metrics.pit])
def test_what_is_no_ensemble_is_refused(score):
    x, y = np.zeros((20, 4, 3)), np.zeros((4, 3))
    with pytest.raises(HisDiffError, match=r"samples has the shape \(4, 3\).*single prediction: pred\[None\]"):
        score(y, y)
    with pytest.raises(HisDiffError, match=r"\(20, 4, 3\) and true \(4, 2\)"):
        score(x, y[:, :2])
    with pytest.raises(HisDiffError, match=r"samples is empty, shape \(0, 4, 3\)"):
        score(x[:0], y)
    with pytest.raises(HisDiffError, match="samples holds 2 NaN or infinite values of 240"):
        score(np.where(np.arange(240).reshape(x.shape) < 2, np.nan, x), y)
    with pytest.raises(HisDiffError, match="true holds 12 NaN"):
        score(x, y + np.inf)


@pytest.mark.parametrize("p", [0, -1.0, np.nan, np.inf])
def test_exponents_that_are_none_are_refused(p):
    with pytest.raises(HisDiffError, match=f"p={p} is no exponent"):
        hd.metrics.variogram_score(np.zeros((2, 3, 2)), np.zeros((3, 2)), p=p)


def test_a_variogram_of_one_gene_is_refused():
    with pytest.raises(HisDiffError, match="there is one gene; use crps"):
        hd.metrics.variogram_score(np.zeros((2, 3, 1)), np.zeros((3, 1)))
