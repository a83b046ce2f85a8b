from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from hisdiff_sd import _keys as keys
from hisdiff_sd._errors import HisDiffError, check_one_of
from hisdiff_sd.io._image import pyramid
from hisdiff_sd.io._others import Picture, in_pixels, micrometres, picture
from hisdiff_sd.io._slide import FEWEST_FOR_PITCH, SlideParts, assemble, check_mpp, pitch_px, slide_record

if TYPE_CHECKING:
    from anndata import AnnData
    from geopandas import GeoDataFrame
    from spatialdata import SpatialData


def adopt(
    sdata: SpatialData,
    image_key: str | None = None,
    table_key: str | None = None,
    *,
    mpp: float | None = None,
    layer: str | None = None,
    coordinate_system: str | None = None,
    slide: str | None = None,
    patient: str = "",
    species: str = "",
    organ: str = "",
    genes: Literal["symbols", "ids", "file"] = "symbols",
    control_probes: bool = False,
) -> SpatialData:
    """Make a slide of this package of a SpatialData object that others made, lazily.

    The shapes that the table annotates are mapped to pixels of the image through their transformations. Of a pyramid only level
    0 is taken and the rest made anew: levels that others made need not lie exactly on it.

    Parameters
    ----------
    sdata
        The object; left as it is.
    image_key
        Its H&E image; by default the only image.
    table_key
        Its table of measured counts, which annotates spots, bins or cells (circles or polygons); by default the only table.
        Without any table the result is a bare H&E slide.
    mpp
        Micrometres per level-0 pixel of the image; by default its scale in a coordinate system ``microns``.
    layer
        Layer of the table with the raw counts; ``X`` by default.
    coordinate_system
        The one in which image and shapes lie on each other, where they share several that disagree.
    slide
        Id of the slide; by default the name of the object's store, or that of the image.
    patient, species, organ
        What is known of the slide; kept in its attributes.
    genes, control_probes
        As in `hd.io.hest`.

    Returns
    -------
    SpatialData laid out as that of `hd.io.hest`, without the other elements of `sdata`. ``spots`` are circles of one diameter,
    indexed by the names of the table's rows; of shapes that are no circles, circles of their area.

    Raises
    ------
    HisDiffError
        If an element is missing or has to be chosen, the pixel size is unknown, image and shapes lie in different coordinate
        systems or are rotated or sheared against each other, the table annotates several slides, and as `hd.io.hest`.

    Examples
    --------
    >>> import tempfile, hisdiff_sd as hd
    >>> root = hd.datasets.synthetic(tempfile.mkdtemp(), slides=("S1",), size_um=(900, 800), mpp=1.0)
    >>> theirs = hd.io.hest(root, "S1")
    >>> theirs.attrs = {}  # as an object of another program
    >>> sdata = hd.io.adopt(theirs, slide="S1")
    >>> sdata.attrs["hisdiff_sd"]["mpp"]
    1.0
    """
    if keys.ATTRS in sdata.attrs:
        raise HisDiffError(f"this is a slide of hisdiff_sd already (it has attrs[{keys.ATTRS!r}]); use it as it is")
    given = None if mpp is None else check_mpp(mpp)
    found = picture(sdata, _only(sdata.images, image_key, "image"))
    size, source = (given, "given") if given is not None else micrometres(sdata, found.key)
    store = Path(str(sdata.path)).stem if sdata.is_backed() else found.key
    name = store if slide is None else slide
    if not name.strip():
        raise HisDiffError("slide= is empty; give an id, or leave it out")
    about = {"patient": patient, "species": species, "organ": organ}
    if table_key is None and not sdata.tables:
        record = slide_record(name, found.image, {"image": found.key}, mpp=size, mpp_source=source, about=about)
        return _bare(found, size, record)
    key = _only(sdata.tables, table_key, "table")
    table, shapes_key, rows = _annotated(sdata, key, layer)
    frame = in_pixels(sdata, shapes_key, found.key, coordinate_system)
    diameter, pitch = _geometry(frame, rows, size)
    return assemble(
        SlideParts(
            slide=name,
            image_path=f"image {found.key!r}",
            counts_path=f"table {key!r}",
            counts=table,
            xy=_places(frame, rows, table.obs_names),
            mpp=size,
            mpp_source=source,
            spot_diameter_um=diameter,
            spot_pitch_um=pitch,
            pitch_known=False,
            about=about,
            genes=genes,
            control_probes=control_probes,
            image=found.image,
            small=found.small,
        )
    )


def _only(there: Iterable[str], asked: str | None, what: str) -> str:
    """The element that is asked for, or the only one."""
    names = list(there)
    if asked is not None:
        return check_one_of(asked, names, what)
    if len(names) != 1:
        listed = ", ".join(map(repr, names)) or "none"
        raise HisDiffError(f"which {what} is meant? give {what}_key=; {what}s here: {listed}")
    return names[0]


def _bare(found: Picture, mpp: float, record: dict[str, Any]) -> SpatialData:
    from spatialdata import SpatialData

    return SpatialData(images={keys.HE: pyramid(found.image, mpp)}, attrs={keys.ATTRS: record})


def _annotated(sdata: SpatialData, key: str, layer: str | None) -> tuple[AnnData, str, pd.Index]:
    """Raw counts of a table, the shapes it annotates, and the instance of every row."""
    from anndata import AnnData

    table = sdata.tables[key]
    attrs = table.uns.get("spatialdata_attrs", {})
    region = attrs.get("region")
    regions = [region] if isinstance(region, str) else [str(r) for r in (region if region is not None else ())]
    if len(regions) != 1:
        what = (
            f"annotates {len(regions)} elements ({', '.join(regions)}), one slide each" if regions else "annotates none"
        )
        raise HisDiffError(
            f"table {key!r} {what}; it has to annotate the shapes of one slide: take them apart first, such as with "
            "spatialdata.filter_by_table_query"
        )
    if regions[0] not in sdata.shapes:
        raise HisDiffError(
            f"table {key!r} annotates {regions[0]!r}, which is no shapes element; shapes here: "
            f"{', '.join(map(repr, sdata.shapes)) or 'none'}; make circles of labels with spatialdata.to_circles"
        )
    if layer is not None:
        # anndata 0.13 lists X among the layers, as None
        check_one_of(layer, [name for name in table.layers if name], f"layer of table {key!r}")
    kept = table.obs.drop(columns=[attrs["region_key"], attrs["instance_key"]])
    counts = AnnData(table.X if layer is None else table.layers[layer], obs=kept, var=table.var)
    return counts, regions[0], pd.Index(table.obs[attrs["instance_key"]])


def _places(frame: GeoDataFrame, rows: pd.Index, names: pd.Index) -> pd.DataFrame:
    """Centres (x, y) of the rows of the table that have a shape, by the name of the row."""
    xy = pd.DataFrame({"x": frame.geometry.x, "y": frame.geometry.y})
    if not xy.index.is_unique:
        raise HisDiffError("the shapes name a place more than once; each needs its own index")
    there = rows.isin(xy.index)
    return xy.loc[rows[there]].set_axis(names[there].astype(str))


def _geometry(frame: GeoDataFrame, rows: pd.Index, mpp: float) -> tuple[float, float | None]:
    """Diameter and distance of the spots in um, as measured."""
    mine = frame[frame.index.isin(rows)]
    xy = np.column_stack([mine.geometry.x, mine.geometry.y])
    pitch = pitch_px(xy) * mpp if len(xy) >= FEWEST_FOR_PITCH else None
    return (2 * float(np.median(mine["radius"])) * mpp if len(mine) else 0.0), pitch
