"""Bad input: one clear error that names the place, the value and the way out, and nothing written."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import hisdiff_sd as hd
from hisdiff_sd._errors import HisDiffError, MissingFileError


@pytest.fixture
def refused(root, snapshot):
    """A function that reads T1, expects one error that says all of some words, and that nothing was written."""

    def check(*words, error=HisDiffError, slide="T1", path=root, **options):
        before = snapshot(root.parent)
        with pytest.raises(error) as caught:
            hd.io.hest(path, slide, **options)
        message = str(caught.value)
        assert not [w for w in words if w not in message], message
        assert "\n" not in message
        assert snapshot(root.parent) == before
        return message

    return check


def test_a_missing_root(refused, tmp_path):
    refused(str(tmp_path / "nowhere"), "wsis/", path=tmp_path / "nowhere", error=MissingFileError)


def test_a_root_without_slides(refused, tmp_path, root):
    for folder in root.iterdir():
        shutil.rmtree(folder) if folder.is_dir() else folder.unlink()
    refused("T1", "none", error=MissingFileError)


def test_an_unknown_id_lists_the_ids_and_the_nearest(refused):
    refused("'T1x'", "T1, T2", "Did you mean 'T1'", slide="T1x", error=MissingFileError)


def test_of_many_ids_only_some_are_listed(refused, root):
    for i in range(40):
        (root / "st" / f"X{i:02d}.h5ad").touch()
    message = refused("42 in all", slide="X99", error=MissingFileError)
    assert len(message) < 400


@pytest.mark.parametrize("name", ["../hest/st/T1", "st/../T1", "", ".", "T1.h5ad", "*"])
def test_an_id_is_a_name_and_never_a_path(refused, name):
    refused(repr(name), "T1, T2", slide=name, error=MissingFileError)


def test_hidden_files_are_no_slides(refused, root):
    (root / "wsis" / "._T1.tif").touch()
    assert "._T1" not in refused("T1, T2", slide="T3", error=MissingFileError)


@pytest.mark.parametrize(("file", "word"), [("st/T1.h5ad", "counts"), ("wsis/T1.tif", "H&E image")])
def test_a_missing_file_of_a_slide(refused, root, file, word):
    (root / file).unlink()
    refused("'T1'", word, str(root / file), "fetch it", error=MissingFileError)


def test_missing_metadata(refused, root):
    (root / "metadata" / "T1.json").unlink()
    (root / "HEST_v1_1_0.csv").unlink()
    refused("T1.json", "HEST_v*.csv", "fetch it", error=MissingFileError)


@pytest.mark.parametrize("text", ["", "{", '{"id": "T1",}', "\x00\x01"])
def test_broken_json(refused, root, text):
    (root / "metadata" / "T1.json").write_text(text)
    refused("T1.json", "not valid JSON", "fetch")


def test_json_that_is_no_object(refused, root):
    (root / "metadata" / "T1.json").write_text("[1, 2]")
    refused("T1.json", "list", "JSON object")


@pytest.mark.parametrize("content", [b"", b'id,"a\n"b,c,"d\n1,2,3,4,5', b"\xff\xfe\x00id"])
def test_a_broken_table_of_slides(refused, root, content):
    (root / "HEST_v1_1_0.csv").write_bytes(content)
    refused("HEST_v1_1_0.csv", "fetch")


@pytest.mark.parametrize("value", [None, float("nan"), "", " ", "unknown", 0, -0.5, float("inf")])
def test_no_pixel_size(refused, edit_metadata, value):
    edit_metadata(pixel_size_um_estimated=value, pixel_size_um_embedded=0.5)
    refused("'T1'", "pixel_size_um_estimated", "give mpp=")


@pytest.mark.parametrize("mpp", [0, -1.0, float("nan"), float("inf")])
def test_a_given_pixel_size_that_is_none(refused, mpp):
    refused(f"mpp={mpp}", "such as 0.5", mpp=mpp)


@pytest.mark.parametrize("technology", ["CosMx", "visium", None])
def test_an_unsupported_technology(refused, edit_metadata, technology):
    edit_metadata(st_technology=technology)
    refused("'T1'", repr(technology or "unknown"), "Visium, Spatial Transcriptomics, Visium HD, Xenium")


def test_counts_of_another_slide_look_different(refused, root):
    # the spots of T2 lie inside the image of T1: the small image beside the counts tells them apart
    shutil.copy(root / "st" / "T2.h5ad", root / "st" / "T1.h5ad")
    refused("T1.h5ad", "T1.tif", "different slides", "correlation")


def test_the_small_image_may_be_of_floats_or_missing(root, edit_counts):
    def as_floats(table):
        images = table.uns["spatial"]["ST"]["images"]
        images["downscaled_fullres"] = images["downscaled_fullres"].astype(np.float32) / 255

    edit_counts(as_floats)
    assert hd.io.hest(root, "T1")["table"].n_obs > 0
    edit_counts(lambda table: table.uns.pop("spatial"))
    assert hd.io.hest(root, "T1")["table"].n_obs > 0


def test_duplicated_barcodes(refused, edit_counts):
    def repeat(table):
        names = list(table.obs_names)
        table.obs_names = [names[1], *names[1:]]
        return table

    edit_counts(repeat)
    refused("T1.h5ad", "1 barcodes", "more than once", "x")


@pytest.mark.parametrize(("value", "words"), [(np.nan, ["NaN"]), (np.inf, ["infinite"]), (-2.0, ["negative", "-2"])])
@pytest.mark.parametrize("dense", [True, False])
def test_counts_that_are_no_counts(refused, edit_counts, value, words, dense):
    def spoil(table):
        table.X = table.X.astype(np.float32)
        table.X.data[5] = value
        if dense:
            table.X = table.X.toarray()

    edit_counts(spoil)
    refused("T1.h5ad", "1 counts", "raw counts are needed", *words)


def test_no_counts_at_all(refused, edit_counts):
    def strip(table):
        del table.X

    edit_counts(strip)
    refused("T1.h5ad", "no counts")


@pytest.mark.parametrize("shape", ["spots", "genes"])
def test_an_empty_table(refused, edit_counts, shape):
    edit_counts(lambda table: (table[:0] if shape == "spots" else table[:, :0]).copy())
    refused("T1.h5ad", "no counts")


def test_positions_that_are_missing(refused, edit_counts):
    edit_counts(lambda table: table.obsm.clear())
    refused("T1.h5ad", "obsm['spatial']")


def test_positions_in_one_dimension(refused, edit_counts):
    def flatten(table):
        table.obsm["spatial"] = table.obsm["spatial"][:, :1]

    edit_counts(flatten)
    refused("T1.h5ad", "x and y")


def test_positions_that_are_not_finite(refused, edit_counts):
    def spoil(table):
        table.obsm["spatial"][2, 0] = np.nan

    edit_counts(spoil)
    refused("T1.h5ad", "1 spots have no finite position")


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.9, 0.9999])
def test_a_truncated_h5ad(refused, root, share):
    path = root / "st" / "T1.h5ad"
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    refused("T1.h5ad", "h5ad", "fetch it again")


@pytest.mark.parametrize("content", [b"not an h5ad file", b"\x89HDF\r\n\x1a\n" + bytes(500)])
def test_an_h5ad_of_something_else(refused, root, content):
    (root / "st" / "T1.h5ad").write_bytes(content)
    refused("T1.h5ad", "h5ad", "fetch it again")


@pytest.mark.parametrize("content", [b"", b"no image\n" * 50, b"II*\x00", b"II+\x00\x08\x00\x00\x00"])
def test_a_tiff_of_something_else(refused, root, content):
    (root / "wsis" / "T1.tif").write_bytes(content)
    refused("T1.tif", "TIFF", "fetch it again")


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(share=st.floats(0, 1, exclude_max=True))
@example(share=0.0)
@example(share=1 - 1e-9)
def test_a_tiff_that_is_cut_anywhere(tiny_root, root, share):
    content = (tiny_root / "wsis" / "T1.tif").read_bytes()
    path = root / "wsis" / "T1.tif"
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(HisDiffError, match=r"T1\.tif .*(truncated|cannot be read as a TIFF).*fetch it again"):
        hd.io.hest(root, "T1")


def test_a_tiff_that_is_cut_between_its_levels(refused, root):
    path = root / "wsis" / "T1.tif"
    with tifffile.TiffFile(path) as tiff:
        starts = [page.offset for page in tiff.pages][1:]
    content = path.read_bytes()
    for start in starts:
        for end in (start - 1, start, start + 1, start + 30):
            path.write_bytes(content[:end])
            refused("T1.tif", "truncated", "fetch it again")


@pytest.mark.parametrize(
    ("image", "word"),
    [
        (np.full((900, 900, 3), 9, np.uint16), "uint16"),
        (np.full((900, 900), 9, np.uint8), "(900, 900)"),
        (np.full((900, 900), 9, np.uint16), "(900, 900)"),
        (np.full((900, 900, 3), 0.5, np.float32), "float32"),
    ],
    ids=["16-bit", "grey", "grey 16-bit", "float"],
)
def test_an_image_that_is_no_8_bit_rgb(make_slide, image, word):
    root = make_slide(image)
    with pytest.raises(HisDiffError, match=r"M1\.tif .*8-bit RGB image is needed") as caught:
        hd.io.hest(root, "M1")
    assert word in str(caught.value)


def test_tiles_that_cannot_be_decoded(refused, root):
    # of the smallest level that the thumbnail is made from: a small slide has only its own
    path = root / "wsis" / "T1.tif"
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages[0]
        start, length = page.dataoffsets[3], page.databytecounts[3]
    content = bytearray(path.read_bytes())
    content[start : start + length] = bytes(length)
    path.write_bytes(content)
    refused("T1.tif", "fetch it again")


def test_the_message_of_a_wrong_slide_tells_where_spots_reach(refused, edit_counts):
    edit_counts(lambda table: table.obsm.update(spatial=table.obsm["spatial"] + 5000))
    assert "1100 x 900 px" in refused("T1.h5ad", "T1.tif", "outside the image", "different slides")


def test_bare_nan_is_no_broken_json(root):
    path = root / "metadata" / "T1.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"pixel_size_um_embedded": float("nan")}))
    assert "NaN" in path.read_text()
    assert hd.io.hest(root, "T1").attrs["hisdiff_sd"]["mpp"] == 1.0
