from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hisdiff_sd import _keys as keys
from hisdiff_sd._errors import HisDiffError, check_one_of
from hisdiff_sd._shapes import GRID, SPACING_UM, TILE_UM
from hisdiff_sd.io._pool import place_names
from hisdiff_sd.io._store import check_shapes_name, check_writable, slide_attrs, write_shapes
from hisdiff_sd.tiles import GRIDS, grid_points

if TYPE_CHECKING:
    import shapely
    from geopandas import GeoDataFrame
    from spatialdata import SpatialData

    from hisdiff_sd.model import HisDiff

_MOST_TILES = 2_000_000


def tile(
    sdata: SpatialData,
    spacing_um: float | None = None,
    *,
    tile_um: float | None = None,
    model: HisDiff | str | Path | None = None,
    grid: str | None = None,
    shapes_key: str | None = keys.TISSUE,
    key_added: str | None = None,
    overwrite: bool = False,
) -> None:
    """Lay a grid of tiles on the tissue of a slide, to be predicted in place of spots.

    A tile is where a spot of the training slides is predicted: its *spacing* says how fine the map is, its size
    (`tile_um`) what is predicted there. A spacing below the size gives spots that overlap: a smoother map, not single
    cells.

    Parameters
    ----------
    sdata
        A slide of `hd.io`. If it has a store, the tiles are written there as well.
    spacing_um
        Distance of neighbouring tiles in um; by default that of the model's training spots.
    tile_um
        Diameter in um of the spot that a tile stands for; by default that of the model's training spots, or else
        `spacing_um`.
    model
        A model (or its folder) that the tiles are for.
    grid
        ``"square"`` or ``"hexagonal"``. By default hexagonal where the spacing is above `tile_um`, so that tiles lie apart: no
        place is then far from a tile, and less is lost between them. Else square.
    shapes_key
        Outlines of the tissue; tiles whose centre lies in them are kept. None: the whole slide.
    key_added
        Name of the tiles; ``"tiles_<spacing>um"`` by default.
    overwrite
        Replace other tiles of that name. Tiles that are the same are kept as they are.

    Returns
    -------
    None. Adds ``sdata["tiles_50um"]`` and the like: squares (hexagons) of the spacing in level-0 px, each the part of the
    map that its tile stands for; columns ``tile_um``, ``spacing_um`` and ``grid``. A tile's name, such as
    ``x0012_y0034``, is its place on the slide, and does not change with the outlines.

    Raises
    ------
    HisDiffError
        If no spacing is known, it is below a pixel or larger than the tissue, there would be more than 2 million tiles,
        there is no tissue, or other tiles of that name are there.

    Examples
    --------
    >>> import tempfile, hisdiff_sd as hd
    >>> root = hd.datasets.synthetic(tempfile.mkdtemp(), slides=("S1",), size_um=(900, 800), mpp=1.0)
    >>> sdata = hd.io.hest(root, "S1")
    >>> hd.pp.tissue(sdata)
    >>> hd.pp.tile(sdata, 50)
    >>> sdata["tiles_50um"].index[0][:2]
    'x0'
    """
    spacing_um, tile_um = _sizes(spacing_um, tile_um, model)
    grid = check_one_of(grid or ("hexagonal" if spacing_um > tile_um else "square"), GRIDS, "grid")
    attrs = slide_attrs(sdata)
    mpp, (height, width) = float(attrs["mpp"]), attrs["true_size"]
    name = key_added or keys.tiles_key(spacing_um)
    check_shapes_name(sdata, name)
    outlines = _outlines(sdata, shapes_key, (width, height))
    _check_spacing(spacing_um, mpp, outlines)
    place, xy = _points(width, height, spacing_um / mpp, grid, outlines)
    if not len(xy):
        raise HisDiffError(
            f"spacing_um={spacing_um:g} is so large that no tile's centre lies on the tissue ({_size_um(outlines, mpp)}); "
            "give a smaller one"
        )
    frame = _frame(place, xy, spacing_um / mpp, grid, sdata)
    frame = frame.assign(**{TILE_UM: tile_um, SPACING_UM: spacing_um, GRID: grid})
    if name in sdata.shapes and not overwrite:
        if _same(sdata.shapes[name], frame):
            return
        raise HisDiffError(
            f"the slide has other shapes {name!r} (of another tissue, size or grid); give overwrite=True to replace them, "
            "or key_added= for another name"
        )
    check_writable(sdata)
    write_shapes(sdata, name, frame, overwrite=overwrite)


def _sizes(spacing_um: float | None, tile_um: float | None, model: HisDiff | str | Path | None) -> tuple[float, float]:
    """Spacing and size of the tiles, from the model's training spots where they are not given."""
    if isinstance(model, str | Path):
        from hisdiff_sd.model import HisDiff

        model = HisDiff.load(model)
    config = None if model is None else model.config
    spacing = spacing_um if spacing_um is not None or config is None else config.spot_pitch_um
    if spacing is None:
        why = "no model is given" if config is None else "the model does not say how far apart its training spots were"
        raise HisDiffError(f"no spacing: {why}; give spacing_um=, such as 100")
    size = tile_um if tile_um is not None else (config.spot_diameter_um if config is not None else None) or spacing
    for what, value in (("spacing_um", spacing), ("tile_um", size)):
        if not (np.isfinite(value) and value > 0):
            raise HisDiffError(f"{what}={value} is no size; give um, such as 100")
    return float(spacing), float(size)


