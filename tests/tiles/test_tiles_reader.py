"""Tiles are what naive slicing gives, whatever the chunks, the batches and the memory; every cell is decoded once."""

from __future__ import annotations

import threading
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hisdiff_sd._errors import HisDiffError
from hisdiff_sd.tiles import plan_tiles, read_tiles


class Counting:
    """An image in memory that counts which cells are read; those in `broken` cannot be."""

    def __init__(self, image: np.ndarray, cell: tuple[int, int], broken=()) -> None:
        self.image, self.cell, self.shape, self.broken = image, cell, image.shape[1:], set(broken)
        self.reads: Counter = Counter()

    def read(self, row, col):
        self.reads[row, col] += 1
        if (row, col) in self.broken:
            raise ValueError("bad bytes")
        (h, w), image = self.cell, self.image
        return image[:, row * h : (row + 1) * h, col * w : (col + 1) * w]

    def describe(self, row, col):
        return f"cell {row}, {col} of the image"


def naive(image: np.ndarray, corner: tuple[int, int], side: int, size: tuple[int, int], padding: str) -> np.ndarray:
    """The tile as its definition says."""
    (x, y), (height, width) = corner, size
    u0, v0, u1, v1 = max(x, 0), max(y, 0), min(x + side, width), min(y + side, height)
    outside = 255 if padding == "white" else 0
    if u1 <= u0 or v1 <= v0:
        return np.full((3, side, side), outside, np.uint8)
    inside = image[:, v0:v1, u0:u1]
    over = ((0, 0), (v0 - y, y + side - v1), (u0 - x, x + side - u1))
    if padding == "reflect":
        return np.pad(inside, over, mode="reflect")
    return np.pad(inside, over, constant_values=outside)


def slide(height: int, width: int, pad_y: int = 0, pad_x: int = 0) -> np.ndarray:
    """Pixels that all differ from 0 and from their neighbours, with white padding right and bottom."""
    rng = np.random.default_rng(height * 1000 + width)
    image = np.full((3, height + pad_y, width + pad_x), 255, np.uint8)
    image[:, :height, :width] = rng.integers(1, 255, (3, height, width))
    return image


def gather(source, corners, side, size, *, batch_size=4, padding="black", **options) -> np.ndarray:
    """All tiles in the order of the corners; every row is given exactly once."""
    plan = plan_tiles(np.array(corners), side, size, source.cell, batch_size=batch_size, padding=padding)
    tiles = np.full((len(corners), 3, side, side), 77, np.uint8)
    seen: list[int] = []
    for batch in read_tiles(source, plan, **options):
        assert batch.tiles.dtype == np.uint8
        assert len(batch.rows) == len(batch.tiles) <= batch_size
        assert not batch.failed
        tiles[batch.rows] = batch.tiles
        seen += batch.rows.tolist()
    assert sorted(seen) == list(range(len(corners)))
    return tiles


