"""Intervals and ranks: exact for calibrated ensembles of any size, and telling where one is not calibrated."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import hisdiff_sd as hd
from hisdiff_sd._errors import HisDiffError

VALUES = st.integers(-80, 80).map(lambda i: i / 8)


def calibrated(m, n=4000, g=10, seed=0):
    """Samples and truth that are draws of one distribution, another one at every spot and gene."""
    rng = np.random.default_rng(seed)
    draws = rng.normal(size=(n, g)) + rng.exponential(size=(n, g)) * rng.normal(size=(m + 1, n, g))
    return draws[:m], draws[m]


@given(hnp.arrays(np.float64, st.tuples(st.integers(3, 30), st.integers(1, 4), st.just(2)), elements=VALUES), st.data())
@settings(deadline=None)
def test_quantiles_are_those_of_numpy(samples, data):
    m = len(samples)
    levels = data.draw(st.lists(st.floats(1 / (m + 1) + 1e-6, m / (m + 1) - 1e-6), min_size=1, max_size=4))
    expected = np.quantile(samples, levels, axis=0, method="weibull")
    np.testing.assert_allclose(hd.metrics.weibull_quantiles(samples, levels), expected, atol=1e-6)


@pytest.mark.parametrize("m", [19, 39, 59, 99, 199])
def test_whole_ranks_are_the_samples_themselves(m):
    samples = np.random.default_rng(m).normal(size=(m, 3, 2))
    ordered, k = np.sort(samples, axis=0), (m + 1) // 20
    # as levels are worked out, with their rounding
    found = hd.metrics.weibull_quantiles(samples, [(1 - 0.9) / 2, (1 + 0.9) / 2])
    np.testing.assert_array_equal(found, [ordered[k - 1], ordered[m - k]])


@pytest.mark.parametrize("m", [19, 39, 59, 99])
def test_calibrated_intervals_cover_what_they_say(m):
    samples, true = calibrated(m)
    assert hd.metrics.coverage(samples, true) == pytest.approx(0.9, abs=0.006)  # four standard errors
    assert hd.metrics.coverage(samples, true, level=0.5) == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("m", [20, 24, 27, 32, 50, 100])
def test_between_whole_ranks_a_gaussian_is_covered_slightly_more(m):
    """Between two samples the quantile is a straight line, where the tail of the distribution is convex."""
    samples, true = calibrated(m)
    assert 0.896 < hd.metrics.coverage(samples, true) < 0.915


def test_the_usual_quantiles_of_twenty_samples_would_not():
    samples, true = calibrated(20)
    low, high = np.quantile(samples, [0.05, 0.95], axis=0)
    assert ((low <= true) & (true <= high)).mean() == pytest.approx(0.82, abs=0.01)


def test_coverage_width_and_score_by_hand():
    # 19 samples 0 ... 18 and 0 ... 36: the 90% interval is from the first to the last, both of which belong to it
    samples = np.arange(19.0)[:, None, None] * np.array([1.0, 2.0])
    samples = np.repeat(samples, 3, axis=1)
    true = np.array([[0.0, 36.0], [-1.0, 36.5], [18.0, 40.0]])
    assert hd.metrics.coverage(samples, true, per_spot=True).tolist() == [1.0, 0.0, 0.5]
    assert hd.metrics.coverage(samples, true) == pytest.approx(0.5)
    assert hd.metrics.interval_width(samples) == 27.0
    assert hd.metrics.interval_width(samples, 0.8, per_spot=True) == pytest.approx([24.0] * 3)  # ranks 2 and 18
    fines = np.array([0.0, 1.0 + 0.5, 4.0]) * 20 / 2
    np.testing.assert_allclose(hd.metrics.interval_score(samples, true, per_spot=True), 27.0 + fines)
    assert hd.metrics.interval_score(samples, true) == pytest.approx(27.0 + fines.mean())


@pytest.mark.parametrize("scale", [0.6, 1.6])
def test_the_interval_score_prefers_the_true_width(scale):
    samples, true = calibrated(39)
    middle = samples.mean(axis=0)
    assert hd.metrics.interval_score(samples, true) < hd.metrics.interval_score(
        middle + scale * (samples - middle), true
    )


def test_equal_samples_cover_a_truth_that_equals_them():
    zeros = np.zeros((25, 4, 2))
    assert hd.metrics.coverage(zeros, zeros[0]) == 1.0
    zeros[-1] = 0.3  # one sample of 25 is above: the lower end stays exactly 0
    assert hd.metrics.coverage(zeros, zeros[0]) == 1.0


@pytest.mark.parametrize(
    ("m", "level", "needed"), [(18, 0.9, 19), (1, 0.9, 19), (38, 0.95, 39), (198, 0.99, 199), (2, 0.5, 3)]
)
def test_too_few_samples_are_told_how_many_are_needed(m, level, needed):
    samples, true = np.zeros((m, 3, 2)), np.zeros((3, 2))
    with pytest.raises(HisDiffError, match=f"^{m} samples reach no further .* needs {needed} samples at least"):
        hd.metrics.coverage(samples, true, level=level)
    assert hd.metrics.coverage(np.zeros((needed, 3, 2)), true, level=level) == 1.0


@pytest.mark.parametrize("levels", [[], 0.5, [0.0], [0.5, 1.0], [np.nan]])
def test_levels_that_are_no_probabilities_are_refused(levels):
    with pytest.raises(HisDiffError, match="list of probabilities between 0 and 1"):
        hd.metrics.weibull_quantiles(np.zeros((20, 1, 1)), levels)


@pytest.mark.parametrize("level", [0.0, 1.0, 90, np.nan])
def test_levels_that_are_no_coverage_are_refused(level):
    with pytest.raises(HisDiffError, match=f"level={level} is no coverage"):
        hd.metrics.interval_width(np.zeros((20, 1, 1)), level)


def histogram(values, bins=10):
    return np.histogram(values, bins=bins, range=(0, 1))[0] / values.size


@pytest.mark.parametrize("m", [1, 4, 20])
def test_pit_is_flat_for_calibrated_counts_most_of_which_are_zero(m):
    rng = np.random.default_rng(m)
    rate = rng.gamma(0.3, 2.0, size=(3000, 10))
    draws = np.log2(rng.poisson(rate, size=(m + 1, *rate.shape)) + 1.0)
    assert (draws[m] == 0).mean() > 0.6
    np.testing.assert_allclose(histogram(hd.metrics.pit(draws[:m], draws[m])), 0.1, atol=0.008)
    # the share of samples below, not randomised, is anything but flat
    assert histogram((draws[:m] < draws[m]).mean(axis=0))[0] > 0.5


def test_pit_shows_narrow_wide_and_low_samples():
    samples, true = calibrated(20)
    middle = samples.mean(axis=0)
    narrow = histogram(hd.metrics.pit(middle + 0.5 * (samples - middle), true))
    wide = histogram(hd.metrics.pit(middle + 2.0 * (samples - middle), true))
    low = histogram(hd.metrics.pit(samples - 1, true))
    assert min(narrow[0], narrow[-1]) > 1.5 * max(narrow[4:6])
    assert max(wide[0], wide[-1]) < 0.5 * min(wide[4:6])
    assert low[-1] > 2 * low[0]


def test_pit_lies_in_the_place_of_the_rank_and_depends_on_the_seed_alone():
    samples = np.tile(np.array([1.0, 2.0, 2.0, 3.0])[:, None, None], (1, 500, 4))
    true = np.tile([0.0, 2.0, 2.5, 9.0], (500, 1))
    values = hd.metrics.pit(samples, true, seed=3)
    low, high = values.min(axis=0), values.max(axis=0)
    np.testing.assert_allclose(low, [0.0, 0.2, 0.6, 0.8], atol=0.01)
    np.testing.assert_allclose(high, [0.2, 0.8, 0.8, 1.0], atol=0.01)
    np.testing.assert_array_equal(values, hd.metrics.pit(samples, true, seed=3))
    assert not np.array_equal(values, hd.metrics.pit(samples, true, seed=4))


def test_coverage_table_by_hand():
    # Ten genes of abundance 10 ... 1, so that gene 9 is decile 1; the interval of all is 0 ... 18.
    samples = np.tile(np.arange(19.0)[:, None, None], (1, 2, 10))
    true = np.array([np.arange(10, 0, -1) * 1.0, np.arange(10, 0, -1) * 1.0])
    true[0, 9], true[1, 0] = 0.0, 30.0
    samples[:, :, 0] *= 2
    true[:, 0] = [-5.0, 50.0]
    table = hd.metrics.coverage_table(samples, true)
    assert list(table) == ["all", "zero", "non-zero", *(f"decile {d}" for d in range(1, 11))]
    assert table["all"] == {"coverage": pytest.approx(18 / 20), "width": pytest.approx(18 * 1.1), "n": 20.0}
    assert table["zero"] == {"coverage": 1.0, "width": 18.0, "n": 1.0}
    assert table["non-zero"] == {
        "coverage": pytest.approx(17 / 19),
        "width": pytest.approx((18 * 22 - 18) / 19),
        "n": 19,
    }
    assert table["decile 10"] == {"coverage": 0.0, "width": 36.0, "n": 2.0}
    assert table["decile 1"] == {"coverage": 1.0, "width": 18.0, "n": 2.0}


def test_coverage_table_divides_a_panel_and_holds_nan_where_there_is_nothing():
    samples, true = calibrated(19, n=50, g=33)
    table = hd.metrics.coverage_table(samples, true)
    deciles = [table[f"decile {d}"]["n"] / 50 for d in range(1, 11)]
    assert sum(deciles) == 33
    assert set(deciles) == {3.0, 4.0}
    assert table["all"]["coverage"] == pytest.approx(hd.metrics.coverage(samples, true))
    assert table["all"]["width"] == pytest.approx(hd.metrics.interval_width(samples))
    assert table["zero"] == {
        "coverage": pytest.approx(np.nan, nan_ok=True),
        "width": pytest.approx(np.nan, nan_ok=True),
        "n": 0,
    }
    few = hd.metrics.coverage_table(samples[:, :, :3], true[:, :3])
    assert sum(few[f"decile {d}"]["n"] for d in range(1, 11)) == 150
