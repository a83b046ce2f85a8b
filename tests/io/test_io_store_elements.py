"""Tables and shapes are added to a store whole or not at all, by one writer at a time."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import geopandas
import numpy as np
import pandas as pd
import pytest
import shapely
import spatialdata
from filelock import FileLock, Timeout
from spatialdata.models import ShapesModel
from spatialdata.transformations import Scale, get_transformation

import hisdiff_sd as hd
from hisdiff_sd._errors import HisDiffError
from hisdiff_sd.io import _atomic
from hisdiff_sd.io._store import write_shapes, write_table

# adding tables


def test_a_table_is_added_to_object_and_store(table_of, assert_same, assert_same_table, stages, store):
    sdata = spatialdata.read_zarr(store)
    table = table_of(sdata, 4)
    write_table(sdata, "extra", table)
    assert sdata["extra"] is table
    back = spatialdata.read_zarr(store)
    assert set(back.tables) == {"table", "extra"}
    assert_same_table(back["extra"], table)
    assert_same(sdata, back)
    assert not stages(store)


def test_a_slide_in_memory_gets_the_table_and_nothing_is_written(table_of, tiny_slide, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sdata = tiny_slide.subset([name for _, name, _ in tiny_slide.gen_elements()])
    write_table(sdata, "extra", table_of(sdata, 4))
    assert set(sdata.tables) == {"table", "extra"}
    assert not list(tmp_path.iterdir())


def test_a_table_that_is_there_is_refused(table_of, store, snapshot):
    sdata = spatialdata.read_zarr(store)
    before = snapshot(store)
    with pytest.raises(HisDiffError, match="has a table 'table' already; give overwrite=True"):
        write_table(sdata, "table", table_of(sdata, 1))
    assert snapshot(store) == before


def test_a_table_that_another_process_wrote_is_refused(table_of, store):
    mine, other = spatialdata.read_zarr(store), spatialdata.read_zarr(store)
    write_table(other, "extra", table_of(other, 7))
    with pytest.raises(HisDiffError, match="another process has written a table 'extra'"):
        write_table(mine, "extra", table_of(mine, 1))
    assert "extra" not in mine.tables
    assert (spatialdata.read_zarr(store)["extra"].X == 7).all()
    write_table(mine, "extra", table_of(mine, 1), overwrite=True)
    assert (spatialdata.read_zarr(store)["extra"].X == 1).all()


def test_a_replaced_table_leaves_nothing_of_the_old_one(table_of, assert_same_table, stages, store):
    sdata = spatialdata.read_zarr(store)
    old = table_of(sdata, 1, n_columns=9)
    old.layers["std"] = old.X.copy()
    old.obs["leiden"] = pd.Categorical(["a"] * old.n_obs)
    write_table(sdata, "extra", old)
    new = table_of(sdata, 2, n_columns=2)
    write_table(sdata, "extra", new, overwrite=True)
    back = spatialdata.read_zarr(store)["extra"]
    assert_same_table(back, new)
    assert not [layer for layer in back.layers if layer is not None]
    assert not stages(store)


def test_the_first_table_of_a_slide_without_counts(table_of, tiny_slide, tmp_path):
    bare = spatialdata.SpatialData(
        images=dict(tiny_slide.images), shapes=dict(tiny_slide.shapes), attrs=tiny_slide.attrs
    )
    sdata = hd.io.write(bare, tmp_path / "a.zarr")
    write_table(sdata, "extra", table_of(sdata, 3))
    assert set(spatialdata.read_zarr(tmp_path / "a.zarr").tables) == {"extra"}


@pytest.mark.parametrize("name", ["he", "spots", "HE", "Table", "a b", "a/b", "../x", "__x", "", ".", ".."])
def test_names_that_no_table_can_have(table_of, store, name, snapshot):
    sdata = spatialdata.read_zarr(store)
    before = snapshot(store.parent)
    with pytest.raises(HisDiffError, match="cannot be the name of a table"):
        write_table(sdata, name, table_of(sdata, 1), overwrite=True)
    assert snapshot(store.parent) == before
    assert set(sdata.tables) == {"table"}


def test_a_plain_reader_in_a_new_process_sees_the_table(table_of, store):
    sdata = spatialdata.read_zarr(store)
    write_table(sdata, "extra", table_of(sdata, 6))
    code = (
        "import sys, spatialdata; s = spatialdata.read_zarr(sys.argv[1]); "
        "assert 'hisdiff_sd' not in sys.modules; print(sorted(s.tables), float(s['extra'].X.mean()))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(store)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['extra', 'table'] 6.0"


@pytest.mark.parametrize("where", ["move_in", "locked"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_table_that_cannot_be_written_changes_nothing(
    table_of, stages, full_disk, store, monkeypatch, where, overwrite, snapshot
):
    sdata = spatialdata.read_zarr(store)
    if overwrite:
        write_table(sdata, "extra", table_of(sdata, 1))
    before = snapshot(store)
    monkeypatch.setattr(f"hisdiff_sd.io._store.{where}", full_disk)
    with pytest.raises(
        HisDiffError, match=r"writing a table 'extra' into .*T1\.zarr failed .*No space.*store is as it was"
    ):
        write_table(sdata, "extra", table_of(sdata, 2), overwrite=overwrite)
    monkeypatch.undo()
    assert snapshot(store) == before
    assert not stages(store)
    assert ("extra" in sdata.tables) == overwrite
    assert not overwrite or (sdata["extra"].X == 1).all()


def test_a_store_that_is_gone(table_of, store):
    sdata = spatialdata.read_zarr(store)
    shutil.rmtree(store)
    with pytest.raises(HisDiffError, match=r"T1\.zarr of this slide is gone; write it again"):
        write_table(sdata, "extra", table_of(sdata, 1))
    assert not store.exists()


# adding shapes


def outline(side: float) -> geopandas.GeoDataFrame:
    """A square with a hole, and its size."""
    square = shapely.box(0, 0, side, side) - shapely.box(1, 1, 2, 2)
    frame = geopandas.GeoDataFrame({"area": [square.area]}, geometry=[square], index=pd.Index(["a"]))
    return ShapesModel.parse(frame, transformations={"microns": Scale([2.0, 2.0], axes=("x", "y"))})


def test_shapes_are_added_to_object_and_store(assert_same, stages, store):
    sdata = spatialdata.read_zarr(store)
    write_shapes(sdata, "tissue", outline(9))
    back = spatialdata.read_zarr(store)
    assert_same(sdata, back)
    assert back["tissue"].geometry.iloc[0].equals(shapely.box(0, 0, 9, 9) - shapely.box(1, 1, 2, 2))
    scale = get_transformation(back["tissue"], "microns").to_affine_matrix(("x", "y"), ("x", "y"))
    np.testing.assert_array_equal(scale, np.diag([2, 2, 1]))
    assert not stages(store)


def test_shapes_that_are_there_are_replaced_only_when_asked(assert_same, store, snapshot):
    sdata, other = spatialdata.read_zarr(store), spatialdata.read_zarr(store)
    write_shapes(sdata, "tissue", outline(9))
    before = snapshot(store)
    with pytest.raises(HisDiffError, match="has shapes 'tissue' already; give overwrite=True"):
        write_shapes(sdata, "tissue", outline(5))
    with pytest.raises(HisDiffError, match="another process has written shapes 'tissue'"):
        write_shapes(other, "tissue", outline(5))
    assert snapshot(store) == before
    assert "tissue" not in other.shapes
    write_shapes(sdata, "tissue", outline(5), overwrite=True)
    assert_same(sdata, spatialdata.read_zarr(store))
    assert sdata["tissue"]["area"].tolist() == [24.0]


@pytest.mark.parametrize("name", ["he", "table", "Spots", "a b", "__x"])
def test_names_that_no_shapes_can_have(store, name, snapshot):
    sdata = spatialdata.read_zarr(store)
    before = snapshot(store.parent)
    with pytest.raises(HisDiffError, match="cannot be the name of shapes"):
        write_shapes(sdata, name, outline(9), overwrite=True)
    assert snapshot(store.parent) == before


def test_shapes_that_cannot_be_written_change_nothing(full_disk, store, monkeypatch, snapshot):
    sdata = spatialdata.read_zarr(store)
    before = snapshot(store)
    monkeypatch.setattr("hisdiff_sd.io._store.move_in", full_disk)
    with pytest.raises(HisDiffError, match=r"writing shapes 'tissue' into .*T1\.zarr failed .*store is as it was"):
        write_shapes(sdata, "tissue", outline(9))
    assert snapshot(store) == before
    assert "tissue" not in sdata.shapes


# locks and stages


def test_a_second_writer_is_told(table_of, store, monkeypatch, snapshot):
    sdata = spatialdata.read_zarr(store)
    monkeypatch.setattr(hd.settings, "lock_seconds", 0.1)
    holder = rf"process {os.getpid()} of .* on .*, for 0 s; waited 0\.1 s: try again"
    with (
        _atomic.locked(store),
        pytest.raises(HisDiffError, match=rf"T1\.zarr is being written to by {holder}"),
    ):
        write_table(sdata, "extra", table_of(sdata, 1))
    write_table(sdata, "extra", table_of(sdata, 1))
    assert "extra" in spatialdata.read_zarr(store).tables


@pytest.mark.parametrize("work", ["table", "store"])
def test_the_lock_is_held_while_something_moves_in(table_of, store, tiny_slide, monkeypatch, work):
    moved = []

    def look(build, target, inside=""):
        with pytest.raises(Timeout):
            FileLock(_atomic.scratch_folder(store) / "lock").acquire(timeout=0)
        moved.append(target / inside)
        _atomic.move_in(build, target, inside)

    monkeypatch.setattr("hisdiff_sd.io._store.move_in", look)
    if work == "table":
        sdata = spatialdata.read_zarr(store)
        write_table(sdata, "extra", table_of(sdata, 1))
    else:
        hd.io.write(tiny_slide, store, overwrite=True)
    assert moved == [store / "tables" / "extra" if work == "table" else store]


def test_what_a_killed_process_left_is_removed_and_what_a_living_one_builds_is_not(table_of, stages, store):
    with _atomic.staged(store) as build:
        build.mkdir()
        left = _atomic.scratch_folder(store) / "stage-of-the-dead"
        (left / "T1.zarr" / "tables").mkdir(parents=True)
        sdata = spatialdata.read_zarr(store)
        write_table(sdata, "extra", table_of(sdata, 1))
        assert not left.exists()
        assert build.exists()
    assert not stages(store)
