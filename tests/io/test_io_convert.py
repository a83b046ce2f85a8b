"""Cohorts to stores: what is written, what is skipped, what fails and is said."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import spatialdata
import tifffile
import zarr
from distributed import Client, LocalCluster

import hisdiff_sd as hd
from hisdiff_sd._errors import HisDiffError, MissingFileError
from hisdiff_sd.io import _convert, _verify


@pytest.fixture(scope="module")
def big_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two slides of 1,130 x 1,090 px, so that there is a pyramid and a padding. Read only."""
    out = tmp_path_factory.mktemp("big") / "hest"
    return hd.datasets.synthetic(out, slides=("B1", "B2"), size_um=(1131.0, 1091.0), mpp=1.0, n_genes=12, seed=4)


@pytest.fixture
def cohort(big_root: Path, tmp_path: Path) -> Path:
    """A copy of them, to damage."""
    return Path(shutil.copytree(big_root, tmp_path / "hest"))


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client


def levels(image: object) -> list[np.ndarray]:
    return [np.asarray(level) for level in spatialdata.get_pyramid_levels(image, attr="data")]


def test_a_root_becomes_stores_that_hold_the_slides(big_root, tmp_path):
    report = hd.io.convert(big_root, tmp_path / "stores")
    assert report["status"].tolist() == ["done", "done"]
    assert report["slide"].tolist() == ["B1", "B2"]
    assert report["store"].tolist() == [str(tmp_path / "stores" / f"{name}.zarr") for name in ("B1", "B2")]
    assert (report["bytes_added"] > 1e6).all()
    for name in ("B1", "B2"):
        sdata, source = spatialdata.read_zarr(tmp_path / "stores" / f"{name}.zarr"), hd.io.hest(big_root, name)
        pixels = tifffile.imread(big_root / "wsis" / f"{name}.tif").transpose(2, 0, 1)
        level = levels(sdata["he"])[0]
        np.testing.assert_array_equal(level[:, :1091, :1131], pixels)
        assert (level[:, 1091:] == 255).all()
        assert (sdata["table"].X != source["table"].X).nnz == 0
        assert sdata["table"].obs_names.tolist() == source["table"].obs_names.tolist()


def test_the_same_call_skips_what_is_there_and_takes_up_what_is_not(cohort, tmp_path, caplog):
    caplog.set_level(logging.INFO, "hisdiff_sd")
    image = cohort / "wsis" / "B1.tif"
    image.rename(image.with_suffix(".away"))
    report = hd.io.convert(cohort, tmp_path / "stores")
    assert report["status"].tolist() == ["failed", "done"]
    assert "B1.tif" in report["error"][0]
    assert not (tmp_path / "stores" / "B1.zarr").exists()
    image.with_suffix(".away").rename(image)
    before = os.stat(tmp_path / "stores" / "B2.zarr" / "zarr.json")
    report = hd.io.convert(cohort, tmp_path / "stores")
    assert report["status"].tolist() == ["done", "skipped"]
    assert os.stat(tmp_path / "stores" / "B2.zarr" / "zarr.json") == before
    assert any(text.startswith("slides to convert: 1, stores there: 1; images of ") for text in caplog.messages)


def test_workers_convert_as_this_process_does(big_root, tmp_path, client):
    here = hd.io.convert(big_root, tmp_path / "here", samples=["B1"])
    there = hd.io.convert(big_root, tmp_path / "there", client=client)
    assert there["status"].tolist() == ["done", "done"]
    assert here.columns.tolist() == there.columns.tolist()
    one, other = (spatialdata.read_zarr(tmp_path / folder / "B1.zarr") for folder in ("here", "there"))
    for a, b in zip(levels(one["he"]), levels(other["he"]), strict=True):
        np.testing.assert_array_equal(a, b)
    assert one.attrs == other.attrs


