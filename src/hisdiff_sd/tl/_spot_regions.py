"""Regions of a slide, however they are given: which spots lie in each."""

from __future__ import annotations

import numbers
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse

from hisdiff_sd import _keys as keys
from hisdiff_sd._data import rows_of
from hisdiff_sd._errors import HisDiffError, check_one_of
from hisdiff_sd._shapes import slide_shapes

if TYPE_CHECKING:
    from geopandas import GeoDataFrame
    from spatialdata import SpatialData

_GLOBAL = "global"
_AREAS = ("Polygon", "MultiPolygon")


@dataclass(frozen=True)
class Regions:
    """Which spots lie in each region; a spot may lie in several, or in none.

    Attributes
    ----------
    names
        Of the regions, (n_regions,).
    index
        Barcodes, (n,).
    member
        (n_regions, n) float64, 1 where a spot lies in a region.
    """

    names: list[Hashable]
    index: pd.Index
    member: sparse.csr_array

    @property
    def n_spots(self) -> np.ndarray:
        """(n_regions,) spots of each region."""
        return np.asarray(self.member.sum(axis=1)).ravel().astype(np.int64)

    def at(self, index: pd.Index) -> Regions:
        """The same regions of some of the spots, in another order."""
        return Regions(self.names, index, sparse.csr_array(self.member[:, self.index.get_indexer(index)]))

    def check(self, why: str) -> Regions:
        """Raise where a region has no spot; `why` says what that may be due to."""
        empty = [repr(name) for name, n in zip(self.names, self.n_spots, strict=True) if n == 0]
        if empty:
            listed = ", ".join(empty[:10]) + (", ..." if len(empty) > 10 else "")
            raise HisDiffError(f"{len(empty)} of {len(self.names)} regions have no spot: {listed}; {why}")
        return self


def region_outlines(sdata: SpatialData, regions: Any) -> GeoDataFrame | None:
    """Polygons in global coordinates, if that is what regions are given as; None for labels."""
    import shapely
    from geopandas import GeoDataFrame

    named = isinstance(regions, str)
    if not isinstance(regions, GeoDataFrame) and not (named and regions in sdata.shapes):
        return None
    what = f"shapes {regions!r}" if named else "the GeoDataFrame"
    if named and (tables := _tables_with(sdata, regions)):
        raise HisDiffError(
            f"regions={regions!r} are shapes, and a column of table {tables[0]!r}; give sdata[{regions!r}] or "
            f"sdata[{tables[0]!r}].obs[{regions!r}] itself"
        )
    frame = sdata.shapes[regions] if named else regions
    geometry = np.asarray(frame.geometry)
    others = sorted({"None" if g is None else g.geom_type for g in geometry} - {*_AREAS})
    if not len(frame) or others:
        raise HisDiffError(f"{what} holds {', '.join(others) or 'nothing'}, and regions have to be polygons")
    affine = _affine(frame, what)
    moved = shapely.transform(shapely.make_valid(geometry), lambda xy: xy @ affine[:2, :2].T + affine[:2, 2])
    return GeoDataFrame(index=frame.index, geometry=moved)


def spot_regions(sdata: SpatialData, regions: Any, shapes_key: str, outlines: GeoDataFrame | None) -> Regions:
    """Regions of the shapes `shapes_key`: their labels, or the outlines that their centres lie in."""
    index = slide_shapes(sdata, shapes_key).index
    if outlines is not None:
        found = _inside(sdata, outlines, shapes_key)
        return found.check(f"outlines have to be in global coordinates (level-0 px), around centres of {shapes_key!r}")
    labels, where = _labels(sdata, regions, shapes_key, index)
    names, codes = _coded(labels, where)
    inside = np.flatnonzero(codes >= 0)
    ones = (np.ones(len(inside)), (codes[inside], inside))
    return Regions(names, index, sparse.csr_array(ones, shape=(len(names), len(index))))


def _inside(sdata: SpatialData, outlines: GeoDataFrame, shapes_key: str) -> Regions:
    """Which centres lie inside which outlines; outlines of one name are one region."""
    import shapely

    shapes = slide_shapes(sdata, shapes_key)
    affine = _affine(sdata.shapes[shapes_key], f"shapes {shapes_key!r}")
    x, y = (shapes.xy @ affine[:2, :2].T + affine[:2, 2]).T
    names = list(dict.fromkeys(outlines.index))
    member = np.zeros((len(names), shapes.n), bool)
    places = {name: i for i, name in enumerate(names)}
    for name, outline in zip(outlines.index, outlines.geometry, strict=True):
        shapely.prepare(outline)
        member[places[name]] |= shapely.contains_xy(outline, x, y)
    return Regions(names, shapes.index, sparse.csr_array(member.astype(np.float64)))


def _affine(frame: GeoDataFrame, what: str) -> np.ndarray:
    """(3, 3) from the coordinates of a frame to global ones; a frame that is no element is in global coordinates."""
    from spatialdata.transformations import get_transformation

    if "transform" not in frame.attrs:
        return np.eye(3)
    known = get_transformation(frame, get_all=True)
    if _GLOBAL not in known:
        raise HisDiffError(f"{what} is not in the coordinate system {_GLOBAL!r}; it is in: {', '.join(known)}")
    return np.asarray(known[_GLOBAL].to_affine_matrix(("x", "y"), ("x", "y")), np.float64)


