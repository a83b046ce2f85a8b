"""Levels of a slide image, read cell by cell."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from hisdiff_sd._errors import HisDiffError
from hisdiff_sd.tiles._chunks import chunk_decoder

if TYPE_CHECKING:
    import dask.array as da
    import zarr

_DASK_CELL = 1024  # reading a part of a dask array or of a file costs milliseconds, whatever its size


class TileSource(Protocol):
    """One level of a slide image that is read in cells of a fixed grid.

    Attributes
    ----------
    shape
        Height and width in pixels.
    cell
        Height and width of a cell; cells at the right and bottom are cut off by the image.

    Examples
    --------
    >>> import dask.array as da
    >>> from hisdiff_sd.tiles import TileSource, source_of
    >>> source: TileSource = source_of(da.zeros((3, 600, 1500), dtype=np.uint8))
    >>> source.shape, source.read(0, 1).shape
    ((600, 1500), (3, 600, 476))
    """

    shape: tuple[int, int]
    cell: tuple[int, int]

    def read(self, row: int, col: int) -> np.ndarray:
        """Pixels of a cell, uint8 (3, h, w); several threads call it at once."""
        ...

    def describe(self, row: int, col: int) -> str:
        """Where the cell lies, for a message: chunk or tile, and file."""
        ...


class ZarrSource:
    """A zarr array (3, y, x) or (y, x, 3 or 4), uint8; its chunks are the cells.

    Examples
    --------
    >>> import zarr
    >>> from hisdiff_sd.tiles import ZarrSource
    >>> source = ZarrSource(zarr.zeros((3, 600, 700), chunks=(3, 256, 256), dtype="uint8"))
    >>> source.shape, source.cell
    ((600, 700), (256, 256))
    """

    def __init__(self, array: zarr.Array, name: str = "") -> None:
        self._first = channels_first(array.shape, array.dtype, name or str(array.store_path))
        self._array = array
        self._name = name or str(array.store_path)
        y = 1 if self._first else 0
        self.shape = (int(array.shape[y]), int(array.shape[y + 1]))
        self.cell = (int(array.chunks[y]), int(array.chunks[y + 1]))
        self._decode = chunk_decoder(array, channel_axis=0 if self._first else 2)

    def read(self, row: int, col: int) -> np.ndarray:
        """Pixels of a chunk, uint8 (3, h, w)."""
        (height, width), (y, x) = self.cell, (row * self.cell[0], col * self.cell[1])
        if self._decode is not None:
            at = (0, row, col) if self._first else (row, col, 0)
            chunk = _to_cyx(self._decode(at), self._first)
            return chunk[:, : self.shape[0] - y, : self.shape[1] - x]
        window = (slice(y, y + height), slice(x, x + width))
        item = (slice(None), *window) if self._first else (*window, slice(None))
        return _to_cyx(np.asarray(self._array[item]), self._first)

    def describe(self, row: int, col: int) -> str:
        """Key of the chunk and where its array lies."""
        at = (0, row, col) if self._first else (row, col, 0)
        key = self._array.metadata.encode_chunk_key(at)
        return f"chunk {key} of {self._name}"


class DaskSource:
    """A dask array (3, y, x) of uint8, in cells of 1,024 pixels: for what has no store of its own.

    Examples
    --------
    >>> import dask.array as da
    >>> from hisdiff_sd.tiles import DaskSource
    >>> DaskSource(da.zeros((3, 600, 700), dtype=np.uint8)).cell
    (1024, 1024)
    """

    def __init__(self, array: da.Array, name: str = "") -> None:
        if not channels_first(array.shape, array.dtype, name or "the image"):
            raise HisDiffError(f"{name or 'the image'} has axes (y, x, c); (c, y, x) is needed")
        self._array, self._name = array, name or "the image"
        self.shape = (int(array.shape[1]), int(array.shape[2]))
        self.cell = (_DASK_CELL, _DASK_CELL)

    def read(self, row: int, col: int) -> np.ndarray:
        """Pixels of a cell, uint8 (3, h, w)."""
        y, x = row * _DASK_CELL, col * _DASK_CELL
        part = self._array[:3, y : y + _DASK_CELL, x : x + _DASK_CELL]
        return np.asarray(part.compute(scheduler="synchronous"))

    def describe(self, row: int, col: int) -> str:
        """Pixels of the cell."""
        return f"pixels from y = {row * _DASK_CELL}, x = {col * _DASK_CELL} of {self._name}"


class FunctionSource:
    """A level that a library reads by windows, such as OpenSlide's, in cells of a given side.

    Parameters
    ----------
    read
        Function of (y, x, height, width) that returns uint8 (height, width, 3).
    shape
        Height and width of the level.
    cell
        Side of the cells.
    name
        Name of the file.
    """

    def __init__(
        self, read: Callable[[int, int, int, int], np.ndarray], shape: tuple[int, int], cell: int, name: str
    ) -> None:
        self._read, self._name = read, name
        self.shape, self.cell = shape, (cell, cell)

    def read(self, row: int, col: int) -> np.ndarray:
        """Pixels of a cell, uint8 (3, h, w)."""
        y, x = row * self.cell[0], col * self.cell[1]
        height, width = min(self.cell[0], self.shape[0] - y), min(self.cell[1], self.shape[1] - x)
        return self._read(y, x, height, width).transpose(2, 0, 1)

    def describe(self, row: int, col: int) -> str:
        """Pixels of the cell."""
        return f"pixels from y = {row * self.cell[0]}, x = {col * self.cell[1]} of {self._name}"


class Windows:
    """An image that a function reads by windows, as an array (3, y, x) that `dask.array.from_array` takes.

    Parameters
    ----------
    read
        Function of (y, x, height, width) that returns uint8 (height, width, 3).
    shape
        Height and width of the image.

    Examples
    --------
    >>> import dask.array as da
    >>> from hisdiff_sd.tiles import Windows
    >>> white = Windows(lambda y, x, height, width: np.full((height, width, 3), 255, np.uint8), (600, 700))
    >>> da.from_array(white, chunks=(3, 512, 512))[:, 10:20, 30:60].mean().compute()
    np.float64(255.0)
    """

    ndim, dtype = 3, np.dtype(np.uint8)

    def __init__(self, read: Callable[[int, int, int, int], np.ndarray], shape: tuple[int, int]) -> None:
        self.read = read
        self.shape = (3, *shape)

    def __getitem__(self, item: tuple[int | slice, int | slice, int | slice]) -> np.ndarray:
        # dask passes on what was asked of it, steps and single rows too
        (y, height, rows), (x, width, cols) = (_span(i, n) for i, n in zip(item[1:], self.shape[1:], strict=True))
        return self.read(y, x, height, width).transpose(2, 0, 1)[item[0], rows, cols]


def source_of(array: da.Array, name: str = "") -> TileSource:
    """The quickest source of a (3, y, x) dask array: the zarr array or the image file itself if it is nothing but one.

    Examples
    --------
    >>> import dask.array as da
    >>> from hisdiff_sd.tiles import source_of
    >>> type(source_of(da.zeros((3, 600, 700), dtype=np.uint8))).__name__
    'DaskSource'
    """
    import zarr

    layers = list(array.dask.layers.values())
    # dask.array.from_array and from_zarr make two layers: what they were given, and the slices taken from it
    held = list(layers[0].values()) if len(layers) == 2 and len(layers[0]) == 1 else []
    if held and isinstance(held[0], zarr.Array) and held[0].shape == array.shape:
        return ZarrSource(held[0], name)
    if held and isinstance(held[0], Windows):
        return FunctionSource(held[0].read, held[0].shape[1:], _DASK_CELL, name)
    return DaskSource(array, name)


def channels_first(shape: tuple[int, ...], dtype: Any, name: str) -> bool:
    """Whether an image is (3, y, x), not (y, x, 3); raise if it is neither, or not of 8 bits."""
    if len(shape) != 3 or dtype != np.uint8 or (shape[0] not in (3, 4) and shape[2] not in (3, 4)):
        raise HisDiffError(f"{name} is no 8-bit RGB image (shape {tuple(shape)}, {dtype}); one is needed")
    return shape[0] in (3, 4)


def _span(item: int | slice, length: int) -> tuple[int, int, int | slice]:
    """First index and number of those that an item spans, and the item as seen from there."""
    if not isinstance(item, slice):
        return item, 1, 0
    asked = range(length)[item]
    if not asked:
        return 0, 0, slice(0, 0)
    low = min(asked[0], asked[-1])
    return low, abs(asked[-1] - asked[0]) + 1, slice(None, None, asked.step)


def _to_cyx(pixels: np.ndarray, first: bool) -> np.ndarray:
    return pixels[:3] if first else pixels.transpose(2, 0, 1)[:3]
