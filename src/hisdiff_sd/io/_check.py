from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import pandas as pd

from hisdiff_sd._errors import HisDiffError, MissingFileError
from hisdiff_sd._remote import is_url
from hisdiff_sd.io._atomic import locked
from hisdiff_sd.io._check_elements import chunks, link, pyramid, record, rows
from hisdiff_sd.io._check_files import Finding, leftovers, listing
from hisdiff_sd.io._consolidated import METADATA, unreadable

if TYPE_CHECKING:
    from spatialdata import SpatialData

_COLUMNS = ["severity", "where", "problem", "way_out", "repaired"]


def check(path: str | Path, *, repair: bool = False, deep: bool = False) -> pd.DataFrame:
    """Check a store, and put right what can be put right without losing anything.

    What a killed process left is found, whether this package wrote it or another program: half-written elements, elements
    that the metadata do not name or that they name and that are not there, temporary folders and locks with their owner
    and age. Elements are read; rows of tables are looked up in the shapes they annotate; the levels of the image must lie
    on each other; an image that the store is linked to must be there.

    Parameters
    ----------
    path
        A store on disk.
    repair
        Finish or remove what killed processes left, name in the metadata what is complete, and set aside what is half
        written or cannot be read, in the hidden folder beside the store. Nothing that may be complete is deleted;
        partial results of `hd.pp.embed` and `hd.tl.predict` are kept, as the same call goes on from them.
    deep
        Decode every chunk of every image as well, which takes as long as reading the slide.

    Returns
    -------
    A row per finding, none if all is well:

    ========= ===========================================================================================
    severity  ``"error"``: the store or an element cannot be used; ``"warning"``: it can, but something is
              amiss; ``"note"``: nothing to be done
    where     the element, or the file
    problem   what was found
    way_out   what to do
    repaired  whether it was put right
    ========= ===========================================================================================

    Raises
    ------
    MissingFileError
        If there is no store.
    HisDiffError
        If `path` is no store on disk; with `repair`, if a process is writing to it, or it may not be written to.

    Examples
    --------
    >>> import tempfile, hisdiff_sd as hd
    >>> folder = tempfile.mkdtemp()
    >>> root = hd.datasets.synthetic(folder, slides=("S1",), size_um=(900, 800), mpp=1.0)
    >>> sdata = hd.io.write(hd.io.hest(root, "S1"), folder + "/S1.zarr")
    >>> len(hd.io.check(folder + "/S1.zarr"))
    0
    """
    store = _store_at(path)
    found = []
    with ExitStack() as held:
        if repair:
            held.enter_context(locked(store, seconds=0))
        hollow = Path(held.enter_context(TemporaryDirectory()))
        for finding in _findings(store, hollow, deep=deep, repairing=repair):
            if repair and finding.mend is not None:
                finding.mend()
                finding.repaired = True
            found.append(finding)
    return pd.DataFrame([[getattr(f, column) for column in _COLUMNS] for f in found], columns=_COLUMNS)


def _store_at(path: str | Path) -> Path:
    if is_url(path):
        raise HisDiffError(f"{path} is not on this machine; check the store where it lies")
    store = Path(path).resolve()
    if not store.exists():
        raise MissingFileError(f"no store {path}; write one with hd.io.write")
    if (store / ".zgroup").is_file():
        raise HisDiffError(
            f"{path} is a store of zarr format 2; write the slide to a new one: hd.io.write(sdata, path)"
        )
    if not (store / METADATA).is_file():
        raise HisDiffError(f"{path} is no zarr store: it has no {METADATA}")
    return store


def _findings(store: Path, hollow: Path, *, deep: bool, repairing: bool) -> Iterator[Finding]:
    """Everything that is amiss; what is mended meanwhile is not found again by what follows."""
    if (why := unreadable(store)) is not None:
        problem = f"cannot be read ({why}): no reader opens the store, and what it says of its slide was in there"
        rescue = "the tables can be read one by one with anndata.read_zarr"
        yield Finding("error", METADATA, problem, f"convert the slide again; {rescue}")
        return
    yield from list(leftovers(store, repairing=repairing))  # mending one of them removes others
    readable: dict[str, SpatialData] = {}
    yield from listing(store, hollow, readable)
    yield from record(store)
    yield from link(store)
    yield from rows(readable)
    yield from pyramid(readable)
    if deep:
        yield from chunks(store, readable)