@settings(deadline=None, max_examples=80)
@given(
    size=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    pad=st.tuples(st.integers(0, 9), st.integers(0, 9)),
    corners=st.lists(st.tuples(st.integers(-40, 90), st.integers(-40, 90)), min_size=1, max_size=12),
    side=st.integers(1, 25),
    cell=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    batch_size=st.integers(1, 5),
    padding=st.sampled_from(["black", "white", "reflect"]),
    memory=st.sampled_from([1, 5_000, 10**9]),
    threads=st.integers(1, 3),
)
def test_tiles_are_those_of_naive_slicing(size, pad, corners, side, cell, batch_size, padding, memory, threads):
    image = slide(*size, *pad)
    source = Counting(image, cell)
    options = {"batch_size": batch_size, "padding": padding, "memory": memory, "threads": threads}
    tiles = gather(source, corners, side, size, **options)
    for tile, corner in zip(tiles, corners, strict=True):
        np.testing.assert_array_equal(tile, naive(image, corner, side, size, padding))
    touched = {
        (y // cell[0], x // cell[1])
        for x0, y0 in corners
        for y in range(max(y0, 0), min(y0 + side, size[0]))
        for x in range(max(x0, 0), min(x0 + side, size[1]))
    }
    assert set(source.reads) == touched
    if memory == 10**9:
        assert set(source.reads.values()) <= {1}


def test_a_dense_grid_is_decoded_once_with_the_memory_of_a_row_of_cells():
    image = slide(640, 640)
    source = Counting(image, (64, 64))
    corners = [(x, y) for y in range(0, 616, 24) for x in range(0, 616, 24)]
    row_of_cells = 3 * 64 * 640
    tiles = gather(source, corners, 24, (640, 640), batch_size=16, memory=2 * row_of_cells)
    assert len(source.reads) == 100
    assert set(source.reads.values()) == {1}
    for tile, (x, y) in zip(tiles, corners, strict=True):
        np.testing.assert_array_equal(tile, image[:, y : y + 24, x : x + 24])


def test_no_more_cells_are_held_than_the_memory_allows():
    held = set()

    class Watched(Counting):
        def read(self, row, col):
            pixels = super().read(row, col).copy()
            held.add((row, col))
            import weakref

            weakref.finalize(pixels, held.discard, (row, col))
            return pixels

    source = Watched(slide(640, 640), (64, 64))
    plan = plan_tiles(
        np.array([(x, y) for y in range(0, 616, 24) for x in range(0, 616, 24)]), 24, (640, 640), (64, 64), batch_size=4
    )
    most = 0
    for _ in read_tiles(source, plan, memory=6 * 3 * 64 * 64, threads=1):
        most = max(most, len(held))
    assert most <= 6 + 8  # and the cells of the batches that are being asked for
    assert sum(source.reads.values()) > 100  # at the price of decoding some twice


def test_chosen_batches_alone_are_read():
    source = Counting(slide(100, 100), (20, 20))
    plan = plan_tiles(np.array([(x, y) for y in range(0, 90, 10) for x in range(0, 90, 10)]), 10, (100, 100), (20, 20))
    (batch,) = read_tiles(source, plan, [plan.batches[1]])
    assert batch.index == 1
    np.testing.assert_array_equal(batch.rows, plan.batches[1].rows)
    assert set(source.reads) == set(plan.batches[1].cells)


def test_a_broken_cell_fails_the_tiles_that_touch_it_and_no_others():
    image = slide(80, 80)
    source = Counting(image, (40, 40), broken=[(0, 1)])
    corners = [(5, 5), (35, 5), (60, 5), (60, 60), (35, 35)]
    plan = plan_tiles(np.array(corners), 10, (80, 80), (40, 40), batch_size=2)
    failed, good = {}, {}
    for batch in read_tiles(source, plan):
        failed |= batch.failed
        good |= dict(zip(batch.rows.tolist(), batch.tiles, strict=True))
    assert sorted(failed) == [1, 2, 4]
    assert failed[2] == "cell 0, 1 of the image cannot be decoded (ValueError: bad bytes)"
    assert sorted(good) == [0, 3]
    np.testing.assert_array_equal(good[3], image[:, 60:70, 60:70])


def test_a_reader_that_is_left_stops_its_threads():
    source = Counting(slide(200, 200), (20, 20))
    plan = plan_tiles(
        np.array([(x, y) for y in range(0, 190, 10) for x in range(0, 190, 10)]), 10, (200, 200), (20, 20)
    )
    tiles = read_tiles(source, plan)
    next(tiles)
    tiles.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("tiles")]
    assert len(source.reads) < 100


def test_no_corner_no_tile():
    plan = plan_tiles(np.zeros((0, 2)), 3, (9, 9), (4, 4))
    assert list(read_tiles(Counting(slide(9, 9), (4, 4)), plan)) == []


@pytest.mark.parametrize("corners", [np.zeros(4), np.zeros((4, 3)), np.zeros((2, 2, 2))])
def test_corners_of_another_shape(corners):
    with pytest.raises(HisDiffError, match=r"corners must be \(n, 2\)"):
        plan_tiles(corners, 3, (9, 9), (4, 4))


@pytest.mark.parametrize("options", [{"side": 0}, {"batch_size": 0}])
def test_nothing_to_cut_is_refused(options):
    with pytest.raises(HisDiffError, match="must be 1 or more"):
        plan_tiles(np.zeros((1, 2)), options.pop("side", 3), (9, 9), (4, 4), **options)


def test_an_unknown_padding_is_named():
    with pytest.raises(HisDiffError, match="'grey'; there are: 'black', 'white', 'reflect'"):
        plan_tiles(np.zeros((1, 2)), 3, (9, 9), (4, 4), padding="grey")
