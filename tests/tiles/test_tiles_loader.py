"""Tiles arrive at the encoder's size, in the order of the plan, and errors with them."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
import zarr

from hisdiff_sd.tiles import ZarrSource, load_tiles, plan_tiles, resize

CPU = torch.device("cpu")


@pytest.fixture
def source(tmp_path) -> ZarrSource:
    pixels = np.random.default_rng(5).integers(0, 256, (3, 300, 400), dtype=np.uint8)
    array = zarr.create_array(tmp_path / "a.zarr", shape=pixels.shape, chunks=(3, 128, 128), dtype="uint8")
    array[:] = pixels
    return ZarrSource(array)


@pytest.fixture
def plan(source):
    corners = np.random.default_rng(6).integers(-10, 300, (50, 2))
    return plan_tiles(corners, 48, source.shape, source.cell, batch_size=8)


def loaders() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name.startswith("tile")]


def test_tiles_are_resized_in_the_order_of_the_plan(source, plan):
    full = list(load_tiles(source, plan, tile_px=48, device=CPU))
    small = list(load_tiles(source, plan, tile_px=24, resample="lanczos", device=CPU, threads=1))
    assert [b.index for b in small] == list(range(7))
    for a, b, planned in zip(full, small, plan.batches, strict=True):
        np.testing.assert_array_equal(a.rows, planned.rows)
        assert a.tiles.dtype == b.tiles.dtype == torch.uint8
        assert torch.equal(resize(a.tiles, 24, "lanczos"), b.tiles)


def test_chosen_batches_alone_are_loaded(source, plan):
    loaded = load_tiles(source, plan, plan.batches[3:5], tile_px=48, device=CPU)
    assert [batch.index for batch in loaded] == [3, 4]


def test_failed_tiles_come_with_their_batch(source, plan, tmp_path):
    (tmp_path / "a.zarr" / "c" / "0" / "0" / "0").write_bytes(b"rubbish")
    failed = {}
    for batch in load_tiles(source, plan, tile_px=48, device=CPU):
        assert len(batch.rows) == len(batch.tiles)
        failed |= batch.failed
    touching = np.flatnonzero((plan.corners < 128).all(1) & (plan.corners > -48).all(1))
    assert sorted(failed) == touching.tolist()
    assert all("chunk c/0/0/0 of" in text for text in failed.values())


def test_an_error_of_the_reader_reaches_the_loop(source, plan, monkeypatch):
    monkeypatch.setattr("hisdiff_sd.tiles._loader.resize", lambda *a: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        list(load_tiles(source, plan, tile_px=48, device=CPU))
    assert loaders() == []


def test_a_loop_that_is_left_stops_the_threads(source, plan):
    for _ in load_tiles(source, plan, tile_px=48, device=CPU):
        break
    loaded = load_tiles(source, plan, tile_px=48, device=CPU)
    next(loaded)
    loaded.close()
    assert loaders() == []
