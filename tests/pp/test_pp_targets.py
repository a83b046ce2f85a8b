"""Counts on the target scale."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import sparse

from hisdiff_sd._errors import HisDiffError
from hisdiff_sd._targets import TARGETS, from_target, to_target, total_counts

COUNTS = np.array([[0, 1, 3], [7, 0, 15]])
TOTALS = np.array([100.0, 20_000.0])


def test_log2_is_the_published_target():
    np.testing.assert_array_equal(to_target(COUNTS, TOTALS, "log2"), [[0, 1, 2], [3, 0, 4]])


def test_cp10k_by_hand():
    expected = np.log([[1, 101, 301], [4.5, 1, 8.5]])
    np.testing.assert_allclose(to_target(COUNTS, TOTALS, "cp10k"), expected, rtol=1e-12)


@given(
    counts=hnp.arrays(np.uint16, (4, 3), elements=st.integers(0, 60_000)),
    totals=hnp.arrays(np.float64, 4, elements=st.integers(0, 10**6).map(float)),
    target=st.sampled_from(TARGETS),
)
def test_targets_are_finite_keep_zero_and_never_wrap(counts, totals, target):
    values = to_target(counts, totals, target)
    assert values.dtype == np.float64
    assert np.isfinite(values).all()
    assert ((values == 0) == (counts == 0)).all()
    assert (values >= 0).all()
    # more counts of a gene, more of its target
    assert (to_target(counts.astype(float) + 1, totals, target) > values).all()


def test_depth_cancels_out_of_cp10k():
    np.testing.assert_allclose(to_target(COUNTS * 5, TOTALS * 5, "cp10k"), to_target(COUNTS, TOTALS, "cp10k"))


def test_an_unknown_target():
    with pytest.raises(HisDiffError, match=r"no target 'log10'; there are: 'log2', 'cp10k'\. Did you mean 'log2'"):
        to_target(COUNTS, TOTALS, "log10")


@pytest.mark.parametrize("kind", [np.asarray, sparse.csr_matrix])
def test_totals_leave_control_probes_out(kind):
    var = pd.DataFrame({"control": [False, True, False]})
    np.testing.assert_array_equal(total_counts(kind(COUNTS), var), [3, 22])
    np.testing.assert_array_equal(total_counts(kind(COUNTS), var[[]]), [4, 22])
    assert total_counts(kind(COUNTS), var).dtype == np.float64


@pytest.mark.parametrize("target", ["log2", "cp10k"])
def test_the_way_back_from_a_target(target):
    counts, totals = np.array([[0.0, 3.0], [7.0, 1.0]]), np.array([1e4, 1e4])
    np.testing.assert_allclose(from_target(to_target(counts, totals, target), target), counts)
