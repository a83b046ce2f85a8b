"""The arrays of a slide, taken from its elements; rows are joined by barcode."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from hisdiff_sd import _keys as keys
from hisdiff_sd._errors import HisDiffError
from hisdiff_sd._inputs import Measured, SlideInputs
from hisdiff_sd._open import slide_name
from hisdiff_sd._provenance import failed_tiles, get_provenance
from hisdiff_sd._shapes import Shapes, slide_shapes
from hisdiff_sd._targets import to_target, total_counts
from hisdiff_sd.io._store import slide_attrs
from hisdiff_sd.tiles import lattice_context, nearest

if TYPE_CHECKING:
    from anndata import AnnData
    from spatialdata import SpatialData

logger = logging.getLogger("hisdiff_sd")


def slide_inputs(
    sdata: SpatialData,
    embedding_key: str,
    *,
    near: int,
    wide: int,
    shapes_key: str = keys.SPOTS,
    pitch_um: float | None = None,
    grid: str = "square",
) -> SlideInputs:
    """Embeddings and context of a slide's spots, in the order of the shapes, without those whose tile could not be read.

    Spots have the nearest spots as context. The tiles of a grid have those that lie where the spots of a training slide,
    `pitch_um` apart on a lattice of kind `grid`, would lie; the nearest tiles if no pitch is given.
    """
    spots = slide_shapes(sdata, shapes_key)
    if embedding_key not in sdata.tables:
        listed = ", ".join(map(repr, sdata.tables)) or "none"
        raise HisDiffError(
            f"slide {slide_name(sdata)!r} has no embeddings {embedding_key!r}; tables here: {listed}; run hd.pp.embed"
        )
    table = sdata.tables[embedding_key]
    check_tiles(table, spots, embedding_key)
    rows = rows_of(table, spots.index, embedding_key)
    here = rows >= 0
    lacking = int((~here).sum())
    if lacking != failed_tiles(table):
        raise HisDiffError(f"{embedding_key!r} lacks {lacking} of {spots.n} spots; run hd.pp.embed with overwrite=True")
    if lacking:
        logger.warning("slide %r: %d spots whose tile could not be read are left out", slide_name(sdata), lacking)
    embedding, xy = np.asarray(table.X, np.float32)[rows[here]], spots.xy[here]
    if spots.spacing_px is None or pitch_um is None:
        contexts = nearest(xy, near), nearest(xy, wide)
    else:
        most = max(near, wide)
        context = lattice_context(xy, pitch_um / slide_attrs(sdata)["mpp"], most, grid)
        # nearest first, so that the small context is the beginning of the large one
        contexts = context.first(near), context.first(wide)
    return SlideInputs(slide_name(sdata), spots.index[here], xy, embedding, *contexts, mpp=slide_attrs(sdata)["mpp"])


def measured(table: AnnData, index: pd.Index, genes: Sequence[str], target: str, source: str) -> Measured:
    """Expression of `genes` at the spots `index`, on the target scale."""
    rows = rows_of(table, index, source)
    if (rows < 0).any():
        raise HisDiffError(f"{source}: {int((rows < 0).sum())} of {len(index)} spots have no counts in the table")
    totals = total_counts(table.X, table.var)[rows]
    counts = table[:, list(genes)].X
    dense = np.asarray(counts.todense() if hasattr(counts, "todense") else counts)[rows]
    return Measured(to_target(dense, totals, target), totals)


def rows_of(table: AnnData, index: pd.Index, name: str) -> np.ndarray:
    """Row of `table` for every instance of `index`, -1 where there is none; joined by instance id, never by position."""
    column = table.uns.get("spatialdata_attrs", {}).get("instance_key", keys.INSTANCE)
    ids = pd.Index(table.obs[column].to_numpy() if column in table.obs else table.obs_names)
    if not ids.is_unique:
        raise HisDiffError(f"table {name!r} names a spot more than once")
    return ids.get_indexer(pd.Index(index.to_numpy()))


def check_tiles(table: AnnData, shapes: Shapes, name: str) -> None:
    """Refuse a table that was made of other tiles, which a grid had before, or which another grid has."""
    found = get_provenance(table)
    differs = [f"{k}: {found[k]} there, {v} now" for k, v in shapes.record().items() if found.get(k, v) != v]
    if differs:
        raise HisDiffError(
            f"table {name!r} was made of other tiles ({', '.join(differs)}); make it again with overwrite=True"
        )


def covers(table: AnnData, shapes: Shapes, failed: int) -> bool:
    """Whether a table has a row for every spot, but for as many as could not be read, and no other."""
    rows = set(table.obs[keys.INSTANCE])
    return rows <= set(shapes.index) and len(rows) + failed == shapes.n


def spot_pitch_um(sdata: SpatialData) -> float | None:
    """Declared distance of neighbouring spots, in um."""
    pitch = slide_attrs(sdata).get("spot_pitch_um")
    return float(pitch) if pitch else None
