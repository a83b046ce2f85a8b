"""Where `hd.io.hest` finds a slide: a whole HEST folder, a part of one, a folder with the files side by side."""

from __future__ import annotations

import json
import shutil

import anndata as ad
import numpy as np
import pytest
import tifffile
from scipy import sparse

import hisdiff_sd as hd
from hisdiff_sd._errors import MissingFileError


@pytest.fixture
def flat(every_root, tmp_path):
    """All files of the Xenium slide in one folder, without the table of all slides."""
    folder = tmp_path / "flat"
    folder.mkdir()
    for name in ("st", "wsis", "metadata", "patches", "tissue_seg", "cellvit_seg", "xenium_seg", "transcripts"):
        for path in (every_root["Xenium"] / name).iterdir():
            shutil.copy(path, folder)
    return folder


def test_files_side_by_side_are_the_same_slide(flat, every_root):
    options = {"cells": True, "transcripts": True}
    slide, whole = hd.io.hest(flat, "S1", **options), hd.io.hest(every_root["Xenium"], "S1", **options)
    assert slide.attrs == whole.attrs
    assert sorted(name for _, name, _ in slide.gen_elements()) == sorted(name for _, name, _ in whole.gen_elements())
    np.testing.assert_array_equal(slide["table"].X.toarray(), whole["table"].X.toarray())
    assert len(slide["transcripts"].compute()) == len(whole["transcripts"].compute())


def test_the_only_slide_needs_no_id(flat, tiny_root):
    assert hd.io.hest(flat).attrs["hisdiff_sd"]["slide"] == "S1"
    with pytest.raises(MissingFileError, match="which slide of .* there are: T1, T2"):
        hd.io.hest(tiny_root)


@pytest.mark.parametrize(("end", "word"), [(".h5ad", "counts"), (".tif", "H&E image"), (".json", "metadata")])
def test_a_file_that_is_missing_in_a_flat_folder(flat, end, word):
    (flat / f"S1{end}").unlink()
    with pytest.raises(MissingFileError, match=rf"{word}.*{flat / 'S1'}{end}.*fetch it"):
        hd.io.hest(flat, "S1")


def test_the_bundle_of_the_paper_has_three_folders(every_root, tmp_path):
    for name in ("st", "wsis", "metadata"):
        shutil.copytree(every_root["Visium"] / name, tmp_path / "bundle" / name)
    slide = hd.io.hest(tmp_path / "bundle", "S1")
    assert set(slide.shapes) == {"spots"}
    assert "patches" not in slide.attrs["hisdiff_sd"]["qc"]


def test_blank_json_is_filled_from_the_table(root):
    whole = hd.io.hest(root, "T1").attrs
    path = root / "metadata" / "T1.json"
    path.write_text(json.dumps(dict.fromkeys(json.loads(path.read_text()), "")))
    assert hd.io.hest(root, "T1").attrs == whole


def test_the_newest_of_several_tables_has_the_last_word(root):
    (root / "metadata" / "T1.json").unlink()
    text = (root / "HEST_v1_1_0.csv").read_text(encoding="utf-8-sig")
    (root / "HEST_v1_9_0.csv").write_text(text.replace("Breast", "Lung"), encoding="utf-8-sig")
    (root / "HEST_v1_10_0.csv").write_text(text.replace("Breast", "Skin"), encoding="utf-8-sig")
    assert hd.io.hest(root, "T1").attrs["hisdiff_sd"]["organ"] == "Skin"


def test_patients_that_are_numbers_are_the_same_in_json_and_table(root):
    path = root / "metadata" / "T1.json"
    record = json.loads(path.read_text())
    found = []
    for patient in (7, 7.0, "7", " 7"):
        path.write_text(json.dumps(record | {"patient": patient}))
        found.append(hd.io.hest(root, "T1").attrs["hisdiff_sd"]["patient"])
    path.unlink()
    table = root / "HEST_v1_1_0.csv"
    lines = table.read_text(encoding="utf-8-sig").splitlines()
    column = lines[0].split(",").index("patient")
    rows = [line.split(",") for line in lines]
    for row, patient in zip(rows[1:], ("7", ""), strict=True):
        row[column] = patient
    table.write_text("\n".join(",".join(row) for row in rows), encoding="utf-8-sig")
    found.append(hd.io.hest(root, "T1").attrs["hisdiff_sd"]["patient"])
    assert found == ["7"] * 5
    (root / "metadata" / "T2.json").unlink()
    assert hd.io.hest(root, "T2").attrs["hisdiff_sd"]["patient"] == ""


@pytest.mark.parametrize(
    "kind",
    [
        lambda x: x.toarray(),
        lambda x: x.toarray().astype(np.uint16),
        lambda x: x.astype(np.uint16),
        lambda x: sparse.csc_matrix(x),
        lambda x: x.astype(np.int64),
        lambda x: x.astype(np.float64),
    ],
    ids=["dense float32", "dense uint16", "uint16", "by column", "int64", "float64"],
)
def test_counts_of_any_kind_are_read_as_they_are(root, edit_counts, kind):
    before = ad.read_h5ad(root / "st" / "T1.h5ad").X.toarray()

    def change(table):
        table.X = kind(table.X)

    edit_counts(change)
    table = hd.io.hest(root, "T1")["table"]
    assert sparse.issparse(table.X)
    assert table.X.dtype == np.float32
    np.testing.assert_array_equal(table.X.toarray(), before)


def test_spots_that_are_said_to_be_off_the_tissue_are_kept(root, edit_counts):
    before = hd.io.hest(root, "T1")["table"].n_obs

    def change(table):
        table.obs["in_tissue"] = [0, *[1] * (table.n_obs - 1)]

    edit_counts(change)
    assert hd.io.hest(root, "T1")["table"].n_obs == before


@pytest.mark.parametrize("bigtiff", [True, False])
@pytest.mark.parametrize("compression", ["zlib", "lzw", "jpeg", None])
def test_every_kind_of_tiff_in_hest_is_read(root, bigtiff, compression):
    path = root / "wsis" / "T1.tif"
    pixels = tifffile.imread(path, level=0)
    with tifffile.TiffWriter(path, bigtiff=bigtiff) as tiff:
        for level in range(2):
            tiff.write(
                pixels[:: 2**level, :: 2**level],
                tile=(256, 256),
                photometric="rgb",
                compression=compression,
                predictor=compression in ("zlib", "lzw"),
                subfiletype=int(level > 0),
                metadata=None,
            )
    image = hd.io.hest(root, "T1")["he"]["scale0"].image
    found = image.to_numpy()[:, : pixels.shape[0], : pixels.shape[1]].transpose(1, 2, 0)
    assert np.abs(found.astype(int) - pixels).mean() <= (3 if compression == "jpeg" else 0)
