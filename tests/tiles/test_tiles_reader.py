"""Tiles are what naive slicing gives, whatever the chunks and the order they are read in."""

from __future__ import annotations

import dask.array as da
import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from hisdiff_sd._errors import HisDiffError
from hisdiff_sd.tiles import _reader, read_tiles, resize


def naive(image: np.ndarray, corner: tuple[int, int], side: int, true_size: tuple[int, int]) -> np.ndarray:
    """One pixel after the other, as the definition says."""
    tile = np.zeros((3, side, side), np.uint8)
    for v in range(side):
        for u in range(side):
            x, y = corner[0] + u, corner[1] + v
            if 0 <= x < true_size[1] and 0 <= y < true_size[0]:
                tile[:, v, u] = image[:, y, x]
    return tile


def slide(height: int, width: int, pad_y: int, pad_x: int) -> np.ndarray:
    """Pixels that all differ from 0 and from their neighbours, with white padding right and bottom."""
    rng = np.random.default_rng(height * 1000 + width)
    image = np.full((3, height + pad_y, width + pad_x), 255, np.uint8)
    image[:, :height, :width] = rng.integers(1, 255, (3, height, width))
    return image


def gather(image, corners, side, true_size) -> np.ndarray:
    """All tiles in the order of the corners; every row is given exactly once."""
    tiles = np.full((len(corners), 3, side, side), 77, np.uint8)
    seen = []
    for rows, part in read_tiles(image, corners, side, true_size):
        assert part.dtype == np.uint8
        assert len(rows) == len(part) <= 32
        tiles[rows] = part
        seen += list(rows)
    assert sorted(seen) == list(range(len(corners)))
    return tiles


corner_lists = st.lists(st.tuples(st.integers(-40, 90), st.integers(-40, 90)), min_size=1, max_size=12)


@settings(deadline=None, max_examples=80)
@given(
    size=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    pad=st.tuples(st.integers(0, 9), st.integers(0, 9)),
    corners=corner_lists,
    side=st.integers(1, 25),
    chunks=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    block=st.integers(1, 64),
)
def test_tiles_are_those_of_naive_slicing(size, pad, corners, side, chunks, block):
    image = slide(*size, *pad)
    lazy = da.from_array(image, chunks=(3, *chunks))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_reader, "_BLOCK_PX", block)
        tiles = gather(lazy, np.array(corners), side, size)
    for tile, corner in zip(tiles, corners, strict=True):
        np.testing.assert_array_equal(tile, naive(image, corner, side, size))


def test_padding_of_the_store_is_black_as_everything_outside_is():
    image = slide(50, 40, 6, 8)
    (tile,) = gather(image, np.array([[30, 45]]), 16, (50, 40))
    assert (tile[:, :5, :10] == image[:, 45:50, 30:40]).all()
    assert not tile[:, 5:].any()
    assert not tile[:, :, 10:].any()


def test_a_tile_wholly_outside_is_black():
    corners = np.array([[-500, 3], [3, -500], [4000, 3], [3, 4000], [-10, -10], [40, 50]])
    tiles = gather(slide(50, 40, 0, 0), corners, 10, (50, 40))
    assert not tiles.any()


def test_an_image_smaller_than_the_true_size_is_black_beyond():
    image = slide(20, 20, 0, 0)
    (tile,) = gather(image, np.array([[15, 15]]), 10, (30, 30))
    assert (tile[:, :5, :5] == image[:, 15:, 15:]).all()
    assert not tile[:, 5:].any()


def test_tiles_of_a_zarr_array(tmp_path):
    image = slide(64, 64, 0, 0)
    array = zarr.create_array(tmp_path / "a.zarr", shape=image.shape, chunks=(3, 16, 16), dtype="uint8")
    array[:] = image
    corners = np.array([[0, 0], [-4, 30], [60, 60]])
    np.testing.assert_array_equal(gather(array, corners, 9, (64, 64)), gather(image, corners, 9, (64, 64)))


def test_many_tiles_of_one_block_come_in_parts_of_one_read():
    image = slide(300, 300, 0, 0)
    reads = []

    class Counting:
        shape = image.shape

        def __getitem__(self, item):
            reads.append(item)
            return image[item]

    corners = np.random.default_rng(0).integers(0, 280, (200, 2))
    tiles = gather(Counting(), corners, 12, (300, 300))
    assert len(reads) == 1
    for tile, (x, y) in zip(tiles, corners, strict=True):
        np.testing.assert_array_equal(tile, image[:, y : y + 12, x : x + 12][:, :12, :12])


def test_each_block_is_read_once_and_no_further_than_its_tiles_reach():
    read = []

    class Blank:
        shape = (3, 10_000, 10_000)

        def __getitem__(self, item):
            read.append((item[1].stop - item[1].start, item[2].stop - item[2].start))
            return np.zeros((3, *read[-1]), np.uint8)

    corners = np.random.default_rng(1).integers(-100, 9_990, (300, 2))
    gather(Blank(), corners, 8, (10_000, 10_000))
    blocks = len(np.unique(corners // 2048, axis=0))
    assert len(read) == blocks
    assert max(max(r) for r in read) <= 2048 + 8


def test_no_corner_no_tile():
    assert list(read_tiles(slide(9, 9, 0, 0), np.zeros((0, 2)), 3, (9, 9))) == []


@pytest.mark.parametrize("corners", [np.zeros(4), np.zeros((4, 3)), np.zeros((2, 2, 2))])
def test_corners_of_another_shape(corners):
    with pytest.raises(HisDiffError, match=r"corners must be \(n, 2\)"):
        list(read_tiles(slide(9, 9, 0, 0), corners, 3, (9, 9)))


@pytest.mark.parametrize("resample", ["lanczos", "bicubic"])
@pytest.mark.parametrize(("source", "side"), [(31, 24), (24, 31), (48, 24)])
def test_resize_is_pillows(source, side, resample):
    tiles = np.random.default_rng(0).integers(0, 256, (2, 3, source, source), dtype=np.uint8)
    resized = resize(tiles, side, resample)
    assert resized.shape == (2, 3, side, side)
    assert resized.dtype == np.uint8
    method = {"lanczos": Image.Resampling.LANCZOS, "bicubic": Image.Resampling.BICUBIC}[resample]
    for tile, small in zip(tiles, resized, strict=True):
        expected = Image.fromarray(tile.transpose(1, 2, 0)).resize((side, side), method)
        np.testing.assert_array_equal(small.transpose(1, 2, 0), np.asarray(expected))


def test_resize_keeps_tiles_of_the_right_size():
    tiles = np.random.default_rng(0).integers(0, 256, (2, 3, 24, 24), dtype=np.uint8)
    assert resize(tiles, 24, "lanczos") is tiles


def test_shrinking_is_antialiased():
    board = np.indices((64, 64)).sum(0) % 2 * 255
    tiles = np.broadcast_to(board.astype(np.uint8), (1, 3, 64, 64))
    for resample in ("lanczos", "bicubic"):
        inner = resize(tiles, 16, resample)[0, :, 2:-2, 2:-2]
        assert np.abs(inner.astype(float) - 127.5).max() < 6
