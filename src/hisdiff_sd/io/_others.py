"""Images and shapes of SpatialData objects that others made, brought to level-0 pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from hisdiff_sd._errors import HisDiffError, check_one_of, reason
from hisdiff_sd.io._image import THUMBNAIL_PX, levels_of, shrink, true_size
from hisdiff_sd.io._tiff import without_alpha

if TYPE_CHECKING:
    import dask.array as da
    from geopandas import GeoDataFrame
    from spatialdata import SpatialData

_GLOBAL, _MICRONS = "global", "microns"
_XY = ("x", "y")
# of a matrix; a tile of 224 px is turned or stretched by less than half a pixel
_STRAIGHT = 2e-3


@dataclass(frozen=True)
class Picture:
    """An H&E image.

    Attributes
    ----------
    key
        Name of the element.
    image
        Level 0, lazily, uint8 (3, y, x).
    small
        A thumbnail, uint8 (y, x, 3).
    """

    key: str
    image: da.Array
    small: np.ndarray


def picture(sdata: SpatialData, key: str) -> Picture:
    """Level 0 and a thumbnail of an image, from the smallest level that is large enough."""
    arrays = levels_of(sdata.images[key])
    if arrays[0].ndim != 3 or arrays[0].dtype != np.uint8 or arrays[0].sizes.get("c") not in (3, 4):
        raise HisDiffError(
            f"image {key!r} is no 8-bit RGB image (axes {dict(arrays[0].sizes)}, {arrays[0].dtype}); the H&E image is needed"
        )
    levels = [_rgb(level) for level in arrays]
    small = next((v for v in reversed(levels) if max(true_size(v)) >= THUMBNAIL_PX), levels[0])
    return Picture(key, levels[0], shrink(small, true_size(levels[0]), f"image {key!r}"))


def _rgb(level: object) -> da.Array:
    """Three colours (3, y, x) of a level; transparent means no tissue and becomes white."""
    import dask.array as da

    last = da.asarray(level.transpose("y", "x", "c").data)  # type: ignore[attr-defined]
    return (without_alpha(last) if last.shape[2] == 4 else last).transpose(2, 0, 1)


def micrometres(sdata: SpatialData, key: str) -> tuple[float, str]:
    """Micrometres per level-0 px by the coordinate system ``microns``."""
    known = _systems(sdata.images[key])
    if _MICRONS not in known:
        raise HisDiffError(
            f"image {key!r} has no pixel size (no coordinate system {_MICRONS!r}; it is in: {', '.join(known)}); give mpp=, "
            "micrometres per level-0 px"
        )
    scale = np.linalg.svd(known[_MICRONS][:2, :2], compute_uv=False)
    if not (scale[1] > 0 and scale[0] <= (1 + _STRAIGHT) * scale[1]):
        raise HisDiffError(
            f"image {key!r} has pixels of {scale[0]:.4g} and {scale[1]:.4g} um in {_MICRONS!r}; square ones are needed: give "
            "mpp= if that is wrong, or else resample the image"
        )
    return float(scale.mean()), f"coordinate system {_MICRONS}"


def in_pixels(sdata: SpatialData, shapes_key: str, image_key: str, system: str | None) -> GeoDataFrame:
    """Circles in level-0 px of the image."""
    from spatialdata import to_circles

    matrix = _to_image(sdata, shapes_key, image_key, system)
    (a, b), (c, d) = matrix[:2, :2]
    if not (a > 0 and d > 0) or max(abs(b), abs(c), abs(a - d)) > _STRAIGHT * min(a, d):
        raise HisDiffError(
            f"shapes {shapes_key!r} are rotated, mirrored or stretched against image {image_key!r} ({a:.4g}, {b:.4g}; {c:.4g}, "
            f"{d:.4g}); bring both into one orientation first, such as with spatialdata.transform"
        )
    try:
        frame = to_circles(sdata.shapes[shapes_key])
    except Exception as error:  # it checks with assertions
        raise HisDiffError(f"shapes {shapes_key!r} are neither circles nor polygons ({reason(error)})") from error
    moved = frame.geometry.affine_transform([a, b, c, d, matrix[0, 2], matrix[1, 2]])
    return frame.assign(radius=frame["radius"] * np.sqrt(a * d)).set_geometry(moved)


def _to_image(sdata: SpatialData, shapes_key: str, image_key: str, system: str | None) -> np.ndarray:
    """(3, 3) from the coordinates of the shapes to level-0 px, through a coordinate system that both are in."""
    image, shapes = _systems(sdata.images[image_key]), _systems(sdata.shapes[shapes_key])
    both = [name for name in image if name in shapes]
    if system is not None:
        both = [check_one_of(system, both, f"coordinate system of both {image_key!r} and {shapes_key!r}")]
    if not both:
        raise HisDiffError(
            f"image {image_key!r} (in {', '.join(image)}) and shapes {shapes_key!r} (in {', '.join(shapes)}) share no "
            "coordinate system: are they of one slide? set one with spatialdata.transformations.set_transformation"
        )
    if any(abs(np.linalg.det(image[name])) < 1e-12 for name in both):
        raise HisDiffError(f"the transformation of image {image_key!r} cannot be inverted; set another one")
    found = {name: np.linalg.inv(image[name]) @ shapes[name] for name in both}
    first = found[_GLOBAL] if _GLOBAL in found else found[both[0]]
    if _GLOBAL not in found and not all(np.allclose(m, first, rtol=1e-3, atol=0.5) for m in found.values()):
        raise HisDiffError(
            f"image {image_key!r} and shapes {shapes_key!r} lie differently on each other in {', '.join(both)}; give "
            "coordinate_system="
        )
    return first


def _systems(element: object) -> dict[str, np.ndarray]:
    """(3, 3) from the coordinates of an element to each of its coordinate systems."""
    from spatialdata.transformations import get_transformation

    known = get_transformation(element, get_all=True)
    return {str(name): np.asarray(step.to_affine_matrix(_XY, _XY), np.float64) for name, step in known.items()}
