"""Predictions: what is in the table, and what it depends on."""

from __future__ import annotations

import json
import logging

import numpy as np
import pandas as pd
import pytest
from spatialdata import SpatialData

import hisdiff_sd as hd

ATTRS = "hisdiff_sd"


def subset(sdata: SpatialData, n: int) -> SpatialData:
    """The slide with its first n spots only."""
    barcodes = sdata["spots"].index[:n]
    tables = {name: t[t.obs["instance_id"].isin(barcodes)].copy() for name, t in sdata.tables.items()}
    return SpatialData(
        images={"he": sdata["he"]}, shapes={"spots": sdata["spots"].loc[barcodes]}, tables=tables, attrs=sdata.attrs
    )


def test_the_table_holds_a_summary_of_the_samples(predicted, tiny_model):
    table = predicted["hisdiff"]
    assert list(table.var_names) == tiny_model.genes
    assert list(table.obs["instance_id"]) == list(predicted["spots"].index)
    assert set(table.layers) - {None} == {"std", "q05", "q50", "q95", "sample_0"}
    for values in (table.X, *table.layers.values()):
        assert values.dtype == np.float32
        assert values.shape == (len(predicted["spots"]), len(tiny_model.genes))
        assert np.isfinite(values).all()
        assert values.min() >= 0
    assert (table.layers["q05"] <= table.layers["q50"]).all()
    assert (table.layers["q50"] <= table.layers["q95"]).all()
    assert table.X.std(0).min() > 0  # spots differ
    assert (table.layers["std"] > 0).mean() > 0.9  # samples differ, where they are not all below zero counts


def test_the_summary_is_that_of_single_samples(predict, s3, tiny_model):
    """All samples, one by one, from the means of 1, 2, ... 19 of them."""
    n = 19
    total, samples = 0.0, []
    for k in range(1, n + 1):
        predict(s3, tiny_model, n_samples=k, overwrite=True)
        table = s3["p"]
        samples.append(table.X.astype(np.float64) * k - total)
        total = total + samples[-1]
    np.testing.assert_allclose(table.layers["sample_0"], samples[0], atol=1e-4)
    np.testing.assert_allclose(table.layers["std"], np.std(samples, axis=0, ddof=1), atol=1e-3)
    for layer, q in (("q05", 0.05), ("q50", 0.5), ("q95", 0.95)):
        np.testing.assert_allclose(
            table.layers[layer], np.quantile(samples, q, axis=0, method="weibull"), atol=1e-3, err_msg=layer
        )
    # 19 samples cut the line into 20 parts: the outermost ones are the 5% and 95% points
    np.testing.assert_allclose(table.layers["q05"], np.min(samples, axis=0), atol=1e-3)
    np.testing.assert_allclose(table.layers["q95"], np.max(samples, axis=0), atol=1e-3)


def test_a_sample_does_not_depend_on_how_many_are_drawn(predict, s3, tiny_model):
    predict(s3, tiny_model, n_samples=1, key_added="one")
    predict(s3, tiny_model, n_samples=5, key_added="five")
    np.testing.assert_allclose(s3["five"].layers["sample_0"], s3["one"].X, atol=1e-4)
    np.testing.assert_array_equal(s3["one"].layers["sample_0"], s3["one"].X)
    assert not s3["one"].layers["std"].any()
    assert np.abs(s3["five"].X - s3["one"].X).max() > 0.1


@pytest.mark.parametrize(("n", "tails"), [(1, False), (18, False), (19, True)])
def test_few_samples_have_no_tails_and_that_is_said(predict, s3, tiny_model, caplog, n, tails):
    with caplog.at_level(logging.WARNING, logger="hisdiff_sd"):
        predict(s3, tiny_model, n_samples=n, steps=1)
    assert ("q05" in s3["p"].layers) == ("q95" in s3["p"].layers) == tails
    assert "q50" in s3["p"].layers
    said = [r.getMessage() for r in caplog.records if "too few" in r.getMessage()]
    assert said == ([] if tails else [f"{n} samples are too few for 5% and 95% quantiles: q05 and q95 are left out"])


def test_the_same_call_gives_the_same(predict, s3, tiny_model):
    first = predict(s3, tiny_model, seed=5)
    pd.testing.assert_frame_equal(predict(s3, tiny_model, seed=5, overwrite=True), first, check_exact=True)
    assert np.abs(predict(s3, tiny_model, seed=6, overwrite=True) - first).to_numpy().max() > 0.1
    assert np.abs(predict(s3, tiny_model, seed=5, steps=4, overwrite=True) - first).to_numpy().max() > 0.1


@pytest.mark.parametrize("batch_size", [1, 7, 128])
def test_the_batch_size_changes_nothing(predict, s3, tiny_model, batch_size):
    by_itself = predict(s3, tiny_model, steps=5, n_samples=3)
    again = predict(s3, tiny_model, steps=5, n_samples=3, batch_size=batch_size, overwrite=True)
    np.testing.assert_allclose(again, by_itself, atol=1e-4)


