"""Values worked out by hand, and what the metrics refuse."""

from __future__ import annotations

import numpy as np
import pytest

import hisdiff_sd as hd
from hisdiff_sd._errors import HisDiffError

METRICS = [hd.metrics.pcc, hd.metrics.mse, hd.metrics.mae, hd.metrics.rvd, hd.metrics.log_var_ratio]
METRICS += [hd.metrics.gene_corr_error, hd.metrics.scores]

# Four spots, three genes. Gene 0: r = 0.8 by hand (deviations -1.5 -.5 .5 1.5 against -1.5 .5 -.5 1.5: 4 / 5).
TRUE = np.array([[1.0, 5.0, 0.0], [2.0, 5.0, 4.0], [3.0, 5.0, 0.0], [4.0, 5.0, 4.0]])
PRED = np.array([[1.0, 1.0, 4.0], [3.0, 2.0, 0.0], [2.0, 3.0, 4.0], [4.0, 4.0, 0.0]])


def test_pcc_by_hand():
    np.testing.assert_allclose(hd.metrics.pcc(PRED, TRUE), [0.8, 0.0, -1.0], atol=1e-12)


def test_pcc_is_that_of_numpy():
    rng = np.random.default_rng(3)
    pred, true = rng.normal(size=(40, 6)), rng.normal(size=(40, 6))
    expected = [np.corrcoef(pred[:, g], true[:, g])[0, 1] for g in range(6)]
    np.testing.assert_allclose(hd.metrics.pcc(pred, true), expected, atol=1e-12)


@pytest.mark.parametrize("value", [0.0, 0.1, 1e9])
def test_a_constant_prediction_or_truth_scores_zero(value):
    flat, varied = np.full((7, 2), value), np.random.default_rng(0).normal(size=(7, 2))
    assert hd.metrics.pcc(flat, varied).tolist() == [0.0, 0.0]
    assert hd.metrics.pcc(varied, flat).tolist() == [0.0, 0.0]


def test_small_variation_is_not_taken_for_a_constant():
    varied = 1.0 + 1e-6 * np.arange(5.0)[:, None]
    assert hd.metrics.pcc(varied, np.arange(5.0)[:, None]) == pytest.approx(1.0)


def test_pcc_top_takes_the_best_genes_and_all_if_there_are_too_few():
    assert hd.metrics.pcc_top(PRED, TRUE, 1) == pytest.approx(0.8)
    assert hd.metrics.pcc_top(PRED, TRUE, 2) == pytest.approx(0.4)
    assert hd.metrics.pcc_top(PRED, TRUE, 50) == pytest.approx(-0.2 / 3)


def test_pcc_of_takes_the_genes_it_is_told():
    assert hd.metrics.pcc_of(PRED, TRUE, [2]) == pytest.approx(-1.0)
    assert hd.metrics.pcc_of(PRED, TRUE, np.array([0, 2])) == pytest.approx(-0.1)


def test_errors_by_hand():
    pred, true = np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([[1.0, 0.0], [6.0, 4.0]])
    assert hd.metrics.mse(pred, true) == pytest.approx((4 + 9) / 4)
    assert hd.metrics.mae(pred, true) == pytest.approx((2 + 3) / 4)


def test_variance_scores_by_hand():
    # Measured variances 1, 1, 4; predicted 4, 1, 1; ratios 4, 1, 1/4.
    true = np.array([[0.0, 0.0, 0.0], [2.0, 2.0, 4.0]])
    pred = np.array([[0.0, 5.0, 0.0], [4.0, 7.0, 2.0]])
    assert hd.metrics.rvd(pred, true) == pytest.approx((9 + 0 + 9 / 16) / 3)
    assert hd.metrics.log_var_ratio(pred, true) == pytest.approx(2.0)  # of 2, 0, 2


def test_variance_scores_leave_out_genes_without_measured_variance():
    true, pred = np.array([[0.0, 3.0], [2.0, 3.0]]), np.array([[0.0, 0.0], [4.0, 9.0]])
    assert hd.metrics.rvd(pred, true) == pytest.approx(9.0)
    assert hd.metrics.log_var_ratio(pred, true) == pytest.approx(2.0)


def test_variance_scores_of_a_constant_prediction_are_finite():
    true = np.random.default_rng(0).normal(size=(9, 4))
    flat = np.tile(true.mean(axis=0), (9, 1))
    assert hd.metrics.rvd(flat, true) == pytest.approx(1.0)
    assert hd.metrics.log_var_ratio(flat, true) == pytest.approx(20.0)


def test_variance_scores_are_nan_where_nothing_was_measured_to_vary():
    flat = np.ones((3, 2))
    assert np.isnan(hd.metrics.rvd(flat, flat))
    assert np.isnan(hd.metrics.log_var_ratio(flat, flat))