@pytest.mark.parametrize("change", ["image", "counts", "metadata"])
def test_a_store_of_another_source_is_left_alone_and_said(cohort, tmp_path, change):
    hd.io.convert(cohort, tmp_path / "stores", samples=["B1"])
    hd.pp.tissue(hd.io.open(tmp_path / "stores" / "B1.zarr"))
    if change == "metadata":
        path = cohort / "metadata" / "B1.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"pixel_size_um_estimated": 1.01}))
    else:
        file = f"wsis/{'B%d'}.tif" if change == "image" else "st/B%d.h5ad"
        shutil.copyfile(cohort / (file % 2), cohort / (file % 1))
    report = hd.io.convert(cohort, tmp_path / "stores", samples=["B1"])
    assert report["status"].tolist() == ["failed"]
    differs = {"metadata": "what is said of it"}.get(change, change)
    assert f"B1.zarr was made from another source ({differs} differ)" in report["error"][0]
    assert "overwrite=True" in report["error"][0]
    assert "tissue" in spatialdata.read_zarr(tmp_path / "stores" / "B1.zarr").shapes
    if change == "metadata":
        report = hd.io.convert(cohort, tmp_path / "stores", samples=["B1"], overwrite=True)
        assert report["status"].tolist() == ["done"]
        sdata = spatialdata.read_zarr(tmp_path / "stores" / "B1.zarr")
        assert sdata.attrs["hisdiff_sd"]["mpp"] == 1.01
        assert "tissue" not in sdata.shapes


def test_a_newer_catalogue_leaves_stores_finished(cohort, tmp_path):
    hd.io.convert(cohort, tmp_path / "stores", samples=["B1"])
    (cohort / "HEST_v9_0_0.csv").write_text("id,license\nB1,CC BY 4.0\n")
    assert hd.io.convert(cohort, tmp_path / "stores", samples=["B1"])["status"].tolist() == ["skipped"]


def test_files_side_by_side_are_converted(big_root, tmp_path):
    (tmp_path / "flat").mkdir()
    for folder in ("wsis", "st", "metadata"):
        for file in (big_root / folder).iterdir():
            shutil.copy(file, tmp_path / "flat")
    assert hd.io.convert(tmp_path / "flat", tmp_path / "stores")["error"].tolist() == ["", ""]
    assert hd.io.convert(tmp_path / "flat", tmp_path / "stores")["status"].tolist() == ["skipped", "skipped"]
    sdata = spatialdata.read_zarr(tmp_path / "stores" / "B2.zarr")
    assert sdata["table"].n_obs == hd.io.hest(big_root, "B2")["table"].n_obs


def test_outlines_that_have_changed_are_said_and_those_that_came_later_are_no_other_source(copy_of, tmp_path, caplog):
    root, stores = copy_of("Visium"), tmp_path / "stores"
    outlines = root / "tissue_seg" / "S1_contours.geojson"
    text = outlines.read_text()
    outlines.unlink()
    assert hd.io.convert(root, stores)["status"].tolist() == ["done"]
    outlines.write_text(text)
    with caplog.at_level(logging.WARNING, logger="hisdiff_sd"):
        assert hd.io.convert(root, stores)["status"].tolist() == ["skipped"]
    assert "made before outlines of its tissue were there" in caplog.text
    assert hd.io.convert(root, stores, overwrite=True)["status"].tolist() == ["done"]
    assert "tissue" in spatialdata.read_zarr(stores / "S1.zarr").shapes
    outlines.write_text(text.replace("tissue_id", "tissue"))
    report = hd.io.convert(root, stores)
    assert "made from another source (outlines of the tissue differ)" in report["error"].item()


