"""`hd.pp.select_genes`: the published choice, on training slides alone."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import spatialdata
from anndata import AnnData
from scipy import sparse

import hisdiff_sd as hd
from hisdiff_sd._errors import HisDiffError, HisDiffWarning, MissingFileError
from hisdiff_sd.pp._genes import check_genes, warn_empty_genes


def slide(name: str, counts: dict[str, list[float]], control: tuple[str, ...] = ()) -> spatialdata.SpatialData:
    """A slide of a table only."""
    frame = pd.DataFrame(counts, dtype=np.float32)
    var = pd.DataFrame({"control": [g in control for g in frame]}, index=list(frame))
    table = AnnData(
        sparse.csr_matrix(frame.to_numpy()), obs=pd.DataFrame(index=[f"{name}{i}" for i in frame.index]), var=var
    )
    record = dict.fromkeys(("patient", "species", "organ", "technology"), "")
    record |= {"schema": 1, "slide": name, "mpp": 1.0, "true_size": [100, 100], "qc": {}}
    return spatialdata.SpatialData(tables={"table": table}, attrs={"hisdiff_sd": record})


A = {"HIGH": [9, 9, 9], "WILD": [0, 20, 1], "MID": [4, 6, 8], "LOW": [0, 1, 0], "ONLY_A": [90, 0, 50]}
B = {"LOW": [1, 0, 0], "MID": [5, 7, 3], "HIGH": [9, 9, 10], "WILD": [18, 0, 2], "ONLY_B": [70, 80, 0]}
# over both slides  mean: HIGH 55/6, WILD 41/6, MID 33/6, LOW 2/6;  std: WILD 8.6, MID 1.7, LOW .47, HIGH .37


@pytest.fixture
def slides():
    return [slide("A", A), slide("B", B)]


@pytest.mark.parametrize(
    ("n_top", "panel"),
    [
        (1, None),  # HIGH by mean, WILD by standard deviation
        (2, ["WILD"]),  # HIGH, WILD and WILD, MID
        (3, ["WILD", "MID"]),  # HIGH, WILD, MID and WILD, MID, LOW
        (4, ["HIGH", "WILD", "MID", "LOW"]),
        (300, ["HIGH", "WILD", "MID", "LOW"]),
    ],
)
def test_the_panel_is_high_by_mean_and_by_standard_deviation(slides, n_top, panel):
    if panel is None:
        with pytest.raises(
            HisDiffError, match="no gene is among the 1 highest by mean and by standard deviation; raise n_top"
        ):
            hd.pp.select_genes(slides, n_top=n_top)
    else:
        assert hd.pp.select_genes(slides, n_top=n_top) == panel
        assert hd.pp.select_genes(slides[::-1], n_top=n_top) == panel


def test_genes_of_interest_are_all_kept_once(slides):
    assert hd.pp.select_genes(slides, n_top=2, include=["LOW", "WILD", "LOW", "HIGH"]) == ["WILD", "LOW", "HIGH"]
    assert hd.pp.select_genes(slides, n_top=1, include=["LOW"]) == ["LOW"]


def test_genes_of_interest_that_are_missing_are_named_with_their_slide(slides):
    with pytest.raises(HisDiffError, match=r"A lacks ONLY_B, NOWHERE \(2\); B lacks NOWHERE \(1\)"):
        hd.pp.select_genes(slides, include=["ONLY_B", "HIGH", "NOWHERE"])


def test_a_gene_that_one_training_slide_lacks_is_not_chosen(slides):
    panel = hd.pp.select_genes(slides)
    assert not {"ONLY_A", "ONLY_B"} & set(panel)
    assert "ONLY_A" in hd.pp.select_genes(slides[:1])


def test_only_the_slides_that_are_given_are_looked_at(slides):
    # the same training slides choose the same panel, whatever a held-out slide holds
    held_out = slide("C", {"LOW": [900, 0, 900], "HIGH": [0, 0, 1], "WILD": [0, 0, 0], "MID": [0, 0, 0]})
    panel = hd.pp.select_genes(slides, n_top=3)
    assert panel != hd.pp.select_genes([*slides, held_out], n_top=3)
    assert "LOW" not in panel


def test_control_probes_are_never_chosen_and_may_be_asked_for():
    slides = [slide(n, {"BLANK_1": [90, 0, 70], "G1": [1, 2, 3], "G2": [3, 2, 0]}, control=("BLANK_1",)) for n in "AB"]
    assert hd.pp.select_genes(slides) == ["G1", "G2"]


def test_genes_without_a_count_are_no_candidates():
    slides = [slide(n, {"EMPTY": [0, 0, 0], "G1": [1, 2, 3]}) for n in "AB"]
    assert hd.pp.select_genes(slides) == ["G1"]


def test_dense_tables_choose_the_same(slides):
    panel = hd.pp.select_genes(slides)
    for sdata in slides:
        sdata["table"].X = sdata["table"].X.toarray()
    assert hd.pp.select_genes(slides) == panel


def test_the_counts_are_left_as_they_are(slides):
    before = slides[0]["table"].X.toarray()
    hd.pp.select_genes(slides)
    np.testing.assert_array_equal(slides[0]["table"].X.toarray(), before)


def test_of_many_genes_the_variable_ones_of_each_slide_are_candidates():
    rng = np.random.default_rng(0)
    names = [f"G{i}" for i in range(2300)]
    slides = []
    for name in "AB":
        rate = rng.gamma(2, 2, 2300) * np.exp(rng.normal(0, rng.uniform(0, 1, 2300), (60, 2300)))
        counts = rng.poisson(rate)
        slides.append(slide(name, {g: counts[:, i] for i, g in enumerate(names)}))
    variable = set()
    for sdata in slides:
        logged = AnnData(sdata["table"].X.toarray(), var=pd.DataFrame(index=names))
        depth = logged.X.sum(1, keepdims=True)
        logged.X = np.log1p(logged.X / depth * np.median(depth))
        sc.pp.highly_variable_genes(logged, n_top_genes=2000)
        variable |= set(logged.var_names[logged.var["highly_variable"]])
    assert 2000 < len(variable) < 2300
    pooled = pd.DataFrame(np.concatenate([s["table"].X.toarray() for s in slides]), columns=names)
    pooled = pooled[sorted(variable)].astype(float)
    by_mean, by_std = (v.sort_values(ascending=False, kind="stable").index[:200] for v in (pooled.mean(), pooled.std()))
    panel = hd.pp.select_genes(slides, n_top=200)
    assert panel == [g for g in by_mean if g in set(by_std)]
    assert 100 < len(panel) <= 200


def test_slides_may_be_stores(hest_root, tmp_path):
    slides = [hd.io.hest(hest_root, name) for name in ("S1", "S3")]
    stores = [tmp_path / f"{i}.zarr" for i in range(2)]
    for sdata, path in zip(slides, stores, strict=True):
        hd.io.write(sdata, path)
    panel = hd.pp.select_genes(slides, n_top=20)
    assert hd.pp.select_genes([stores[0], str(stores[1])], n_top=20) == panel
    assert 0 < len(panel) <= 20
    with pytest.raises(MissingFileError, match=r"no store .*missing\.zarr"):
        hd.pp.select_genes([tmp_path / "missing.zarr"])


def test_slides_are_taken_from_any_iterable(slides):
    assert hd.pp.select_genes(iter(slides)) == hd.pp.select_genes(tuple(slides))


@pytest.mark.parametrize("one", ["stores/S1.zarr", slide("A", A)], ids=["path", "object"])
def test_one_slide_is_no_list(one):
    with pytest.raises(HisDiffError, match="give a list of the training slides"):
        hd.pp.select_genes(one)


def test_one_name_is_no_list(slides):
    with pytest.raises(HisDiffError, match=r"include='ERBB2' is one name; give a list: \['ERBB2'\]"):
        hd.pp.select_genes(slides, include="ERBB2")


def test_no_slides():
    with pytest.raises(HisDiffError, match="no slides to choose genes on"):
        hd.pp.select_genes([])


def test_no_genes(slides):
    with pytest.raises(HisDiffError, match="n_top=0 leaves no genes; 300 is the published choice"):
        hd.pp.select_genes(slides, n_top=0)


def test_nothing_in_common():
    with pytest.raises(HisDiffError, match=r"\['A', 'B'\] have no variable gene in common; same species"):
        hd.pp.select_genes([slide("A", {"ERBB2": [1, 2]}), slide("B", {"Erbb2": [1, 2]})])


def test_a_slide_without_counts_lists_its_tables(slides):
    with pytest.raises(HisDiffError, match="slide 'A' has no table 'counts' of counts; tables here: 'table'"):
        hd.pp.select_genes(slides, table_key="counts")


def test_many_missing_genes_are_counted_and_some_named(slides):
    tables = [("A", slides[0]["table"])]
    with pytest.raises(
        HisDiffError, match=r"A lacks N0, .*N9 \.\.\. \(40\); leave those genes or slides out"
    ) as caught:
        check_genes([f"N{i}" for i in range(40)], tables)
    assert "N10" not in str(caught.value)


def test_genes_without_a_count_on_any_training_slide_are_reported():
    tables = [(n, slide(n, {"G1": [1, 0], "G2": [0, 0], "G3": [0, 0 if n == "A" else 1]})["table"]) for n in "AB"]
    with pytest.warns(HisDiffWarning, match="no count of G2 on the training slides"):
        warn_empty_genes(["G1", "G2", "G3"], tables)
