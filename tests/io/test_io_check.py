"""What is amiss in a store is found, and put right without losing anything."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import spatialdata
import zarr

import hisdiff_sd as hd
from hisdiff_sd._errors import HisDiffError, MissingFileError
from hisdiff_sd.io import check
from hisdiff_sd.io._atomic import locked, scratch_folder, staged
from hisdiff_sd.pp._partial import partial_results


@pytest.fixture
def store(stores, tmp_path) -> Path:
    """A copy of S1, to damage."""
    return Path(shutil.copytree(stores["S1"], tmp_path / "stores" / "S1.zarr"))


def the_finding(report: pd.DataFrame) -> pd.Series:
    assert len(report) == 1, report["problem"].tolist()
    return report.iloc[0]


def names(store: Path) -> set[str]:
    return {name for _, name, _ in spatialdata.read_zarr(store).gen_elements()}


def change_metadata(store: Path, change: Callable[[dict], object]) -> None:
    metadata = json.loads((store / "zarr.json").read_text())
    change(metadata)
    (store / "zarr.json").write_text(json.dumps(metadata))


def unlist(store: Path, element: str) -> None:
    """Take an element out of the metadata, as if a process had been killed before it was named there."""

    def change(metadata: dict) -> None:
        nodes = metadata["consolidated_metadata"]["metadata"]
        for key in [key for key in nodes if f"{key}/".startswith(f"{element}/")]:
            del nodes[key]

    change_metadata(store, change)


def killed_child(work: Callable[[], Iterator[None]]) -> int:
    """Process id of a child that was killed when its work had come to its ``yield``."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            work_and_wait(work, writer)
        finally:
            os._exit(1)
    assert os.read(reader, 1) == b"x"
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return pid


def work_and_wait(work: Callable[[], Iterator[None]], writer: int) -> None:
    for _ in work():
        os.write(writer, b"x")
        time.sleep(60)


needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


@pytest.mark.parametrize("deep", [False, True])
def test_a_sound_store_has_no_finding_and_is_left_as_it_is(store, deep, snapshot):
    before = snapshot(store.parent)
    report = check(str(store), deep=deep)
    assert report.columns.tolist() == ["severity", "where", "problem", "way_out", "repaired"]
    assert report.empty
    assert snapshot(store.parent) == before
    assert check(store, repair=True).empty


def test_a_companion_is_sound(store, tmp_path):
    sdata = hd.io.open(store, companion=tmp_path / "mine.zarr")
    hd.pp.embed(sdata, "morphology", key_added="again")
    assert check(tmp_path / "mine.zarr").empty


@needs_fork
def test_what_a_killed_writer_left_is_removed(store, snapshot):
    before = snapshot(store)

    def work():
        with staged(store) as build:
            build.mkdir()
            (build / "half").write_bytes(b"x" * 2**20)
            yield

    pid = killed_child(work)
    found = the_finding(check(store))
    assert found["severity"] == "warning"
    assert f"an interrupted write, left 0 s ago by process {pid} of" in found["problem"]
    assert "which is gone; 1.0 MiB" in found["problem"]
    assert found["way_out"] == "hd.io.check(path, repair=True)"
    assert not found["repaired"]
    (scratch_folder(store) / "stage-of-another").mkdir()
    assert check(store, repair=True)["repaired"].tolist() == [True, True]
    assert check(store).empty
    assert [p.name for p in scratch_folder(store).iterdir()] == ["lock"]
    assert snapshot(store) == before


def test_what_a_living_writer_builds_is_left_alone(store):
    with staged(store) as build:
        build.mkdir()
        for repair in (False, True):
            found = the_finding(check(store, repair=repair))
            assert found["severity"] == "note"
            assert f"process {os.getpid()} of" in found["problem"]
            assert not found["repaired"]
        assert build.exists()


@needs_fork
def test_the_lock_of_a_killed_process_is_named_and_keeps_nobody(store):
    def work():
        with locked(store):
            yield

    pid = killed_child(work)
    found = the_finding(check(store))
    assert found["severity"] == "note"
    assert f"was held by process {pid} of" in found["problem"]
    assert check(store, repair=True).empty
    assert check(store).empty


def test_a_store_that_somebody_writes_to_is_not_repaired(store):
    with locked(store):
        assert "is being written to by process" in the_finding(check(store))["problem"]
        with pytest.raises(HisDiffError, match=rf"is being written to by process {os.getpid()} of"):
            check(store, repair=True)


