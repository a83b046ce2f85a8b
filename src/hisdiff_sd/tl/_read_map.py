from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from hisdiff_sd import _keys as keys
from hisdiff_sd._errors import HisDiffError, check_one_of
from hisdiff_sd.tl._on_grid import on_grid
from hisdiff_sd.tl._spot_regions import _affine

if TYPE_CHECKING:
    from spatialdata import SpatialData

_NEIGHBOURS = 16  # tiles that a value is read from; farther ones have next to no weight


def read_map(
    sdata: SpatialData,
    at: str | np.ndarray = keys.SPOTS,
    genes: Sequence[str] | None = None,
    *,
    key: str | None = None,
    layer: str | None = None,
) -> pd.DataFrame:
    """Read a prediction on a grid of tiles at other places, such as spots, cells, or the tiles of another grid.

    A value is the best linear guess from the 16 nearest tiles if a map varies with the distance as a line does (ordinary
    kriging with a linear variogram, Matheron 1963, *Economic Geology* 58). At a tile it is the tile's own. Nothing is gained
    on what the tiles saw: between tiles 200 um apart lies tissue that none of them shows.

    Parameters
    ----------
    sdata
        A slide of `hd.io` with a prediction on a grid, such as ``sdata["hisdiff_tiles_50um"]``.
    at
        Shapes of the slide, read at their centres, or places (n, 2), x and y in level-0 px.
    genes
        Genes to read; all of the table by default.
    key
        Table with the prediction; by default the only one on a grid.
    layer
        A layer of the table, such as ``"std"``, in place of the mean.

    Returns
    -------
    float32 (n, n_genes) on the scale of the table, a row per shape (or place) and a column per gene. NaN farther from every
    tile than tiles are from each other. The values of a prediction are not below 0.

    Raises
    ------
    HisDiffError
        If there is no prediction on a grid, or the shapes, a gene or the layer are not there.

    Examples
    --------
    Any table on a grid can be read, embeddings too:

    >>> import tempfile, hisdiff_sd as hd
    >>> root = hd.datasets.synthetic(tempfile.mkdtemp(), slides=("S1",), size_um=(900, 800), mpp=1.0)
    >>> sdata = hd.io.hest(root, "S1")
    >>> hd.pp.tile(sdata, 100, shapes_key=None)
    >>> hd.pp.embed(sdata, "morphology", shapes_key="tiles_100um")
    >>> at_spots = hd.tl.read_map(sdata, "spots", ["e0", "e1"], key="tiles_100um_morphology")
    >>> len(at_spots) == len(sdata["spots"])
    True
    """
    from scipy.interpolate import RBFInterpolator
    from scipy.spatial import cKDTree

    found = on_grid(sdata, key, genes, layer)
    spacing = found.shapes.spacing_px
    assert spacing is not None
    index, places = _places(sdata, at, found.region)
    here = found.rows >= 0
    tiles, places = found.shapes.xy[here] / spacing, places / spacing
    near = cKDTree(tiles).query(places)[0] <= 1 + 1e-6
    out = np.full((len(places), len(found.genes)), np.nan, np.float32)
    if near.any():
        # the distance of tiles as kernel, and a constant beside it, are a linear variogram
        how = {"neighbors": min(_NEIGHBOURS, len(tiles)), "kernel": "linear", "degree": 0}
        out[near] = RBFInterpolator(tiles, found.values()[found.rows[here]], **how)(places[near])
    if found.is_prediction:
        out = np.maximum(out, 0)  # NaN stays
    return pd.DataFrame(out, index=index, columns=found.genes)


def _places(sdata: SpatialData, at: str | np.ndarray, tiles_key: str) -> tuple[pd.Index, np.ndarray]:
    """Names, and centres (n, 2) in the pixels that the tiles are given in."""
    if isinstance(at, str):
        frame = sdata.shapes[check_one_of(at, list(sdata.shapes), "shapes")]
        here, tiles = _affine(frame, f"shapes {at!r}"), _affine(sdata.shapes[tiles_key], f"shapes {tiles_key!r}")
        to_tiles = np.linalg.inv(tiles) @ here
        centres = frame.geometry.centroid
        xy = np.column_stack([centres.x, centres.y]) @ to_tiles[:2, :2].T + to_tiles[:2, 2]
        index = frame.index
    else:
        try:
            xy = np.asarray(at, np.float64)
        except (TypeError, ValueError) as error:
            raise HisDiffError(
                f"at= of type {type(at).__name__} is neither the name of shapes nor places (n, 2)"
            ) from error
        if xy.ndim != 2 or xy.shape[1] != 2:
            raise HisDiffError(
                f"at= has shape {xy.shape}; give places (n, 2), x and y in level-0 px, or the name of shapes"
            )
        index = pd.RangeIndex(len(xy))
    if not np.isfinite(xy).all():
        lost = int((~np.isfinite(xy)).any(axis=1).sum())
        raise HisDiffError(f"{lost} of {len(xy)} places of at= are NaN, infinite or empty shapes; leave them out")
    return index, xy
