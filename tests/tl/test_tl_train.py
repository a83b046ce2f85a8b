"""Training: what is learned, of what, and for how long."""

from __future__ import annotations

import logging
import random
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import spatialdata
import torch

import hisdiff_sd as hd
from hisdiff_sd._errors import HisDiffWarning
from hisdiff_sd.tl._folds import best_length

ATTRS = "hisdiff_sd"


@pytest.fixture(scope="module")
def trained(stores, panel, tmp_path_factory) -> Path:
    """The folder of a model that was trained for long enough to have learned something."""
    folder = tmp_path_factory.mktemp("trained") / "model"
    hd.tl.train([stores["S1"], stores["S2"]], genes=panel, encoder="morphology", preset="small", epochs=120, out=folder)
    return folder


def test_the_loss_falls(trained):
    log = pd.read_csv(trained / "log.csv")
    assert list(log["epoch"]) == list(range(120))
    loss = log["train_loss"]
    assert loss.iloc[-10:].mean() < 0.3 * loss.iloc[0]
    assert loss.iloc[-10:].mean() < loss.iloc[20:30].mean() < loss.iloc[:3].mean()


def test_a_trained_model_beats_the_training_mean_on_another_patient(trained, open_store):
    sdata, model = open_store("S3"), hd.HisDiff.load(trained)
    hd.tl.predict(sdata, model, n_samples=16, steps=20)
    table = hd.tl.evaluate(sdata, model).set_index(["method", "samples"])
    assert table.attrs["protocol"] == "held-out slide and patient"
    assert table.loc[("hisdiff", 16), "mse"] < table.loc[("mean", 1), "mse"]
    assert table.loc[("hisdiff", 16), "pcc_all"] > 0.5
    # one sample varies as the measurement does, which no mean does
    assert table.loc[("hisdiff", 1), "log_var_ratio"] < 0.5 < table.loc[("hisdiff", 16), "log_var_ratio"]


def test_the_folder_is_a_model_with_its_log(trained, panel):
    assert {p.name for p in trained.iterdir()} == {
        "README.md",
        "config.json",
        "model.safetensors",
        "log.csv",
        "loss.png",
    }
    assert not [p.name for p in trained.parent.iterdir() if "training" in p.name]
    model = hd.HisDiff.load(trained)
    config, (rows,) = model.config, [model.config.training]
    assert model.genes == panel
    assert (config.target, config.encoder, config.tile) == ("log2", "morphology", "hisdiff")
    assert config.encoder_hash == hd.encoders.load("morphology").fingerprint
    assert (config.species, config.spot_pitch_um) == ("Homo sapiens", 200.0)
    assert (rows["slides"], rows["patients"], rows["spots"]) == (["S1", "S2"], ["A"], 82)
    assert (rows["epochs"], rows["preset"], rows["seed"]) == (120, "small", 0)
    assert model.baselines is not None
    assert set(config.licences) == {"encoder", "data"}


def test_training_is_repeatable_and_takes_paths_and_objects(train, stores, open_store):
    by_path = train([stores["S1"], str(stores["S2"])], epochs=2)
    by_object = train([open_store("S1"), stores["S2"]], epochs=2)
    assert by_path.fingerprint == by_object.fingerprint
    assert train([stores["S1"], stores["S2"]], epochs=2, seed=1).fingerprint != by_path.fingerprint


def test_training_in_bf16_is_near_and_its_weights_are_float32(train, stores, monkeypatch):
    exact = dict(train([stores["S1"]]).network.named_parameters())
    monkeypatch.setenv("HISDIFF_SD_PRECISION", "bf16")  # as it is by itself where the device computes in it
    rough = dict(train([stores["S1"]]).network.named_parameters())
    assert {w.dtype for w in rough.values()} == {torch.float32}
    assert any(not torch.equal(rough[name], w) for name, w in exact.items())
    # an epoch of two steps moves a weight by 4e-3 at most
    assert max((rough[name] - w).abs().max() for name, w in exact.items()) < 0.01


