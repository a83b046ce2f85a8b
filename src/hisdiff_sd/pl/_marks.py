"""Where values lie on a slide, and how they are drawn: spots as circles, tiles as squares or hexagons, of true size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from hisdiff_sd._shapes import slide_shapes

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable
    from matplotlib.collections import EllipseCollection
    from matplotlib.path import Path
    from spatialdata import SpatialData

_ALPHA_CIRCLES, _ALPHA_TILES = 0.9, 0.65  # tiles leave no tissue uncovered: it is seen through them
_DARK = "0.25"
_UNTRUSTED_TILE: dict[str, Any] = {"facecolor": (0.9, 0.9, 0.9, 0.75), "edgecolor": _DARK, "hatch": "////"}


@dataclass(frozen=True)
class Marks:
    """Shapes of one slide, in level-0 px.

    Attributes
    ----------
    index
        Names, (n,).
    xy
        (n, 2) centres.
    size
        Diameter of the circles, width of the tiles.
    cells
        (n, 2) column and row of every tile of a square grid, which is drawn as one image.
    outlines
        The corners of every tile of another grid. None for both means circles.
    """

    index: pd.Index
    xy: np.ndarray
    size: float
    cells: np.ndarray | None = None
    outlines: list[np.ndarray] | None = None

    @property
    def n(self) -> int:
        """Number of shapes."""
        return len(self.index)

    @property
    def are_tiles(self) -> bool:
        """Whether they are tiles of a grid, not spots."""
        return self.cells is not None or self.outlines is not None

    def where(self, kept: np.ndarray) -> Marks:
        """Those of which `kept`, (n,) bool, is true."""
        cells = None if self.cells is None else self.cells[kept]
        outlines = None if self.outlines is None else [self.outlines[i] for i in np.flatnonzero(kept)]
        return Marks(self.index[kept], self.xy[kept], self.size, cells, outlines)


def marks_of(sdata: SpatialData, shapes_key: str) -> Marks:
    """The spots or tiles `shapes_key` as marks."""
    import shapely

    shapes = slide_shapes(sdata, shapes_key)
    if shapes.spacing_px is None:
        return Marks(shapes.index, shapes.xy, shapes.diameter_px)
    if shapes.grid == "square":
        cells = ((shapes.xy - shapes.xy.min(0)) / shapes.spacing_px).round().astype(int)
        return Marks(shapes.index, shapes.xy, shapes.spacing_px, cells=cells)
    outlines = [shapely.get_coordinates(tile) for tile in sdata.shapes[shapes_key].geometry]
    return Marks(shapes.index, shapes.xy, shapes.spacing_px, outlines=outlines)


def draw_values(axes: Axes, marks: Marks, values: np.ndarray, *, cmap: str, low: float, high: float) -> ScalarMappable:
    """Draw marks in the colours of their values, none where they are masked; what a colour bar needs is returned."""
    from matplotlib.collections import PolyCollection

    if marks.cells is not None:
        return _draw_squares(axes, marks, values, cmap=cmap, low=low, high=high)
    drawn: EllipseCollection | PolyCollection
    if marks.outlines is not None:
        # smoothed edges of neighbours would show as seams
        drawn = PolyCollection(marks.outlines, cmap=cmap, alpha=_ALPHA_TILES, lw=0, antialiased=False)
    else:
        drawn = _circles(axes, marks, cmap=cmap, alpha=_ALPHA_CIRCLES)
    drawn.set_array(values)
    drawn.set_clim(low, high)
    axes.add_collection(drawn)
    return drawn


def draw_untrusted(axes: Axes, marks: Marks) -> None:
    """Draw marks whose values are not to be believed without them: hollow circles, pale hatched tiles."""
    from matplotlib.patches import PathPatch

    if marks.are_tiles:
        # not add_patch, which would look for the limits of every tile by itself
        axes.add_artist(PathPatch(_outline(marks), lw=0, **_UNTRUSTED_TILE))
        return
    for color, width in (("white", 3.0), (_DARK, 1.2)):  # a dark ring with a bright rim is seen on any tissue
        axes.add_collection(_circles(axes, marks, facecolor="none", edgecolor=color, lw=width))


def untrusted_key(marks: Marks) -> Artist:
    """What stands for such a mark in a legend."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    if marks.are_tiles:
        return Patch(lw=0.5, **_UNTRUSTED_TILE)
    return Line2D([], [], ls="", marker="o", markersize=8, markerfacecolor="none", markeredgecolor=_DARK)


def _circles(axes: Axes, marks: Marks, **options: Any) -> EllipseCollection:
    """The spots in their true size."""
    from matplotlib.collections import EllipseCollection

    size = np.full(marks.n, marks.size)
    place: dict[str, Any] = {"offsets": marks.xy, "transOffset": axes.transData, "units": "xy"}
    return EllipseCollection(size, size, np.zeros(marks.n), **place, **options)


def _draw_squares(
    axes: Axes, marks: Marks, values: np.ndarray, *, cmap: str, low: float, high: float
) -> ScalarMappable:
    """A regular grid as one image: quick for any number of tiles, and without seams."""
    cells = marks.cells
    assert cells is not None
    first = cells.min(0)
    columns, rows = cells.max(0) - first + 1
    # filled below its mask too: the drawing of images works on what lies there
    picture = np.ma.masked_array(np.full((rows, columns), low, np.float32), mask=True)
    picture[cells[:, 1] - first[1], cells[:, 0] - first[0]] = values
    (left, top), (right, bottom) = marks.xy.min(0) - marks.size / 2, marks.xy.max(0) + marks.size / 2
    return axes.imshow(
        picture,
        extent=(left, right, bottom, top),
        interpolation="nearest",
        cmap=cmap,
        vmin=low,
        vmax=high,
        alpha=_ALPHA_TILES,
    )


def _outline(marks: Marks) -> Path:
    """All tiles as one path; squares that are neighbours in a row as one rectangle."""
    from matplotlib.path import Path

    if marks.cells is None:
        return Path.make_compound_path(*(Path(corners, closed=True) for corners in marks.outlines or []))
    order = np.lexsort(marks.cells.T)
    cells, half = marks.cells[order], marks.size / 2
    starts = np.r_[True, (np.diff(cells[:, 1]) != 0) | (np.diff(cells[:, 0]) != 1)]
    (left, top), (right, bottom) = marks.xy[order][starts].T - half, marks.xy[order][np.roll(starts, -1)].T + half
    corners = np.stack([[left, top], [right, top], [right, bottom], [left, bottom], [left, top]]).transpose(2, 0, 1)
    codes = [Path.MOVETO, Path.LINETO, Path.LINETO, Path.LINETO, Path.CLOSEPOLY]
    return Path(corners.reshape(-1, 2), np.tile(codes, len(left)))
