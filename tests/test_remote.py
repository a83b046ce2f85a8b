"""Stores at a URL: a folder named by one is read as a store on the web is, through fsspec."""

from __future__ import annotations

import http.server
import json
import shutil
import sys
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import spatialdata
from spatialdata.models import PointsModel

import hisdiff_sd as hd
from hisdiff_sd._cohort import map_stores
from hisdiff_sd._errors import HisDiffError, MissingFileError
from hisdiff_sd.io import open as open_store
from hisdiff_sd.io._store import write_table


@pytest.fixture
def store(stores: dict[str, Path], tmp_path: Path) -> Path:
    """A copy of S1, to change."""
    return Path(shutil.copytree(stores["S1"], tmp_path / "web" / "S1.zarr"))


@pytest.fixture
def url(store: Path) -> str:
    """URL of the copy."""
    return f"file://{store}"


def test_a_store_at_a_url_is_read_as_the_one_on_disk(store, url):
    here = open_store(store)
    table = here["table"].copy()
    table.X = np.zeros(table.shape, np.float32)  # zarr writes no chunk of it
    write_table(here, "zeros", table)
    there = open_store(url + "/")
    assert there.path is None
    assert there.attrs == here.attrs
    assert {name for _, name, _ in there.gen_elements()} == {"he", "spots", "table", "spots_morphology", "zeros"}
    pd.testing.assert_frame_equal(there["spots"], here["spots"])
    assert set(there.coordinate_systems) == set(here.coordinate_systems)
    for name in here.tables:
        pd.testing.assert_frame_equal(there[name].to_df(), here[name].to_df())
        pd.testing.assert_frame_equal(there[name].obs, here[name].obs)
    for level, original in zip(there["he"].children.values(), here["he"].children.values(), strict=True):
        np.testing.assert_array_equal(level.image.to_numpy(), original.image.to_numpy())


def test_pixels_are_fetched_when_they_are_used(store, url):
    chunks = [path for path in (store / "images").rglob("*") if path.is_file() and path.name != "zarr.json"]
    for chunk in chunks:
        chunk.write_bytes(b"no pixels")
    there = open_store(url)
    assert chunks
    assert there["spots_morphology"].n_obs == len(there["spots"])
    with pytest.raises(RuntimeError):
        there["he"]["scale0"].image.to_numpy()


def test_what_is_made_for_a_store_at_a_url_goes_into_a_companion(url, tmp_path):
    with pytest.raises(HisDiffError, match=r"nothing can be written to file://.*; give companions="):
        map_stores(hd.pp.embed, [url])
    report = map_stores(hd.pp.embed, [url], companions=tmp_path / "mine", encoder="morphology", key_added="again")
    assert report["status"].tolist() == ["done"]
    sdata = open_store(url, tmp_path / "mine" / "S1.zarr")
    np.testing.assert_array_equal(sdata["again"].X, sdata["spots_morphology"].X)
    assert not list((tmp_path / "web").glob(".*"))


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves files of a folder, which it cannot list for zarr, and says nothing."""

    def log_message(self, *_arguments: object) -> None:
        pass


@pytest.fixture
def web(store: Path) -> Iterator[str]:
    """URL of the copy on a web server, without embedding: slide and counts only."""
    sdata = spatialdata.read_zarr(store)
    sdata.delete_element_from_disk("spots_morphology")
    handler = partial(Quiet, directory=str(store.parent))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/{store.name}"
        server.shutdown()


def test_a_slide_on_a_web_server_is_embedded_and_predicted_into_a_companion(web, store, stores, tiny_model, tmp_path):
    before = {path: path.stat().st_mtime_ns for path in store.parent.rglob("*")}
    sdata = open_store(web, companion=tmp_path / "mine.zarr")
    hd.pp.embed(sdata, "morphology")
    hd.tl.predict(sdata, tiny_model, n_samples=2, steps=2)
    assert {path: path.stat().st_mtime_ns for path in store.parent.rglob("*")} == before
    mine = spatialdata.read_zarr(tmp_path / "mine.zarr")
    assert set(mine.tables) == {"spots_morphology", "hisdiff"}
    local = spatialdata.read_zarr(stores["S1"])
    np.testing.assert_array_equal(mine["spots_morphology"].X, local["spots_morphology"].X)
    local.path = None
    hd.tl.predict(local, tiny_model, n_samples=2, steps=2)
    np.testing.assert_array_equal(mine["hisdiff"].X, local["hisdiff"].X)
    assert hd.io.check(tmp_path / "mine.zarr").empty
    again = open_store(web, companion=tmp_path / "mine.zarr")
    assert {"table", "hisdiff", "spots_morphology"} == set(again.tables)


def test_a_package_that_a_protocol_needs_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(HisDiffError, match=r"s3://lab/S1\.zarr needs a package that is not installed: .*s3fs"):
        open_store("s3://lab/S1.zarr")


def test_points_are_left_out_and_it_is_said(store, url, caplog):
    sdata = spatialdata.read_zarr(store)
    frame = pd.DataFrame({"x": [1.0, 2.0], "y": [3.0, 4.0]})
    sdata["transcripts"] = PointsModel.parse(frame)
    sdata.write_element("transcripts")
    sdata.write_consolidated_metadata()
    assert "transcripts" not in open_store(url)
    assert any("points are not read from a URL: transcripts left out" in text for text in caplog.messages)


def test_what_cannot_be_read_is_refused(store, url, tmp_path):
    with pytest.raises(MissingFileError, match="no store at file:///no/such"):
        open_store("file:///no/such")
    with pytest.raises(HisDiffError, match="nope://x cannot be read as a SpatialData store"):
        open_store("nope://x")
    metadata = json.loads((store / "zarr.json").read_text())
    nodes = metadata["consolidated_metadata"]["metadata"]
    nodes["shapes/../../mine"] = nodes["shapes/spots"]
    (store / "zarr.json").write_text(json.dumps(metadata))
    with pytest.raises(HisDiffError, match=r"names an element 'shapes/../../mine', which would lie outside"):
        open_store(url)
    del metadata["consolidated_metadata"]
    (store / "zarr.json").write_text(json.dumps(metadata))
    with pytest.raises(HisDiffError, match="has no consolidated metadata"):
        open_store(url)