def _labels(sdata: SpatialData, regions: Any, shapes_key: str, index: pd.Index) -> tuple[pd.Series, str]:
    """The label of every spot, in the order of the shapes, and how messages call them."""
    if isinstance(regions, str):
        return _column(sdata, regions, shapes_key, index), f"column {regions!r}"
    if isinstance(regions, pd.Series):
        if not regions.index.is_unique:
            raise HisDiffError("regions name a spot more than once; give one label per spot")
        unknown = regions.index.difference(index)
        if len(unknown):
            raise HisDiffError(
                f"regions have labels of {len(unknown)} spots that {shapes_key!r} lacks, such as {str(unknown[0])!r}; the index "
                "has to name spots (give an array, regions.to_numpy(), for labels in the order of the shapes)"
            )
        return regions.reindex(index), "regions"
    array_like = isinstance(regions, Sequence | np.ndarray | pd.Index | pd.api.extensions.ExtensionArray)
    if not array_like or getattr(regions, "ndim", 1) != 1:
        raise HisDiffError(
            f"regions of type {type(regions).__name__} are none; give a column of a table that annotates the spots, a Series "
            "or array with a label per spot, polygons (GeoDataFrame), or the name of shapes that are polygons"
        )
    if len(regions) != len(index):
        raise HisDiffError(
            f"regions have {len(regions)} labels, and {shapes_key!r} has {len(index)} spots; give one per spot in the order of "
            "the shapes, or a Series whose index names the spots"
        )
    return pd.Series(regions, index=index), "regions"


def _column(sdata: SpatialData, name: str, shapes_key: str, index: pd.Index) -> pd.Series:
    """A column of the tables that annotate the shapes, in the order of the shapes."""
    tables = _tables_with(sdata, name, shapes_key)
    if not tables:
        columns = {c: None for t in sdata.tables if _annotates(sdata, t, shapes_key) for c in sdata.tables[t].obs}
        areas = [s for s, f in sdata.shapes.items() if set(f.geom_type) <= {*_AREAS} and s != shapes_key]
        choices = [c for c in columns if c not in (keys.REGION, keys.INSTANCE)] + areas
        check_one_of(name, choices, f"column of a table on {shapes_key!r} or shapes with polygons")
    found = []
    for key in tables:
        table = sdata.tables[key]
        rows = rows_of(table, index, key)
        # no row is called -1, so that spots without one become NaN
        found.append(table.obs[name].reset_index(drop=True).reindex(rows).set_axis(index))
    if not all(labels.equals(found[0]) for labels in found[1:]):
        raise HisDiffError(
            f"column {name!r} differs between tables {', '.join(map(repr, tables))}; give the one that is meant, such as "
            f"sdata[{tables[0]!r}].obs[{name!r}]"
        )
    return found[0]


def _annotates(sdata: SpatialData, table: str, shapes_key: str | None) -> bool:
    """Whether a table annotates the shapes."""
    region = sdata.tables[table].uns.get("spatialdata_attrs", {}).get("region", ())
    return shapes_key is None or shapes_key in ([region] if isinstance(region, str) else list(region))


def _tables_with(sdata: SpatialData, column: str, shapes_key: str | None = None) -> list[str]:
    """Tables that annotate the shapes, and have a column of that name."""
    return [t for t in sdata.tables if column in sdata.tables[t].obs and _annotates(sdata, t, shapes_key)]


def _coded(labels: pd.Series, what: str) -> tuple[list[Hashable], np.ndarray]:
    """Names of the regions, the same whatever the order of spots, and the place of each spot's in them; -1 for none."""
    none = np.array([bool(pd.isna(v)) or (isinstance(v, numbers.Real) and float(v) == -1) for v in labels])
    kept = labels[~none]
    if not len(kept):
        raise HisDiffError(f"{what} holds no region: every spot is NaN, None or -1")
    parts = [v for v in kept.unique() if isinstance(v, numbers.Real) and not float(v).is_integer()]
    if parts:
        raise HisDiffError(
            f"{what} holds numbers such as {parts[0]}, which are no labels of regions; cut them into some first"
        )
    if isinstance(labels.dtype, pd.CategoricalDtype):
        used = set(kept)
        names = [c for c in labels.cat.categories if c in used]
    else:
        # labels of some spots only come as floats
        kept = kept.astype(np.int64) if pd.api.types.is_float_dtype(kept.dtype) else kept
        names = list(kept.unique())
        try:
            names = sorted(names)
        except TypeError:  # of several kinds
            names = sorted(names, key=lambda v: (type(v).__name__, str(v)))
    codes = np.full(len(labels), -1, np.int64)
    codes[~none] = pd.Index(names, dtype=object).get_indexer(pd.Index(kept, dtype=object))
    return names, codes
