"""One function over many stores, in this process and on a cluster.

Functions that are sent to workers are made inside tests: such functions travel whole, whatever workers can import.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import dask
import numpy as np
import pytest
import spatialdata
import zarr
from distributed import Client, LocalCluster

import hisdiff_sd as hd
from hisdiff_sd._cohort import image_pixels, map_stores
from hisdiff_sd._cohort_cluster import choose_device, local_ranks
from hisdiff_sd._errors import HisDiffError
from hisdiff_sd.io._store import write_table

if TYPE_CHECKING:
    from spatialdata import SpatialData

COLUMNS = ["store", "slide", "status", "seconds", "peak_mib", "bytes_added", "error", "warnings"]


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    """Two workers, each a process; a store whose worker dies is given up at once."""
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 0}),
        LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        yield client


@pytest.fixture(scope="module")
def threads() -> Iterator[Client]:
    """Two workers of two threads, all in this process."""
    with (
        LocalCluster(n_workers=2, threads_per_worker=2, processes=False, dashboard_address=":0") as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client


@pytest.fixture(params=["here", "cluster"])
def where(request: pytest.FixtureRequest) -> Client | None:
    """Both ways to work."""
    return None if request.param == "here" else request.getfixturevalue("client")


@pytest.fixture
def paths(stores: dict[str, Path], tmp_path: Path) -> list[Path]:
    """Copies of the three stores, to change."""
    return [Path(shutil.copytree(path, tmp_path / "stores" / path.name)) for path in stores.values()]


def marker(folder: Path) -> Callable[[SpatialData], None]:
    """A function that leaves a file named after the slide, and nothing in the store."""

    def mark(sdata: SpatialData) -> None:
        (folder / sdata.attrs["hisdiff_sd"]["slide"]).touch()

    return mark


def add_table(sdata: SpatialData) -> None:
    """A verb that is quicker than those of the package."""
    write_table(sdata, "again", sdata["spots_morphology"].copy())


def test_what_is_done_skipped_and_failed_is_reported_in_the_order_given(where, paths, tmp_path, stores):
    (paths[1] / "zarr.json").write_text("no json")
    given = [paths[2], tmp_path / "no.zarr", str(paths[1]), paths[0]]
    report = map_stores(hd.pp.embed, given, client=where, encoder="morphology", key_added="again")
    assert report.columns.tolist() == COLUMNS
    assert report["store"].tolist() == [str(path) for path in given]
    assert report["status"].tolist() == ["done", "failed", "failed", "done"]
    assert report["slide"].tolist() == ["S3", "", "", "S1"]
    assert report["error"].tolist()[::3] == ["", ""]
    assert report["error"][1].startswith("MissingFileError: no store")
    assert report["error"][2].startswith("HisDiffError:")
    assert "S2.zarr cannot be read" in report["error"][2]
    assert (report["seconds"] > 0).all()
    assert (report["peak_mib"] > 50).all()
    assert (report["bytes_added"] > 0).tolist() == [True, False, False, True]
    for path in (paths[0], paths[2]):
        sdata = spatialdata.read_zarr(path)
        # workers have other numbers of threads
        np.testing.assert_allclose(sdata["again"].X, sdata["spots_morphology"].X, rtol=1e-4, atol=1e-5)

    report = map_stores(hd.pp.embed, given, client=where, encoder="morphology", key_added="again")
    assert report["status"].tolist() == ["skipped", "failed", "failed", "skipped"]
    assert report["bytes_added"].tolist() == [0, 0, 0, 0]


def test_bytes_added_is_what_the_store_has_grown(paths):
    def size() -> int:
        return sum(file.stat().st_size for file in paths[0].rglob("*") if file.is_file())

    before = size()
    report = map_stores(add_table, paths[:1])
    assert report["bytes_added"][0] == size() - before > 0


def test_a_function_that_fails_on_one_slide_fails_there_only(where, paths, tmp_path):
    mark = marker(tmp_path)

    def fail(sdata: SpatialData) -> None:
        if sdata.attrs["hisdiff_sd"]["slide"] == "S1":
            raise RuntimeError("two\nlines")
        mark(sdata)

    report = map_stores(fail, paths, client=where)
    assert report["status"].tolist() == ["failed", "skipped", "skipped"]
    assert report["error"].tolist() == ["RuntimeError: two lines", "", ""]
    assert {"S2", "S3"} <= {path.name for path in tmp_path.iterdir()}


def test_warnings_and_the_log_are_in_the_report(where, paths):
    def warn(sdata: SpatialData) -> None:
        import logging
        import warnings

        for _ in range(2):
            warnings.warn("a pale slide", UserWarning, stacklevel=1)
        warnings.warn("old name", FutureWarning, stacklevel=1)
        logging.getLogger("hisdiff_sd").warning("few spots")

    report = map_stores(warn, paths[:1], client=where)
    assert report["warnings"].tolist() == ["few spots | a pale slide"]


def test_a_model_is_sent_to_workers(client, paths, tiny_model):
    report = map_stores(hd.tl.predict, paths[1:], client=client, model=tiny_model, n_samples=2, steps=2)
    assert report["status"].tolist() == ["done", "done"]
    assert "2 samples are too few" in report["warnings"][0]
    alone = spatialdata.read_zarr(paths[1])
    there = alone["hisdiff"].X.copy()
    hd.tl.predict(alone, tiny_model, n_samples=2, steps=2)
    np.testing.assert_allclose(there, alone["hisdiff"].X, atol=1e-5)


def test_companions_leave_the_stores_alone(paths, tmp_path):
    report = map_stores(hd.pp.embed, paths, companions=tmp_path / "mine", encoder="morphology", key_added="again")
    assert report["status"].tolist() == ["done"] * 3
    assert (report["bytes_added"] > 0).all()
    for path in paths:
        assert "again" not in spatialdata.read_zarr(path).tables
        assert set(spatialdata.read_zarr(tmp_path / "mine" / path.name).tables) == {"again"}
    report = map_stores(hd.pp.embed, paths, companions=tmp_path / "mine", encoder="morphology", key_added="again")
    assert report["status"].tolist() == ["skipped"] * 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda paths: [*paths, str(paths[0]) + "/"], r"S1\.zarr/? is given twice"),
        (lambda paths: [*paths, paths[0].parent / ".." / "stores" / "S1.zarr"], r"S1\.zarr/? is given twice"),
        (lambda paths: [], "no stores given"),
        (lambda paths: str(paths[0]), "is one path; a list of paths"),
        (lambda paths: [spatialdata.SpatialData()], "a SpatialData is no path"),
    ],
)
def test_paths_that_make_no_sense_are_refused_before_any_work(paths, tmp_path, change, message):
    with pytest.raises(HisDiffError, match=message):
        map_stores(marker(tmp_path), change(paths))
    assert [path.name for path in tmp_path.iterdir()] == ["stores"]


def test_two_stores_cannot_share_a_companion(paths, tmp_path):
    shutil.copytree(paths[0], tmp_path / "S1.zarr")
    with pytest.raises(HisDiffError, match=r"would share the companion .*mine/S1\.zarr"):
        map_stores(marker(tmp_path), [paths[0], tmp_path / "S1.zarr"], companions=tmp_path / "mine")


def test_options_that_cannot_work_are_refused_before_any_work(client, paths, tmp_path):
    with pytest.raises(HisDiffError, match="embed cannot be called with a slide and these options: .*'encodr'"):
        map_stores(hd.pp.embed, paths, encodr="morphology")
    for opened in (spatialdata.SpatialData(), zarr.open_group(paths[0], mode="r")):
        with pytest.raises(HisDiffError, match="option 'other' is an open .*; give its path"):
            map_stores(lambda sdata, other: None, paths, other=opened)
    with pytest.raises(HisDiffError, match="must be a dask.distributed Client .*, not LocalCluster"):
        map_stores(marker(tmp_path), paths, client=client.cluster)
    with pytest.raises(HisDiffError, match="cannot be sent to workers .*lock"):
        map_stores(lambda sdata, other: None, paths, client=client, other=threading.Lock())


def test_a_worker_that_dies_costs_its_own_store_only(client, paths, tmp_path):
    mark = marker(tmp_path)

    def die(sdata: SpatialData) -> None:
        if sdata.attrs["hisdiff_sd"]["slide"] == "S1":
            os._exit(1)
        mark(sdata)

    report = map_stores(die, paths, client=client)
    assert report["status"].tolist() == ["failed", "skipped", "skipped"]
    assert report["error"][0].startswith("KilledWorker: the workers that had this store died")
    assert "memory_limit=" in report["error"][0]
    assert np.isnan(report["seconds"][0])
    assert {"S2", "S3"} <= {path.name for path in tmp_path.iterdir()}


def test_ctrl_c_stops_here(paths, tmp_path):
    def stop(sdata: SpatialData) -> None:
        marker(tmp_path)(sdata)
        if sdata.attrs["hisdiff_sd"]["slide"] == "S2":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        map_stores(stop, paths)
    assert {path.name for path in tmp_path.iterdir()} == {"stores", "S1", "S2"}


def test_ctrl_c_takes_back_what_no_worker_has_begun(client, paths, tmp_path, request):
    more = [Path(shutil.copytree(path, tmp_path / "more" / path.name)) for path in paths]
    (tmp_path / "begun").mkdir()

    def slow(sdata: SpatialData) -> None:
        (tmp_path / "begun" / sdata.path.parent.name).touch()
        time.sleep(1)

    def press() -> None:
        while not list((tmp_path / "begun").iterdir()):
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    # a shell that starts the tests in its background has them ignore Ctrl-C
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))
    threading.Thread(target=press, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        map_stores(slow, [*paths, *more], client=client)
    time.sleep(1.5)
    assert [path.name for path in (tmp_path / "begun").iterdir()] == ["stores"]  # none of the others
    assert not [key for keys in client.processing().values() for key in keys]


def test_a_process_works_on_one_store_at_a_time(threads, paths, tmp_path):
    def alone(sdata: SpatialData) -> None:
        (tmp_path / "busy").mkdir()  # fails if another one is at work
        time.sleep(0.2)
        (tmp_path / "busy").rmdir()

    assert map_stores(alone, paths, client=threads)["error"].tolist() == ["", "", ""]


def test_every_worker_of_a_host_has_a_device_of_its_own(threads, paths, tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")

    def note(sdata: SpatialData, device: str = "auto") -> None:
        from distributed import get_worker

        (tmp_path / f"{get_worker().name} {device}").touch()
        time.sleep(0.2)

    map_stores(note, paths, client=threads)
    assert {path.name for path in tmp_path.iterdir()} == {"stores", "0 cuda:0", "1 cuda:1"}
    map_stores(note, paths[:1], client=threads, device="cpu")
    assert (tmp_path / "0 cpu").exists()


def test_ranks_are_counted_on_each_host():
    workers = {
        f"tcp://{host}:{port}": {"name": name, "host": host}
        for host, port, name in [("a", 5, 10), ("b", 1, 1), ("a", 7, 2), ("b", 2, "extra"), ("a", 6, 0)]
    }
    assert local_ranks(workers) == {0: 0, 2: 1, 10: 2, 1: 0, "extra": 1}


@pytest.mark.parametrize(
    ("visible", "devices"),
    [
        ("", ["cuda:0", "cuda:1", "cuda:2", "cuda:0"]),
        ("4,5,6", ["cuda:0", "cuda:1", "cuda:2", "cuda:0"]),
        ("6, 4, 5", ["cuda:1", "cuda:2", "cuda:0", "cuda:1"]),
    ],
)
def test_devices_are_dealt_out_in_turn(visible, devices):
    assert [choose_device(rank, 3, visible) for rank in range(4)] == devices


def test_workers_that_see_the_same_devices_in_turned_order_get_different_ones():
    turned = ["0,1,2,3", "1,2,3,0", "2,3,0,1", "3,0,1,2"]
    chosen = [choose_device(rank, 4, visible) for rank, visible in enumerate(turned)]
    assert sorted(v.split(",")[int(c.removeprefix("cuda:"))] for c, v in zip(chosen, turned, strict=True)) == list(
        "0123"
    )


def test_what_will_be_needed_is_said(paths, caplog):
    caplog.set_level(logging.INFO, "hisdiff_sd")
    assert image_pixels(paths[0]) == np.prod(spatialdata.read_zarr(paths[0])["he"]["scale0"].image.shape[1:])
    report = map_stores(add_table, paths)
    before, after = (text for text in caplog.messages if "stores with" in text or "the other" in text)
    assert before.startswith("3 stores with 0.00 gigapixels; ")
    assert after.startswith(f"{paths[0]} took ")
    assert "the other 2 stores will take about" in after
    caplog.clear()
    map_stores(lambda sdata: write_table(sdata, "more", sdata["again"].copy()), paths[:2])
    assert "the other store will take about" in caplog.text
    more = sum(map(image_pixels, paths[1:])) / image_pixels(paths[0]) * report["bytes_added"][0]
    assert after.endswith(f"(1 at a time) and {more / 2**20:.1f} MiB of disk")


def test_a_disk_that_is_too_small_is_said(paths, caplog, monkeypatch):
    monkeypatch.setattr("hisdiff_sd._cohort.free_bytes", lambda target: 1000)
    map_stores(add_table, paths)
    assert any("the disk has 0.0 MiB free" in text for text in caplog.messages)