def test_the_order_of_spots_changes_nothing(predict, s3, tiny_model):
    straight = predict(s3, tiny_model, steps=5)
    rng = np.random.default_rng(0)
    spots = s3["spots"].iloc[rng.permutation(len(s3["spots"]))]
    tables = {name: s3[name][rng.permutation(s3[name].n_obs)].copy() for name in ("table", "spots_morphology")}
    shuffled = SpatialData(images={"he": s3["he"]}, shapes={"spots": spots}, tables=tables, attrs=s3.attrs)
    again = predict(shuffled, tiny_model, steps=5)
    assert list(shuffled["p"].obs["instance_id"]) == list(spots.index) != list(straight.index)
    np.testing.assert_allclose(again.loc[straight.index], straight, atol=1e-4)
    positions = pd.DataFrame(shuffled["p"].obsm["spatial"], index=again.index).loc[straight.index]
    np.testing.assert_array_equal(positions, s3["p"].obsm["spatial"])


def test_no_measured_gene_is_needed(predict, s3, tiny_model):
    with_counts = predict(s3, tiny_model)
    s3["table"].X.data[:] = 0
    pd.testing.assert_frame_equal(predict(s3, tiny_model, overwrite=True), with_counts, check_exact=True)
    del s3.tables["table"]
    pd.testing.assert_frame_equal(predict(s3, tiny_model, overwrite=True), with_counts, check_exact=True)
    (library,) = s3["p"].uns["spatial"].values()  # drawn from the image, as there is no table to take it from
    scale, (height, width) = library["scalefactors"]["tissue_hires_scalef"], s3.attrs[ATTRS]["true_size"]
    drawn = library["images"]["hires"]
    assert drawn.dtype == np.uint8
    assert abs(drawn.shape[0] - height * scale) <= 1
    assert abs(drawn.shape[1] - width * scale) <= 1
    assert library["scalefactors"]["spot_diameter_fullres"] == 2 * s3["spots"]["radius"].iloc[0]


def test_missing_embeddings_are_computed(predict, s3, tiny_model):
    expected = predict(s3, tiny_model)
    del s3.tables["spots_morphology"]
    np.testing.assert_allclose(predict(s3, tiny_model, overwrite=True), expected, atol=1e-4)
    assert s3["spots_morphology"].uns[ATTRS]["tile"] == "hisdiff"


def test_the_record_says_how_the_table_was_made(predicted, tiny_model):
    record = dict(predicted["hisdiff"].uns[ATTRS])
    embedding = predicted["spots_morphology"].uns[ATTRS]
    for key in ("encoder_hash", "tile_side_px", "padding", "filter"):
        assert record.pop(key) == embedding[key]
    assert json.loads(record.pop("licences")) == tiny_model.config.licences
    assert json.loads(record.pop("training_slides")) == ["S1", "S2"]
    assert record == {
        "kind": "prediction",
        "slide": "S3",
        "shapes": "spots",
        "genes": "",
        "model_hash": tiny_model.fingerprint,
        "target": "log2",
        "encoder": "morphology",
        "tile": "hisdiff",
        "sampler": "dpm++sde",
        "steps": 5,
        "samples": 20,
        "seed": 0,
        "depth": 1.0,
        "failed_tiles": 0,
        "protocol": "held-out slide and patient",
        "version": hd.__version__,
    }


@pytest.mark.parametrize("n", [48, 9, 8, 2, 1])
def test_small_slides_are_predicted(predict, s3, tiny_model, n):
    small = subset(s3, n)
    values = predict(small, tiny_model)
    assert values.shape == (min(n, 39), len(tiny_model.genes))
    assert np.isfinite(values.to_numpy()).all()
    if n >= 39:  # all spots of the slide: nothing is cut off
        np.testing.assert_allclose(values, predict(s3, tiny_model), atol=1e-4)


def test_more_neighbours_are_seen_where_there_are_more(predict, s3, tiny_model):
    few, whole = predict(subset(s3, 9), tiny_model), predict(s3, tiny_model)
    assert np.abs(whole.loc[few.index] - few).to_numpy().max() > 1e-3


def test_many_spots_are_kept_small(predict, s3, tiny_model, monkeypatch):
    expected = predict(s3, tiny_model, n_samples=19, steps=1)
    monkeypatch.setattr("hisdiff_sd.tl._prediction_table._MANY_SPOTS", 10)
    predict(s3, tiny_model, n_samples=19, steps=1, overwrite=True)
    table = s3["p"]
    assert table.X.dtype == np.float32
    np.testing.assert_array_equal(table.X, expected)
    assert set(table.layers) - {None} == {"std", "q05", "q50", "q95"}
    assert {table.layers[name].dtype for name in ("std", "q05", "q50", "q95")} == {np.dtype(np.float16)}


def test_the_prediction_follows_the_image(predict, s3, tiny_model):
    before = predict(s3, tiny_model)
    s3["spots_morphology"].X[0] = s3["spots_morphology"].X[20]
    assert np.abs(predict(s3, tiny_model, overwrite=True) - before).iloc[0].max() > 1e-3
