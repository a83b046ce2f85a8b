"""How the pixels of a store are packed: without loss, and so that every reader of zarr can open them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from hisdiff_sd._errors import check_one_of

if TYPE_CHECKING:
    from spatialdata import SpatialData

# JPEG and JPEG-XL pack several times better, but as chunks of zarr they need a codec that has to be registered: whoever
# opens such a store without it gets UnknownCodecError
_BLOSC = {"blosc-zstd": ("zstd", "bitshuffle"), "blosc-lz4": ("lz4", "shuffle")}
COMPRESSIONS = ("zstd", *_BLOSC)


def check_compression(name: str) -> None:
    """Refuse a compression that there is not."""
    check_one_of(name, COMPRESSIONS, "compression")


def codec_of(name: str) -> Any:
    """The zarr codec of a compression."""
    from zarr.codecs import BloscCodec, ZstdCodec

    if name == "zstd":
        return ZstdCodec()
    library, shuffle = _BLOSC[name]
    return BloscCodec(cname=library, shuffle=shuffle)


def write_compressed(sdata: SpatialData, path: Path, name: str) -> None:
    """Write a SpatialData that has no store of its own, its images packed as said."""
    import zarr

    if name == "zstd":  # which is what everything else is packed with too
        sdata.write(path)
        return
    # spatialdata's own way to choose a codec is not in 0.7, and 0.8 offers others
    from spatialdata._io import write_image

    images = dict(sdata.images)
    for key in images:
        del sdata.images[key]
    sdata.write(path)
    root = zarr.open_group(path, mode="r+", use_consolidated=False)
    for key, image in images.items():
        group = root.require_group(f"images/{key}")
        write_image(image, group, key, storage_options={"compressor": codec_of(name)})
    zarr.consolidate_metadata(path)
