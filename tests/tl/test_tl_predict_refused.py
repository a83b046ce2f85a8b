"""Predictions: which models and slides go together, what is refused, and what is kept or replaced."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import spatialdata
import torch

import hisdiff_sd as hd
from hisdiff_sd._errors import HisDiffError, HisDiffWarning
from hisdiff_sd._settings import Settings

ATTRS = "hisdiff_sd"


@pytest.fixture
def store(stores, tmp_path) -> Path:
    """A copy of S3's store that may be written to."""
    return Path(shutil.copytree(stores["S3"], tmp_path / "S3.zarr"))


def with_config(model: hd.HisDiff, **changes) -> hd.HisDiff:
    config = dataclasses.replace(model.config, **changes)
    return hd.HisDiff(model.network, config, model.scalers, model.baselines)


def test_missing_embeddings_are_computed_with_the_models_tiles(predict, s3, tiny_model):
    model = with_config(tiny_model, tile="120um")
    del s3.tables["spots_morphology"]
    predict(s3, model)
    assert s3["spots_morphology"].uns[ATTRS]["tile"] == "120um"


def test_a_prediction_that_is_there_is_kept(predict, s3, tiny_model):
    predict(s3, tiny_model)
    s3["p"].X[:] = -1
    predict(s3, tiny_model)
    assert (s3["p"].X == -1).all()
    predict(s3, tiny_model, overwrite=True)
    assert (s3["p"].X >= 0).all()


@pytest.mark.parametrize(("option", "value"), [("n_samples", 3), ("steps", 4), ("seed", 1)])
def test_a_prediction_made_in_another_way_is_not_replaced_unasked(predict, s3, tiny_model, option, value):
    predict(s3, tiny_model)
    before = s3["p"].X.copy()
    recorded = {"n_samples": "samples"}.get(option, option)
    with pytest.raises(HisDiffError, match=rf"'p' was made in another way \({recorded}: \d there, {value} asked for\)"):
        predict(s3, tiny_model, **{option: value})
    np.testing.assert_array_equal(s3["p"].X, before)
    predict(s3, tiny_model, **{option: value, "overwrite": True})
    assert np.abs(s3["p"].X - before).max() > 1e-3


def test_a_prediction_of_another_model_is_not_replaced_unasked(predict, s3, tiny_model):
    predict(s3, tiny_model)
    with pytest.raises(HisDiffError, match="model_hash: .* give overwrite=True to replace it, or key_added="):
        predict(s3, with_config(tiny_model, training={}))


def test_embeddings_of_other_tiles_are_refused_with_the_way_out(predict, s3, tiny_model):
    hd.pp.embed(s3, "morphology", tile_um=150, overwrite=True)
    with pytest.raises(HisDiffError, match=r"tiles: 150um in the store, hisdiff of the model.*recompute") as caught:
        predict(s3, tiny_model)
    assert "hd.pp.embed(sdata, 'morphology', tile_um=None, overwrite=True)" in str(caught.value)
    assert "p" not in s3.tables
    hd.pp.embed(s3, "morphology", tile_um=None, overwrite=True)  # as the message says
    predict(s3, tiny_model)


def test_embeddings_of_another_encoder_version_are_refused(predict, s3, tiny_model):
    model = with_config(tiny_model, encoder_hash="0123456789abcdef")
    with pytest.raises(HisDiffError, match="encoder hash: [0-9a-f]{64} in the store, 0123456789abcdef of the model"):
        predict(s3, model)
    del s3.tables["spots_morphology"]
    with pytest.raises(HisDiffError, match=r"another version of encoder 'morphology' \(hash 0123456789ab, here"):
        predict(s3, model)
    assert "spots_morphology" not in s3.tables


def test_an_encoder_of_ones_own_must_have_embedded_the_slide(predict, s3, tiny_model):
    with pytest.raises(HisDiffError, match=r"no embeddings 'spots_mine', and the encoder .*embed the slide with it"):
        predict(s3, with_config(tiny_model, encoder="mine"))


def test_embeddings_that_lack_a_spot_are_refused(predict, s3, tiny_model):
    s3.tables["spots_morphology"] = s3["spots_morphology"][1:].copy()
    with pytest.raises(HisDiffError, match="'spots_morphology' lacks 1 of 39 spots; run hd.pp.embed with overwrite"):
        predict(s3, tiny_model)


def test_without_a_model_the_error_says_how_to_get_one(s3, monkeypatch):
    monkeypatch.setattr(hd.settings, "model", None)
    with pytest.raises(HisDiffError, match="no model given") as caught:
        hd.tl.predict(s3)
    for way in ("model=", "hd.settings.model", "HISDIFF_SD_MODEL", "hd.tl.train", "hd.HisDiff.from_published"):
        assert way in str(caught.value)