def test_stores_of_write_are_taken_and_those_of_others_are_not(big_root, tmp_path):
    for store, slide in (("B1", "B1"), ("B2", "B1")):
        hd.io.write(hd.io.hest(big_root, slide), tmp_path / f"{store}.zarr")
    report = hd.io.convert(big_root, tmp_path)
    assert report["status"].tolist() == ["skipped", "failed"]
    assert "B2.zarr holds slide 'B1'" in report["error"][1]
    shutil.rmtree(tmp_path / "B2.zarr")
    (tmp_path / "B2.zarr").mkdir()
    (tmp_path / "B2.zarr" / "mine.txt").touch()
    report = hd.io.convert(big_root, tmp_path, samples=["B2"], overwrite=True)
    assert "is no zarr store; it is not replaced" in report["error"][0]
    assert (tmp_path / "B2.zarr" / "mine.txt").exists()


@pytest.mark.parametrize("compression", ["blosc-zstd", "blosc-lz4"])
def test_every_compression_gives_the_same_pixels_to_every_reader(big_root, tmp_path, compression):
    hd.io.convert(big_root, tmp_path, samples=["B1"], compression=compression)
    array = zarr.open_array(tmp_path / "B1.zarr" / "images" / "he" / "s0", mode="r")
    assert array.metadata.to_dict()["codecs"][1]["name"] == "blosc"
    expected = levels(hd.io.hest(big_root, "B1")["he"])
    for found, level in zip(levels(spatialdata.read_zarr(tmp_path / "B1.zarr")["he"]), expected, strict=True):
        np.testing.assert_array_equal(found, level)


def test_what_makes_no_sense_is_refused_before_any_work(big_root, tmp_path):
    with pytest.raises(HisDiffError, match="no compression 'zstandard'.*'zstd'"):
        hd.io.convert(big_root, tmp_path / "out", compression="zstandard")
    with pytest.raises(HisDiffError, match=r"has no slide 'B11'; it has 2.*near: B1"):
        hd.io.convert(big_root, tmp_path / "out", samples=["B11"])
    with pytest.raises(HisDiffError, match="samples= names no slide; leave it out to convert all 2"):
        hd.io.convert(big_root, tmp_path / "out", samples=[])
    with pytest.raises(MissingFileError, match="no HEST root and no sample sheet"):
        hd.io.convert(tmp_path / "nothing", tmp_path / "out")
    with pytest.raises(MissingFileError, match="no slides in .*: a HEST root has the folders"):
        hd.io.convert(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def spoil(sdata: spatialdata.SpatialData, what: str) -> None:
    """Change one thing of a slide."""
    if what == "pixels":
        level = next(iter(sdata["he"].children["scale0"].values()))
        level.data = level.data.map_blocks(lambda block: block ^ 1, dtype=np.uint8)
    elif what == "level 1":
        level = next(iter(sdata["he"].children["scale1"].values()))
        level.data = level.data.map_blocks(lambda block: np.roll(block, 1, axis=1), dtype=np.uint8)
    elif what == "counts":
        sdata["table"].X = sdata["table"].X * 2
    elif what == "spots":
        sdata["spots"]["geometry"] = sdata["spots"].translate(1, 0)
    else:
        del sdata.shapes["spots"]


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("pixels", r"pixels of image 'he', level 0"),
        ("level 1", r"pixels of image 'he', level 1"),
        ("counts", "sum of table 'table'"),
        ("spots", "place of shapes 'spots'"),
        ("element", "names of shapes"),
    ],
)
def test_a_store_that_is_not_its_source_is_found(big_root, what, said):
    written, source = (hd.io.hest(big_root, "B1") for _ in range(2))
    _verify.verify(written, source)
    spoil(written, what)
    with pytest.raises(HisDiffError, match=f"what was written is not what was read .{said}"):
        _verify.verify(written, source)


def test_what_was_not_verified_is_thrown_away(big_root, tmp_path, monkeypatch, snapshot):
    def fail(written: object, source: object) -> None:
        raise HisDiffError("pixels differ")

    hd.io.convert(big_root, tmp_path, samples=["B1"])
    before = snapshot(tmp_path / "B1.zarr")
    monkeypatch.setattr(_convert, "verify", fail)
    report = hd.io.convert(big_root, tmp_path, overwrite=True)
    assert report["error"].tolist() == ["HisDiffError: pixels differ"] * 2
    assert snapshot(tmp_path / "B1.zarr") == before
    assert not (tmp_path / "B2.zarr").exists()


