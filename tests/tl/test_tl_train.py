"""Training: what is learned, what is refused, and that an interrupted training goes on."""

from __future__ import annotations

import dataclasses
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
from hisdiff_sd._errors import HisDiffError, HisDiffWarning
from hisdiff_sd.tl import _presets
from hisdiff_sd.tl._folds import best_length

ATTRS = "hisdiff_sd"


@pytest.fixture
def train(panel):
    """Train on the twelve genes for one epoch, unless it is asked otherwise."""

    def run(slides, **options) -> hd.HisDiff:
        return hd.tl.train(
            slides, **{"genes": panel, "encoder": "morphology", "preset": "small", "epochs": 1, **options}
        )

    return run


@pytest.fixture
def preset(monkeypatch):
    """Change the small preset."""

    def change(**values) -> None:
        monkeypatch.setitem(_presets.PRESETS, "small", dataclasses.replace(_presets.PRESETS["small"], **values))

    return change


@pytest.fixture
def steps(monkeypatch):
    """Count the steps of training; at step `stop_at`, if that is set, the user interrupts."""

    class Steps:
        taken = 0
        stop_at: int | None = None

    real = hd.nn.GaussianDiffusion.training_loss

    def counted(*args):
        Steps.taken += 1
        if Steps.taken == Steps.stop_at:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(hd.nn.GaussianDiffusion, "training_loss", counted)
    return Steps


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


def test_averaged_weights_differ_from_the_last_ones(train, stores, preset, trained):
    preset(ema=0.9)
    averaged = train([stores["S1"]], epochs=4)
    preset(ema=0.0)
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


def test_embeddings_of_other_tiles_are_refused(train, open_store):
    with pytest.raises(HisDiffError, match="tile: 'hisdiff' there, '120um' asked for"):
        train([open_store("S1")], tile_um=120)


def test_genes_that_a_slide_lacks_are_named(train, stores, open_store, panel):
    sdata = open_store("S2")
    sdata["table"] = sdata["table"][:, [g for g in sdata["table"].var_names if g not in panel[2:4]]].copy()
    with pytest.raises(HisDiffError, match=rf"missing from slides: S2 lacks {panel[2]}, {panel[3]} \(2\)"):
        train([stores["S1"], sdata])


def test_a_slide_is_not_trained_on_twice(train, stores, open_store):
    with pytest.raises(HisDiffError, match="slides are given more than once: S1"):
        train([stores["S1"], stores["S2"], open_store("S1")])


def test_slides_without_counts_are_refused(train, stores, open_store):
    sdata = open_store("S2")
    del sdata.tables["table"]
    with pytest.raises(HisDiffError, match=r"slide 'S2' has no table 'table' of counts \(tables here: spots_morph"):
        train([stores["S1"], sdata])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"species": "Mus musculus"}, r"differ in species \(S1: Homo sapiens, S2: Mus musculus\)"),
        ({"qc": {"gene_id_type": "ensembl"}}, r"differ in gene id type \(S1: symbol, S2: ensembl\)"),
    ],
)
def test_slides_of_different_kinds_are_refused(train, stores, open_store, change, message):
    sdata = open_store("S2")
    sdata.attrs[ATTRS] = sdata.attrs[ATTRS] | change
    with pytest.raises(HisDiffError, match=message):
        train([stores["S1"], sdata])


def test_a_slide_of_unknown_species_goes_with_the_others(train, stores, open_store):
    sdata = open_store("S2")
    sdata.attrs[ATTRS] = sdata.attrs[ATTRS] | {"species": ""}
    assert train([stores["S1"], sdata]).config.species == "Homo sapiens"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"preset": "large"}, "no preset 'large'; there are: 'flow', 'published', 'small'"),
        ({"target": "counts"}, "no target 'counts'; there are: 'log2', 'cp10k'"),
        ({"encoder": "morphologie"}, "no encoder 'morphologie'; .* Did you mean 'morphology'?"),
        ({"epochs": 0}, "epochs=0 is no number of epochs"),
        ({"epochs": 1.5}, "epochs=1.5 is no number of epochs"),
        ({"device": "tpu9"}, "no device 'tpu9'"),
        ({"genes": ["EPCAM", "NOSUCH"]}, r"S1 lacks NOSUCH \(1\)"),
        ({"table_key": "counts"}, "slide 'S1' has no table 'counts' of counts"),
    ],
)
def test_options_that_make_no_sense_are_refused_and_nothing_is_written(train, stores, tmp_path, options, message):
    with pytest.raises(HisDiffError, match=message):
        train([stores["S1"]], out=tmp_path / "model", **options)
    assert list(tmp_path.iterdir()) == []