def test_counts_of_a_slide_that_is_not_trained_on_have_no_influence(train, stores, tmp_path):
    for name in ("S1", "S2", "S3"):
        shutil.copytree(stores[name], tmp_path / f"{name}.zarr")
    slides = [spatialdata.read_zarr(tmp_path / f"{name}.zarr") for name in ("S1", "S2", "S3")]
    before = train(slides[:2], epochs=2)
    slides[2]["table"].X = slides[2]["table"].X * 100
    hd.tl.predict(slides[2], before, n_samples=1, steps=1)
    hd.tl.evaluate(slides[2], before)
    assert train(slides[:2], epochs=2).fingerprint == before.fingerprint
    slides[1]["table"].X = slides[1]["table"].X * 100
    assert train(slides[:2], epochs=2).fingerprint != before.fingerprint


def test_random_numbers_of_the_caller_are_left_alone(train, stores):
    def states() -> list:
        return [torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()]  # noqa: NPY002

    torch.manual_seed(4)
    before = states()
    first = train([stores["S1"]])
    assert states() == before
    torch.manual_seed(5)
    assert train([stores["S1"]]).fingerprint == first.fingerprint


def test_the_target_is_learned_on_its_scale(train, stores, open_store):
    model = train([stores["S1"]], target="cp10k")
    assert model.config.target == "cp10k"
    counts = open_store("S1")["table"].to_df()
    expected = np.log1p(counts.div(counts.sum(axis=1), axis=0)[model.genes] * 1e4).mean()
    np.testing.assert_allclose(model.baselines.mean, expected, rtol=1e-5)
    np.testing.assert_allclose(model.scalers.target_shift, expected, rtol=1e-5)


def test_averaged_weights_differ_from_the_last_ones(train, stores, small_preset, trained):
    small_preset(ema=0.9)
    averaged = train([stores["S1"]], epochs=4)
    small_preset(ema=0.0)
    last = train([stores["S1"]], epochs=4)
    pairs = list(zip(averaged.network.parameters(), last.network.parameters(), strict=False))
    assert all(torch.isfinite(p).all() for pair in pairs for p in pair)
    assert max(float((a - b).abs().max()) for a, b in pairs) > 1e-4


def test_genes_are_chosen_on_the_training_slides(stores):
    model = hd.tl.train([stores["S1"], stores["S2"]], encoder="morphology", preset="small", epochs=1)
    assert model.genes == hd.pp.select_genes([stores["S1"], stores["S2"]])
    assert model.genes != hd.pp.select_genes([stores["S1"], stores["S2"], stores["S3"]])


def test_missing_embeddings_are_computed_with_the_asked_tiles(train, open_store):
    sdata = open_store("S1")
    del sdata.tables["spots_morphology"]
    assert train([sdata], tile_um=120).config.tile == "120um"
    assert sdata["spots_morphology"].uns[ATTRS]["tile"] == "120um"


def test_a_slide_of_unknown_species_goes_with_the_others(train, stores, open_store):
    sdata = open_store("S2")
    sdata.attrs[ATTRS] = sdata.attrs[ATTRS] | {"species": ""}
    assert train([stores["S1"], sdata]).config.species == "Homo sapiens"


def test_slides_that_are_embedded_need_no_weights(train, open_store):
    slides = [open_store("S1"), open_store("S2")]
    for sdata in slides:
        table = sdata["spots_morphology"].copy()
        table.uns["hisdiff_sd"] = {**table.uns["hisdiff_sd"], "encoder": "uni", "encoder_hash": "c3"}
        sdata["spots_uni"] = table
    model = train(slides, encoder="uni")
    assert (model.config.encoder, model.config.encoder_hash) == ("uni", "c3")
    assert model.config.licences["encoder"] == "CC-BY-NC-ND-4.0"


