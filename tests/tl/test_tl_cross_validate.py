"""Leaving slides out: nothing of them is seen, nothing is done twice, and known predictions get known scores."""

from __future__ import annotations

import dataclasses
import json
import shutil

import numpy as np
import pandas as pd
import pytest

import hisdiff_sd as hd
from hisdiff_sd._baselines import fit_baselines
from hisdiff_sd._errors import HisDiffError, HisDiffWarning
from hisdiff_sd.tl import _cv_scores, _presets
from hisdiff_sd.tl._cv_scores import METRICS

ATTRS = "hisdiff_sd"
NAMES = ("S1", "S2", "S3")
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


@pytest.fixture(scope="module")
def truth(stores, panel) -> dict[str, np.ndarray]:
    """Measured log2(count + 1) of the panel by slide, in the order of the spots."""
    out = {}
    for name, path in stores.items():
        sdata = hd.io.open(path)
        counts = sdata["table"][:, panel].to_df().loc[sdata["spots"].index]
        out[name] = np.log2(counts.to_numpy(np.float64) + 1)
    return out


@pytest.fixture(scope="module")
def result(stores, panel, truth, tmp_path_factory) -> hd.tl.CrossValidation:
    """Rows whose scores are known, beside some that learn. Read only."""

    def oracle(slides, measured):
        return lambda slide: truth[slide.name]

    def noisy(slides, measured):
        def predict(slide):
            noise = np.random.default_rng(slide.n).normal(size=(20, slide.n, len(panel)))
            return (truth[slide.name] + noise).clip(0)

        return predict

    return hd.tl.cross_validate(
        list(stores.values()),
        genes=panel,
        encoder="morphology",
        rows=["mean", "ridge", "better_ridge", "dressed_ridge", "shuffled:dressed_ridge", oracle, noisy],
        n_samples=20,
        out=tmp_path_factory.mktemp("cv") / "out",
    )


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


# --- scores


def test_the_truth_scores_one_and_the_mean_nothing(result):
    table = result.scores().set_index(["row", "slide"])
    assert len(table) == 7 * 3
    for name in NAMES:
        best = table.loc[("oracle", name)]
        assert [best["pcc10"], best["pcc_all"], best["moran_single"]] == pytest.approx([1, 1, 1])
        assert [best["mse"], best["crps"], best["rvd_single"]] == pytest.approx([0, 0, 0], abs=1e-5)
        assert np.isnan(best["coverage90"])
        assert table.loc[("mean", name), ["pcc10", "pcc_all"]].tolist() == [0, 0]
        assert table.loc[("mean", name), "rvd_single"] == pytest.approx(1)
    assert (table.loc["noisy", "coverage90"] > 0.9).all()
    assert set(table.loc["dressed_ridge", "samples"]) == {20}
    assert (table[["train_seconds", "ms_per_sample"]] >= 0).all(None)
    assert list(result.scores().columns[-len(METRICS) - 2 :]) == [*METRICS, "train_seconds", "ms_per_sample"]


def test_every_slide_says_how_independent_it_is(result):
    table = result.scores().drop_duplicates("slide").set_index("slide")
    assert table["split"].tolist() == ["held-out slide, within patient"] * 2 + ["held-out slide and patient"]
    assert table["patient"].tolist() == ["A", "A", "B"]


def test_rows_learn_from_the_other_slides_alone(result, stores, panel, truth):
    gathered = hd.tl._gather.gather(
        list(stores.values())[:2], panel, "morphology", "log2", None, "black", None, "cpu", "table"
    )
    expected = fit_baselines(gathered.inputs, gathered.truth)
    (mean,) = [p for p in result.predictions("mean") if p.slide == "S3"]
    np.testing.assert_allclose(mean.samples[0], np.tile(expected.mean, (len(mean.true), 1)), rtol=1e-5)
    np.testing.assert_allclose(mean.true, truth["S3"])
    (ridge,) = [p for p in result.predictions("better_ridge") if p.slide == "S3"]
    slide = hd.tl._gather.gather(
        [stores["S3"]], panel, "morphology", "log2", None, "black", None, "cpu", "table"
    ).inputs[0]
    np.testing.assert_allclose(ridge.samples[0], expected.predict("ridge", slide), rtol=1e-4, atol=1e-5)


def test_stored_predictions_are_scored_again_without_the_rows(result):
    again = hd.tl.CrossValidation.load(result.path)
    pd.testing.assert_frame_equal(again.scores(), result.scores())
    assert again.rows == result.rows

    def mse(samples, true):
        return ((samples.mean(0, dtype=np.float64) - true) ** 2).mean()

    table = again.rescore(mse)
    np.testing.assert_allclose(table["mse"], result.scores()["mse"])
    assert list(table.columns) == ["fold", "slide", "row", "mse"]
    both = again.rescore(lambda samples, true: hd.metrics.error_split(samples.mean(0, dtype=np.float64), true))
    np.testing.assert_allclose(
        both[["offset", "scale", "correlation"]].sum(axis=1), table["mse"], rtol=1e-6, atol=1e-12
    )


