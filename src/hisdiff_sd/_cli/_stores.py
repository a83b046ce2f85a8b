"""Stores as a command line names them, and what their metadata say without opening them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hisdiff_sd import _keys as keys
from hisdiff_sd._errors import HisDiffError, MissingFileError
from hisdiff_sd._remote import is_url

if TYPE_CHECKING:
    from distributed import Client


def stores_of(words: Sequence[str], *, damaged: bool = False) -> list[str]:
    """Paths of stores; a folder stands for the stores in it, a URL for itself.

    If they may be `damaged`, their names alone say that they are stores.
    """

    def is_one(path: str | Path) -> bool:
        return is_store(path) or (damaged and Path(path).suffix == ".zarr" and Path(path).is_dir())

    found: list[str] = []
    for word in words:
        if is_url(word):
            found.append(word)
        elif is_one(word):
            found.append(str(Path(word)))  # without a trailing slash, by which it would be another
        elif Path(word).is_dir():
            inside = sorted(str(p) for p in Path(word).glob("*.zarr") if is_one(p))
            if not inside:
                raise MissingFileError(f"{word} is no store and has no stores (*.zarr) in it; make some with convert")
            found += inside
        else:
            raise MissingFileError(f"no store {word}; {_there(Path(word))}")
    return list(dict.fromkeys(found))


def is_store(path: str | Path) -> bool:
    """Whether a folder is a zarr store."""
    return any((Path(path) / name).is_file() for name in ("zarr.json", ".zgroup"))


def elements_of(store: str | Path) -> set[str]:
    """Names such as ``tables/spots_uni`` of what is in a store; none if its metadata cannot be read."""
    try:
        names = json.loads((Path(store) / "zarr.json").read_text())["consolidated_metadata"]["metadata"]
    except (OSError, ValueError, KeyError, TypeError):
        return set()
    return {name for name in names if name.count("/") == 1}


def slide_of(store: str | Path) -> str:
    """Id of the slide of a store; the name of the store if it does not say."""
    try:
        attributes: dict[str, Any] = json.loads((Path(store) / "zarr.json").read_text())["attributes"]
        return str(attributes[keys.ATTRS]["slide"])
    except (OSError, ValueError, KeyError, TypeError):
        return Path(store).stem


@contextmanager
def workers(n: int) -> Iterator[Client | None]:
    """A client of so many worker processes on this machine; None for one: then this process does the work."""
    if n < 1:
        raise HisDiffError(f"--workers {n} cannot work; give 1 or more")
    if n == 1:
        yield None
        return
    from distributed import Client, LocalCluster

    threads = max(1, (os.cpu_count() or 1) // n)
    cluster = LocalCluster(n_workers=n, threads_per_worker=threads, dashboard_address=None)
    try:
        with Client(cluster) as client:
            yield client
    finally:
        with suppress(TimeoutError):  # workers of a busy machine end late; what they have done is done
            cluster.close()


def _there(path: Path) -> str:
    """What stores lie where one was looked for."""
    names = sorted(p.name for p in path.parent.glob("*.zarr")) if path.parent.is_dir() else []
    if not names:
        return f"no stores lie in {path.parent}; make some with convert"
    return f"stores in {path.parent}: {', '.join(names[:10])}{' ...' * (len(names) > 10)}"
