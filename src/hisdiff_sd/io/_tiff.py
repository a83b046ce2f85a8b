"""The slide in a TIFF (SVS, OME-TIFF, any pyramid or plain image), lazily; labels and macro images are never touched."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np

from hisdiff_sd._errors import HisDiffError
from hisdiff_sd._openslide import on_white
from hisdiff_sd.io._limits import check_piece, check_size

if TYPE_CHECKING:
    import tifffile

BLOCK = 512
_WHITE = 255
_NOT_THE_SLIDE = re.compile(r"\b(label|macro|thumbnail|overview)\b", re.IGNORECASE)
_FLUORESCENT = re.compile(r"\b(EmissionWavelength|ExcitationWavelength|Fluor)\s*=")
_RGB, _YCBCR, _GREY = 2, 6, 1  # photometric interpretations
_JPEG = (6, 7, 33007, 34892)
_APERIO_YCBCR = (33003, 33004)
_ALPHA = ((1,), (2,))


@contextmanager
def opened(path: Path) -> Iterator[tifffile.TiffFile]:
    """An open TIFF; whatever a damaged one raises becomes one error."""
    import tifffile

    try:
        with tifffile.TiffFile(path) as tif:
            yield tif
    except HisDiffError:
        raise
    except Exception as error:  # a damaged file fails in many ways
        raise HisDiffError(f"{path} cannot be read as a TIFF ({error}); it may be truncated: fetch it again") from error


def needs_openslide(path: Path) -> bool:
    """Whether the scanner's maker does something that a TIFF reader does not undo: overlapping tiles, colours."""
    with opened(path) as tif:
        compression = tif.pages.first.compression
        return bool(
            tif.is_philips or tif.is_bif or tif.is_scn or tif.is_ndpi or (tif.is_svs and compression in _APERIO_YCBCR)
        )


def slide_series(tif: tifffile.TiffFile) -> int:
    """Which of the images of a TIFF is the slide: the largest that is not named as something else."""
    named = [i for i, s in enumerate(tif.series) if not _NOT_THE_SLIDE.search(s.name)]
    return max(named or range(len(tif.series)), key=lambda i: _area(tif.series[i].keyframe))


def open_tiff(path: Path, level: int = 0) -> da.Array:
    """One level of the slide in a TIFF, lazily, as uint8 (3, y, x)."""
    import tifffile
    import zarr

    with opened(path) as tif:
        number = slide_series(tif)
        series = tif.series[number].levels[level]
        page = series.keyframe
        check_size(path, page.imagelength, page.imagewidth)
        _check_whole(tif, series, path)
        _check_rgb(series, tif.ome_metadata or "", path)
        planar, extra = not series.axes.endswith("S"), page.extrasamples
        if series.dataoffset is not None:  # one run of plain bytes, however long its strips are
            read = partial(_read_raw, path, series.dataoffset, series.shape, planar)
            image = by_region(read, page.imagelength, page.imagewidth, series.shape[0 if planar else 2])
        else:
            rows = page.tilelength if page.is_tiled else min(page.rowsperstrip, page.imagelength)
            check_piece(path, rows, page.tilewidth if page.is_tiled else page.imagewidth, "in pieces")
            # tiles that a scanner left out are white
            store = tifffile.imread(path, aszarr=True, series=number, level=level, fillvalue=_WHITE)
            array = zarr.open(store, mode="r")
            image = da.from_zarr(array, chunks=_blocks(array.chunks, array.shape, planar))
            image = image.transpose(1, 2, 0) if planar else image
    if image.shape[2] == 4 and extra in _ALPHA:
        image = without_alpha(image)
    return image[:, :, :3].transpose(2, 0, 1)


def level_of(path: Path, longest: int) -> int:
    """The smallest level of the slide whose longer side has at least so many pixels; 0 if there is none."""
    with opened(path) as tif:
        pages = [level.keyframe for level in tif.series[slide_series(tif)].levels]
        sides = [max(page.imagelength, page.imagewidth) for page in pages]
    return max((i for i, side in enumerate(sides) if side >= longest), default=0)


