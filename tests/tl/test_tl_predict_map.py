"""Predictions all over the tissue of a slide that was never sequenced."""

from __future__ import annotations

import dataclasses
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
import spatialdata
from spatialdata import SpatialData

import hisdiff_sd as hd
from hisdiff_sd._errors import HisDiffError, HisDiffWarning
from hisdiff_sd.tl import _sample

QUICK = {"n_samples": 2, "steps": 2}


@pytest.fixture
def bare(open_store) -> SpatialData:
    """S3 as if it had never been sequenced."""
    slide = open_store("S3")
    return SpatialData(images={"he": slide["he"]}, attrs=slide.attrs)


@pytest.fixture
def bare_store(bare, tmp_path) -> Path:
    hd.io.write(bare, tmp_path / "bare.zarr")
    return tmp_path / "bare.zarr"


def changed(model: hd.HisDiff, **config) -> hd.HisDiff:
    return hd.HisDiff(model.network, dataclasses.replace(model.config, **config), model.scalers, model.baselines)


def test_a_bare_slide_is_outlined_tiled_embedded_and_predicted(bare_store, tiny_model, caplog):
    sdata = spatialdata.read_zarr(bare_store)
    with caplog.at_level(logging.INFO, logger="hisdiff_sd"):
        hd.tl.predict(sdata, tiny_model, **QUICK)
    said = " ".join(r.getMessage() for r in caplog.records)
    assert "hd.pp.tissue" in said
    assert "hd.pp.tile" in said
    assert "embedding" in said
    again = spatialdata.read_zarr(bare_store)
    # the spacing is that of the training slides
    table = again["hisdiff_tiles_200um"]
    assert {"tissue", "tiles_200um"} <= set(again.shapes)
    assert list(table.obs["instance_id"]) == list(again["tiles_200um"].index)
    assert list(table.var_names) == tiny_model.genes
    assert np.isfinite(table.X).all()
    assert table.X.std(0).max() > 0
    scale = next(iter(table.uns["spatial"].values()))["scalefactors"]
    assert scale["spot_diameter_fullres"] == pytest.approx(200 / 1.1)


def test_a_map_of_a_slide_with_spots_is_another_table(open_store, tiny_model):
    sdata = open_store("S3")
    hd.tl.predict(sdata, tiny_model, **QUICK)
    hd.tl.predict(sdata, tiny_model, spacing_um=100, **QUICK)
    assert sdata["hisdiff"].n_obs == len(sdata["spots"])
    assert sdata["hisdiff_tiles_100um"].n_obs == len(sdata["tiles_100um"])
    hd.tl.predict(sdata, tiny_model, shapes_key="tiles_100um", **QUICK)  # is there already
    before = sdata["hisdiff_tiles_100um"].X
    hd.tl.predict(sdata, tiny_model, shapes_key="tiles_100um", key_added="other", **QUICK)
    np.testing.assert_array_equal(sdata["other"].X, before)


def test_a_map_read_at_the_spots_is_what_spots_have(open_store, tiny_model):
    """A tile that lies on a spot sees what the spot sees, so that maps and spots tell the same."""
    sdata = open_store("S3")
    hd.tl.predict(sdata, tiny_model, n_samples=8, steps=5)
    hd.tl.predict(sdata, tiny_model, spacing_um=50, n_samples=8, steps=5)
    tiles, spots = sdata["hisdiff_tiles_50um"], sdata["hisdiff"]
    distance = np.linalg.norm(spots.obsm["spatial"][:, None] - tiles.obsm["spatial"][None], axis=2)
    near = distance.argmin(1)
    close = distance.min(1) < 40 / 1.1
    assert close.sum() > 15
    r = [np.corrcoef(tiles.X[near[close], g], spots.X[close, g])[0, 1] for g in range(spots.n_vars)]
    assert np.median(r) > 0.5


