"""Leaving slides out: known predictions get known scores, and say what they are made of."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pandas as pd
import pytest

import hisdiff_sd as hd
from hisdiff_sd._baselines import fit_baselines
from hisdiff_sd._errors import HisDiffError
from hisdiff_sd.tl import _cv_scores
from hisdiff_sd.tl._cv_scores import METRICS

NAMES = ("S1", "S2", "S3")
pytestmark = pytest.mark.filterwarnings("ignore::hisdiff_sd._errors.HisDiffWarning")


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


def test_the_manifest_says_what_predictions_are_made_of(result, panel):
    design = json.loads((result.path / "cross_validation.json").read_text())
    assert design["version"] == hd.__version__
    record = json.loads((result.path / "S3" / "row-ridge.json").read_text())
    assert (record["test"], record["train"], record["genes"]) == (["S3"], ["S1", "S2"], panel)
    assert record["version"] == hd.__version__
    assert {"settings", "seed", "samples", "train_seconds", "ms_per_sample"} <= set(record)
    assert "dressed_ridge" in repr(result)


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
