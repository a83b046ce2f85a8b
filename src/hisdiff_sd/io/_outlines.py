"""Outlines of tissue from a GeoJSON file, and as the shapes of a slide."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hisdiff_sd._errors import HisDiffError, MissingFileError, reason
from hisdiff_sd.io._json import read_json

if TYPE_CHECKING:
    from geopandas import GeoDataFrame
    from shapely import Polygon
    from spatialdata.transformations import BaseTransformation


def read_outlines(path: Path, height: int, width: int) -> list[Polygon]:
    """The polygons of a GeoJSON file in level-0 px as far as they lie on the image, the largest first.

    Parameters
    ----------
    path
        The file; a CRS in it is ignored.
    height, width
        Size of the image in level-0 px.

    Raises
    ------
    MissingFileError
        If there is no such file.
    HisDiffError
        If it is no GeoJSON, or none of its polygons lies on the image.
    """
    import shapely

    if not path.is_file():
        raise MissingFileError(f"no file {path} with outlines of tissue")
    content = read_json(path)
    try:
        shapes = [shapely.geometry.shape(geometry) for geometry in _geometries(content)]
        found = only_polygons(shapely.intersection(shapely.make_valid(shapes), shapely.box(0, 0, width, height)))
    except Exception as error:  # whatever shapely raises at a geometry that is none
        raise HisDiffError(f"{path} cannot be read as GeoJSON ({reason(error)}); fetch it again") from error
    if not found:
        raise HisDiffError(
            f"{path} has no polygon on the image ({width} x {height} px, {len(shapes)} geometries in the file); outlines "
            "in level-0 px of this slide are needed"
        )
    return sorted(found, key=lambda polygon: polygon.area, reverse=True)


def outline_shapes(polygons: list[Polygon], mpp: float, transformations: dict[str, BaseTransformation]) -> GeoDataFrame:
    """Polygons in level-0 px as the element ``tissue``: columns ``tissue_id`` and ``area_um2``."""
    from geopandas import GeoDataFrame
    from spatialdata.models import ShapesModel

    areas = np.array([polygon.area for polygon in polygons]) * mpp**2
    frame = GeoDataFrame({"tissue_id": np.arange(len(polygons)), "area_um2": areas}, geometry=polygons)
    return ShapesModel.parse(frame, transformations=transformations)


def only_polygons(shapes: Any) -> list[Polygon]:
    """The polygons with an area in an array of geometries, out of whatever collections they are in."""
    import shapely

    parts = shapely.get_parts(shapely.get_parts(shapes))
    return [part for part in parts if part.geom_type == "Polygon" and part.area > 0]


def _geometries(content: dict[str, Any]) -> list[dict[str, Any]]:
    """The geometries of a GeoJSON object of whatever kind."""
    if content["type"] == "FeatureCollection":
        return [feature["geometry"] for feature in content["features"]]
    return [content["geometry"] if content["type"] == "Feature" else content]
