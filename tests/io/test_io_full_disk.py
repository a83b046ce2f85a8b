"""Disks that are full, and folders and disks that are read-only: a clear error, and a store as it was."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import spatialdata

import hisdiff_sd as hd
from hisdiff_sd._errors import HisDiffError
from hisdiff_sd.io._atomic import recover, scratch_folder
from hisdiff_sd.io._store import write_table


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A disk of 12 MiB, in memory."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(place)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no file system can be mounted: that takes root, on Linux")
    yield place
    subprocess.run(["umount", str(place)], check=True, capture_output=True)


@pytest.fixture
def store(stores, small_disk) -> Path:
    """A copy of S1 on a small disk."""
    return Path(shutil.copytree(stores["S1"], small_disk / "S1.zarr"))


def noise(sdata: spatialdata.SpatialData, width: int):
    """A table of the spots that does not compress."""
    table = sdata["spots_morphology"][:, :1].copy()
    table.obsm["noise"] = np.random.default_rng(0).random((table.n_obs, width))
    return table


def fill(disk: Path, leave: int) -> None:
    """Take all the room of a disk but some."""
    free = shutil.disk_usage(disk).free
    (disk / "filler").write_bytes(bytes(max(free - leave, 0)))


def assert_no_stage(target: Path) -> None:
    """A stage is gone as soon as the threads that were writing into it have ended."""
    for _ in range(100):
        recover(target)
        if not list(scratch_folder(target).glob("stage-*")):
            return
        time.sleep(0.1)
    raise AssertionError("a stage is left")


@pytest.mark.parametrize("leave", [2**20, 2**16, 2**13, 0])
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_table_that_does_not_fit_is_refused_and_fits_when_there_is_room(store, snapshot, leave, overwrite):
    sdata = spatialdata.read_zarr(store)
    name = "spots_morphology" if overwrite else "new"
    table = noise(sdata, 4 * leave // sdata["spots_morphology"].n_obs // 8 + 1)
    before = snapshot(store)
    fill(store.parent, leave)
    with pytest.raises(HisDiffError, match=r"No space left on device"):
        write_table(sdata, name, table, overwrite=overwrite)
    assert snapshot(store) == before
    (store.parent / "filler").unlink()
    assert_no_stage(store)
    assert hd.io.check(store).empty
    if leave < 2**20:
        write_table(sdata, name, table, overwrite=overwrite)
        assert "noise" in spatialdata.read_zarr(store)[name].obsm


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_slide_that_does_not_fit_is_refused(store, snapshot, overwrite):
    slide = spatialdata.read_zarr(store)
    target = store if overwrite else store.with_name("new.zarr")
    before = snapshot(store)
    fill(store.parent, 2**20)
    with pytest.raises(HisDiffError, match="No space left on device.*nothing was changed there"):
        hd.io.write(slide, target, overwrite=overwrite)
    assert snapshot(store) == before
    assert target.exists() == overwrite
    (store.parent / "filler").unlink()
    assert_no_stage(target)


def test_a_disk_that_is_read_only(store, snapshot):
    subprocess.run(["mount", "-o", "remount,ro", str(store.parent)], check=True, capture_output=True)
    before = snapshot(store.parent)
    sdata = hd.io.open(store)
    with pytest.raises(HisDiffError, match=r"may not be written to; open the slide with a companion"):
        hd.pp.embed(sdata, "morphology", key_added="new")
    for work in (
        lambda: write_table(sdata, "new", noise(sdata, 1)),
        lambda: hd.io.write(sdata, store.with_name("new.zarr")),
        lambda: hd.io.check(store, repair=True),
    ):
        with pytest.raises(HisDiffError, match="cannot write beside .*Read-only file system"):
            work()
    assert hd.io.check(store).empty
    assert snapshot(store.parent) == before


def test_a_file_that_may_not_grow(stores, tmp_path, snapshot):
    """As a quota: needs no root."""
    resource = pytest.importorskip("resource")
    store = Path(shutil.copytree(stores["S1"], tmp_path / "S1.zarr"))
    sdata = spatialdata.read_zarr(store)
    table, before = noise(sdata, 2000), snapshot(store)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, hard))
    try:
        with pytest.raises(HisDiffError, match=r"writing a table 'new' .*File too large.*as it was"):
            write_table(sdata, "new", table)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert snapshot(store) == before
    write_table(sdata, "new", table)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root writes into any folder")
def test_a_folder_that_is_read_only(stores, tmp_path, snapshot):
    store = Path(shutil.copytree(stores["S1"], tmp_path / "shared" / "S1.zarr"))
    sdata, before = spatialdata.read_zarr(store), snapshot(store)
    store.parent.chmod(0o555)
    try:
        with pytest.raises(HisDiffError, match="cannot write beside .*Permission denied"):
            write_table(sdata, "new", noise(sdata, 1))
    finally:
        store.parent.chmod(0o755)
    assert snapshot(store) == before
