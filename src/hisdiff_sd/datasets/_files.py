"""Writes a slide the way HEST-1k lays it out."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import tifffile
from PIL import Image

if TYPE_CHECKING:
    from pathlib import Path

    import anndata as ad
    from numpy.typing import NDArray

TABLE = "HEST_v1_1_0.csv"
FOLDERS = ("wsis", "st", "metadata", "thumbnails", "truth")
EXTRA_FOLDERS = ("patches", "tissue_seg", "cellvit_seg", "xenium_seg", "transcripts")
MAP = "_map.h5ad"  # ends the name of the file with the truth of a whole section

_TILE = 256
_THUMBNAIL = 1000  # longest edge


def write_image(path: Path, image: NDArray[np.uint8], mpp: float, compression: str) -> None:
    """A pyramidal, tiled BigTIFF: every level half the one before, until a level fits into a tile."""
    options: dict[str, Any] = {"photometric": "rgb", "compression": "zlib", "predictor": True}
    if compression == "jpeg":  # tifffile turns RGB into the YCbCr that JPEG TIFFs hold
        options = {"photometric": "rgb", "compression": "jpeg", "compressionargs": {"level": 88}}
    with tifffile.TiffWriter(path, bigtiff=True) as tiff:
        level, number = image, 0
        while number == 0 or max(level.shape[:2]) >= _TILE:
            tiff.write(
                level,
                tile=(_TILE, _TILE),
                subfiletype=int(number > 0),
                resolution=(1e4 / (mpp * 2**number), 1e4 / (mpp * 2**number)),
                resolutionunit="CENTIMETER",
                metadata=None,
                software=False,
                **options,
            )
            level, number = _half(level), number + 1


def thumbnail(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The slide with a longest edge of 1000 px, or as it is if it is smaller."""
    height, width = image.shape[:2]
    scale = min(1.0, _THUMBNAIL / max(height, width))
    size = (round(width * scale), round(height * scale))
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BOX))


def write_thumbnail(path: Path, small: NDArray[np.uint8]) -> None:
    """JPEG."""
    Image.fromarray(small).save(path, quality=90)


def write_counts(
    path: Path, counts: ad.AnnData, small: NDArray[np.uint8], scale: float, spot_diameter_px: float
) -> None:
    """The h5ad of a slide, with the thumbnail where scanpy and squidpy look for it."""
    counts.uns["spatial"] = {
        "ST": {
            "images": {"downscaled_fullres": small},
            "scalefactors": {
                "spot_diameter_fullres": spot_diameter_px,
                "tissue_downscaled_fullres_scalef": scale,
            },
        }
    }
    counts.write_h5ad(path)


def write_metadata(path: Path, record: dict[str, Any]) -> None:
    """One flat JSON object."""
    path.write_text(json.dumps(record, indent=1), encoding="utf-8")


def write_table(path: Path, records: list[dict[str, Any]]) -> None:
    """The table of all slides, UTF-8 with BOM."""
    pd.DataFrame(records).to_csv(path, index=False, encoding="utf-8-sig")


def _half(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Mean of 2 x 2 pixels; an odd last row or column is left out, as HEST's levels do."""
    height, width = (n // 2 * 2 for n in image.shape[:2])
    return np.asarray(Image.fromarray(image[:height, :width]).reduce(2))
