"""The map of a gene, and that squidpy and spatialdata-plot draw a prediction as it is."""

from __future__ import annotations

import dataclasses

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.collections import EllipseCollection
from matplotlib.figure import Figure
from spatialdata import SpatialData

import hisdiff_sd as hd
from hisdiff_sd._errors import HisDiffError

mpl.use("Agg")


def panels(figure: Figure) -> list:
    """Axes with a picture; the others are colour bars."""
    return [axes for axes in figure.axes if axes.images]


def spots_of(axes) -> EllipseCollection:
    (found,) = [c for c in axes.collections if isinstance(c, EllipseCollection)]
    return found


def drawn(sdata: SpatialData, **options) -> dict[str, EllipseCollection]:
    """The spots by the first word of their panel's title."""
    figure = hd.pl.expression(sdata, "EPCAM", **options)
    return {axes.get_title().replace(",", " ").split()[0]: spots_of(axes) for axes in panels(figure)}


@pytest.fixture
def slide(open_store, predicted) -> SpatialData:
    """S3 with the prediction, to be changed."""
    sdata = open_store("S3")
    sdata["hisdiff"] = predicted["hisdiff"].copy()
    return sdata


def test_measured_predicted_and_uncertainty_are_drawn(predicted, tmp_path):
    figure = hd.pl.expression(predicted, "EPCAM")
    assert [axes.get_title().split(",")[0] for axes in panels(figure)] == ["measured", "predicted", "uncertainty"]
    assert panels(figure)[2].get_title() == "uncertainty, standard deviation"
    assert figure.get_suptitle() == "EPCAM on S3 - reliability unknown"
    assert not figure.legends
    assert [axes.get_ylabel() for axes in figure.axes if not axes.images] == ["log2(count + 1)"] * 3
    figure.savefig(tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 50_000


def test_what_is_drawn_is_what_is_in_the_tables(predicted):
    found, order = drawn(predicted), predicted["spots"].index
    counts = predicted["table"].to_df().loc[order, "EPCAM"]
    prediction = predicted["hisdiff"]
    np.testing.assert_allclose(found["measured"].get_array(), np.log2(counts + 1))
    np.testing.assert_array_equal(found["predicted"].get_array(), prediction.to_df().loc[order, "EPCAM"])
    np.testing.assert_array_equal(found["uncertainty"].get_array(), prediction.to_df("std").loc[order, "EPCAM"])


def test_measured_and_predicted_share_one_scale(predicted):
    found = drawn(predicted)
    limits = found["measured"].get_clim()
    assert limits == found["predicted"].get_clim()
    values = [found[name].get_array() for name in ("measured", "predicted")]
    assert limits[0] == pytest.approx(min(np.quantile(v.data, 0.01) for v in values))
    assert limits[1] == pytest.approx(max(np.quantile(v.data, 0.99) for v in values))
    assert found["measured"].get_cmap().name == found["predicted"].get_cmap().name
    assert found["uncertainty"].get_clim() != limits
    assert found["uncertainty"].get_clim()[0] == 0


def test_a_scale_does_not_begin_at_zero_and_a_few_empty_spots_do_not_stretch_it(open_store, add_prediction):
    sdata = open_store("S3")
    table = add_prediction(sdata, genes=("EPCAM",))
    table.X = 5 + table.X
    counts = sdata["table"][:, ["EPCAM"]].copy()
    counts.X = np.full((39, 1), 200.0)
    del sdata.tables["table"]
    sdata["table"] = counts
    low, high = drawn(sdata)["measured"].get_clim()
    assert (low, high) == pytest.approx((np.quantile(table.X, 0.01), np.log2(201)))


def test_the_colour_bar_says_at_which_end_values_lie_beyond_it(slide):
    for axes in panels(hd.pl.expression(slide, "EPCAM")):
        spots = spots_of(axes)
        (low, high), values = spots.get_clim(), spots.get_array()
        ends = {"min": (values < low).any(), "max": (values > high).any()}
        expected = {(0, 0): "neither", (1, 0): "min", (0, 1): "max", (1, 1): "both"}[ends["min"], ends["max"]]
        assert spots.colorbar.extend == expected


def test_the_correlation_is_printed(predicted):
    found = drawn(predicted)
    r = np.corrcoef(found["measured"].get_array(), found["predicted"].get_array())[0, 1]
    assert panels(hd.pl.expression(predicted, "EPCAM"))[1].get_title() == f"predicted, mean of 20 (r = {r:.2f})"


def test_without_counts_two_panels_are_drawn(slide):
    with_counts = drawn(slide)
    del slide.tables["table"]
    found = drawn(slide)
    assert list(found) == ["predicted", "uncertainty"]
    np.testing.assert_array_equal(found["predicted"].get_array(), with_counts["predicted"].get_array())


def test_a_gene_that_was_not_measured_has_two_panels(slide):
    slide["table"] = slide["table"][:, [g for g in slide["table"].var_names if g != "EPCAM"]].copy()
    assert list(drawn(slide)) == ["predicted", "uncertainty"]


def test_spots_lie_where_they_are_on_the_image_in_their_size(predicted):
    (axes, *_) = panels(hd.pl.expression(predicted, "EPCAM"))
    height, width = predicted.attrs["hisdiff_sd"]["true_size"]
    assert axes.images[0].get_extent() == pytest.approx([0, width, height, 0], rel=0.01)
    spots, xy = predicted["spots"], np.asarray(spots_of(axes).get_offsets())
    np.testing.assert_allclose(xy, np.column_stack([spots.geometry.x, spots.geometry.y]))
    np.testing.assert_allclose(spots_of(axes).get_widths(), 2 * spots["radius"])
    (x0, x1), (y1, y0) = axes.get_xlim(), axes.get_ylim()
    assert x0 <= xy[:, 0].min() < xy[:, 0].max() <= x1
    assert y0 <= xy[:, 1].min() < xy[:, 1].max() <= y1


def test_the_bar_is_as_long_as_it_says(predicted):
    (axes, *_) = panels(hd.pl.expression(predicted, "EPCAM"))
    (bar,), (text,) = axes.lines, axes.texts
    number, unit = text.get_text().split()
    um = float(number) * {"um": 1, "mm": 1000}[unit]
    mpp = predicted.attrs["hisdiff_sd"]["mpp"]
    assert np.ptp(bar.get_xdata()) == pytest.approx(um / mpp, rel=0.01)
    assert um <= 0.3 * np.ptp(axes.get_xlim()) * mpp


def test_rows_are_joined_by_barcode(slide, predicted):
    rng, expected = np.random.default_rng(0), drawn(predicted)
    for name in ("table", "hisdiff"):
        slide[name] = slide[name][rng.permutation(39)].copy()
    for name, spots in drawn(slide).items():
        np.testing.assert_array_equal(spots.get_array(), expected[name].get_array())


def test_spots_without_a_prediction_are_left_out(slide):
    slide["hisdiff"] = slide["hisdiff"][3:].copy()
    found = drawn(slide)
    assert [len(spots.get_array()) for spots in found.values()] == [36, 36, 36]
    np.testing.assert_array_equal(found["predicted"].get_array(), slide["hisdiff"].to_df()["EPCAM"])


def test_a_gene_that_is_zero_everywhere_is_drawn(slide, tmp_path):
    for name in ("table", "hisdiff"):
        column = slide[name].var_names.get_loc("EPCAM")
        values = slide[name].to_df().to_numpy().copy()
        values[:, column] = 0
        slide[name].X = values
    slide["hisdiff"].layers["std"][:] = 0
    figure = hd.pl.expression(slide, "EPCAM")
    figure.savefig(tmp_path / "zero.png")
    assert panels(figure)[1].get_title().endswith("(r = 0.00)")
    assert spots_of(panels(figure)[0]).get_clim()[1] > 0


def test_the_scale_is_that_of_the_models_target(open_store, tiny_model):
    config = dataclasses.replace(tiny_model.config, target="cp10k")
    model = hd.HisDiff(tiny_model.network, config, tiny_model.scalers)
    sdata = open_store("S3")
    hd.tl.predict(sdata, model, n_samples=1, steps=1)
    figure = hd.pl.expression(sdata, "EPCAM")
    counts = sdata["table"].to_df().loc[sdata["spots"].index]
    expected = np.log1p(counts["EPCAM"] / counts.sum(axis=1) * 1e4)
    np.testing.assert_allclose(spots_of(panels(figure)[0]).get_array(), expected)
    assert next(a.get_ylabel() for a in figure.axes if not a.images) == "log(1 + counts per 10,000)"


def test_an_unknown_gene_is_answered_with_the_nearest(predicted):
    with pytest.raises(HisDiffError, match=r"no gene in 'hisdiff' 'EPCAMM'; there are: .* Did you mean 'EPCAM'\?"):
        hd.pl.expression(predicted, "EPCAMM")


def test_of_a_long_panel_the_nearest_genes_are_named_and_how_a_gene_gets_into_it(open_store, add_prediction):
    sdata = open_store("S3")
    add_prediction(sdata, genes=("EPCAM", "ERBB2", *(f"GENE{i}" for i in range(200))))
    with pytest.raises(HisDiffError, match="there are 202, the nearest: 'ERBB2'. Did you mean 'ERBB2'") as raised:
        hd.pl.expression(sdata, "erbb2")
    assert "include= of hd.pp.select_genes puts a gene into it" in str(raised.value)
    with pytest.raises(HisDiffError, match="there are 202, such as: 'EPCAM', 'ERBB2', 'GENE0', 'GENE1', 'GENE2'. A "):
        hd.pl.expression(sdata, "XXXXXX")


def test_a_slide_without_a_prediction_is_refused(open_store):
    message = r"slide 'S3' has no prediction \(tables here: 'spots_morphology', 'table'\); run hd.tl.predict"
    with pytest.raises(HisDiffError, match=message):
        hd.pl.expression(open_store("S3"), "EPCAM")
    with pytest.raises(HisDiffError, match="no table 'x'; there are: 'spots_morphology', 'table'"):
        hd.pl.expression(open_store("S3"), "EPCAM", key="x")
    with pytest.raises(HisDiffError, match="'table' is no prediction of hisdiff_sd; run hd.tl.predict"):
        hd.pl.expression(open_store("S3"), "EPCAM", key="table")


@pytest.mark.parametrize(
    ("option", "message"), [("shapes_key", "no shapes 'x'.*'spots'"), ("image_key", "no image 'x'; there are: 'he'")]
)
def test_an_element_that_is_not_there_is_named(predicted, option, message):
    with pytest.raises(HisDiffError, match=message):
        hd.pl.expression(predicted, "EPCAM", **{option: "x"})


def test_squidpy_draws_a_prediction_as_it_is(predicted):
    import matplotlib.pyplot as plt
    import squidpy as sq

    axes = sq.pl.spatial_scatter(predicted["hisdiff"], color="EPCAM", return_ax=True)
    (circles,) = axes.collections
    assert len(circles.get_array()) == 39
    np.testing.assert_allclose(np.sort(circles.get_array()), np.sort(predicted["hisdiff"].to_df()["EPCAM"]), rtol=1e-6)
    assert axes.images[0].get_array().shape[2] == 3
    plt.close("all")


@pytest.mark.filterwarnings("ignore")
def test_spatialdata_plot_draws_a_prediction_as_it_is(predicted):
    import matplotlib.pyplot as plt
    import spatialdata_plot  # noqa: F401

    figure, axes = plt.subplots()
    layers = predicted.pl.render_images("he").pl.render_shapes("spots", color="EPCAM", table_name="hisdiff")
    layers.pl.show(ax=axes, coordinate_systems="global")
    assert axes.images
    values = predicted["hisdiff"].to_df().loc[predicted["spots"].index, "EPCAM"].to_numpy()
    bar = figure.axes[1]
    assert bar.get_ylabel() == "EPCAM"
    assert bar.get_ylim() == pytest.approx((values.min(), values.max()), rel=1e-5)
    (circles,) = axes.collections
    expected = mpl.colormaps["viridis"]((values - values.min()) / np.ptp(values))
    np.testing.assert_allclose(circles.get_facecolor(), expected, atol=0.01)
    plt.close("all")
