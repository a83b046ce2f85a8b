"""Slide images opened where they lie: a zarr store on disk or on the web, a TIFF, or what OpenSlide reads."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hisdiff_sd._errors import HisDiffError, MissingFileError
from hisdiff_sd._openslide import on_white, open_openslide
from hisdiff_sd.tiles._source import FunctionSource, TileSource, ZarrSource

if TYPE_CHECKING:
    import zarr

_TIFF = (".tif", ".tiff", ".svs", ".btf")
_OPENSLIDE_CELL = 512


def open_levels(path: str | Path) -> list[TileSource]:
    """Pyramid levels of an image, finest first; no pixel is read.

    Parameters
    ----------
    path
        A zarr group of levels or a single zarr array (``"stores/SPA148.zarr/images/he"``, or a URL of fsspec such as
        ``"http://..."`` or ``"s3://..."``), a TIFF with or without a pyramid, or any file that OpenSlide reads (needs the
        packages openslide-python and openslide-bin).

    Raises
    ------
    HisDiffError
        If there is no such file, or it is no 8-bit RGB image that can be read.

    Examples
    --------
    >>> import tempfile, hisdiff_sd as hd
    >>> from hisdiff_sd.tiles import open_levels
    >>> root = hd.datasets.synthetic(tempfile.mkdtemp(), slides=("S1",), size_um=(900, 800), mpp=1.0)
    >>> open_levels(root / "wsis" / "S1.tif")[0].shape
    (800, 900)
    """
    text = str(path)
    if "://" in text:
        return _zarr_levels(text)
    file = Path(path)
    if not file.exists():
        raise MissingFileError(f"no image {file}")
    if file.is_dir():
        return _zarr_levels(text)
    return _tiff_levels(file) if file.suffix.lower() in _TIFF else _openslide_levels(file)


def _zarr_levels(path: str) -> list[TileSource]:
    import zarr

    try:
        found = zarr.open(path, mode="r")
    except Exception as error:  # of the file system, of fsspec, of zarr
        raise HisDiffError(f"{path} cannot be opened as a zarr image ({type(error).__name__}: {error})") from error
    arrays = [found] if isinstance(found, zarr.Array) else [a for _, a in found.arrays()]
    if not arrays:
        raise HisDiffError(f"{path} holds no array; give the image itself, such as <store>.zarr/images/he")
    return _finest_first(arrays, path)


def _tiff_levels(path: Path) -> list[TileSource]:
    import tifffile
    import zarr

    try:
        # the store keeps the file open for as long as an array of it is in use
        found = zarr.open(tifffile.imread(path, aszarr=True, series=0), mode="r")
    except Exception as error:  # a damaged file fails in many ways
        raise HisDiffError(f"{path} cannot be read as a TIFF ({error}); it may be truncated: fetch it again") from error
    arrays = [found] if isinstance(found, zarr.Array) else [a for _, a in found.arrays()]
    return _finest_first(arrays, str(path))


def _finest_first(arrays: list[zarr.Array], name: str) -> list[TileSource]:
    sources: list[TileSource] = [ZarrSource(a, f"{name} ({a.path})" if a.path else name) for a in arrays]
    return sorted(sources, key=lambda s: -s.shape[0] * s.shape[1])


def _openslide_levels(path: Path) -> list[TileSource]:
    slide = open_openslide(path)

    def level(number: int) -> TileSource:
        scale = slide.level_downsamples[number]

        def read(y: int, x: int, height: int, width: int) -> np.ndarray:
            # OpenSlide wants the corner on level 0
            region = slide.read_region((round(x * scale), round(y * scale)), number, (width, height))
            return np.asarray(on_white(region))

        width, height = slide.level_dimensions[number]
        return FunctionSource(read, (height, width), _OPENSLIDE_CELL, f"{path} (level {number})")

    return [level(i) for i in range(slide.level_count)]
