"""Counts are checked and cleaned whatever way they come."""

from __future__ import annotations

import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import sparse

from hisdiff_sd._errors import HisDiffError
from hisdiff_sd.io._counts import clean_counts
from hisdiff_sd.io._genes import gene_id_type

names = st.lists(st.sampled_from(["ERBB2", "TBCE", "CD3E", "ACTB"]), min_size=1, max_size=8)


def table(counts, genes, barcodes=None) -> ad.AnnData:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        obs = pd.DataFrame(index=barcodes or [f"b{i}" for i in range(counts.shape[0])])
        return ad.AnnData(counts, obs, pd.DataFrame({"n": np.arange(len(genes))}, index=genes))


@settings(deadline=None, max_examples=60)
@given(genes=names, data=st.data(), kind=st.sampled_from([np.asarray, sparse.csr_matrix, sparse.csc_matrix]))
def test_duplicated_genes_are_summed(genes, data, kind):
    counts = data.draw(hnp.arrays(np.float32, (5, len(genes)), elements=st.integers(0, 50).map(float)))
    twice = sorted({g for g in genes if genes.count(g) > 1})
    clean, found = clean_counts(table(kind(counts), genes), "the file")
    assert list(clean.var_names) == list(dict.fromkeys(genes))
    for gene in clean.var_names:
        of_gene = [g == gene for g in genes]
        np.testing.assert_array_equal(clean[:, gene].X.toarray().ravel(), counts[:, of_gene].sum(1))
        assert clean.var.loc[gene, "n"] == genes.index(gene)  # what else is known of a gene is of its first row
    assert found["duplicated_genes"] == twice


def test_the_source_is_not_changed():
    source = table(sparse.csr_matrix(np.ones((2, 3), np.float32)), ["A", "A", "B"])
    clean_counts(source, "the file")
    assert list(source.var_names) == ["A", "A", "B"]
    np.testing.assert_array_equal(source.X.toarray(), 1)


@settings(deadline=None, max_examples=40)
@given(
    counts=hnp.arrays(np.float64, (4, 3), elements=st.integers(0, 9).map(float)),
    value=st.sampled_from([np.nan, np.inf, -np.inf, -1.0, -0.25]),
    place=st.tuples(st.integers(0, 3), st.integers(0, 2)),
    kind=st.sampled_from([np.asarray, sparse.csr_matrix, sparse.csc_matrix]),
)
def test_one_bad_value_is_found_wherever_it_stands(counts, value, place, kind):
    counts[place] = value
    with pytest.raises(HisDiffError, match=r"the file: 1 counts are (NaN or infinite|negative)"):
        clean_counts(table(kind(counts), list("ABC")), "the file")


def test_names_that_are_no_text_become_text_and_index_names_are_dropped():
    source = table(np.ones((2, 2), np.float32), ["A", "B"], ["7", "8"])
    source.obs.index.name, source.var.index.name = "n", "n"
    clean, _ = clean_counts(source, "the file")
    assert (clean.obs.index.name, clean.var.index.name) == (None, None)
    assert list(clean.obs_names) == ["7", "8"]


@pytest.mark.parametrize(
    ("gene", "control"),
    [
        ("BLANK_0012", True),
        ("NegControlCodeword_0500", True),
        ("antisense_PROKR2", True),
        ("UnassignedCodeword_01", True),
        ("DeprecatedCodeword_3", True),
        ("Intergenic_Region_2", True),
        ("BLNK", False),
        ("NEGR1", False),
        ("ERBB2", False),
    ],
)
def test_control_probes_are_marked(gene, control):
    source = table(np.ones((1, 2), np.float32), [gene, "ACTB"])
    clean, found = clean_counts(source, "the file", control_probes=True)
    assert clean.var["control"].tolist() == [control, False]
    assert found["control_probes"] == control
    dropped, _ = clean_counts(source, "the file")
    assert list(dropped.var_names) == ([] if control else [gene]) + ["ACTB"]


def test_nothing_but_control_probes_is_refused():
    with pytest.raises(HisDiffError, match=r"the file: all 2 genes are control probes; give control_probes=True"):
        clean_counts(table(np.ones((1, 2), np.float32), ["BLANK_1", "antisense_B"]), "the file")


@pytest.mark.parametrize(
    ("genes", "kind"),
    [
        (["ENSG00000141736", "ENSG00000141510.2", "BLANK_1"], "ensembl"),
        (["ENSMUSG00000062312", "ENSMUSG00000059552"], "ensembl"),
        (["ENSA", "ERBB2", "ENSG00000141736"], "symbol"),
        ([], "symbol"),
    ],
)
def test_gene_ids_are_told_from_symbols(genes, kind):
    assert gene_id_type(pd.Index(genes, dtype=str)) == kind
