"""HDF5 files of others (h5ad, count matrices of 10x Genomics), looked at before anything in them is read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hisdiff_sd._errors import HisDiffError, reason

if TYPE_CHECKING:
    import h5py

# 2.7e5 bins x 18,000 genes in float32, dense; far more than spots of one slide take
_MOST_BYTES = 2**34


def check_hdf5(path: Path) -> None:
    """Refuse a file that claims more than memory holds, or that points into other files.

    Chunks that were never written take no room in a file and all of it in memory; and a dataset may be declared to lie in
    any other file of this computer, which would then be copied into a store and shared with it.
    """
    import h5py

    try:
        with h5py.File(path) as file:
            total = sum(_size(item, path) for item in _datasets(file, path))
    except HisDiffError:
        raise
    except Exception as error:  # a damaged file fails in many ways
        raise HisDiffError(f"{path} cannot be read as an HDF5 file ({reason(error)}); fetch it again") from error
    if total > _MOST_BYTES:
        raise HisDiffError(
            f"{path} claims to hold {total / 2**30:,.0f} GiB of numbers, at most {_MOST_BYTES / 2**30:g} GiB are read; no "
            "slide has that many counts: fetch it again"
        )


def _datasets(file: h5py.File, path: Path) -> list[h5py.Dataset]:
    """All datasets of a file; links into other files are refused."""
    import h5py

    found: list[h5py.Dataset] = []

    def look(name: str, link: object) -> str | None:
        if isinstance(link, h5py.ExternalLink):
            return f"{path}: {name!r} lies in another file ({link.filename}); it is not followed"
        item = file[name] if isinstance(link, h5py.HardLink) else None
        if isinstance(item, h5py.Dataset):
            found.append(item)
        return None

    refused = file.visititems_links(look)  # ends at the first that is returned
    if refused is not None:
        raise HisDiffError(refused)
    return found


def _size(item: h5py.Dataset, path: Path) -> int:
    """Bytes of a dataset in memory; text counts with a pointer only."""
    if item.external or item.is_virtual:
        raise HisDiffError(f"{path}: the values of {item.name!r} lie in another file; they are not read")
    return int(item.size or 0) * int(item.dtype.itemsize)