def test_a_gene_without_a_count_is_trained_with_a_warning(train, open_store):
    sdata = open_store("S1")
    values = sdata["table"].to_df()
    values["EPCAM"] = 0
    sdata["table"].X = type(sdata["table"].X)(values.to_numpy())
    with pytest.warns(HisDiffWarning, match="no count of EPCAM on the training slides"):
        model = train([sdata])
    assert all(torch.isfinite(p).all() for p in model.network.parameters())
    assert np.isfinite(model.scalers.target_scale).all()


def test_the_length_is_chosen_by_leaving_slides_out(train, stores, small_preset, tmp_path):
    small_preset(epochs=8)
    model = train([stores["S1"], stores["S2"]], epochs=None, out=tmp_path / "model")
    log = pd.read_csv(tmp_path / "model" / "log.csv", keep_default_na=False)
    assert sorted(set(log["held_out"])) == ["", "S1", "S2"]
    chosen = model.config.training["epochs"]
    folds = [
        fold.assign(val_loss=pd.to_numeric(fold["val_loss"]), epoch=fold["epoch"].astype(int))
        for name, fold in log.groupby("held_out")
        if name
    ]
    assert chosen == best_length(folds)
    assert (log["held_out"] == "").sum() == chosen
    assert model.config.training["slides"] == ["S1", "S2"]


def test_one_slide_alone_is_trained_for_the_presets_length_and_that_is_said(train, stores, small_preset, caplog):
    small_preset(epochs=3)
    with caplog.at_level(logging.INFO, logger="hisdiff_sd"):
        model = train([stores["S1"]], epochs=None)
    assert model.config.training["epochs"] == 3
    assert "one training slide: the training length cannot be chosen by leaving slides out; 3 epochs" in caplog.text
    assert "training on S1 (4" in caplog.text
    assert "training, all slides: 3 epochs" in caplog.text


def test_off_a_terminal_it_is_said_how_far_a_long_training_is(train, stores, small_preset, caplog, monkeypatch):
    small_preset(epochs=3)
    monkeypatch.setattr("hisdiff_sd._progress._EVERY", 0.0)
    with caplog.at_level(logging.INFO, logger="hisdiff_sd"):
        train([stores["S1"]], epochs=None)
    lines = [m for m in caplog.messages if m.startswith("training, all slides: ")]
    assert lines[2] == "training, all slides: 2 of 3, about 1 min left"


def a_curve(values: list[float], every: int = 1) -> pd.DataFrame:
    """A log in which a slide is judged after each `every` epochs."""
    losses = [v for value in values for v in [np.nan] * (every - 1) + [value]]
    return pd.DataFrame({"epoch": np.arange(len(losses)), "val_loss": losses})


@pytest.mark.parametrize("every", [1, 5])
def test_the_best_length_is_where_the_mean_curve_is_lowest(every):
    down_and_up = [abs(i - 12) / 10 + 0.5 for i in range(30)]
    assert best_length([a_curve(down_and_up, every)]) == 13 * every
    shifted = [abs(i - 16) / 10 + 0.5 for i in range(30)]
    assert 13 * every <= best_length([a_curve(down_and_up, every), a_curve(shifted, every)]) <= 17 * every


def test_the_best_length_is_not_fooled_by_one_lucky_epoch():
    values = [abs(i - 20) / 10 + 1 for i in range(40)]
    values[3] -= 2.2  # the lowest by itself, but its neighbours are high
    assert values[3] == min(values)
    assert best_length([a_curve(values)]) == pytest.approx(21, abs=1)


def test_a_level_of_a_slide_does_not_move_the_best_length():
    one = [abs(i - 12) / 10 for i in range(30)]
    two = [abs(i - 14) / 10 for i in range(30)]
    assert best_length([a_curve(one), a_curve(two)]) == best_length([a_curve([v + 7 for v in one]), a_curve(two)])


def test_a_run_that_ended_early_ends_the_comparison():
    short = [abs(i - 8) / 10 + 5.0 for i in range(14)]  # a hard slide: without it the mean would fall at once
    long = [abs(i - 10) / 10 for i in range(30)]
    assert best_length([a_curve(short), a_curve(long)]) <= 14
