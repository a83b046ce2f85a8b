"""Predictions on a grid as images that lie on the slide."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import spatialdata
from scipy.sparse import csr_matrix
from spatialdata.transformations import get_transformation

import hisdiff_sd as hd
from hisdiff_sd._errors import HisDiffError


@pytest.mark.parametrize(("grid", "spacing"), [("square", 100), ("square", 37.5), ("hexagonal", 100)])
def test_a_pixel_shows_the_tile_it_lies_on(slide, grid, spacing, add_map):
    key = add_map(slide, spacing, grid)
    hd.tl.rasterize(slide)
    image = slide[f"{key}_raster"]
    assert image.dtype == np.float32
    assert list(image.coords["c"].values) == ["X", "Y"]
    values = image.to_numpy()
    shown = np.isfinite(values[0])
    assert 0.3 < shown.mean() < 1
    assert (np.isfinite(values[1]) == shown).all()
    # where a pixel's centre lies on the slide, by the image's own transformation
    rows, columns = np.nonzero(shown)
    matrix = get_transformation(image, "global").to_affine_matrix(("x", "y"), ("x", "y"))
    centres = np.column_stack([columns + 0.5, rows + 0.5, np.ones(len(rows))]) @ matrix.T[:, :2]
    off = np.abs(values[:, rows, columns].T - centres).max()
    px = spacing / 1.1
    assert off < (1e-2 if grid == "square" else 0.6 * px)
    if grid == "square":
        assert shown.sum() == slide[key].n_obs
    in_um = get_transformation(image, "microns").to_affine_matrix(("x", "y"), ("x", "y"))
    np.testing.assert_allclose(in_um[:2], matrix[:2] * 1.1)


def test_genes_and_layers_can_be_chosen(slide, add_map):
    key = add_map(slide, 150)
    hd.tl.rasterize(slide, ["Y"], layer="std", key=key)
    image = slide[f"{key}_std_raster"]
    assert list(image.coords["c"].values) == ["Y"]
    assert np.nanmax(image.to_numpy()) == np.nanmin(image.to_numpy()) == 0.5


@pytest.mark.parametrize("system", ["global", "microns"])
def test_the_image_covers_the_tiles_and_no_more(slide, system, add_map):
    key = add_map(slide, 60)
    hd.tl.rasterize(slide)
    of_image = spatialdata.get_extent(slide[f"{key}_raster"], coordinate_system=system)
    of_tiles = spatialdata.get_extent(slide["tiles_60um"], coordinate_system=system)
    for axis in ("x", "y"):
        assert of_image[axis] == pytest.approx(of_tiles[axis])
    # the part of the image that a rectangle of the slide cuts out is the part of the map
    (left, _), (top, _) = of_image["x"], of_image["y"]
    side = 60 / 1.1 if system == "global" else 60
    part = spatialdata.bounding_box_query(
        slide[f"{key}_raster"],
        axes=("x", "y"),
        min_coordinate=[left + 2 * side, top + side],
        max_coordinate=[left + 6 * side, top + 4 * side],
        target_coordinate_system=system,
    )
    np.testing.assert_array_equal(part.to_numpy(), slide[f"{key}_raster"].to_numpy()[:, 1:4, 2:6])


def test_any_table_on_a_grid_can_be_drawn(slide, add_map):
    add_map(slide, 150, name="mine")
    hd.tl.rasterize(slide)  # a prediction, whatever its name
    slide["counts"] = slide["mine"].copy()
    slide["counts"].X = csr_matrix(slide["mine"].X)
    slide["counts"].uns.pop("hisdiff_sd")
    hd.tl.rasterize(slide, key="counts")
    np.testing.assert_array_equal(slide["counts_raster"].to_numpy(), slide["mine_raster"].to_numpy())


def test_tiles_without_a_value_are_empty(slide, add_map):
    """Tiles whose image could not be read have no row; rows are joined by name."""
    key = add_map(slide, 150)
    hd.tl.rasterize(slide)
    whole = slide[f"{key}_raster"].to_numpy()
    rows = np.random.default_rng(0).permutation(slide[key].n_obs)[5:]
    slide[key] = slide[key][rows].copy()
    hd.tl.rasterize(slide, overwrite=True)
    some = slide[f"{key}_raster"].to_numpy()
    shown = np.isfinite(some)
    np.testing.assert_array_equal(some[shown], whole[shown])
    assert np.isfinite(whole).sum() - shown.sum() == 2 * 5


def test_a_channel_is_read_alone(stores, tmp_path, add_map):
    shutil.copytree(stores["S3"], tmp_path / "S3.zarr")
    sdata = spatialdata.read_zarr(tmp_path / "S3.zarr")
    key = add_map(sdata, 200, shapes_key=None)
    hd.tl.rasterize(sdata)
    image = spatialdata.read_zarr(tmp_path / "S3.zarr")[f"{key}_raster"]
    assert image.data.chunksize == (1, *image.shape[1:])


def test_spatialdata_plot_draws_it_over_the_slide(slide, add_map):
    import matplotlib.pyplot as plt
    import spatialdata_plot  # noqa: F401  (registers .pl)

    key = add_map(slide, 100)
    hd.tl.rasterize(slide)
    _, axes = plt.subplots()
    # as the docstring says
    slide.pl.render_images("he").pl.render_images(
        f"{key}_raster",
        channel="X",
        transfunc=lambda x: np.nan_to_num(x, nan=-1),
        alpha=0.6,
        cmap="viridis",
        norm=plt.Normalize(0),
    ).pl.show("global", ax=axes)
    drawn = axes.get_images()[-1]
    drawn.set_cmap(drawn.get_cmap().with_extremes(under="none"))
    assert drawn.to_rgba([-1.0, 0.5])[:, 3] == pytest.approx([0, 0.6])
    values = np.asarray(drawn.get_array())
    np.testing.assert_array_equal(values < 0, np.isnan(slide[f"{key}_raster"].to_numpy()[0]))
    # on the screen, the corner of the picture is the corner of the tiles
    left, top, _, _ = slide["tiles_100um"].total_bounds
    corner = drawn.get_transform().transform([(0, 0)]) - axes.transData.transform([(left, top)])
    assert np.abs(corner).max() < 1
    plt.close("all")


def test_the_image_is_in_the_store(stores, tmp_path, add_map):
    shutil.copytree(stores["S3"], tmp_path / "S3.zarr")
    sdata = spatialdata.read_zarr(tmp_path / "S3.zarr")
    hd.pp.tissue(sdata)
    key = add_map(sdata, 200)
    hd.tl.rasterize(sdata)
    again = spatialdata.read_zarr(tmp_path / "S3.zarr")
    np.testing.assert_array_equal(again[f"{key}_raster"].to_numpy(), sdata[f"{key}_raster"].to_numpy())
    assert list(again[f"{key}_raster"].coords["c"].values) == ["X", "Y"]
    with pytest.raises(HisDiffError, match="overwrite=True"):
        hd.tl.rasterize(again)
    hd.tl.rasterize(again, ["X"], overwrite=True)
    assert spatialdata.read_zarr(tmp_path / "S3.zarr")[f"{key}_raster"].shape[0] == 1


def test_what_cannot_be_drawn_is_refused(slide, predicted, add_map):
    with pytest.raises(HisDiffError, match=r"no prediction on a grid.*spacing_um"):
        hd.tl.rasterize(predicted)
    first, second = add_map(slide, 200), add_map(slide, 300)
    with pytest.raises(HisDiffError, match=f"{first}.*{second}"):
        hd.tl.rasterize(slide)
    with pytest.raises(HisDiffError, match="no list"):
        hd.tl.rasterize(slide, "X", key=first)
    with pytest.raises(HisDiffError, match="ERBB9"):
        hd.tl.rasterize(slide, ["ERBB9"], key=first)
    with pytest.raises(HisDiffError, match="q05"):
        hd.tl.rasterize(slide, layer="q05", key=first)
    with pytest.raises(HisDiffError, match="table"):
        hd.tl.rasterize(slide, key="table")
    assert list(slide.images) == ["he"]
