"""Slides are given as objects or as paths of stores; both are opened here."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hisdiff_sd._errors import HisDiffError, MissingFileError
from hisdiff_sd.io._link import with_pixels
from hisdiff_sd.io._read import read_store
from hisdiff_sd.io._store import slide_attrs

if TYPE_CHECKING:
    from spatialdata import SpatialData

_OF_A_STORE = ("zarr.json", ".zgroup", ".zattrs")


def open_slide(slide: SpatialData | str | Path) -> SpatialData:
    """The slide itself, read from its store if a path is given; that of a companion with the store it belongs to."""
    from hisdiff_sd.io._open import with_source  # which needs this module itself

    sdata = open_without_pixels(slide)
    return sdata if sdata is slide else with_source(with_pixels(sdata, Path(str(slide))), Path(str(slide)))


def open_without_pixels(slide: SpatialData | str | Path) -> SpatialData:
    """The same for what needs no pixels: of a store that is linked to an image, the image may be gone."""
    import spatialdata

    if isinstance(slide, spatialdata.SpatialData):
        return slide
    if not isinstance(slide, str | Path):
        raise HisDiffError(f"a slide (SpatialData) or the path of its store is needed, not {type(slide).__name__}")
    path = Path(slide)
    if not path.exists():
        raise MissingFileError(f"no store {path}; write one with hd.io.write")
    if not any((path / name).exists() for name in _OF_A_STORE) and (inside := sorted(path.glob("*.zarr"))):
        raise HisDiffError(f"{path} is a folder of stores, and not one: give one of them, such as {inside[0]}")
    try:
        return read_store(path)
    except Exception as error:
        raise HisDiffError(f"{path} cannot be read as a SpatialData store: {error or type(error).__name__}") from error


def slide_name(sdata: SpatialData) -> str:
    """Id of the slide."""
    return str(slide_attrs(sdata)["slide"])
