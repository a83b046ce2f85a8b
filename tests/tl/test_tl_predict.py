"""Predictions: what is in the table, what it depends on, what is refused."""

from __future__ import annotations

import dataclasses
import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import spatialdata
import torch
from spatialdata import SpatialData

import hisdiff_sd as hd
from hisdiff_sd._errors import HisDiffError, HisDiffWarning
from hisdiff_sd._settings import Settings

ATTRS = "hisdiff_sd"


def predict(sdata: SpatialData, model: hd.HisDiff, **options) -> pd.DataFrame:
    """Predict quickly and return the mean as spots x genes."""
    options = {"n_samples": 2, "steps": 3, "key_added": "p", **options}
    hd.tl.predict(sdata, model, **options)
    return sdata[options["key_added"]].to_df()


@pytest.fixture
def slide(open_store) -> SpatialData:
    return open_store("S3")


@pytest.fixture
def store(stores, tmp_path) -> Path:
    """A copy of S3's store that may be written to."""
    return Path(shutil.copytree(stores["S3"], tmp_path / "S3.zarr"))


def subset(sdata: SpatialData, n: int) -> SpatialData:
    """The slide with its first n spots only."""
    barcodes = sdata["spots"].index[:n]
    tables = {name: t[t.obs["instance_id"].isin(barcodes)].copy() for name, t in sdata.tables.items()}
    return SpatialData(
        images={"he": sdata["he"]}, shapes={"spots": sdata["spots"].loc[barcodes]}, tables=tables, attrs=sdata.attrs
    )


def with_config(model: hd.HisDiff, **changes) -> hd.HisDiff:
    config = dataclasses.replace(model.config, **changes)
    return hd.HisDiff(model.network, config, model.scalers, model.baselines)


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


def test_the_summary_is_that_of_single_samples(slide, tiny_model):
    """All samples, one by one, from the means of 1, 2, ... 19 of them."""
    n = 19
    total, samples = 0.0, []
    for k in range(1, n + 1):
        predict(slide, tiny_model, n_samples=k, overwrite=True)
        table = slide["p"]
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


def test_a_sample_does_not_depend_on_how_many_are_drawn(slide, tiny_model):
    predict(slide, tiny_model, n_samples=1, key_added="one")
    predict(slide, tiny_model, n_samples=5, key_added="five")
    np.testing.assert_allclose(slide["five"].layers["sample_0"], slide["one"].X, atol=1e-4)
    np.testing.assert_array_equal(slide["one"].layers["sample_0"], slide["one"].X)
    assert not slide["one"].layers["std"].any()
    assert np.abs(slide["five"].X - slide["one"].X).max() > 0.1


@pytest.mark.parametrize(("n", "tails"), [(1, False), (18, False), (19, True)])
def test_few_samples_have_no_tails_and_that_is_said(slide, tiny_model, caplog, n, tails):
    with caplog.at_level(logging.WARNING, logger="hisdiff_sd"):
        predict(slide, tiny_model, n_samples=n, steps=1)
    assert ("q05" in slide["p"].layers) == ("q95" in slide["p"].layers) == tails
    assert "q50" in slide["p"].layers
    said = [r.getMessage() for r in caplog.records if "too few" in r.getMessage()]
    assert said == ([] if tails else [f"{n} samples are too few for 5% and 95% quantiles: q05 and q95 are left out"])


def test_the_same_call_gives_the_same(slide, tiny_model):
    first = predict(slide, tiny_model, seed=5)
    pd.testing.assert_frame_equal(predict(slide, tiny_model, seed=5, overwrite=True), first, check_exact=True)
    assert np.abs(predict(slide, tiny_model, seed=6, overwrite=True) - first).to_numpy().max() > 0.1
    assert np.abs(predict(slide, tiny_model, seed=5, steps=4, overwrite=True) - first).to_numpy().max() > 0.1


@pytest.mark.parametrize("batch_size", [1, 7, 128])
def test_the_batch_size_changes_nothing(slide, tiny_model, batch_size):
    by_itself = predict(slide, tiny_model, steps=5, n_samples=3)
    again = predict(slide, tiny_model, steps=5, n_samples=3, batch_size=batch_size, overwrite=True)
    np.testing.assert_allclose(again, by_itself, atol=1e-4)


def test_the_order_of_spots_changes_nothing(slide, tiny_model):
    straight = predict(slide, tiny_model, steps=5)
    rng = np.random.default_rng(0)
    spots = slide["spots"].iloc[rng.permutation(len(slide["spots"]))]
    tables = {name: slide[name][rng.permutation(slide[name].n_obs)].copy() for name in ("table", "spots_morphology")}
    shuffled = SpatialData(images={"he": slide["he"]}, shapes={"spots": spots}, tables=tables, attrs=slide.attrs)
    again = predict(shuffled, tiny_model, steps=5)
    assert list(shuffled["p"].obs["instance_id"]) == list(spots.index) != list(straight.index)
    np.testing.assert_allclose(again.loc[straight.index], straight, atol=1e-4)
    positions = pd.DataFrame(shuffled["p"].obsm["spatial"], index=again.index).loc[straight.index]
    np.testing.assert_array_equal(positions, slide["p"].obsm["spatial"])