def test_a_row_differs_from_itself_by_nothing_and_from_the_truth_by_its_error(result):
    every = (*hd.tl._cross_validation._QUICK, "rvd_single", "gene_corr_single", "pcc10")
    same = result.compare("dressed_ridge", "dressed_ridge", every, n_boot=30).set_index("metric")
    assert (same.drop("rvd_single").fillna(0) == 0).all(None)
    assert (same.loc["rvd_single"] == 0).all()
    table = result.compare("mean", "oracle", n_boot=200).set_index("metric")
    of_mean = result.scores().query("row == 'mean'")
    assert table.loc["mse", "difference"] == pytest.approx(of_mean["mse"].mean(), abs=1e-4)
    assert table.loc["mse", "low"] > 0.5 * table.loc["mse", "difference"] > 0
    assert table.loc["mse", "low"] < table.loc["mse", "difference"] < table.loc["mse", "high"]
    assert table.loc["pcc_all", "high"] <= -0.99
    assert "3 slides cannot tell" in table.attrs["unit"]
    pd.testing.assert_frame_equal(table.reset_index(), result.compare("mean", "oracle", n_boot=200))


def test_intervals_take_the_scores_of_spots_that_are_known(result, monkeypatch):
    again = hd.tl.CrossValidation.load(result.path)
    expected = again.scores().groupby("row")["variogram"].mean()
    monkeypatch.setitem(_cv_scores.PER_SPOT, "variogram", lambda judged: 1 / 0)
    found = again.summary(["variogram"], n_boot=5).dropna(subset="low").set_index("row")["value"]
    np.testing.assert_allclose(found, expected[found.index])
    again.compare("mean", "oracle", ["variogram"], n_boot=5)


def test_pairing_makes_intervals_narrower(result):
    table = result.compare("noisy", "oracle", ["mae"], n_boot=300)
    summary = result.summary(["mae"], n_boot=300).set_index(["row", "metric"])
    assert table["low"][0] > 0
    of_mean = summary.loc[("mean", "mae")]
    assert of_mean["low"] < of_mean["value"] < of_mean["high"]
    assert of_mean["interval"] == "spots"


def test_shuffled_conditions_make_every_score_worse(result):
    table = result.scores().groupby("row")[["pcc_all", "mse", "crps", "energy", "variogram"]].mean()
    plain, shuffled = table.loc["dressed_ridge"], table.loc["shuffled:dressed_ridge"]
    assert shuffled["pcc_all"] < 0.3 * plain["pcc_all"]
    assert (shuffled.drop("pcc_all") > 1.05 * plain.drop("pcc_all")).all()


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda cv: cv.compare("rigde", "mean"), "no row 'rigde'; .*Did you mean 'ridge'"),
        (lambda cv: cv.compare("ridge", "mean", ["moran_single"]), "score of a whole slide"),
        (lambda cv: cv.compare("ridge", "mean", ["mes"]), "no metric 'mes'"),
        (lambda cv: cv.summary(["mes"]), "no metric 'mes'"),
        (lambda cv: list(cv.predictions("rigde")), "no row 'rigde'"),
        (lambda cv: hd.tl.CrossValidation.load(cv.path / "nowhere"), "cross_validation.json is missing"),
    ],
)
def test_what_is_not_there_is_named(result, ask, message):
    with pytest.raises(HisDiffError, match=message):
        ask(result)


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


def test_the_manifest_says_what_predictions_are_made_of(result, panel):
    design = json.loads((result.path / "cross_validation.json").read_text())
    assert design["version"] == hd.__version__
    record = json.loads((result.path / "S3" / "row-ridge.json").read_text())
    assert (record["test"], record["train"], record["genes"]) == (["S3"], ["S1", "S2"], panel)
    assert record["version"] == hd.__version__
    assert {"settings", "seed", "samples", "train_seconds", "ms_per_sample"} <= set(record)
    assert "dressed_ridge" in repr(result)


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


# --- the published protocol


def test_the_published_protocol_by_hand(stores, tmp_path):
    from sklearn.decomposition import PCA
    from sklearn.linear_model import Ridge
    from sklearn.preprocessing import StandardScaler

    slides = []
    for name in NAMES:
        shutil.copytree(stores[name], tmp_path / name)
        sdata = hd.io.open(tmp_path / name)
        hd.pp.embed(sdata, "morphology", tile_um=112, overwrite=True)
        slides.append(sdata)
    table = hd.tl.hest_benchmark(slides, encoder="morphology", n_genes=15)
    genes = table.attrs["genes"]
    assert len(genes) == 15
    for sdata in slides:
        assert ((sdata["table"][:, genes].X > 0).mean(0) >= 0.1).all()
    assert table["test"].tolist() == ["S1, S2", "S3"]
    x = [s["spots_morphology"].to_df().loc[s["spots"].index].to_numpy(np.float64) for s in slides]
    y = [np.log1p(s["table"][:, genes].to_df().loc[s["spots"].index].to_numpy(np.float64)) for s in slides]
    train, scaler = np.concatenate(x[:2]), StandardScaler()
    space = PCA(min(256, *train.shape), random_state=0)
    placed = space.fit_transform(scaler.fit_transform(train))
    ridge = Ridge(alpha=100 / (placed.shape[1] * 15), fit_intercept=False, solver="lsqr", max_iter=1000, random_state=0)
    predicted = ridge.fit(placed, np.concatenate(y[:2])).predict(space.transform(scaler.transform(x[2])))
    expected = np.mean([np.corrcoef(p, t)[0, 1] for p, t in zip(predicted.T, y[2].T, strict=True)])
    assert table["pearson"][1] == pytest.approx(expected, abs=3e-3)  # its solver stops early: rounding is seen
    assert table.attrs["pearson"] == pytest.approx(table["pearson"].mean())
    with pytest.raises(HisDiffError, match="n_genes=5000 are wanted"):
        hd.tl.hest_benchmark(slides, encoder="morphology", n_genes=5000)
