"""The context of tiles at the pitch of the training spots."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hisdiff_sd._errors import HisDiffError
from hisdiff_sd.tiles import GRIDS, grid_points, lattice_context, nearest

BASIS = {"square": np.eye(2), "hexagonal": np.array([[1, 0], [0.5, np.sqrt(3) / 2]])}


@pytest.mark.parametrize("grid", GRIDS)
def test_points_are_a_spacing_apart_and_on_the_slide(grid):
    place, xy = grid_points(1000.0, 730.0, 50.0, grid)
    assert len(np.unique(place, axis=0)) == len(xy)
    assert (xy > 0).all()
    assert (xy < [1000, 730]).all()
    distance = np.linalg.norm(xy[:, None] - xy[None], axis=2)
    distance[np.diag_indices(len(xy))] = np.inf
    np.testing.assert_allclose(distance.min(1), 50)
    # no room is left at the right and the bottom for another column or row
    assert xy.max(0) == pytest.approx([975, 725] if grid == "square" else [1000, 25 * np.sqrt(3) * 16.5], abs=50)


@pytest.mark.parametrize("grid", GRIDS)
def test_points_of_a_part_are_some_of_those_of_the_slide(grid):
    place, xy = grid_points(1000.0, 730.0, 50.0, grid)
    for left, top, right, bottom in (
        (0, 0, 1000, 730),
        (130, 210, 420, 333),
        (900, 600, 2000, 2000),
        (-50, -9, 60, 70),
    ):
        here = ((xy >= (left, top)) & (xy <= (right, bottom))).all(1)
        some = grid_points(1000.0, 730.0, 50.0, grid, (left, top, right, bottom))
        np.testing.assert_array_equal(some[0], place[here])
        np.testing.assert_array_equal(some[1], xy[here])
        assert here.any()


@settings(deadline=None, max_examples=40)
@given(
    grid=st.sampled_from(GRIDS),
    k=st.sampled_from([1, 9, 25, 49]),
    pitch=st.floats(20, 400),
    keep=st.floats(0.6, 1.0),
    seed=st.integers(0, 99),
)
def test_at_the_training_pitch_it_is_the_nearest(grid, k, pitch, keep, seed):
    """Same grid, same spacing, whatever tissue there is: neighbours as on a training slide."""
    _, xy = grid_points(14 * pitch, 12 * pitch, pitch, grid)
    xy = xy[np.random.default_rng(seed).random(len(xy)) < keep]
    found, expected = lattice_context(xy, pitch, k, grid), nearest(xy, k)
    np.testing.assert_array_equal(found.index[:, 0], np.arange(len(xy)))
    reach = np.linalg.norm(xy[expected.index] - xy[:, None], axis=2).max(1) < 11.9 * pitch
    assert reach.any()
    np.testing.assert_array_equal(found.index[reach], expected.index[reach])
    np.testing.assert_array_equal(found.mask[reach], expected.mask[reach])


@settings(deadline=None, max_examples=40)
@given(grid=st.sampled_from(GRIDS), times=st.integers(2, 5), k=st.sampled_from([9, 49]), seed=st.integers(0, 99))
def test_on_a_finer_grid_each_tile_sees_what_it_would_see_at_the_training_pitch(grid, times, k, seed):
    """As if only those tiles were there that are a whole number of pitches away."""
    rng = np.random.default_rng(seed)
    _, xy = grid_points(240.0, 200.0, 20.0 / times, grid)
    # a ragged piece of tissue with holes
    kept = np.hypot(*(xy - [120, 100]).T) < rng.uniform(40, 95)
    xy = xy[kept & (np.sin(xy @ rng.uniform(0.05, 0.3, 2)) < 0.8)]
    found = lattice_context(xy, 20.0, k, grid)
    for row in rng.integers(len(xy), size=10):
        steps = (xy - xy[row]) / 20.0 @ np.linalg.inv(BASIS[grid])
        same = np.flatnonzero((np.abs(steps - np.round(steps)) < 1e-6).all(1))
        expected = nearest(xy[same], k)
        at = int(np.flatnonzero(same == row)[0])
        np.testing.assert_array_equal(found.mask[row], expected.mask[at])
        np.testing.assert_array_equal(found.index[row][found.mask[row]], same[expected.index[at][expected.mask[at]]])


@settings(deadline=None, max_examples=40)
@given(
    tiles=st.sampled_from(GRIDS),
    grid=st.sampled_from(GRIDS),
    spacing=st.floats(6, 60),
    k=st.sampled_from([9, 49]),
    seed=st.integers(0, 99),
)
def test_a_place_is_served_by_the_nearest_tile(tiles, grid, spacing, k, seed):
    """Any spacing, finer or coarser: places in turn, each with the nearest tile if one is there, each tile once."""
    rng = np.random.default_rng(seed)
    _, xy = grid_points(300.0, 250.0, spacing, tiles)
    xy = xy[np.hypot(*(xy - [150, 125]).T) < rng.uniform(60, 125)]
    found = lattice_context(xy, 20.0, k, grid)
    side = np.arange(-30, 31)
    places = np.column_stack([a.ravel() for a in np.meshgrid(side, side)]) @ BASIS[grid]
    far = np.round(np.hypot(*places.T), 6)
    places = places[np.lexsort((places[:, 0], places[:, 1].round(6), far))][: (far <= 12).sum()]
    for row in rng.integers(len(xy), size=5):
        chosen, taken = list(found.index[row][found.mask[row]]), []
        for place in places:
            distance = np.hypot(*(xy - xy[row] - 20.0 * place).T) / spacing
            candidates = np.flatnonzero(distance < distance.min() + 0.01)  # more than one: they are equally near
            if len(taken) < len(chosen) and chosen[len(taken)] in candidates and distance.min() < 0.74:
                taken.append(chosen[len(taken)])
            elif len(taken) < k:
                assert distance.min() > 0.7 or set(taken) & set(candidates)
        assert taken == chosen
        assert len(set(taken)) == len(taken)
        assert taken[0] == row


@pytest.mark.parametrize("tiles", GRIDS)
@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("spacing", [80.0, 400 / 3, 300.0, 37 / 0.68])
def test_all_tiles_inside_see_the_same_places(tiles, grid, spacing):
    """Also where two tiles are equally near to a place, and rounding would choose one or the other."""
    _, xy = grid_points(50 * spacing, 50 * spacing, spacing, tiles)
    context = lattice_context(xy, 200.0, 9, grid)
    inside = np.flatnonzero((np.abs(xy - 25 * spacing) < 25 * spacing - 900).all(1))
    assert len(inside) > 50
    offsets = np.round((xy[context.index[inside]] - xy[inside, None]) / spacing, 3)
    assert (offsets == offsets[0]).all()
    if tiles == grid == "square":  # and that is no more to the left than to the right
        assert {tuple(o) for o in offsets[0]} == {(-x, -y) for x, y in offsets[0]}


@pytest.mark.parametrize("spacing", [37.0, 50.0, 73.0])
def test_any_spacing_serves_a_lattice_of_any_kind(spacing):
    """Neighbours lie about where the spots of a Visium slide would lie."""
    _, xy = grid_points(2000.0, 2000.0, spacing, "square")
    context = lattice_context(xy, 100.0, 7, "hexagonal")
    middle = np.argmin(np.linalg.norm(xy - 1000, axis=1))
    distance = np.linalg.norm(xy[context.index[middle]] - xy[middle], axis=1)
    assert context.mask[middle].all()
    assert distance[0] == 0
    assert (np.abs(distance[1:] - 100) < spacing * 0.75).all()


def test_a_coarser_grid_takes_each_tile_once():
    _, xy = grid_points(4000.0, 4000.0, 300.0, "square")
    context = lattice_context(xy, 100.0, 49, "square")
    for index, mask in zip(context.index, context.mask, strict=True):
        assert len(set(index[mask])) == mask.sum()
    assert context.mask.sum(1).min() > 9


def test_few_tiles_are_masked():
    _, xy = grid_points(60.0, 20.0, 20.0)
    context = lattice_context(xy, 20.0, 9)
    np.testing.assert_array_equal(context.mask.sum(1), 3)
    assert lattice_context(xy[:1], 20.0, 9).mask.sum() == 1


def test_a_pitch_that_is_none_is_refused():
    with pytest.raises(HisDiffError, match="pitch=0"):
        lattice_context(np.zeros((3, 2)), 0, 9)
    with pytest.raises(HisDiffError, match="triangular"):
        lattice_context(np.zeros((3, 2)), 1, 9, "triangular")