def test_no_measured_gene_is_needed(slide, tiny_model):
    with_counts = predict(slide, tiny_model)
    slide["table"].X.data[:] = 0
    pd.testing.assert_frame_equal(predict(slide, tiny_model, overwrite=True), with_counts, check_exact=True)
    del slide.tables["table"]
    pd.testing.assert_frame_equal(predict(slide, tiny_model, overwrite=True), with_counts, check_exact=True)
    (library,) = slide["p"].uns["spatial"].values()  # drawn from the image, as there is no table to take it from
    scale, (height, width) = library["scalefactors"]["tissue_hires_scalef"], slide.attrs[ATTRS]["true_size"]
    drawn = library["images"]["hires"]
    assert drawn.dtype == np.uint8
    assert abs(drawn.shape[0] - height * scale) <= 1
    assert abs(drawn.shape[1] - width * scale) <= 1
    assert library["scalefactors"]["spot_diameter_fullres"] == 2 * slide["spots"]["radius"].iloc[0]


def test_missing_embeddings_are_computed(slide, tiny_model):
    expected = predict(slide, tiny_model)
    del slide.tables["spots_morphology"]
    np.testing.assert_allclose(predict(slide, tiny_model, overwrite=True), expected, atol=1e-4)
    assert slide["spots_morphology"].uns[ATTRS]["tile"] == "hisdiff"


def test_missing_embeddings_are_computed_with_the_models_tiles(slide, tiny_model):
    model = with_config(tiny_model, tile="120um")
    del slide.tables["spots_morphology"]
    predict(slide, model)
    assert slide["spots_morphology"].uns[ATTRS]["tile"] == "120um"


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


def test_a_prediction_that_is_there_is_kept(slide, tiny_model):
    predict(slide, tiny_model)
    slide["p"].X[:] = -1
    predict(slide, tiny_model)
    assert (slide["p"].X == -1).all()
    predict(slide, tiny_model, overwrite=True)
    assert (slide["p"].X >= 0).all()


@pytest.mark.parametrize(("option", "value"), [("n_samples", 3), ("steps", 4), ("seed", 1)])
def test_a_prediction_made_in_another_way_is_not_replaced_unasked(slide, tiny_model, option, value):
    predict(slide, tiny_model)
    before = slide["p"].X.copy()
    recorded = {"n_samples": "samples"}.get(option, option)
    with pytest.raises(HisDiffError, match=rf"'p' was made in another way \({recorded}: \d there, {value} asked for\)"):
        predict(slide, tiny_model, **{option: value})
    np.testing.assert_array_equal(slide["p"].X, before)
    predict(slide, tiny_model, **{option: value, "overwrite": True})
    assert np.abs(slide["p"].X - before).max() > 1e-3


def test_a_prediction_of_another_model_is_not_replaced_unasked(slide, tiny_model):
    predict(slide, tiny_model)
    with pytest.raises(HisDiffError, match="model_hash: .* give overwrite=True to replace it, or key_added="):
        predict(slide, with_config(tiny_model, training={}))


def test_embeddings_of_other_tiles_are_refused_with_the_way_out(slide, tiny_model):
    hd.pp.embed(slide, "morphology", tile_um=150, overwrite=True)
    with pytest.raises(HisDiffError, match=r"tiles: 150um in the store, hisdiff of the model.*recompute") as caught:
        predict(slide, tiny_model)
    assert "hd.pp.embed(sdata, 'morphology', tile_um=None, overwrite=True)" in str(caught.value)
    assert "p" not in slide.tables
    hd.pp.embed(slide, "morphology", tile_um=None, overwrite=True)  # as the message says
    predict(slide, tiny_model)


def test_embeddings_of_another_encoder_version_are_refused(slide, tiny_model):
    model = with_config(tiny_model, encoder_hash="0123456789abcdef")
    with pytest.raises(HisDiffError, match="encoder hash: [0-9a-f]{64} in the store, 0123456789abcdef of the model"):
        predict(slide, model)
    del slide.tables["spots_morphology"]
    with pytest.raises(HisDiffError, match=r"another version of encoder 'morphology' \(hash 0123456789ab, here"):
        predict(slide, model)
    assert "spots_morphology" not in slide.tables


