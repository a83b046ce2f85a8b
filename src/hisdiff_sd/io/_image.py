"""A slide image as a lazy pyramid whose every level lies exactly on level 0."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import dask.array as da
import numpy as np

from hisdiff_sd._errors import HisDiffError, MissingFileError

if TYPE_CHECKING:
    import PIL.Image
    import tifffile
    from xarray import DataTree

CHUNK = 512
THUMBNAIL_PX = 1000
_SMALLEST_LEVEL = 512
_WHITE = 255
_FLAT = (".png", ".jpg", ".jpeg")


def open_image(path: Path) -> da.Array:
    """Level 0 of an H&E image, lazily, as uint8 (3, y, x).

    TIFF files are read tile by tile; PNG and JPEG, which cannot be, are read whole when first used and kept.
    """
    if not path.exists():
        raise MissingFileError(f"no image {path}")
    return _to_cyx(_open_flat(path) if path.suffix.lower() in _FLAT else _open_tiff(path), path)


def true_size(image: da.Array) -> tuple[int, int]:
    """Height and width of a (3, y, x) image, in level-0 px."""
    return int(image.shape[1]), int(image.shape[2])


def pyramid(image: da.Array, mpp: float) -> DataTree:
    """The multiscale ``he`` element of a (3, y, x) image.

    The image is padded right and bottom with white to a multiple of 2 to the number of levels: halving an odd side
    drops a row or column and would shift every level above it.
    """
    from spatialdata.models import Image2DModel
    from spatialdata.transformations import Identity, Scale

    height, width = true_size(image)
    levels = 0
    while max(height, width) / 2 ** (levels + 1) >= _SMALLEST_LEVEL:
        levels += 1
    step = 2**levels
    padded = da.pad(
        image, ((0, 0), (0, -height % step), (0, -width % step)), mode="constant", constant_values=_WHITE
    ).rechunk((3, CHUNK, CHUNK))
    return Image2DModel.parse(
        padded,
        dims=("c", "y", "x"),
        c_coords=["r", "g", "b"],
        scale_factors=[2] * levels or None,
        chunks=(3, CHUNK, CHUNK),
        transformations={"global": Identity(), "microns": Scale([mpp, mpp], axes=("x", "y"))},
    )


def thumbnail(path: Path, image: da.Array) -> np.ndarray:
    """The slide at 1,000 px on its longer edge (or its own size if smaller), uint8 (y, x, 3)."""
    from PIL import Image

    level = 0 if path.suffix.lower() in _FLAT else _level_for_thumbnail(path)
    source = _to_cyx(_open_tiff(path, level), path) if level else image
    # a file without small levels is thinned out while it is read, so that it never lies in memory whole
    stride = max(1, max(true_size(source)) // (2 * THUMBNAIL_PX))
    try:
        small = np.asarray(source[:, ::stride, ::stride]).transpose(1, 2, 0)
    except Exception as error:
        raise HisDiffError(f"the pixels of {path} cannot be read ({error}); fetch it again") from error
    scale = min(1.0, THUMBNAIL_PX / max(true_size(image)))
    height, width = (max(1, round(side * scale)) for side in true_size(image))
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BOX))


@contextmanager
def _picture(path: Path) -> Iterator[PIL.Image.Image]:
    """An open PNG or JPEG of any size: Pillow takes a large slide for an attack."""
    from PIL import Image

    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        with Image.open(path) as opened:
            yield opened
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def _open_flat(path: Path) -> da.Array:
    from dask import delayed

    try:
        with _picture(path) as header:
            (width, height), mode = header.size, header.mode
    except OSError as error:
        raise HisDiffError(f"{path} cannot be read as an image ({error}); fetch it again") from error
    if mode not in ("RGB", "RGBA"):
        raise HisDiffError(f"{path} has pixels of kind {mode!r}; an 8-bit RGB image is needed")

    @cache
    def load() -> np.ndarray:
        with _picture(path) as opened:
            return np.asarray(opened.convert("RGB"))

    return da.from_delayed(delayed(load)(), (height, width, 3), np.uint8)


def _open_tiff(path: Path, level: int = 0) -> da.Array:
    """One level of a TIFF, lazily."""
    import tifffile

    try:
        with tifffile.TiffFile(path) as tif:
            _check_whole(tif, path)
        return da.from_zarr(tifffile.imread(path, aszarr=True, series=0, level=level))
    except HisDiffError:
        raise
    except Exception as error:  # a damaged file fails in many ways
        raise HisDiffError(f"{path} cannot be read as a TIFF ({error}); it may be truncated: fetch it again") from error


def _check_whole(tif: tifffile.TiffFile, path: Path) -> None:
    """Refuse a file that ends before the tiles of any of its levels do, or before a further level."""
    size = path.stat().st_size
    pages = [*tif.pages, *(p for level in tif.series[0].levels for p in level.pages if p is not None)]
    ends = [_next_level(tif) + 1]
    for page in pages:
        if not 0 < len(page.dataoffsets) == len(page.databytecounts):
            raise HisDiffError(f"{path} is truncated: its list of tiles is cut off; fetch it again")
        ends += [offset + n for offset, n in zip(page.dataoffsets, page.databytecounts, strict=True)]
    if max(ends) > size:
        raise HisDiffError(f"{path} is truncated: it has {size} bytes of at least {max(ends)}; fetch it again")


def _next_level(tif: tifffile.TiffFile) -> int:
    """Where the last level that was found says that another one starts: 0 in a file that is whole."""
    pointer = tif.pages.next_page_offset
    if pointer is None:
        return 0
    tif.filehandle.seek(pointer)
    return int.from_bytes(tif.filehandle.read(tif.tiff.offsetsize), "little" if tif.byteorder == "<" else "big")


def _level_for_thumbnail(path: Path) -> int:
    """The smallest level of a TIFF that is not smaller than a thumbnail."""
    import tifffile

    with tifffile.TiffFile(path) as tif:
        longest = [max(level.shape) for level in tif.series[0].levels]
    return max((i for i, side in enumerate(longest) if side >= THUMBNAIL_PX), default=0)


def _to_cyx(image: da.Array, path: Path) -> da.Array:
    """Bring a (y, x, 3 or 4) or (3 or 4, y, x) uint8 array to (3, y, x)."""
    if image.ndim == 3 and image.shape[-1] in (3, 4):
        image = image.transpose(2, 0, 1)
    if image.ndim != 3 or image.shape[0] not in (3, 4):
        raise HisDiffError(f"{path} is not an RGB image (shape {tuple(image.shape)}); an 8-bit RGB image is needed")
    if image.dtype != np.uint8:
        raise HisDiffError(f"{path} has {image.dtype} pixels; an 8-bit RGB image is needed")
    return image[:3]