@pytest.mark.parametrize("how", ["str", "Path", "settings"])
def test_a_model_may_be_a_folder(predict, s3, tiny_model, tmp_path, monkeypatch, how):
    tiny_model.save(tmp_path / "model")
    expected = predict(s3, tiny_model)
    given = {"str": str(tmp_path / "model"), "Path": tmp_path / "model", "settings": None}[how]
    monkeypatch.setattr(hd.settings, "model", str(tmp_path / "model") if how == "settings" else "/not/this/one")
    pd.testing.assert_frame_equal(predict(s3, given, overwrite=True), expected, check_exact=True)


def test_the_model_may_come_from_the_environment(s3, tiny_model, tmp_path, monkeypatch):
    tiny_model.save(tmp_path / "model")
    monkeypatch.setenv("HISDIFF_SD_MODEL", str(tmp_path / "model"))
    monkeypatch.setattr("hisdiff_sd.tl._model_inputs.settings", Settings())
    hd.tl.predict(s3, n_samples=1, steps=1)
    assert s3["hisdiff"].uns[ATTRS]["model_hash"] == tiny_model.fingerprint


def test_a_folder_that_is_not_there_is_named(s3):
    with pytest.raises(HisDiffError, match="no model at /not/there"):
        hd.tl.predict(s3, "/not/there")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"species": "Mus musculus"}, "slide 'S3' has species 'Mus musculus', the model was trained on 'Homo sapiens'"),
        ({"qc": {"gene_id_type": "ensembl"}}, "slide 'S3' has gene id type 'ensembl', the model was trained on"),
        ({"spot_pitch_um": 100.0}, "has spots 100 um apart, the model was trained at 200 um"),
    ],
)
def test_a_slide_of_another_kind_is_predicted_with_a_warning(s3, tiny_model, change, message):
    s3.attrs[ATTRS] = s3.attrs[ATTRS] | change
    with pytest.warns(HisDiffWarning, match=message) as caught:
        hd.tl.predict(s3, tiny_model, n_samples=2, steps=3)
    assert "hisdiff" in s3.tables
    assert [Path(w.filename).name for w in caught if issubclass(w.category, HisDiffWarning)] == [Path(__file__).name]


@pytest.mark.filterwarnings("error::hisdiff_sd._errors.HisDiffWarning")
@pytest.mark.parametrize("change", [{}, {"species": ""}, {"spot_pitch_um": None}, {"spot_pitch_um": 220.0}])
def test_a_slide_of_the_same_or_unknown_kind_is_predicted_without(predict, s3, tiny_model, change):
    s3.attrs[ATTRS] = s3.attrs[ATTRS] | change
    predict(s3, tiny_model, steps=1)


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
def test_options_that_make_no_sense_are_refused(predict, s3, tiny_model, options, message):
    with pytest.raises(HisDiffError, match=message):
        predict(s3, tiny_model, **options)
    assert "p" not in s3.tables


def test_options_are_checked_before_anything_is_embedded(predict, s3, tiny_model):
    del s3.tables["spots_morphology"]
    with pytest.raises(HisDiffError, match="steps must be a whole number from 1 to 1000, not 0"):
        predict(s3, tiny_model, steps=0)
    assert "spots_morphology" not in s3.tables


def test_a_model_that_gives_no_numbers_is_refused(predict, s3, tiny_model):
    network = hd.nn.HisDiffNetwork(**tiny_model.network.config)
    with torch.no_grad():
        network.final_layer.linear.bias.fill_(torch.nan)
    with pytest.raises(HisDiffError, match="NaN or infinity"):
        predict(s3, hd.HisDiff(network, tiny_model.config, tiny_model.scalers))
    assert "p" not in s3.tables


@pytest.mark.parametrize("key", ["table", "spots_morphology"])
def test_counts_and_embeddings_are_never_replaced_by_a_prediction(predict, s3, tiny_model, key):
    before = s3[key].copy()
    with pytest.raises(HisDiffError, match=f"{key}.* no prediction"):
        predict(s3, tiny_model, key_added=key, overwrite=True)
    assert list(s3[key].var_names) == list(before.var_names)


def test_a_prediction_that_lacks_spots_is_made_anew(predict, s3, tiny_model):
    whole = predict(s3, tiny_model)
    s3["p"] = s3["p"][:30].copy()
    pd.testing.assert_frame_equal(predict(s3, tiny_model), whole, check_exact=True)