def test_an_encoder_of_ones_own_must_have_embedded_the_slide(slide, tiny_model):
    with pytest.raises(HisDiffError, match=r"no embeddings 'spots_mine', and the encoder .*embed the slide with it"):
        predict(slide, with_config(tiny_model, encoder="mine"))


def test_embeddings_that_lack_a_spot_are_refused(slide, tiny_model):
    slide.tables["spots_morphology"] = slide["spots_morphology"][1:].copy()
    with pytest.raises(HisDiffError, match="'spots_morphology' lacks 1 of 39 spots; run hd.pp.embed with overwrite"):
        predict(slide, tiny_model)


def test_without_a_model_the_error_says_how_to_get_one(slide, monkeypatch):
    monkeypatch.setattr(hd.settings, "model", None)
    with pytest.raises(HisDiffError, match="no model given") as caught:
        hd.tl.predict(slide)
    for way in ("model=", "hd.settings.model", "HISDIFF_SD_MODEL", "hd.tl.train", "hd.HisDiff.from_published"):
        assert way in str(caught.value)


@pytest.mark.parametrize("how", ["str", "Path", "settings"])
def test_a_model_may_be_a_folder(slide, tiny_model, tmp_path, monkeypatch, how):
    tiny_model.save(tmp_path / "model")
    expected = predict(slide, tiny_model)
    given = {"str": str(tmp_path / "model"), "Path": tmp_path / "model", "settings": None}[how]
    monkeypatch.setattr(hd.settings, "model", str(tmp_path / "model") if how == "settings" else "/not/this/one")
    pd.testing.assert_frame_equal(predict(slide, given, overwrite=True), expected, check_exact=True)


def test_the_model_may_come_from_the_environment(slide, tiny_model, tmp_path, monkeypatch):
    tiny_model.save(tmp_path / "model")
    monkeypatch.setenv("HISDIFF_SD_MODEL", str(tmp_path / "model"))
    monkeypatch.setattr("hisdiff_sd.tl._model_inputs.settings", Settings())
    hd.tl.predict(slide, n_samples=1, steps=1)
    assert slide["hisdiff"].uns[ATTRS]["model_hash"] == tiny_model.fingerprint


def test_a_folder_that_is_not_there_is_named(slide):
    with pytest.raises(HisDiffError, match="no model at /not/there"):
        hd.tl.predict(slide, "/not/there")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"species": "Mus musculus"}, "slide 'S3' has species 'Mus musculus', the model was trained on 'Homo sapiens'"),
        ({"qc": {"gene_id_type": "ensembl"}}, "slide 'S3' has gene id type 'ensembl', the model was trained on"),
        ({"spot_pitch_um": 100.0}, "has spots 100 um apart, the model was trained at 200 um"),
    ],
)
def test_a_slide_of_another_kind_is_predicted_with_a_warning(slide, tiny_model, change, message):
    slide.attrs[ATTRS] = slide.attrs[ATTRS] | change
    with pytest.warns(HisDiffWarning, match=message) as caught:
        predict(slide, tiny_model)
    assert "p" in slide.tables
    assert [Path(w.filename).name for w in caught if issubclass(w.category, HisDiffWarning)] == [Path(__file__).name]


@pytest.mark.filterwarnings("error::hisdiff_sd._errors.HisDiffWarning")
@pytest.mark.parametrize("change", [{}, {"species": ""}, {"spot_pitch_um": None}, {"spot_pitch_um": 220.0}])
def test_a_slide_of_the_same_or_unknown_kind_is_predicted_without(slide, tiny_model, change):
    slide.attrs[ATTRS] = slide.attrs[ATTRS] | change
    predict(slide, tiny_model, steps=1)


def test_a_prediction_is_in_the_store_at_once(store, tiny_model):
    sdata = spatialdata.read_zarr(store)
    hd.tl.predict(sdata, tiny_model, n_samples=19, steps=2)
    written = spatialdata.read_zarr(store)
    table, expected = written["hisdiff"], sdata["hisdiff"]
    np.testing.assert_array_equal(table.X, expected.X)
    assert set(table.layers) - {None} == {"std", "q05", "q50", "q95", "sample_0"}
    for name in table.layers:
        np.testing.assert_array_equal(table.layers[name], expected.layers[name])
    assert list(table.var_names) == tiny_model.genes
    assert dict(table.uns[ATTRS]) == expected.uns[ATTRS]
    np.testing.assert_array_equal(table.obsm["spatial"], written["table"].obsm["spatial"])
    assert table.uns["spatialdata_attrs"]["region"] == "spots"
    joined = spatialdata.match_table_to_element(written, "spots", "hisdiff")
    assert list(joined.obs_names) == list(written["spots"].index)
    assert {p.name for p in store.parent.iterdir()} == {"S3.zarr", ".S3.zarr.hisdiff_sd"}
    # found again, so nothing is computed
    before = (store / "tables" / "hisdiff").stat().st_mtime_ns
    hd.tl.predict(written, tiny_model, n_samples=19, steps=2)
    assert (store / "tables" / "hisdiff").stat().st_mtime_ns == before


