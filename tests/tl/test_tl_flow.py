"""The default model: a flow over the residuals of a regression, trained, saved, sampled and calibrated."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

import hisdiff_sd as hd
from hisdiff_sd._data import measured
from hisdiff_sd._errors import HisDiffError
from hisdiff_sd._provenance import get_provenance
from hisdiff_sd.tl import _presets
from hisdiff_sd.tl._calibrate import fit_temperature
from hisdiff_sd.tl._draws import Draws
from hisdiff_sd.tl._model_inputs import model_inputs
from hisdiff_sd.tl._sample import sample_slide

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def flow(stores, panel) -> hd.HisDiff:
    """The default model of S1 and S2."""
    return hd.tl.train([stores["S1"], stores["S2"]], genes=panel, encoder="morphology")


@pytest.fixture(scope="module")
def test_slide(stores, open_store, flow):
    """Inputs and measurement of S3."""
    sdata = open_store("S3")
    slide = model_inputs(sdata, flow)
    return slide, measured(sdata["table"], slide.index, flow.genes, "log2", "S3").y


def samples_of(model, slide, n_samples=20, steps=10, seed=0, batch_size=None) -> np.ndarray:
    return sample_slide(model, slide, Draws.of("flow", n_samples, steps=steps, seed=seed, batch_size=batch_size), CPU)


def test_the_default_is_a_flow_and_says_so(flow):
    assert flow.process == "flow"
    assert flow.config.training["preset"] == "flow"
    assert "flow" in repr(flow)
    assert 0.7 <= flow.residual.temperature <= 1.4


def test_it_predicts_a_slide_it_has_not_seen(flow, test_slide):
    slide, y = test_slide
    samples = samples_of(flow, slide, 38)
    mean = samples.mean(0)
    ridge = flow.baselines.predict("ridge", slide)
    assert hd.metrics.pcc(mean, y).mean() > hd.metrics.pcc(ridge, y).mean() - 0.05
    assert ((mean - y) ** 2).mean() < 1.05 * ((ridge - y) ** 2).mean()
    # one sample varies as tissue does, which no regression does
    assert hd.metrics.log_var_ratio(samples[0], y) < hd.metrics.log_var_ratio(ridge, y)
    assert 0.8 < hd.metrics.coverage(samples, y) < 0.97


def test_it_sees_the_image(flow, test_slide):
    """With other spots' tissue the prediction is worse."""
    slide, y = test_slide
    order = np.random.default_rng(0).permutation(slide.n)
    other = dataclasses.replace(slide, embedding=slide.embedding[order])
    right, wrong = (samples_of(flow, s, 10).mean(0) for s in (slide, other))
    assert hd.metrics.pcc(right, y).mean() > hd.metrics.pcc(wrong, y).mean() + 0.2


@pytest.mark.parametrize("batch_size", [1, 7, 10_000])
def test_batches_and_the_number_of_samples_change_nothing(flow, test_slide, batch_size):
    slide, _ = test_slide
    reference = samples_of(flow, slide, 4, steps=3)
    np.testing.assert_allclose(samples_of(flow, slide, 2, steps=3, batch_size=batch_size), reference[:2], atol=1e-4)


def test_samples_come_in_antithetic_pairs_and_their_mean_is_nearly_that_of_many(flow, test_slide):
    slide, _ = test_slide
    many = samples_of(flow, slide, 256, steps=5)
    few = many[:16]
    independent = many[::2][:16]
    error_few, error_independent = (np.abs(s.mean(0) - many.mean(0)).mean() for s in (few, independent))
    assert error_few < 0.8 * error_independent


def test_a_saved_model_samples_the_same(flow, test_slide, tmp_path):
    flow.save(tmp_path / "m")
    again = hd.HisDiff.load(tmp_path / "m")
    assert again.fingerprint == flow.fingerprint
    assert again.residual.temperature == flow.residual.temperature
    slide, _ = test_slide
    np.testing.assert_array_equal(samples_of(again, slide, 2), samples_of(flow, slide, 2))


