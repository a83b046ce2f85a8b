"""Stores without pixels: those stay in the image that the slide was read from, and the store says where that is."""

from __future__ import annotations

import json
import os
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hisdiff_sd import _keys as keys
from hisdiff_sd._errors import HisDiffError, MissingFileError
from hisdiff_sd.io import _fingerprint as fingerprint
from hisdiff_sd.io._atomic import locked
from hisdiff_sd.io._consolidated import METADATA, attributes_of, put
from hisdiff_sd.io._image import CHUNK, file_kind, levels_of, open_image, pyramid, true_size

if TYPE_CHECKING:
    import dask.array as da
    from spatialdata import SpatialData

LINK = "link"  # key of attrs["hisdiff_sd"]
_WHITE = 255
_FROM = 2  # levels that are left out: they have 15 of 16 pixels


def link_to(image: Path, store: Path) -> dict[str, Any]:
    """What a store keeps of the image that its pixels are in."""
    file = image.resolve()
    return {
        "path": str(file),
        # for cohorts that are moved together with their images
        "relative": os.path.relpath(file, store.resolve().parent),
        "fingerprint": fingerprint.of_file(file),
    }


def linked(sdata: SpatialData, image: Path, store: Path) -> SpatialData:
    """The slide with the small levels of its image only, and a link to the file with the others."""
    from spatialdata import SpatialData
    from spatialdata.models import Image2DModel
    from spatialdata.transformations import Scale

    if file_kind(image) == "flat":
        raise HisDiffError(
            f"{image} has to be decoded as a whole, so a store cannot be linked to it; convert this slide without link=True"
        )
    levels = [level.data for level in levels_of(sdata[keys.HE])]
    first = min(_FROM, len(levels) - 1)
    attrs = sdata.attrs[keys.ATTRS]
    side, mpp = float(2**first), float(attrs["mpp"])
    small = Image2DModel.parse(
        levels[first],
        dims=("c", "y", "x"),
        c_coords=["r", "g", "b"],
        scale_factors=[2] * (len(levels) - first - 1) or None,
        chunks=(3, CHUNK, CHUNK),
        transformations={
            "global": Scale([side, side], axes=("x", "y")),
            "microns": Scale([side * mpp, side * mpp], axes=("x", "y")),
        },
    )
    images = {name: image for name, image in sdata.images.items() if name != keys.HE}
    return SpatialData(
        images={**images, keys.HE_SMALL: small},
        labels=dict(sdata.labels),
        points=dict(sdata.points),
        shapes=dict(sdata.shapes),
        tables=dict(sdata.tables),
        attrs={**sdata.attrs, keys.ATTRS: {**attrs, LINK: link_to(image, store)}},
    )


def with_pixels(sdata: SpatialData, store: Path) -> SpatialData:
    """Give a slide whose store is linked to an image the lazy pixels of it; others stay as they are."""
    import dask.array as da

    attrs = sdata.attrs.get(keys.ATTRS, {})
    if LINK not in attrs or keys.HE in sdata.images or keys.HE_SMALL not in sdata.images:
        return sdata
    file = find_image(attrs[LINK], store, str(attrs["slide"]))
    size = true_size(_opened(str(file), file.stat().st_mtime_ns))
    if list(size) != list(attrs["true_size"]):
        raise HisDiffError(f"{store} is linked to an image of another size; {_way_out(store)}")
    whole = pyramid(_lazy(file, size), float(attrs["mpp"]))
    nodes = [next(iter(node.values())) for node in whole.children.values()] if hasattr(whole, "children") else [whole]
    small = [level.data for level in levels_of(sdata.images[keys.HE_SMALL])]
    nodes[0].data = _lazy(file, nodes[0].shape[1:])  # padded while it is read, so that tiles are cut from the file
    # what was averaged once is not averaged anew
    for node, data in zip(nodes[len(nodes) - len(small) :], small, strict=True):
        node.data = da.asarray(data)
    sdata.images[keys.HE] = whole
    return sdata


def _lazy(file: Path, size: tuple[int, int]) -> da.Array:
    """Level 0 of an image file, white beyond its edges."""
    import dask.array as da

    from hisdiff_sd.tiles import Windows

    read = partial(_read_window, str(file), file.stat().st_mtime_ns)
    return da.from_array(Windows(read, size), chunks=(3, CHUNK, CHUNK), fancy=False)


def _read_window(file: str, changed: int, y: int, x: int, height: int, width: int) -> np.ndarray:
    """A window of an image file, uint8 (height, width, 3)."""
    part = _opened(file, changed)[:, y : y + height, x : x + width].compute(scheduler="synchronous")
    if part.shape[1:] == (height, width):
        return part.transpose(1, 2, 0)
    window = np.full((height, width, 3), _WHITE, np.uint8)
    window[: part.shape[1], : part.shape[2]] = part.transpose(1, 2, 0)
    return window


@lru_cache(maxsize=8)
def _opened(file: str, changed: int) -> da.Array:
    """One open file per process, whichever slide or thread asks for it."""
    return open_image(Path(file))


def read_link(store: Path) -> dict[str, Any] | None:
    """Where the pixels of a store are; None if they are in it."""
    if (store / "images" / keys.HE).exists():  # one that was written anew, with its pixels, from a linked one
        return None
    return attributes_of(store)[keys.ATTRS].get(LINK)  # type: ignore[no-any-return]


def point_to(store: Path, image: Path) -> None:
    """Have a linked store look for its pixels in a file that has moved."""
    with locked(store):
        content = json.loads((store / METADATA).read_text())
        content["attributes"][keys.ATTRS][LINK] = link_to(image, store)
        put(store, json.dumps(content, indent=1))


def find_image(link: dict[str, Any], store: Path, slide: str) -> Path:
    """The image, where it was or where it lies now as seen from the store."""
    places = [Path(link["path"]), (store.resolve().parent / link["relative"]).resolve()]
    for place in places:
        if place.is_file():
            if fingerprint.of_file(place) != link["fingerprint"]:
                raise HisDiffError(
                    f"{place} is not the image that {store} was made from: put that one back, or {_way_out(store)}"
                )
            return place
    raise MissingFileError(
        f"the pixels of slide {slide!r} are not in {store} but in {places[0]}, which is gone. If the image has moved, convert "
        f"it again from where it is now: hd.io.convert(<its folder or sample sheet>, {str(store.parent)!r}, link=True) "
        "keeps the store and renews the link. What is in the store besides can be read with spatialdata.read_zarr"
    )


def _way_out(store: Path) -> str:
    return f"convert the slide again with overwrite=True, by which the tables that were added to {store.name} are lost"
