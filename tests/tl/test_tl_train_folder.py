"""Training: what is refused, what is left in the folder, and that an interrupted training goes on."""

from __future__ import annotations

import pandas as pd
import pytest

import hisdiff_sd as hd
from hisdiff_sd._errors import HisDiffError

ATTRS = "hisdiff_sd"


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


def test_checkpoints_of_an_abandoned_training_are_removed_by_the_next(train, stores, tmp_path):
    abandoned = tmp_path / ".model.training-0123456789abcdef"
    other = tmp_path / ".model2.training-0123456789abcdef"
    abandoned.mkdir()
    other.mkdir()
    train([stores["S1"]], out=tmp_path / "model")
    assert not abandoned.exists()
    assert other.exists()


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


def test_slides_that_were_left_out_already_are_not_left_out_again(train, stores, small_preset, tmp_path, steps):
    small_preset(epochs=12)
    slides, options = [stores["S1"], stores["S2"]], {"epochs": None, "out": tmp_path / "model"}
    steps.stop_at = 12 + 12  # one step an epoch while one slide of 40 spots is left
    interrupted(train, slides, **options)
    steps.taken, steps.stop_at = 0, None
    model = train(slides, **options)
    last = 2 * model.config.training["epochs"]
    assert steps.taken <= last + 3  # from the checkpoint of the second slide on
    log = pd.read_csv(tmp_path / "model" / "log.csv", keep_default_na=False)
    assert log.groupby("held_out")["epoch"].count().to_dict() == {"": last // 2, "S1": 12, "S2": 12}
