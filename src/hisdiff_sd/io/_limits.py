"""Sizes that no slide has and no memory holds: refused by what the header says, before a pixel is decoded."""

from __future__ import annotations

from pathlib import Path

from hisdiff_sd._errors import HisDiffError

# 26,754 x 26,754 px as RGB; Pillow takes three to four times as much while it decodes
MOST_BYTES_AT_ONCE = 2**31
# a whole glass slide (25 x 75 mm) at 0.1 um per px has 1.9e11
_MOST_PIXELS = 2 * 10**11


def check_size(path: Path, height: int, width: int) -> None:
    """Refuse an image without pixels, or with more than a slide can have."""
    if min(height, width) < 1:
        raise HisDiffError(f"{path} is {width} x {height} px large, so it holds no image; fetch it again")
    if height * width > _MOST_PIXELS:
        raise HisDiffError(
            f"{path} claims to be {width} x {height} px large, more than a whole glass slide at 0.1 um per px; "
            "its header is damaged: fetch it again"
        )


def check_piece(path: Path, height: int, width: int, what: str) -> None:
    """Refuse what can only be decoded as a whole and would fill the memory."""
    n_bytes = height * width * 3
    if n_bytes > MOST_BYTES_AT_ONCE:
        raise HisDiffError(
            f"{path} has to be decoded {what} of {width} x {height} px, {n_bytes / 2**30:.1f} GiB, at most "
            f"{MOST_BYTES_AT_ONCE / 2**30:g} GiB are allowed; convert it to a tiled TIFF first: "
            f"vips tiffsave {path.name} {path.stem}.tiled.tif --tile --pyramid --bigtiff --compression deflate"
        )
