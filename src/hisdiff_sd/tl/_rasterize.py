from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from hisdiff_sd._data import check_tiles, rows_of
from hisdiff_sd._errors import HisDiffError, check_one_of
from hisdiff_sd._provenance import get_provenance
from hisdiff_sd._shapes import GRID, Shapes, slide_shapes
from hisdiff_sd.io._store import check_image_name, check_writable, slide_attrs, write_image

if TYPE_CHECKING:
    from anndata import AnnData
    from spatialdata import SpatialData

_MOST_BYTES = 4 * 2**30


def rasterize(
    sdata: SpatialData,
    genes: Sequence[str] | None = None,
    *,
    key: str | None = None,
    layer: str | None = None,
    key_added: str | None = None,
    overwrite: bool = False,
) -> None:
    """Turn a prediction on a grid of tiles into an image that lies on the H&E, a channel per gene.

    Parameters
    ----------
    sdata
        A slide with a prediction on a grid, such as ``sdata["hisdiff_tiles_50um"]``. If it has a store, the image is
        written there as well.
    genes
        Genes to draw; all of the table by default.
    key
        Table with the prediction; by default the only one on a grid.
    layer
        A layer of the table, such as ``"std"``, in place of the mean.
    key_added
        Name of the image; ``"<key>_raster"`` by default, ``"<key>_<layer>_raster"`` for a layer.
    overwrite
        Replace an image of that name.

    Returns
    -------
    None. Adds the image ``sdata["hisdiff_tiles_50um_raster"]``: float32 (c, y, x), channels named by gene, a pixel per
    tile of a square grid (four for a hexagonal one), NaN where there is no tile; its transformations lay it on the slide.

    Raises
    ------
    HisDiffError
        If there is no prediction on a grid, a gene or layer is not in it, or an image of that name is there.

    Examples
    --------
    Any table on a grid can be drawn, embeddings too:

    >>> import tempfile, hisdiff_sd as hd
    >>> root = hd.datasets.synthetic(tempfile.mkdtemp(), slides=("S1",), size_um=(900, 800), mpp=1.0)
    >>> sdata = hd.io.hest(root, "S1")
    >>> hd.pp.tile(sdata, 100, shapes_key=None)
    >>> hd.pp.embed(sdata, "morphology", shapes_key="tiles_100um")
    >>> hd.tl.rasterize(sdata, ["e0", "e1"], key="tiles_100um_morphology")
    >>> sdata["tiles_100um_morphology_raster"].shape
    (2, 8, 9)

    spatialdata-plot draws no NaN; here they become white::

        glass = {"cmap": plt.get_cmap("viridis").with_extremes(under="white"), "norm": plt.Normalize(0)}
        sdata.pl.render_images("he").pl.render_images(
            "hisdiff_tiles_50um_raster", channel="ERBB2", transfunc=lambda x: np.nan_to_num(x, nan=-1), alpha=0.6, **glass
        ).pl.show("global")
    """
    from spatialdata.models import Image2DModel
    from spatialdata.transformations import Scale, Translation
    from spatialdata.transformations import Sequence as Steps

    key = _table_on_a_grid(sdata, key)
    table = sdata.tables[key]
    names = _genes(table, genes, key)
    if layer is not None:
        check_one_of(layer, [name for name in table.layers if name is not None], f"layer in {key!r}")
    name = key_added or "_".join([key, *([layer] if layer else []), "raster"])
    check_image_name(sdata, name)
    if name in sdata.images and not overwrite:
        raise HisDiffError(f"the slide has an image {name!r} already; give overwrite=True to replace it, or key_added=")
    check_writable(sdata)
    shapes = slide_shapes(sdata, _region(sdata, key))
    check_tiles(table, shapes, key)
    rows = rows_of(table, shapes.index, key)
    row_of_pixel, corner, side = _pixels(shapes)
    if row_of_pixel.size * len(names) * 4 > _MOST_BYTES:
        raise HisDiffError(f"{len(names)} genes of {key!r} are too much for one image; give genes=, fewer at a time")
    chosen = (table.X if layer is None else table.layers[layer])[:, table.var_names.get_indexer(names)]
    values = np.asarray(chosen.todense() if hasattr(chosen, "todense") else chosen, np.float32)
    row = np.where(row_of_pixel >= 0, rows[row_of_pixel], -1)
    pixels = values.T[:, row]
    pixels[:, row < 0] = np.nan
    mpp = float(slide_attrs(sdata)["mpp"])
    onto = [Scale([side, side], axes=("x", "y")), Translation(corner, axes=("x", "y"))]
    transformations = {
        "global": Steps(onto),
        "microns": Steps([*onto, Scale([mpp, mpp], axes=("x", "y"))]),
    }
    # a chunk per gene: who looks at one reads no other
    layout = {"dims": ("c", "y", "x"), "c_coords": names, "chunks": (1, *row.shape)}
    image = Image2DModel.parse(pixels, **layout, transformations=transformations)
    write_image(sdata, name, image, overwrite=overwrite)