@needs_fork
def test_partial_results_are_kept(store):
    def work():
        with partial_results(store, "spots_uni", "0" * 16, 10, 4) as partial:
            partial.add(0, np.arange(3), np.ones((3, 4), np.float32), {})
            partial.flush()
            yield

    killed_child(work)
    found = the_finding(check(store, repair=True))
    assert (found["severity"], found["repaired"]) == ("note", False)
    assert "partial results of table 'spots_uni'" in found["problem"]
    with partial_results(store, "spots_uni", "0" * 16, 10, 4) as partial:
        assert partial.known == 3
        assert "table 'spots_uni' is being made by process" in the_finding(check(store))["problem"]


def test_partial_results_of_a_table_that_is_made_are_removed(store):
    folder = scratch_folder(store) / f"partial-spots_morphology-{'0' * 16}"
    folder.mkdir(parents=True)
    assert "partial results of table 'spots_morphology', which is made" in the_finding(check(store))["problem"]
    assert check(store, repair=True)["repaired"].tolist() == [True]
    assert not folder.exists()


def test_a_complete_element_is_named_again(store):
    unlist(store, "tables/spots_morphology")
    assert "spots_morphology" not in names(store)
    found = the_finding(check(store))
    assert (found["where"], found["severity"]) == ("tables/spots_morphology", "warning")
    assert "complete and not named" in found["problem"]
    assert check(store, repair=True)["repaired"].all()
    assert "spots_morphology" in names(store)
    assert check(store).empty


def test_a_kind_of_elements_without_metadata(store):
    unlist(store, "tables")
    (store / "tables" / "zarr.json").unlink()
    assert check(store, repair=True)["repaired"].tolist() == [True, True]
    assert names(store) == {"he", "spots", "table", "spots_morphology"}


def test_an_element_that_is_gone_is_named_no_more(store):
    shutil.rmtree(store / "tables" / "spots_morphology")
    with pytest.raises(HisDiffError, match="cannot be read"):
        hd.io.open(store)
    found = the_finding(check(store, repair=True))
    assert (found["where"], found["severity"], found["repaired"]) == ("tables/spots_morphology", "error", True)
    assert names(store) == {"he", "spots", "table"}
    assert check(store).empty


@pytest.mark.parametrize("lacks", ["obs", "zarr.json"])
@pytest.mark.parametrize("named", [True, False])
def test_a_half_written_table_is_set_aside(store, lacks, named):
    half = store / "tables" / "spots_morphology"
    if not named:
        unlist(store, "tables/spots_morphology")
    (half / "zarr.json").unlink() if lacks == "zarr.json" else shutil.rmtree(half / lacks)
    there = sorted(p.name for p in half.iterdir())
    found = the_finding(check(store))
    assert found["where"] == "tables/spots_morphology"
    assert found["severity"] == ("error" if named else "warning")
    assert ("cannot be read" if named else "is half written") in found["problem"]
    assert check(store, repair=True)["repaired"].all()
    assert names(store) == {"he", "spots", "table"}
    note = the_finding(check(store))
    assert (note["severity"], note["way_out"]) == ("note", "delete it when nobody misses it")
    assert sorted(p.name for p in Path(note["where"]).iterdir()) == there


def test_an_image_that_cannot_be_read_is_not_touched(store, snapshot):
    (store / "images" / "he" / "s0" / "zarr.json").write_text("{")
    before = snapshot(store)
    found = the_finding(check(store, repair=True))
    assert (found["where"], found["severity"], found["repaired"]) == ("images/he", "error", False)
    assert found["way_out"] == "convert the slide again"
    assert snapshot(store) == before


def test_metadata_of_another_version_of_an_element(store):
    def change(metadata: dict) -> None:
        metadata["consolidated_metadata"]["metadata"]["tables/spots_morphology/X"]["shape"] = [3, 3]

    change_metadata(store, change)
    assert "was replaced without them" in the_finding(check(store, repair=True))["problem"]
    assert check(store).empty
    assert zarr.open_consolidated(store)["tables/spots_morphology/X"].shape[0] > 3


def test_a_store_without_consolidated_metadata(store):
    change_metadata(store, lambda metadata: metadata.pop("consolidated_metadata"))
    assert "cannot be opened at a URL" in the_finding(check(store, repair=True))["problem"]
    assert check(store).empty
    assert names(store) == {"he", "spots", "table", "spots_morphology"}
    assert hd.io.open(f"file://{store}")["spots_morphology"].n_obs == len(spatialdata.read_zarr(store)["spots"])


