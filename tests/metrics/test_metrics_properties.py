"""What holds for every pair of arrays."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import hisdiff_sd as hd

# Multiples of 1/8: sums and scalings of them stay exact enough for a tight tolerance, and constants do occur.
VALUES = st.integers(-80, 80).map(lambda i: i / 8)


@st.composite
def pairs(draw, min_genes=1):
    shape = (draw(st.integers(2, 12)), draw(st.integers(min_genes, 6)))
    return draw(hnp.arrays(np.float64, shape, elements=VALUES)), draw(hnp.arrays(np.float64, shape, elements=VALUES))


def same(a: dict[str, float], b: dict[str, float]) -> None:
    assert a == {key: pytest.approx(value, abs=1e-9, nan_ok=True) for key, value in b.items()}


@given(pairs(), st.integers(0, 2**32 - 1))
def test_no_score_depends_on_the_order_of_spots(pair, seed):
    pred, true = pair
    order = np.random.default_rng(seed).permutation(len(pred))
    same(hd.metrics.scores(pred[order], true[order]), hd.metrics.scores(pred, true))


@given(pairs(), st.integers(0, 2**32 - 1))
def test_no_score_depends_on_the_order_of_genes(pair, seed):
    pred, true = pair
    order = np.random.default_rng(seed).permutation(pred.shape[1])
    same(hd.metrics.scores(pred[:, order], true[:, order]), hd.metrics.scores(pred, true))


@given(pairs(), st.integers(1, 40), st.integers(-40, 40))
def test_pcc_ignores_scale_and_offset_and_follows_the_sign(pair, scale, offset):
    pred, true = pair
    r = hd.metrics.pcc(pred, true)
    np.testing.assert_allclose(hd.metrics.pcc(pred * scale + offset, true), r, atol=1e-9)
    np.testing.assert_allclose(hd.metrics.pcc(-pred, true), -r, atol=1e-9)
    np.testing.assert_allclose(hd.metrics.pcc(true, pred), r, atol=1e-9)
    assert np.all(np.abs(r) <= 1)


@given(pairs(min_genes=2), st.integers(1, 40), st.integers(-40, 40))
def test_gene_corr_error_ignores_the_scale_of_each_gene(pair, scale, offset):
    pred, true = pair
    scales = scale * (1.0 + np.arange(pred.shape[1]))
    error = hd.metrics.gene_corr_error(pred, true)
    assert hd.metrics.gene_corr_error(pred * scales + offset, true) == pytest.approx(error, abs=1e-9)
    assert hd.metrics.gene_corr_error(true, pred) == pytest.approx(error, abs=1e-9)
    assert 0 <= error <= 2 + 1e-9


@given(pairs(), st.integers(1, 40))
def test_variance_scores_ignore_a_scale_that_both_share(pair, scale):
    pred, true = pair
    for metric in (hd.metrics.rvd, hd.metrics.log_var_ratio):
        assert metric(pred * scale, true * scale) == pytest.approx(metric(pred, true), abs=1e-9, nan_ok=True)


@given(pairs(min_genes=2))
def test_the_truth_has_no_error(pair):
    true = pair[1]
    varies = np.ptp(true, axis=0) > 0
    assume(varies.any())
    out = hd.metrics.scores(true, true)
    for key in ("mse", "mae", "rvd", "log_var_ratio", "gene_corr_error"):
        assert out[key] == 0
    np.testing.assert_allclose(hd.metrics.pcc(true, true), varies.astype(float), atol=1e-12)


@given(pairs())
def test_only_the_truth_has_no_squared_error(pair):
    pred, true = pair
    assert (hd.metrics.mse(pred, true) == 0) == np.array_equal(pred, true)
    assert hd.metrics.mae(pred, true) ** 2 <= hd.metrics.mse(pred, true) + 1e-12  # Jensen


@given(pairs())
def test_pcc_top_falls_with_k_and_ends_at_the_mean(pair):
    pred, true = pair
    values = [hd.metrics.pcc_top(pred, true, k) for k in range(1, pred.shape[1] + 1)]
    assert np.all(np.diff(values) <= 1e-12)
    assert values[-1] == pytest.approx(hd.metrics.pcc_of(pred, true, np.arange(pred.shape[1])), abs=1e-12)
