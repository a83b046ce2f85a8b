"""Genes of all files get one kind of names, from what the file itself says."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from hypothesis import given, settings
from hypothesis import strategies as st

import hisdiff_sd as hd
from hisdiff_sd._errors import HisDiffError
from hisdiff_sd.io._counts import clean_counts
from hisdiff_sd.io._genes import name_genes

ERBB2, TP53, ACTB = "ENSG00000141736", "ENSG00000141510", "ENSG00000075624"


def var(index, **columns) -> pd.DataFrame:
    return pd.DataFrame(columns, index=index)


@pytest.mark.parametrize("column", ["gene_name", "feature_name", "gene_symbols", "Symbol", "GeneName"])
def test_ids_become_the_symbols_that_stand_beside_them(column):
    named = name_genes(var([ERBB2, TP53, ACTB], **{column: ["ERBB2", "TP53", "ACTB"]}), "symbols")
    assert list(named.names) == ["ERBB2", "TP53", "ACTB"]
    assert list(named.ids) == [ERBB2, TP53, ACTB]
    assert named.facts["gene_id_type"] == "symbol"
    about = named.facts["gene_names"]
    assert (about["renamed"], about["from"], about["not_known"]) == (3, column, 0)


def test_what_the_file_does_not_say_stays_and_is_said():
    table = var([ERBB2, TP53, ACTB, "MT-CO1"], gene_name=["ERBB2", np.nan, ACTB, "x"])
    named = name_genes(table, "symbols")
    assert list(named.names) == ["ERBB2", TP53, ACTB, "MT-CO1"]
    assert named.facts["gene_names"]["not_known_examples"] == [TP53, ACTB]
    assert named.facts["gene_names"]["not_known"] == 2


def test_nothing_is_invented_without_a_column():
    named = name_genes(var([ERBB2, TP53], gene_biotype=["protein_coding", "protein_coding"]), "symbols")
    assert list(named.names) == [ERBB2, TP53]
    assert named.facts["gene_id_type"] == "ensembl"
    assert named.facts["gene_names"]["not_known"] == 2


@pytest.mark.parametrize("column", ["gene_ids", "whatever"])
def test_symbols_become_ids_where_these_are_wanted(column):
    table = var(["ERBB2", "TP53", "LOC1"], **{column: [f"{ERBB2}.14", TP53, ""]})
    named = name_genes(table, "ids")
    assert list(named.names) == [ERBB2, TP53, "LOC1"]
    assert named.facts["gene_id_type"] == "ensembl"
    assert named.facts["gene_names"]["not_known_examples"] == ["LOC1"]
    assert list(name_genes(table, "symbols").names) == ["ERBB2", "TP53", "LOC1"]


@settings(deadline=None, max_examples=40)
@given(number=st.integers(0, 99_999_999_999), version=st.integers(1, 40), kind=st.sampled_from(["", "MUS", "RNO"]))
def test_versions_of_ids_are_taken_off(number, version, kind):
    bare = f"ENS{kind}G{number:011d}"
    for wanted in ("symbols", "ids"):
        assert list(name_genes(var([f"{bare}.{version}"]), wanted).names) == [bare]
    assert list(name_genes(var([f"{bare}.{version}"]), "file").names) == [f"{bare}.{version}"]


def test_what_only_looks_like_a_version_stays():
    names = ["FO538757.1", "AC004.2", "ENSA", f"{ERBB2}.3_PAR_Y"]
    assert list(name_genes(var(names), "symbols").names) == [*names[:3], f"{ERBB2}_PAR_Y"]


def test_ids_of_one_symbol_are_added_up():
    table = AnnData(
        np.array([[1, 2, 4, 8], [0, 1, 0, 1]], np.float32),
        obs=pd.DataFrame(index=["a", "b"]),
        var=var([f"{ERBB2}.1", f"{ERBB2}.2", TP53, ACTB], gene_name=["ERBB2", "ERBB2", "TBCE", "TBCE"]),
    )
    clean, found = clean_counts(table, "the file")
    assert list(clean.var_names) == ["ERBB2", "TBCE"]
    np.testing.assert_array_equal(clean.X.toarray(), [[3, 12], [1, 1]])
    assert list(clean.var["gene_id"]) == [ERBB2, TP53]
    assert found["duplicated_genes"] == ["ERBB2", "TBCE"]
    assert list(clean_counts(table, "the file", genes="ids")[0].var_names) == [ERBB2, TP53, ACTB]
    assert list(clean_counts(table, "the file", genes="file")[0].var_names) == list(table.var_names)


def test_control_probes_are_known_by_their_type_too():
    types = ["Gene Expression", "Negative Control Probe", "Unassigned Codeword", "Antibody Capture"]
    named = name_genes(var(["ERBB2", "P1", "P2", "CD3"], feature_types=types), "symbols")
    assert named.control.tolist() == [False, True, True, False]


def test_an_unknown_kind_of_names_is_refused():
    with pytest.raises(HisDiffError, match=r"no kind of gene names 'symbol'; there are: .*Did you mean 'symbols'"):
        name_genes(var(["A"]), "symbol")


def test_readers_name_genes_alike(root, edit_counts, space_ranger):
    symbols = [f"G{i}" for i in range(12)]

    def rename(table):
        table.var["gene_name"] = symbols
        table.var_names = [f"ENSG{i:011d}.2" for i in range(12)]

    edit_counts(rename)
    assert list(hd.io.hest(root, "T1")["table"].var_names) == symbols
    assert hd.io.hest(root, "T1", genes="file")["table"].var_names[0] == "ENSG00000000000.2"
    ids = [f"ENSG{i:011d}" for i in range(12)]
    assert list(hd.io.hest(root, "T1", genes="ids")["table"].var_names) == ids
    assert list(hd.io.visium(space_ranger.outs, space_ranger.image, genes="ids")["table"].var_names) == ids[:4]
    text = str(hd.io.qc(hd.io.hest(root, "T1")))
    assert "symbols; 12 of 12 named by var['gene_name']; 12 without their version" in text


def test_a_slide_whose_genes_were_named_goes_through_a_store(root, edit_counts, tmp_path):
    def rename(table):
        table.var["gene_name"] = [f"G{i}" for i in range(11)] + [np.nan]
        table.var_names = [f"ENSG{i:011d}" for i in range(12)]

    edit_counts(rename)
    slide = hd.io.hest(root, "T1")
    back = hd.io.write(slide, tmp_path / "T1.zarr")
    assert list(back["table"].var_names) == [*(f"G{i}" for i in range(11)), "ENSG00000000011"]
    assert list(back["table"].var["gene_id"]) == [f"ENSG{i:011d}" for i in range(12)]
    assert back.attrs == slide.attrs