def test_half_written_metadata_files_are_removed(store):
    for folder in (store, store / "tables"):
        (folder / "zarr.0123.partial").write_text("{")
    report = check(store)
    assert report["problem"].str.contains("half-written metadata file").tolist() == [True, True]
    check(store, repair=True)
    assert check(store).empty


def test_rows_that_annotate_nothing(store, tmp_path):
    sdata = spatialdata.read_zarr(store)
    sdata.shapes["spots"] = sdata["spots"].iloc[2:]
    hd.io.write(sdata, tmp_path / "fewer.zarr")
    report = check(tmp_path / "fewer.zarr")
    assert set(report["where"]) == {"tables/table", "tables/spots_morphology"}
    assert report["problem"].str.match("2 rows annotate no shape of 'spots', such as ").all()
    del sdata.shapes["spots"]
    hd.io.write(sdata, tmp_path / "none.zarr")
    assert check(tmp_path / "none.zarr")["problem"].str.contains("'spots', which is not in the store").all()


def test_levels_that_do_not_lie_on_each_other(store):
    array = zarr.open_array(store / "images" / "he" / "s1", mode="r+")
    array.resize((3, array.shape[1] - 1, array.shape[2]))
    zarr.consolidate_metadata(store)
    assert "level 1 has" in the_finding(check(store))["problem"]


def test_a_slide_that_is_larger_than_its_image_and_another_layout(store):
    change_metadata(store, lambda metadata: metadata["attributes"]["hisdiff_sd"].update(true_size=[9999, 9999]))
    assert "the slide has 9999 x 9999 px" in the_finding(check(store))["problem"]
    change_metadata(store, lambda metadata: metadata["attributes"]["hisdiff_sd"].update(schema=99, true_size=[1, 1]))
    found = the_finding(check(store))
    assert (found["severity"], found["way_out"]) == ("error", "upgrade hisdiff_sd")
    change_metadata(store, lambda metadata: metadata["attributes"]["hisdiff_sd"].update(schema=0))
    assert "write it with hd.io.write" in the_finding(check(store))["way_out"]
    change_metadata(store, lambda metadata: metadata["attributes"].pop("hisdiff_sd"))
    assert "not made by hisdiff_sd" in the_finding(check(store))["problem"]


@pytest.mark.parametrize("change", [{"mpp": None}, {"true_size": "large"}, {"qc": []}])
def test_a_record_that_no_function_takes(store, change):
    change_metadata(store, lambda metadata: metadata["attributes"]["hisdiff_sd"].update(change))
    found = the_finding(check(store))
    assert (found["severity"], found["where"]) == ("error", "zarr.json")
    assert "read it again" in found["way_out"]


def test_a_record_that_is_none(store):
    change_metadata(store, lambda metadata: metadata["attributes"].update(hisdiff_sd="S1"))
    assert "not made by hisdiff_sd" in the_finding(check(store))["problem"]


def test_chunks_are_decoded_on_request(store):
    (store / "images" / "he" / "s0" / "c" / "0" / "0" / "1").write_bytes(b"rubbish")
    assert check(store).empty
    found = the_finding(check(store, deep=True))
    assert found["where"] == "images/he"
    assert "level s0: 1 chunks cannot be decoded, such as c/0/0/1" in found["problem"]


def test_what_is_no_store_on_disk(tmp_path):
    with pytest.raises(MissingFileError, match=r"no store .*no\.zarr"):
        check(tmp_path / "no.zarr")
    with pytest.raises(HisDiffError, match="is no zarr store"):
        check(tmp_path)
    with pytest.raises(HisDiffError, match="is not on this machine"):
        check("https://example.org/S1.zarr")
    (tmp_path / ".zgroup").write_text("{}")
    with pytest.raises(HisDiffError, match="zarr format 2"):
        check(tmp_path)


@pytest.mark.parametrize("text", ['{"attributes": ', "[]", ""])
def test_metadata_of_the_root_that_cannot_be_read(store, text):
    (store / "zarr.json").write_text(text)
    for options in ({}, {"repair": True}):
        found = the_finding(check(store, **options))
        assert (found["severity"], found["where"], found["repaired"]) == ("error", "zarr.json", False)
        assert "convert the slide again" in found["way_out"]
