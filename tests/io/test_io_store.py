"""Stores are written whole or not at all, and read by anybody."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import anndata as ad
import geopandas
import numpy as np
import pandas as pd
import pytest
import shapely
import spatialdata
from filelock import FileLock, Timeout
from scipy.sparse import issparse
from spatialdata.models import Labels2DModel, PointsModel, ShapesModel, TableModel
from spatialdata.transformations import Scale, get_transformation

import hisdiff_sd as hd
from hisdiff_sd._errors import HisDiffError
from hisdiff_sd.io import _atomic
from hisdiff_sd.io._store import write_shapes, write_table


@pytest.fixture(scope="module")
def slide(tiny_root) -> spatialdata.SpatialData:
    return hd.io.hest(tiny_root, "T1")


@pytest.fixture(scope="module")
def written(slide, tmp_path_factory) -> Path:
    """A store. Read only."""
    path = tmp_path_factory.mktemp("written") / "T1.zarr"
    hd.io.write(slide, path)
    return path


@pytest.fixture
def store(written, tmp_path) -> Path:
    """A copy of the store, to change, in a folder of its own."""
    (tmp_path / "stores").mkdir()
    return Path(shutil.copytree(written, tmp_path / "stores" / "T1.zarr"))


def table_of(sdata, value: float, n_columns: int = 3) -> ad.AnnData:
    """A table that annotates all spots, full of one value."""
    index = sdata["spots"].index
    obs = pd.DataFrame({"region": pd.Categorical(["spots"] * len(index)), "instance_id": index.to_numpy()}, index=index)
    var = pd.DataFrame(index=[f"v{i}" for i in range(n_columns)])
    values = ad.AnnData(np.full((len(index), n_columns), value, np.float32), obs, var)
    return TableModel.parse(values, region="spots", region_key="region", instance_key="instance_id")


def assert_same(a, b) -> None:
    """Every element of two slides is equal to the last bit."""
    assert {n for _, n, _ in a.gen_elements()} == {n for _, n, _ in b.gen_elements()}
    assert a.attrs == b.attrs
    assert set(a.coordinate_systems) == set(b.coordinate_systems)
    for level in a["he"].children:
        np.testing.assert_array_equal(a["he"][level].image.to_numpy(), b["he"][level].image.to_numpy())
    pd.testing.assert_frame_equal(
        pd.DataFrame(a["spots"].drop(columns="geometry")), b["spots"].drop(columns="geometry")
    )
    assert (a["spots"].geometry == b["spots"].geometry).all()
    for name in a.tables:
        assert_same_table(a[name], b[name])


def assert_same_table(a: ad.AnnData, b: ad.AnnData) -> None:
    x, y = (t.X.toarray() if issparse(t.X) else t.X for t in (a, b))
    np.testing.assert_array_equal(x, y)
    pd.testing.assert_frame_equal(a.obs, b.obs)
    pd.testing.assert_frame_equal(a.var, b.var)
    assert set(a.obsm) == set(b.obsm)
    for key in a.obsm:
        np.testing.assert_array_equal(a.obsm[key], b.obsm[key])


def stages(target: Path) -> list[Path]:
    return list(_atomic.scratch_folder(target).glob("stage-*"))


def full_disk(*_args: object, **_kwargs: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


# writing slides


def test_what_is_written_is_read_back_by_spatialdata_alone(slide, written):
    back = spatialdata.read_zarr(written)
    assert_same(slide, back)
    (library,) = back["table"].uns["spatial"].values()
    (source,) = slide["table"].uns["spatial"].values()
    np.testing.assert_array_equal(library["images"]["hires"], source["images"]["hires"])
    assert library["scalefactors"] == source["scalefactors"]


def test_write_returns_the_slide_of_the_store_and_leaves_the_object_alone(slide, tmp_path):
    back = hd.io.write(slide, tmp_path / "a.zarr")
    assert back.is_backed()
    assert back.path == tmp_path / "a.zarr"
    assert not slide.is_backed()
    assert isinstance(slide.attrs["hisdiff_sd"]["true_size"], list)


def test_folders_on_the_way_are_made_and_paths_may_be_text(slide, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert hd.io.write(slide, "new/stores/a.zarr").path == tmp_path / "new" / "stores" / "a.zarr"


def test_only_a_hidden_lock_is_left_beside_the_store(store, slide):
    hd.io.write(slide, store.with_name("b.zarr"))
    assert sorted(p.name for p in store.parent.iterdir()) == [".b.zarr.hisdiff_sd", "T1.zarr", "b.zarr"]
    assert [p.name for p in (store.parent / ".b.zarr.hisdiff_sd").iterdir()] == ["lock"]


def test_a_store_that_is_there_is_refused(store, slide, snapshot):
    before = snapshot(store.parent)
    with pytest.raises(HisDiffError, match=r"T1\.zarr exists already; give overwrite=True"):
        hd.io.write(slide, store)
    assert snapshot(store.parent) == before


def test_overwrite_replaces_the_whole_store(store, tiny_root):
    other = hd.io.hest(tiny_root, "T2")
    write_table(spatialdata.read_zarr(store), "extra", table_of(spatialdata.read_zarr(store), 1))
    back = hd.io.write(other, store, overwrite=True)
    assert set(back.tables) == {"table"}
    assert_same(other, spatialdata.read_zarr(store))
    assert not stages(store)


@pytest.mark.parametrize("kind", ["folder", "empty", "file"])
def test_what_is_no_store_is_never_replaced(slide, tmp_path, kind, snapshot):
    target = tmp_path / "precious"
    if kind == "file":
        target.write_text("data")
    else:
        target.mkdir()
        if kind == "folder":
            (target / "thesis.tex").write_text("years of work")
    before = snapshot(tmp_path)
    with pytest.raises(HisDiffError, match=r"precious exists and is no zarr store"):
        hd.io.write(slide, target, overwrite=True)
    assert snapshot(tmp_path) == before


def test_a_slide_is_written_over_the_store_it_is_read_from(store):
    sdata = spatialdata.read_zarr(store)
    pixels = sdata["he"]["scale0"].image.to_numpy()
    sdata.attrs["hisdiff_sd"]["patient"] = "Z"
    back = hd.io.write(sdata, store, overwrite=True)
    np.testing.assert_array_equal(back["he"]["scale0"].image.to_numpy(), pixels)
    assert spatialdata.read_zarr(store).attrs["hisdiff_sd"]["patient"] == "Z"


def test_a_slide_of_a_store_is_written_to_another(store, tmp_path):
    sdata = spatialdata.read_zarr(store)
    write_table(sdata, "extra", table_of(sdata, 2))
    back = hd.io.write(sdata, tmp_path / "copy.zarr")
    assert_same(sdata, back)
    assert sdata.path == store  # the object stays with its own store
    assert set(back.tables) == {"table", "extra"}


def test_elements_of_other_tools_are_kept(slide, tmp_path):
    sdata = slide.subset([name for _, name, _ in slide.gen_elements()])
    sdata.labels["nuclei"] = Labels2DModel.parse(np.arange(12, dtype=np.int32).reshape(3, 4), dims=("y", "x"))
    sdata.points["transcripts"] = PointsModel.parse(
        pd.DataFrame({"x": [1.0, 2.0], "y": [3.0, 4.0], "gene": ["A", "B"]})
    )
    outline = geopandas.GeoDataFrame(geometry=[shapely.box(0, 0, 9, 9)])
    sdata.shapes["tissue"] = ShapesModel.parse(outline)
    clusters = table_of(sdata, 5)[:7].copy()
    clusters.obs["leiden"] = pd.Categorical(list("abababa"))
    clusters.obsm["X_pca"] = np.eye(7)
    sdata.tables["clusters"] = clusters
    sdata.tables["notes"] = ad.AnnData(np.ones((2, 2), np.float32))  # annotates nothing
    back = hd.io.write(sdata, tmp_path / "a.zarr")
    assert_same(sdata, back)
    assert back["transcripts"].compute()["gene"].tolist() == ["A", "B"]
    np.testing.assert_array_equal(back["nuclei"].to_numpy(), sdata["nuclei"].to_numpy())
    assert back["tissue"].geometry.iloc[0].equals(shapely.box(0, 0, 9, 9))


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("where", ["build", "move", "other error"])
def test_a_failure_in_the_middle_changes_nothing(slide, store, monkeypatch, where, overwrite, snapshot):
    target = store if overwrite else store.with_name("new.zarr")
    before = snapshot(store)

    def half(self, path, **_kwargs):
        (Path(path) / "images").mkdir(parents=True)
        (Path(path) / "zarr.json").write_text("{")
        if where == "other error":
            raise RuntimeError
        full_disk()

    if where == "move":
        monkeypatch.setattr("hisdiff_sd.io._store.move_in", full_disk)
    else:
        monkeypatch.setattr(spatialdata.SpatialData, "write", half)
    expected = "RuntimeError" if where == "other error" else "No space left on device"
    with pytest.raises(HisDiffError, match=rf"writing .*{target.name} failed \(.*{expected}.*nothing was changed"):
        hd.io.write(slide, target, overwrite=overwrite)
    monkeypatch.undo()
    assert snapshot(store) == before
    assert target.exists() == overwrite
    assert not stages(target)
    assert_same(hd.io.write(slide, target, overwrite=overwrite), slide)


def test_a_folder_that_cannot_be_written_to(slide, store, monkeypatch, snapshot):
    before = snapshot(store.parent)

    def denied(self, *_args, **_kwargs):
        raise PermissionError(errno.EACCES, "Permission denied", str(self))

    sdata = spatialdata.read_zarr(store)
    monkeypatch.setattr(Path, "mkdir", denied)
    match = r"cannot write beside .*zarr \(Permission denied\); choose a folder you may write to"
    with pytest.raises(HisDiffError, match=match):
        hd.io.write(slide, store.with_name("new.zarr"))
    with pytest.raises(HisDiffError, match=match):
        write_table(sdata, "extra", table_of(sdata, 1))
    assert "extra" not in sdata.tables
    assert snapshot(store.parent) == before


def test_a_symbolic_link_leads_to_the_store(slide, store, tmp_path):
    link = tmp_path / "link.zarr"
    link.symlink_to(store)
    hd.io.write(slide, link, overwrite=True)
    assert link.is_symlink()
    sdata = spatialdata.read_zarr(link)
    write_table(sdata, "extra", table_of(sdata, 1))
    assert "extra" in spatialdata.read_zarr(store).tables
    assert _atomic.scratch_folder(store).exists()
    assert not _atomic.scratch_folder(link).exists()


# adding tables


def test_a_table_is_added_to_object_and_store(store):
    sdata = spatialdata.read_zarr(store)
    table = table_of(sdata, 4)
    write_table(sdata, "extra", table)
    assert sdata["extra"] is table
    back = spatialdata.read_zarr(store)
    assert set(back.tables) == {"table", "extra"}
    assert_same_table(back["extra"], table)
    assert_same(sdata, back)
    assert not stages(store)


def test_a_slide_in_memory_gets_the_table_and_nothing_is_written(slide, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sdata = slide.subset([name for _, name, _ in slide.gen_elements()])
    write_table(sdata, "extra", table_of(sdata, 4))
    assert set(sdata.tables) == {"table", "extra"}
    assert not list(tmp_path.iterdir())


def test_a_table_that_is_there_is_refused(store, snapshot):
    sdata = spatialdata.read_zarr(store)
    before = snapshot(store)
    with pytest.raises(HisDiffError, match="has a table 'table' already; give overwrite=True"):
        write_table(sdata, "table", table_of(sdata, 1))
    assert snapshot(store) == before


def test_a_table_that_another_process_wrote_is_refused(store):
    mine, other = spatialdata.read_zarr(store), spatialdata.read_zarr(store)
    write_table(other, "extra", table_of(other, 7))
    with pytest.raises(HisDiffError, match="another process has written a table 'extra'"):
        write_table(mine, "extra", table_of(mine, 1))
    assert "extra" not in mine.tables
    assert (spatialdata.read_zarr(store)["extra"].X == 7).all()
    write_table(mine, "extra", table_of(mine, 1), overwrite=True)
    assert (spatialdata.read_zarr(store)["extra"].X == 1).all()


def test_a_replaced_table_leaves_nothing_of_the_old_one(store):
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


def test_the_first_table_of_a_slide_without_counts(slide, tmp_path):
    bare = spatialdata.SpatialData(images=dict(slide.images), shapes=dict(slide.shapes), attrs=slide.attrs)
    sdata = hd.io.write(bare, tmp_path / "a.zarr")
    write_table(sdata, "extra", table_of(sdata, 3))
    assert set(spatialdata.read_zarr(tmp_path / "a.zarr").tables) == {"extra"}


@pytest.mark.parametrize("name", ["he", "spots", "HE", "Table", "a b", "a/b", "../x", "__x", "", ".", ".."])
def test_names_that_no_table_can_have(store, name, snapshot):
    sdata = spatialdata.read_zarr(store)
    before = snapshot(store.parent)
    with pytest.raises(HisDiffError, match="cannot be the name of a table"):
        write_table(sdata, name, table_of(sdata, 1), overwrite=True)
    assert snapshot(store.parent) == before
    assert set(sdata.tables) == {"table"}


def test_a_plain_reader_in_a_new_process_sees_the_table(store):
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
def test_a_table_that_cannot_be_written_changes_nothing(store, monkeypatch, where, overwrite, snapshot):
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


def test_a_store_that_is_gone(store):
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


def test_shapes_are_added_to_object_and_store(store):
    sdata = spatialdata.read_zarr(store)
    write_shapes(sdata, "tissue", outline(9))
    back = spatialdata.read_zarr(store)
    assert_same(sdata, back)
    assert back["tissue"].geometry.iloc[0].equals(shapely.box(0, 0, 9, 9) - shapely.box(1, 1, 2, 2))
    scale = get_transformation(back["tissue"], "microns").to_affine_matrix(("x", "y"), ("x", "y"))
    np.testing.assert_array_equal(scale, np.diag([2, 2, 1]))
    assert not stages(store)


def test_shapes_that_are_there_are_replaced_only_when_asked(store, snapshot):
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


def test_shapes_that_cannot_be_written_change_nothing(store, monkeypatch, snapshot):
    sdata = spatialdata.read_zarr(store)
    before = snapshot(store)
    monkeypatch.setattr("hisdiff_sd.io._store.move_in", full_disk)
    with pytest.raises(HisDiffError, match=r"writing shapes 'tissue' into .*T1\.zarr failed .*store is as it was"):
        write_shapes(sdata, "tissue", outline(9))
    assert snapshot(store) == before
    assert "tissue" not in sdata.shapes


# locks and stages


def test_a_second_writer_is_told(store, monkeypatch, snapshot):
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
def test_the_lock_is_held_while_something_moves_in(store, slide, monkeypatch, work):
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
        hd.io.write(slide, store, overwrite=True)
    assert moved == [store / "tables" / "extra" if work == "table" else store]


def test_what_a_killed_process_left_is_removed_and_what_a_living_one_builds_is_not(store):
    with _atomic.staged(store) as build:
        build.mkdir()
        left = _atomic.scratch_folder(store) / "stage-of-the-dead"
        (left / "T1.zarr" / "tables").mkdir(parents=True)
        sdata = spatialdata.read_zarr(store)
        write_table(sdata, "extra", table_of(sdata, 1))
        assert not left.exists()
        assert build.exists()
    assert not stages(store)
