"""Means of regions: intervals that are known for Gaussian samples, ways to name regions, and what is refused."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import shapely
import spatialdata
import torch
from spatialdata import SpatialData
from spatialdata.models import ShapesModel
from spatialdata.transformations import Identity, Scale

import hisdiff_sd as hd
from hisdiff_sd._errors import HisDiffError, HisDiffWarning
from hisdiff_sd.tl._draws import Draws
from hisdiff_sd.tl._model_inputs import model_inputs
from hisdiff_sd.tl._sample import sample_slide

Z = 1.6449  # 95% point of the normal distribution


@pytest.fixture(autouse=True)
def _large_batches(monkeypatch) -> None:
    """Many samples of few spots are quicker in large batches; results do not depend on them."""
    monkeypatch.setattr("hisdiff_sd.tl._sample._MOST", {"cpu": 4096})


@pytest.fixture
def slide(open_store) -> SpatialData:
    return open_store("S3")


@pytest.fixture
def flow(gaussian_model) -> hd.HisDiff:
    return gaussian_model([5.0, 3.0, 0.5], [0.5, 1.0, 1.0], neighbours=0.3, slide=0.2, temperature=1.5)


def means(sdata: SpatialData, model: hd.HisDiff, regions, **options) -> pd.DataFrame:
    return hd.tl.region_mean(sdata, model, regions, **{"n_samples": 20, "steps": 1, **options})


def halves(sdata: SpatialData) -> pd.Series:
    """The first 30 spots in two regions, the others in none."""
    index = sdata["spots"].index
    return pd.Series(["a"] * 10 + ["b"] * 20 + [None] * (len(index) - 30), index=index)


def half_width(found: pd.DataFrame) -> np.ndarray:
    return ((found["high"] - found["low"]) / 2).to_numpy()


def test_a_row_per_region_and_gene(slide, flow):
    found = means(slide, flow, halves(slide), genes=["GENE2", "GENE0"])
    assert list(found.columns) == ["region", "gene", "n_spots", "mean", "low", "high"]
    assert list(found["region"]) == ["a", "a", "b", "b"]
    assert list(found["gene"]) == ["GENE2", "GENE0"] * 2
    assert list(found["n_spots"]) == [10, 10, 20, 20]
    assert (found["low"] < found["mean"]).all()
    assert (found["mean"] < found["high"]).all()


@pytest.mark.parametrize(("slide_share", "shrinks"), [(0.0, True), (1.0, False)])
def test_noise_averages_out_unless_the_slide_shares_it(slide, gaussian_model, slide_share, shrinks):
    model = gaussian_model([5.0, 8.0], [0.5, 1.0], slide=slide_share, temperature=1.2)
    found = means(slide, model, halves(slide), n_samples=999, space="target")
    spots = np.sqrt(found["n_spots"].to_numpy()) if shrinks else 1.0
    deviation = 1.2 * np.tile([0.5, 1.0], 2)
    np.testing.assert_allclose(half_width(found), Z * deviation / spots, rtol=0.15)
    np.testing.assert_allclose(found["mean"], np.tile([5.0, 8.0], 2), atol=0.01)  # pairs of opposite sign


def test_neighbours_share_as_much_as_their_distance_says(slide, gaussian_model):
    share, length = 0.6, 400.0
    model = gaussian_model([5.0], [1.0], neighbours=share, length_um=length)
    found = means(slide, model, halves(slide), n_samples=999, space="target")
    xy = np.column_stack([slide["spots"].geometry.x, slide["spots"].geometry.y]) * slide.attrs["hisdiff_sd"]["mpp"]
    expected = []
    for rows in (slice(0, 10), slice(10, 30)):
        apart = np.linalg.norm(xy[rows, None] - xy[None, rows], axis=2)
        expected.append(np.sqrt((share * np.exp(-apart / length) + (1 - share) * np.eye(len(apart))).mean()))
    np.testing.assert_allclose(half_width(found), Z * np.array(expected), rtol=0.15)
    assert (half_width(found) > 1.5 * Z / np.sqrt([10, 20])).all()


@pytest.mark.parametrize(("target", "base"), [("log2", 2.0), ("cp10k", np.e)])
def test_the_mean_of_counts_is_not_that_of_logarithms(slide, gaussian_model, target, base):
    mean, deviation = 5.0, 0.8
    model = gaussian_model([mean], [deviation], target=target)
    everywhere = np.zeros(len(slide["spots"]), int)
    counts = means(slide, model, everywhere, n_samples=999)["mean"].item()
    log = means(slide, model, everywhere, n_samples=999, space="target")["mean"].item()
    spread = deviation * np.log(base)
    assert counts == pytest.approx(base**mean * np.exp(spread**2 / 2) - 1, rel=0.02)  # of a log-normal distribution
    assert log == pytest.approx(mean, abs=0.01)
    assert counts > 1.1 * (base**log - 1)


def test_it_is_made_of_joint_samples_whatever_the_blocks(slide, flow, monkeypatch):
    inputs = model_inputs(slide, flow)
    samples = sample_slide(flow, inputs, Draws.of("flow", 39, steps=1, seed=4), torch.device("cpu")).astype(float)
    of_regions = np.stack([(2 ** samples[:, rows] - 1).mean(1) for rows in (slice(0, 10), slice(10, 30))], axis=1)
    low, high = hd.metrics.weibull_quantiles(of_regions, [0.05, 0.95])
    found = means(slide, flow, halves(slide), n_samples=39, seed=4)
    for column, expected in (("mean", of_regions.mean(0)), ("low", low), ("high", high)):
        np.testing.assert_allclose(found[column], expected.ravel(), rtol=1e-5)
    monkeypatch.setattr("hisdiff_sd.tl._region_mean._MOST_VALUES", 39 * 3 * 4)
    monkeypatch.setattr("hisdiff_sd.tl._sample._MOST", {"cpu": 7})
    again = means(slide, flow, halves(slide), n_samples=39, seed=4)
    pd.testing.assert_frame_equal(again, found, rtol=1e-5)


def test_the_order_of_spots_changes_nothing(slide, flow):
    labels = halves(slide)
    straight = means(slide, flow, labels)
    spots = slide["spots"].iloc[np.random.default_rng(0).permutation(len(labels))]
    tables = {"spots_morphology": slide["spots_morphology"][::-1].copy()}
    shuffled = SpatialData(images={"he": slide["he"]}, shapes={"spots": spots}, tables=tables, attrs=slide.attrs)
    pd.testing.assert_frame_equal(means(shuffled, flow, labels), straight, rtol=1e-5)
    in_order = labels.loc[spots.index].to_numpy()
    pd.testing.assert_frame_equal(means(shuffled, flow, in_order), straight, rtol=1e-5)


@pytest.mark.parametrize(
    "kind", ["column", "partial table", "array", "list", "categorical", "subset", "ints", "floats"]
)
def test_labels_may_be_given_in_many_ways(slide, flow, kind):
    labels = halves(slide)
    number = labels.map({"a": 0, "b": 7})
    slide["table"].obs["drawn"] = labels.reindex(slide["table"].obs["instance_id"]).to_numpy()
    if kind == "partial table":
        slide.tables["table"] = slide["table"][slide["table"].obs["drawn"].notna()].copy()
    given = {
        "column": "drawn",
        "partial table": "drawn",
        "array": labels.to_numpy(),
        "list": labels.tolist(),
        "categorical": labels.astype(pd.CategoricalDtype(["a", "b", "unused"])),
        "subset": labels.iloc[29::-1],
        "ints": number.fillna(-1).astype(int),
        "floats": number.to_numpy(float),
    }[kind]
    found = means(slide, flow, given)
    names = [0, 7] if kind in ("ints", "floats") else ["a", "b"]
    assert list(found["region"].unique()) == names
    expected = means(slide, flow, labels)
    pd.testing.assert_frame_equal(found.drop(columns="region"), expected.drop(columns="region"), rtol=1e-5)


def test_categories_keep_their_order(slide, flow):
    labels = halves(slide).astype(pd.CategoricalDtype(["b", "a"], ordered=True))
    assert list(means(slide, flow, labels)["region"].unique()) == ["b", "a"]


def polygons(sdata: SpatialData) -> gpd.GeoDataFrame:
    """Left and right part of the slide, and one that overlaps both, in two pieces of one name."""
    height, width = sdata.attrs["hisdiff_sd"]["true_size"]
    boxes = [
        shapely.box(0, 0, width / 2, height),
        shapely.box(width / 2, 0, width, height),
        shapely.box(0, 0, width, height / 3),
        shapely.box(0, height / 2, width, height),
    ]
    return gpd.GeoDataFrame(geometry=boxes, index=["left", "right", "ends", "ends"])


def test_polygons_have_the_spots_whose_centre_lies_inside(slide, flow):
    height, width = slide.attrs["hisdiff_sd"]["true_size"]
    x, y = slide["spots"].geometry.x.to_numpy(), slide["spots"].geometry.y.to_numpy()
    inside = {"left": x < width / 2, "right": x > width / 2, "ends": (y < height / 3) | (y > height / 2)}
    found = means(slide, flow, polygons(slide))
    assert list(found["region"].unique()) == list(inside)
    for name, which in inside.items():
        expected = means(slide, flow, np.where(which, name, None))
        here = found[found["region"] == name].reset_index(drop=True)
        pd.testing.assert_frame_equal(here, expected, rtol=1e-5)


def test_polygons_of_an_element_are_brought_to_global_coordinates(slide, flow):
    expected = means(slide, flow, polygons(slide).iloc[:2])
    small = polygons(slide).iloc[:2].copy()
    small["geometry"] = small.geometry.scale(0.1, 0.1, origin=(0, 0))
    transformations = {"global": Scale([10.0, 10.0], axes=("x", "y")), "mine": Identity()}
    slide["annotation"] = ShapesModel.parse(small, transformations=transformations)
    pd.testing.assert_frame_equal(means(slide, flow, "annotation"), expected, rtol=1e-5)
    pd.testing.assert_frame_equal(means(slide, flow, slide["annotation"]), expected, rtol=1e-5)
    slide["elsewhere"] = ShapesModel.parse(polygons(slide), transformations={"mine": Identity()})
    with pytest.raises(HisDiffError, match="'elsewhere' is not in the coordinate system 'global'; it is in: mine"):
        means(slide, flow, "elsewhere")


def test_a_slide_without_spots_is_laid_with_tiles_for_polygons_only(slide, gaussian_model):
    model = gaussian_model([5.0], [0.5])
    bare = SpatialData(images={"he": slide["he"]}, attrs=slide.attrs)
    config = dataclasses.replace(model.config, spot_pitch_um=300.0, spot_diameter_um=100.0)
    model = hd.HisDiff(model.network, config, model.scalers, residual=model.residual)
    with pytest.raises(HisDiffError, match="no shapes 'spots'"):
        means(bare, model, np.zeros(39, int))
    assert not bare.shapes
    found = means(bare, model, polygons(slide).loc[["left", "right"]])
    assert found["n_spots"].sum() == len(bare["tiles_300um"])


def test_the_share_of_trusted_spots_is_told_if_known(slide, flow, open_store):
    s1 = open_store("S1")["spots_morphology"].X
    axis = np.zeros((1, s1.shape[1]), np.float32)
    axis[0, 0] = 1
    shift, scale = s1.mean(0), s1.std(0).clip(1e-3)
    ood = hd._trust.OutOfDistribution(shift, scale, axis, np.ones(1, np.float32), rest=1.0, unit=1.0)
    known = hd.HisDiff(
        flow.network, flow.config, flow.scalers, trust=hd._trust.Trust(ood, None), residual=flow.residual
    )
    trusted = ood.trusted(model_inputs(slide, known).embedding)
    assert 0 < trusted[:30].sum() < 30
    found = means(slide, known, halves(slide))
    np.testing.assert_allclose(found["trusted"], np.repeat([trusted[:10].mean(), trusted[10:30].mean()], 3))


def test_the_published_process_is_warned_of(slide, tiny_model):
    with pytest.warns(HisDiffWarning, match="share no noise between spots") as caught:
        found = means(slide, tiny_model, halves(slide))
    assert np.isfinite(found[["mean", "low", "high"]]).all(axis=None)
    assert {Path(w.filename).name for w in caught if "share no noise" in str(w.message)} == {Path(__file__).name}


def test_nothing_is_written_where_embeddings_are_there(stores, tmp_path, flow):
    store = Path(shutil.copytree(stores["S3"], tmp_path / "S3.zarr"))
    before = {p: p.stat().st_mtime_ns for p in store.rglob("*")}
    sdata = spatialdata.read_zarr(store)
    means(sdata, flow, halves(sdata))
    assert {p: p.stat().st_mtime_ns for p in store.rglob("*")} == before


@pytest.mark.parametrize("level", [0.5, 0.8, 0.9, 0.95, 0.98, 0.99])
def test_the_fewest_samples_of_a_level_do_and_one_less_is_refused(slide, flow, level):
    fewest = round(2 / (1 - level)) - 1
    found = means(slide, flow, halves(slide), n_samples=fewest, level=level)
    assert (found["low"] < found["high"]).all()
    with pytest.raises(HisDiffError, match=f"n_samples={fewest - 1} do not reach .* give n_samples={fewest} or more"):
        means(slide, flow, halves(slide), n_samples=fewest - 1, level=level)


def test_columns_that_differ_between_tables_are_refused(slide, flow):
    slide["table"].obs["which"] = ["a"] * slide["table"].n_obs
    slide["spots_morphology"].obs["which"] = ["a"] * slide["spots_morphology"].n_obs
    assert list(means(slide, flow, "which", genes=["GENE0"])["region"]) == ["a"]
    slide["spots_morphology"].obs["which"] = ["b"] * slide["spots_morphology"].n_obs
    with pytest.raises(HisDiffError, match="column 'which' differs between tables .*; give the one that is meant"):
        means(slide, flow, "which")


def test_a_name_of_both_a_column_and_shapes_is_refused(slide, flow):
    slide["left"] = ShapesModel.parse(polygons(slide).iloc[:1])
    slide["table"].obs["left"] = "a"
    with pytest.raises(HisDiffError, match=r"'left' are shapes, and a column of table 'table'; give sdata\['left'\]"):
        means(slide, flow, "left")
    assert list(means(slide, flow, slide["table"].obs["left"], genes=["GENE0"])["region"]) == ["a"]


def test_regions_without_spots_are_named(slide, flow):
    far = gpd.GeoDataFrame(geometry=[shapely.box(-20, -20, -10, -10)], index=["off the slide"])
    with pytest.raises(HisDiffError, match="1 of 4 regions have no spot: 'off the slide'; outlines have to be"):
        means(slide, flow, pd.concat([polygons(slide), far]))


def test_regions_whose_tiles_could_not_be_read_are_named(slide, flow):
    table = slide["spots_morphology"]
    lost = slide["spots"].index[:10]
    slide.tables["spots_morphology"] = table[~table.obs["instance_id"].isin(lost)].copy()
    slide["spots_morphology"].uns["hisdiff_sd"]["failed_tiles"] = 10
    with pytest.raises(HisDiffError, match="1 of 2 regions have no spot: 'a'; none of their tiles could be read"):
        means(slide, flow, halves(slide))


@pytest.mark.parametrize(
    ("regions", "options", "message"),
    [
        (None, {}, "no regions given"),
        ("spot", {}, "no column of a table on 'spots' or shapes with polygons 'spot'; there are: "),
        ("spots", {}, "shapes 'spots' holds Point, and regions have to be polygons"),
        (3, {}, "regions of type int are none"),
        (np.zeros(5, int), {}, "regions have 5 labels, and 'spots' has 39 spots"),
        (np.zeros((39, 1)), {}, "of type ndarray are none"),
        (np.full(39, -1), {}, "holds no region: every spot is NaN, None or -1"),
        (np.linspace(0, 1, 39), {}, "holds numbers such as 0.026.*no labels of regions"),
        (pd.Series(np.zeros(39, int)), {}, "labels of 39 spots that 'spots' lacks, such as '0'"),
        (np.zeros(39, int), {"genes": ["GENE"]}, "no gene in the model's panel 'GENE'; .* Did you mean 'GENE"),
        (np.zeros(39, int), {"space": "log"}, "no space 'log'; there are: 'counts', 'target'"),
        (np.zeros(39, int), {"level": 1.0}, "level=1.0 is no probability"),
        (np.zeros(39, int), {"n_samples": 10}, "n_samples=10 do not reach .* level 0.9; give n_samples=19 or more"),
        (np.zeros(39, int), {"steps": 0}, "from 1 to 1000, not 0"),
        (np.zeros(39, int), {"shapes_key": "spot"}, "no shapes 'spot'"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_embedded(slide, flow, regions, options, message):
    del slide.tables["spots_morphology"]
    with pytest.raises(HisDiffError, match=message):
        means(slide, flow, regions, **options)
    assert "spots_morphology" not in slide.tables
