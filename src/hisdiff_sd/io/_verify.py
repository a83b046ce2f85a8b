"""Whether a store holds what it was written from."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from hisdiff_sd import _keys as keys
from hisdiff_sd._errors import HisDiffError
from hisdiff_sd.io._image import levels_of

if TYPE_CHECKING:
    from spatialdata import SpatialData

_BLOCK = 512
_BLOCKS = 12  # of each level that are looked at, and its corners


def verify(written: SpatialData, source: SpatialData) -> None:
    """Compare a store, as read back, with what was given to the writer.

    Names of elements, the size of the image, names and sums of tables, names and places of shapes; and blocks of pixels
    at random: those of the finest level with the source, those of the others with the level below.
    """
    for kind in ("images", "labels", "points", "shapes", "tables"):
        _same(f"names of {kind}", sorted(getattr(written, kind)), sorted(getattr(source, kind)))
    there, given = (s.attrs.get(keys.ATTRS, {}) for s in (written, source))
    for key in ("slide", "mpp", "true_size", "source"):
        _same(f"attribute {key!r}", there.get(key), given.get(key))
    for name, table in source.tables.items():
        other = written.tables[name]
        _same(f"spots of table {name!r}", list(other.obs_names), list(table.obs_names))
        _same(f"genes of table {name!r}", list(other.var_names), list(table.var_names))
        _same(f"sum of table {name!r}", float(other.X.sum(dtype=np.float64)), float(table.X.sum(dtype=np.float64)))
    for name, shapes in source.shapes.items():
        other = written.shapes[name]
        _same(f"ids of shapes {name!r}", list(map(str, other.index)), list(map(str, shapes.index)))
        if not np.array_equal(other.total_bounds, shapes.total_bounds, equal_nan=True):  # NaN where there are none
            raise _differs(f"place of shapes {name!r}")
    for name in source.images:
        _compare_pixels(name, written.images[name], source.images[name], str(given.get("slide", "")))


def _compare_pixels(name: str, written: Any, source: Any, slide: str) -> None:
    ours, theirs = ([level.data for level in levels_of(image)] for image in (written, source))
    _same(f"sizes of image {name!r}", [level.shape for level in ours], [level.shape for level in theirs])
    random = np.random.default_rng(zlib.crc32(slide.encode()))
    for number, level in enumerate(ours):
        for y, x in _corners(level.shape[1:], random):
            block = np.asarray(level[:, y : y + _BLOCK, x : x + _BLOCK])
            if number == 0:
                good = np.array_equal(block, np.asarray(theirs[0][:, y : y + _BLOCK, x : x + _BLOCK]))
            else:
                below = np.asarray(ours[number - 1][:, 2 * y : 2 * (y + _BLOCK), 2 * x : 2 * (x + _BLOCK)], np.float64)
                c, h, w = below.shape[0], below.shape[1] // 2, below.shape[2] // 2
                mean = below[:, : 2 * h, : 2 * w].reshape(c, h, 2, w, 2).mean((2, 4))
                good = mean.shape == block.shape and bool((np.abs(mean - block) < 1.5).all())
            if not good:
                raise _differs(f"pixels of image {name!r}, level {number}, at y = {y}, x = {x}")


def _corners(shape: tuple[int, ...], random: np.random.Generator) -> Iterator[tuple[int, int]]:
    """Upper left corners of blocks: the first and the last ones, and some at random."""
    rows, cols = (-(-side // _BLOCK) for side in shape)
    chosen = {(0, 0), (0, cols - 1), (rows - 1, 0), (rows - 1, cols - 1)}
    chosen |= {(int(r), int(c)) for r, c in zip(*(random.integers(0, n, _BLOCKS) for n in (rows, cols)), strict=True)}
    yield from ((r * _BLOCK, c * _BLOCK) for r, c in sorted(chosen))


def _same(what: str, found: Any, expected: Any) -> None:
    if found != expected:
        raise _differs(what)


def _differs(what: str) -> HisDiffError:
    return HisDiffError(
        f"what was written is not what was read ({what}); it was thrown away. Was the source changed meanwhile? If not, check "
        "disk and memory, and convert again"
    )
