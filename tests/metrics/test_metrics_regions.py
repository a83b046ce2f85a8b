"""Regions: compact, of equal size, and their means covered only by samples whose noise is that of the truth."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hisdiff_sd as hd
from hisdiff_sd._errors import HisDiffError


def square(rows, columns):
    return np.indices((rows, columns)).reshape(2, -1).T[:, ::-1].astype(float)


@given(st.integers(1, 120), st.integers(1, 40), st.integers(0, 2**32 - 1))
@settings(deadline=None)
def test_regions_are_disjoint_and_of_equal_size(n, size, seed):
    xy = np.random.default_rng(seed).normal(size=(n, 2))
    if size > n:
        with pytest.raises(HisDiffError, match=f"size={size} spots"):
            hd.metrics.compact_regions(xy, size, seed)
        return
    labels = hd.metrics.compact_regions(xy, size, seed)
    assert labels.shape == (n,)
    assert np.bincount(labels + 1, minlength=n // size + 1).tolist() == [n % size] + [size] * (n // size)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("size", [9, 25, 40])
def test_regions_are_compact(size, seed):
    xy = square(41, 37) * 287.0
    labels = hd.metrics.compact_regions(xy, size, seed)
    # root mean square distance from the middle, in that of a disc: 1.02 for a square, 1.14 and 1.32 for two and three to one
    extent = []
    for region in range(labels.max() + 1):
        own = xy[labels == region] / 287.0
        extent.append(np.sqrt(own.var(axis=0).sum() / (size / (2 * np.pi))))
    assert np.median(extent) < 1.14
    assert max(extent) < 1.7


def test_the_seed_turns_the_cuts():
    xy = np.random.default_rng(0).uniform(size=(400, 2))  # on a grid, rounding decides between equals
    first = hd.metrics.compact_regions(xy, 25, 0)
    np.testing.assert_array_equal(first, hd.metrics.compact_regions(xy, seed=0))
    assert not np.array_equal(first, hd.metrics.compact_regions(xy, 25, 1))
    np.testing.assert_array_equal(first, hd.metrics.compact_regions(10 * xy - 500, 25, 0))


def test_region_coverage_is_the_coverage_of_the_means():
    rng = np.random.default_rng(0)
    samples, true = rng.normal(size=(24, 60, 5)), rng.normal(size=(60, 5))
    regions = rng.permutation(np.repeat([7, -1, 2, 3], 15))
    means = [np.stack([a[regions == r].mean(axis=0) for r in (2, 3, 7)]) for a in (*samples, true)]
    expected = hd.metrics.coverage(means[:-1], means[-1], level=0.8)
    assert hd.metrics.region_coverage(samples, true, regions, level=0.8) == pytest.approx(expected)
    # regions of one spot each are the spots themselves
    assert hd.metrics.region_coverage(samples, true, np.arange(60)) == hd.metrics.coverage(samples, true)


def test_independent_noise_covers_spots_and_not_regions():
    """Truth and both ensembles have variance 1 at every spot; the truth's error is partly shared by a whole region."""
    rng = np.random.default_rng(1)
    regions = hd.metrics.compact_regions(square(50, 50), 25)
    n_regions = regions.max() + 1

    def draw(n, shared):
        of_region = rng.normal(size=(n, n_regions, 8))[:, regions]
        return np.sqrt(shared) * of_region + np.sqrt(1 - shared) * rng.normal(size=(n, 2500, 8))

    true = draw(1, 0.4)[0]
    right, independent = draw(39, 0.4), draw(39, 0.0)
    assert hd.metrics.coverage(independent, true) == pytest.approx(0.9, abs=0.01)
    assert hd.metrics.region_coverage(right, true, regions) == pytest.approx(0.9, abs=0.03)
    assert hd.metrics.region_coverage(independent, true, regions) < 0.5


@pytest.mark.parametrize("regions", [np.zeros(5, int), np.zeros(6), np.zeros((6, 1), int), np.zeros(6, bool)])
def test_regions_that_are_no_labels_of_spots_are_refused(regions):
    with pytest.raises(HisDiffError, match=r"it has to be \(6,\) integers, -1 for none"):
        hd.metrics.region_coverage(np.zeros((19, 6, 2)), np.zeros((6, 2)), regions)


def test_no_region_at_all_is_refused():
    with pytest.raises(HisDiffError, match="holds no region"):
        hd.metrics.region_coverage(np.zeros((19, 6, 2)), np.zeros((6, 2)), np.full(6, -1))


@pytest.mark.parametrize("xy", [np.zeros((4, 3)), np.full((4, 2), np.nan)])
def test_places_that_are_none_are_refused(xy):
    with pytest.raises(HisDiffError, match="xy has the shape"):
        hd.metrics.compact_regions(xy, 2)
    with pytest.raises(HisDiffError, match="xy has the shape"):
        hd.metrics.neighbour_graph(xy, 4)


@pytest.mark.parametrize("size", [0, -1, 5])
def test_sizes_of_no_region_are_refused(size):
    with pytest.raises(HisDiffError, match=f"size={size} spots cannot be a region of a slide of 4 spots"):
        hd.metrics.compact_regions(square(2, 2), size)