def test_some_genes_only(bare, tiny_model):
    genes = [tiny_model.genes[5], tiny_model.genes[2]]
    hd.tl.predict(bare, tiny_model, key_added="all", **QUICK)
    hd.tl.predict(bare, tiny_model, genes=genes, **QUICK)
    table = bare["hisdiff_tiles_200um"]
    assert list(table.var_names) == genes
    np.testing.assert_array_equal(table.X, bare["all"][:, genes].X)
    np.testing.assert_array_equal(table.layers["std"], bare["all"][:, genes].layers["std"])
    with pytest.raises(HisDiffError, match="genes"):
        hd.tl.predict(bare, tiny_model, **QUICK)  # all of them are not there
    with pytest.raises(HisDiffError, match="NOSUCH"):
        hd.tl.predict(bare, tiny_model, genes=["NOSUCH"], **QUICK)
    with pytest.raises(HisDiffError, match="no list"):
        hd.tl.predict(bare, tiny_model, genes="ERBB2", **QUICK)


def test_an_interrupted_prediction_goes_on(bare_store, tiny_model, monkeypatch, caplog):
    """What was sampled before is not sampled again, and the result is that of a call that was not interrupted."""
    monkeypatch.setattr("hisdiff_sd.tl._prediction_run._BLOCK", 10)
    whole = shutil.copytree(bare_store, bare_store.with_name("whole.zarr"))
    sdata = spatialdata.read_zarr(whole)
    hd.tl.predict(sdata, tiny_model, **QUICK)
    expected = sdata["hisdiff_tiles_200um"]

    sample, calls = _sample._sample_batch, []

    def failing(*args):
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return sample(*args)

    sdata = spatialdata.read_zarr(bare_store)
    with monkeypatch.context() as patched:
        patched.setattr(_sample, "_sample_batch", failing)
        with pytest.raises(KeyboardInterrupt):
            hd.tl.predict(sdata, tiny_model, **QUICK)
    assert "hisdiff_tiles_200um" not in spatialdata.read_zarr(bare_store).tables
    with caplog.at_level(logging.INFO, logger="hisdiff_sd"):
        sdata = spatialdata.read_zarr(bare_store)
        hd.tl.predict(sdata, tiny_model, **QUICK)
    assert "20 of" in " ".join(r.getMessage() for r in caplog.records if "going on" in r.getMessage())
    np.testing.assert_array_equal(sdata["hisdiff_tiles_200um"].X, expected.X)
    assert [p.name for p in bare_store.parent.iterdir() if p.name.startswith(".")] == [
        p.name for p in bare_store.parent.iterdir() if p.name.startswith(".") and not any(p.rglob("part-*"))
    ]


def test_a_large_map_is_kept_small(bare, tiny_model, monkeypatch):
    monkeypatch.setattr("hisdiff_sd.tl._prediction_table._MANY_SPOTS", 10)
    hd.tl.predict(bare, tiny_model, **QUICK)
    table = bare["hisdiff_tiles_200um"]
    assert table.X.dtype == np.float32
    assert "sample_0" not in table.layers
    assert {v.dtype for k, v in table.layers.items() if k is not None} == {np.dtype(np.float16)}


def test_counts_without_depth_are_warned_of(bare, tiny_model, caplog):
    with caplog.at_level(logging.WARNING, logger="hisdiff_sd"):
        hd.tl.predict(bare, tiny_model, **QUICK)
    assert "cp10k" in " ".join(r.getMessage() for r in caplog.records)
    caplog.clear()
    with caplog.at_level(logging.WARNING, logger="hisdiff_sd"):
        hd.tl.predict(bare, changed(tiny_model, target="cp10k"), key_added="c", **QUICK)
    assert "cp10k" not in " ".join(r.getMessage() for r in caplog.records)


def test_a_model_of_another_scale_is_warned_of_with_both_scales(bare, tiny_model):
    other = changed(tiny_model, tile_side_um=112.0, mpp=0.5, spot_pitch_um=200.0)
    with pytest.warns(HisDiffWarning, match=r"246 um at 1\.1 um per px.*112 um at 0\.5 um per px"):
        hd.tl.predict(bare, other, **QUICK)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"spacing_um": 0.5}, "0.5"),
        ({"spacing_um": 0}, "spacing_um=0 is no distance"),
        ({"spacing_um": float("nan")}, "spacing_um=nan"),
        ({"spacing_um": 90_000}, "tissue"),
        ({"shapes_key": "cells"}, "cells"),
        ({"shapes_key": "tiles_50um", "spacing_um": 50}, "two places"),
    ],
)
def test_places_that_cannot_be_are_refused(bare, tiny_model, options, words):
    with pytest.raises(HisDiffError, match=words):
        hd.tl.predict(bare, tiny_model, **QUICK, **options)
    assert not bare.tables