def by_region(
    read: Callable[[int, int, int, int], np.ndarray], height: int, width: int, samples: int, block: int = BLOCK
) -> da.Array:
    """A lazy (y, x, samples) image of blocks that ``read(y, x, height, width)`` returns.

    The graph holds the function, not what it has open, so that it can be sent to other processes.
    """
    sides = [(block,) * (n // block) + ((n % block,) if n % block else ()) for n in (height, width)]
    meta = np.empty((0, 0, 0), np.uint8)
    return da.map_blocks(partial(_read_block, read), chunks=(*sides, (samples,)), dtype=np.uint8, meta=meta)


def _read_block(read: Callable[[int, int, int, int], np.ndarray], block_info: dict[Any, Any]) -> np.ndarray:
    (top, bottom), (left, right), _ = block_info[None]["array-location"]
    return read(top, left, bottom - top, right - left)


def _read_raw(
    path: Path, offset: int, shape: tuple[int, ...], planar: bool, y: int, x: int, height: int, width: int
) -> np.ndarray:
    """A window of pixels that lie in a file one after the other."""
    pixels = np.memmap(path, np.uint8, mode="r", offset=offset, shape=shape)
    window = slice(y, y + height), slice(x, x + width)
    return np.array(pixels[:, *window].transpose(1, 2, 0) if planar else pixels[window])


def _blocks(chunks: tuple[int, ...], shape: tuple[int, ...], planar: bool) -> tuple[int, ...]:
    """Whole tiles or strips, as many as make about one chunk of a store: thousands of strips would be as many tasks."""
    sides = [c * max(1, BLOCK // c) for c in chunks]
    samples = 0 if planar else 2
    return tuple(shape[i] if i == samples else side for i, side in enumerate(sides))


def without_alpha(image: da.Array) -> da.Array:
    """A lazy (y, x, 4) image laid on white, (y, x, 3)."""
    return da.map_blocks(_on_white, image.rechunk({2: 4}), dtype=np.uint8, chunks=(*image.chunks[:2], (3,)))


def _on_white(block: np.ndarray) -> np.ndarray:
    from PIL import Image

    return np.asarray(on_white(Image.fromarray(block)))


def _area(page: Any) -> int:
    return int(page.imagelength) * int(page.imagewidth)


def _check_rgb(series: tifffile.TiffPageSeries, ome: str, path: Path) -> None:
    """Refuse everything but three colours of 8 bits (and transparency)."""
    page, shape = series.keyframe, series.shape
    interleaved = series.axes in ("YXS", "SYX")  # samples of one page, whichever way they lie
    samples = shape[0] if series.axes.endswith("YX") else shape[-1]
    if interleaved:
        colours = page.photometric in (_RGB, _GREY) or (page.photometric == _YCBCR and page.compression in _JPEG)
        good = samples in (3, 4) and colours
    else:  # one page per colour
        good = len(shape) == 3 and series.axes.endswith("YX") and samples == 3 and page.photometric == _GREY
        good = good and not _FLUORESCENT.search(ome)
    if not good or series.dtype != np.uint8:
        kind = getattr(page.photometric, "name", page.photometric)
        raise HisDiffError(
            f"{path} is no brightfield RGB image (axes {series.axes}, shape {tuple(shape)}, {series.dtype}, {kind}); "
            "an 8-bit RGB image is needed"
        )


def _check_whole(tif: tifffile.TiffFile, slide: tifffile.TiffPageSeries, path: Path) -> None:
    """Refuse a file that ends before the tiles of any of its levels do, or before a further level."""
    size = path.stat().st_size
    levels = [level for series in tif.series for level in series.levels]
    pages = [*tif.pages, *(p for level in levels for p in level.pages if p is not None)]
    if any(page.parent is not tif for page in pages):
        raise HisDiffError(f"{path} has pixels in other files; convert it to a single file")
    ends = [_next_level(tif) + 1]
    for page in pages:
        offsets, counts = page.dataoffsets, page.databytecounts
        tiles = math.prod(page.chunked) if page in slide.pages else 1
        if len(offsets) != len(counts) or len(offsets) < max(1, tiles):
            raise HisDiffError(f"{path} is truncated: its list of tiles is cut off; fetch it again")
        ends += [offset + n for offset, n in zip(offsets, counts, strict=True)]
    ends += [level.dataoffset + level.nbytes for level in levels if level.dataoffset is not None]
    if max(ends) > size:
        raise HisDiffError(f"{path} is truncated: it has {size} bytes of at least {max(ends)}; fetch it again")


def _next_level(tif: tifffile.TiffFile) -> int:
    """Where the last level that was found says that another one starts: 0 in a file that is whole."""
    pointer = tif.pages.next_page_offset
    if pointer is None:
        return 0
    tif.filehandle.seek(pointer)
    return int.from_bytes(tif.filehandle.read(tif.tiff.offsetsize), "little" if tif.byteorder == "<" else "big")
