"""Tiles read from a chunked image, block by block."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np

from hisdiff_sd._errors import HisDiffError

_BLOCK_PX = 2048


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
    Row numbers into `corners` (m,) and their tiles, uint8 (m, 3, side, side), block by block.
    """
    corners = np.asarray(corners, np.int64)
    if corners.ndim != 2 or corners.shape[1] != 2:
        raise HisDiffError(f"corners must be (n, 2), not {corners.shape}")
    block = corners // _BLOCK_PX
    order = np.lexsort((block[:, 0], block[:, 1]))
    starts = np.flatnonzero(np.any(np.diff(block[order], axis=0, prepend=-(10**9)), axis=1))
    for rows in np.split(order, starts[1:]):
        yield rows, _cut(image, corners[rows], side, true_size)


def _cut(image: ChunkedImage, corners: np.ndarray, side: int, true_size: tuple[int, int]) -> np.ndarray:
    """Tiles of one group of neighbours: one read, then slices of it."""
    height, width = true_size
    tiles = np.zeros((len(corners), 3, side, side), np.uint8)
    low = np.maximum(corners.min(0), 0)
    high = np.minimum(corners.max(0) + side, (width, height))
    if (high <= low).any():
        return tiles
    region = np.asarray(image[:, low[1] : high[1], low[0] : high[0]])
    for tile, corner in zip(tiles, corners, strict=True):
        a = np.maximum(corner, low)
        b = np.minimum(corner + side, high)
        if (b > a).all():
            (x0, y0), (x1, y1) = a - corner, b - corner
            (u0, v0), (u1, v1) = a - low, b - low
            tile[:, y0:y1, x0:x1] = region[:, v0:v1, u0:u1]
    return tiles


def resize(tiles: np.ndarray, side: int, resample: str) -> np.ndarray:
    """Bring (m, 3, s, s) uint8 tiles to (m, 3, side, side) with Pillow's ``lanczos`` or (antialiased) ``bicubic``."""
    from PIL import Image

    if tiles.shape[-1] == side:
        return tiles
    method = {"lanczos": Image.Resampling.LANCZOS, "bicubic": Image.Resampling.BICUBIC}[resample]
    resized = [np.asarray(Image.fromarray(t.transpose(1, 2, 0)).resize((side, side), method)) for t in tiles]
    return np.stack(resized).transpose(0, 3, 1, 2)