def _outlines(sdata: SpatialData, shapes_key: str | None, size: tuple[float, float]) -> shapely.Geometry:
    """The tissue as one shape, within the image; without outlines, the whole slide."""
    import shapely

    slide = shapely.box(0, 0, *size)
    if shapes_key is None:
        return slide
    if shapes_key not in sdata.shapes:
        raise HisDiffError(
            f"no outlines {shapes_key!r} of the tissue; make them with hd.pp.tissue(sdata), or give shapes_key=None to lay "
            f"tiles on the whole slide; shapes here: {', '.join(map(repr, sdata.shapes)) or 'none'}"
        )
    frame = sdata.shapes[shapes_key]
    if not frame.geom_type.isin(["Polygon", "MultiPolygon"]).all():
        raise HisDiffError(f"shapes {shapes_key!r} are no outlines; polygons such as those of hd.pp.tissue are needed")
    found = frame.geometry.make_valid().union_all().intersection(slide)
    if not found.area > 0:
        raise HisDiffError(
            f"the outlines {shapes_key!r} lie outside the image; make them anew with hd.pp.tissue(sdata)"
        )
    return found


def _points(
    width: float, height: float, spacing: float, grid: str, outlines: shapely.Geometry
) -> tuple[np.ndarray, np.ndarray]:
    """Places and points of the grid that lie in the outlines, row by row."""
    import shapely

    places, points = [], []
    # fragment by fragment: what lies between them may be far larger
    for fragment in shapely.get_parts(outlines):
        place, xy = grid_points(width, height, spacing, grid, fragment.bounds)
        shapely.prepare(fragment)
        inside = shapely.contains_xy(fragment, xy)
        places.append(place[inside])
        points.append(xy[inside])
    place, xy = np.concatenate(places), np.concatenate(points)
    order = np.lexsort(place.T)
    return place[order], xy[order]


def _size_um(outlines: shapely.Geometry, mpp: float) -> str:
    x0, y0, x1, y1 = outlines.bounds
    return f"{(x1 - x0) * mpp:.0f} x {(y1 - y0) * mpp:.0f} um"


def _check_spacing(spacing_um: float, mpp: float, outlines: shapely.Geometry) -> None:
    """Refuse a grid that is finer than the image, coarser than the tissue, or too large for a table."""
    if spacing_um < mpp:
        raise HisDiffError(f"spacing_um={spacing_um:g} is below a pixel ({mpp:g} um); give 10 or more")
    x0, y0, x1, y1 = outlines.bounds
    if spacing_um > max(x1 - x0, y1 - y0) * mpp:
        raise HisDiffError(
            f"spacing_um={spacing_um:g} is larger than the tissue ({_size_um(outlines, mpp)}); give a smaller one"
        )
    area = outlines.area * mpp**2
    tiles = area / spacing_um**2
    if tiles > _MOST_TILES:
        raise HisDiffError(
            f"spacing_um={spacing_um:g} would give some {tiles / 1e6:.1f} million tiles on {area / 1e6:.1f} mm2 of tissue, "
            f"at most {_MOST_TILES / 1e6:g} million can be handled; give {np.ceil((area / _MOST_TILES) ** 0.5):.0f} or more"
        )


def _frame(place: np.ndarray, xy: np.ndarray, spacing: float, grid: str, sdata: SpatialData) -> GeoDataFrame:
    """Squares or hexagons around points, named by their place on the grid."""
    import shapely
    from geopandas import GeoDataFrame
    from spatialdata.models import ShapesModel
    from spatialdata.transformations import get_transformation

    if grid == "square":
        corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * spacing / 2
    else:
        angle = np.pi / 6 + np.arange(6) * np.pi / 3  # corners up and down: rows are horizontal
        corners = np.column_stack([np.cos(angle), np.sin(angle)]) * spacing / np.sqrt(3)
    names = place_names(*place.T)
    cells = shapely.polygons(xy[:, None] + corners)
    transformations = get_transformation(sdata.images[keys.HE], get_all=True)
    return ShapesModel.parse(GeoDataFrame(geometry=cells, index=names), transformations=transformations)


def _same(there: GeoDataFrame, wanted: GeoDataFrame) -> bool:
    """Whether two grids have the same tiles in the same places, of the same sizes."""
    if not there.index.equals(wanted.index):
        return False
    columns = [TILE_UM, SPACING_UM, GRID]
    if not set(columns) <= set(there.columns) or not there[columns].equals(wanted[columns]):
        return False
    return bool(there.geometry.geom_equals_exact(wanted.geometry, 1e-6).all())
