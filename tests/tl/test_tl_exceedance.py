"""Probabilities of being above a threshold: the normal tail where samples are Gaussian, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import spatialdata
import torch
from scipy import stats
from spatialdata import SpatialData

import hisdiff_sd as hd
from hisdiff_sd._errors import HisDiffError
from hisdiff_sd.tl._draws import Draws
from hisdiff_sd.tl._model_inputs import model_inputs
from hisdiff_sd.tl._sample import sample_slide

ATTRS, KEY = "hisdiff_sd", "hisdiff_exceedance"


@pytest.fixture
def slide(open_store) -> SpatialData:
    return open_store("S3")


@pytest.fixture
def flow(gaussian_model) -> hd.HisDiff:
    """Three genes; the last one is often below zero counts."""
    return gaussian_model([5.0, 3.0, 0.5], [0.5, 1.0, 1.0], neighbours=0.3, slide=0.2, temperature=1.5)


def exceed(sdata: SpatialData, model: hd.HisDiff, thresholds, **options) -> pd.DataFrame:
    hd.tl.exceedance(sdata, model, thresholds, **{"n_samples": 10, "steps": 1, **options})
    return sdata[options.get("key_added", KEY)].to_df()


def test_gaussian_samples_have_the_normal_tail(slide, gaussian_model, monkeypatch):
    monkeypatch.setattr("hisdiff_sd.tl._sample._MOST", {"cpu": 4096})
    mean, sd, n = np.array([5.0, 3.0, 0.5]), np.array([0.5, 1.0, 1.0]), 2000
    model = gaussian_model(mean, sd, temperature=1.5)
    thresholds = {"GENE0": 5.5, "GENE1": 1.0, "GENE2": 0.0}
    values = exceed(slide, model, thresholds, n_samples=n).to_numpy()
    expected = stats.norm.sf(list(thresholds.values()), mean, 1.5 * sd)
    # spots are independent here: the error of a spot, and that of the mean over spots
    error = np.sqrt(expected * (1 - expected) / n)
    assert (np.abs(values - expected) < 5 * error).all()
    assert (np.abs(values.mean(0) - expected) < 4 * error / np.sqrt(len(values))).all()
    table = slide[KEY]
    assert table.X.dtype == np.float32
    assert table.var["threshold"].to_dict() == thresholds
    assert list(table.obs["instance_id"]) == list(slide["spots"].index)
    assert table.uns["spatialdata_attrs"]["region"] == "spots"


def test_it_is_the_share_of_the_samples_of_a_prediction(slide, flow, monkeypatch):
    inputs = model_inputs(slide, flow)
    samples = sample_slide(flow, inputs, Draws.of("flow", 11, steps=1, seed=3), torch.device("cpu"))
    expected = (samples > np.array([5.0, 2.0, 0.7])).mean(0)
    thresholds = {"GENE0": 5.0, "GENE1": 2.0, "GENE2": 0.7}
    np.testing.assert_allclose(exceed(slide, flow, thresholds, n_samples=11, seed=3), expected, atol=1e-6)
    monkeypatch.setattr("hisdiff_sd.tl._prediction_run._BLOCK", 5)
    monkeypatch.setattr("hisdiff_sd.tl._sample._MOST", {"cpu": 7})
    again = exceed(slide, flow, thresholds, n_samples=11, seed=3, overwrite=True)
    np.testing.assert_allclose(again, expected, atol=1e-6)
    some = exceed(slide, flow, thresholds, n_samples=11, seed=3, genes=["GENE2", "GENE0"], overwrite=True)
    assert list(some.columns) == ["GENE2", "GENE0"]
    np.testing.assert_allclose(some, expected[:, [2, 0]], atol=1e-6)
    assert list(slide[KEY].var["threshold"]) == [0.7, 5.0]


def test_a_threshold_is_exceeded_by_what_is_above_it_only(slide, gaussian_model):
    model = gaussian_model([2.0], [0.0])
    assert (exceed(slide, model, 2.0) == 0).all(axis=None)
    assert (exceed(slide, model, 1.999, overwrite=True) == 1).all(axis=None)


def test_the_order_of_spots_changes_nothing(slide, flow):
    straight = exceed(slide, flow, 3.0)
    rng = np.random.default_rng(0)
    spots = slide["spots"].iloc[rng.permutation(len(slide["spots"]))]
    tables = {"spots_morphology": slide["spots_morphology"][::-1].copy()}
    shuffled = SpatialData(images={"he": slide["he"]}, shapes={"spots": spots}, tables=tables, attrs=slide.attrs)
    again = exceed(shuffled, flow, 3.0)
    assert list(again.index) == list(spots.index) != list(straight.index)
    pd.testing.assert_frame_equal(again.loc[straight.index], straight)


def test_genes_are_those_of_the_thresholds(slide, flow):
    assert list(exceed(slide, flow, {"GENE2": 1.0}).columns) == ["GENE2"]
    series = pd.Series({"GENE1": 3.0, "GENE0": 4.0})
    assert list(exceed(slide, flow, series, overwrite=True).columns) == ["GENE1", "GENE0"]
    assert list(exceed(slide, flow, 1.0, overwrite=True).columns) == flow.genes


def test_the_record_says_how_the_table_was_made(slide, tiny_model):
    exceed(slide, tiny_model, 1.0, genes=tiny_model.genes[:2])
    record = dict(slide[KEY].uns[ATTRS])
    assert record["kind"] == "exceedance"
    assert json.loads(record["thresholds"]) == [1.0, 1.0]
    assert json.loads(record["genes"]) == tiny_model.genes[:2]
    assert record["model_hash"] == tiny_model.fingerprint
    assert (record["sampler"], record["samples"], record["steps"], record["seed"]) == ("dpm++sde", 10, 1, 0)


def test_what_is_there_is_kept_and_never_replaced_unasked(slide, flow):
    exceed(slide, flow, 3.0)
    slide[KEY].X[:] = -1
    assert (exceed(slide, flow, 3.0) == -1).all(axis=None)
    for thresholds, options, differs in (
        (2.0, {}, "thresholds"),
        (3.0, {"seed": 1}, "seed"),
        (3.0, {"n_samples": 11}, "samples"),
    ):
        with pytest.raises(HisDiffError, match=rf"made in another way \({differs}: .* overwrite=True"):
            exceed(slide, flow, thresholds, **options)
    assert (slide[KEY].X == -1).all()
    exceed(slide, flow, 2.0, overwrite=True)
    assert (slide[KEY].X >= 0).all()


def test_it_never_replaces_a_table_of_another_kind(slide, flow):
    hd.tl.predict(slide, flow, n_samples=2, steps=1)
    for key in ("hisdiff", "table", "spots_morphology"):
        with pytest.raises(HisDiffError, match=f"table '{key}' holds no probabilities"):
            exceed(slide, flow, 1.0, key_added=key, overwrite=True)
    exceed(slide, flow, 1.0)
    with pytest.raises(HisDiffError, match="is no prediction"):
        hd.tl.predict(slide, flow, n_samples=2, steps=1, key_added=KEY, overwrite=True)


def test_missing_embeddings_are_computed(slide, flow):
    expected = exceed(slide, flow, 3.0)
    del slide.tables["spots_morphology"]
    pd.testing.assert_frame_equal(exceed(slide, flow, 3.0, overwrite=True), expected)
    assert "spots_morphology" in slide.tables


def test_tiles_have_a_table_of_their_own(slide, flow):
    hd.pp.tile(slide, 300, shapes_key=None)
    with pytest.warns(hd._errors.HisDiffWarning, match="does not say what its training spots were like"):
        hd.tl.exceedance(slide, flow, 3.0, shapes_key="tiles_300um", n_samples=2, steps=1)
    assert slide[f"{KEY}_tiles_300um"].n_obs == len(slide["tiles_300um"])


def test_it_is_in_the_store_at_once(stores, tmp_path, flow):
    store = Path(shutil.copytree(stores["S3"], tmp_path / "S3.zarr"))
    sdata = spatialdata.read_zarr(store)
    exceed(sdata, flow, {"GENE1": 3.0, "GENE0": 5.0})
    written = spatialdata.read_zarr(store)
    table = written[KEY]
    np.testing.assert_array_equal(table.X, sdata[KEY].X)
    assert list(table.var["threshold"]) == [3.0, 5.0]
    assert dict(table.uns[ATTRS]) == sdata[KEY].uns[ATTRS]
    joined = spatialdata.match_table_to_element(written, "spots", KEY)
    assert list(joined.obs_names) == list(written["spots"].index)
    before = (store / "tables" / KEY).stat().st_mtime_ns
    exceed(written, flow, {"GENE1": 3.0, "GENE0": 5.0})
    assert (store / "tables" / KEY).stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("thresholds", "options", "message"),
    [
        (None, {}, "no threshold given: pass thresholds="),
        (-0.5, {}, "threshold -0.5 of 'GENE0' is no number of 0 or more"),
        (np.nan, {}, "threshold nan of 'GENE0'"),
        ("high", {}, "threshold 'high' of 'GENE0'"),
        ({"GENE": 1.0}, {}, r"no gene in the model's panel 'GENE'; there are: 'GENE0', .* Did you mean 'GENE"),
        ({}, {}, "is no list of genes"),
        ({"GENE0": 1.0}, {"genes": ["GENE0", "GENE1"]}, "thresholds lack 1 of 2 genes: GENE1"),
        (1.0, {"genes": ["GENE9"]}, "no gene in the model's panel 'GENE9'"),
        (1.0, {"n_samples": 0}, "n_samples=0 draws nothing"),
        (1.0, {"steps": 0}, "steps must be a whole number from 1 to 1000, not 0"),
        (1.0, {"shapes_key": "spot"}, "no shapes 'spot'; shapes here: "),
    ],
)
def test_what_makes_no_sense_is_refused(slide, flow, thresholds, options, message):
    with pytest.raises(HisDiffError, match=message):
        exceed(slide, flow, thresholds, **options)
    assert KEY not in slide.tables
