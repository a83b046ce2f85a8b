"""Stores at a URL: a folder named by one is read as a store on the web is, through fsspec."""

from __future__ import annotations

import json
import shutil
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
