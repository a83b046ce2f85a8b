"""Embeddings that were interrupted go on; tiles that cannot be read are said to be missing, never made up."""

from __future__ import annotations

import errno
import logging
import os
import shutil

import numpy as np
import pytest
import spatialdata
import tifffile
import torch
from filelock import FileLock

import hisdiff_sd as hd
from hisdiff_sd._errors import HisDiffError, HisDiffWarning
from hisdiff_sd._provenance import failed_tiles
from hisdiff_sd.io._atomic import scratch_folder
from hisdiff_sd.pp import _partial


class Means:
    """The mean colour of a tile; stops with `error` at its `stop_at`-th batch."""

    name, dim, tile_px, fingerprint, licence = "means", 3, 32, "f1", "none"

    def __init__(self, stop_at: int = 0, error: type[BaseException] = KeyboardInterrupt) -> None:
        self.calls, self.stop_at, self.error = 0, stop_at, error

    def __call__(self, tiles: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        if self.calls == self.stop_at:
            raise self.error
        return tiles.float().mean((2, 3))


@pytest.fixture
def store(stores, tmp_path):
    shutil.copytree(stores["S1"], tmp_path / "S1.zarr")
    return tmp_path / "S1.zarr"


@pytest.fixture
def sdata(store):
    return spatialdata.read_zarr(store)


def partials(store) -> list[str]:
    return sorted(p.name for p in scratch_folder(store).glob("partial-*"))


def embed(sdata, encoder, **options) -> np.ndarray:
    hd.pp.embed(sdata, encoder, **{"batch_size": 4, **options})
    return sdata["spots_means"].X


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_what_was_embedded_before_an_error_is_not_embedded_again(sdata, store, error, caplog):
    with pytest.raises(error):
        embed(sdata, Means(stop_at=7, error=error))
    assert "spots_means" not in spatialdata.read_zarr(store).tables
    assert len(partials(store)) == 1
    again = Means()
    with caplog.at_level(logging.INFO, "hisdiff_sd"):
        values = embed(spatialdata.read_zarr(store), again)
    # the batch before the one that failed had not been fetched yet
    n = -(-len(values) // 4)
    assert again.calls == n - 5
    assert f"20 of {len(values)} tiles were embedded before" in caplog.text
    assert partials(store) == []
    sdata.path = None
    np.testing.assert_array_equal(values, embed(sdata, Means()))


def test_what_was_embedded_otherwise_is_not_taken_up_and_is_removed_at_the_end(sdata, store):
    for options in ({}, {"tile_um": 150}, {"padding": "white"}, {"batch_size": 5}):
        with pytest.raises(KeyboardInterrupt):
            embed(sdata, Means(stop_at=4), **options)
    assert len(partials(store)) == 4
    again = Means()
    embed(sdata, again, padding="reflect")
    assert again.calls == -(-len(sdata["spots"]) // 4)
    assert partials(store) == []


def test_a_damaged_part_is_embedded_again(sdata, store, monkeypatch):
    monkeypatch.setattr(_partial, "_SECONDS", 0.0)
    with pytest.raises(KeyboardInterrupt):
        embed(sdata, Means(stop_at=7))
    parts = sorted(scratch_folder(store).glob("partial-*/part-*"))
    assert len(parts) == 5
    parts[1].write_bytes(parts[1].read_bytes()[:100])
    again = Means()
    values = embed(sdata, again)
    assert again.calls == -(-len(values) // 4) - 4
    assert np.isfinite(values).all()


def test_two_processes_do_not_embed_one_slide_at_once(sdata, store):
    with pytest.raises(KeyboardInterrupt):
        embed(sdata, Means(stop_at=4))
    (folder,) = scratch_folder(store).glob("partial-*")
    with (
        FileLock(folder / "lock"),
        pytest.raises(HisDiffError, match=r"table 'spots_means' of .*S1\.zarr is being made by another process"),
    ):
        embed(sdata, Means())


def test_a_full_disk_is_one_error_and_nothing_is_lost(sdata, store, monkeypatch):
    monkeypatch.setattr(_partial, "_SECONDS", 0.0)
    real, calls = np.savez, []

    def full(*args, **arrays):
        calls.append(1)
        if len(calls) >= 4:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(*args, **arrays)

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(HisDiffError, match=r"No space left on device\); make room .* \(3 batches\) is kept"):
        embed(sdata, Means())
    monkeypatch.setattr(np, "savez", real)
    again = Means()
    values = embed(sdata, again)
    assert again.calls == -(-len(values) // 4) - 3
    assert "spots_means" in spatialdata.read_zarr(store).tables


def test_a_slide_in_memory_keeps_nothing(sdata, store):
    sdata.path = None
    with pytest.raises(KeyboardInterrupt):
        embed(sdata, Means(stop_at=4))
    assert partials(store) == []


def damage(store, row: int, col: int) -> None:
    (store / "images" / "he" / "s0" / "c" / "0" / str(row) / str(col)).write_bytes(b"rubbish")


def test_tiles_that_cannot_be_read_are_named_and_left_out(sdata, store):
    hd.pp.embed(sdata, Means(), batch_size=4, key_added="whole")
    expected = sdata["whole"].to_df()
    damage(store, 0, 0)
    with pytest.warns(
        HisDiffWarning, match=r"tiles of slide 'S1' could not be read: chunk c/0/0/0 of .*level 0.*others were kept"
    ):
        embed(sdata, Means())
    table = spatialdata.read_zarr(store)["spots_means"]
    lacking = sdata["spots"].index.difference(table.obs_names)
    assert 0 < len(lacking) == failed_tiles(table) < len(sdata["spots"])
    centres = sdata["spots"].loc[lacking].geometry
    assert (centres.x < 512 + 112).all()
    assert (centres.y < 512 + 112).all()
    np.testing.assert_array_equal(table.to_df(), expected.loc[table.obs_names])


def test_a_slide_with_failed_tiles_is_done_until_it_is_asked_for_again(sdata, store):
    whole = (store / "images" / "he" / "s0" / "c" / "0" / "0" / "0").read_bytes()
    damage(store, 0, 0)
    with pytest.warns(HisDiffWarning):
        embed(sdata, Means())
    again = Means()
    embed(sdata, again)
    assert again.calls == 0
    (store / "images" / "he" / "s0" / "c" / "0" / "0" / "0").write_bytes(whole)
    assert len(embed(sdata, again, overwrite=True)) == len(sdata["spots"])


def test_the_other_spots_are_predicted_and_judged(store, tiny_model):
    sdata = spatialdata.read_zarr(store)
    sdata.delete_element_from_disk("spots_morphology")
    damage(store, 0, 0)
    sdata = spatialdata.read_zarr(store)
    with pytest.warns(HisDiffWarning, match="could not be read"):
        hd.tl.predict(sdata, tiny_model, n_samples=2, steps=2)
    assert list(sdata["hisdiff"].obs_names) == list(sdata["spots_morphology"].obs_names)
    assert failed_tiles(sdata["hisdiff"]) == len(sdata["spots"]) - len(sdata["hisdiff"]) > 0
    hd.tl.predict(sdata, tiny_model, n_samples=2, steps=2)  # is there already
    with pytest.warns(HisDiffWarning, match="was trained on"):
        assert np.isfinite(hd.tl.evaluate(sdata, tiny_model)["mse"]).all()


def test_a_slide_of_which_nothing_can_be_read_is_refused(sdata, store):
    for chunk in (store / "images" / "he" / "s0" / "c" / "0").rglob("*"):
        if chunk.is_file():
            chunk.write_bytes(b"rubbish")
    with pytest.raises(HisDiffError, match="nothing was written: convert the slide again"):
        embed(sdata, Means())
    assert "spots_means" not in spatialdata.read_zarr(store).tables


def test_half_precision_takes_half_the_bytes(sdata):
    full = embed(sdata, Means())
    hd.pp.embed(sdata, Means(), batch_size=4, dtype="float16", key_added="half")
    assert sdata["half"].X.dtype == np.float16
    np.testing.assert_allclose(sdata["half"].X, full, rtol=1e-3)


def test_an_unknown_dtype_is_named(sdata):
    with pytest.raises(HisDiffError, match="'int8'; there are: 'float32', 'float16'"):
        embed(sdata, Means(), dtype="int8")


def test_a_long_work_is_announced(sdata, monkeypatch, caplog):
    monkeypatch.setattr("hisdiff_sd._progress._LONG", 0.0)
    with caplog.at_level(logging.INFO, "hisdiff_sd"):
        embed(sdata, Means())
    assert "embedding S1 with means: about 0 min for" in caplog.text


def test_a_store_that_may_not_be_written_to_is_refused_before_any_work(sdata, store, monkeypatch):
    real = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK and real(path, mode))
    encoder = Means()
    with pytest.raises(HisDiffError, match=r"may not be written to; open the slide with a companion .*hd\.io\.open\("):
        embed(sdata, encoder)
    assert encoder.calls == 0


def test_a_damaged_tile_of_a_tiff_is_named(hest_root, tmp_path):
    shutil.copytree(hest_root, tmp_path / "hest")
    slide = hd.io.hest(tmp_path / "hest", "S1")
    path = tmp_path / "hest" / "wsis" / "S1.tif"
    with tifffile.TiffFile(path) as tif:
        page = tif.pages[0]
        offset, length = page.dataoffsets[0], page.databytecounts[0]
    content = bytearray(path.read_bytes())
    content[offset : offset + length] = bytes(length)
    path.write_bytes(content)  # damaged after it was opened
    with pytest.warns(
        HisDiffWarning, match=r"could not be read: pixels from y = 0, x = 0 of image 'he', level 0, of S1\.tif"
    ):
        embed(slide, Means())
    assert 0 < failed_tiles(slide["spots_means"]) < len(slide["spots"])
