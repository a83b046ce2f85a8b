"""Scores of gene sets and agreement of clusters."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import adjusted_rand_score

import hisdiff_sd as hd
from hisdiff_sd._errors import HisDiffError
from hisdiff_sd.metrics._clusters import adjusted_rand

VALUES = np.array([[1.0, 10.0, 3.0, 7.0], [3.0, 30.0, 3.0, 5.0], [5.0, 20.0, 3.0, 3.0]])
GENES = ["A", "B", "C", "D"]


def test_set_scores_by_hand():
    z = np.sqrt(1.5)  # of deviations -1, 0, 1: their standard deviation is sqrt(2 / 3)
    found = hd.metrics.gene_set_scores(VALUES, GENES, {"A": ["A"], "AD": ("A", "D", "A", "no"), "ABC": iter("ABC")})
    assert list(found) == ["A", "AD", "ABC"]
    np.testing.assert_allclose(found["A"], [-z, 0, z])
    np.testing.assert_allclose(found["AD"], [0, 0, 0], atol=1e-12)
    # gene B: -1, 1, 0; gene C is constant and counts as 0
    np.testing.assert_allclose(found["ABC"], [-2 * z / 3, z / 3, z / 3])


@given(st.integers(0, 2**32 - 1), st.integers(1, 50), st.integers(-50, 50))
@settings(deadline=None)
def test_set_scores_ignore_the_scale_of_a_gene_and_the_order_of_genes(seed, scale, offset):
    rng = np.random.default_rng(seed)
    values, order = rng.normal(size=(8, 4)), rng.permutation(4)
    sets = {"x": ["A", "C"], "y": ["B", "C", "D"]}
    expected = hd.metrics.gene_set_scores(values, GENES, sets)
    other = values * scale * np.arange(1, 5) + offset
    found = hd.metrics.gene_set_scores(other[:, order], [GENES[i] for i in order], sets)
    for name in sets:
        np.testing.assert_allclose(found[name], expected[name], atol=1e-9)
        assert found[name].mean() == pytest.approx(0, abs=1e-9)


def test_a_string_is_the_name_of_one_gene():
    values = np.random.default_rng(0).normal(size=(5, 2))
    found = hd.metrics.gene_set_scores(values, ["AB", "A"], {"one": "AB"})
    np.testing.assert_array_equal(found["one"], hd.metrics.gene_set_scores(values, ["AB", "A"], {"one": ["AB"]})["one"])


def test_sets_and_genes_that_do_not_fit_are_named():
    with pytest.raises(HisDiffError, match=r"no gene of these sets is in the panel: empty, other; leave"):
        hd.metrics.gene_set_scores(VALUES, GENES, {"fits": ["A"], "empty": [], "other": ["a", "b"]})
    with pytest.raises(HisDiffError, match="3 names, 3 of them different; values has 4 columns"):
        hd.metrics.gene_set_scores(VALUES, GENES[:3], {"one": ["A"]})
    with pytest.raises(HisDiffError, match="4 names, 3 of them different"):
        hd.metrics.gene_set_scores(VALUES, ["A", "A", "B", "C"], {"one": ["A"]})


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=40))
@settings(deadline=None)
def test_the_rand_index_is_that_of_sklearn(pairs):
    a, b = np.array(pairs).T
    assert adjusted_rand(a, b) == pytest.approx(adjusted_rand_score(a, b), abs=1e-12)


def blobs(seed, labels, n_genes=30):
    """Expression of spots in well separated clusters."""
    rng = np.random.default_rng(seed)
    return rng.normal(0, 4, size=(labels.max() + 1, n_genes))[labels] + rng.normal(size=(len(labels), n_genes))


LABELS = np.random.default_rng(9).integers(0, 5, 400)


@pytest.mark.parametrize("seed", range(4))
def test_clusters_that_are_the_same_agree_whatever_their_genes(seed):
    assert hd.metrics.cluster_agreement(blobs(1, LABELS), blobs(2, LABELS), seed=seed) == pytest.approx(1.0)


def test_agreement_falls_to_what_the_labels_have_in_common():
    rng = np.random.default_rng(3)
    some = np.where(rng.random(400) < 0.3, rng.integers(0, 5, 400), LABELS)
    found = hd.metrics.cluster_agreement(blobs(1, some), blobs(2, LABELS))
    assert found == pytest.approx(adjusted_rand_score(some, LABELS))
    assert 0.3 < found < 0.8
    assert abs(hd.metrics.cluster_agreement(blobs(1, rng.permutation(LABELS)), blobs(2, LABELS))) < 0.03


def test_no_gene_outweighs_the_others():
    true, pred = blobs(2, LABELS), blobs(1, LABELS)
    pred[:, 0] = 1e4 * np.random.default_rng(0).normal(size=400)
    assert hd.metrics.cluster_agreement(pred, true) == pytest.approx(1.0)


def test_a_constant_prediction_has_no_clusters():
    assert hd.metrics.cluster_agreement(np.ones((400, 30)), blobs(2, LABELS)) == 0.0
    same = np.random.default_rng(0).normal(size=(80, 6))
    assert hd.metrics.cluster_agreement(same, same, n_clusters=80) == 1.0


@pytest.mark.parametrize("n_clusters", [1, 4])
def test_numbers_of_clusters_that_cannot_be_are_refused(n_clusters):
    with pytest.raises(HisDiffError, match=f"n_clusters={n_clusters}; 3 spots can be divided into 2 ... 3"):
        hd.metrics.cluster_agreement(VALUES, VALUES, n_clusters=n_clusters)
