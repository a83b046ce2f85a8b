"""The spatially shifted null: calibrated where shuffling spots is not, and small p-values for maps that belong together."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hisdiff_sd as hd
from hisdiff_sd._errors import HisDiffError

N_GENES = 200


def square(rows: int, columns: int) -> np.ndarray:
    return np.indices((rows, columns)).reshape(2, -1).T[:, ::-1].astype(float)


def hexagonal(rows: int, columns: int) -> np.ndarray:
    xy = square(rows, columns)
    return np.column_stack([xy[:, 0] + 0.5 * (xy[:, 1] % 2), xy[:, 1] * np.sqrt(3) / 2])


def tissue(rows: int, columns: int) -> np.ndarray:
    """The spots of a grid that lie under a triangular section, jittered and in px."""
    xy = square(rows, columns)
    xy = xy[(xy[:, 0] / columns + xy[:, 1] / rows) > 0.5]
    return 287.0 * (xy + np.random.default_rng(3).normal(0, 0.04, xy.shape)) + 1000.0


def smooth(xy: np.ndarray, length: float, n: int, seed: int) -> np.ndarray:
    """`n` independent Gaussian random fields at `xy`, of a correlation length in pitches."""
    distance = np.hypot(*(xy[:, None] - xy[None]).transpose(2, 0, 1))
    pitch = np.median(np.sort(distance, axis=1)[:, 2])
    values, vectors = np.linalg.eigh(np.exp(-0.5 * (distance / (length * pitch)) ** 2))
    noise = np.random.default_rng(seed).standard_normal((len(xy), n))
    return vectors @ (np.sqrt(values.clip(0))[:, None] * noise)


def p_values(null: np.ndarray, observed: np.ndarray) -> np.ndarray:
    return (1 + (null >= observed).sum(axis=0)) / (1 + len(null))


PLACES = {"square": square(14, 16), "hexagonal": hexagonal(18, 18), "tissue": tissue(18, 18)}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("length", [1.5, 4.0])
def test_unrelated_smooth_maps_are_not_called_related(place, length):
    xy = PLACES[place]
    predicted = smooth(xy, length, N_GENES, 0)
    measured = smooth(xy, length, N_GENES, 1) + 0.3 * np.random.default_rng(2).standard_normal((len(xy), N_GENES))
    observed = hd.metrics.pcc(predicted, measured)
    p = p_values(hd.metrics.shifted_null(predicted, measured, xy, n_shifts=199), observed)
    assert (p <= 0.05).mean() < 0.08
    # neither are they called unrelated too readily: half of the p-values lie on each side of the middle
    assert 0.38 < (p <= 0.5).mean() < 0.62
    assert 0.1 < (p <= 0.25).mean() < 0.35

    # shuffled spots call a good part of the same maps related
    rng = np.random.default_rng(0)
    shuffled = np.array([hd.metrics.pcc(predicted[rng.permutation(len(xy))], measured) for _ in range(199)])
    assert (p_values(shuffled, observed) <= 0.05).mean() > 0.15


@pytest.mark.parametrize("place", PLACES)
def test_related_maps_have_small_p_values(place):
    xy = PLACES[place]
    truth, other = smooth(xy, 1.5, N_GENES, 0), smooth(xy, 1.5, N_GENES, 1)
    predicted = 0.8 * truth + 0.6 * other
    observed = hd.metrics.pcc(predicted, truth)
    null = hd.metrics.shifted_null(predicted, truth, xy, n_shifts=199)
    assert (p_values(null, observed) <= 0.01).mean() > 0.95
    # of the opposite sign they are no success
    assert (p_values(-null, -observed) > 0.95).all()


def test_smoother_maps_have_a_wider_null():
    xy = PLACES["square"]
    widths = []
    for length in (0.5, 2.0, 4.0):
        maps = [smooth(xy, length, 50, seed) for seed in (0, 1)]
        widths.append(hd.metrics.shifted_null(*maps, xy, n_shifts=100).std())
    assert widths[0] < 0.7 * widths[1]
    assert widths[1] < 0.85 * widths[2]


def test_a_map_is_never_compared_with_itself_in_place():
    """A pattern without symmetry finds no match anywhere but where it lies."""
    xy = PLACES["tissue"]
    noise = np.random.default_rng(0).standard_normal((len(xy), 20))
    null = hd.metrics.shifted_null(noise, noise, xy, n_shifts=200)
    assert null.shape == (200, 20)
    assert null.dtype == np.float64
    assert np.abs(null).max() < 0.6
    assert abs(null.mean()) < 0.01


def test_shifts_depend_on_the_seed_alone():
    xy, maps = PLACES["square"], [smooth(PLACES["square"], 2.0, 5, seed) for seed in (0, 1)]
    first = hd.metrics.shifted_null(*maps, xy, n_shifts=20, seed=4)
    np.testing.assert_array_equal(first, hd.metrics.shifted_null(*maps, xy, n_shifts=20, seed=4))
    assert not np.array_equal(first, hd.metrics.shifted_null(*maps, xy, n_shifts=20, seed=5))
    # genes are judged each for itself, in any unit of length
    alone = hd.metrics.shifted_null(maps[0][:, 2:3], maps[1][:, 2:3], 55.0 * xy - 1e4, n_shifts=20, seed=4)
    np.testing.assert_allclose(alone, first[:, 2:3], atol=1e-12)


@given(st.integers(0, 10**6), st.floats(0.1, 50), st.floats(-100, 100))
@settings(max_examples=15, deadline=None)
def test_scale_and_offset_of_a_map_do_not_matter(seed, scale, offset):
    xy = square(6, 7)
    a, b = np.random.default_rng(seed).standard_normal((2, len(xy), 3))
    null = hd.metrics.shifted_null(a, b, xy, n_shifts=5, seed=seed)
    np.testing.assert_allclose(
        hd.metrics.shifted_null(a * scale + offset, b, xy, n_shifts=5, seed=seed), null, atol=1e-9
    )
    assert np.abs(null).max() <= 1 + 1e-12


def test_more_spots_than_are_compared_give_the_same_answer():
    xy = square(60, 60)
    wave = np.column_stack([np.sin(xy[:, 0] / 3) + np.cos(xy[:, 1] / 4), np.sin(xy[:, 1] / 2)])
    observed = hd.metrics.pcc(wave, wave)
    assert (p_values(hd.metrics.shifted_null(wave, wave, xy, n_shifts=99), observed) == 0.01).all()


def test_a_constant_gene_has_a_null_of_zeros():
    xy = square(5, 6)
    maps = np.random.default_rng(0).standard_normal((len(xy), 2))
    maps[:, 0] = 3.0
    null = hd.metrics.shifted_null(maps, maps, xy, n_shifts=10)
    assert (null[:, 0] == 0).all()
    assert (null[:, 1] != 0).all()


MAP = np.random.default_rng(0).standard_normal((30, 2))


@pytest.mark.parametrize(
    ("predicted", "xy", "options", "message"),
    [
        (MAP[:, :1], square(5, 6), {}, r"shape \(30, 1\) and true \(30, 2\)"),
        (np.where(MAP > 1.5, np.nan, MAP), square(5, 6), {}, "pred holds .* NaN"),
        (MAP, square(5, 5), {}, r"xy has the shape \(25, 2\).* it has to be \(30, 2\)"),
        (MAP, square(5, 6) * np.nan, {}, "is not finite"),
        (MAP, square(5, 6), {"n_shifts": 0}, "n_shifts=0 moves nothing"),
        (np.tile(MAP, (20, 1)), square(1, 600), {}, "spots in one line cannot be judged"),
        (MAP[:8], square(2, 4), {}, "8 spots are too few to be moved over each other; 12 are needed"),
    ],
)
def test_what_cannot_be_shifted_is_refused(predicted, xy, options, message):
    with pytest.raises(HisDiffError, match=message):
        hd.metrics.shifted_null(predicted, np.resize(MAP, (len(predicted), 2)), xy, **options)