def _genes(table: AnnData, genes: Sequence[str] | None, key: str) -> list[str]:
    """The genes that are drawn, each once."""
    if genes is None:
        return list(table.var_names)
    if isinstance(genes, str) or not len(genes):
        raise HisDiffError(f"genes={genes!r} is no list of genes; give some of {key!r}, or leave it out for all")
    for gene in genes:
        check_one_of(gene, table.var_names, f"gene in {key!r}")
    return list(dict.fromkeys(genes))


def _region(sdata: SpatialData, key: str) -> str:
    """The element that a table annotates; empty if there is none, or several."""
    region = sdata.tables[key].uns.get("spatialdata_attrs", {}).get("region", "")
    return region if isinstance(region, str) else ""


def _table_on_a_grid(sdata: SpatialData, key: str | None) -> str:
    """Name of the table that is drawn: `key`, else the only prediction on a grid."""
    regions = {name: _region(sdata, name) for name in sdata.tables}
    on_grids = [name for name, region in regions.items() if region in sdata.shapes and GRID in sdata.shapes[region]]
    if key is not None:
        return check_one_of(key, on_grids, "table on a grid of tiles")
    found = [name for name in on_grids if get_provenance(sdata.tables[name]).get("kind") == "prediction"]
    if len(found) == 1:
        return found[0]
    if found:
        raise HisDiffError(f"there are several predictions on grids; give key=, one of {', '.join(map(repr, found))}")
    raise HisDiffError("there is no prediction on a grid; make one with hd.tl.predict(sdata, model, spacing_um=...)")


def _pixels(shapes: Shapes) -> tuple[np.ndarray, np.ndarray, float]:
    """Which shape each pixel of the raster shows (-1: none), the raster's corner and a pixel's side, in level-0 px."""
    assert shapes.spacing_px is not None
    if shapes.grid == "square":
        side = shapes.spacing_px
        place = np.floor(shapes.xy / side + 1e-6).astype(np.int64)
        first = place.min(0)
        width, height = place.max(0) - first + 1
        pixels = np.full((height, width), -1, np.int64)
        pixels[place[:, 1] - first[1], place[:, 0] - first[0]] = np.arange(shapes.n)
        return pixels, first * side, side
    from scipy.spatial import cKDTree

    side, reach = shapes.spacing_px / 2, shapes.spacing_px / np.sqrt(3)  # a hexagon's corners are this far away
    corner = shapes.xy.min(0) - reach
    width, height = np.ceil((shapes.xy.max(0) + reach - corner) / side).astype(int)
    y, x = (a.ravel() for a in np.mgrid[:height, :width])
    centre = corner + (np.column_stack([x, y]) + 0.5) * side
    _, nearest = cKDTree(shapes.xy).query(centre, distance_upper_bound=reach * (1 + 1e-6))
    return np.where(nearest < shapes.n, nearest, -1).reshape(height, width), corner, side
