from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hisdiff_sd import _keys as keys
from hisdiff_sd._errors import HisDiffError, check_one_of, check_slide_object
from hisdiff_sd._open import slide_name
from hisdiff_sd.pl._figure import new_figure, scale_bar
from hisdiff_sd.pl._map import ground_of

if TYPE_CHECKING:
    from geopandas import GeoDataFrame
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from spatialdata import SpatialData

_INCHES = 7.5  # longer edge of the slide
_OUTLINE, _HOLE, _INSIDE, _OUTSIDE = "#009e73", "#0072b2", "white", "#d55e00"


def tissue(
    sdata: SpatialData,
    *,
    tissue_key: str = keys.TISSUE,
    shapes_key: str | None = None,
    image_key: str = keys.HE,
) -> Figure:
    """Draw the outlines of the tissue on the whole slide, and which spots lie outside.

    Parameters
    ----------
    sdata
        A slide that `hd.pp.tissue` was called on.
    tissue_key, image_key
        Elements with the outlines and the H&E image.
    shapes_key
        Spots or tiles whose centres are drawn; by default ``"spots"`` if the slide has them.

    Returns
    -------
    A figure. Its title names the slide, the area of the tissue and the share of centres inside.

    Raises
    ------
    HisDiffError
        If an element is missing or holds no outlines.

    Examples
    --------
    >>> import tempfile, hisdiff_sd as hd
    >>> root = hd.datasets.synthetic(tempfile.mkdtemp(), slides=("S1",), size_um=(900, 800), mpp=1.0)
    >>> sdata = hd.io.hest(root, "S1")
    >>> hd.pp.tissue(sdata)
    >>> hd.pl.tissue(sdata).get_suptitle()
    'S1: 0.54 mm2 of tissue in 1 fragment; all of 14 spots inside'
    """
    check_slide_object(sdata)
    if tissue_key not in sdata.shapes:
        listed = ", ".join(map(repr, sdata.shapes)) or "none"
        raise HisDiffError(
            f"slide {slide_name(sdata)!r} has no outlines {tissue_key!r}; shapes here: {listed}; run hd.pp.tissue"
        )
    frame = sdata.shapes[tissue_key]
    if not frame.geom_type.isin(["Polygon", "MultiPolygon"]).all():
        raise HisDiffError(f"shapes {tissue_key!r} are no outlines (polygons); run hd.pp.tissue")
    if shapes_key is not None:
        check_one_of(shapes_key, sdata.shapes, "shapes")
    elif keys.SPOTS in sdata.shapes:
        shapes_key = keys.SPOTS
    ground = ground_of(sdata, image_key=image_key)
    width, height = (_INCHES, _INCHES * ground.shape) if ground.shape < 1 else (_INCHES / ground.shape, _INCHES)
    figure = new_figure(figsize=(max(width, 6.5), height + 0.9))
    axes = figure.subplots()
    axes.imshow(ground.image, extent=ground.extent, interpolation="antialiased")
    _draw_outlines(axes, frame)
    fragments = f"{len(frame)} fragment{'s' * (len(frame) > 1)}"
    title = f"{slide_name(sdata)}: {frame.area.sum() * ground.mpp**2 / 1e6:.2f} mm2 of tissue in {fragments}"
    if shapes_key is not None and len(sdata.shapes[shapes_key]):
        title += f"; {_draw_centres(axes, sdata.shapes[shapes_key], frame)} {shapes_key} inside"
    axes.set_xlim(ground.window[0], ground.window[2])
    axes.set_ylim(ground.window[3], ground.window[1])
    axes.set_axis_off()
    scale_bar(axes, ground.mpp)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    figure.suptitle(title, fontsize=12, parse_math=False)
    return figure


def _draw_outlines(axes: Axes, frame: GeoDataFrame) -> None:
    """Fragments and holes, each in a colour."""
    from matplotlib.collections import LineCollection

    polygons = list(frame.geometry.explode())  # a slide of others may have several in one
    rings = {
        ("tissue", _OUTLINE): [np.asarray(polygon.exterior.coords) for polygon in polygons],
        ("hole", _HOLE): [np.asarray(hole.coords) for polygon in polygons for hole in polygon.interiors],
    }
    for (label, color), lines in rings.items():
        if lines:
            # a bright rim, to be seen on dark tissue
            axes.add_collection(LineCollection(lines, colors="white", lw=2.6))
            axes.add_collection(LineCollection(lines, colors=color, lw=1.3, label=label))


def _draw_centres(axes: Axes, shapes: GeoDataFrame, frame: GeoDataFrame) -> str:
    """Dots, those outside in another colour; returns how many are inside."""
    import shapely

    centres = shapely.get_coordinates(shapes.geometry.centroid)
    inside = shapely.intersects_xy(shapely.union_all(frame.geometry.to_numpy()), *centres.T)
    size = float(np.clip(5000 / len(centres), 0.5, 9))
    for kept, color, area in ((inside, _INSIDE, size), (~inside, _OUTSIDE, 2 * size)):
        if kept.any():
            label, width = "inside" if color == _INSIDE else "outside", min(0.5, size / 10)
            x, y = centres[kept].T
            axes.scatter(x, y, s=area, c=color, edgecolors="black", linewidths=width, label=label)
    return f"all of {len(centres)}" if inside.all() else f"{inside.sum()} of {len(centres)} ({inside.mean():.1%})"
