"""Stores whose pixels stay in the image file."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import spatialdata
from PIL import Image
from spatialdata.transformations import get_transformation

import hisdiff_sd as hd
from hisdiff_sd._cohort import image_pixels
from hisdiff_sd._errors import HisDiffError, MissingFileError
from hisdiff_sd.io._image import levels_of


@pytest.fixture(scope="module")
def linkable(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A slide of 2,131 x 2,091 px: three levels, padded. Read only."""
    out = tmp_path_factory.mktemp("link") / "hest"
    return hd.datasets.synthetic(out, slides=("L1",), size_um=(2131.0, 2091.0), mpp=1.0, n_genes=12, seed=4)


@pytest.fixture(scope="module")
def whole(linkable: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its store with pixels, embedded. Read only."""
    path = tmp_path_factory.mktemp("whole") / "L1.zarr"
    hd.pp.embed(hd.io.write(hd.io.hest(linkable, "L1"), path), "morphology")
    return path


@pytest.fixture
def moved(linkable: Path, tmp_path: Path) -> Path:
    """A folder with a copy of the slide, ``hest/``, and a store that is linked to it, ``stores/L1.zarr``."""
    shutil.copytree(linkable, tmp_path / "project" / "hest")
    report = hd.io.convert(tmp_path / "project" / "hest", tmp_path / "project" / "stores", link=True)
    assert report["error"].tolist() == [""]
    return tmp_path / "project"


def test_a_linked_slide_is_the_slide(moved, whole):
    sdata, expected = hd.io.open(moved / "stores" / "L1.zarr"), spatialdata.read_zarr(whole)
    pairs = [spatialdata.get_pyramid_levels(s["he"], attr="data") for s in (sdata, expected)]
    for found, level in zip(*pairs, strict=True):
        np.testing.assert_array_equal(np.asarray(found), np.asarray(level))
    assert "he" in repr(sdata)
    hd.pp.embed(sdata, "morphology")
    # sums in threads are not the same to the bit
    np.testing.assert_allclose(sdata["spots_morphology"].X, expected["spots_morphology"].X, atol=1e-6)
    hd.pp.tissue(sdata)
    again = hd.io.open(moved / "stores" / "L1.zarr")
    assert {"spots_morphology", "table"} == set(again.tables)
    assert "tissue" in again.shapes
    assert "he" in again.images


def test_a_linked_store_is_small_and_lies_on_the_slide_for_every_reader(moved, whole):
    sdata = spatialdata.read_zarr(moved / "stores" / "L1.zarr")
    assert image_pixels(moved / "stores" / "L1.zarr") == np.prod(hd.io.open(whole).attrs["hisdiff_sd"]["true_size"])
    assert list(sdata.images) == ["he_small"]  # not "he": whoever cuts tiles from it would cut them from another place
    small = sdata["he_small"]
    np.testing.assert_array_equal(
        np.asarray(small.data),
        np.asarray(list(spatialdata.get_pyramid_levels(spatialdata.read_zarr(whole)["he"], attr="data"))[2]),
    )
    matrix = get_transformation(small, "global").to_affine_matrix(("x", "y"), ("x", "y"))
    np.testing.assert_allclose(matrix, np.diag([4.0, 4.0, 1.0]))
    with pytest.raises(HisDiffError, match="no image 'he'; images here: 'he_small'"):
        hd.pp.embed(sdata, "morphology")

    def size(store: Path) -> int:
        return sum(file.stat().st_size for file in (store / "images").rglob("*") if file.is_file())

    assert size(moved / "stores" / "L1.zarr") < 0.15 * size(whole)


def test_functions_of_paths_find_the_pixels(moved, whole, tmp_path):
    report = hd.map_stores(hd.pp.embed, [moved / "stores" / "L1.zarr"], encoder="morphology")
    assert report["error"].tolist() == [""]
    mine = tmp_path / "mine" / "L1.zarr"
    sdata = hd.io.open(moved / "stores" / "L1.zarr", companion=mine)
    hd.pp.embed(sdata, "morphology", key_added="again")
    np.testing.assert_allclose(sdata["again"].X, spatialdata.read_zarr(whole)["spots_morphology"].X, atol=1e-6)


def test_an_image_that_is_gone_is_said_with_the_way_out(moved):
    store = moved / "stores" / "L1.zarr"
    hd.pp.tissue(hd.io.open(store))
    (moved / "hest").rename(moved / "elsewhere")
    with pytest.raises(MissingFileError, match=r"pixels of slide 'L1' .*L1\.tif, which is gone.*hd\.io\.convert\("):
        hd.io.open(store)
    assert set(spatialdata.read_zarr(store).tables) == {"table"}
    report = hd.io.convert(moved / "elsewhere", moved / "stores", link=True)
    assert report["status"].tolist() == ["done"]
    sdata = hd.io.open(store)
    assert "tissue" in sdata.shapes
    assert np.asarray(next(iter(spatialdata.get_pyramid_levels(sdata["he"], attr="data")))[:, :9, :9]).shape == (
        3,
        9,
        9,
    )
    assert hd.io.convert(moved / "elsewhere", moved / "stores", link=True)["status"].tolist() == ["skipped"]


def test_store_and_image_can_be_moved_together(moved, tmp_path):
    moved.rename(tmp_path / "archive")
    assert "he" in hd.io.open(tmp_path / "archive" / "stores" / "L1.zarr").images


def test_another_image_in_its_place_is_refused(moved):
    image = moved / "hest" / "wsis" / "L1.tif"
    content = bytearray(image.read_bytes())
    content[len(content) // 2] ^= 255
    image.write_bytes(content)
    with pytest.raises(HisDiffError, match=r"L1\.tif is not the image that .*L1\.zarr was made from"):
        hd.io.open(moved / "stores" / "L1.zarr")


def test_check_says_that_the_image_is_gone_and_quality_is_known_without_it(moved):
    store, companion = moved / "stores" / "L1.zarr", moved / "mine" / "L1.zarr"
    hd.io.open(store, companion=companion)
    assert hd.io.check(store).empty
    before = str(hd.io.qc(store))
    (moved / "hest").rename(moved / "elsewhere")
    found = hd.io.check(store)
    assert found["severity"].tolist() == ["error"]
    assert found["where"].tolist() == ["images/he"]
    assert "L1.tif, which is gone" in found["problem"][0]
    assert hd.io.check(companion).empty  # it has no pixels of its own, linked or not
    assert str(hd.io.qc(store)) == before


def test_a_linked_slide_that_is_written_anew_has_its_own_pixels(moved, caplog):
    hd.io.write(hd.io.open(moved / "stores" / "L1.zarr"), moved / "copies" / "L1.zarr")
    with caplog.at_level("WARNING", logger="hisdiff_sd"):
        assert hd.io.convert(moved / "hest", moved / "copies")["status"].tolist() == ["skipped"]
    assert "holds no pixels" not in caplog.text
    (moved / "hest").rename(moved / "elsewhere")
    assert hd.io.check(moved / "copies" / "L1.zarr").empty
    assert np.asarray(hd.io.open(moved / "copies" / "L1.zarr")["he"]["scale0"]["image"][:, :9, :9]).shape == (3, 9, 9)


def test_check_says_that_the_link_is_damaged(moved):
    metadata = json.loads((moved / "stores" / "L1.zarr" / "zarr.json").read_text())
    del metadata["attributes"]["hisdiff_sd"]["link"]["fingerprint"]
    (moved / "stores" / "L1.zarr" / "zarr.json").write_text(json.dumps(metadata))
    assert "link to the image of the slide is damaged" in hd.io.check(moved / "stores" / "L1.zarr")["problem"].item()


def test_asking_for_the_other_kind_is_said(moved):
    report = hd.io.convert(moved / "hest", moved / "stores")
    assert report["status"].tolist() == ["skipped"]
    assert "L1.zarr holds no pixels; give overwrite=True" in report["warnings"][0]
    report = hd.io.convert(moved / "hest", moved / "stores", overwrite=True)
    assert list(spatialdata.read_zarr(moved / "stores" / "L1.zarr").images) == ["he"]


def test_pictures_that_cannot_be_read_in_parts_are_not_linked(tmp_path):
    Image.new("RGB", (700, 600), "pink").save(tmp_path / "a.png")
    (tmp_path / "sheet.csv").write_text("id,image,mpp\na,a.png,1\n")
    report = hd.io.convert(tmp_path / "sheet.csv", tmp_path / "stores", link=True)
    assert "a.png has to be decoded as a whole" in report["error"][0]


def test_a_slide_too_small_for_a_pyramid_is_linked(tiny_root, tmp_path):
    assert hd.io.convert(tiny_root, tmp_path, samples=["T1"], link=True).status.tolist() == ["done"]
    sdata = hd.io.open(tmp_path / "T1.zarr")
    truth = hd.io.hest(tiny_root, "T1")
    np.testing.assert_array_equal(
        np.asarray(levels_of(sdata["he"])[0].data), np.asarray(levels_of(truth["he"])[0].data)
    )
