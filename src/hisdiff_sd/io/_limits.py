"""Sizes that no slide has and no memory holds: refused by what the header says, before a pixel is decoded."""

from __future__ import annotations

from pathlib import Path

from hisdiff_sd._errors import HisDiffError, reason

# 26,754 x 26,754 px as RGB; Pillow takes three to four times as much while it decodes
MOST_BYTES_AT_ONCE = 2**31
# a whole glass slide (25 x 75 mm) at 0.1 um per px has 1.9e11
_MOST_PIXELS = 2 * 10**11
# the bins of 2 um of Visium HD are 1.1e7, the corners of the cells of a large Xenium slide some 2e7
_MOST_ROWS = 2**28


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


def check_rows(path: Path, *, by_part: bool = False) -> None:
    """Refuse a parquet file with more rows than are read at once: all of them, or those of one row group."""
    import pyarrow.parquet as pq

    try:
        found = pq.read_metadata(path)
        parts = [found.row_group(i).num_rows for i in range(found.num_row_groups)]
    except Exception as error:  # a damaged file fails in many ways
        raise HisDiffError(f"{path} cannot be read as a parquet file ({reason(error)}); copy it again") from error
    rows = max(parts, default=0) if by_part else sum(parts)
    if rows > _MOST_ROWS:
        raise HisDiffError(f"{path} claims {rows:,} rows, at most {_MOST_ROWS:,} are read at once; copy it again")
