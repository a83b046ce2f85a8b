"""The list of the slides of a HEST folder."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pandas as pd
import pytest

import hisdiff_sd as hd
from hisdiff_sd._errors import HisDiffError, MissingFileError

ROWS = [
    {"id": "TENX1", "organ": "Lung", "st_technology": "Xenium", "patient": "", "pixel_size_um_estimated": 0.2125},
    {"id": "SPA2", "organ": "Breast", "st_technology": "Visium", "patient": "7", "pixel_size_um_estimated": 0.5},
    {"id": "NCBI3", "organ": "Breast", "st_technology": "Visium HD", "patient": "8", "pixel_size_um_estimated": np.nan},
]


@pytest.fixture
def folder(tmp_path):
    """Three slides in the table, of which one has files, and one that the table does not know."""
    rows = pd.DataFrame([{"species": "Homo sapiens", "spots_under_tissue": 10, **row} for row in ROWS])
    rows.to_csv(tmp_path / "HEST_v1_1_0.csv", index=False, encoding="utf-8-sig")
    for name in ("st", "wsis", "metadata", "cellvit_seg"):
        (tmp_path / name).mkdir()
    for file in ("st/SPA2.h5ad", "wsis/SPA2.tif", "wsis/NEW4.tif", "cellvit_seg/SPA2_cellvit_seg.geojson.zip"):
        (tmp_path / file).touch()
    said = {"organ": "Skin", "species": "Mus musculus", "oncotree_code": float("nan"), "nb_genes": 300, "patient": 9.0}
    (tmp_path / "metadata" / "NEW4.json").write_text(json.dumps(said))
    (tmp_path / "metadata" / "SPA2.json").write_text(json.dumps({"organ": "Breast", "pixel_size_um_estimated": 0.49}))
    return tmp_path


def test_every_slide_is_listed_with_what_is_known(folder):
    found = hd.io.hest_samples(folder)
    assert list(found.index) == ["NCBI3", "NEW4", "SPA2", "TENX1"]
    assert found.index.name == "id"
    assert found["organ"].tolist() == ["Breast", "Skin", "Breast", "Lung"]
    assert found["patient"].tolist() == ["8", "9", "7", ""]
    assert found["oncotree"].tolist() == [""] * 4
    np.testing.assert_array_equal(found["mpp"], [np.nan, np.nan, 0.49, 0.2125])  # the file of the slide is right
    assert found["genes"].tolist() == [pd.NA, 300, pd.NA, pd.NA]
    assert (found[["spots", "genes", "width", "height"]].dtypes == "Int64").all()
    folders = ["st", "wsis", "metadata", "patches", "tissue_seg", "cellvit_seg", "xenium_seg", "transcripts"]
    assert list(found.columns[-8:]) == folders
    assert found.loc["SPA2", folders].tolist() == [True, True, True, False, False, True, False, False]
    assert found.loc["NEW4", folders].tolist() == [False, True, True, *[False] * 5]
    assert not found.loc["TENX1", folders].any()


@pytest.mark.parametrize(
    ("filters", "ids"),
    [
        ({"organ": "breast"}, ["NCBI3", "SPA2"]),
        ({"organ": ["SKIN", "lung"]}, ["NEW4", "TENX1"]),
        ({"technology": "visium"}, ["SPA2"]),
        ({"technology": ("visium hd", "Xenium")}, ["NCBI3", "TENX1"]),
        ({"species": "homo SAPIENS", "max_mpp": 0.49}, ["SPA2", "TENX1"]),
        ({"patient": 9}, ["NEW4"]),
        ({"patient": ["7", "8"], "organ": "lung"}, []),
        ({"max_mpp": 0.3}, ["TENX1"]),
        ({"complete": True}, ["SPA2"]),
        ({"organ": []}, []),
    ],
)
def test_filters(folder, filters, ids):
    assert list(hd.io.hest_samples(folder, **filters).index) == ids


@pytest.mark.parametrize(
    ("filters", "words"),
    [
        ({"organ": "brest"}, ["no organ 'brest'", "'Breast', 'Lung', 'Skin'", "Did you mean 'Breast'"]),
        ({"technology": ["Visium", "CosMx"]}, ["no technology 'CosMx'", "'Visium HD'"]),
        ({"oncotree": "IDC"}, ["no oncotree 'IDC'", "there are: none"]),
        ({"patient": ""}, ["no patient ''", "'7', '8', '9'"]),
        ({"max_mpp": 0}, ["max_mpp=0", "such as 0.5"]),
    ],
)
def test_a_filter_that_nothing_can_pass(folder, filters, words):
    with pytest.raises(HisDiffError) as caught:
        hd.io.hest_samples(folder, **filters)
    assert all(word in str(caught.value) for word in words), caught.value


def test_every_slide_that_is_listed_as_complete_can_be_read(every_root, tmp_path):
    for number, root in enumerate(every_root.values()):
        for path in root.rglob("S1*"):
            target = tmp_path / "all" / path.parent.name / path.name.replace("S1", f"S{number}", 1)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
    found = hd.io.hest_samples(tmp_path / "all", complete=True)
    assert list(found["technology"]) == list(every_root)
    assert found["transcripts"].tolist() == found["xenium_seg"].tolist() == [False, False, False, True]
    assert found[["st", "wsis", "metadata", "patches", "tissue_seg", "cellvit_seg"]].all(axis=None)
    for name, row in found.iterrows():
        attrs = hd.io.hest(tmp_path / "all", name).attrs["hisdiff_sd"]
        assert (attrs["technology"], attrs["mpp"]) == (row["technology"], row["mpp"])
    (tmp_path / "all" / "st" / "S0.h5ad").unlink()
    assert list(hd.io.hest_samples(tmp_path / "all", complete=True).index) == ["S1", "S2", "S3"]


def test_a_folder_that_is_missing_or_empty(tmp_path):
    with pytest.raises(MissingFileError, match="no folder .*nowhere"):
        hd.io.hest_samples(tmp_path / "nowhere")
    found = hd.io.hest_samples(tmp_path, complete=True, max_mpp=1.0)
    assert found.empty
    assert "organ" in found


def test_metadata_that_cannot_be_read_are_named(folder):
    (folder / "metadata" / "NEW4.json").write_text("{")
    with pytest.raises(HisDiffError, match=r"NEW4\.json is not valid JSON"):
        hd.io.hest_samples(folder)
