"""The outlines of the tissue on the slide."""

from __future__ import annotations

import geopandas
import matplotlib as mpl
import numpy as np
import pytest
import shapely
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.colors import to_hex
from spatialdata import SpatialData
from spatialdata.models import ShapesModel

import hisdiff_sd as hd
from hisdiff_sd._errors import HisDiffError

mpl.use("Agg")

MPP = 1.1  # of the shared slides


@pytest.fixture
def slide(open_store) -> SpatialData:
    """S1 with an outline that leaves out all spots left of x = 400, and a hole around one more."""
    sdata = open_store("S1")
    hole = shapely.Point(sdata["spots"].geometry.iloc[20]).buffer(60)
    polygons = [shapely.box(400, 20, 1300, 1150) - hole, shapely.box(20, 20, 30, 30)]
    sdata["tissue"] = ShapesModel.parse(geopandas.GeoDataFrame(geometry=polygons))
    return sdata


def labelled(axes, kind: type) -> dict[str, object]:
    return {c.get_label(): c for c in axes.collections if isinstance(c, kind) and not c.get_label().startswith("_")}


def test_outlines_and_holes_are_drawn(slide, tmp_path):
    figure = hd.pl.tissue(slide)
    (axes,) = figure.axes
    lines = labelled(axes, LineCollection)
    assert list(lines) == ["tissue", "hole"]
    assert [len(line.get_segments()) for line in lines.values()] == [2, 1]
    large = slide["tissue"].geometry.iloc[0]
    np.testing.assert_array_equal(lines["tissue"].get_segments()[0], large.exterior.coords)
    np.testing.assert_array_equal(lines["hole"].get_segments()[0], large.interiors[0].coords)
    assert {text.get_text() for text in figure.legends[0].texts} == {"tissue", "hole", "inside", "outside"}
    figure.savefig(tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 50_000


def test_the_whole_slide_is_shown_in_level_0_pixels(slide):
    (axes,) = hd.pl.tissue(slide).axes
    height, width = slide.attrs["hisdiff_sd"]["true_size"]
    assert (axes.get_xlim(), axes.get_ylim()) == (
        pytest.approx((0, width), abs=2),
        pytest.approx((height, 0), abs=2),
    )
    assert axes.images[0].get_extent() == pytest.approx([0, width, height, 0], abs=2)
    assert [text.get_text() for text in axes.texts] == ["200 um"]
    (bar,) = axes.lines
    assert np.ptp(bar.get_xdata()) * MPP == pytest.approx(200)


def test_spots_outside_have_another_colour(slide):
    figure = hd.pl.tissue(slide)
    xy = shapely.get_coordinates(slide["spots"].geometry)
    outside = (xy[:, 0] < 400) | (np.hypot(*(xy - xy[20]).T) < 60)
    dots = labelled(figure.axes[0], PathCollection)
    assert outside[20]
    np.testing.assert_array_equal(dots["outside"].get_offsets(), xy[outside])
    np.testing.assert_array_equal(dots["inside"].get_offsets(), xy[~outside])
    assert len({to_hex(dot.get_facecolor()[0]) for dot in dots.values()}) == 2
    area = slide["tissue"].area.sum() * MPP**2 / 1e6
    share = f"{(~outside).sum()} of {len(xy)} ({(~outside).mean():.1%})"
    assert figure.get_suptitle() == f"S1: {area:.2f} mm2 of tissue in 2 fragments; {share} spots inside"


def test_what_pp_tissue_made(open_store):
    sdata = open_store("S2")
    hd.pp.tissue(sdata)
    n = len(sdata["spots"])
    assert hd.pl.tissue(sdata).get_suptitle().endswith(f"mm2 of tissue in 1 fragment; all of {n} spots inside")


def test_a_slide_without_spots_and_with_other_shapes(slide):
    bare = SpatialData(images={"he": slide["he"]}, shapes={"tissue": slide["tissue"]}, attrs=slide.attrs)
    figure = hd.pl.tissue(bare)
    assert figure.get_suptitle().endswith("in 2 fragments")
    assert not labelled(figure.axes[0], PathCollection)
    tiles = shapely.box(*np.array([[450, 300, 500, 350], [0, 300, 50, 350]]).T)
    bare["tiles"] = ShapesModel.parse(geopandas.GeoDataFrame(geometry=tiles))
    figure = hd.pl.tissue(bare, shapes_key="tiles")
    assert figure.get_suptitle().endswith("1 of 2 (50.0%) tiles inside")
    np.testing.assert_array_equal(labelled(figure.axes[0], PathCollection)["outside"].get_offsets(), [[25, 325]])


def test_outlines_of_others_with_several_parts(slide):
    both = shapely.MultiPolygon(list(slide["tissue"].geometry))
    slide["other"] = ShapesModel.parse(geopandas.GeoDataFrame(geometry=[both]))
    lines = labelled(hd.pl.tissue(slide, tissue_key="other").axes[0], LineCollection)
    assert [len(line.get_segments()) for line in lines.values()] == [2, 1]


def test_what_is_missing(slide, open_store):
    with pytest.raises(
        HisDiffError, match="slide 'S2' has no outlines 'tissue'; shapes here: 'spots'; run hd.pp.tissue"
    ):
        hd.pl.tissue(open_store("S2"))
    with pytest.raises(HisDiffError, match="shapes 'spots' are no outlines"):
        hd.pl.tissue(slide, tissue_key="spots")
    with pytest.raises(HisDiffError, match="no image 'HE'"):
        hd.pl.tissue(slide, image_key="HE")
    with pytest.raises(HisDiffError, match="no shapes 'cells'"):
        hd.pl.tissue(slide, shapes_key="cells")
