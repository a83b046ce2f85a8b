"""Neighbours on both grids, and Moran's I against its definition."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import sparse

import hisdiff_sd as hd
from hisdiff_sd._errors import HisDiffError

VALUES = st.integers(-80, 80).map(lambda i: i / 8)


def square(rows, columns):
    return np.indices((rows, columns)).reshape(2, -1).T[:, ::-1].astype(float)


def hexagonal(rows, columns):
    xy = square(rows, columns)
    return np.column_stack([xy[:, 0] + 0.5 * (xy[:, 1] % 2), xy[:, 1] * np.sqrt(3) / 2])


PLACES = {4: square(9, 11), 6: hexagonal(9, 11)}


def moran_directly(values, graph):
    w, out = graph.toarray(), []
    for x in values.T:
        d = x - x.mean()
        top = sum(w[i, j] * d[i] * d[j] for i in range(len(x)) for j in range(len(x)))
        out.append(len(x) / w.sum() * top / (d**2).sum() if np.ptp(x) else 0.0)
    return out


@pytest.mark.parametrize("n_neighbours", [4, 6])
@pytest.mark.parametrize("jitter", [0.0, 0.04])
def test_neighbours_are_those_of_the_grid(n_neighbours, jitter):
    grid = PLACES[n_neighbours]
    xy = 287.0 * (grid + np.random.default_rng(0).normal(0, jitter, grid.shape)) + 1000
    graph = hd.metrics.neighbour_graph(xy, n_neighbours)
    distance = np.hypot(*(grid[:, None] - grid[None]).transpose(2, 0, 1))
    np.testing.assert_array_equal(graph.toarray(), (distance > 0) & (distance < 1.2))


@given(st.integers(0, 2**32 - 1), st.sampled_from([4, 6]))
@settings(max_examples=30, deadline=None)
def test_neighbours_are_mutual_near_and_not_oneself(seed, n_neighbours):
    rng = np.random.default_rng(seed)
    xy = PLACES[n_neighbours]
    xy = xy[rng.random(len(xy)) < 0.7] + rng.normal(0, 0.05, 2)
    graph = hd.metrics.neighbour_graph(xy, n_neighbours)
    assert (graph != graph.T).nnz == 0
    assert set(graph.data) <= {1.0}
    assert not graph.diagonal().any()
    i, j = graph.nonzero()
    assert np.hypot(*(xy[i] - xy[j]).T).max() < 1.3


def test_a_spot_that_is_not_chosen_by_its_neighbour_still_is_one():
    # the first spot has two spots nearer than the third, and is itself the nearest of the third
    xy = np.array([[0.0, 0.0], [0.9, 0.0], [-0.9, 0.0], [0.0, 1.0], [0.9, -1.0], [-0.9, -1.0]])
    graph = hd.metrics.neighbour_graph(xy, 2).toarray()
    assert graph[0, 3] == graph[3, 0] == 1


@given(hnp.arrays(np.float64, (9 * 11, 2), elements=VALUES), st.sampled_from([4, 6]))
@settings(max_examples=30, deadline=None)
def test_moran_is_its_definition(values, n_neighbours):
    graph = hd.metrics.neighbour_graph(PLACES[n_neighbours], n_neighbours)
    np.testing.assert_allclose(hd.metrics.moran(values, graph), moran_directly(values, graph), atol=1e-9)


def test_moran_of_known_maps():
    xy = square(20, 20)
    graph = hd.metrics.neighbour_graph(xy, 4)
    noise = np.random.default_rng(0).normal(size=(400, 200))
    maps = np.column_stack([(xy[:, 0] + xy[:, 1]) % 2, np.sin(xy[:, 0] / 5), np.full(400, 0.1), noise])
    found = hd.metrics.moran(maps, graph)
    assert found[0] == pytest.approx(-1)
    assert found[1] > 0.9
    assert found[2] == 0
    assert found[3:].mean() == pytest.approx(-1 / 399, abs=0.01)  # the expectation without any pattern
    # the weights of the sum are those of the graph: twice the weight changes nothing, another kind of sparse neither
    np.testing.assert_allclose(hd.metrics.moran(maps, sparse.coo_array(2 * graph)), found, atol=1e-12)


@given(hnp.arrays(np.float64, (99, 3), elements=VALUES), st.integers(1, 30), st.integers(-30, 30))
@settings(max_examples=30, deadline=None)
def test_moran_ignores_scale_sign_and_offset(values, scale, offset):
    graph = hd.metrics.neighbour_graph(PLACES[4], 4)
    expected = hd.metrics.moran(values, graph)
    np.testing.assert_allclose(hd.metrics.moran(offset - scale * values, graph), expected, atol=1e-9)


def test_error_and_correlation_of_moran():
    xy = PLACES[4]
    graph = hd.metrics.neighbour_graph(xy, 4)
    rng = np.random.default_rng(2)
    true = np.sin(xy[:, :1] / 3) * np.linspace(0, 2, 12) + rng.normal(size=(99, 12))
    pred = np.sin(xy[:, 1:] / 3) * np.linspace(0, 2, 12) + rng.normal(size=(99, 12))
    i_pred, i_true = hd.metrics.moran(pred, graph), hd.metrics.moran(true, graph)
    assert hd.metrics.moran_error(pred, true, graph) == pytest.approx(np.abs(i_pred - i_true).mean())
    assert hd.metrics.moran_corr(pred, true, graph) == pytest.approx(np.corrcoef(i_pred, i_true)[0, 1])
    assert hd.metrics.moran_corr(pred, true, graph) > 0.5  # the same genes have a pattern, though another one
    assert hd.metrics.moran_error(true, true, graph) == 0
    assert hd.metrics.moran_corr(true, true, graph) == pytest.approx(1)
    # a constant prediction, and a panel of one gene, have nothing to correlate
    assert hd.metrics.moran_corr(np.ones_like(true), true, graph) == 0
    assert hd.metrics.moran_corr(pred[:, :1], true[:, :1], graph) == 0
    assert hd.metrics.moran_error(np.ones_like(true), true, graph) == pytest.approx(np.abs(i_true).mean())


@pytest.mark.parametrize(
    ("xy", "n", "message"),
    [
        (square(1, 2), 4, "2 spots are no grid"),
        (np.ones((5, 2)), 4, "most spots lie at the same place"),
        (square(3, 3), 0, "n_neighbours=0; it has to be 4"),
    ],
)
def test_what_is_no_grid_is_refused(xy, n, message):
    with pytest.raises(HisDiffError, match=message):
        hd.metrics.neighbour_graph(xy, n)


def test_graphs_that_do_not_fit_are_refused():
    values = np.random.default_rng(0).normal(size=(9, 2))
    with pytest.raises(HisDiffError, match=r"graph has the shape \(4, 4\); of 9 spots"):
        hd.metrics.moran(values, hd.metrics.neighbour_graph(square(2, 2), 4))
    with pytest.raises(HisDiffError, match="graph has no neighbours"):
        hd.metrics.moran_error(values, values, sparse.csr_matrix((9, 9)))