class TestSheet:
    """Cohorts named by a CSV file."""

    @pytest.fixture
    def sheet(self, big_root: Path, tmp_path: Path) -> Callable[..., Path]:
        """Write a sheet beside the slides."""
        shutil.copytree(big_root, tmp_path / "data" / "hest")

        def write(text: str) -> Path:
            path = tmp_path / "data" / "sheet.csv"
            path.write_text(text)
            return path

        return write

    def test_rows_are_read_by_the_readers_they_fit(self, sheet, tmp_path):
        src = sheet("Id,path,image,mpp,patient,batch\nB1,hest,,,P9,1\nbare,,hest/wsis/B2.tif,0.5,P8,2\n")
        report = hd.io.convert(src, tmp_path / "stores")
        assert report["error"].tolist() == ["", ""]
        one, other = (spatialdata.read_zarr(tmp_path / "stores" / f"{n}.zarr") for n in ("B1", "bare"))
        assert "table" in one.tables
        assert one.attrs["hisdiff_sd"]["patient"] == "P9"
        assert not other.tables
        assert {k: other.attrs["hisdiff_sd"][k] for k in ("slide", "mpp", "patient")} == {
            "slide": "bare",
            "mpp": 0.5,
            "patient": "P8",
        }
        # another pixel size makes another slide of the same file
        src = sheet("id,image,mpp,patient\nbare,hest/wsis/B2.tif,0.25,P8\n")
        report = hd.io.convert(src, tmp_path / "stores")
        assert "what is said of it differ" in report["error"][0]

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("name,path\nB1,hest\n", "has no column 'id'"),
            ("id,path\n", "has no rows"),
            ("id,path\nB1,hest\nb1,hest\n", "names slide 'b1' twice"),
            ("id,path\n../B1,hest\n", r"line 2 of .*'\.\./B1' cannot be an id"),
            ("id,path\n.B1,hest\n", r"'\.B1' cannot be an id"),
            ("id,imag\nB1,a.tif\n", "has a column 'imag'; is 'image' meant"),
            ("id,path,mpp\nB1,hest,wide\n", "mpp 'wide' is no pixel size"),
            ("id,path,mpp\nB1,hest,-1\n", "mpp '-1' is no pixel size"),
            ("id,path,reader\nB1,hest,hesst\n", "no reader .*'hesst'; there are: 'hest', 'visium', 'wsi'"),
            ("id,path,reader\nB1,hest,visium\n", "read by visium, which needs image and path; the sheet gives path"),
            ("id,path\nB1,\n", "read by wsi, which needs image; the sheet gives neither"),
            ("", "cannot be read as a table"),
        ],
    )
    def test_a_sheet_that_makes_no_sense_is_refused_before_any_work(self, sheet, tmp_path, text, said):
        with pytest.raises(HisDiffError, match=said):
            hd.io.convert(sheet(text), tmp_path / "stores")
        assert not (tmp_path / "stores").exists()


def test_the_example_of_the_docs_is_a_sheet(tmp_path):
    """The sheet in docs/cohorts.md is read as it stands there."""
    from hisdiff_sd.io._samples import samples_of

    text = (Path(__file__).parents[2] / "docs" / "cohorts.md").read_text()
    (tmp_path / "cohort.csv").write_text("id," + text.partition("```text\nid,")[2].partition("```")[0])
    found = samples_of(tmp_path / "cohort.csv")
    assert [sample.reader for sample in found] == ["hest", "visium", "wsi"]
    assert isinstance(pd.read_csv(tmp_path / "cohort.csv"), pd.DataFrame)