def test_gene_corr_error_by_hand():
    # Measured: genes 0 and 2 correlate (deviations -3 -1 1 3, -1 1 -1 1) 4 / sqrt(20 * 4); gene 1 is constant.
    # Predicted: 0-1 .8, 0-2 (-3 1 -1 3, 1 -1 1 -1) -8 / sqrt(80), 1-2 -4 / sqrt(80).
    expected = (0.8 + 12 / np.sqrt(80) + 4 / np.sqrt(80)) / 3
    assert hd.metrics.gene_corr_error(PRED, TRUE) == pytest.approx(expected)
    assert np.isnan(hd.metrics.gene_corr_error(PRED[:, :1], TRUE[:, :1]))


def test_gene_corr_error_is_that_of_numpy():
    rng = np.random.default_rng(5)
    pred, true = rng.normal(size=(30, 8)), rng.normal(size=(30, 8))
    upper = np.triu_indices(8, 1)
    expected = np.abs(np.corrcoef(pred.T) - np.corrcoef(true.T))[upper].mean()
    assert hd.metrics.gene_corr_error(pred, true) == pytest.approx(expected)


def test_scores_collects_the_single_metrics():
    out = hd.metrics.scores(PRED, TRUE, top_variance=[2])
    assert out == {
        "pcc10": hd.metrics.pcc_top(PRED, TRUE, 10),
        "pcc50": hd.metrics.pcc_top(PRED, TRUE, 50),
        "pcc_all": pytest.approx(hd.metrics.pcc(PRED, TRUE).mean()),
        "pcc_top_variance": hd.metrics.pcc_of(PRED, TRUE, [2]),
        "mse": hd.metrics.mse(PRED, TRUE),
        "mae": hd.metrics.mae(PRED, TRUE),
        "rvd": hd.metrics.rvd(PRED, TRUE),
        "log_var_ratio": hd.metrics.log_var_ratio(PRED, TRUE),
        "gene_corr_error": hd.metrics.gene_corr_error(PRED, TRUE),
    }
    assert all(type(value) is float for value in out.values())
    assert "pcc_top_variance" not in hd.metrics.scores(PRED, TRUE)


def test_scores_of_a_wide_panel_take_ten_and_fifty_genes():
    rng = np.random.default_rng(1)
    true = rng.normal(size=(50, 80))
    pred = true + rng.normal(size=true.shape) * np.linspace(0.1, 5, 80)
    ranked = np.sort(hd.metrics.pcc(pred, true))[::-1]
    out = hd.metrics.scores(pred, true)
    assert (out["pcc10"], out["pcc50"]) == (pytest.approx(ranked[:10].mean()), pytest.approx(ranked[:50].mean()))


def test_float32_input_is_worked_out_in_float64():
    rng = np.random.default_rng(2)
    pred, true = (rng.normal(size=(30, 3)) + 1000).astype(np.float32), rng.normal(size=(30, 3)).astype(np.float32)
    expected = hd.metrics.pcc(pred.astype(np.float64), true.astype(np.float64))
    assert hd.metrics.pcc(pred, true).dtype == np.float64
    np.testing.assert_array_equal(hd.metrics.pcc(pred, true), expected)


@pytest.mark.parametrize("metric", METRICS)
def test_shapes_that_differ_are_named(metric):
    with pytest.raises(HisDiffError, match=r"\(4, 3\).*\(4, 2\)"):
        metric(TRUE, TRUE[:, :2])
    with pytest.raises(HisDiffError, match=r"\(4,\).*\(4,\)"):
        metric(TRUE[:, 0], TRUE[:, 0])
    with pytest.raises(HisDiffError, match="empty"):
        metric(TRUE[:0], TRUE[:0])


@pytest.mark.parametrize("metric", METRICS)
def test_values_that_are_not_finite_are_counted(metric):
    broken = TRUE.copy()
    broken[0, 0], broken[1, 2] = np.nan, np.inf
    with pytest.raises(HisDiffError, match="pred holds 2 NaN or infinite values of 12"):
        metric(broken, TRUE)
    with pytest.raises(HisDiffError, match="true holds 2"):
        metric(TRUE, broken)


@pytest.mark.parametrize("genes", [[], [[0, 1]], [0.0], [True, False, True]])
def test_gene_lists_that_are_no_column_numbers_are_refused(genes):
    with pytest.raises(HisDiffError, match="column numbers"):
        hd.metrics.pcc_of(PRED, TRUE, genes)


@pytest.mark.parametrize("gene", [3, -1])
def test_a_gene_that_does_not_exist_is_named(gene):
    with pytest.raises(HisDiffError, match=f"genes holds {gene}, .* 0 ... 2"):
        hd.metrics.pcc_of(PRED, TRUE, [0, gene])


def test_k_below_one_is_refused():
    with pytest.raises(HisDiffError, match="k=0"):
        hd.metrics.pcc_top(PRED, TRUE, 0)
