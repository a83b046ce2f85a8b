"""A writer that dies at any step of a move: the store opens, the old or the new is there, the next one tidies up."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import spatialdata
from spatialdata.models import TableModel

import hisdiff_sd as hd
from hisdiff_sd._errors import HisDiffError
from hisdiff_sd.io import _atomic
from hisdiff_sd.io._consolidated import elements, listed, on_disk
from hisdiff_sd.io._read import read_store
from hisdiff_sd.io._store import write_table


@pytest.fixture(scope="module")
def written(tiny_root, tmp_path_factory) -> Path:
    """A store with a table "extra" full of 1. Read only."""
    path = tmp_path_factory.mktemp("written") / "T1.zarr"
    sdata = hd.io.write(hd.io.hest(tiny_root, "T1"), path)
    write_table(sdata, "extra", table_of(sdata, 1))
    return path


@pytest.fixture
def store(written, tmp_path) -> Path:
    return Path(shutil.copytree(written, tmp_path / "stores" / "T1.zarr"))


def table_of(sdata, value: int) -> ad.AnnData:
    """A table that annotates all spots, full of one value, which is its width as well."""
    index = sdata["spots"].index
    obs = pd.DataFrame({"region": pd.Categorical(["spots"] * len(index)), "instance_id": index.to_numpy()}, index=index)
    var = pd.DataFrame(index=[f"v{i}" for i in range(value)])
    table = ad.AnnData(np.full((len(index), value), value, np.float32), obs, var)
    return TableModel.parse(table, region="spots", region_key="region", instance_key="instance_id")


def value_of(sdata, name: str) -> int | None:
    if name not in sdata.tables:
        return None
    assert (sdata[name].n_vars == sdata[name].X).all()
    return sdata[name].n_vars


def assert_tidy(store: Path) -> None:
    """Nothing is left beside the store, and its metadata are what zarr itself would write."""
    assert [p.name for p in _atomic.scratch_folder(store).iterdir()] == ["lock"]
    assert not list(store.rglob("*.partial"))
    nodes = listed(store)
    assert all(nodes[e].items() == on_disk(store / e, e)[e].items() for e in elements(nodes))
    assert len(hd.io.check(store)) == 0


class Killed(BaseException):
    """The end of a process: nothing is tidied up after it."""


def die_at(step: int, monkeypatch: pytest.MonkeyPatch, exchange: bool) -> None:
    """Let the process die at the n-th of the system calls that change something; as one that dies, it removes nothing."""
    calls, moving = 0, False

    def counted(function):
        def call(*arguments):
            nonlocal calls
            calls += moving
            if moving and calls == step:
                raise Killed
            return function(*arguments)

        return call

    def move_in(*arguments):
        nonlocal moving
        moving = True
        _atomic.move_in(*arguments)
        moving = False

    monkeypatch.setattr("hisdiff_sd.io._store.move_in", move_in)
    monkeypatch.setattr(_atomic.os, "rename", counted(os.rename))
    monkeypatch.setattr(_atomic.os, "replace", counted(os.replace))
    monkeypatch.setattr(_atomic, "put", counted(_atomic.put))
    monkeypatch.setattr(_atomic, "_exchange", counted(_atomic._exchange) if exchange else lambda a, b: False)
    monkeypatch.setattr(_atomic, "_remove", lambda folder: None)


@pytest.mark.parametrize("exchange", [True, False], ids=["exchange", "two renames"])
@pytest.mark.parametrize("name", ["extra", "new"])
def test_a_table_is_the_old_or_the_new_one_at_every_step(store, tmp_path, name, exchange):
    before = {"extra": 1, "new": None}[name]
    seen = []
    for step in range(1, 9):
        copy = Path(shutil.copytree(store, tmp_path / f"step{step}" / "T1.zarr"))
        sdata = spatialdata.read_zarr(copy)
        with pytest.MonkeyPatch.context() as patch:
            die_at(step, patch, exchange)
            try:
                write_table(sdata, name, table_of(sdata, 2), overwrite=True)
                died = False
            except Killed:
                died = True
        plain = value_of(spatialdata.read_zarr(copy), name)
        # without exchange others may not see an element for a moment; it is there all the same
        assert plain in ({before, 2} if exchange else {before, 2, None})
        value = value_of(read_store(copy), name)
        assert value in {before, 2}
        seen.append(value)
        sdata = read_store(copy)
        write_table(sdata, "after", table_of(sdata, 3), overwrite=True)
        back = spatialdata.read_zarr(copy)
        assert [value_of(back, n) for n in (name, "after")] == [value, 3]
        assert_tidy(copy)
        if not died:
            break
    assert not died
    assert set(seen) == {before, 2}
    assert len(seen) == (6 if name == "extra" and not exchange else 3)


@pytest.mark.parametrize("exchange", [True, False], ids=["exchange", "two renames"])
def test_a_replaced_store_is_the_old_or_the_new_one_at_every_step(store, tmp_path, tiny_root, exchange):
    other = hd.io.hest(tiny_root, "T2")
    for step in range(1, 4):
        copy = Path(shutil.copytree(store, tmp_path / f"step{step}" / "T1.zarr"))
        with pytest.MonkeyPatch.context() as patch:
            die_at(step, patch, exchange)
            try:
                hd.io.write(other, copy, overwrite=True)
                died = False
            except Killed:
                died = True
        _atomic.recover(copy)
        slide = spatialdata.read_zarr(copy).attrs["hisdiff_sd"]["slide"]
        assert slide in ("T1", "T2")
        hd.io.write(other, copy, overwrite=True)
        assert spatialdata.read_zarr(copy).attrs["hisdiff_sd"]["slide"] == "T2"
        assert_tidy(copy)
        if not died:
            break
    assert not died
    assert step == (2 if exchange else 3)


def test_a_full_disk_at_the_metadata_changes_nothing(store, monkeypatch, snapshot):
    sdata = spatialdata.read_zarr(store)
    before = snapshot(store)
    monkeypatch.setattr(_atomic, "_exchange", lambda a, b: False)

    def full(*_arguments, **_options):
        raise OSError(28, "No space left on device")

    for broken in ("rewritten", "put"):
        with monkeypatch.context() as patch:
            patch.setattr(_atomic, broken, full)
            with pytest.raises(HisDiffError, match="No space left on device.*as it was"):
                write_table(sdata, "extra", table_of(sdata, 2), overwrite=True)
        assert snapshot(store) == before


def test_a_move_that_fails_names_the_element_again(store, monkeypatch, snapshot):
    sdata = spatialdata.read_zarr(store)
    before = snapshot(store)
    monkeypatch.setattr(_atomic, "_exchange", lambda a, b: False)
    rename = os.rename

    def fails(a, b):
        if Path(a).parts[-3:] == ("T1.zarr", "tables", "extra") and "stage-" in str(a):
            raise OSError(5, "Input/output error")
        rename(a, b)

    monkeypatch.setattr(_atomic.os, "rename", fails)
    with pytest.raises(HisDiffError, match="Input/output error.*as it was"):
        write_table(sdata, "extra", table_of(sdata, 2), overwrite=True)
    assert snapshot(store) == before


def test_a_killed_writer_that_only_had_to_tidy_up_is_tidied_up_after_by_a_reader(store):
    scratch = _atomic.scratch_folder(store)
    finished, interrupted = (scratch / f"partial-{name}-{'0' * 16}" for name in ("extra", "missing"))
    overwriting = scratch / f"partial-extra-{'1' * 16}"
    for folder, seconds in ((finished, -60), (interrupted, -60), (overwriting, 60)):
        folder.mkdir(parents=True)
        (folder / "part-00000001.npz").touch()
        when = (store / "tables" / "extra" / "zarr.json").stat().st_mtime + seconds
        os.utime(folder / "part-00000001.npz", (when, when))
    (scratch / "stage-1" / "T1.zarr").mkdir(parents=True)
    hd.io.open(store)
    assert {p.name for p in scratch.iterdir()} == {"lock", interrupted.name, overwriting.name}


def test_threads_that_still_write_do_not_keep_a_stage(tmp_path, monkeypatch):
    real, late = shutil.rmtree, iter(range(3))

    def rmtree(folder, **options):
        real(folder, **options)
        if next(late, None) is not None:
            folder.mkdir()
            (folder / "c").write_bytes(b"late")

    monkeypatch.setattr(_atomic.shutil, "rmtree", rmtree)
    with _atomic.staged(tmp_path / "a.zarr") as build:
        build.mkdir()
    assert [p.name for p in _atomic.scratch_folder(tmp_path / "a.zarr").iterdir()] == ["lock"]


def test_halves_of_other_programs_stay_out_of_the_metadata(store):
    half = shutil.copytree(store / "tables" / "extra", store / "tables" / "half")
    shutil.rmtree(half / "obs")
    sdata = spatialdata.read_zarr(store)
    write_table(sdata, "new", table_of(sdata, 2))
    assert set(spatialdata.read_zarr(store).tables) == {"table", "extra", "new"}


# readers


def test_a_table_that_is_replaced_while_it_is_read_is_read_again(store, monkeypatch):
    writer = spatialdata.read_zarr(store)
    real, reads = spatialdata.read_zarr, []

    def slow(path, *arguments, **options):
        sdata = real(path, *arguments, **options)
        reads.append(path)
        if len(reads) == 1:
            write_table(writer, "extra", table_of(writer, 2), overwrite=True)
        return sdata

    monkeypatch.setattr(spatialdata, "read_zarr", slow)
    assert value_of(hd.io.open(store), "extra") == 2
    assert len(reads) == 2


def test_a_reader_that_stumbles_over_a_replacement_reads_again_and_over_damage_does_not(store, monkeypatch):
    writer = spatialdata.read_zarr(store)
    real, reads = spatialdata.read_zarr, []

    def stumbles(path, *arguments, **options):
        reads.append(path)
        if len(reads) == 1:
            write_table(writer, "extra", table_of(writer, 2), overwrite=True)
            raise FileNotFoundError("tables/extra/X/c/0/0")
        return real(path, *arguments, **options)

    monkeypatch.setattr(spatialdata, "read_zarr", stumbles)
    assert value_of(hd.io.open(store), "extra") == 2
    monkeypatch.undo()
    shutil.rmtree(store / "tables" / "extra" / "obs")
    with pytest.raises(HisDiffError, match=r"T1\.zarr cannot be read as a SpatialData store"):
        hd.io.open(store)


def test_a_store_that_never_rests_is_an_error(store, monkeypatch):
    stamps = iter(range(1000))
    monkeypatch.setattr("hisdiff_sd.io._read._stamp", lambda path: next(stamps))
    with pytest.raises(HisDiffError, match="was changed again and again"):
        read_store(store)
