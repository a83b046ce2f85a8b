"""The one writer of stores and of the tables and shapes that are added to them."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hisdiff_sd import _keys as keys
from hisdiff_sd._errors import HisDiffError, check_slide_object, reason
from hisdiff_sd.io._atomic import locked, move_in, staged
from hisdiff_sd.io._codecs import check_compression, write_compressed
from hisdiff_sd.io._record import check_record

if TYPE_CHECKING:
    from anndata import AnnData
    from geopandas import GeoDataFrame
    from spatialdata import SpatialData
    from xarray import DataArray

_LONGEST_NAME = 200  # bytes; file systems take 255
_KINDS = {"tables": "a table", "shapes": "shapes", "images": "an image"}  # how messages call an element


def write(sdata: SpatialData, path: str | Path, *, overwrite: bool = False, compression: str = "zstd") -> SpatialData:
    """Write a slide to a zarr store, whole or not at all.

    The store is built beside `path` and moved in when it is complete, so that nobody ever sees a half.

    Parameters
    ----------
    sdata
        A slide, as the readers of `hd.io` return it.
    path
        Where the store shall be, such as ``"stores/SPA148.zarr"``.
    overwrite
        Replace a store that is there.
    compression
        How the pixels of images are packed, without loss: ``"zstd"``; ``"blosc-zstd"`` (bits shuffled first), a little
        smaller; or ``"blosc-lz4"``, larger and quicker.

    Returns
    -------
    The slide, read back from the store by ``spatialdata.read_zarr`` (pixels lazily).

    Raises
    ------
    HisDiffError
        If `path` exists and `overwrite` is false, is no store, or cannot be written to, or there is no such compression.

    Examples
    --------
    >>> import tempfile, hisdiff_sd as hd
    >>> folder = tempfile.mkdtemp()
    >>> root = hd.datasets.synthetic(folder + "/hest", slides=("S1",), size_um=(900, 800), mpp=1.0)
    >>> sdata = hd.io.write(hd.io.hest(root, "S1"), folder + "/S1.zarr")
    >>> sdata.is_backed()
    True
    """
    return write_checked(sdata, path, overwrite, compression)


def write_checked(
    sdata: SpatialData,
    path: str | Path,
    overwrite: bool = False,
    compression: str = "zstd",
    check: Callable[[SpatialData], None] | None = None,
) -> SpatialData:
    """As `write`; `check` is called on what was written, before it is moved in, and raises if it is not good."""
    import spatialdata

    check_compression(compression)
    target = Path(path).resolve()
    _check_free(target, overwrite)
    try:
        with staged(target) as build:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)
                # a subset without a store of its own: writing must not re-point the caller's object
                # (unfiltered, for tables of other tools that annotate nothing)
                write_compressed(sdata.subset(_element_names(sdata), filter_tables=False), build, compression)
                if check is not None:
                    check(spatialdata.read_zarr(build))
            with locked(target):
                _check_free(target, overwrite)
                move_in(build, target)
    except HisDiffError:
        raise
    except Exception as error:  # pixels are read while they are written: whatever a damaged file raises
        raise HisDiffError(f"writing {target} failed ({reason(error)}); nothing was changed there") from error
    return spatialdata.read_zarr(target)


def write_table(sdata: SpatialData, name: str, table: AnnData, *, overwrite: bool = False) -> None:
    """Add a table to a slide, and to its store if it has one, atomically.

    Parameters
    ----------
    sdata
        The slide; changed in place.
    name
        Name of the table.
    table
        A table that ``TableModel.parse`` returned.
    overwrite
        Replace a table of that name.

    Raises
    ------
    HisDiffError
        If the name cannot be used, the table is there (in the object or in its store) and `overwrite` is false, or the
        store cannot be written to.
    """
    _add(sdata, "tables", name, table, overwrite)


def write_shapes(sdata: SpatialData, name: str, shapes: GeoDataFrame, *, overwrite: bool = False) -> None:
    """Add shapes to a slide, and to its store if it has one, atomically.

    Parameters
    ----------
    sdata
        The slide; changed in place.
    name
        Name of the shapes.
    shapes
        Shapes that ``ShapesModel.parse`` returned.
    overwrite
        Replace shapes of that name.

    Raises
    ------
    HisDiffError
        If the name cannot be used, the shapes are there (in the object or in its store) and `overwrite` is false, or the
        store cannot be written to.
    """
    _add(sdata, "shapes", name, shapes, overwrite)


def write_image(sdata: SpatialData, name: str, image: DataArray, *, overwrite: bool = False) -> None:
    """Add an image to a slide, and to its store if it has one, atomically.

    Parameters
    ----------
    sdata
        The slide; changed in place.
    name
        Name of the image.
    image
        An image that ``Image2DModel.parse`` returned.
    overwrite
        Replace an image of that name.

    Raises
    ------
    HisDiffError
        If the name cannot be used, the image is there (in the object or in its store) and `overwrite` is false, or the
        store cannot be written to.
    """
    _add(sdata, "images", name, image, overwrite)


def check_table_name(sdata: SpatialData, name: str) -> None:
    """Refuse a name that a table of this slide cannot have, before any work is put into the table."""
    _check_name(sdata, "tables", name)


def check_image_name(sdata: SpatialData, name: str) -> None:
    """Refuse a name that an image of this slide cannot have, before any work is put into it."""
    _check_name(sdata, "images", name)


def check_shapes_name(sdata: SpatialData, name: str) -> None:
    """Refuse a name that shapes of this slide cannot have, before any work is put into them."""
    _check_name(sdata, "shapes", name)


def check_writable(sdata: SpatialData) -> None:
    """Refuse a slide whose store cannot be written to, before any work is put into a table."""
    if not sdata.is_backed():
        return
    store = Path(str(sdata.path)).resolve()
    closed = [p for p in (store, store.parent) if not os.access(p, os.W_OK)]
    if closed:
        raise HisDiffError(
            f"{closed[0]} may not be written to; open the slide with a companion that takes the results: "
            f"hd.io.open({str(store)!r}, companion={'mine/' + store.name!r})"
        )


def slide_attrs(sdata: SpatialData) -> dict[str, Any]:
    """What the store says of its slide (``sdata.attrs["hisdiff_sd"]``)."""
    check_slide_object(sdata)
    return check_attrs(sdata.attrs)


def check_attrs(of_store: Mapping[str, Any]) -> dict[str, Any]:
    """The same from the attributes of a store."""
    attrs = of_store.get(keys.ATTRS)
    if not isinstance(attrs, dict):
        raise HisDiffError(
            "this SpatialData was not made by hisdiff_sd.io (no attrs['hisdiff_sd']): its pixel size is not known; "
            "read the slide with hd.io.hest, hd.io.visium or hd.io.wsi, or bring it with hd.io.adopt"
        )
    if (problem := schema_problem(attrs)) is not None:
        raise HisDiffError(problem)
    check_record(attrs)
    return attrs


def schema_problem(attrs: dict[str, Any]) -> str | None:
    """Why a slide of this layout cannot be worked with; None if it can."""
    found = attrs.get("schema")
    if found == keys.SCHEMA_VERSION:
        return None
    newer = isinstance(found, int) and found > keys.SCHEMA_VERSION
    way_out = "upgrade hisdiff_sd" if newer else "read the slide again from its files and write it with hd.io.write"
    return f"the store has schema version {found}, this version of hisdiff_sd reads {keys.SCHEMA_VERSION}; {way_out}"


def _check_name(sdata: SpatialData, kind: str, name: str) -> None:
    refused = f"{name!r} cannot be the name of {_KINDS[kind]}"
    if not re.fullmatch(r"(?!__)(?!\.*$)[\w.-]+", name):
        raise HisDiffError(f"{refused}: letters, digits, '_', '.' and '-' can be used, no '__' in front")
    if len(name.encode()) > _LONGEST_NAME or keys.RESERVED.fullmatch(name):
        raise HisDiffError(
            f"{refused}: it is longer than {_LONGEST_NAME} bytes, or a name that zarr or Windows keep for themselves"
        )
    for there, other, _ in sdata.gen_elements():
        if other.lower() == name.lower() and (there != kind or other != name):
            raise HisDiffError(f"{refused}: the slide has {there} {other!r}; choose another")


def _add(
    sdata: SpatialData, kind: str, name: str, element: AnnData | GeoDataFrame | DataArray, overwrite: bool
) -> None:
    """Add one element to a slide and to its store."""
    _check_name(sdata, kind, name)
    elements = getattr(sdata, kind)
    if name in elements and not overwrite:
        raise HisDiffError(f"the slide has {_KINDS[kind]} {name!r} already; give overwrite=True to replace it")
    if sdata.is_backed() and sdata.path is not None:
        _write_to_store(Path(str(sdata.path)).resolve(), kind, name, element, overwrite)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # "key exists, overwriting" is what was asked for
        elements[name] = element


def _write_to_store(
    store: Path, kind: str, name: str, element: AnnData | GeoDataFrame | DataArray, overwrite: bool
) -> None:
    import zarr
    from spatialdata import SpatialData

    if not store.exists():
        raise HisDiffError(f"the store {store} of this slide is gone; write it again with hd.io.write")
    if not (store / "zarr.json").is_file():
        raise HisDiffError(
            f"{store} is a store of zarr format 2, which spatialdata does not write any more; write the slide to a new one: "
            "hd.io.write(sdata, path)"
        )
    called = f"{_KINDS[kind]} {name!r}"
    try:
        with staged(store) as build:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # a staged table annotates shapes that are elsewhere
                if kind == "tables":
                    _stage_table(build, name, element)
                else:
                    SpatialData(**{kind: {name: element}}).write(build, consolidate_metadata=False)
            with locked(store):
                if not overwrite and (store / kind / name).exists():
                    raise HisDiffError(
                        f"another process has written {called} into {store}; read the store again to use it, or "
                        "give overwrite=True to replace it"
                    )
                zarr.open_group(store, mode="r+", use_consolidated=False).require_group(kind)
                move_in(build, store, f"{kind}/{name}")
    except HisDiffError:
        raise
    except Exception as error:
        raise HisDiffError(f"writing {called} into {store} failed ({reason(error)}); the store is as it was") from error


def _stage_table(build: Path, name: str, table: AnnData) -> None:
    """Write the files of a table.

    Zarr takes some 300 small steps for one, and each waits for a thread when it goes to the disk: in memory first, and
    its few files in one go, a table is written in a third of the time.
    """
    import zarr
    from spatialdata._io import write_table as write_to_group

    files: dict[str, Any] = {}
    write_to_group(table, zarr.open_group(zarr.storage.MemoryStore(files), mode="w").require_group("tables"), name)
    for key, content in files.items():
        file = build / key
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content.to_bytes())


def _element_names(sdata: SpatialData) -> list[str]:
    return [name for _, name, _ in sdata.gen_elements()]


def _check_free(target: Path, overwrite: bool) -> None:
    if target.exists() and not any((target / name).is_file() for name in ("zarr.json", ".zgroup")):
        raise HisDiffError(f"{target} exists and is no zarr store; it is not replaced: choose another path")
    if target.exists() and not overwrite:
        raise HisDiffError(
            f"{target} exists already; give overwrite=True to replace it, or read it with spatialdata.read_zarr"
        )
