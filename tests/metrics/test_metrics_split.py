"""The parts of the squared error, and the ceiling that counting sets to the correlation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import sparse
from scipy.stats import poisson

import hisdiff_sd as hd
from hisdiff_sd._errors import HisDiffError

VALUES = st.integers(-80, 80).map(lambda i: i / 8)
SHAPES = st.tuples(st.integers(1, 12), st.integers(1, 6))


@given(SHAPES.flatmap(lambda shape: st.tuples(*[hnp.arrays(np.float64, shape, elements=VALUES)] * 2)))
@settings(deadline=None)
def test_the_parts_add_up_to_the_squared_error(pair):
    pred, true = pair
    parts = hd.metrics.error_split(pred, true)
    assert list(parts) == ["offset", "scale", "correlation"]
    assert min(parts.values()) >= 0
    assert sum(parts.values()) == pytest.approx(hd.metrics.mse(pred, true), rel=1e-12, abs=1e-12)


def test_each_part_sees_one_kind_of_error():
    true = np.random.default_rng(0).normal(size=(50, 3))
    true = (true - true.mean(axis=0)) / true.std(axis=0)
    cases = {
        "offset": (true + 2.0, 4.0),
        "scale": (1.5 * true, 0.25),
        "correlation": (-true, 4.0),  # 2 (1 - r), r = -1
    }
    for part, (pred, expected) in cases.items():
        found = hd.metrics.error_split(pred, true)
        assert found == {key: pytest.approx(expected if key == part else 0, abs=1e-12) for key in found}


def test_a_constant_prediction_has_an_error_of_scale_alone():
    true = np.random.default_rng(0).normal(size=(50, 3))
    parts = hd.metrics.error_split(np.tile(true.mean(axis=0), (50, 1)), true)
    assert parts == {
        "offset": pytest.approx(0, abs=1e-12),
        "scale": pytest.approx(true.var(axis=0).mean()),
        "correlation": pytest.approx(0, abs=1e-12),
    }


def poisson_slide(seed=0, n=4000):
    """Counts of genes from a hundredth to 50 per spot, and their rates."""
    rng = np.random.default_rng(seed)
    rate = np.exp(0.7 * rng.normal(size=(n, 6))) * np.array([0.01, 0.2, 1.0, 3.0, 10.0, 50.0])
    return rng.poisson(rate), rate


def test_the_ceiling_is_the_correlation_of_the_true_rates():
    counts, rate = poisson_slide()
    # what a perfect model predicts: the mean of log2(count + 1) at the rate
    k = np.arange(1000)
    perfect = np.column_stack([poisson.pmf(k, of_gene[:, None]) @ np.log2(k + 1.0) for of_gene in rate.T])
    best = hd.metrics.pcc(perfect, np.log2(counts + 1.0))
    ceiling = hd.metrics.thinning_ceiling(counts)
    np.testing.assert_allclose(ceiling[1:], best[1:], atol=0.045)
    np.testing.assert_allclose(ceiling[3:], best[3:], atol=0.012)
    assert ceiling[0] < 0.3  # of one count in a hundred spots the halves tell nothing


@pytest.mark.parametrize("target", ["log2", "cp10k"])
def test_the_ceiling_by_its_definition(target):
    counts = poisson_slide(5, n=300)[0][:, 2:]
    totals, rng, r = counts.sum(axis=1) + 400.0, np.random.default_rng(7), []
    for _ in range(3):
        half = rng.binomial(counts, 0.5)
        if target == "log2":
            first, second = np.log2(2 * half + 1), np.log2(2 * (counts - half) + 1)
        else:
            first, second = (np.log1p(1e4 * h / (totals[:, None] / 2)) for h in (half, counts - half))
        r.append(hd.metrics.pcc(first, second))
    r = np.mean(r, axis=0)
    found = hd.metrics.thinning_ceiling(counts, target, totals=totals, seed=7, repeats=3)
    np.testing.assert_allclose(found, np.sqrt(2 * r / (1 + r)), rtol=1e-10)


def test_depth_raises_the_ceiling_of_log2_and_not_of_cp10k():
    rng = np.random.default_rng(1)
    depth = np.exp(0.8 * rng.normal(size=(2000, 1))) * 3000
    counts = rng.poisson(depth * 0.03 * np.ones(8))  # genes without any pattern but depth
    totals = rng.poisson(depth[:, 0])
    assert hd.metrics.thinning_ceiling(counts, "log2").min() > 0.95
    assert hd.metrics.thinning_ceiling(counts, "cp10k", totals=totals).mean() < 0.3


def test_cp10k_takes_the_sums_of_the_counts_if_there_are_no_totals():
    counts = poisson_slide(2, n=300)[0]
    given = hd.metrics.thinning_ceiling(counts, "cp10k", totals=counts.sum(axis=1))
    np.testing.assert_array_equal(hd.metrics.thinning_ceiling(counts, "cp10k"), given)
    assert not np.allclose(hd.metrics.thinning_ceiling(counts, "cp10k", totals=np.full(300, 500)), given)


def test_splits_depend_on_the_seed_and_many_settle():
    counts = poisson_slide(3, n=200)[0]
    np.testing.assert_array_equal(
        hd.metrics.thinning_ceiling(counts, seed=1), hd.metrics.thinning_ceiling(counts, seed=1)
    )
    apart = [
        np.abs(
            np.diff([hd.metrics.thinning_ceiling(counts[:, 2:], seed=s, repeats=n) for s in range(8)], axis=0)
        ).mean()
        for n in (1, 30)
    ]
    assert 0 < apart[1] < 0.4 * apart[0]


def test_sparse_counts_and_floats_are_the_same_counts():
    counts = poisson_slide(4, n=100)[0]
    expected = hd.metrics.thinning_ceiling(counts)
    np.testing.assert_array_equal(hd.metrics.thinning_ceiling(sparse.csr_matrix(counts.astype(np.float32))), expected)


def test_genes_without_counts_have_the_ceiling_zero():
    counts = np.column_stack([np.zeros(50, int), np.r_[np.zeros(49, int), 1], np.arange(50)])
    assert hd.metrics.thinning_ceiling(counts)[:2].tolist() == [0.0, 0.0]
    assert hd.metrics.thinning_ceiling(counts)[2] > 0.9


COUNTS = np.arange(12).reshape(4, 3)


@pytest.mark.parametrize(
    ("counts", "options", "message"),
    [
        (np.log2(COUNTS + 1.0), {}, r"values that are no counts, as 1\.58496; only raw counts"),
        (-COUNTS, {}, "counts holds 11 values that are no counts, as -1"),
        (np.where(COUNTS > 10, np.nan, COUNTS), {}, "counts holds 1 values that are no counts, as nan"),
        (COUNTS[0], {}, r"counts has the shape \(3,\)"),
        (COUNTS[:0], {}, r"counts has the shape \(0, 3\)"),
        (COUNTS, {"target": "cp10"}, "no target 'cp10'.*Did you mean 'cp10k'"),
        (COUNTS, {"totals": np.ones(3)}, r"totals has the shape \(3,\); it has to be \(4,\)"),
        (COUNTS, {"totals": -np.ones(4)}, "counts of 0 or more"),
        (COUNTS, {"repeats": 0}, "repeats=0 splits nothing"),
    ],
)
def test_what_cannot_be_thinned_is_refused(counts, options, message):
    with pytest.raises(HisDiffError, match=message):
        hd.metrics.thinning_ceiling(counts, **options)
