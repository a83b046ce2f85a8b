"""A map read at places that are not its tiles."""

from __future__ import annotations

import numpy as np
import pytest
from geopandas import GeoDataFrame, points_from_xy
from scipy.sparse import csr_matrix
from spatialdata.models import ShapesModel
from spatialdata.transformations import Scale

import hisdiff_sd as hd
from hisdiff_sd._errors import HisDiffError
from hisdiff_sd._shapes import slide_shapes


@pytest.mark.parametrize(("grid", "spacing"), [("square", 100), ("hexagonal", 150)])
def test_between_tiles_it_follows_the_map_and_at_them_it_is_the_map(slide, add_map, grid, spacing):
    key = add_map(slide, spacing, grid)  # genes X and Y are places in px
    read = hd.tl.read_map(slide)
    assert list(read.index) == list(slide["spots"].index)
    assert list(read.columns) == ["X", "Y"]
    assert (read.dtypes == np.float32).all()
    spots = slide_shapes(slide, "spots").xy
    tiles = slide[key].obsm["spatial"]
    apart = np.linalg.norm(spots[:, None] - tiles, axis=2)
    surrounded = (apart < 1.6 * spacing / 1.1).sum(1) >= (9 if grid == "square" else 7)
    assert surrounded.sum() > 5
    off = np.linalg.norm(read.to_numpy() - spots, axis=1)[surrounded] * 1.1 / spacing
    assert off.max() < 0.1  # the nearest tile is off by up to 0.7
    at_tiles = hd.tl.read_map(slide, f"tiles_{spacing}um")
    np.testing.assert_allclose(at_tiles.to_numpy(), slide[key].X, rtol=1e-5)


def test_it_is_kriging_with_a_linear_variogram(slide, add_map):
    """Against weights of the kriging system; of 12 tiles all are neighbours."""
    key = add_map(slide, 100)
    slide[key] = slide[key][:12].copy()
    slide[key].X = np.random.default_rng(0).gamma(2, size=(12, 2)).astype(np.float32)
    tiles = slide[key].obsm["spatial"]
    places = tiles[:4] + np.array([20, 33])
    variogram = np.ones((13, 13))
    variogram[:12, :12] = np.linalg.norm(tiles[:, None] - tiles, axis=2)
    variogram[12, 12] = 0
    right = np.vstack([np.linalg.norm(tiles[:, None] - places, axis=2), np.ones(4)])
    weights = np.linalg.solve(variogram, right)[:12]
    read = hd.tl.read_map(slide, places)
    np.testing.assert_allclose(read.to_numpy(), weights.T @ slide[key].X, rtol=1e-4)
    assert list(read.index) == [0, 1, 2, 3]


def test_rows_are_joined_by_name_and_layers_can_be_chosen(slide, add_map):
    key = add_map(slide, 100)
    before = hd.tl.read_map(slide, genes=["Y"])
    table = slide[key][np.random.default_rng(0).permutation(slide[key].n_obs)].copy()
    table.X = csr_matrix(table.X)
    slide[key] = table
    np.testing.assert_allclose(hd.tl.read_map(slide, genes=["Y"]), before, rtol=1e-5)
    assert np.allclose(hd.tl.read_map(slide, layer="std").dropna(), 0.5)


def test_nothing_is_read_far_from_the_tiles(slide, add_map):
    key = add_map(slide, 100)
    tiles, px = slide[key].obsm["spatial"], 100 / 1.1
    left = tiles[np.argmin(tiles[:, 0])]
    read = hd.tl.read_map(slide, left - [[0.9 * px, 0], [1.1 * px, 0]])
    assert np.isfinite(read.loc[0]).all()
    assert read.loc[1].isna().all()


@pytest.mark.parametrize("n", [1, 2, 20])
def test_a_strip_of_tiles_is_enough(slide, add_map, n):
    key = add_map(slide, 50, shapes_key=None)
    row = slide[key].obs_names.str.endswith("_y0003")
    slide[key] = slide[key][np.flatnonzero(row)[:n]].copy()
    tiles = slide[key].obsm["spatial"]
    read = hd.tl.read_map(slide, tiles + np.array([0, 3])).to_numpy()
    np.testing.assert_allclose(read, slide[key].X, atol=5)


def test_no_value_of_a_prediction_is_below_zero(slide, add_map):
    key = add_map(slide, 100)
    tiles = slide[key].obsm["spatial"]
    x = np.zeros(slide[key].shape, np.float32)
    x[:, 0] = tiles[:, 0] > np.median(tiles[:, 0])
    slide[key].X = x
    read = hd.tl.read_map(slide, tiles + 30)
    assert np.nanmin(read) == 0
    slide[key].uns["hisdiff_sd"]["kind"] = "embedding"  # which may be below
    assert np.nanmin(hd.tl.read_map(slide, tiles + 30, key=key)) < 0


def test_shapes_in_other_coordinates_are_read_where_they_lie(slide, add_map):
    add_map(slide, 100)
    xy = slide_shapes(slide, "spots").xy
    frame = GeoDataFrame({"radius": 1.0}, geometry=points_from_xy(*(xy / 4).T), index=slide["spots"].index)
    slide["cells"] = ShapesModel.parse(frame, transformations={"global": Scale([4, 4], axes=("x", "y"))})
    np.testing.assert_allclose(hd.tl.read_map(slide, "cells"), hd.tl.read_map(slide), rtol=1e-5)


def test_what_cannot_be_read_is_refused(slide, predicted, add_map):
    with pytest.raises(HisDiffError, match=r"no prediction on a grid.*spacing_um"):
        hd.tl.read_map(predicted)
    add_map(slide, 200)
    with pytest.raises(HisDiffError, match=r"'spot'.*'spots'"):
        hd.tl.read_map(slide, "spot")
    with pytest.raises(HisDiffError, match=r"\(3,\)"):
        hd.tl.read_map(slide, np.zeros(3))
    with pytest.raises(HisDiffError, match="1 of 2 places"):
        hd.tl.read_map(slide, np.array([[0.0, 0.0], [np.nan, 1.0]]))
    with pytest.raises(HisDiffError, match="neither"):
        hd.tl.read_map(slide, {"x": 1})
    with pytest.raises(HisDiffError, match="q05"):
        hd.tl.read_map(slide, layer="q05")
    with pytest.raises(HisDiffError, match="ERBB9"):
        hd.tl.read_map(slide, genes=["ERBB9"])
