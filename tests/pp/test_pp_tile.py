"""Grids of tiles on the tissue."""

from __future__ import annotations

import dataclasses
import shutil

import numpy as np
import pytest
import shapely
import spatialdata
import torch
from geopandas import GeoDataFrame
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from spatialdata import SpatialData
from spatialdata.models import ShapesModel
from spatialdata.transformations import get_transformation

import hisdiff_sd as hd
from hisdiff_sd._data import slide_inputs
from hisdiff_sd._errors import HisDiffError
from hisdiff_sd._shapes import slide_shapes
from hisdiff_sd.tiles import lattice_context, nearest

MPP = 1.1  # of the shared slides, 1500 x 1300 um


def with_tissue(sdata: SpatialData, *polygons: shapely.Polygon) -> SpatialData:
    bare = SpatialData(images={"he": sdata["he"]}, attrs=sdata.attrs)
    bare.shapes["tissue"] = ShapesModel.parse(GeoDataFrame(geometry=list(polygons)))
    return bare


@pytest.fixture
def slide(open_store) -> SpatialData:
    """S3 with a tissue of known outline: 800 x 600 px with a hole of 200 x 200."""
    outer = shapely.box(200, 300, 1000, 900)
    return with_tissue(open_store("S3"), outer.difference(shapely.box(400, 500, 600, 700)))


@pytest.mark.parametrize("grid", ["square", "hexagonal"])
def test_tiles_cover_the_tissue_and_nothing_else(slide, grid):
    hd.pp.tile(slide, 40, grid=grid)
    tiles, tissue = slide["tiles_40um"], slide["tissue"].geometry.iloc[0]
    assert shapely.contains_xy(tissue.buffer(1e-3), slide_shapes(slide, "tiles_40um").xy).all()
    union = shapely.union_all(tiles.geometry.to_numpy(), grid_size=1e-6)
    assert union.area == pytest.approx(tiles.geometry.area.sum(), rel=1e-6)  # none overlaps another
    assert union.intersection(tissue).area / tissue.area > 0.9
    assert len(tiles) == pytest.approx(
        tissue.area * MPP**2 / (40**2 * (1 if grid == "square" else 3**0.5 / 2)), rel=0.1
    )
    assert (tiles["spacing_um"] == 40).all()
    assert (tiles["grid"] == grid).all()


def test_shapes_are_read_as_arrays(slide):
    hd.pp.tile(slide, 50, tile_um=100)
    shapes = slide_shapes(slide, "tiles_50um")
    assert (shapes.diameter_px, shapes.spacing_px, shapes.grid) == pytest.approx((100 / MPP, 50 / MPP, "square"))
    np.testing.assert_allclose(shapes.xy, [[g.centroid.x, g.centroid.y] for g in slide["tiles_50um"].geometry])
    # a grid that starts in the corner of the slide
    np.testing.assert_allclose((shapes.xy * MPP / 50 - 0.5) % 1 % (1 - 1e-6), 0, atol=1e-6)


def test_tiles_lie_in_both_coordinate_systems(slide):
    hd.pp.tile(slide, 100)
    transformations = get_transformation(slide["tiles_100um"], get_all=True)
    assert set(transformations) == {"global", "microns"}
    in_um = spatialdata.transform(slide["tiles_100um"], to_coordinate_system="microns").geometry.area
    np.testing.assert_allclose(in_um, 100**2)


def test_names_stay_when_the_tissue_changes(slide, open_store):
    hd.pp.tile(slide, 60)
    other = with_tissue(open_store("S3"), shapely.box(0, 0, 700, 700))
    hd.pp.tile(other, 60)
    a, b = slide["tiles_60um"].geometry, other["tiles_60um"].geometry
    both = a.index.intersection(b.index)
    assert 10 < len(both) < len(a)
    assert a[both].geom_equals_exact(b[both], 1e-6).all()
    assert a.index.is_unique


