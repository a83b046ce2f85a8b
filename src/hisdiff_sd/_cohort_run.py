"""One slide of a cohort: opened, worked on, measured; whatever goes wrong becomes a row of the report."""

from __future__ import annotations

import logging
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dask

from hisdiff_sd import _keys as keys

logger = logging.getLogger("hisdiff_sd")

_METADATA = ("zarr.json", ".zmetadata")  # of a store's root; every write of the package makes them anew
_FOR_DEVELOPERS = (DeprecationWarning, PendingDeprecationWarning, FutureWarning, ImportWarning, ResourceWarning)


@dataclass(frozen=True)
class Task:
    """A store to work on; nothing but text, so that it travels.

    Attributes
    ----------
    store
        The path as the user gave it.
    path
        The absolute path.
    companion
        Absolute path of its companion, if it has one.
    """

    store: str
    path: str
    companion: str | None = None

    @property
    def target(self) -> Path:
        """Where results are written."""
        return Path(self.companion or self.path)

    def open(self) -> tuple[Any, str]:
        """What the function is called on, and the id of the slide."""
        from hisdiff_sd.io import open as open_store

        sdata = open_store(self.path, self.companion)
        return sdata, str(sdata.attrs.get(keys.ATTRS, {}).get("slide", ""))

    def kept_images(self) -> set[str]:
        """Images of the target that stay as they are: most of its files, which need not be counted."""
        with suppress(OSError):
            return set(os.listdir(self.target / "images"))
        return set()


@dataclass
class Row:
    """What became of a store; the fields are the columns of the report."""

    store: str
    slide: str = ""
    status: str = "failed"
    seconds: float = float("nan")
    peak_mib: float = float("nan")
    bytes_added: int = 0
    error: str = ""
    warnings: str = ""


def run_task(function: Callable[..., Any], task: Task, options: dict[str, Any]) -> Row:
    """Open what a task names, call the function on it, and say what came of it."""
    row = Row(task.store)
    images = task.kept_images()
    before = _bytes(task.target, images)
    start = time.perf_counter()
    # lazy arrays are computed here, even where a dask client is the default
    with _heard() as texts, dask.config.set(scheduler="threads"):
        try:
            opened, row.slide = task.open()
            there = _stamp(task.target)
            function(opened, **options)
            row.status = "skipped" if _stamp(task.target) == there else "done"
        except Exception as error:  # noqa: BLE001  # a failed slide does not stop the others
            row.error = one_line(error)
    row.seconds = time.perf_counter() - start
    row.peak_mib = _peak_mib()
    row.bytes_added = _bytes(task.target, images) - before
    row.warnings = " | ".join(dict.fromkeys(" ".join(text.split()) for text in texts))
    return row


def one_line(error: BaseException) -> str:
    """Type and message of an error."""
    return " ".join(f"{type(error).__name__}: {error}".split())


@contextmanager
def _heard() -> Iterator[list[str]]:
    """A list that holds, afterwards, what was warned of meanwhile, by `warnings` or in the package's log."""
    texts: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: texts.append(record.getMessage())  # type: ignore[method-assign]
    logger.addHandler(handler)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for kind in _FOR_DEVELOPERS:
                warnings.simplefilter("ignore", kind)
            yield texts
    finally:
        logger.removeHandler(handler)
        texts.extend(str(warning.message) for warning in caught)


def _stamp(store: Path) -> list[tuple[int, int, int]]:
    """Changes when something is written into a store."""
    found = [(store / name).stat() for name in _METADATA if (store / name).exists()]
    return [(file.st_ino, file.st_mtime_ns, file.st_size) for file in found]


def _bytes(store: Path, images: set[str]) -> int:
    """Size of a store without those images."""
    total = 0
    for folder, below, files in os.walk(store):
        if Path(folder) == store / "images":
            below[:] = [name for name in below if name not in images]
        for file in files:
            with suppress(OSError):  # gone meanwhile
                total += os.path.getsize(os.path.join(folder, file))
    return total


def _peak_mib() -> float:
    """Highest resident memory that this process has had."""
    try:
        import resource
    except ImportError:  # Windows
        return float("nan")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