def test_no_slides_are_refused(train):
    with pytest.raises(HisDiffError, match="no slides to train on"):
        train([])


@pytest.mark.parametrize("how", ["str", "path", "object"])
def test_one_slide_that_is_no_list_is_refused(train, stores, open_store, how):
    slide = {"str": str(stores["S1"]), "path": stores["S1"], "object": open_store("S1")}[how]
    with pytest.raises(HisDiffError, match="slides= is one slide; give a list"):
        train(slide)


def test_genes_given_twice_are_named_before_training(train, stores, panel, steps):
    with pytest.raises(HisDiffError, match=f"genes are listed more than once: {panel[0]}"):
        train([stores["S1"]], genes=[*panel, panel[0]])
    assert steps.taken == 0


def test_a_folder_that_is_no_model_is_refused_before_training(train, stores, tmp_path, steps):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.tex").touch()
    with pytest.raises(HisDiffError, match="thesis holds no model"):
        train([stores["S1"]], out=tmp_path / "thesis", overwrite=True)
    assert steps.taken == 0
    assert [p.name for p in tmp_path.iterdir()] == ["thesis"]


def test_a_place_that_cannot_be_written_to_is_one_error(train, stores, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(HisDiffError, match="cannot write"):
        train([stores["S1"]], out=tmp_path / "file" / "model")


def test_slides_that_are_embedded_need_no_weights(train, open_store):
    slides = [open_store("S1"), open_store("S2")]
    for sdata in slides:
        table = sdata["spots_morphology"].copy()
        table.uns["hisdiff_sd"] = {**table.uns["hisdiff_sd"], "encoder": "uni", "encoder_hash": "c3"}
        sdata["spots_uni"] = table
    model = train(slides, encoder="uni")
    assert (model.config.encoder, model.config.encoder_hash) == ("uni", "c3")
    assert model.config.licences["encoder"] == "CC-BY-NC-ND-4.0"


def test_checkpoints_of_an_abandoned_training_are_removed_by_the_next(train, stores, tmp_path):
    abandoned = tmp_path / ".model.training-0123456789abcdef"
    other = tmp_path / ".model2.training-0123456789abcdef"
    abandoned.mkdir()
    other.mkdir()
    train([stores["S1"]], out=tmp_path / "model")
    assert not abandoned.exists()
    assert other.exists()


def test_a_gene_without_a_count_is_trained_with_a_warning(train, open_store):
    sdata = open_store("S1")
    values = sdata["table"].to_df()
    values["EPCAM"] = 0
    sdata["table"].X = type(sdata["table"].X)(values.to_numpy())
    with pytest.warns(HisDiffWarning, match="no count of EPCAM on the training slides"):
        model = train([sdata])
    assert all(torch.isfinite(p).all() for p in model.network.parameters())
    assert np.isfinite(model.scalers.target_scale).all()


def test_a_model_that_is_there_is_refused_before_anything_is_done(train, stores, tmp_path, steps):
    train([stores["S1"]], out=tmp_path / "model")
    before = hd.HisDiff.load(tmp_path / "model").fingerprint
    steps.taken = 0
    with pytest.raises(HisDiffError, match=r"model exists already; give overwrite=True to replace the model"):
        train([stores["S1"]], out=tmp_path / "model", seed=1)
    assert steps.taken == 0
    assert hd.HisDiff.load(tmp_path / "model").fingerprint == before
    train([stores["S1"]], out=tmp_path / "model", seed=1, overwrite=True)
    assert hd.HisDiff.load(tmp_path / "model").config.training["seed"] == 1


def test_an_interruption_is_passed_on(train, stores, steps):
    steps.stop_at = 2
    with pytest.raises(KeyboardInterrupt):
        train([stores["S1"]], epochs=3)


def interrupted(train, *args, **options) -> None:
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        train(*args, **options)


def test_an_interrupted_training_goes_on(train, stores, tmp_path, steps):
    slides, options = [stores["S1"], stores["S2"]], {"epochs": 30, "out": tmp_path / "model"}
    steps.stop_at = 45  # two steps an epoch
    interrupted(train, slides, **options)
    assert not (tmp_path / "model").exists()
    steps.taken, steps.stop_at = 0, None
    model = train(slides, **options)
    assert 15 <= steps.taken <= 40  # of 60
    assert model.fingerprint == hd.HisDiff.load(tmp_path / "model").fingerprint
    log = pd.read_csv(tmp_path / "model" / "log.csv")
    assert list(log["epoch"]) == list(range(30))
    assert log["train_loss"].notna().all()
    assert log["train_loss"].iloc[-3:].mean() < 0.6 * log["train_loss"].iloc[0]
    assert {p.name for p in tmp_path.iterdir()} <= {"model", ".model.hisdiff_sd"}


def test_a_training_of_few_long_epochs_goes_on_where_it_was(train, stores, tmp_path, steps, monkeypatch):
    options = {"epochs": 6, "out": tmp_path / "model"}
    monkeypatch.setattr("hisdiff_sd.tl._lightning._CHECKPOINT_SECONDS", 0.0)  # as if each took a minute
    steps.stop_at = 5  # one step an epoch
    interrupted(train, [stores["S1"]], **options)
    steps.taken, steps.stop_at = 0, None
    train([stores["S1"]], **options)
    assert steps.taken == 2
    assert list(pd.read_csv(tmp_path / "model" / "log.csv")["epoch"]) == list(range(6))


@pytest.mark.parametrize("change", [{"seed": 1}, {"target": "cp10k"}, {"epochs": 19}, {"genes": 11}])
def test_a_training_with_other_settings_starts_anew(train, stores, panel, tmp_path, steps, change):
    options = {"epochs": 20, "out": tmp_path / "model"}
    steps.stop_at = 15  # one step an epoch; the last checkpoint is of epoch 10
    interrupted(train, [stores["S1"]], **options)
    steps.taken, steps.stop_at = 0, None
    train([stores["S1"]], **{**options, **change, **({"genes": panel[:11]} if "genes" in change else {})})
    assert steps.taken == change.get("epochs", 20)


def test_what_failed_after_the_last_epoch_is_not_trained_again(train, stores, tmp_path, steps, monkeypatch):
    options = {"epochs": 10, "out": tmp_path / "model"}
    whole = train([stores["S1"]], epochs=10)
    with monkeypatch.context() as patch:
        patch.setattr("hisdiff_sd.tl._train.fit_baselines", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            train([stores["S1"]], **options)
    steps.taken = 0
    model = train([stores["S1"]], **options)
    assert steps.taken == 0
    assert model.fingerprint == whole.fingerprint


def test_the_length_is_chosen_by_leaving_slides_out(train, stores, preset, tmp_path):
    preset(epochs=8)
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


def test_slides_that_were_left_out_already_are_not_left_out_again(train, stores, preset, tmp_path, steps):
    preset(epochs=12)
    slides, options = [stores["S1"], stores["S2"]], {"epochs": None, "out": tmp_path / "model"}
    steps.stop_at = 12 + 12  # one step an epoch while one slide of 40 spots is left
    interrupted(train, slides, **options)
    steps.taken, steps.stop_at = 0, None
    model = train(slides, **options)
    last = 2 * model.config.training["epochs"]
    assert steps.taken <= last + 3  # from the checkpoint of the second slide on
    log = pd.read_csv(tmp_path / "model" / "log.csv", keep_default_na=False)
    assert log.groupby("held_out")["epoch"].count().to_dict() == {"": last // 2, "S1": 12, "S2": 12}


def test_one_slide_alone_is_trained_for_the_presets_length_and_that_is_said(train, stores, preset, caplog):
    preset(epochs=3)
    with caplog.at_level(logging.INFO, logger="hisdiff_sd"):
        model = train([stores["S1"]], epochs=None)
    assert model.config.training["epochs"] == 3
    assert "one training slide: the training length cannot be chosen by leaving slides out; 3 epochs" in caplog.text
    assert "training on S1 (4" in caplog.text
    assert "training, all slides: 3 epochs" in caplog.text


def test_off_a_terminal_it_is_said_how_far_a_long_training_is(train, stores, preset, caplog, monkeypatch):
    preset(epochs=3)
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