@settings(deadline=None, max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(spacing=st.floats(15, 400), grid=st.sampled_from(["square", "hexagonal"]))
def test_any_spacing_works(slide, spacing, grid):
    hd.pp.tile(slide, spacing, grid=grid, key_added="g", overwrite=True)
    shapes = slide_shapes(slide, "g")
    assert shapes.n > 0
    if shapes.n > 1:
        distance = np.linalg.norm(shapes.xy[:, None] - shapes.xy[None, :50], axis=2)
        assert distance[distance > 1e-6].min() >= spacing / MPP * (1 - 1e-6)


def test_a_model_gives_the_sizes(slide, tiny_model):
    hd.pp.tile(slide, model=tiny_model)
    tiles = slide["tiles_200um"]
    assert (tiles["tile_um"] == 100).all()  # spots of 100 um, 200 um apart
    hd.pp.tile(slide, 50, model=tiny_model)
    assert (slide["tiles_50um"]["tile_um"] == 100).all()
    silent = hd.HisDiff(
        tiny_model.network, dataclasses.replace(tiny_model.config, spot_pitch_um=None), tiny_model.scalers
    )
    with pytest.raises(HisDiffError, match="spacing_um="):
        hd.pp.tile(slide, model=silent)


def test_the_whole_slide(open_store):
    sdata = open_store("S3")
    hd.pp.tile(sdata, 100, shapes_key=None)
    assert len(sdata["tiles_100um"]) == 15 * 13


def test_tiles_are_written_and_embedded(stores, tmp_path):
    shutil.copytree(stores["S3"], tmp_path / "S3.zarr")
    sdata = spatialdata.read_zarr(tmp_path / "S3.zarr")
    hd.pp.tissue(sdata)
    hd.pp.tile(sdata, 150, tile_um=100)
    hd.pp.embed(sdata, "morphology", shapes_key="tiles_150um")
    again = spatialdata.read_zarr(tmp_path / "S3.zarr")
    table = again["tiles_150um_morphology"]
    assert list(table.obs["instance_id"]) == list(again["tiles_150um"].index)
    assert set(table.obs["region"]) == {"tiles_150um"}
    assert again["tiles_150um"]["tile_um"].dtype == float
    hd.pp.tile(again, 150, tile_um=100)  # there already
    with pytest.raises(HisDiffError, match="overwrite=True"):
        hd.pp.tile(again, 150, tile_um=55)
    hd.pp.tile(again, 150, tile_um=55, overwrite=True)
    assert (spatialdata.read_zarr(tmp_path / "S3.zarr")["tiles_150um"]["tile_um"] == 55).all()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"spacing_um": 1.0}, r"below a pixel \(1.1 um\)"),
        ({"spacing_um": 1000}, r"larger than the tissue \(880 x 660 um\)"),
        ({"spacing_um": 0}, "spacing_um=0"),
        ({"spacing_um": float("nan")}, "spacing_um=nan"),
        ({"spacing_um": 50, "tile_um": -1}, "tile_um=-1"),
        ({}, "no spacing"),
        ({"spacing_um": 50, "grid": "triangular"}, "triangular"),
        ({"spacing_um": 50, "shapes_key": "tisue"}, r"no outlines 'tisue'.*hd\.pp\.tissue.*'tissue'"),
    ],
)
def test_what_makes_no_grid_is_refused(slide, options, words):
    with pytest.raises(HisDiffError, match=words):
        hd.pp.tile(slide, **options)
    assert list(slide.shapes) == ["tissue"]


def test_tissue_that_no_tile_lies_on_is_refused_with_its_size(open_store):
    strip = with_tissue(open_store("S3"), shapely.box(10, 10, 710, 40))
    with pytest.raises(HisDiffError, match=r"no tile's centre lies on the tissue \(770 x 33 um\)"):
        hd.pp.tile(strip, 200)


def test_tissue_beyond_the_image_has_no_tiles(open_store):
    height, width = open_store("S3").attrs["hisdiff_sd"]["true_size"]
    over = with_tissue(open_store("S3"), shapely.box(width - 300, -500, width + 900, 400))
    hd.pp.tile(over, 40)
    xy = slide_shapes(over, "tiles_40um").xy
    assert (xy > 0).all()
    assert (xy < [width, height]).all()
    assert len(xy) == pytest.approx(300 * 400 * MPP**2 / 40**2, rel=0.15)
    outside = with_tissue(open_store("S3"), shapely.box(width + 10, 0, width + 900, 400))
    with pytest.raises(HisDiffError, match="outside the image"):
        hd.pp.tile(outside, 40)


def test_fragments_and_overlapping_outlines_give_each_tile_once(open_store):
    polygons = [shapely.box(100, 100, 400, 300), shapely.box(300, 200, 500, 600), shapely.box(900, 800, 1200, 1100)]
    slide = with_tissue(open_store("S3"), *polygons)
    hd.pp.tile(slide, 30)
    tiles, xy = slide["tiles_30um"], slide_shapes(slide, "tiles_30um").xy
    assert tiles.index.is_unique
    assert shapely.contains_xy(shapely.union_all(polygons), xy).all()
    assert len(tiles) == pytest.approx(shapely.union_all(polygons).area * MPP**2 / 30**2, rel=0.1)
    assert (np.diff(xy @ [1e-6, 1]) > 0).all()  # row by row


