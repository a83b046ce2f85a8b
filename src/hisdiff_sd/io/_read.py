"""Reading a store that others may be writing to."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from hisdiff_sd._errors import HisDiffError
from hisdiff_sd.io._atomic import recover
from hisdiff_sd.io._consolidated import METADATA

if TYPE_CHECKING:
    from spatialdata import SpatialData

_ATTEMPTS = 20


def read_store(store: Path) -> SpatialData:
    """Read a store; tables and shapes are those of one moment, whatever is replaced meanwhile.

    An element consists of many files, and they are read one after the other: what was read while one was replaced may be
    a mixture of two, and is read again.
    """
    import spatialdata

    recover(store)
    for _ in range(_ATTEMPTS):
        before = _stamp(store)
        try:
            sdata = spatialdata.read_zarr(store)
        except Exception:  # whatever a reader says of files that go away
            if _stamp(store) == before:
                raise
        else:
            if _stamp(store) == before:
                return sdata
    raise HisDiffError(f"{store} was changed again and again while it was read; wait until its writers are done")


def _stamp(store: Path) -> list[tuple[str, int, int]]:
    """Changes when an element is replaced, or the metadata of the root are written."""
    found = []
    for path in [store / METADATA, *sorted(store.glob("*/*/"))]:
        with suppress(FileNotFoundError):  # gone meanwhile
            status = path.stat()
            found.append((str(path), status.st_ino, status.st_mtime_ns if path.name == METADATA else 0))
    return found
