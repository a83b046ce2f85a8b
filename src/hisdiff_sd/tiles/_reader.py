"""Tiles read from a chunked image, block by block."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np

from hisdiff_sd._errors import HisDiffError

_BLOCK_PX = 2048
_BATCH = 32  # tiles held at once


class ChunkedImage(Protocol):
    """A (3, y, x) uint8 image of dask or zarr: a slice of it is cheap."""

    shape: tuple[int, ...]

    def __getitem__(self, item: tuple[slice, slice, slice]) -> object: ...


def read_tiles(
    image: ChunkedImage, corners: np.ndarray, side: int, true_size: tuple[int, int]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Read square tiles, each group of neighbours in one go.

    Parameters
    ----------
    image
        (3, y, x) uint8.
    corners
        (n, 2) top-left corners (x, y) in pixels of `image`; tiles may reach over the edge.
    side
        Side of the tiles in pixels of `image`.
    true_size
        Height and width of the slide itself; what lies outside is black, as published.

    Yields
    ------
    Row numbers into `corners` (m,) and their tiles, uint8 (m, 3, side, side), at most 32 at a time, block by block.
    """
    corners = np.asarray(corners, np.int64)
    if corners.ndim != 2 or corners.shape[1] != 2:
        raise HisDiffError(f"corners must be (n, 2), not {corners.shape}")
    if not len(corners):
        return
    size = np.minimum(true_size, image.shape[1:])[::-1]
    block = corners // _BLOCK_PX
    order = np.lexsort((block[:, 0], block[:, 1]))
    starts = np.flatnonzero(np.any(np.diff(block[order], axis=0), axis=1)) + 1
    for rows in np.split(order, starts):
        low = np.maximum(corners[rows].min(0), 0)
        high = np.maximum(np.minimum(corners[rows].max(0) + side, size), low)
        region = np.asarray(image[:, low[1] : high[1], low[0] : high[0]])
        for start in range(0, len(rows), _BATCH):
            batch = rows[start : start + _BATCH]
            yield batch, _cut(region, corners[batch] - low, side)


def _cut(region: np.ndarray, corners: np.ndarray, side: int) -> np.ndarray:
    """Tiles of a (3, y, x) region, black where they reach over it."""
    size = np.array(region.shape[:0:-1])
    tiles = np.zeros((len(corners), 3, side, side), np.uint8)
    for tile, corner in zip(tiles, corners, strict=True):
        (u0, v0), (u1, v1) = np.maximum(corner, 0), np.minimum(corner + side, size)
        if u1 > u0 and v1 > v0:
            x, y = corner
            tile[:, v0 - y : v1 - y, u0 - x : u1 - x] = region[:, v0:v1, u0:u1]
    return tiles


def resize(tiles: np.ndarray, side: int, resample: str) -> np.ndarray:
    """Bring (m, 3, s, s) uint8 tiles to (m, 3, side, side) with Pillow's ``lanczos`` or (antialiased) ``bicubic``."""
    from PIL import Image

    if tiles.shape[-1] == side:
        return tiles
    method = {"lanczos": Image.Resampling.LANCZOS, "bicubic": Image.Resampling.BICUBIC}[resample]
    resized = [np.asarray(Image.fromarray(t.transpose(1, 2, 0)).resize((side, side), method)) for t in tiles]
    return np.stack(resized).transpose(0, 3, 1, 2)
