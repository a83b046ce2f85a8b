"""Stores that are not written to: what is added lies in a companion."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import dask.array as da
import numpy as np
import pandas as pd
import pytest
import spatialdata
from spatialdata.models import Image2DModel

import hisdiff_sd as hd
from hisdiff_sd._errors import HisDiffError, MissingFileError
from hisdiff_sd.io import open as open_store
from hisdiff_sd.io._store import write_image, write_table

NOBODY = 65534


def everything(folder: Path) -> dict[str, tuple[str, int]]:
    """Hash and time of all files below a folder, hidden ones included."""
    return {
        str(p.relative_to(folder)): (hashlib.sha256(p.read_bytes()).hexdigest(), p.stat().st_mtime_ns)
        if p.is_file()
        else ("folder", 0)
        for p in folder.rglob("*")
    }


def table_of(sdata: spatialdata.SpatialData, value: float):
    """A table that annotates all spots, full of one value."""
    table = sdata["spots_morphology"][:, :3].copy()
    table.X = np.full(table.shape, value, np.float32)
    return table


@pytest.fixture
def shared(stores: dict[str, Path], tmp_path: Path) -> Path:
    """A folder with copies of the three stores and nothing else, to look at or to change."""
    (tmp_path / "shared").mkdir()
    for name, path in stores.items():
        shutil.copytree(path, tmp_path / "shared" / f"{name}.zarr")
    return tmp_path / "shared"


def test_what_is_added_goes_into_the_companion_and_the_source_stays_as_it_is(shared: Path, tmp_path: Path) -> None:
    before = everything(shared)
    sdata = open_store(shared / "S1.zarr", tmp_path / "mine" / "S1.zarr")
    assert Path(sdata.path) == tmp_path / "mine" / "S1.zarr"
    assert set(sdata.tables) == {"table", "spots_morphology"}
    hd.pp.embed(sdata, "morphology", key_added="again")
    assert everything(shared) == before

    again = open_store(shared / "S1.zarr", tmp_path / "mine" / "S1.zarr")
    source = spatialdata.read_zarr(shared / "S1.zarr")
    assert set(again.tables) == {"table", "spots_morphology", "again"}
    np.testing.assert_array_equal(again["again"].X, source["spots_morphology"].X)
    pd.testing.assert_index_equal(again["spots"].index, source["spots"].index)
    assert again.attrs == source.attrs
    assert set(again.coordinate_systems) == {"global", "microns"}
    for level, original in zip(again["he"].children.values(), source["he"].children.values(), strict=True):
        assert isinstance(level.image.data, da.Array)
        np.testing.assert_array_equal(level.image.to_numpy(), original.image.to_numpy())


def test_a_companion_is_small_and_read_by_anybody(shared: Path, tmp_path: Path) -> None:
    hd.pp.embed(open_store(shared / "S1.zarr", tmp_path / "mine"), "morphology", key_added="again")
    alone = spatialdata.read_zarr(tmp_path / "mine")
    assert {name for _, name, _ in alone.gen_elements()} == {"spots", "again"}
    assert alone.attrs["hisdiff_sd"]["slide"] == "S1"


def test_the_path_of_a_companion_stands_for_both(shared: Path, tmp_path: Path, tiny_model: hd.HisDiff) -> None:
    mine = tmp_path / "mine" / "S3.zarr"
    hd.tl.predict(open_store(shared / "S3.zarr", mine), tiny_model, n_samples=1, steps=1)
    sdata = open_store(mine)
    assert Path(sdata.path) == mine
    assert {"he"} <= set(sdata.images)
    assert {"table", "hisdiff"} <= set(sdata.tables)
    page = hd.pl.report(mine, tmp_path / "S3.html", genes=tiny_model.genes[:1])
    assert "Predicted expression of slide S3" in page.read_text(encoding="utf-8")


def test_a_companion_whose_store_is_gone_is_opened_by_itself_and_that_is_said(
    shared: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    open_store(shared / "S1.zarr", tmp_path / "mine")
    (shared / "S1.zarr").rename(shared / "moved.zarr")
    assert not open_store(tmp_path / "mine").images
    assert "is the companion of" in caplog.text
    assert "which is gone" in caplog.text
    assert "he" in open_store(shared / "moved.zarr", tmp_path / "mine").images


def test_without_a_companion_the_store_itself_is_opened(shared: Path) -> None:
    sdata = open_store(str(shared / "S1.zarr"))
    assert Path(sdata.path) == shared / "S1.zarr"
    write_table(sdata, "new", table_of(sdata, 1))
    assert "new" in spatialdata.read_zarr(shared / "S1.zarr").tables


def test_the_table_of_the_companion_takes_precedence(shared: Path, tmp_path: Path) -> None:
    sdata = open_store(shared / "S1.zarr", tmp_path / "mine")
    write_table(sdata, "spots_morphology", table_of(sdata, 7), overwrite=True)
    assert (open_store(shared / "S1.zarr", tmp_path / "mine")["spots_morphology"].X == 7).all()
    assert not (open_store(shared / "S1.zarr")["spots_morphology"].X == 7).all()


def test_the_source_may_gain_tables(shared: Path, tmp_path: Path) -> None:
    open_store(shared / "S1.zarr", tmp_path / "mine")
    own = open_store(shared / "S1.zarr")
    write_table(own, "new", table_of(own, 1))
    assert "new" in open_store(shared / "S1.zarr", tmp_path / "mine").tables


def test_the_companion_of_another_slide_is_refused(shared: Path, tmp_path: Path) -> None:
    open_store(shared / "S1.zarr", tmp_path / "mine")
    with pytest.raises(
        HisDiffError, match=r"made for slide 'S1' in .*S1\.zarr; .*S2\.zarr differs in slide, .*shapes spots"
    ):
        open_store(shared / "S2.zarr", tmp_path / "mine")


@pytest.mark.parametrize("changed", ["names", "places", "image"])
def test_the_companion_of_another_version_of_the_slide_is_refused(shared: Path, tmp_path: Path, changed: str) -> None:
    open_store(shared / "S1.zarr", tmp_path / "mine")
    sdata = spatialdata.read_zarr(shared / "S1.zarr")
    for name in list(sdata.tables):
        del sdata.tables[name]
    if changed == "names":
        sdata["spots"].index = [f"{name}-1" for name in sdata["spots"].index]
    elif changed == "places":
        sdata["spots"].geometry = sdata["spots"].geometry.translate(1, 0)
    else:
        del sdata.images["he"]
        sdata.images["he"] = Image2DModel.parse(np.zeros((3, 20, 30), np.uint8), dims=("c", "y", "x"))
    hd.io.write(sdata, tmp_path / "new.zarr")
    with pytest.raises(HisDiffError, match=f"differs in {'image he' if changed == 'image' else 'shapes spots'}"):
        open_store(tmp_path / "new.zarr", tmp_path / "mine")


def test_what_cannot_be_a_companion_is_refused_and_left_alone(shared: Path, tmp_path: Path) -> None:
    before = everything(shared)
    with pytest.raises(HisDiffError, match=r"S2\.zarr is there and is no companion"):
        open_store(shared / "S1.zarr", shared / "S2.zarr")
    with pytest.raises(HisDiffError, match="is the store itself"):
        open_store(shared / "S1.zarr", shared / "." / "S1.zarr")
    (tmp_path / "notes").mkdir()
    with pytest.raises(HisDiffError, match="notes cannot be read as a SpatialData store"):
        open_store(shared / "S1.zarr", tmp_path / "notes")
    assert everything(shared) == before


def test_no_companion_is_made_for_what_is_no_store(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"no store .*no\.zarr"):
        open_store(tmp_path / "no.zarr", tmp_path / "mine")
    assert not (tmp_path / "mine").exists()


def test_a_store_of_others_gets_a_companion(tmp_path: Path) -> None:
    image = Image2DModel.parse(np.zeros((3, 20, 30), np.uint8), dims=("c", "y", "x"))
    spatialdata.SpatialData(images={"he": image}).write(tmp_path / "other.zarr")
    for _ in range(2):
        sdata = open_store(tmp_path / "other.zarr", tmp_path / "mine")
        assert set(sdata.images) == {"he"}
        assert sdata.attrs == {}


@pytest.fixture
def read_only(stores: dict[str, Path]) -> Iterator[Path]:
    """A folder with a copy of S1 in "shared" that this process may not write to, nor beside it, and with "mine"."""
    folder = Path(tempfile.mkdtemp())  # pytest's own is closed to others
    shutil.copytree(stores["S1"], folder / "shared" / "S1.zarr")
    (folder / "mine").mkdir()
    for path in (folder, folder / "mine"):
        path.chmod(0o777)
    for path in (folder / "shared", *(folder / "shared").rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    root = os.geteuid() == 0
    if root:  # whom no mode keeps from writing
        os.seteuid(NOBODY)
    try:
        if not os.access(np.__file__, os.R_OK, effective_ids=True):
            pytest.skip("root writes everywhere, and nobody else can read the packages of this environment")
        yield folder
    finally:
        if root:
            os.seteuid(0)
        for path in (folder / "shared", *(folder / "shared").rglob("*")):
            path.chmod(0o777)
        shutil.rmtree(folder)


@pytest.mark.skipif(not hasattr(os, "seteuid"), reason="modes of files do not keep this system from writing")
def test_a_store_that_is_read_only_is_worked_on_through_a_companion(read_only: Path) -> None:
    folder = read_only
    sdata = open_store(folder / "shared" / "S1.zarr")
    with pytest.raises(HisDiffError, match="Permission denied"):
        write_table(sdata, "new", table_of(sdata, 1))
    assert "new" not in sdata.tables
    sdata = open_store(folder / "shared" / "S1.zarr", folder / "mine" / "S1.zarr")
    write_table(sdata, "new", table_of(sdata, 1))
    assert (open_store(folder / "shared" / "S1.zarr", folder / "mine" / "S1.zarr")["new"].X == 1).all()


def test_images_of_the_owner_and_of_the_companion_do_not_meet(shared: Path, tmp_path: Path) -> None:
    """What the owner adds to the store later does not part it from its companion, whose own images are read back."""

    def raster(fill: float):
        return Image2DModel.parse(np.full((1, 4, 5), fill, np.float32), dims=("c", "y", "x"))

    store = shared / "S1.zarr"
    mine = open_store(store, tmp_path / "mine.zarr")
    write_image(mine, "raster", raster(1.0))
    owner = open_store(store)
    write_image(owner, "raster", raster(2.0))
    hd.pp.tissue(owner)
    again = open_store(store, tmp_path / "mine.zarr")
    assert float(again["raster"].max()) == 1.0
    write_image(again, "raster", raster(3.0), overwrite=True)
    assert float(open_store(store)["raster"].max()) == 2.0
