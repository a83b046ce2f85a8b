"""Leaving slides out: nothing of them is seen, nothing is done twice, and nothing is written over."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest

import hisdiff_sd as hd
from hisdiff_sd._errors import HisDiffError, HisDiffWarning
from hisdiff_sd.tl import _presets

ATTRS = "hisdiff_sd"
pytestmark = pytest.mark.filterwarnings("ignore::hisdiff_sd._errors.HisDiffWarning")


@pytest.fixture
def validate(stores, panel):
    """Cross-validate the three slides on the twelve genes, unless it is asked otherwise."""

    def run(slides=None, **options) -> hd.tl.CrossValidation:
        given = list(stores.values()) if slides is None else slides
        return hd.tl.cross_validate(given, **{"genes": panel, "encoder": "morphology", "n_samples": 20, **options})

    return run


@pytest.fixture
def small(monkeypatch):
    """Make the network of the preset "small" smaller still."""
    tiny = dataclasses.replace(_presets.PRESETS["small"], width=16, depth=1, num_heads=2)
    monkeypatch.setitem(_presets.PRESETS, "small", tiny)


class Counted:
    """A row that counts how often it is fitted; the user interrupts fit number `stop_at_`."""

    name = "counted"

    def __init__(self, stop_at: int | None = None) -> None:
        self.fitted_: list[list[str]] = []
        self.stop_at_ = stop_at

    def fit(self, slides, truth, context):
        self.fitted_.append([s.name for s in slides])
        if len(self.fitted_) == self.stop_at_:
            raise KeyboardInterrupt
        mean = np.concatenate([m.y for m in truth]).mean(0)
        return hd.tl._row.Point(lambda slide: np.tile(mean, (slide.n, 1)))


# --- leaks


def test_nothing_of_the_test_slide_is_seen(stores, open_store, small):
    """Other counts of S3 change neither the panel nor what any row predicts for it."""
    rows = ["mean", "dressed_ridge", "random_spot", hd.tl.HisDiffRow("small", epochs=1, steps=2)]
    changed = open_store("S3")
    changed["table"].X = changed["table"].X[::-1] * 3
    found = []
    for slides in ([*list(stores.values())[:2], changed], list(stores.values())):
        cv = hd.tl.cross_validate(slides, by={"one": "S3"}, encoder="morphology", rows=rows, n_samples=2)
        assert cv.panel == "per fold"
        found.append(list(cv.predictions()))
    for a, b in zip(*found, strict=True):
        assert a.genes == b.genes == hd.pp.select_genes(list(stores.values())[:2])
        np.testing.assert_array_equal(a.samples, b.samples)
        assert np.abs(a.true - b.true).max() > 1


def test_a_slide_under_two_ids_is_refused_before_anything_is_fitted(validate, stores, open_store, tmp_path):
    copied = open_store("S1")
    copied.attrs[ATTRS] = copied.attrs[ATTRS] | {"slide": "S9", "patient": "Z"}
    copied["spots_morphology"].uns[ATTRS]["slide"] = "S9"
    row = Counted()
    with pytest.raises(HisDiffError, match="'S1' and 'S9' have the same counts at 4[0-9] of 4[0-9] spots"):
        validate([*stores.values(), copied], rows=[row], out=tmp_path / "out")
    copied["table"].X = copied["table"].X[::-1]
    values = copied["table"].X.copy()
    values.data = np.random.default_rng(0).poisson(5, len(values.data)).astype(values.dtype) + 1
    copied["table"].X = values
    with pytest.raises(HisDiffError, match="'S1' and 'S9' have the same tile embeddings"):
        validate([*stores.values(), copied], rows=[row], out=tmp_path / "out")
    with pytest.raises(HisDiffError, match="given more than once: S1"):
        validate([*stores.values(), stores["S1"]], rows=[row])
    assert row.fitted_ == []
    assert not (tmp_path / "out").exists()


def test_patients_are_left_out_as_a_whole(validate, stores, open_store):
    row = Counted()
    cv = validate(by="patient", rows=[row])
    assert row.fitted_ == [["S3"], ["S1", "S2"]]
    assert set(cv.scores()["split"]) == {"held-out slide and patient"}
    unknown = open_store("S3")
    unknown.attrs[ATTRS] = unknown.attrs[ATTRS] | {"patient": ""}
    with pytest.raises(HisDiffError, match="patient of these slides is unknown: S3"):
        validate([stores["S1"], unknown], by="patient", rows=[row])


@pytest.mark.filterwarnings("default::hisdiff_sd._errors.HisDiffWarning")
def test_a_panel_of_a_model_is_known_and_names_alone_are_warned_of(validate, model):
    with pytest.raises(HisDiffError, match="chosen on slides that are judged here: S1, S2"):
        validate(genes=model, rows=["mean"])
    cv = validate(genes=model, by={"new": "S3"}, rows=["mean"])
    assert next(cv.predictions()).genes == model.genes
    with pytest.warns(HisDiffWarning, match="where it was chosen cannot be known"):
        validate(by={"new": "S3"}, rows=["mean"])


def test_panels_differ_between_folds_and_lack_what_a_test_slide_does_not_measure(stores, open_store, caplog):
    chosen = hd.pp.select_genes([stores["S1"], stores["S2"]])
    lacking = open_store("S3")
    lacking["table"] = lacking["table"][:, [g for g in lacking["table"].var_names if g != chosen[0]]].copy()
    slides = [stores["S1"], stores["S2"], lacking]
    cv = hd.tl.cross_validate(slides, by={"one": "S3", "two": "S1"}, encoder="morphology", rows=["mean"])
    panels = {p.slide: p.genes for p in cv.predictions()}
    assert panels["S3"] == chosen[1:]
    assert panels["S1"] == hd.pp.select_genes([stores["S2"], lacking])
    assert f"1 chosen genes are not measured on the test slides and left out: {chosen[0]}" in caplog.text
    assert cv.scores().attrs["panel"] == "per fold"


# --- going on


def test_an_interrupted_run_goes_on_and_more_rows_are_added(validate, tmp_path, caplog):
    row = Counted(stop_at=3)
    with pytest.raises(KeyboardInterrupt):
        validate(rows=["mean", row], out=tmp_path / "out")
    partial = hd.tl.CrossValidation.load(tmp_path / "out")
    assert partial.rows == ["mean"]
    assert "counted lack predictions of some folds" in caplog.text
    again = Counted()
    cv = validate(rows=["mean", again], out=tmp_path / "out")
    assert again.fitted_ == [["S1", "S2"]]
    assert cv.rows == ["mean", "counted"]
    more = validate(rows=["ridge", again], out=tmp_path / "out")
    assert len(again.fitted_) == 1
    assert more.rows == ["mean", "counted", "ridge"]
    whole = validate(rows=["mean", Counted(), "ridge"])
    times = ["train_seconds", "ms_per_sample"]
    pd.testing.assert_frame_equal(more.scores().drop(columns=times), whole.scores().drop(columns=times))


def test_another_cross_validation_is_not_written_over(validate, stores, small, tmp_path):
    out = tmp_path / "out"
    validate(rows=[hd.tl.HisDiffRow("small", epochs=1, steps=2)], by={"one": "S3"}, out=out)
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*.npz")}
    for change, message in (
        ({"target": "cp10k"}, 'another cross-validation .target: "log2" there, "cp10k" asked for'),
        ({"seed": 1}, "seed: 0 there, 1 asked for"),
        ({"slides": list(stores.values())[1:]}, "another cross-validation .*slides:"),
        (
            {"rows": [hd.tl.HisDiffRow("small", epochs=2, steps=2)]},
            "row 'hisdiff:small' with other settings .epochs: 1 there",
        ),
    ):
        with pytest.raises(HisDiffError, match=message):
            validate(**{"rows": ["mean"], "by": {"one": "S3"}, "out": out, **change})
    assert {p: p.stat().st_mtime_ns for p in out.rglob("*.npz")} == before
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.tex").touch()
    with pytest.raises(HisDiffError, match="thesis holds no cross-validation, and is not empty"):
        validate(rows=["mean"], out=tmp_path / "thesis")


def test_without_a_folder_predictions_live_as_long_as_the_result(validate):
    cv = validate(by={"one": "S3"}, rows=["mean"])
    folder = cv.path
    assert folder.is_dir()
    del cv
    assert not folder.exists()


# --- models


def test_a_model_is_trained_as_by_train_and_once_for_its_shuffled_row(
    validate, stores, panel, small, tmp_path, monkeypatch
):
    real, trained = hd.tl._train._train, []
    monkeypatch.setattr(hd.tl._train, "_train", lambda *args: trained.append(args[0]) or real(*args))
    row = hd.tl.HisDiffRow("small", epochs=2, steps=3)
    options = {"by": {"one": "S3"}, "n_samples": 3, "out": tmp_path / "out"}
    cv = validate(rows=[row, hd.tl.Shuffled(row)], **options)
    assert len(trained) == 1
    model = hd.tl.train(list(stores.values())[:2], genes=panel, encoder="morphology", preset="small", epochs=2)
    assert [s.name for s in trained[0].inputs] == ["S1", "S2"]
    (saved,) = (tmp_path / "out" / "one" / "work").glob("*/model")
    assert hd.HisDiff.load(saved).fingerprint == model.fingerprint
    assert not list((tmp_path / "out").rglob("*.ckpt"))
    table = cv.scores().set_index("row")
    assert (table["train_seconds"] > 0).all()
    # a row that was lost is drawn again from the model that is there
    before = next(cv.predictions("shuffled:hisdiff:small")).samples
    (tmp_path / "out" / "one" / "row-shuffled%3Ahisdiff%3Asmall.json").unlink()
    trained.clear()
    again = validate(rows=[row, hd.tl.Shuffled(row)], **options)
    assert trained == []
    np.testing.assert_array_equal(next(again.predictions("shuffled:hisdiff:small")).samples, before)
    assert again.scores().set_index("row")["train_seconds"].iloc[1] > 0.5 * table["train_seconds"].iloc[0]
