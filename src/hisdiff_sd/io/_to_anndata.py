from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from hisdiff_sd import _keys as keys
from hisdiff_sd._errors import check_one_of, check_slide_object
from hisdiff_sd.io._store import slide_attrs

if TYPE_CHECKING:
    from anndata import AnnData
    from spatialdata import SpatialData

COUNTS = "counts"
LIBRARY = "library_id"


def to_anndata(sdata: SpatialData, key: str = keys.PREDICTION) -> AnnData:
    """A table of a slide as a plain AnnData, for tools that know no SpatialData.

    Parameters
    ----------
    sdata
        The slide; it is not changed.
    key
        Name of the table, such as ``"hisdiff"``, ``"hisdiff_tiles_50um"`` or ``"table"``.

    Returns
    -------
    A copy of the table with what squidpy and scanpy look for: ``obsm["spatial"]`` (n, 2) in level-0 px,
    ``uns["spatial"][<slide>]`` with a small H&E image and its scale factors, ``obs["library_id"]``, the slide, by which
    slides are told apart when several are concatenated. Layers are float32 or wider. If counts were measured at its spots, the
    layer ``"counts"`` (n, n_genes) float32 holds them, NaN where a spot or gene was not measured.

    Raises
    ------
    HisDiffError
        If the slide has no such table (with those it has).

    Examples
    --------
    >>> import tempfile, hisdiff_sd as hd
    >>> root = hd.datasets.synthetic(tempfile.mkdtemp(), slides=("S1",), size_um=(900, 800), mpp=1.0)
    >>> table = hd.io.to_anndata(hd.io.hest(root, "S1"), "table")
    >>> list(table.uns["spatial"]), table.obs["library_id"].unique().tolist()
    (['S1'], ['S1'])
    """
    check_slide_object(sdata)
    check_one_of(key, sdata.tables, "table")
    found = sdata.tables[key].copy()
    for name, layer in found.layers.items():
        if name is not None and layer.dtype == np.float16:  # which R cannot read
            found.layers[name] = layer.astype(np.float32)
    found.uns.pop("spatialdata_attrs", None)  # what it annotates stays behind
    found.obs[LIBRARY] = pd.Categorical([str(slide_attrs(sdata)["slide"])] * found.n_obs)
    counts = _counts_at(sdata, found) if key != keys.TABLE else None
    if counts is not None:
        found.layers[COUNTS] = counts
    return found


def _counts_at(sdata: SpatialData, table: AnnData) -> np.ndarray | None:
    """Measured counts at the spots and genes of a table, NaN where there are none; None if there are none at all."""
    measured = sdata.tables.get(keys.TABLE)
    if measured is None or set(table.obs.get(keys.REGION, ())) != set(measured.obs[keys.REGION]):
        return None
    rows = pd.Index(measured.obs[keys.INSTANCE]).get_indexer(pd.Index(table.obs[keys.INSTANCE]))
    columns = measured.var_names.get_indexer(table.var_names)
    if (rows < 0).all() or (columns < 0).all():
        return None
    found = measured[rows[rows >= 0], columns[columns >= 0]].X
    counts = np.full(table.shape, np.nan, np.float32)
    counts[np.ix_(rows >= 0, columns >= 0)] = found.toarray() if hasattr(found, "toarray") else found
    return counts
