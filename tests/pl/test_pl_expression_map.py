"""Maps of tiles, and what of a prediction is shown as not to be believed."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import pytest
import shapely
from matplotlib.collections import EllipseCollection, PolyCollection
from matplotlib.figure import Figure
from spatialdata import SpatialData

import hisdiff_sd as hd
from hisdiff_sd._errors import HisDiffError

mpl.use("Agg")


@pytest.fixture
def slide(open_store) -> SpatialData:
    """S3 with nothing predicted, to be changed."""
    return open_store("S3")


@pytest.fixture
def bare(slide) -> SpatialData:
    """S3 as an H&E-only slide: tiles, no counts."""
    del slide.tables["table"]
    return slide


def panels(figure: Figure) -> dict:
    """Axes with a slide, by the first word of their title."""
    return {a.get_title().replace(",", " ").split()[0]: a for a in figure.axes if a.images}


def legend_of(figure: Figure) -> list[str]:
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def cells_of(sdata: SpatialData, name: str) -> np.ndarray:
    """Column and row of every tile, counted by its left and top edge."""
    edges = sdata[name].geometry.bounds.to_numpy()
    side = edges[0, 2] - edges[0, 0]
    return ((edges[:, :2] - edges[:, :2].min(0)) / side).round().astype(int)


def hatched(axes) -> np.ndarray:
    """The rectangles of what is not trusted, (n, 4): left, top, right, bottom."""
    (patch,) = axes.patches
    assert patch.get_hatch()
    corners = patch.get_path().vertices.reshape(-1, 5, 2)
    return np.hstack([corners.min(1), corners.max(1)])


def test_squares_are_one_image_that_lies_on_them(bare, lay_tiles, add_prediction):
    name = lay_tiles(bare)
    table = add_prediction(bare, name)
    found = panels(hd.pl.expression(bare, "ERBB2"))
    assert list(found) == ["predicted", "uncertainty"]
    order, cells = bare[name].index, cells_of(bare, name)
    for axes, values in zip(found.values(), (table.to_df(), table.to_df("std")), strict=True):
        _, picture = axes.images
        left, right, bottom, top = picture.get_extent()
        assert (left, top, right, bottom) == pytest.approx(tuple(bare[name].total_bounds))
        shown = picture.get_array()
        np.testing.assert_array_equal(shown[cells[:, 1], cells[:, 0]], values.loc[order, "ERBB2"].to_numpy(np.float32))
        assert np.isfinite(shown.data).all()  # below the mask too: what lies there is drawn through
        assert (shown.data[shown.mask] == picture.norm.vmin).all()
        assert shown.count() == len(order) < shown.size
        assert not axes.collections
        assert picture.get_alpha() < 0.8


def test_the_slide_is_grey_under_tiles_and_pale_under_spots(slide, lay_tiles, add_prediction):
    add_prediction(slide, lay_tiles(slide))
    found = panels(hd.pl.expression(slide, "EPCAM"))
    for name, grey in (("measured", False), ("predicted", True), ("uncertainty", True)):
        image = np.asarray(found[name].images[0].get_array()).astype(int)
        assert bool(np.ptp(image, axis=2).max() == 0) is grey
        assert bool(image.min() >= 128) is not grey


def test_hexagons_are_drawn_as_they_are(bare, lay_tiles, add_prediction):
    name = lay_tiles(bare, hexagonal=True)
    table = add_prediction(bare, name)
    axes = panels(hd.pl.expression(bare, "ERBB2"))["predicted"]
    (drawn,) = axes.collections
    assert isinstance(drawn, PolyCollection)
    np.testing.assert_array_equal(drawn.get_array(), table.to_df().loc[bare[name].index, "ERBB2"])
    for path, tile in zip(drawn.get_paths(), bare[name].geometry, strict=True):
        assert shapely.Polygon(path.vertices).symmetric_difference(tile).area < 1e-6


def test_measured_spots_stand_beside_predicted_tiles_in_one_scale(slide, lay_tiles, add_prediction):
    table = add_prediction(slide, lay_tiles(slide))
    found = panels(hd.pl.expression(slide, "EPCAM"))
    assert list(found) == ["measured", "predicted", "uncertainty"]
    (spots,) = found["measured"].collections
    counts = slide["table"].to_df().loc[slide["spots"].index, "EPCAM"]
    np.testing.assert_allclose(spots.get_array(), np.log2(counts + 1))
    assert spots.get_clim() == found["predicted"].images[1].get_clim()
    assert spots.get_clim()[1] >= table.to_df()["EPCAM"].quantile(0.95)
    # places that are not the same have no correlation
    assert found["predicted"].get_title() == "predicted, mean of 16"


def test_a_gene_of_a_single_tile_is_seen(bare, lay_tiles, add_prediction):
    table = add_prediction(bare, lay_tiles(bare, spacing_um=50.0))
    assert table.n_obs > 200
    table.X = np.zeros_like(table.X)
    table.X[3] = 2.5
    assert panels(hd.pl.expression(bare, "EPCAM"))["predicted"].images[1].get_clim() == (0, 2.5)


@pytest.mark.parametrize("hexagonal", [False, True])
def test_tiles_that_are_not_trusted_are_hatched_and_have_no_value(bare, lay_tiles, add_prediction, hexagonal, tmp_path):
    name = lay_tiles(bare, hexagonal=hexagonal)
    n = len(bare[name])
    ood = np.random.default_rng(1).uniform(0, 1.4, n)
    add_prediction(bare, name, ood=ood)
    figure = hd.pl.expression(bare, "ERBB2")
    for axes in panels(figure).values():
        values = axes.collections[0].get_array() if hexagonal else axes.images[1].get_array()
        assert values.count() == (ood <= 1).sum()
        (patch,) = axes.patches
        covered = shapely.union_all(bare[name].geometry[ood > 1].to_numpy())
        assert patch.get_hatch()
        if hexagonal:
            assert len(patch.get_path().vertices) == 7 * (ood > 1).sum()
        else:
            assert shapely.union_all(shapely.box(*hatched(axes).T)).symmetric_difference(covered).area < 1
    assert legend_of(figure) == [f"not trusted: unlike the training slides ({(ood > 1).mean():.0%})"]
    figure.savefig(tmp_path / "map.png")


def test_neighbours_in_a_row_are_hatched_as_one(bare, lay_tiles, add_prediction):
    name = lay_tiles(bare)
    row = cells_of(bare, name)[:, 1]
    add_prediction(bare, name, ood=np.where(row == 3, 2.0, 0.5))
    (rectangle,) = hatched(panels(hd.pl.expression(bare, "ERBB2"))["predicted"])
    np.testing.assert_allclose(rectangle, bare[name][row == 3].total_bounds)


def test_spots_that_are_not_trusted_are_hollow_but_measured_ones_are_shown(slide, add_prediction):
    ood = np.linspace(0, 1.2, len(slide["spots"]))
    add_prediction(slide, ood=ood)
    figure = hd.pl.expression(slide, "EPCAM")
    found = panels(figure)
    (measured,) = found["measured"].collections
    assert np.ma.count(measured.get_array()) == len(ood)
    values, *rings = found["predicted"].collections
    assert values.get_array().count() == (ood <= 1).sum()
    xy = np.column_stack([slide["spots"].geometry.x, slide["spots"].geometry.y])
    for ring in rings:
        assert isinstance(ring, EllipseCollection)
        assert len(ring.get_facecolor()) == 0
        np.testing.assert_allclose(ring.get_offsets(), xy[ood > 1])
    assert len(legend_of(figure)) == 1


def test_values_that_are_not_trusted_do_not_stretch_the_scale(bare, add_prediction):
    ood = np.r_[np.full(30, 0.5), np.full(9, 1.5)]
    table = add_prediction(bare, ood=ood)
    table.X[~table.obs["trusted"].to_numpy()] = 1000
    assert panels(hd.pl.expression(bare, "ERBB2"))["predicted"].collections[0].get_clim()[1] < 10


def test_a_slide_of_which_nothing_is_trusted_is_drawn(bare, lay_tiles, add_prediction, tmp_path):
    name = lay_tiles(bare)
    add_prediction(bare, name, ood=np.full(len(bare[name]), 3.0))
    figure = hd.pl.expression(bare, "ERBB2")
    assert legend_of(figure) == ["not trusted: unlike the training slides (100%)"]
    assert panels(figure)["predicted"].images[1].get_array().count() == 0
    figure.savefig(tmp_path / "map.png")


def test_a_slide_of_which_all_is_trusted_has_no_legend(bare, add_prediction):
    add_prediction(bare, ood=np.full(len(bare["spots"]), 0.7))
    assert legend_of(hd.pl.expression(bare, "ERBB2")) == []


@pytest.mark.parametrize(
    ("gene", "words"),
    [
        ("EPCAM", "reliable (r = 0.62 on left-out slides)"),
        ("ERBB2", "not reliable (r = 0.11 on left-out slides)"),
        ("COL1A1", "not reliable"),
    ],
)
def test_the_title_says_how_reliable_the_gene_is(bare, add_prediction, gene, words):
    add_prediction(
        bare, reliable=[True, False, False, False], loso_pcc=[0.62, 0.11, np.nan, np.nan], loso_q=[0.0, 0.4, 1.0, 1.0]
    )
    assert hd.pl.expression(bare, gene).get_suptitle() == f"{gene} on S3 - {words}"


def test_a_name_with_dollars_is_no_formula(bare, add_prediction, tmp_path):
    add_prediction(bare, genes=("$G_{$", "EPCAM"))
    figure = hd.pl.expression(bare, "$G_{$")
    figure.savefig(tmp_path / "map.png")
    assert figure.get_suptitle().startswith("$G_{$ on S3")


def test_the_prediction_is_found(slide, lay_tiles, add_prediction):
    tiles = lay_tiles(slide)
    add_prediction(slide, tiles)
    assert len(panels(hd.pl.expression(slide, "ERBB2"))["predicted"].images) == 2
    add_prediction(slide, name="hisdiff")
    assert len(panels(hd.pl.expression(slide, "ERBB2"))["predicted"].images) == 1
    assert len(panels(hd.pl.expression(slide, "ERBB2", key=f"hisdiff_{tiles}"))["predicted"].images) == 2


def test_several_predictions_are_listed(slide, lay_tiles, add_prediction):
    for spacing in (100.0, 200.0):
        add_prediction(slide, lay_tiles(slide, spacing))
    listed = "'hisdiff_tiles_100um', 'hisdiff_tiles_200um'"
    with pytest.raises(HisDiffError, match=f"slide 'S3' has several predictions; give key= one of {listed}"):
        hd.pl.expression(slide, "ERBB2")


def test_shapes_of_another_prediction_are_refused(slide, lay_tiles, add_prediction):
    tiles = lay_tiles(slide)
    add_prediction(slide)
    with pytest.raises(HisDiffError, match=f"prediction 'hisdiff' is of none of the shapes '{tiles}'"):
        hd.pl.expression(slide, "ERBB2", shapes_key=tiles)


def test_wide_slides_have_their_maps_under_each_other(bare, add_prediction, tmp_path):
    y = bare["spots"].geometry.y
    bare["spots"] = bare["spots"][np.abs(y - y.median()) < 120]
    add_prediction(bare)
    figure = hd.pl.expression(bare, "ERBB2")
    figure.savefig(tmp_path / "map.png")
    above, below = (axes.get_position() for axes in panels(figure).values())
    assert above.y0 > below.y1
    assert [a.get_xlabel() for a in figure.axes if not a.images] == ["log2(count + 1)"] * 2
