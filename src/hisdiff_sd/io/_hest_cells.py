"""Cells, nuclei and transcripts of HEST slides, in level-0 px of the H&E image."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from hisdiff_sd._errors import HisDiffError, MissingFileError, check_one_of
from hisdiff_sd.io._hest_files import part
from hisdiff_sd.io._limits import MOST_BYTES_AT_ONCE, check_rows
from hisdiff_sd.io._outlines import only_polygons

if TYPE_CHECKING:
    from dask.dataframe import DataFrame
    from geopandas import GeoDataFrame
    from spatialdata.transformations import BaseTransformation

    Transformations = dict[str, BaseTransformation]

_AT = {"x": "he_x", "y": "he_y"}
_FEATURE, _CELL = "feature_name", "cell_id"
_KEPT = (_CELL, "qv")
# the elements of every segmentation, and their files, the better one first
_SOURCES: dict[str, dict[str, tuple[str, ...]]] = {
    "xenium": {"cells": ("xenium_cells",), "nuclei": ("xenium_nuclei",)},
    "cellvit": {"cells": ("cellvit_seg", "cellvit_seg_geojson")},
}


def find_cells(root: Path, sample_id: str, source: str | bool) -> dict[str, Path]:
    """The files of a segmentation by the name of the element that they become.

    Parameters
    ----------
    root, sample_id
        The slide.
    source
        ``"xenium"`` (``cells`` and ``nuclei``), ``"cellvit"`` (``cells``), or True: the first of these that is there.

    Raises
    ------
    MissingFileError
        If there is none.
    """
    if source is not True:
        check_one_of(str(source), _SOURCES, "segmentation")
    asked = tuple(_SOURCES) if source is True else (str(source),)
    looked: list[Path] = []
    for name in asked:
        paths = {element: [part(root, sample_id, p) for p in parts] for element, parts in _SOURCES[name].items()}
        there = {element: [path for path in wanted if path.exists()] for element, wanted in paths.items()}
        if any(there.values()):
            return {element: found[0] for element, found in there.items() if found}
        looked += [path for wanted in paths.values() for path in wanted]
    raise MissingFileError(
        f"slide {sample_id!r} has no outlines of cells: none of {', '.join(map(str, looked))} is there; fetch one"
    )


def read_cells(path: Path, transformations: Transformations) -> GeoDataFrame:
    """Outlines of cells as shapes, named as in the file."""
    from spatialdata.models import ShapesModel

    try:
        frame = _read_parquet(path) if path.suffix == ".parquet" else _read_zip(path)
    except Exception as error:  # a damaged file fails in many ways
        raise HisDiffError(
            f"{path} cannot be read as outlines of cells ({type(error).__name__}: {error}); fetch it again"
        ) from error
    frame = _whole(frame)
    if not len(frame):
        raise HisDiffError(f"{path} has no outline of a cell with an area; fetch it again")
    return ShapesModel.parse(frame, transformations=transformations)


def transcript_points(path: Path, transformations: Transformations) -> DataFrame:
    """The transcripts of a Xenium slide as lazy points at their place on the H&E image.

    Only the names of the genes are read, to know which there are.
    """
    import dask.dataframe as dd
    import pyarrow.parquet as pq
    from spatialdata.models import PointsModel

    try:
        with pq.ParquetFile(path) as file:
            check_rows(path, by_part=True)
            columns = file.schema_arrow.names
            missing = [c for c in (*_AT.values(), _FEATURE) if c not in columns]
            if missing:
                raise HisDiffError(
                    f"{path} has no {', '.join(missing)}: where the transcripts lie on the H&E image is not known; columns "
                    f"there: {', '.join(columns)}"
                )
            batches = file.iter_batches(columns=[_FEATURE])
            names = sorted({_text(v.as_py()) for batch in batches for v in batch.column(0).unique()})
        kept = [c for c in _KEPT if c in columns]
        table = dd.read_parquet(path, columns=[*_AT.values(), _FEATURE, *kept])
    except HisDiffError:
        raise
    except Exception as error:  # a damaged file fails in many ways
        raise HisDiffError(f"{path} cannot be read as a parquet file ({error}); fetch it again") from error
    genes = pd.CategoricalDtype(names)
    table = table.map_partitions(_decoded, genes, meta=_decoded(table._meta, genes))
    return PointsModel.parse(
        table,
        coordinates=_AT,
        feature_key=_FEATURE,
        instance_key=_CELL if _CELL in kept else None,
        transformations=transformations,
        sort=True,  # else the whole index is read to find that it is
    )


def _decoded(part: pd.DataFrame, genes: pd.CategoricalDtype) -> pd.DataFrame:
    """Names as text, whether they were stored as text or bytes."""
    part = part.assign(**{_FEATURE: part[_FEATURE].map(_text).astype(genes)})
    return part.assign(**{_CELL: part[_CELL].map(_text).astype("str")}) if _CELL in part else part


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _read_parquet(path: Path) -> GeoDataFrame:
    """GeoParquet; the CRS that geopandas writes for pixels too is dropped."""
    import geopandas

    check_rows(path)
    frame = geopandas.read_parquet(path)
    frame = frame.rename_geometry("geometry") if frame.geometry.name != "geometry" else frame
    if _CELL in frame and frame[_CELL].is_unique:
        frame = frame.set_index(_CELL, drop=False)
    if frame.index.dtype == object:
        frame.index = frame.index.map(_text)
    if _CELL in frame and frame[_CELL].dtype == object:
        frame[_CELL] = frame[_CELL].map(_text)
    frame.index.name = None
    return frame.set_crs(None, allow_override=True)


def _read_zip(path: Path) -> GeoDataFrame:
    """Zipped GeoJSON: one feature per cell, or one per class with all of its cells."""
    import shapely
    from geopandas import GeoDataFrame

    with zipfile.ZipFile(path) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith(".geojson") and not n.startswith("__MACOSX"))
        if (size := archive.getinfo(name).file_size) > MOST_BYTES_AT_ONCE:
            raise HisDiffError(f"{name} in it claims {size:,} bytes, at most {MOST_BYTES_AT_ONCE:,} are read")
        content = json.loads(archive.read(name))
    features = content if isinstance(content, list) else content["features"]
    cells, classes = [], []
    for feature in features:
        properties = feature.get("properties") or {}
        kind = properties.get("class", (properties.get("classification") or {}).get("name", ""))
        found = shapely.get_parts(shapely.geometry.shape(feature["geometry"]))
        cells += list(found)
        classes += [str(kind)] * len(found)
    return GeoDataFrame({"class": classes, _CELL: np.arange(len(cells))}, geometry=cells)


def _whole(frame: GeoDataFrame) -> GeoDataFrame:
    """Valid polygons only: what crosses itself is mended, what has no area is left out."""
    import shapely

    shapes = frame.geometry.to_numpy()
    frame = frame[~shapely.is_missing(shapes) & ~shapely.is_empty(shapes)].copy()
    broken = ~frame.geometry.is_valid | ~frame.geom_type.isin(["Polygon", "MultiPolygon"])
    if broken.any():
        mended = [only_polygons([g]) for g in shapely.make_valid(frame.geometry[broken].to_numpy())]
        frame.loc[broken, "geometry"] = [shapely.MultiPolygon(p) if len(p) != 1 else p[0] for p in mended]
    return frame[frame.geometry.area > 0]