def test_a_grid_needs_no_more_memory_than_the_tissue_does(slide, monkeypatch):
    """A fine grid on a small biopsy of a large slide: nothing is made of the glass."""
    monkeypatch.setitem(slide.attrs["hisdiff_sd"], "true_size", [1_000_000, 1_000_000])
    hd.pp.tile(slide, 5)  # 4.8e10 points on the whole slide
    assert len(slide["tiles_5um"]) == pytest.approx(slide["tissue"].geometry.area.sum() * MPP**2 / 25, rel=0.01)


def test_embedding_of_a_grid_goes_on_where_it_was(stores, tmp_path):
    shutil.copytree(stores["S3"], tmp_path / "S3.zarr")
    sdata = spatialdata.read_zarr(tmp_path / "S3.zarr")
    hd.pp.tile(sdata, 150, shapes_key=None)
    seen: list[int] = []

    class Mean:
        name, licence, tile_px, dim, fingerprint = "mean", "none", 224, 3, "m1"
        most = 40

        def __call__(self, tiles: torch.Tensor) -> torch.Tensor:
            if sum(seen) + len(tiles) > self.most:
                raise KeyboardInterrupt
            seen.append(len(tiles))
            return tiles.float().mean((2, 3))

    encoder = Mean()
    with pytest.raises(KeyboardInterrupt):
        hd.pp.embed(sdata, encoder, shapes_key="tiles_150um", batch_size=8)
    encoder.most = 10**6
    before, n = sum(seen), len(sdata["tiles_150um"])
    hd.pp.embed(sdata, encoder, shapes_key="tiles_150um", batch_size=8)
    assert before > 8
    assert sum(seen) <= n + 8  # at most the batch that was under way is seen again
    found = spatialdata.read_zarr(tmp_path / "S3.zarr")["tiles_150um_mean"]
    hd.pp.embed(sdata, encoder, shapes_key="tiles_150um", batch_size=8, key_added="whole")
    np.testing.assert_array_equal(found.X, sdata["whole"].X)


def test_embeddings_of_replaced_tiles_are_not_used(slide):
    """Tiles of another grid may have the same names."""
    hd.pp.tile(slide, 100, key_added="g", shapes_key=None)
    hd.pp.embed(slide, "morphology", shapes_key="g")
    how = {"near": 9, "wide": 49, "shapes_key": "g", "pitch_um": 200.0}
    assert slide_inputs(slide, "g_morphology", **how).n == len(slide["g"])
    hd.pp.tile(slide, 200, key_added="g", shapes_key=None, tile_um=100, overwrite=True)
    with pytest.raises(HisDiffError, match=r"'g_morphology' was made of other tiles.*overwrite=True"):
        slide_inputs(slide, "g_morphology", **how)
    with pytest.raises(HisDiffError, match="overwrite=True"):
        hd.pp.embed(slide, "morphology", shapes_key="g")
    hd.pp.embed(slide, "morphology", shapes_key="g", overwrite=True)
    assert slide_inputs(slide, "g_morphology", **how).n == len(slide["g"])


@pytest.mark.parametrize(("pitch_um", "grid"), [(200.0, "square"), (100.0, "hexagonal"), (None, "square")])
def test_the_model_sees_tiles_at_the_training_pitch(slide, pitch_um, grid):
    hd.pp.tile(slide, 50, tile_um=100)
    hd.pp.embed(slide, "morphology", shapes_key="tiles_50um")
    options = {"near": 9, "wide": 25, "shapes_key": "tiles_50um"}
    found = slide_inputs(slide, "tiles_50um_morphology", pitch_um=pitch_um, grid=grid, **options)
    xy = slide_shapes(slide, "tiles_50um").xy
    np.testing.assert_array_equal(found.xy, xy)
    for k, context in ((9, found.near), (25, found.wide)):
        expected = nearest(xy, k) if pitch_um is None else lattice_context(xy, pitch_um / MPP, k, grid)
        np.testing.assert_array_equal(context.index, expected.index)
        np.testing.assert_array_equal(context.mask, expected.mask)
    # the place beside a tile is a training spot away, not the next tile
    distance = np.linalg.norm(xy[found.near.index[:, 1]] - xy, axis=1) * MPP
    assert np.median(distance) == pytest.approx(pitch_um or 50, abs=25)


def test_outlines_are_polygons(open_store):
    with pytest.raises(HisDiffError, match="no outlines"):
        hd.pp.tile(open_store("S3"), 50, shapes_key="spots")


def test_too_many_tiles_are_refused(slide, monkeypatch):
    monkeypatch.setattr("hisdiff_sd.pp._tile._MOST_TILES", 200)
    with pytest.raises(HisDiffError, match=r"give 5\d or more"):
        hd.pp.tile(slide, 20)


def test_shapes_of_others_are_no_tiles(slide):
    with pytest.raises(HisDiffError, match=r"hd\.pp\.tile"):
        slide_shapes(slide, "tissue")
