"""A slide image as a lazy pyramid whose every level lies exactly on level 0."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np

from hisdiff_sd._errors import HisDiffError, MissingFileError

if TYPE_CHECKING:
    from xarray import DataTree

CHUNK = 512
THUMBNAIL_PX = 1000
_SMALLEST_LEVEL = 512
_WHITE = 255


def open_image(path: Path) -> da.Array:
    """Level 0 of an H&E image, lazily, as uint8 (3, y, x).

    TIFF files are read tile by tile; PNG and JPEG, which cannot be, are read whole when first used.
    """
    if not path.exists():
        raise MissingFileError(f"no image {path}")
    if path.suffix.lower() in (".png", ".jpg", ".jpeg"):
        return _to_cyx(_open_flat(path), path)
    return _to_cyx(_open_tiff(path), path)


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
    import tifffile
    from PIL import Image

    small: np.ndarray | None = None
    if path.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        with tifffile.TiffFile(path) as tif:
            for level in reversed(tif.series[0].levels):
                if max(level.shape) >= THUMBNAIL_PX:
                    small = np.asarray(_to_cyx(da.from_zarr(level.aszarr()), path)).transpose(1, 2, 0)
                    break
    if small is None:
        stride = max(1, max(true_size(image)) // (2 * THUMBNAIL_PX))
        small = np.asarray(image[:, ::stride, ::stride]).transpose(1, 2, 0)
    scale = min(1.0, THUMBNAIL_PX / max(true_size(image)))
    height, width = (max(1, round(side * scale)) for side in true_size(image))
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BOX))


def _open_flat(path: Path) -> da.Array:
    from dask import delayed
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as header:
            width, height = header.size
    except (UnidentifiedImageError, OSError) as error:
        raise HisDiffError(f"{path} cannot be read as an image: {error}") from error

    def load() -> np.ndarray:
        with Image.open(path) as opened:
            return np.asarray(opened.convert("RGB"))

    return da.from_delayed(delayed(load)(), (height, width, 3), np.uint8)


def _open_tiff(path: Path) -> da.Array:
    import tifffile

    try:
        with tifffile.TiffFile(path) as tif:
            page = tif.series[0].levels[0].pages[0]
            ends = [o + n for o, n in zip(page.dataoffsets, page.databytecounts, strict=True)]
        size = path.stat().st_size
        if not ends or max(ends) > size:
            raise HisDiffError(
                f"{path} is truncated: it has {size} bytes, its tiles end at {max(ends, default=0)}; fetch it again"
            )
        return da.from_zarr(tifffile.imread(path, aszarr=True, series=0, level=0))
    except (tifffile.TiffFileError, IndexError, ValueError) as error:
        if isinstance(error, HisDiffError):
            raise
        raise HisDiffError(f"{path} cannot be read as a TIFF ({error}); it may be truncated: fetch it again") from error


def _to_cyx(image: Any, path: Path) -> da.Array:
    """Bring a (y, x, 3 or 4) or (3 or 4, y, x) uint8 array to (3, y, x)."""
    if image.ndim == 3 and image.shape[-1] in (3, 4):
        image = image.transpose(2, 0, 1)
    if image.ndim != 3 or image.shape[0] not in (3, 4):
        raise HisDiffError(f"{path} is not an RGB image: shape {tuple(image.shape)}")
    if image.dtype != np.uint8:
        raise HisDiffError(f"{path} has {image.dtype} pixels; an 8-bit RGB image is needed")
    return image[:3]
