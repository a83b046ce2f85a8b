"""A slide image as a lazy pyramid whose every level lies exactly on level 0."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import dask.array as da
import numpy as np

from hisdiff_sd._errors import HisDiffError, MissingFileError
from hisdiff_sd._openslide import on_white, open_openslide, read_region
from hisdiff_sd.io._limits import check_piece, check_size
from hisdiff_sd.io._tiff import by_region, level_of, needs_openslide, open_tiff

if TYPE_CHECKING:
    import PIL.Image
    from xarray import DataArray, DataTree

CHUNK = 512
THUMBNAIL_PX = 1000
_SMALLEST_LEVEL = 512
_WHITE = 255
_FLAT = (".png", ".jpg", ".jpeg")
# the last bytes of a JPEG, and where they are looked for: some programs add something of their own
_END_OF_JPEG = b"\xff\xd9"
_TAIL = 2**16
_TIFF = (".tif", ".tiff", ".svs", ".btf")


def file_kind(path: Path) -> Literal["flat", "tiff", "openslide"]:
    """Who reads an image file: Pillow (PNG, JPEG), tifffile, or OpenSlide."""
    if not path.exists():
        raise MissingFileError(f"no image {path}")
    if path.is_dir():
        raise HisDiffError(f"{path} is a folder; an image file is needed (stores are opened with hd.io.open)")
    if path.suffix.lower() in _FLAT:
        return "flat"
    return "tiff" if path.suffix.lower() in _TIFF and not needs_openslide(path) else "openslide"


def open_image(path: Path) -> da.Array:
    """Level 0 of an H&E image, lazily, as uint8 (3, y, x).

    TIFF files and what OpenSlide opens are read tile by tile; PNG and JPEG, which cannot be, are read whole when first
    used and kept.
    """
    return {"flat": _open_flat, "tiff": open_tiff, "openslide": _open_openslide}[file_kind(path)](path)


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


def levels_of(image: DataArray | DataTree) -> list[DataArray]:
    """The levels (c, y, x) of an image, finest first; a small image has but one, and is no tree."""
    from spatialdata import get_pyramid_levels

    return list(get_pyramid_levels(image)) if hasattr(image, "children") else [image]


def thumbnail(path: Path, image: da.Array) -> np.ndarray:
    """The slide at 1,000 px on its longer edge (or its own size if smaller), uint8 (y, x, 3)."""
    level = level_of(path, THUMBNAIL_PX) if file_kind(path) == "tiff" else 0
    return shrink(open_tiff(path, level) if level else image, true_size(image), str(path))


def shrink(source: da.Array, size: tuple[int, int], name: str) -> np.ndarray:
    """The thumbnail of a slide of `size` px, made from one of its levels (3, y, x)."""
    from PIL import Image

    # a file without small levels is thinned out while it is read, so that it never lies in memory whole
    stride = max(1, max(true_size(source)) // (2 * THUMBNAIL_PX))
    try:
        small = np.asarray(source[:, ::stride, ::stride]).transpose(1, 2, 0)
    except Exception as error:
        raise HisDiffError(f"the pixels of {name} cannot be read ({error}); fetch it again") from error
    scale = min(1.0, THUMBNAIL_PX / max(size))
    height, width = (max(1, round(side * scale)) for side in size)
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
        check_size(path, height, width)
        check_piece(path, height, width, "as a whole")
        _check_end(path)
    except HisDiffError:
        raise
    except Exception as error:  # a damaged file fails in many ways
        raise HisDiffError(f"{path} cannot be read as an image ({error}); fetch it again") from error
    if mode not in ("RGB", "RGBA"):
        raise HisDiffError(f"{path} has pixels of kind {mode!r}; an 8-bit RGB image is needed")

    @cache
    def load() -> np.ndarray:
        with _picture(path) as opened:
            return np.asarray(opened if mode == "RGB" else on_white(opened))

    return da.from_delayed(delayed(load)(), (height, width, 3), np.uint8).transpose(2, 0, 1)


def _check_end(path: Path) -> None:
    """Refuse a PNG or JPEG that is cut off, without decoding it."""
    with _picture(path) as picture:
        if picture.format == "PNG":
            picture.verify()  # goes from chunk to chunk up to the last
        if picture.format != "JPEG":
            return
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _TAIL))
        if _END_OF_JPEG not in file.read():
            raise HisDiffError(f"{path} is truncated: its end is missing; fetch it again")


def _open_openslide(path: Path) -> da.Array:
    width, height = open_openslide(path).dimensions
    check_size(path, height, width)
    return by_region(partial(read_region, path), height, width, 3, 2 * CHUNK).transpose(2, 0, 1)
