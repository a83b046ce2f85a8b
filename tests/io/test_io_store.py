"""Stores are written whole or not at all, and read by anybody."""

from __future__ import annotations

import errno
from pathlib import Path

import anndata as ad
import geopandas
import numpy as np
import pandas as pd
import pytest
import shapely
import spatialdata
from spatialdata.models import Labels2DModel, PointsModel, ShapesModel

import hisdiff_sd as hd
from hisdiff_sd._errors import HisDiffError
from hisdiff_sd.io import _atomic
from hisdiff_sd.io._store import write_table


def test_what_is_written_is_read_back_by_spatialdata_alone(assert_same, tiny_slide, tiny_store):
    back = spatialdata.read_zarr(tiny_store)
    assert_same(tiny_slide, back)
    (library,) = back["table"].uns["spatial"].values()
    (source,) = tiny_slide["table"].uns["spatial"].values()
    np.testing.assert_array_equal(library["images"]["hires"], source["images"]["hires"])
    assert library["scalefactors"] == source["scalefactors"]


def test_write_returns_the_slide_of_the_store_and_leaves_the_object_alone(tiny_slide, tmp_path):
    back = hd.io.write(tiny_slide, tmp_path / "a.zarr")
    assert back.is_backed()
    assert back.path == tmp_path / "a.zarr"
    assert not tiny_slide.is_backed()
    assert isinstance(tiny_slide.attrs["hisdiff_sd"]["true_size"], list)


def test_folders_on_the_way_are_made_and_paths_may_be_text(tiny_slide, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert hd.io.write(tiny_slide, "new/stores/a.zarr").path == tmp_path / "new" / "stores" / "a.zarr"


def test_only_a_hidden_lock_is_left_beside_the_store(store, tiny_slide):
    hd.io.write(tiny_slide, store.with_name("b.zarr"))
    assert sorted(p.name for p in store.parent.iterdir()) == [".b.zarr.hisdiff_sd", "T1.zarr", "b.zarr"]
    assert [p.name for p in (store.parent / ".b.zarr.hisdiff_sd").iterdir()] == ["lock"]


def test_a_store_that_is_there_is_refused(store, tiny_slide, snapshot):
    before = snapshot(store.parent)
    with pytest.raises(HisDiffError, match=r"T1\.zarr exists already; give overwrite=True"):
        hd.io.write(tiny_slide, store)
    assert snapshot(store.parent) == before


def test_overwrite_replaces_the_whole_store(table_of, assert_same, stages, store, tiny_root):
    other = hd.io.hest(tiny_root, "T2")
    write_table(spatialdata.read_zarr(store), "extra", table_of(spatialdata.read_zarr(store), 1))
    back = hd.io.write(other, store, overwrite=True)
    assert set(back.tables) == {"table"}
    assert_same(other, spatialdata.read_zarr(store))
    assert not stages(store)


@pytest.mark.parametrize("kind", ["folder", "empty", "file"])
def test_what_is_no_store_is_never_replaced(tiny_slide, tmp_path, kind, snapshot):
    target = tmp_path / "precious"
    if kind == "file":
        target.write_text("data")
    else:
        target.mkdir()
        if kind == "folder":
            (target / "thesis.tex").write_text("years of work")
    before = snapshot(tmp_path)
    with pytest.raises(HisDiffError, match=r"precious exists and is no zarr store"):
        hd.io.write(tiny_slide, target, overwrite=True)
    assert snapshot(tmp_path) == before


def test_a_slide_is_written_over_the_store_it_is_read_from(store):
    sdata = spatialdata.read_zarr(store)
    pixels = sdata["he"]["scale0"].image.to_numpy()
    sdata.attrs["hisdiff_sd"]["patient"] = "Z"
    back = hd.io.write(sdata, store, overwrite=True)
    np.testing.assert_array_equal(back["he"]["scale0"].image.to_numpy(), pixels)
    assert spatialdata.read_zarr(store).attrs["hisdiff_sd"]["patient"] == "Z"


def test_a_slide_of_a_store_is_written_to_another(table_of, assert_same, store, tmp_path):
    sdata = spatialdata.read_zarr(store)
    write_table(sdata, "extra", table_of(sdata, 2))
    back = hd.io.write(sdata, tmp_path / "copy.zarr")
    assert_same(sdata, back)
    assert sdata.path == store  # the object stays with its own store
    assert set(back.tables) == {"table", "extra"}


def test_elements_of_other_tools_are_kept(table_of, assert_same, tiny_slide, tmp_path):
    sdata = tiny_slide.subset([name for _, name, _ in tiny_slide.gen_elements()])
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
def test_a_failure_in_the_middle_changes_nothing(
    assert_same, stages, full_disk, tiny_slide, store, monkeypatch, where, overwrite, snapshot
):
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
        hd.io.write(tiny_slide, target, overwrite=overwrite)
    monkeypatch.undo()
    assert snapshot(store) == before
    assert target.exists() == overwrite
    assert not stages(target)
    assert_same(hd.io.write(tiny_slide, target, overwrite=overwrite), tiny_slide)


def test_a_folder_that_cannot_be_written_to(table_of, tiny_slide, store, monkeypatch, snapshot):
    before = snapshot(store.parent)

    def denied(self, *_args, **_kwargs):
        raise PermissionError(errno.EACCES, "Permission denied", str(self))

    sdata = spatialdata.read_zarr(store)
    monkeypatch.setattr(Path, "mkdir", denied)
    match = r"cannot write beside .*zarr \(Permission denied\); choose a folder you may write to"
    with pytest.raises(HisDiffError, match=match):
        hd.io.write(tiny_slide, store.with_name("new.zarr"))
    with pytest.raises(HisDiffError, match=match):
        write_table(sdata, "extra", table_of(sdata, 1))
    assert "extra" not in sdata.tables
    assert snapshot(store.parent) == before


def test_a_symbolic_link_leads_to_the_store(table_of, tiny_slide, store, tmp_path):
    link = tmp_path / "link.zarr"
    link.symlink_to(store)
    hd.io.write(tiny_slide, link, overwrite=True)
    assert link.is_symlink()
    sdata = spatialdata.read_zarr(link)
    write_table(sdata, "extra", table_of(sdata, 1))
    assert "extra" in spatialdata.read_zarr(store).tables
    assert _atomic.scratch_folder(store).exists()
    assert not _atomic.scratch_folder(link).exists()
