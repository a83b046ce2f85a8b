"""Predictions by every sampler: recorded, the same however they are cut into batches, refused in words; kept samples."""

from __future__ import annotations

import shutil
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
import spatialdata
from spatialdata import SpatialData

import hisdiff_sd as hd
from hisdiff_sd._errors import HisDiffError
from hisdiff_sd.nn import SAMPLERS

ATTRS = "hisdiff_sd"


@pytest.fixture
def slide(open_store) -> SpatialData:
    return open_store("S3")


def predict(sdata: SpatialData, model: hd.HisDiff, **options) -> np.ndarray:
    hd.tl.predict(sdata, model, **{"n_samples": 2, "steps": 3, "key_added": "p", "overwrite": True, **options})
    return np.asarray(sdata["p"].X)


def test_every_sampler_draws_its_own_and_says_so(slide, tiny_model):
    found = {}
    for sampler in SAMPLERS:
        found[sampler] = predict(slide, tiny_model, sampler=sampler)
        record = slide["p"].uns[ATTRS]
        assert (record["sampler"], record["steps"]) == (sampler, 3)
    names = list(found)
    for i, one in enumerate(names):
        for other in names[i + 1 :]:
            assert np.abs(found[one] - found[other]).max() > 0.01, (one, other)


def test_steps_are_those_of_the_sampler(slide, tiny_model):
    predict(slide, tiny_model, sampler="unipc", steps=None, n_samples=1)
    assert slide["p"].uns[ATTRS]["steps"] == SAMPLERS["unipc"]
    predict(slide, tiny_model, steps=None, n_samples=1)
    assert (slide["p"].uns[ATTRS]["sampler"], slide["p"].uns[ATTRS]["steps"]) == ("dpm++sde", 8)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_batches_change_nothing(slide, tiny_model, sampler):
    by_itself = predict(slide, tiny_model, sampler=sampler)
    for size in (1, 7):
        batched = predict(slide, tiny_model, sampler=sampler, batch_size=size)
        np.testing.assert_allclose(batched, by_itself, atol=1e-4, rtol=1e-5)  # this model's values reach far up


def test_a_prediction_by_another_sampler_is_not_taken_for_the_same(slide, tiny_model):
    predict(slide, tiny_model)
    with pytest.raises(HisDiffError, match="sampler: 'dpm\\+\\+sde' there, 'ddim' asked for"):
        predict(slide, tiny_model, sampler="ddim", overwrite=False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"sampler": "dpm"},
            "no sampler 'dpm'; there are: 'ancestral', 'ddim', 'dpm\\+\\+', 'dpm\\+\\+sde', 'unipc', 'flow'",
        ),
        ({"sampler": "flow"}, "no sampler of the published process 'flow'; there are: 'ancestral'"),
        ({"steps": 0}, "steps must be a whole number from 1 to 1000, not 0"),
        ({"steps": 300, "sampler": "dpm++"}, "steps=300 of sampler 'dpm\\+\\+' would fall together; give 250 or fewer"),
        ({"precision": "bf8"}, "no precision 'bf8'"),
        ({"keep_samples": 3}, "keep_samples=3 of n_samples=2 cannot be kept; give 0 to 2"),
        ({"keep_samples": -1}, "keep_samples=-1 of n_samples=2"),
    ],
)
def test_what_cannot_be_drawn_is_refused(slide, tiny_model, options, message):
    with pytest.raises(HisDiffError, match=message):
        predict(slide, tiny_model, **options)
    assert "p" not in slide.tables


def test_a_flow_has_its_own_sampler(slide, gaussian_model):
    flow = gaussian_model([2.0, 3.0], [1.0, 1.0])
    predict(slide, flow, sampler="flow")
    assert slide["p"].uns[ATTRS]["sampler"] == "flow"
    with pytest.raises(HisDiffError, match="sampler='ddim' is one of the published process, and the model is a flow"):
        predict(slide, flow, sampler="ddim")


def test_lower_precision_is_near(slide, tiny_model):
    exact = predict(slide, tiny_model, precision="fp32")
    near = predict(slide, tiny_model, precision="bf16")
    assert 0 < np.median(np.abs(near - exact)) < 0.03
    with pytest.raises(HisDiffError, match="precision 'fp16' needs a GPU"):
        predict(slide, tiny_model, precision="fp16")


def test_samples_that_are_kept_are_those_that_were_drawn(slide, tiny_model):
    mean = predict(slide, tiny_model, n_samples=4, keep_samples=4)
    layers = [slide["p"].layers[f"sample_{k}"] for k in range(4)]
    np.testing.assert_allclose(np.mean(layers, axis=0), mean, atol=1e-5)
    assert all(layer.shape == mean.shape and layer.dtype == np.float32 for layer in layers)
    assert np.abs(layers[0] - layers[3]).max() > 0.1
    predict(slide, tiny_model, n_samples=4, keep_samples=0)
    assert not [name for name in slide["p"].layers if name and name.startswith("sample")]


def test_kept_samples_are_in_the_store_and_asked_for_by_number(stores, tmp_path, tiny_model):
    store = Path(shutil.copytree(stores["S3"], tmp_path / "S3.zarr"))
    predict(spatialdata.read_zarr(store), tiny_model, keep_samples=2)
    again = spatialdata.read_zarr(store)
    assert {"sample_0", "sample_1"} <= set(again["p"].layers)
    before = (store / "tables" / "p").stat().st_mtime_ns
    predict(again, tiny_model, keep_samples=2, overwrite=False)
    assert (store / "tables" / "p").stat().st_mtime_ns == before
    with pytest.raises(HisDiffError, match="kept_samples: 2 there, 1 asked for"):
        predict(again, tiny_model, keep_samples=1, overwrite=False)


def test_what_the_disk_has_no_room_for_is_refused_before_sampling(stores, tmp_path, tiny_model, monkeypatch):
    store = Path(shutil.copytree(stores["S3"], tmp_path / "S3.zarr"))
    sdata = spatialdata.read_zarr(store)
    before = {p: p.stat().st_mtime_ns for p in store.rglob("*")}
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage(10**9, 10**9 - 1000, 1000))

    def sample(*args, **kwargs):
        raise AssertionError("it was sampled")

    monkeypatch.setattr("hisdiff_sd.tl._sample.sample_blocks", sample)
    with pytest.raises(
        HisDiffError, match=r"up to 0\.\d\d GiB are needed on the disk of .*S3\.zarr .*0\.00 GiB are free"
    ):
        predict(sdata, tiny_model, n_samples=20, keep_samples=20)
    assert {p: p.stat().st_mtime_ns for p in store.rglob("*")} == before
    assert "p" not in sdata.tables
