"""Scores of a prediction, beside those of the baselines."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest
from spatialdata import SpatialData

import hisdiff_sd as hd
from hisdiff_sd._baselines import feature_matrix
from hisdiff_sd._errors import HisDiffError, HisDiffWarning
from hisdiff_sd._inputs import SlideInputs
from hisdiff_sd.tiles import nearest

SCORES = ["pcc10", "pcc50", "pcc_all", "pcc_top_variance", "mse", "mae", "rvd", "log_var_ratio", "gene_corr_error"]
ROWS = [
    ("hisdiff", 1),
    ("hisdiff", 20),
    ("ridge", 1),
    ("dressed_ridge", 1),
    ("dressed_ridge", 20),
    ("depth_map", 1),
    ("mean", 1),
]


@pytest.fixture(scope="module")
def table(predicted, tiny_model) -> pd.DataFrame:
    return hd.tl.evaluate(predicted, tiny_model)


def truth_of(sdata: SpatialData, model: hd.HisDiff) -> np.ndarray:
    """log2(count + 1) of the panel, in the order of the spots."""
    counts = sdata["table"][:, model.genes].to_df()
    return np.log2(counts.loc[sdata["spots"].index].to_numpy(np.float64) + 1)


def inputs_of(sdata: SpatialData) -> SlideInputs:
    spots = sdata["spots"]
    xy = np.column_stack([spots.geometry.x, spots.geometry.y])
    embedding = sdata["spots_morphology"].to_df().loc[spots.index].to_numpy(np.float32)
    return SlideInputs("S3", spots.index, xy, embedding, nearest(xy, 9), nearest(xy, 49))


def row(table: pd.DataFrame, method: str, samples: int) -> dict[str, float]:
    (found,) = table[(table["method"] == method) & (table["samples"] == samples)].to_dict("records")
    return {name: found[name] for name in SCORES}


def with_config(model: hd.HisDiff, **changes) -> hd.HisDiff:
    config = dataclasses.replace(model.config, **changes)
    return hd.HisDiff(model.network, config, model.scalers, model.baselines)


def test_every_row_is_there_with_finite_numbers(table):
    assert list(zip(table["method"], table["samples"], strict=True)) == ROWS
    assert list(table.columns) == ["method", "samples", *SCORES]
    assert np.isfinite(table[SCORES].to_numpy(float)).all()
    assert table.attrs["target"] == "log2"


def test_the_models_rows_are_the_scores_done_by_hand(table, predicted, tiny_model):
    prediction, truth = predicted["hisdiff"], truth_of(predicted, tiny_model)
    fixed = tiny_model.baselines.top_variance
    by_hand = hd.metrics.scores(prediction.layers["sample_0"], truth, top_variance=fixed)
    assert row(table, "hisdiff", 1) == pytest.approx(by_hand)
    assert row(table, "hisdiff", 20) == pytest.approx(hd.metrics.scores(prediction.X, truth, top_variance=fixed))


def test_the_baselines_rows_are_the_scores_done_by_hand(table, predicted, tiny_model):
    baselines, truth, slide = tiny_model.baselines, truth_of(predicted, tiny_model), inputs_of(predicted)
    ridge = baselines.ridge
    x = (feature_matrix(slide, ridge.features) - ridge.shift) / ridge.scale
    by_hand = (x @ ridge.weight + ridge.intercept).clip(0)
    fixed = baselines.top_variance
    assert row(table, "ridge", 1) == pytest.approx(hd.metrics.scores(by_hand, truth, top_variance=fixed))
    draws = baselines.dressed(slide, 20, 0)
    for values, samples in ((draws[0], 1), (draws.mean(0), 20)):
        by_hand = hd.metrics.scores(values, truth, top_variance=fixed)
        assert row(table, "dressed_ridge", samples) == pytest.approx(by_hand)
    mean = np.tile(baselines.mean, (slide.n, 1))
    assert row(table, "mean", 1) == pytest.approx(hd.metrics.scores(mean, truth, top_variance=fixed))
    assert row(table, "mean", 1)["pcc_all"] == 0
    assert row(table, "mean", 1)["rvd"] == 1


def test_on_cp10k_everything_is_on_that_scale(open_store, tiny_model):
    model = with_config(tiny_model, target="cp10k")
    sdata = open_store("S3")
    hd.tl.predict(sdata, model, n_samples=2, steps=2)
    table = hd.tl.evaluate(sdata, model)
    assert table.attrs["target"] == "cp10k"
    counts = sdata["table"].to_df().loc[sdata["spots"].index]
    truth = np.log1p(counts.div(counts.sum(axis=1), axis=0)[model.genes] * 1e4)
    by_hand = hd.metrics.scores(sdata["hisdiff"].X, truth, top_variance=model.baselines.top_variance)
    assert row(table, "hisdiff", 2) == pytest.approx(by_hand)


def test_a_perfect_prediction_scores_one_and_zero(open_store, tiny_model):
    sdata = open_store("S3")
    hd.tl.predict(sdata, tiny_model, n_samples=2, steps=1)
    truth = truth_of(sdata, tiny_model)
    sdata["hisdiff"].X = truth
    sdata["hisdiff"].layers["sample_0"] = truth
    table = hd.tl.evaluate(sdata, tiny_model)
    for samples in (1, 2):
        found = row(table, "hisdiff", samples)
        assert [found[s] for s in SCORES if s.startswith("pcc")] == pytest.approx([1.0] * 4)
        assert [found[s] for s in SCORES if not s.startswith("pcc")] == pytest.approx([0.0] * 5, abs=1e-6)
    assert row(table, "ridge", 1)["pcc_all"] < 0.999


def test_rows_are_joined_by_barcode(open_store, tiny_model, table, predicted):
    sdata, rng = open_store("S3"), np.random.default_rng(0)
    sdata["hisdiff"] = predicted["hisdiff"][rng.permutation(39)].copy()
    for name in ("table", "spots_morphology"):
        sdata[name] = sdata[name][rng.permutation(39)].copy()
    pd.testing.assert_frame_equal(hd.tl.evaluate(sdata, tiny_model), table, rtol=1e-6)


def test_conditions_shuffled_among_spots_score_worse(open_store, tiny_model, table):
    sdata = open_store("S3")
    embedded = sdata["spots_morphology"]
    embedded.X = embedded.X[np.random.default_rng(3).permutation(39)]
    hd.tl.predict(sdata, tiny_model, n_samples=20, steps=5)
    shuffled = hd.tl.evaluate(sdata, tiny_model)
    for method, samples in (("hisdiff", 20), ("ridge", 1), ("depth_map", 1)):
        here, there = row(shuffled, method, samples), row(table, method, samples)
        assert here["pcc_all"] < there["pcc_all"] - 0.1
        assert here["mse"] > there["mse"]


def test_a_single_sample_has_one_row(open_store, tiny_model):
    sdata = open_store("S3")
    hd.tl.predict(sdata, tiny_model, n_samples=1, steps=2)
    table = hd.tl.evaluate(sdata, tiny_model)
    assert list(zip(table["method"], table["samples"], strict=True))[:2] == [("hisdiff", 1), ("ridge", 1)]


def test_a_slide_without_a_prediction_is_predicted_first(open_store, tiny_model, monkeypatch):
    sdata = open_store("S3")

    def quick(slide: SpatialData, model: hd.HisDiff, **options: str) -> None:
        hd.tl.predict(slide, model, n_samples=2, steps=1, **options)

    monkeypatch.setattr("hisdiff_sd.tl._evaluate.predict", quick)
    table = hd.tl.evaluate(sdata, tiny_model, key="own")
    assert "own" in sdata.tables
    by_hand = hd.metrics.scores(
        sdata["own"].X, truth_of(sdata, tiny_model), top_variance=tiny_model.baselines.top_variance
    )
    assert row(table, "hisdiff", 2) == pytest.approx(by_hand)


def test_a_published_model_has_no_baselines(open_store, tiny_model):
    bare = hd.HisDiff(tiny_model.network, tiny_model.config, tiny_model.scalers)
    sdata = open_store("S3")
    hd.tl.predict(sdata, bare, n_samples=2, steps=2)
    table = hd.tl.evaluate(sdata, bare)
    assert list(table["method"]) == ["hisdiff", "hisdiff"]
    assert "pcc_top_variance" not in table


def test_the_seed_is_that_of_the_dressed_ridge(predicted, tiny_model, table):
    again = hd.tl.evaluate(predicted, tiny_model, seed=1)
    same = table["method"] != "dressed_ridge"
    pd.testing.assert_frame_equal(again[same], table[same])
    assert (again["mse"] != table["mse"])[~same].all()


@pytest.mark.parametrize(
    ("slide", "training", "protocol"),
    [
        ("S3", {"slides": ["S1", "S2"], "patients": ["A"]}, "held-out slide and patient"),
        ("S2", {"slides": ["S1"], "patients": ["A"]}, "held-out slide, within patient"),
        ("S3", {"slides": ["S1", "S2"], "patients": []}, "held-out slide, patient unknown"),
        ("S3", {}, "held-out slide, patient unknown"),
    ],
)
@pytest.mark.filterwarnings("error::hisdiff_sd._errors.HisDiffWarning")
def test_the_protocol_says_how_independent_the_slide_is(open_store, tiny_model, slide, training, protocol):
    model, sdata = with_config(tiny_model, training=training), open_store(slide)
    hd.tl.predict(sdata, model, n_samples=1, steps=1)
    assert hd.tl.evaluate(sdata, model).attrs["protocol"] == protocol


def test_a_slide_of_an_unknown_patient_says_so(open_store, tiny_model):
    sdata = open_store("S3")
    sdata.attrs["hisdiff_sd"] = sdata.attrs["hisdiff_sd"] | {"patient": ""}
    hd.tl.predict(sdata, tiny_model, n_samples=1, steps=1)
    assert hd.tl.evaluate(sdata, tiny_model).attrs["protocol"] == "held-out slide, patient unknown"


def test_a_training_slide_is_evaluated_with_a_warning(open_store, tiny_model):
    sdata = open_store("S2")
    hd.tl.predict(sdata, tiny_model, n_samples=1, steps=1)
    with pytest.warns(HisDiffWarning, match="slide 'S2' was trained on: these scores say nothing about new slides"):
        table = hd.tl.evaluate(sdata, tiny_model)
    assert table.attrs["protocol"] == "training slide"


def test_the_prediction_of_another_model_is_refused(predicted, tiny_model):
    other = with_config(tiny_model, training={})
    with pytest.raises(HisDiffError, match="'hisdiff' was predicted by another model; predict again with overwrite"):
        hd.tl.evaluate(predicted, other)


def test_a_slide_without_counts_is_refused(open_store, tiny_model):
    sdata = open_store("S3")
    del sdata.tables["table"]
    with pytest.raises(HisDiffError, match="no table 'table' of measured counts.*tables here: spots_morphology"):
        hd.tl.evaluate(sdata, tiny_model)
    assert "hisdiff" not in sdata.tables


def test_genes_that_were_not_measured_are_named(open_store, tiny_model):
    sdata = open_store("S3")
    lacking = tiny_model.genes[4]
    sdata["table"] = sdata["table"][:, [g for g in sdata["table"].var_names if g != lacking]].copy()
    with pytest.raises(HisDiffError, match=rf"missing from slides: S3 lacks {lacking} \(1\)"):
        hd.tl.evaluate(sdata, tiny_model)
    assert "hisdiff" not in sdata.tables


def test_a_prediction_that_lacks_spots_is_refused(open_store, tiny_model, predicted):
    sdata = open_store("S3")
    sdata["hisdiff"] = predicted["hisdiff"][:30].copy()
    with pytest.raises(HisDiffError, match="'hisdiff' lacks 9 of 39 spots; predict again with overwrite=True"):
        hd.tl.evaluate(sdata, tiny_model)


def test_spots_without_counts_are_refused(open_store, tiny_model, predicted):
    sdata = open_store("S3")
    sdata["hisdiff"] = predicted["hisdiff"].copy()
    sdata["table"] = sdata["table"][:30].copy()
    with pytest.raises(HisDiffError, match="S3: 9 of 39 spots have no counts"):
        hd.tl.evaluate(sdata, tiny_model)


def test_nothing_is_evaluated_without_a_model(predicted, monkeypatch):
    monkeypatch.setattr(hd.settings, "model", None)
    with pytest.raises(HisDiffError, match="no model given"):
        hd.tl.evaluate(predicted)


def test_genes_are_compared_by_name(open_store, tiny_model):
    """A prediction with its genes in another order has the same scores; one that lacks genes is refused."""
    sdata = open_store("S3")
    how = {"n_samples": 2, "steps": 2}
    hd.tl.predict(sdata, tiny_model, **how)
    hd.tl.predict(sdata, tiny_model, genes=tiny_model.genes[::-1], key_added="reversed", **how)
    a, b = (hd.tl.evaluate(sdata, tiny_model, key=key) for key in ("hisdiff", "reversed"))
    pd.testing.assert_frame_equal(a, b)
    hd.tl.predict(sdata, tiny_model, genes=tiny_model.genes[:3], key_added="few", **how)
    with pytest.raises(HisDiffError, match=rf"'few' lacks 9 genes.*{tiny_model.genes[3]}.*genes="):
        hd.tl.evaluate(sdata, tiny_model, key="few")


def test_a_map_is_not_evaluated(open_store, tiny_model):
    sdata = open_store("S3")
    hd.pp.tissue(sdata)
    hd.pp.tile(sdata, 200)
    with pytest.raises(HisDiffError, match="is a map"):
        hd.tl.evaluate(sdata, tiny_model, key="hisdiff_tiles_200um")
    assert "hisdiff_tiles_200um" not in sdata.tables