def test_predict_writes_what_made_it(flow, open_store):
    sdata = open_store("S3")
    hd.tl.predict(sdata, flow, n_samples=20)
    record = get_provenance(sdata["hisdiff"])
    assert (record["sampler"], record["steps"]) == ("flow", 10)
    assert {"std", "q05", "q50", "q95", "sample_0"} <= set(sdata["hisdiff"].layers)
    assert (sdata["hisdiff"].X >= 0).all()
    table = hd.tl.evaluate(sdata, flow)
    assert set(table["method"]) >= {"hisdiff", "ridge", "dressed_ridge"}


def test_a_map_is_predicted_too(flow, open_store):
    sdata = open_store("S3")
    hd.tl.predict(sdata, flow, spacing_um=400, n_samples=2, steps=2)
    assert np.isfinite(sdata["hisdiff_tiles_400um"].X).all()


def test_three_slides_judge_the_length_and_calibrate_on_left_out_slides(stores, panel, monkeypatch, tmp_path):
    monkeypatch.setitem(_presets.PRESETS, "flow", dataclasses.replace(_presets.PRESETS["flow"], epochs=6))
    import pandas as pd

    model = hd.tl.train(list(stores.values()), genes=panel, encoder="morphology", out=tmp_path / "m")
    log = pd.read_csv(tmp_path / "m" / "log.csv", keep_default_na=False)
    judged = log[log["held_out"] != ""]
    assert set(judged["held_out"]) == {"S1", "S2", "S3"}
    curve = pd.to_numeric(judged["val_loss"]).groupby(judged["epoch"]).mean()
    assert curve.notna().all()
    assert 1 <= model.config.training["epochs"] <= 6
    assert model.trust.genes.samples == 38


def test_one_slide_is_enough(stores, panel, test_slide):
    model = hd.tl.train([stores["S1"]], genes=panel, encoder="morphology", epochs=2)
    assert np.isfinite(samples_of(model, test_slide[0], 2, steps=2)).all()
    assert model.trust.genes is None


def test_an_interrupted_training_goes_on_to_the_same_model(stores, panel, tmp_path, monkeypatch):
    monkeypatch.setitem(_presets.PRESETS, "flow", dataclasses.replace(_presets.PRESETS["flow"], epochs=3))
    options = {"genes": panel, "encoder": "morphology", "out": tmp_path / "m"}
    slides = [stores["S1"], stores["S2"]]
    whole = hd.tl.train(slides, **options | {"out": None})
    with monkeypatch.context() as patch:
        patch.setattr("hisdiff_sd.tl._train.fit_baselines", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            hd.tl.train(slides, **options)
    assert not (tmp_path / "m").exists()
    assert hd.tl.train(slides, **options).fingerprint == whole.fingerprint


def test_a_gene_that_was_never_seen_is_predicted_as_zero(stores, panel, open_store, test_slide):
    slides = [open_store(n) for n in ("S1", "S2")]
    for sdata in slides:
        counts = sdata["table"].X.tolil()
        counts[:, sdata["table"].var_names.get_loc(panel[0])] = 0
        sdata["table"].X = counts.tocsr()
    with pytest.warns(hd._errors.HisDiffWarning, match=panel[0]):
        model = hd.tl.train(slides, genes=panel, encoder="morphology", epochs=2)
    drawn = samples_of(model, test_slide[0], 4, steps=2)
    assert np.isfinite(drawn).all()
    assert drawn[..., 0].max() < 0.5


def test_the_temperature_makes_intervals_hold_what_they_say():
    rng = np.random.default_rng(0)
    base, truth = np.full((300, 8), 10.0), 10 + 1.2 * rng.normal(size=(300, 8))
    assert fit_temperature(base, rng.normal(size=(38, 300, 8)), truth) == pytest.approx(1.2, abs=0.05)


def test_a_flow_without_its_regression_is_refused(flow):
    with pytest.raises(HisDiffError, match="a flow needs the regression"):
        hd.HisDiff(flow.network, flow.config, flow.scalers)
