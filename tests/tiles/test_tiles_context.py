"""Neighbours of a spot: the nearest ones, whatever the order in which spots are stored."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from hisdiff_sd._errors import HisDiffError
from hisdiff_sd.tiles import Context, nearest, within


def brute(xy: np.ndarray, k: int) -> list[list[int]]:
    """Sorted by distance, then y, then x, the spot itself first; distances that differ by rounding are equal."""
    rows = []
    for i, centre in enumerate(xy):
        distance = np.hypot(*(xy - centre).T)
        keys = [(j != i, round(d, 5), y, x) for j, (d, (x, y)) in enumerate(zip(distance, xy, strict=True))]
        rows.append(sorted(range(len(xy)), key=lambda j, keys=keys: keys[j])[:k])
    return rows


def hexagonal(n: int) -> np.ndarray:
    rows, columns = np.divmod(np.arange(n * n), n)
    return np.column_stack([columns + rows % 2 / 2, rows * np.sqrt(3) / 2])


def square(n: int) -> np.ndarray:
    rows, columns = np.divmod(np.arange(n * n), n)
    return np.column_stack([columns, rows]).astype(float)


lattice_points = st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7)), min_size=1, max_size=40, unique=True)


@settings(deadline=None, max_examples=80)
@given(points=lattice_points, k=st.sampled_from([1, 2, 5, 9, 25]), pitch=st.sampled_from([1.0, 0.1, 290.7]))
def test_the_neighbours_are_those_of_brute_force(points, k, pitch):
    xy = np.array(points, float) * pitch
    context = nearest(xy, k)
    assert context.index.shape == context.mask.shape == (len(xy), k)
    assert context.index.dtype == np.int64
    assert context.mask.dtype == bool
    for index, mask, expected in zip(context.index, context.mask, brute(xy / pitch, k), strict=True):
        assert index[mask].tolist() == expected
        assert mask.tolist() == [True] * len(expected) + [False] * (k - len(expected))
        assert not index[~mask].any()


@settings(deadline=None, max_examples=40)
@given(
    points=st.lists(st.tuples(st.floats(0, 1e5), st.floats(0, 1e5)), min_size=2, max_size=80, unique=True),
    k=st.integers(1, 20),
)
def test_distances_of_scattered_spots_are_the_smallest(points, k):
    xy = np.array(points)
    assume(len(np.unique(np.round(xy), axis=0)) == len(xy))
    context = nearest(xy, k)
    # distances that differ by less than a millionth of the spacing are equal, as they are on a grid
    spacing = np.median([np.sort(np.hypot(*(xy - centre).T))[1] for centre in xy])
    for i, (index, mask) in enumerate(zip(context.index, context.mask, strict=True)):
        distance = np.hypot(*(xy - xy[i]).T)
        assert index[0] == i
        assert len(set(index[mask])) == mask.sum() == min(k, len(xy))
        np.testing.assert_allclose(
            distance[index[mask]], np.sort(distance)[: mask.sum()], rtol=1e-5, atol=2e-6 * spacing
        )


@pytest.mark.parametrize("grid", [square, hexagonal])
@pytest.mark.parametrize("k", [9, 49])
@pytest.mark.parametrize("scale", [1.0, 288.46])
def test_ties_do_not_depend_on_the_order_of_the_spots(grid, k, scale):
    rng = np.random.default_rng(0)
    xy = grid(14) * scale
    xy = xy[rng.random(len(xy)) < 0.85]
    order = rng.permutation(len(xy))
    straight, shuffled = nearest(xy, k), nearest(xy[order], k)
    for row, where in enumerate(order):
        np.testing.assert_array_equal(xy[straight.index[where]], xy[order][shuffled.index[row]])


@settings(deadline=None, max_examples=60)
@given(points=lattice_points, data=st.data())
def test_neighbours_as_places_do_not_depend_on_the_order(points, data):
    xy = np.array(points, float)
    order = np.array(data.draw(st.permutations(range(len(xy)))))
    straight, shuffled = nearest(xy, 9), nearest(xy[order], 9)
    for row, where in enumerate(order):
        mine = xy[straight.index[where][straight.mask[where]]]
        other = xy[order][shuffled.index[row][shuffled.mask[row]]]
        np.testing.assert_array_equal(mine, other)


def test_a_full_square_and_a_full_hexagon_around_a_spot():
    middle = nearest(square(9), 9).index[40]
    assert sorted(map(tuple, square(9)[middle].astype(int))) == [(x, y) for x in (3, 4, 5) for y in (3, 4, 5)]
    xy = hexagonal(9)
    around = np.hypot(*(xy[nearest(xy, 7).index[40]] - xy[40]).T)
    np.testing.assert_allclose(around, [0, 1, 1, 1, 1, 1, 1])


def test_one_spot_alone():
    context = nearest(np.array([[5.0, 6.0]]), 9)
    assert context.index.tolist() == [[0] * 9]
    assert context.mask.tolist() == [[True] + [False] * 8]


def test_no_spot():
    context = nearest(np.zeros((0, 2)), 9)
    assert context.index.shape == context.mask.shape == (0, 9)


@pytest.mark.parametrize("n", [1, 8, 9, 48, 49, 50])
def test_fewer_spots_than_neighbours_are_masked(n):
    context = nearest(square(8)[:n], 49)
    assert (context.mask.sum(1) == min(n, 49)).all()
    assert (np.sort(context.index[:, : min(n, 49)], axis=1)[:, : min(n, 49)] >= 0).all()
    assert all(len(set(row[:n])) == min(n, 49) for row in context.index)


@pytest.mark.parametrize("n", [2, 9, 30, 300])
def test_spots_on_one_point_are_each_their_own_first_neighbour(n):
    context = nearest(np.full((n, 2), 3.5), 9)
    assert context.index[:, 0].tolist() == list(range(n))
    assert all(len(set(row[mask])) == min(n, 9) for row, mask in zip(context.index, context.mask, strict=True))


def test_a_few_coincident_spots_stand_before_the_others():
    xy = np.concatenate([square(5), square(5)[:3]])
    context = nearest(xy, 4)
    assert context.index[0, :2].tolist() == [0, 25]
    assert context.index[25, :2].tolist() == [25, 0]


@pytest.mark.parametrize("xy", [np.zeros(4), np.zeros((4, 3)), np.array([[0.0, np.nan]]), np.array([[np.inf, 1.0]])])
def test_centres_that_are_none(xy):
    with pytest.raises(HisDiffError, match=r"finite \(n, 2\)"):
        nearest(xy, 3)


@pytest.mark.parametrize("k", [0, -1])
def test_too_few_neighbours(k):
    with pytest.raises(HisDiffError, match=f"k={k}"):
        nearest(square(3), k)


@settings(deadline=None)
@given(points=lattice_points, k=st.integers(1, 12), width=st.integers(1, 4))
@example(points=[(0, 0)], k=9, width=2)
def test_mean_is_taken_over_the_neighbours_that_there_are(points, k, width):
    xy = np.array(points, float)
    values = np.random.default_rng(len(xy)).normal(size=(len(xy), width)).astype(np.float32)
    context = nearest(xy, k)
    expected = [
        values[row[mask]].mean(0, dtype=np.float64) for row, mask in zip(context.index, context.mask, strict=True)
    ]
    result = context.mean(values)
    assert result.dtype == np.float64
    np.testing.assert_allclose(result, expected, rtol=1e-12, atol=1e-12)


def test_a_masked_place_counts_nothing_even_if_its_row_is_not_finite():
    context = Context(np.array([[1, 0], [1, 0]]), np.array([[True, False], [True, False]]))
    np.testing.assert_array_equal(context.mean(np.array([[np.nan], [2.0]])), [[2.0], [2.0]])


def grid(kind: str, pitch: float, n: int = 21, jitter: float = 0.0) -> np.ndarray:
    """A square or hexagonal grid with spots off their places by up to `jitter` pitches."""
    col, row = np.meshgrid(np.arange(n), np.arange(n))
    x = col + 0.5 * (row % 2) if kind == "hexagonal" else col.astype(float)
    y = row * np.sqrt(3) / 2 if kind == "hexagonal" else row.astype(float)
    xy = np.column_stack([x.ravel(), y.ravel()])
    return pitch * (xy + np.random.default_rng(0).uniform(-jitter / 1.5, jitter / 1.5, xy.shape))


@pytest.mark.parametrize(
    ("kind", "radius", "shells"),
    [
        ("square", 0.0, 1),
        ("square", 1.0, 5),
        ("square", 1.42, 9),
        ("square", 2.0, 13),
        ("square", 2.83, 25),
        ("hexagonal", 1.0, 7),
        ("hexagonal", 1.74, 13),
        ("hexagonal", 2.0, 19),
        ("hexagonal", 3.0, 37),
    ],
)
@pytest.mark.parametrize("jitter", [0.0, 0.03])
def test_a_radius_takes_whole_shells(kind, radius, shells, jitter):
    xy = grid(kind, 200.0, jitter=jitter)
    context = within(xy, radius * 200.0)
    middle = len(xy) // 2
    assert context.mask[middle].sum() == shells
    inner = (np.abs(xy - xy.mean(0)) < 5 * 200).all(1)
    assert set(context.mask[inner].sum(1)) == {shells}


@pytest.mark.parametrize("pitch", [100.0, 200.0])
def test_a_radius_covers_the_same_tissue_at_any_pitch(pitch):
    xy = grid("square", pitch, int(4200 / pitch))
    context = within(xy, 400.0)
    middle = len(xy) // 2
    offset = xy[context.index[middle][context.mask[middle]]] - xy[middle]
    assert np.abs(offset).max(0).tolist() == [400.0, 400.0]


@settings(deadline=None, max_examples=60)
@given(
    xy=st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), min_size=2, max_size=40).map(np.array),
    radius=st.floats(0, 20),
)
def test_those_within_are_those_of_a_full_search(xy, radius):
    context = within(xy, radius)
    distance = np.linalg.norm(xy[:, None].astype(float) - xy[None], axis=2)
    others = distance + np.where(np.eye(len(xy)), np.inf, 0)
    limit = radius + 0.1 * np.median(others.min(1))
    # distances on the edge itself may fall to either side
    for i, (index, mask) in enumerate(zip(context.index, context.mask, strict=True)):
        assert index[0] == i
        found = set(index[mask].tolist())
        assert len(found) == mask.sum()
        assert (
            set(np.flatnonzero(distance[i] < limit - 1e-9)) <= found <= set(np.flatnonzero(distance[i] <= limit + 1e-9))
        )
        assert (np.diff(distance[i][index[mask]][1:]) > -1e-4).all()
        assert not index[~mask].any()


def test_the_order_of_spots_does_not_matter_within():
    xy = grid("hexagonal", 1.0, 7)
    shuffled = np.random.default_rng(1).permutation(len(xy))
    a, b = within(xy, 2.0), within(xy[shuffled], 2.0)
    np.testing.assert_array_equal(a.mask[shuffled], b.mask)
    np.testing.assert_array_equal(np.where(b.mask, shuffled[b.index], -1), np.where(a.mask, a.index, -1)[shuffled])


@pytest.mark.parametrize("n", [0, 1])
def test_one_spot_or_none_has_itself_alone(n):
    context = within(np.zeros((n, 2)), 5.0)
    assert context.index.shape == context.mask.shape == (n, 1)
    assert context.mask.all()


def test_spots_on_one_point_are_all_within():
    assert within(np.zeros((4, 2)), 0.0).mask.sum() == 16


@pytest.mark.parametrize("radius", [-1.0, float("nan")])
def test_a_radius_that_is_none_is_refused(radius):
    with pytest.raises(HisDiffError, match="is no distance"):
        within(np.zeros((4, 2)), radius)