def test_a_refused_prediction_writes_nothing(store, tiny_model):
    sdata = spatialdata.read_zarr(store)
    before = {p: p.stat().st_mtime_ns for p in store.rglob("*")}
    for model, options in (
        (tiny_model, {"n_samples": 0}),
        (tiny_model, {"steps": 0}),
        (tiny_model, {"steps": 1001}),
        (with_config(tiny_model, tile="50um"), {}),
        ("/not/there", {}),
    ):
        with pytest.raises(HisDiffError):
            hd.tl.predict(sdata, model, **options)
    assert {p: p.stat().st_mtime_ns for p in store.rglob("*")} == before


@pytest.mark.parametrize("n", [48, 9, 8, 2, 1])
def test_small_slides_are_predicted(slide, tiny_model, n):
    small = subset(slide, n)
    values = predict(small, tiny_model)
    assert values.shape == (min(n, 39), len(tiny_model.genes))
    assert np.isfinite(values.to_numpy()).all()
    if n >= 39:  # all spots of the slide: nothing is cut off
        np.testing.assert_allclose(values, predict(slide, tiny_model), atol=1e-4)


def test_more_neighbours_are_seen_where_there_are_more(slide, tiny_model):
    few, whole = predict(subset(slide, 9), tiny_model), predict(slide, tiny_model)
    assert np.abs(whole.loc[few.index] - few).to_numpy().max() > 1e-3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_samples": 0}, "n_samples=0 draws nothing"),
        ({"steps": 0}, "steps must be a whole number from 1 to 1000, not 0"),
        ({"steps": 1001}, "from 1 to 1000, not 1001"),
        ({"device": "tpu9"}, "no device 'tpu9'"),
        pytest.param({"batch_size": 0}, "batch_size=0"),
        pytest.param({"batch_size": -1}, "batch_size=-1"),
    ],
)
def test_options_that_make_no_sense_are_refused(slide, tiny_model, options, message):
    with pytest.raises(HisDiffError, match=message):
        predict(slide, tiny_model, **options)
    assert "p" not in slide.tables


def test_many_spots_are_kept_small(slide, tiny_model, monkeypatch):
    expected = predict(slide, tiny_model, n_samples=19, steps=1)
    monkeypatch.setattr("hisdiff_sd.tl._prediction_table._MANY_SPOTS", 10)
    predict(slide, tiny_model, n_samples=19, steps=1, overwrite=True)
    table = slide["p"]
    assert table.X.dtype == np.float32
    np.testing.assert_array_equal(table.X, expected)
    assert set(table.layers) - {None} == {"std", "q05", "q50", "q95"}
    assert {table.layers[name].dtype for name in ("std", "q05", "q50", "q95")} == {np.dtype(np.float16)}


def test_the_prediction_follows_the_image(slide, tiny_model):
    before = predict(slide, tiny_model)
    slide["spots_morphology"].X[0] = slide["spots_morphology"].X[20]
    assert np.abs(predict(slide, tiny_model, overwrite=True) - before).iloc[0].max() > 1e-3


def test_options_are_checked_before_anything_is_embedded(slide, tiny_model):
    del slide.tables["spots_morphology"]
    with pytest.raises(HisDiffError, match="steps must be a whole number from 1 to 1000, not 0"):
        predict(slide, tiny_model, steps=0)
    assert "spots_morphology" not in slide.tables


def test_a_model_that_gives_no_numbers_is_refused(slide, tiny_model):
    network = hd.nn.HisDiffNetwork(**tiny_model.network.config)
    with torch.no_grad():
        network.final_layer.linear.bias.fill_(torch.nan)
    with pytest.raises(HisDiffError, match="NaN or infinity"):
        predict(slide, hd.HisDiff(network, tiny_model.config, tiny_model.scalers))
    assert "p" not in slide.tables


@pytest.mark.parametrize("key", ["table", "spots_morphology"])
def test_counts_and_embeddings_are_never_replaced_by_a_prediction(slide, tiny_model, key):
    before = slide[key].copy()
    with pytest.raises(HisDiffError, match=f"{key}.* no prediction"):
        predict(slide, tiny_model, key_added=key, overwrite=True)
    assert list(slide[key].var_names) == list(before.var_names)


def test_a_prediction_that_lacks_spots_is_made_anew(slide, tiny_model):
    whole = predict(slide, tiny_model)
    slide["p"] = slide["p"][:30].copy()
    pd.testing.assert_frame_equal(predict(slide, tiny_model), whole, check_exact=True)