def test_a_model_that_knows_no_spacing_needs_one(bare, tiny_model):
    with pytest.raises(HisDiffError, match="spacing_um="):
        hd.tl.predict(bare, changed(tiny_model, spot_pitch_um=None), **QUICK)


def test_tiles_that_were_laid_anew_are_not_taken_for_the_old_ones(bare, tiny_model):
    """Embeddings, predictions and pictures of other tiles are refused, whatever their names."""
    hd.pp.tissue(bare)
    hd.pp.tile(bare, 100, tile_um=400)
    known = changed(tiny_model, spot_diameter_um=100.0)
    with pytest.warns(HisDiffWarning, match=r"stand for spots of 400 um.*trained on spots of 100 um.*hd\.pp\.tile"):
        hd.tl.predict(bare, known, spacing_um=100, **QUICK)
    hd.pp.tile(bare, 100, model=known, overwrite=True)
    with pytest.raises(HisDiffError, match=r"side of the tiles: 362 px in the store, 224 px.*overwrite=True"):
        hd.tl.predict(bare, known, spacing_um=100, overwrite=True, **QUICK)
    hd.pp.embed(bare, "morphology", shapes_key="tiles_100um", overwrite=True)
    hd.tl.predict(bare, known, spacing_um=100, overwrite=True, **QUICK)
    hd.pp.tile(bare, 100, model=known, grid="hexagonal", overwrite=True)
    for draw in (hd.tl.rasterize, lambda s: hd.pl.expression(s, known.genes[0])):
        with pytest.raises(HisDiffError, match=r"made of other tiles \(grid: square there, hexagonal now"):
            draw(bare)


def test_a_model_that_does_not_know_its_spots_says_so(bare, tiny_model):
    silent = changed(tiny_model, spot_pitch_um=None, spot_diameter_um=None)
    with pytest.warns(HisDiffWarning, match=r"does not say what its training spots were like.*from_published"):
        hd.tl.predict(bare, silent, spacing_um=200, **QUICK)


def test_spots_that_can_be_read_again_are_predicted(open_store, tiny_model):
    """A prediction that lacks spots is not taken as done once the embedding has them."""
    sdata = open_store("S3")
    whole = sdata["spots_morphology"]
    part = whole[3:].copy()
    part.uns["hisdiff_sd"] = {**whole.uns["hisdiff_sd"], "failed_tiles": 3}
    sdata.tables["spots_morphology"] = part
    hd.tl.predict(sdata, tiny_model, **QUICK)
    assert sdata["hisdiff"].n_obs == whole.n_obs - 3
    sdata.tables["spots_morphology"] = whole
    hd.tl.predict(sdata, tiny_model, **QUICK)
    assert sdata["hisdiff"].n_obs == whole.n_obs


def test_finishing_one_map_keeps_what_is_done_of_another(bare_store, tiny_model, monkeypatch):
    """Names that begin alike share nothing."""
    monkeypatch.setattr("hisdiff_sd.tl._prediction_run._BLOCK", 10)
    sdata = spatialdata.read_zarr(bare_store)
    sample, calls = _sample._sample_batch, []

    def failing(*args):
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return sample(*args)

    with monkeypatch.context() as patched:
        patched.setattr(_sample, "_sample_batch", failing)
        with pytest.raises(KeyboardInterrupt):
            hd.tl.predict(sdata, tiny_model, key_added="m-fine", **QUICK)
    hd.tl.predict(sdata, tiny_model, key_added="m", **QUICK)
    calls.clear()
    with monkeypatch.context() as patched:
        patched.setattr(_sample, "_sample_batch", lambda *args: calls.append(args) or sample(*args))
        hd.tl.predict(sdata, tiny_model, key_added="m-fine", **QUICK)
    assert len(calls) == -(-sdata["m"].n_obs // 10) - 2
