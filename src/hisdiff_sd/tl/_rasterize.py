from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from hisdiff_sd._errors import HisDiffError
from hisdiff_sd._shapes import Shapes
from hisdiff_sd.io._store import check_image_name, check_writable, slide_attrs, write_image
from hisdiff_sd.tl._on_grid import on_grid

if TYPE_CHECKING:
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

    spatialdata-plot draws no NaN, and gives all colours one transparency; here NaN is below the scale, whose colour is taken
    away::

        figure, axes = plt.subplots()
        sdata.pl.render_images("he").pl.render_images(
            "hisdiff_tiles_50um_raster", channel="ERBB2", transfunc=lambda x: np.nan_to_num(x, nan=-1), alpha=0.6,
            cmap="viridis", norm=plt.Normalize(0),
        ).pl.show("global", ax=axes)
        drawn = axes.get_images()[-1]
        drawn.set_cmap(drawn.get_cmap().with_extremes(under="none"))
    """
    from spatialdata.models import Image2DModel
    from spatialdata.transformations import Scale, Translation
    from spatialdata.transformations import Sequence as Steps

    found = on_grid(sdata, key, genes, layer)
    key, names = found.key, found.genes
    name = key_added or "_".join([key, *([layer] if layer else []), "raster"])
    check_image_name(sdata, name)
    if name in sdata.images and not overwrite:
        raise HisDiffError(f"the slide has an image {name!r} already; give overwrite=True to replace it, or key_added=")
    check_writable(sdata)
    row_of_pixel, corner, side = _pixels(found.shapes)
    if row_of_pixel.size * len(names) * 4 > _MOST_BYTES:
        raise HisDiffError(f"{len(names)} genes of {key!r} are too much for one image; give genes=, fewer at a time")
    row = np.where(row_of_pixel >= 0, found.rows[row_of_pixel], -1)
    pixels = found.values().T[:, row]
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
