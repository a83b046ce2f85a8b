from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hisdiff_sd import _keys as keys
from hisdiff_sd._errors import HisDiffError, check_one_of
from hisdiff_sd._provenance import provenance
from hisdiff_sd._tissue_mask import outlines, tissue_mask
from hisdiff_sd._version import __version__
from hisdiff_sd.io._image import levels_of
from hisdiff_sd.io._outlines import outline_shapes, read_outlines
from hisdiff_sd.io._store import check_shapes_name, check_writable, slide_attrs, write_shapes
from hisdiff_sd.tiles._source import channels_first

if TYPE_CHECKING:
    import dask.array as da
    from shapely import Polygon
    from spatialdata import SpatialData

_WORK_UM = 8.0  # per pixel, at most
_BLOCK = 1024


def tissue(
    sdata: SpatialData,
    *,
    contours: str | Path | None = None,
    min_area_um2: float = 50_000.0,
    min_hole_um2: float = 10_000.0,
    image_key: str = keys.HE,
    key_added: str = keys.TISSUE,
    overwrite: bool = False,
) -> None:
    """Outline the tissue of a slide.

    Works at 4 to 8 um per pixel, where a pixel is tissue if it absorbs light clearly (Otsu's threshold, within bounds), or
    somewhat and with the texture of tissue. Left out are pen marks in blue, green, red and black, dark edges of the slide,
    grey dirt, and stain that ran out onto the glass.

    Parameters
    ----------
    sdata
        A slide of `hd.io`. If it has a store, the outlines are written there as well.
    contours
        A GeoJSON file with outlines in level-0 px to take instead, such as HEST's ``tissue_seg/<id>_contours.geojson``.
        All of its polygons are taken, whatever their size; a CRS in the file is ignored.
    min_area_um2
        Smaller fragments are dropped; the default is about seven spots of 100 um.
    min_hole_um2
        Smaller holes are filled; the default is a square of 100 um.
    image_key
        Element with the H&E image.
    key_added
        Name of the outlines.
    overwrite
        Replace outlines of that name.

    Returns
    -------
    None. Adds ``sdata["tissue"]``: one polygon per fragment, with its holes, in level-0 px, the largest first; columns
    ``tissue_id`` (int, from 0) and ``area_um2`` (float, in um2, without the holes).

    Raises
    ------
    HisDiffError
        If there is no tissue, no image, no pixel size, the name is in use, or the file with the outlines is of no use.
    MissingFileError
        If there is no file `contours`.

    Notes
    -----
    The threshold is that of Otsu, IEEE Transactions on Systems, Man, and Cybernetics 9, 62 (1979).

    Examples
    --------
    >>> import tempfile, hisdiff_sd as hd
    >>> root = hd.datasets.synthetic(tempfile.mkdtemp(), slides=("S1",), size_um=(900, 800), mpp=1.0)
    >>> sdata = hd.io.hest(root, "S1")
    >>> hd.pp.tissue(sdata)
    >>> len(sdata["tissue"])
    1
    """
    from spatialdata.transformations import get_transformation

    mpp, (height, width) = float(slide_attrs(sdata)["mpp"]), slide_attrs(sdata)["true_size"]
    check_one_of(image_key, sdata.images, "image")
    for name, value in (("min_area_um2", min_area_um2), ("min_hole_um2", min_hole_um2)):
        if not (np.isfinite(value) and value >= 0):
            raise HisDiffError(f"{name}={value} is no area; give um2, 0 or more")
    check_shapes_name(sdata, key_added)
    if key_added in sdata.shapes and not overwrite:
        raise HisDiffError(f"the slide has shapes {key_added!r} already; give overwrite=True to replace them")
    check_writable(sdata)
    read = None if contours is None else read_outlines(Path(contours), height, width)
    found = read or _find(sdata, image_key, mpp, min_area_um2, min_hole_um2)
    frame = outline_shapes(found, mpp, get_transformation(sdata.images[image_key], get_all=True))
    made = {"contours": Path(contours).name} if contours is not None else {"image": image_key}
    record = provenance(kind="tissue", min_area_um2=min_area_um2, min_hole_um2=min_hole_um2, **made)
    frame.attrs[keys.ATTRS] = {**record, "version": __version__}
    write_shapes(sdata, key_added, frame, overwrite=overwrite)


def _find(sdata: SpatialData, image_key: str, mpp: float, min_area_um2: float, min_hole_um2: float) -> list[Polygon]:
    """Outlines of the tissue that the image shows, in level-0 px."""
    from shapely import affinity

    image, scale = _small_image(sdata, image_key, mpp)
    found = tissue_mask(image, mpp * scale, min_area_um2=min_area_um2, min_hole_um2=min_hole_um2)
    polygons = outlines(found.mask)
    if not polygons:
        raise HisDiffError(
            f"no tissue found on slide {slide_attrs(sdata)['slide']!r}: {found.share:.2%} of the image looks like tissue "
            f"(optical density above {found.density:.2f}, or above 0.02 with texture), the largest fragment has "
            f"{found.largest_um2:.0f} um2, those below {min_area_um2:g} um2 and grey ones are dropped; give a smaller "
            "min_area_um2=, or contours= with outlines, or lay tiles on the whole image (hd.pp.tile with shapes_key=None)"
        )
    return [affinity.scale(polygon, scale, scale, origin=(0, 0)) for polygon in polygons]


def _small_image(sdata: SpatialData, image_key: str, mpp: float) -> tuple[np.ndarray, float]:
    """The slide without its padding at about 4 to 8 um per pixel, uint8 (y, x, 3), and level-0 px per pixel."""
    levels = [level.data for level in levels_of(sdata.images[image_key])]
    if not channels_first(levels[0].shape, levels[0].dtype, f"image {image_key!r}"):
        raise HisDiffError(f"image {image_key!r} has axes (y, x, c); (c, y, x) is needed")
    scales = [levels[0].shape[1] / level.shape[1] for level in levels]
    best = max((i for i, scale in enumerate(scales) if scale * mpp <= _WORK_UM), default=0)
    level, scale = levels[best], scales[best]
    factor = max(1, int(_WORK_UM / (scale * mpp)))
    height, width = (max(1, int(side / scale)) for side in slide_attrs(sdata)["true_size"])
    factor = min(factor, height, width)
    try:
        small = _averaged(level[:3, :height, :width], factor)
    except Exception as error:  # whatever a damaged or remote file raises
        raise HisDiffError(
            f"the pixels of image {image_key!r} of slide {slide_attrs(sdata)['slide']!r} cannot be read ({error})"
        ) from error
    return small.transpose(1, 2, 0), scale * factor


def _averaged(image: da.Array, factor: int) -> np.ndarray:
    """Means of squares of `factor` pixels, block by block."""
    import dask.array as da

    image = da.asarray(image)
    if factor > 1:
        height, width = (side // factor * factor for side in image.shape[1:])
        block = _BLOCK // factor * factor or factor
        image = image[:, :height, :width].rechunk((3, block, block))
        image = da.coarsen(np.mean, image, {1: factor, 2: factor}).round().astype(np.uint8)
    return np.asarray(image)
